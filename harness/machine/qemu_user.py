# SPDX-License-Identifier: Apache-2.0
"""The user that QEMU runs as where the harness is root: one that owns nothing on the host.

setpriv(1) gives root up before QEMU starts. QEMU's own `-runas` (`-run-with user=` from 9.1) does
it when all is open, which clears the death signal (prctl(2), PR_SET_PDEATHSIG) and makes system
calls that the seccomp filter denies.
"""

import os
import pwd
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import LaunchError, UsageError

VARIABLE = "FPR_QEMU_USER"
USUAL = "nobody"
AS_ROOT = f"{VARIABLE} asks for that"


@dataclass(frozen=True)
class QemuUser:
    """A user without rights of its own."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    """All its groups, `gid` among them."""
    asked: bool = False
    """Whether `FPR_QEMU_USER` names it, so that nobody else will do."""
    locks: bool = False
    """Whether it may lock memory beyond its limit (CAP_IPC_LOCK), which harms nobody else."""

    @property
    def words(self) -> tuple[str, ...]:
        """Options of setpriv(1): this user, no capabilities, and none by set-uid programs."""
        ids = ("--reuid", str(self.uid), "--regid", str(self.gid))
        groups = ("--groups", ",".join(map(str, self.groups)))
        kept = ",+ipc_lock" if self.locks else ""
        capabilities = (f"--inh-caps=-all{kept}", f"--ambient-caps=-all{kept}")
        return (*ids, *groups, *capabilities, "--no-new-privs")

    def refused(self, why: str) -> str:
        """Return why QEMU runs as root instead. Raises `LaunchError` if this user was asked for."""
        if self.asked:
            raise LaunchError(
                f"QEMU cannot run as {self.name} ({VARIABLE}): {why}",
                hint=f"see what `fpr-harness doctor` says without {VARIABLE}, or name another user",
            )
        return why

    def own(self, path: Path, mode: int) -> None:
        """Make it the owner of a file. Raises `OSError`."""
        os.chown(path, self.uid, self.gid, follow_symlinks=False)
        path.chmod(mode)

    def reaches(self, directory: Path) -> bool:
        """Whether it may pass a directory and all above, by their modes (path_resolution(7)).

        Access control lists are not looked at. Raises `OSError`.
        """
        place = directory.resolve()
        return all(self._passes(path.stat()) for path in (place, *place.parents))

    def _passes(self, state: os.stat_result) -> bool:
        if state.st_uid == self.uid:
            return bool(state.st_mode & stat.S_IXUSR)
        return bool(state.st_mode & (stat.S_IXGRP if state.st_gid in self.groups else stat.S_IXOTH))

    def with_access(self, device: Path) -> "QemuUser | None":
        """Return it with access to the device, by the device's group if it needs that.

        None where only root has access. Raises `OSError`.
        """
        state = device.stat()
        if state.st_mode & 0o006 == 0o006 or (state.st_uid, state.st_mode & 0o600) == (
            self.uid,
            0o600,
        ):
            return self
        if state.st_gid != 0 and state.st_mode & 0o060 == 0o060:
            return replace(self, groups=tuple(dict.fromkeys((*self.groups, state.st_gid))))
        return None


def wanted_user() -> QemuUser | str:
    """Return the user that QEMU should run as, or why as this process's user; "": it is not root.

    Raises `UsageError` if `FPR_QEMU_USER` names nobody that QEMU could run as.
    """
    asked = os.environ.get(VARIABLE, "")
    name = asked or USUAL
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError) as error:
        if not asked:
            return f"this host has no user {USUAL}" if os.geteuid() == 0 else ""
        raise UsageError(
            f"{VARIABLE}={asked!r}: there is no such user",
            hint=f"name a user that owns nothing on this host; without it, {USUAL} is taken",
        ) from error
    if os.geteuid() != 0:
        if asked and entry.pw_uid != os.geteuid():
            raise UsageError(f"{VARIABLE}={asked}: only root can run QEMU as another user")
        return ""
    if entry.pw_uid == 0:
        return AS_ROOT
    groups = tuple(dict.fromkeys((entry.pw_gid, *os.getgrouplist(entry.pw_name, entry.pw_gid))))
    return QemuUser(entry.pw_name, entry.pw_uid, entry.pw_gid, groups, asked=bool(asked))
