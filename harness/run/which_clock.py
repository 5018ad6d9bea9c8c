# SPDX-License-Identifier: Apache-2.0
"""Which clock the guest of a run gets, where the command line leaves the choice."""

from harness.errors import HarnessError
from harness.machine.accel import KvmMemory, kvm_unusable
from harness.machine.needs import missing_in_qemu
from harness.machine.qemu import Qemu
from harness.machine.spec import Clock
from harness.run.guest_setup import guest_spec
from harness.run.plan import RunOptions
from harness.scenario.model import Scenario


def clock_for(scenario: Scenario, options: RunOptions, qemu: Qemu | HarnessError) -> Clock:
    """Return the clock asked for. `auto` is the virtual one where TCG is known to be the
    accelerator, and scenario and QEMU are good for it.

    The first run on a host whose KVM turns out to fail has the real clock, since it tries KVM.
    """
    if options.clock != "auto":
        return options.clock
    if isinstance(qemu, HarnessError) or scenario.not_under("virtual"):
        return "real"
    if not _without_kvm(options, qemu) or missing_in_qemu(guest_spec(scenario, "virtual"), qemu):
        return "real"
    return "virtual"


def _without_kvm(options: RunOptions, qemu: Qemu) -> bool:
    if options.accel != "auto":
        return options.accel == "tcg"
    return bool(kvm_unusable() or KvmMemory(qemu).failure())
