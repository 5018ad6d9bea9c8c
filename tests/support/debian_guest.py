# SPDX-License-Identifier: Apache-2.0
"""A Debian guest that the project did not make: systemd, OpenSSH, qemu-guest-agent, its own kernel.

mmdebstrap(1) installs it from the host's archive into a disk image, once for the cache. It boots as
Debian boots, with the initramfs of its own packages.
"""

import hashlib
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.image.archive import host_mirror
from harness.image.cache import cache_directory, exclusive, made_whole
from harness.machine.keys import RunKeys

SUITE = "bookworm"
BUILD_SECONDS = 1500.0
APPEND = "root=/dev/vda rw console=ttyS0 panic=-1 no_timer_check random.trust_cpu=on audit=0"
"""The kernel's command line."""
LOGIN = b" login: "
"""On the console, once it is up."""

PACKAGES = (
    *("systemd-sysv", "udev", "dbus", "kmod", "iproute2", "sudo", "openssh-server"),
    *("qemu-guest-agent", "linux-image-cloud-amd64"),
)
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key.pub"
NETWORK = "[Match]\nName=e*\n[Network]\nDHCP=yes\n"
SUDOERS = "someone ALL=(ALL) NOPASSWD: ALL\n"
ENTER = """\
set -e
systemctl --root="$1" enable systemd-networkd ssh > /dev/null 2>&1
chroot "$1" useradd --create-home --shell /bin/sh someone
chroot "$1" useradd --create-home --shell /bin/sh nobodys
for home in root home/someone home/nobodys; do
  install -d -m 700 "$1/$home/.ssh"
  cp "$1/authorized_keys" "$1/$home/.ssh/"
  chmod 600 "$1/$home/.ssh/authorized_keys"
done
chroot "$1" chown -R someone:someone /home/someone
chroot "$1" chown -R nobodys:nobodys /home/nobodys
rm "$1/authorized_keys"
cp "$1"/boot/vmlinuz-* "$1/kernel"
cp "$1"/boot/initrd.img-* "$1/initrd"
echo debian > "$1/etc/hostname"
"""
"""Run by mmdebstrap with the root's directory, in which Debian has links called /vmlinuz and
/initrd.img. `someone` may use sudo, `nobodys` may not."""


@dataclass(frozen=True)
class DebianGuest:
    """The directory of a built guest."""

    directory: Path

    @property
    def disk(self) -> Path:
        return self.directory / "root.ext2"

    @property
    def kernel(self) -> Path:
        return self.directory / "kernel"

    @property
    def initrd(self) -> Path:
        return self.directory / "initrd"

    @property
    def key(self) -> str:
        """The private key that its accounts accept."""
        return (self.directory / "key").read_text()

    def known_hosts(self, name: str) -> str:
        """The line of a known_hosts file for `name`."""
        kind, key = (self.directory / "host_key.pub").read_text().split()[:2]
        return f"{name} {kind} {key}\n"


def debian_guest() -> DebianGuest:
    """Return the guest, built at its first use; skip the test where it cannot be built."""
    for program, package in (("mmdebstrap", "mmdebstrap"), ("genext2fs", "genext2fs")):
        if shutil.which(program) is None:
            pytest.skip(f"no Debian guest: {program} is not installed (package {package})")
    made_from = repr((SUITE, PACKAGES, NETWORK, SUDOERS, ENTER)).encode()
    target = cache_directory() / "debian-guest" / hashlib.sha256(made_from).hexdigest()[:16]
    with exclusive(target.parent / "lock", "the Debian guest"):
        if not target.exists():
            with made_whole(target) as directory:
                _build(directory)
    return DebianGuest(target)


def _build(directory: Path) -> None:
    try:
        mirror = host_mirror(SUITE)
    except HarnessError as error:
        pytest.skip(f"no Debian guest: {error}")
    keys = RunKeys.generate()
    signed = f"[signed-by={mirror.keyring}] " if mirror.keyring.startswith("/") else ""
    with tempfile.TemporaryDirectory(prefix="fprt") as place:
        files = {
            "authorized_keys": (keys.client_public, "/authorized_keys"),
            "network": (NETWORK, "/etc/systemd/network/80-dhcp.network"),
            "sudoers": (SUDOERS, "/etc/sudoers.d/someone"),
        }
        for name, (text, _where) in files.items():
            (Path(place) / name).write_text(text)
        (Path(place) / "enter").write_text(ENTER)
        done = subprocess.run(
            [
                *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
                *(
                    f"--dpkgopt=path-exclude=/usr/share/{what}/*"
                    for what in ("doc", "man", "locale")
                ),
                *(
                    f"--customize-hook=upload {place}/{name} {to}"
                    for name, (_, to) in files.items()
                ),
                f'--customize-hook=sh {place}/enter "$1"',
                f"--customize-hook=download /kernel {directory}/kernel",
                f"--customize-hook=download /initrd {directory}/initrd",
                f"--customize-hook=download {HOST_KEY} {directory}/host_key.pub",
                '--customize-hook=rm "$1/kernel" "$1/initrd"',
                *(SUITE, f"{directory}/root.ext2", f"deb {signed}{mirror.uri} {SUITE} main"),
            ],
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
            check=False,
        )
    if done.returncode:
        pytest.skip(f"no Debian guest: mmdebstrap failed: {done.stderr.strip()[-500:]}")
    (directory / "key").write_text(keys.client_pem)
    (directory / "key").chmod(0o600)
