# SPDX-License-Identifier: Apache-2.0
"""How ssh(1) logs in to a guest: the files it needs, and its command line.

The harness itself uses neither; they are for people, and for `fpr-harness shell`.
"""

from pathlib import Path

from harness.machine.keys import RunKeys

_KEY, _KNOWN_HOSTS = "ssh_key", "known_hosts"


def write_ssh_files(directory: Path, keys: RunKeys, vm_id: str) -> None:
    """Write the private key and the known hosts of a VM into its directory. Raises `OSError`."""
    key = directory / _KEY
    key.write_text(keys.client_pem, encoding="ascii")
    key.chmod(0o600)
    (directory / _KNOWN_HOSTS).write_text(keys.known_hosts(vm_id), encoding="ascii")


def ssh_command(directory: Path, vm_id: str, port: int) -> list[str]:
    """Return the ssh(1) command that logs in to the guest, whose host key it checks."""
    options = {
        "IdentitiesOnly": "yes",
        "HostKeyAlias": vm_id,
        "UserKnownHostsFile": str(directory / _KNOWN_HOSTS),
        "GlobalKnownHostsFile": "none",
        "StrictHostKeyChecking": "yes",
        "BatchMode": "yes",
        "ConnectTimeout": "30",
        "LogLevel": "ERROR",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    key = str(directory / _KEY)
    return ["ssh", "-F", "none", "-i", key, "-p", str(port), *words, "root@127.0.0.1"]
