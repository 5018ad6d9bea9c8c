# SPDX-License-Identifier: Apache-2.0
"""Drain the guest's per-CPU lists of free pages into the buddy allocator."""

from typing import ClassVar

from harness.act.guest import Guest
from harness.errors import GuestError, PreconditionError
from harness.scenario.steps import Verb

SECONDS = 60.0
TRY_SECONDS = 2
"""Seconds for one memory block to go offline."""

NO_BLOCKS, NOT_BACK = 3, 4

# offline_pages() drains the lists of the block's zone before it checks whether the block can go
# offline: zone_pcp_disable() (drain_all_pages() up to 5.11), mm/memory_hotplug.c. A block that
# went offline is put online again. A page in use makes it retry forever, until a signal.
_DRAIN = f"""
busy=
type timeout >/dev/null || exit
for state in /sys/devices/system/memory/memory*/state; do
  [ -e $state ] || continue
  if words=$(timeout {TRY_SECONDS} sh -c "echo offline >$state" 2>&1); then
    echo online >$state || exit {NOT_BACK}
    exit 0
  fi
  # Without CONFIG_MEMORY_HOTREMOVE every block says EINVAL.
  case $words in *"Invalid argument"*) ;; *) busy=1 ;; esac
done
[ -n "$busy" ] || exit {NO_BLOCKS}
"""


class Drain(Verb):
    """Drains the guest's per-CPU lists of free pages into the buddy allocator, by taking a memory
    block offline. On a kernel without CONFIG_MEMORY_HOTREMOVE the run is a SKIP.
    """

    verb: ClassVar[str] = "drain"

    def perform(self, guest: Guest) -> None:
        """Take a memory block offline and online again.

        Raises `PreconditionError` on a kernel without memory hotplug, `GuestError` if the block
        did not come back online, `DeadlineError`.
        """
        guest.phase("drain", "the per-CPU lists")
        result = guest.vm.shell.run(_DRAIN, timeout=SECONDS, check=False)
        if result.status == NO_BLOCKS:
            raise PreconditionError(
                f"the guest's kernel ({guest.vm.kernel_release}) cannot take memory blocks "
                "offline (CONFIG_MEMORY_HOTREMOVE), which would drain the per-CPU lists"
            )
        if result.status:
            words = result.stderr.decode(errors="replace").strip()
            raise GuestError(f"draining the per-CPU lists failed ({result.status}): {words[:200]}")
