# SPDX-License-Identifier: Apache-2.0
"""Launch a guest: choose its accelerator, say why, and remember if KVM fails."""

import contextlib
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from harness.errors import BootError, GuestBootError, HarnessError, InterruptedRunError, LaunchError
from harness.machine.accel import KvmMemory, kvm_unusable
from harness.machine.interfaces import Traced
from harness.machine.qemu_probe import find_qemu
from harness.machine.spec import Accelerator, BootLike, GuestSpec, Launch, unwatched
from harness.machine.vm import VirtualMachine


def launch(
    spec: GuestSpec,
    boot: BootLike,
    *,
    accel: Accelerator,
    qemu: Path | None,
    artefacts: Path,
    progress: Callable[[str], None],
    cancelled: threading.Event,
    boot_deadline: float | None = None,
    while_booting: Callable[[Traced], AbstractContextManager[None]] = unwatched,
) -> VirtualMachine:
    """Launch a guest and return it once it has answered over SSH; use it in the calling thread.

    `auto` takes KVM only if the guest becomes ready under it, and reports through `progress` which
    accelerator it took and why. If the guest itself fails under KVM, TCG is not tried, because that
    failure may be what the run is looking for. `while_booting` is entered for each QEMU that boots
    the guest. Raises `LaunchError`, `BootError`, `InterruptedRunError`; nothing is left running
    then.
    """
    given = Launch(
        *(spec, boot, find_qemu(qemu), artefacts, cancelled, boot_deadline),
        while_booting=while_booting,
    )
    vm = _boot(given, accel, progress)
    if vm.as_root:
        progress(f"QEMU runs as root: {vm.as_root}")
    return vm


def _boot(given: Launch, accel: Accelerator, progress: Callable[[str], None]) -> VirtualMachine:
    """See `launch`."""
    artefacts, cancelled = given.artefacts, given.cancelled
    if given.spec.clock == "virtual":
        return _boot_counted(given, accel, progress)
    if accel != "auto":
        if accel == "kvm" and (why := kvm_unusable()):
            raise LaunchError(f"--accel kvm: {why}", hint="fix it, or use --accel auto or tcg")
        return VirtualMachine.boot(given, accel)
    memory = KvmMemory(given.qemu)
    learned = False
    why = kvm_unusable() or memory.failure()
    if why is None:
        try:
            vm = VirtualMachine.boot(given, "kvm")
        except GuestBootError:
            raise
        except HarnessError as error:
            if cancelled.is_set():
                raise InterruptedRunError("the run was asked to stop") from error
            why = error.message.splitlines()[0]
            # If QEMU ends under a running guest, the guest may be the reason, not KVM.
            learned = isinstance(error, BootError) or not _guest_spoke(artefacts)
            if _guest_spoke(artefacts):
                _set_aside(artefacts)
        else:
            progress("accelerator KVM: the guest became ready under it")
            return vm
    progress(f"accelerator TCG, because KVM is not usable here: {why}")
    vm = VirtualMachine.boot(given, "tcg")
    # That the guest boots under TCG shows that KVM was at fault, not the image, memory or disk.
    if learned:
        memory.remember(why)
    return vm


def _boot_counted(
    given: Launch, accel: Accelerator, progress: Callable[[str], None]
) -> VirtualMachine:
    """Boot under a virtual clock."""
    if accel == "kvm":
        raise LaunchError(
            "a virtual clock counts the guest's instructions, which KVM does not do",
            hint="take --accel tcg, or --clock real",
        )
    if accel == "auto":
        why = kvm_unusable() or KvmMemory(given.qemu).failure()
        words = "accelerator TCG, because the clock is virtual"
        progress(f"{words}; KVM is not usable here: {why}" if why else words)
    return VirtualMachine.boot(given, "tcg")


def _guest_spoke(artefacts: Path) -> bool:
    """Whether the guest of the last attempt wrote anything on its console."""
    try:
        return (artefacts / "console.log").stat().st_size > 0
    except OSError:
        return False


def _set_aside(artefacts: Path) -> None:
    """Keep the logs of the attempt under KVM; a full disk is reported by a later write."""
    with contextlib.suppress(OSError):
        (artefacts / "kvm").mkdir(exist_ok=True)
        for name in ("console.log", "qemu.log", "qmp.log"):
            (artefacts / name).replace(artefacts / "kvm" / name)
