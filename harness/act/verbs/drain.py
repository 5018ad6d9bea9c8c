# SPDX-License-Identifier: Apache-2.0
"""Have the guest's per-CPU lists of free pages give all they hold to the buddy allocator."""

from typing import ClassVar

from harness.act.guest import Guest
from harness.errors import GuestError, PreconditionError
from harness.scenario.steps import Verb

SECONDS = 60.0
TRY_SECONDS = 2
"""For one block to go."""

NO_BLOCKS, NOT_BACK = 3, 4

# offline_pages() drains the lists of the block's zone before it looks whether the block can go:
# zone_pcp_disable() (drain_all_pages() up to 5.11), mm/memory_hotplug.c. One that went comes back.
# For a page in use it would try for ever; a signal ends that.
_DRAIN = f"""
found=
type timeout >/dev/null || exit
for state in /sys/devices/system/memory/memory*/state; do
  [ -e $state ] || continue
  found=1
  if timeout {TRY_SECONDS} sh -c "echo offline >$state" 2>/dev/null; then
    echo online >$state || exit {NOT_BACK}
    exit 0
  fi
done
[ -n "$found" ] || exit {NO_BLOCKS}
"""


class Drain(Verb):
    """Makes the guest's per-CPU lists give their free pages to the buddy allocator, by asking a
    block of memory to go offline. On a kernel without CONFIG_MEMORY_HOTREMOVE the run is a SKIP.
    """

    verb: ClassVar[str] = "drain"

    def perform(self, guest: Guest) -> None:
        """Raises `PreconditionError` on a kernel without memory hotplug, `GuestError` if the memory
        that was asked to go did not come back, `DeadlineError`.
        """
        guest.phase("drain", "the per-CPU lists")
        result = guest.vm.shell.run(_DRAIN, timeout=SECONDS, check=False)
        if result.status == NO_BLOCKS:
            raise PreconditionError(
                f"the guest's kernel ({guest.vm.kernel_release}) has no memory blocks to take "
                "offline (CONFIG_MEMORY_HOTREMOVE), which is what drains the per-CPU lists"
            )
        if result.status:
            words = result.stderr.decode(errors="replace").strip()
            raise GuestError(f"draining the per-CPU lists failed ({result.status}): {words[:200]}")
