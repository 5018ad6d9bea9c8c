# SPDX-License-Identifier: Apache-2.0
"""A small guest kernel from Debian's kernel source, and the same with a defect in it.

Source and build tools come from the archive as the guest images do: verified, unpacked into the
cache, never installed. Objects are kept, so that a defect costs the files it touches and a link.
"""

import filecmp
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from harness.errors import HarnessError, ImageError
from harness.image.cache import cache_directory, file_sha256, made_whole
from harness.image.sources import Suites

HERE = Path(__file__).parent
CONFIGURATION = HERE / "small.config"
DEFECTS = HERE / "defects"

SUITE = "bookworm"
SOURCE = "linux-source-6.1"
TOOLS = ("flex", "bison", "m4", "bc", "libreadline8", "libtinfo6", "libelf1", "libelf-dev")
"""What the build needs besides gcc, make and zlib's headers; with the libraries these load."""

TOUCHED = ("mm", "drivers/virtio")
"""Folders whose files a defect may change: copies of them undo it."""

UNPACK_SECONDS = 600.0
BUILD_SECONDS = 3600.0
"""The first build of all; 12 minutes on two free cores."""
LOCK_SECONDS = 5400.0

_BZIMAGE = "arch/x86/boot/bzImage"


@dataclass(frozen=True)
class KernelTree:
    """The source with its objects, below one directory of the cache."""

    directory: Path

    @property
    def source(self) -> Path:
        return self.directory / "unpacked" / "linux"

    @property
    def objects(self) -> Path:
        return self.directory / "objects"

    def image(self, defect: str = "") -> Path:
        """The bzImage of a defect, or of none; built if it is not there. Raises `ImageError`."""
        patch = _patch(defect)
        built = self.directory / "built" / f"{defect or 'clean'}-{_key(patch)}"
        if not (built / "bzImage").exists():
            with _locked(self.directory / ".lock"):
                if not (built / "bzImage").exists():
                    self._build(patch, built)
        return built / "bzImage"

    def _build(self, patch: bytes, built: Path) -> None:
        self._restore()
        if patch:
            _run(["git", "apply", "--whitespace=nowarn", "-"], self.source, 60.0, given=patch)
        jobs = f"-j{len(os.sched_getaffinity(0))}"
        self._make(jobs, "bzImage")
        with made_whole(built) as directory:
            shutil.copy(self.objects / _BZIMAGE, directory)
            # Says what is built in: `--kernel` looks for it beside the kernel.
            shutil.copy(self.objects / "modules.builtin", directory)

    def _restore(self) -> None:
        """Undo an earlier defect, also one whose build was killed."""
        pristine = self.directory / "unpacked" / "pristine"
        for path in pristine.rglob("*"):
            own = self.source / path.relative_to(pristine)
            if path.is_file() and not (own.exists() and filecmp.cmp(path, own, shallow=False)):
                shutil.copyfile(path, own)  # as new, so that make sees it

    def _make(self, *words: str) -> None:
        command = ["make", "-s", "-C", str(self.source), f"O={self.objects}", *words]
        _run(command, self.directory, BUILD_SECONDS, environment=self._environment())

    def _environment(self) -> dict[str, str]:
        tools = self.directory / "unpacked" / "tools"
        libraries = f"{tools}/usr/lib/x86_64-linux-gnu:{tools}/lib/x86_64-linux-gnu"
        return {
            **{k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS")},
            "PATH": f"{tools}/usr/bin:{os.environ.get('PATH', os.defpath)}",
            "LD_LIBRARY_PATH": libraries,
            "LIBRARY_PATH": libraries,
            "C_INCLUDE_PATH": f"{tools}/usr/include",
            "BISON_PKGDATADIR": f"{tools}/usr/share/bison",
            "M4": f"{tools}/usr/bin/m4",
            "KCONFIG_ALLCONFIG": str(CONFIGURATION),
            "KBUILD_BUILD_TIMESTAMP": "@0",
            "KBUILD_BUILD_USER": "fpr",
            "KBUILD_BUILD_HOST": "fpr",
            "KBUILD_BUILD_VERSION": "1",
        }

    def configure(self) -> None:
        """Write the configuration. Raises `ImageError` for an option that Kconfig refuses."""
        if (self.objects / ".config").exists():
            return
        self.objects.mkdir(exist_ok=True)
        self._make("allnoconfig")
        granted = (self.objects / ".config").read_text(encoding="utf-8").splitlines()
        wanted = CONFIGURATION.read_text(encoding="utf-8").splitlines()
        refused = [line for line in wanted if line.startswith("CONFIG_") and line not in granted]
        if refused:
            (self.objects / ".config").unlink()
            raise ImageError(
                f"Kconfig does not grant {', '.join(refused)}",
                hint=f"the options they depend on are missing in {CONFIGURATION.name}",
            )


def kernel_tree() -> KernelTree:
    """The tree, unpacked and configured. Raises `ImageError`, `PreconditionError`."""
    tree = KernelTree(cache_directory() / "kernels" / _key(_made_from()))
    with _locked(tree.directory / ".lock"):
        if not (tree.directory / "unpacked").exists():
            with made_whole(tree.directory / "unpacked") as directory:
                _unpack(directory)
        tree.configure()
    return tree


def defect_names() -> list[str]:
    """Every defect there is a patch of."""
    return sorted(path.stem for path in DEFECTS.glob("*.patch"))


def defect_key(defect: str) -> str:
    """Changes with the defect and with what the kernel is built from."""
    return _key(_made_from() + _patch(defect))


def _made_from() -> bytes:
    return CONFIGURATION.read_bytes() + repr((SUITE, SOURCE, TOOLS)).encode()


def _unpack(directory: Path) -> None:
    suites = Suites(False, print)
    suites.unpack(SUITE, lambda _root: TOOLS, directory / "tools")
    suites.unpack(SUITE, lambda _root: (SOURCE,), directory / "package")
    archive = directory / "package" / "usr/src" / f"{SOURCE}.tar.xz"
    source = directory / "linux"
    source.mkdir()
    print(f"unpacking {SOURCE}")
    _run(
        ["tar", "-xJf", str(archive), "--strip-components=1", f"--exclude={SOURCE}/Documentation"],
        source,
        UNPACK_SECONDS,
    )
    # lib/Kconfig.debug reads it.
    (source / "Documentation").mkdir()
    (source / "Documentation" / "Kconfig").touch()
    shutil.rmtree(directory / "package")
    for folder in TOUCHED:
        shutil.copytree(source / folder, directory / "pristine" / folder)


def _patch(defect: str) -> bytes:
    return (DEFECTS / f"{defect}.patch").read_bytes() if defect else b""


def _key(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path, timeout=LOCK_SECONDS):
        yield


def _run(
    command: Sequence[str],
    where: Path,
    seconds: float,
    *,
    given: bytes | None = None,
    environment: dict[str, str] | None = None,
) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=where,
            env=environment,
            input=given,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError as error:
        raise ImageError(
            f"{command[0]} is not installed, and guest kernels are built with it",
            hint="install gcc, make, git, xz-utils and zlib1g-dev",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ImageError(
            f"{' '.join(command)} did not end in {seconds:.0f} s", hint="is the host overloaded?"
        ) from error
    if done.returncode:
        words = (done.stdout + done.stderr).decode(errors="replace").strip().splitlines()[-20:]
        raise ImageError(
            f"{' '.join(command)} ended with {done.returncode}:\n" + "\n".join(words),
            hint="see what it says above (gcc, make, xz-utils and zlib1g-dev are needed)",
            evidence=[where],
        )


def main() -> int:
    """Build the clean kernel, or those of the defects named."""
    try:
        tree = kernel_tree()
        for defect in sys.argv[1:] or [""]:
            image = tree.image(defect)
            print(f"{defect or 'clean'}: {image} {file_sha256(image)[:12]}")
    except HarnessError as error:
        print(error, file=sys.stderr)
        return 69
    return 0


if __name__ == "__main__":
    sys.exit(main())
