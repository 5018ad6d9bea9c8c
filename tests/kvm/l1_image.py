# SPDX-License-Identifier: Apache-2.0
"""The disk of a host in a VM: a Debian userland, Python, and what this project has cached.

Made without root: packages are unpacked, and mke2fs fills the file system from a directory. A
newest QEMU boots it and emulates AMD's SVM under TCG; in it this project runs guests under KVM.
"""

import compileall
import hashlib
import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode

from harness.errors import ImageError, PreconditionError
from harness.image.build import BootFiles, ensure_image
from harness.image.cache import cache_directory, exclusive, made_whole
from harness.image.cpio import directory_entry, file_entry, write_cpio
from harness.image.definition import ImageDefinition, load_definitions
from harness.image.qemu_build import ensure_qemu
from harness.image.qemu_definition import load_qemus
from harness.image.sources import Archive, Progress, Suites
from harness.machine.interposer import build_interposer
from harness.units import MIB

ROOT = Path(__file__).parents[2]
PLACE = "opt/fpr-harness"
"""Where the project lies in the disk."""

SUITES = {(3, 11): "bookworm", (3, 13): "trixie"}
"""The Debian suite whose Python is this one: the wheels of this environment must load in it."""

PROJECT = ("harness", "guest-images", "scenarios", "tests", "pyproject.toml")
PACKAGES = ("python3", "libstdc++6", "busybox-static", "util-linux")
"""libstdc++ for NumPy, SciPy and the interposed QEMU; the rest of the userland is busybox."""
MODULES = ("virtio_pci", "virtio_blk", "ext4", "tun", "kvm_amd")
QEMU = "sid"
"""Both the QEMU that boots the disk and the one in it: SVM under TCG is best in the newest."""

_SPARE_MIB = 700
"""Room for results, guests' runtime directories and copies of initramfs archives."""

_STAGE_1 = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in {modules}; do /bin/busybox insmod "/modules/$module.ko" || echo "L1: no $module"; done
/bin/busybox mount -t ext4 /dev/vda /root || exec /bin/busybox poweroff -f
exec /bin/busybox switch_root /root /init
"""

_STAGE_2 = """\
#!/bin/busybox sh
# What Debian packages bring comes before busybox's own.
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin:/opt/busybox HOME=/root LANG=C.UTF-8
/bin/busybox --install -s /opt/busybox
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /proc /sys /tmp /run
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup /sys/fs/cgroup
ip link set lo up
export XDG_CACHE_HOME=/var/cache PYTHONPATH=/{place}:/{place}/tests/support:/{packages}
export PYTHONDONTWRITEBYTECODE=1
mkdir -p /{place}
cd /{place}
tar -xf /dev/vdd
echo "L1: $(uname -r), $(nproc) CPUs, /dev/kvm $(test -w /dev/kvm && echo there || echo absent)"
# Not on a terminal: progress in lines, without colours.
{{ sh /dev/vdc; echo $? >/tmp/status; }} 2>&1 | cat
echo "L1: the job ended with $(cat /tmp/status)"
tar -cf /dev/vdb -C /results .
sync
poweroff -f
"""

_PASSWD = """\
root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
"""

_DIRECTORIES = ("dev etc proc sys tmp run results root usr/local/bin opt/busybox").split()

_SITE = "usr/lib/python3/site"


@dataclass(frozen=True)
class HostImage:
    """What QEMU boots."""

    kernel: Path
    initramfs: Path
    disk: Path


def ensure_host_image(progress: Progress) -> HostImage:
    """The disk and its kernel, made again when what is in them has changed.

    Raises `ImageError`; `PreconditionError` where this machine cannot make it.
    """
    suite = SUITES.get(sys.version_info[:2])
    if suite is None:
        raise PreconditionError(
            f"no suite of Debian has Python {sys.version_info[0]}.{sys.version_info[1]}",
            hint=f"use one of {', '.join('.'.join(map(str, v)) for v in SUITES)}",
        )
    mke2fs = shutil.which("mke2fs", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if mke2fs is None:
        raise PreconditionError("there is no mke2fs", hint="install e2fsprogs")
    definition = load_definitions()["bookworm"]
    boot = ensure_image(definition, progress=progress)
    qemu = ensure_qemu(load_qemus()[QEMU], progress=progress)
    interposer = build_interposer()
    target = cache_directory() / "l1" / _digest(boot, qemu, interposer)
    image = HostImage(target / "vmlinuz", target / "initramfs", target / "disk")
    with exclusive(target.parent / ".lock", "the host in a VM"):
        if image.disk.exists():
            return image
        progress("making the disk of a host in a VM")
        for old in target.parent.glob("[0-9a-f]*"):
            shutil.rmtree(old, ignore_errors=True)
        with made_whole(target) as directory:
            tree = directory / "tree"
            _fill(tree, suite, [boot.kernel.parent, qemu.parent, interposer.parent], progress)
            _write_boot_files(definition, tree, directory, progress)
            _write_disk(mke2fs, tree, directory / "disk")
            shutil.rmtree(tree)
    return image


def _fill(tree: Path, suite: str, cached: Sequence[Path], progress: Progress) -> None:
    """Everything in the file system, `cached` at its own place in the cache."""
    suites = Suites(False, progress)
    suites.unpack(suite, lambda root: root.closure(PACKAGES), tree)
    for name in ("bin", "sbin", "lib", "lib64"):
        # In base-files, which brings much else, these are links from trixie on.
        if not (tree / name).exists() and (tree / "usr" / name).exists():
            (tree / name).symlink_to(f"usr/{name}")
    if not (tree / "bin/sh").exists():
        (tree / "bin/sh").symlink_to("busybox")
    _copy_distributions(tree / _SITE)
    _compile(tree / "usr/lib")
    for source in cached:
        place = source.relative_to(cache_directory().parent)
        shutil.copytree(source, tree / "var/cache" / place, symlinks=True)
    for name in _DIRECTORIES:
        (tree / name).mkdir(parents=True, exist_ok=True)
    qemu = next((tree / "var/cache/fpr-harness/qemu").glob("*/*/qemu-system-x86_64"))
    files = {
        "etc/passwd": _PASSWD,
        "etc/group": "root:x:0:\nnogroup:x:65534:\n",
        "init": _STAGE_2.format(place=PLACE, packages=_SITE),
        "usr/local/bin/fpr-harness": '#!/bin/sh\nexec python3 -m harness "$@"\n',
        "usr/local/bin/qemu-system-x86_64": f'#!/bin/sh\nexec /{qemu.relative_to(tree)} "$@"\n',
    }
    for name, text in files.items():
        (tree / name).write_text(text, encoding="ascii")
        (tree / name).chmod(0o755)


def _write_boot_files(
    definition: ImageDefinition, tree: Path, directory: Path, progress: Progress
) -> None:
    """The kernel, and an initramfs that loads what the kernel needs to mount the disk."""
    kernel = Archive(definition, False, progress).kernel(directory / "kernel")
    assert kernel.modules is not None
    modules = kernel.modules.load_order(MODULES)
    shutil.copyfile(kernel.path, directory / "vmlinuz")
    shutil.rmtree(directory / "kernel")
    busybox = next(p for n in ("bin", "usr/bin") if (p := tree / n / "busybox").exists())
    stage = _STAGE_1.format(modules=" ".join(name for name, _ in modules))
    entries = [directory_entry(name) for name in ("bin", "dev", "root", "modules")]
    entries.append(file_entry("bin/busybox", busybox.read_bytes(), 0o755))
    entries.append(file_entry("init", stage.encode(), 0o755))
    entries += [file_entry(f"modules/{name}.ko", data) for name, data in modules]
    (directory / "initramfs").write_bytes(write_cpio(entries))


def _write_disk(mke2fs: str, tree: Path, disk: Path) -> None:
    size = sum(p.lstat().st_size for p in tree.rglob("*") if not p.is_dir()) // MIB
    options = ["-q", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-E", "root_owner=0:0"]
    words = [mke2fs, *options, "-d", str(tree), str(disk), f"{size * 5 // 4 + _SPARE_MIB}M"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise ImageError(f"mke2fs failed: {done.stderr.strip()[-300:]}", hint="is the disk full?")


def project_archive() -> bytes:
    """The project as it stands, compiled, as a tar archive."""
    archive = io.BytesIO()
    with (
        tempfile.TemporaryDirectory(prefix="fpr-l1-") as directory,
        tarfile.open(fileobj=archive, mode="w") as tar,
    ):
        for name in PROJECT:
            source, copy = ROOT / name, Path(directory) / name
            if source.is_file():
                shutil.copy(source, copy)
                continue
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__", "results"))
        _compile(Path(directory))
        tar.add(directory, ".")
    return archive.getvalue()


def _compile(directory: Path) -> None:
    """Compile all Python below, so that the emulated host need not at every start (5 s of 10).

    By the content of the sources, as archives and images may lose their times. Debian's packages
    compile theirs when they are installed; files for other versions of Python are of no concern.
    """
    compileall.compile_dir(
        directory,
        maxlevels=20,
        quiet=2,
        workers=0,
        stripdir=str(directory),
        invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
    )


def _copy_distributions(site: Path) -> None:
    """What the project needs of Python, from this very environment."""
    for distribution in _distributions():
        for file in distribution.files or ():
            source = Path(str(distribution.locate_file(file)))
            if source.is_file() and not {"..", "tests", "__pycache__"} & set(file.parts):
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, site / file)


def _distributions() -> Iterator[importlib.metadata.Distribution]:
    """What the project needs at run time, recursively."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted, seen = [_name(words) for words in project["dependencies"]], set()
    while wanted:
        name = wanted.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in seen:
            continue
        seen.add(key)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform or Python
        yield distribution
        wanted += [_name(r) for r in distribution.requires or () if "extra ==" not in r]


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]


def _digest(boot: BootFiles, qemu: Path, interposer: Path) -> str:
    hashed = hashlib.sha256(f"{boot.digest} {qemu} {interposer} {sys.version}".encode())
    hashed.update(" ".join(sorted(f"{d.name} {d.version}" for d in _distributions())).encode())
    hashed.update(Path(__file__).read_bytes())
    return hashed.hexdigest()[:16]
