# SPDX-License-Identifier: Apache-2.0
"""Whether the device offers free page reporting, the driver accepted it, and at which order."""

import re
from dataclasses import dataclass

from harness.errors import ObserveError
from harness.kernel.zones import MAX_ORDER, PASS_SECONDS
from harness.machine.interfaces import GuestShell, Monitor
from harness.observe.balloon_stats import reporting_offered

VIRTIO_BALLOON_F_REPORTING = 5
"""Feature bit, include/uapi/linux/virtio_balloon.h; device id 5, include/uapi/linux/virtio_ids.h"""

# The parameter `page_reporting_order` exists from 5.14. Without it, or while it holds no valid
# order, the kernel reports at pageblock_order (mm/page_reporting.c, page_reporting_register()).
# Uses only shell built-ins and cat: a guest's busybox may lack other applets.
BALLOON_COMMAND = """
for device in /sys/bus/virtio/devices/*; do
  [ "$(cat $device/device 2>/dev/null)" = 0x0005 ] || continue
  echo "features=$(cat $device/features)"
  driver=$(cd $device/driver 2>/dev/null && pwd -P) && echo "driver=${driver##*/}"
  break
done
parameters=/sys/module/page_reporting/parameters
echo "order=$(cat $parameters/page_reporting_order 2>/dev/null)"
echo "delay=$(cat $parameters/page_reporting_delay_ms 2>/dev/null)"
while read -r line; do
  case "$line" in "Page block order:"*) echo "block_order=${line##* }"; break;; esac
done < /proc/pagetypeinfo
"""
MOST_PASS_SECONDS = 60.0
"""The longest time between two passes that the harness accepts: deadlines grow with it, and a guest
must not delay the harness without limit."""

_LINE = re.compile(r"^(features|driver|order|delay|block_order)=(\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class BalloonState:
    """The state of the balloon device and its driver when read."""

    offered: bool
    """The device offers VIRTIO_BALLOON_F_REPORTING."""
    features: str
    """Features the driver accepted when it last probed the device: a bit string as in sysfs, bit 0
    first. Empty: the guest has no balloon device."""
    driver: str | None
    """The driver bound to the device; None while unbound."""
    page_reporting_order: int
    """Smallest order of a free block that the guest reports, or would report."""
    pass_seconds: float
    """Time between two passes: the parameter `page_reporting_delay_ms` (from 7.3), or 2 s."""

    @property
    def negotiated(self) -> bool:
        """Whether a driver is bound and has accepted VIRTIO_BALLOON_F_REPORTING."""
        bit = self.features[VIRTIO_BALLOON_F_REPORTING : VIRTIO_BALLOON_F_REPORTING + 1]
        return self.driver is not None and bit == "1"


def parse_state(
    text: str, *, offered: bool, most_pass_seconds: float = MOST_PASS_SECONDS
) -> BalloonState:
    """Parse the output of `BALLOON_COMMAND`.

    Raises ObserveError if it names no order, or a delay above `most_pass_seconds`.
    """
    fields = dict(_LINE.findall(text))
    features = fields.get("features", "")
    orders = [
        int(value)
        for value in (fields.get("order", ""), fields.get("block_order", ""))
        if re.fullmatch(r"[0-9]{1,2}", value)
    ]
    # Where no driver ever registered, 6.1 shows an order beyond MAX_ORDER (11). Then the order that
    # registering would set counts: pageblock_order.
    accepted = features[VIRTIO_BALLOON_F_REPORTING : VIRTIO_BALLOON_F_REPORTING + 1] == "1"
    if not accepted:
        orders = [order for order in orders if order <= MAX_ORDER]
    if not orders or set(features) - {"0", "1"}:
        raise ObserveError(
            "cannot read the reporting order or the balloon's features in the guest; it answered "
            f"{text!r:.400}",
            hint="the guest needs sysfs, and a /proc/pagetypeinfo that root can read",
        )
    delay = fields.get("delay", "")
    pass_seconds = int(delay) / 1000 if re.fullmatch(r"[0-9]{1,12}", delay) else PASS_SECONDS
    if pass_seconds > most_pass_seconds:
        raise ObserveError(
            f"the guest makes a reporting pass only every {pass_seconds:g} s; the harness accepts "
            f"up to {most_pass_seconds:g} s",
            hint="lower page_reporting.page_reporting_delay_ms",
        )
    return BalloonState(
        offered=offered,
        features=features,
        driver=fields.get("driver"),
        page_reporting_order=orders[0],
        pass_seconds=pass_seconds,
    )


def driver_is_bound(shell: GuestShell) -> bool | None:
    """Whether a driver is bound to the guest's balloon device; None if it has no such device.

    Raises `GuestError`, `SshError`, `DeadlineError`.
    """
    fields = dict(_LINE.findall(shell.run(BALLOON_COMMAND).stdout.decode(errors="replace")))
    return "driver" in fields if "features" in fields else None


def read_balloon_state(
    shell: GuestShell, monitor: Monitor, balloon_path: str | None
) -> BalloonState:
    """Read what the device offers (from QEMU) and what the driver accepted (from the guest).

    `balloon_path`: QOM path of the device; None without a balloon. Raises ObserveError, GuestError,
    SshError, QmpError.
    """
    offered = balloon_path is not None and reporting_offered(monitor, balloon_path)
    output = shell.run(BALLOON_COMMAND).stdout.decode(errors="replace")
    return parse_state(output, offered=offered)
