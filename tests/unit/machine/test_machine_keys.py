# SPDX-License-Identifier: Apache-2.0
"""The keys of one guest: what dropbear reads, and what the kernel unpacks."""

import io
import stat
from pathlib import Path

import paramiko

from harness.machine.keys import RunKeys, write_keyed_initramfs


def test_tail_brings_the_keys_for_root_alone() -> None:
    keys = RunKeys.generate()
    tail = keys.initramfs_tail()
    assert len(tail) % 4 == 0
    assert tail.startswith(b"070701")
    members = dict(newc_members(tail))
    assert set(members) == {"etc/dropbear/host_key", "root/.ssh/authorized_keys", "TRAILER!!!"}
    for name in ("etc/dropbear/host_key", "root/.ssh/authorized_keys"):
        mode, _data = members[name]
        assert (stat.S_ISREG(mode), stat.S_IMODE(mode)) == (True, 0o600)
    _mode, authorized = members["root/.ssh/authorized_keys"]
    client = paramiko.Ed25519Key(file_obj=io.StringIO(keys.client_pem))
    assert authorized.split()[:2] == [b"ssh-ed25519", client.get_base64().encode()]


def test_known_hosts_names_the_host_key() -> None:
    keys = RunKeys.generate()
    (entry,) = [paramiko.hostkeys.HostKeyEntry.from_line(keys.known_hosts("fpr-1").strip())]
    assert entry is not None
    assert entry.hostnames == ["fpr-1"]
    assert entry.key.asbytes() == keys.host_public


def newc_members(data: bytes) -> list[tuple[str, tuple[int, bytes]]]:
    """Name, mode and contents of each member (Documentation: buffer-format.rst)."""
    members, at = [], 0
    while at < len(data):
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 110 + name_size - 1].decode()
        at = (at + 110 + name_size + 3) & ~3
        members.append((name, (mode, data[at : at + size])))
        at = (at + size + 3) & ~3
    return members


def test_host_key_in_the_guest_is_the_one_expected_of_it() -> None:
    """dropbear 2022.83 (signkey.c): the type, then seed and public key in one string."""
    keys = RunKeys.generate()
    _mode, file = dict(newc_members(keys.initramfs_tail()))["etc/dropbear/host_key"]
    prefix = b"\0\0\0\x0bssh-ed25519"
    assert file.startswith(prefix + b"\0\0\0\x40")
    assert len(file) == len(prefix) + 4 + 64
    assert keys.host_public == prefix + b"\0\0\0\x20" + file[-32:]
    assert keys.host.private_bytes_raw() == file[-64:-32]


def test_no_two_guests_share_a_key() -> None:
    first, second = RunKeys.generate(), RunKeys.generate()
    assert first.host_public != second.host_public
    assert first.client_pem != second.client_pem


def test_keyed_initramfs_is_the_images_with_the_keys_behind_it_aligned(tmp_path: Path) -> None:
    keys = RunKeys.generate()
    for size in range(5):
        image, output = tmp_path / "image", tmp_path / "output"
        image.write_bytes(b"x" * size)
        write_keyed_initramfs(image, keys, output)
        data = output.read_bytes()
        assert data.startswith(b"x" * size)
        assert data.index(b"070701") % 4 == 0
        assert data.endswith(keys.initramfs_tail())
        assert output.stat().st_mode & 0o777 == 0o600
