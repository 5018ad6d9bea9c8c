# SPDX-License-Identifier: Apache-2.0
"""Load the guest's own kernel once more, for kexec."""

from collections.abc import Iterator
from typing import ClassVar

from harness.act.guest import Guest
from harness.errors import GuestError, PreconditionError
from harness.scenario.fields import Seconds
from harness.scenario.steps import Situation, Verb
from harness.yamlfile import Loc

LOADED = "kernel loaded"

_HAS_KEXEC = "test -e /sys/kernel/kexec_loaded"
_KERNEL, _INITRAMFS = "/run/vmlinuz", "/run/initramfs"
_LOAD = f"fpr-guest kexec load {_KERNEL} {_INITRAMFS} && rm {_KERNEL} {_INITRAMFS}"


class LoadKernel(Verb):
    """Loads the kernel that the guest was booted with once more, with its initramfs and command
    line, for `reboot: {way: kexec}`. If the guest's kernel lacks kexec, the run is a SKIP.
    """

    verb: ClassVar[str] = "load_kernel"
    moves_memory: ClassVar[bool] = True
    deadline: Seconds = 60.0
    """If it passes, the run is a MISS, or `guest-hang` if the guest no longer answers."""

    def expected_seconds(self, _memory: int) -> float:
        """Return the time to send both files and to verify the kernel's signature."""
        return 4.0

    def mistakes(self, before: Situation) -> Iterator[tuple[Loc, str]]:
        """Refuse a second kernel before the first has started."""
        if LOADED in before.facts:
            yield (), "a kernel is loaded already"

    def after(self, before: Situation) -> Situation:
        """Remember that a kernel is loaded."""
        return before.having(LOADED)

    def perform(self, guest: Guest) -> None:
        """Send the files and load them.

        Raises `PreconditionError`, `GuestError` if the guest refuses them, `DeadlineError`.
        """
        guest.phase("load_kernel")
        shell = guest.vm.shell
        if shell.run(_HAS_KEXEC, check=False).status:
            raise PreconditionError(
                f"the guest's kernel ({guest.vm.kernel_release}) has no kexec (CONFIG_KEXEC_FILE)"
            )
        for place, file in (
            (_KERNEL, guest.vm.boot_files[0]),
            (_INITRAMFS, guest.vm.boot_files[1]),
        ):
            shell.run(f"cat >{place}", stdin=file.read_bytes(), timeout=self.deadline)
        shell.run(_LOAD, timeout=self.deadline)
        if shell.run("cat /sys/kernel/kexec_loaded").stdout.strip() != b"1":
            raise GuestError("the guest's kernel did not keep the kernel that was loaded")
