# SPDX-License-Identifier: Apache-2.0
"""What a scenario asks of its guest before the first step: the machine, and kernel modules."""

from collections.abc import Sequence

from harness.errors import GuestError, PreconditionError, ScenarioError
from harness.machine.spec import BalloonSpec, Clock, GuestSpec, NumaNode
from harness.machine.vm import VirtualMachine
from harness.scenario.model import Scenario
from harness.scenario.steps import unrolled
from harness.units import MIB, format_size

NOT_THERE = "not found"
"""What modprobe says of a module that modules.dep does not name (busybox, modutils/modprobe.c)."""

LARGER = "give it more with --set guest.memory=SIZE; Debian's kernels boot with 96MiB"


def guest_spec(scenario: Scenario, clock: Clock = "real", *, record: bool = False) -> GuestSpec:
    """Return the machine that a scenario asks for.

    Under the virtual clock vCPUs run one at a time, so a second one would add no concurrency; where
    the scenario has no nodes that each need one, its guest gets one. Raises `PreconditionError` if
    the scenario is not valid under the clock, or its guest cannot be recorded.
    """
    if record and (why := not_recorded(scenario)):
        raise PreconditionError(f"--record: {why}", hint="run it without --record")
    if why := scenario.not_under(clock):
        raise PreconditionError(why, hint="take the other --clock")
    one = clock == "virtual" and not scenario.guest.numa
    return GuestSpec(
        memory=scenario.guest.memory,
        vcpus=1 if one else scenario.guest.vcpus,
        clock=clock,
        rr="record" if record else "",
        cmdline=scenario.guest.cmdline,
        numa=tuple(NumaNode(node.memory, tuple(node.vcpus)) for node in scenario.guest.numa),
        machine=scenario.guest.machine,
        hotplug=scenario.guest.hotplug,
        disk=scenario.guest.disk,
        balloon=BalloonSpec(**scenario.balloon.model_dump()),
        backend=scenario.host.backend,
        discard=scenario.host.discard,
        under_pressure=scenario.presses,
        memory_limit=scenario.host.memory_limit,
        mem_lock=scenario.host.mem_lock,
        prealloc=scenario.host.prealloc,
        thp=scenario.host.thp,
        qemu_args=scenario.host.qemu_args,
    )


def not_recorded(scenario: Scenario) -> str:
    """Say why QEMU's recording of a scenario's guest could not be replayed; empty if it could."""
    for _loc, step in unrolled(scenario.steps):
        if step.through_qmp:
            return f"`{step.verb}` changes the machine by QMP, which no recording contains"
    if scenario.balloon.statistics:
        return "QMP makes QEMU poll the balloon's statistics, which no recording contains"
    if scenario.guest.numa:
        return "QEMU records guests of one vCPU only, and each node needs one"
    if scenario.guest.disk:
        return "what the guest reads from its disk is in no recording"
    if scenario.host.qemu_args:
        return "further QEMU arguments (host.qemu_args) are in no recording"
    return scenario.not_under("virtual")


def check_size(spec: GuestSpec, least: int) -> None:
    """Raise `ScenarioError` if the guest has less memory than the `least` its kernel boots with."""
    if spec.memory < least:
        raise ScenarioError(
            f"a guest of {format_size(spec.memory)} is too small for this kernel, which needs "
            f"{format_size(-(-least // MIB) * MIB)} to unpack itself and its initramfs",
            hint=LARGER,
        )


def load_modules(vm: VirtualMachine, names: Sequence[str]) -> None:
    """Load modules of the guest's kernel.

    Raises `PreconditionError` for one that is not there, `GuestError` for one that the kernel
    refuses, `SshError`, `DeadlineError`.
    """
    for name in names:
        answer = vm.shell.run(f"modprobe {name}", check=False)
        if not answer.status:
            continue
        said = answer.stderr.decode(errors="replace").strip()
        if NOT_THERE not in said:
            raise GuestError(
                f"the guest's kernel ({vm.kernel_release}) did not take the module {name}: {said}",
                hint="see console.log; was it built with this kernel, and what does guest.cmdline "
                "say of it?",
            )
        raise PreconditionError(
            f"the guest has no module {name} for its kernel ({vm.kernel_release})",
            hint="the modules that an image keeps for its guests are `on_demand` in "
            "guest-images/*.yaml",
        )
