# SPDX-License-Identifier: Apache-2.0
"""The SSH keys of one run: the guest's host key, known before it boots, and the client key."""

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from harness.image.cpio import file_entry, write_cpio

_TYPE = b"ssh-ed25519"


@dataclass(frozen=True)
class RunKeys:
    """Two key pairs, generated for one guest and discarded with it."""

    host: Ed25519PrivateKey
    client: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> "RunKeys":
        return cls(Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate())

    @property
    def host_public(self) -> bytes:
        """The guest's host key as SSH sends it (RFC 8709, section 4)."""
        return _string(_TYPE) + _string(self.host.public_key().public_bytes_raw())

    @property
    def client_pem(self) -> str:
        """The client's private key in OpenSSH's format."""
        return self.client.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        ).decode()

    def known_hosts(self, name: str) -> str:
        """Return the guest's host key as a line of a known_hosts file for `name` (sshd(8))."""
        return f"{name} {_TYPE.decode()} {base64.b64encode(self.host_public).decode()}\n"

    @property
    def client_public(self) -> str:
        """The client's public key as a line of an authorized_keys file (sshd(8))."""
        client = _string(_TYPE) + _string(self.client.public_key().public_bytes_raw())
        return f"{_TYPE.decode()} {base64.b64encode(client).decode()} fpr-harness\n"

    @property
    def dropbear_host_key(self) -> bytes:
        """The guest's host key as dropbear's file of it.

        It holds the key's type, then the seed and the public key in one string (signkey.c and
        gensignkey.c of dropbear 2022.83).
        """
        seed, public = self.host.private_bytes_raw(), self.host.public_key().public_bytes_raw()
        return _string(_TYPE) + _string(seed + public)

    def initramfs_tail(self) -> bytes:
        """Return a cpio archive with the keys, to append to an image's initramfs."""
        return write_cpio(
            [
                file_entry("etc/dropbear/host_key", self.dropbear_host_key, 0o600),
                file_entry("root/.ssh/authorized_keys", self.client_public.encode(), 0o600),
            ]
        )


def write_keyed_initramfs(
    image: Path, keys: RunKeys, output: Path, more: Sequence[Path] = ()
) -> None:
    """Write a copy of an image's initramfs, followed by `more` archives and the run's keys.

    Each archive is aligned to 4 bytes, as the kernel requires (init/initramfs.c).
    """
    with output.open("wb") as file:
        output.chmod(0o600)
        for archive in (image, *more):
            data = archive.read_bytes()
            file.write(data + bytes(-len(data) % 4))
        file.write(keys.initramfs_tail())


def _string(data: bytes) -> bytes:
    """Encode a string as SSH does (RFC 4251, section 5)."""
    return struct.pack(">I", len(data)) + data
