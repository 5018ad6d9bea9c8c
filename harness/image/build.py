# SPDX-License-Identifier: Apache-2.0
"""From an image definition to a kernel and an initramfs that boot; made once, then found again."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.errors import ImageError, UsageError
from harness.image.archive import AptRoot, Package, run_tool
from harness.image.cache import cache_directory, exclusive, made_whole
from harness.image.definition import IMAGES_DIR, ImageDefinition
from harness.image.guest_tool import COMMAND, compile_tool, tool_sources
from harness.image.initramfs import build_initramfs
from harness.image.kernel import find_kernel, kernel_release
from harness.image.modules import ModuleTree, find_module_tree

KEPT_VERSIONS = 3
"""Older builds of the same image that stay, for runs that started before the newest."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class BootFiles:
    """An image ready to boot."""

    image: str
    kernel: Path
    initramfs: Path
    release: str
    """`uname -r` of its kernel."""
    digest: str
    """Names the content of everything it was made from."""
    manifest: Path


@dataclass(frozen=True)
class _Kernel:
    path: Path
    release: str
    modules: Path | None
    """Its `lib/modules/RELEASE`; None if everything is built in."""
    packages: tuple[Package, ...]


def ensure_image(
    definition: ImageDefinition,
    *,
    kernel: Path | None = None,
    modules: Path | None = None,
    refresh: bool = False,
    progress: Progress,
) -> BootFiles:
    """The image of a definition, built if any of its inputs changed.

    `kernel` and `modules` replace the definition's kernel. `refresh` looks for newer packages.
    Raises `ImageError`; `PreconditionError` if the archive does not serve the suite.
    """
    if modules is not None and kernel is None:
        raise UsageError("--modules goes with --kernel", hint="name the kernel they belong to")
    digest = _digest(definition, kernel, modules)
    target = cache_directory() / "images" / f"{definition.name}-{digest}"
    if not refresh and (built := _read_built(definition.name, target)):
        return built
    with exclusive(target.parent / f".{definition.name}.lock", f"the image {definition.name}"):
        if not refresh and (built := _read_built(definition.name, target)):
            return built
        progress(f"building the guest image {definition.name}")
        with made_whole(target) as directory:
            _build(definition, kernel, modules, refresh, directory, digest, progress)
        _prune(definition.name, target)
    built = _read_built(definition.name, target)
    if built is None:
        raise ImageError(f"the image just built in {target} does not read back: a failing disk?")
    return built


def find_built(definition: ImageDefinition) -> BootFiles | None:
    """The image as it stands in the cache, if it is there and whole."""
    digest = _digest(definition, None, None)
    return _read_built(
        definition.name, cache_directory() / "images" / f"{definition.name}-{digest}"
    )


def _build(
    definition: ImageDefinition,
    kernel: Path | None,
    modules: Path | None,
    refresh: bool,
    directory: Path,
    digest: str,
    progress: Progress,
) -> None:
    userland = _fetch(definition.userland.suite, definition.userland.packages, refresh, progress)
    if kernel is not None:
        source = _given_kernel(kernel, modules)
    else:
        source = _packaged_kernel(definition, refresh, progress)
    unpacked = directory / "userland"
    for _package, path in userland:
        run_tool(["dpkg-deb", "-x", str(path), str(unpacked)])
    compile_tool(tool_sources(IMAGES_DIR), directory / "fpr-guest")
    order: list[tuple[str, bytes]] = []
    if source.modules is not None:
        order = ModuleTree.read(source.modules).load_order(definition.modules)
    initramfs = build_initramfs(
        unpacked=unpacked,
        modules=order,
        tool=(directory / "fpr-guest").read_bytes(),
        images=IMAGES_DIR,
    )
    shutil.rmtree(unpacked)
    shutil.copyfile(source.path, directory / "vmlinuz")
    (directory / "initramfs").write_bytes(initramfs)
    manifest = {
        "image": definition.name,
        "digest": digest,
        "release": source.release,
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name in ("vmlinuz", "initramfs", "fpr-guest")
            if (data := (directory / name).read_bytes())
        },
        "modules": [name for name, _data in order],
        "packages": [asdict(p) for p in (*source.packages, *(p for p, _path in userland))],
    }
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _fetch(
    suite: str, names: Sequence[str], refresh: bool, progress: Progress, only: str = ""
) -> list[tuple[Package, Path]]:
    """The packages and what they depend on (only names that begin with `only`), on disk."""
    directory = cache_directory() / "apt" / suite
    with exclusive(directory / ".lock", f"the package root of {suite}"):
        root = AptRoot(directory, suite, progress)
        if not refresh and (directory / "lists").exists():
            try:
                return root.download(_only(root.closure(names), only))
            except ImageError as error:
                progress(f"the known package lists of {suite} no longer serve ({error.message})")
        root.update()
        return root.download(_only(root.closure(names), only))


def _only(names: Sequence[str], prefix: str) -> list[str]:
    return [name for name in names if name.startswith(prefix)]


def _packaged_kernel(definition: ImageDefinition, refresh: bool, progress: Progress) -> _Kernel:
    """The definition's kernel, unpacked into the cache; split packages (7.x) come together."""
    source = definition.kernel
    found = _fetch(source.suite, [source.package], refresh, progress, only="linux-")
    name = hashlib.sha256("".join(p.sha256 for p, _path in found).encode()).hexdigest()[:16]
    target = cache_directory() / "kernels" / f"{source.suite}-{name}"
    with exclusive(target.parent / f".{source.suite}.lock", f"the kernel of {source.suite}"):
        if not target.exists():
            progress(f"unpacking the kernel of {source.suite}")
            with made_whole(target) as directory:
                for _package, path in found:
                    run_tool(["dpkg-deb", "-x", str(path), str(directory)])
    kernels = [*target.glob("boot/vmlinuz-*"), *target.glob("usr/lib/modules/*/vmlinuz")]
    if len(kernels) != 1:
        raise ImageError(
            f"{source.package} of {source.suite} and its dependencies hold {len(kernels)} kernels",
            hint="name a package that leads to one kernel under `kernel` in the image definition",
        )
    release = kernel_release(kernels[0])
    return _Kernel(
        kernels[0], release, find_module_tree(target, release), tuple(p for p, _path in found)
    )


def _given_kernel(kernel: Path, modules: Path | None) -> _Kernel:
    path = find_kernel(kernel)
    release = kernel_release(path)
    tree = find_module_tree(modules, release) if modules is not None else None
    return _Kernel(path, release, tree, ())


def _digest(definition: ImageDefinition, kernel: Path | None, modules: Path | None) -> str:
    """Names the inputs: definition, guest files, the tool's source, this builder, the kernel."""
    hashed = hashlib.sha256(definition.model_dump_json().encode())
    hashed.update(" ".join(COMMAND).encode())
    guest_files = [IMAGES_DIR / "init", IMAGES_DIR / "guest-shell", *tool_sources(IMAGES_DIR)]
    for path in (*guest_files, *sorted(Path(__file__).parent.glob("*.py"))):
        hashed.update(path.name.encode() + b"\0" + path.read_bytes())
    if kernel is not None:
        given = _given_kernel(kernel, modules)
        hashed.update(given.path.read_bytes())
        if given.modules is not None:
            for name, data in ModuleTree.read(given.modules).load_order(definition.modules):
                hashed.update(name.encode() + b"\0" + data)
    return hashed.hexdigest()[:16]


def _read_built(name: str, target: Path) -> BootFiles | None:
    """The image in `target` if it is whole: every file as long and as its manifest says."""
    manifest = target / "manifest.json"
    try:
        facts = json.loads(manifest.read_text(encoding="utf-8"))
        for file, seen in facts["files"].items():
            if hashlib.sha256((target / file).read_bytes()).hexdigest() != seen["sha256"]:
                return None
        release, digest = facts["release"], facts["digest"]
    except (OSError, ValueError, KeyError):
        return None
    return BootFiles(name, target / "vmlinuz", target / "initramfs", release, digest, manifest)


def _prune(name: str, newest: Path) -> None:
    """Remove all but the last builds of an image."""
    builds = [path.parent for path in newest.parent.glob(f"{name}-*/manifest.json")]
    builds.sort(key=lambda path: (path == newest, path.stat().st_mtime))
    for path in builds[:-KEPT_VERSIONS]:
        shutil.rmtree(path, ignore_errors=True)
