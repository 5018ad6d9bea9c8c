# SPDX-License-Identifier: Apache-2.0
"""Launching a guest: which accelerator it gets, and what is said and remembered about that."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from harness.errors import BootError, GuestBootError, HarnessError, InterruptedRunError, LaunchError
from harness.machine.accel import KvmMemory, kvm_unusable
from harness.machine.qemu_probe import find_qemu
from harness.machine.spec import Accelerator, BootLike, GuestSpec
from harness.machine.vm import Launch, VirtualMachine


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
) -> VirtualMachine:
    """A guest that has answered over SSH. Call it and use the guest in one thread.

    `auto` takes KVM only if the guest becomes ready under it, and says which it took and why. A
    guest that itself fails under KVM is no reason to take TCG: that may be what was looked for.
    Raises `LaunchError`, `BootError`, `InterruptedRunError`; nothing is left then.
    """
    given = Launch(spec, boot, find_qemu(qemu), artefacts, cancelled, boot_deadline)
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
            # A QEMU that ends under a running guest may have been ended by it.
            learned = isinstance(error, BootError) or not _guest_spoke(artefacts)
            if _guest_spoke(artefacts):
                _set_aside(artefacts)
        else:
            progress("accelerator KVM: the guest became ready under it")
            return vm
    progress(f"accelerator TCG, KVM is not usable here: {why}")
    vm = VirtualMachine.boot(given, "tcg")
    # Only now is it known that KVM was at fault, and not the image, the memory or the disk.
    if learned:
        memory.remember(why)
    return vm


def _guest_spoke(artefacts: Path) -> bool:
    """Whether the guest of the last try has written anything on its console."""
    try:
        return (artefacts / "console.log").stat().st_size > 0
    except OSError:
        return False


def _set_aside(artefacts: Path) -> None:
    """Keep what a guest said under KVM before it is booted under TCG. A full disk tells later."""
    with contextlib.suppress(OSError):
        (artefacts / "kvm").mkdir(exist_ok=True)
        for name in ("console.log", "qemu.log", "qmp.log"):
            (artefacts / name).replace(artefacts / "kvm" / name)
