# SPDX-License-Identifier: Apache-2.0
"""Whether free page reporting was offered, accepted, and at which order it works."""

import re
from dataclasses import dataclass

from harness.errors import ObserveError
from harness.kernel.zones import MAX_ORDER, PASS_SECONDS
from harness.machine.interfaces import GuestShell, Monitor
from harness.observe.balloon_stats import reporting_offered

VIRTIO_BALLOON_F_REPORTING = 5
"""Feature bit, include/uapi/linux/virtio_balloon.h; device id 5, include/uapi/linux/virtio_ids.h"""

# `page_reporting_order` came with 5.14; before that, and while it holds no valid order, the kernel
# reports at pageblock_order (mm/page_reporting.c, page_reporting_register()).
# Shell built-ins only, but for cat: a guest's busybox may lack the rest.
_COMMAND = """
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
"""Between two passes: a guest that claims more would hold the harness for as long as it likes."""

_LINE = re.compile(r"^(features|driver|order|delay|block_order)=(\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class BalloonState:
    """The balloon device and its driver, as read now."""

    offered: bool
    """The device offers VIRTIO_BALLOON_F_REPORTING."""
    features: str
    """Bit string as sysfs prints it, bit 0 first: the features the driver accepted when it last
    probed the device. Empty: the guest sees no balloon device."""
    driver: str | None
    """The driver bound to the device; None while unbound."""
    page_reporting_order: int
    """Smallest order of a free block that is reported, or would be."""
    pass_seconds: float
    """Between two passes: `page_reporting_delay_ms` (7.3), or 2 s where the kernel has no such
    parameter."""

    @property
    def negotiated(self) -> bool:
        """A driver is bound and has accepted VIRTIO_BALLOON_F_REPORTING."""
        bit = self.features[VIRTIO_BALLOON_F_REPORTING : VIRTIO_BALLOON_F_REPORTING + 1]
        return self.driver is not None and bit == "1"


def parse_state(text: str, *, offered: bool) -> BalloonState:
    """From the output of the guest command. Raises ObserveError when it names no order."""
    fields = dict(_LINE.findall(text))
    features = fields.get("features", "")
    orders = [
        int(value)
        for value in (fields.get("order", ""), fields.get("block_order", ""))
        if re.fullmatch(r"[0-9]{1,2}", value)
    ]
    # Where no driver ever registered, 6.1 shows an order beyond the highest (11): what would have
    # been reported is then a matter of the order that registering would have set.
    accepted = features[VIRTIO_BALLOON_F_REPORTING : VIRTIO_BALLOON_F_REPORTING + 1] == "1"
    if not accepted:
        orders = [order for order in orders if order <= MAX_ORDER]
    if not orders or set(features) - {"0", "1"}:
        raise ObserveError(
            f"the guest did not tell its reporting order or the balloon's features: {text!r:.400}",
            hint="the guest kernel needs sysfs and a /proc/pagetypeinfo readable as root",
        )
    delay = fields.get("delay", "")
    pass_seconds = int(delay) / 1000 if re.fullmatch(r"[0-9]{1,12}", delay) else PASS_SECONDS
    if pass_seconds > MOST_PASS_SECONDS:
        raise ObserveError(
            f"the guest looks for memory to report every {pass_seconds:g} s only, and deadlines "
            f"follow from that up to {MOST_PASS_SECONDS:g} s",
            hint="set page_reporting.page_reporting_delay_ms to less",
        )
    return BalloonState(
        offered=offered,
        features=features,
        driver=fields.get("driver"),
        page_reporting_order=orders[0],
        pass_seconds=pass_seconds,
    )


def read_balloon_state(
    shell: GuestShell, monitor: Monitor, balloon_path: str | None
) -> BalloonState:
    """Ask QEMU what the device at QOM `balloon_path` offers (None: there is no balloon), and the
    guest what it made of it. Raises ObserveError, GuestError, SshError, QmpError.
    """
    offered = balloon_path is not None and reporting_offered(monitor, balloon_path)
    output = shell.run(_COMMAND).stdout.decode(errors="replace")
    return parse_state(output, offered=offered)
