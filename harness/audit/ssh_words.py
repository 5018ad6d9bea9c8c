# SPDX-License-Identifier: Apache-2.0
"""ssh(1)'s command line for an audit, and what its messages mean. Pure."""

import re
import shlex
from dataclasses import dataclass

from harness.errors import SshError, UsageError

CONNECT_SECONDS = 10

OPTIONS = (
    "-T",
    *("-o", "BatchMode=yes"),
    *("-o", f"ConnectTimeout={CONNECT_SECONDS}"),
    *("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"),
    # What the user's configuration may add for a person at a terminal.
    *("-o", "ClearAllForwardings=yes", "-o", "ForwardAgent=no", "-o", "ForwardX11=no"),
    *("-o", "PermitLocalCommand=no", "-o", "RemoteCommand=none"),
    # A connection that is already shared is used; none is left behind.
    *("-o", "ControlMaster=no"),
)
"""BatchMode: a question is an error. The rest of the user's configuration holds: keys, agent,
known_hosts, jump hosts."""

_DESTINATION = re.compile(
    r"(?:(?P<user>[^@\s]+)@)?(?:\[(?P<six>[0-9a-fA-F:.%\w]+)\]|(?P<host>[^@:\s]+))"
    r"(?::(?P<port>\d{1,5}))?"
)

# sh(1) of the guest runs the script as root: at once, or through sudo that asks for nothing. The
# script comes over standard input: the user's login shell, which may be csh(1), would not pass on
# an argument of several lines.
_AS_ROOT = (
    'if [ "$(id -u)" = 0 ]; then exec sh -c "$1" fpr-audit; fi; exec sudo -n sh -c "$1" fpr-audit'
)


@dataclass(frozen=True)
class Destination:
    """Whom to log in to."""

    host: str
    user: str = ""
    """Empty: ssh's own choice."""
    port: int = 0
    """0: ssh's own choice."""

    def __str__(self) -> str:
        return f"{self.user}@{self.host}" if self.user else self.host


def parse_destination(text: str) -> Destination:
    """Parse `[USER@]HOST[:PORT]`, an IPv6 address in brackets. Raises `UsageError`."""
    match = _DESTINATION.fullmatch(text)
    # ssh takes a word with a dash in front for an option.
    if match is None or text.startswith("-") or not 0 < int(match["port"] or 22) < 65536:
        raise UsageError(
            f"--ssh {text!r} is no destination", hint="write USER@HOST or USER@HOST:PORT"
        )
    port = int(match["port"] or 0)
    return Destination(match["six"] or match["host"], match["user"] or "", port)


def ssh_command(to: Destination, size: int) -> list[str]:
    """Return the command that runs, as the guest's root, a shell script of `size` bytes.

    The script is the first of what comes over standard input.
    """
    port = ["-p", str(to.port)] if to.port else []
    script = f'eval "$(head -c {size})"'
    remote = shlex.join(["sh", "-c", _AS_ROOT, "fpr-audit", script])
    return ["ssh", *OPTIONS, *port, "--", str(to), remote]


def by_hand(to: Destination) -> str:
    """Return what a person types to see whether ssh(1) gets there."""
    port = f"-p {to.port} " if to.port else ""
    return f"ssh {port}{to} true"


# The messages are those of OpenSSH (sshconnect.c, sshconnect2.c, ssh.c) and sudo.
_MEANINGS = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "the host key of {to} is not the one in known_hosts: another machine answers, or the guest "
        "was installed anew; nothing was sent to it",
        "if the change is known to be right, remove the old key: ssh-keygen -R {host}",
    ),
    (
        "Host key verification failed",
        "the host key of {to} is not in known_hosts, and an audit accepts no unknown key",
        "log in once by hand (ssh {to}) and compare the key",
    ),
    (
        "Permission denied (",
        "{to} accepted no key, and would ask for a password; an audit does not ask for one",
        "make the key known to the guest (ssh-copy-id {to}), or to the agent (ssh-add)",
    ),
    (
        "a password is required",
        "the guest's user is not root, and its sudo asks for a password",
        "log in as root (--ssh root@{host}), or allow the user sudo without a password",
    ),
    (
        "a terminal is required",
        "the guest's user is not root, and its sudo asks for a password",
        "log in as root (--ssh root@{host}), or allow the user sudo without a password",
    ),
    (
        "sudo: not found",
        "the guest's user is not root, and the guest has no sudo",
        "log in as root: --ssh root@{host}",
    ),
    (
        "neither /tmp nor /run of the guest takes a program",
        "neither /tmp nor /run of the guest takes a program (read-only, full, or mounted noexec)",
        "make room for 1 MiB in one of them; the host's side alone needs none",
    ),
    (
        "hostname contains invalid characters",
        "{host} is no name of a host",
        "write --ssh USER@HOST or USER@HOST:PORT",
    ),
    ("Could not resolve hostname", "the name {host} has no address", "check the name of the guest"),
    (
        "Connection refused",
        "nothing listens for SSH on {to}",
        "check the port (--ssh USER@HOST:PORT) and whether sshd runs in the guest",
    ),
    (
        "timed out",
        "{to} does not answer",
        "check the address, and whether the guest runs",
    ),
)


def meaning(to: Destination, stderr: str) -> SshError | None:
    """Translate what ssh said on standard error; None if it is nothing known."""
    for words, message, hint in _MEANINGS:
        if words in stderr:
            named = {"to": str(to), "host": to.host}
            return SshError(
                f"cannot look into the guest: {message.format(**named)}",
                hint=hint.format(**named),
            )
    return None
