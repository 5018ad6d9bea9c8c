# SPDX-License-Identifier: Apache-2.0
"""Move the guest to another QEMU by precopy, postcopy or snapshot, or cancel a migration.

Processes in the guest survive only if they were started detached from the SSH connection.
"""

from typing import Any, ClassVar, Literal, Self

from pydantic import StrictBool, model_validator

from harness.act.guest import Guest, Machine
from harness.act.seen_pages import SeenPages
from harness.act.verbs.churn import Held
from harness.deadline import Deadline
from harness.errors import PreconditionError, QmpError
from harness.machine.qemu_user import VARIABLE
from harness.record.events import GuestMoved
from harness.scenario.fields import Seconds
from harness.scenario.steps import Verb
from harness.units import GIB, MIB

LOOK_SECONDS = 0.05
FULL_SPEED = 64 * GIB
CRAWL = MIB
"""Bytes per second of a migration that is to be cancelled, so that it does not complete."""

TAG = "fpr"
_JOB = "fpr-snapshot"
_FILE, _DISK = "snapshot-file", "snapshot-disk"


class Migrate(Verb):
    """Migrates the guest to a second QEMU by precopy, and continues there."""

    verb: ClassVar[str] = "migrate"
    real_clock: ClassVar[str] = "the guest must write at its own pace while the host copies it"
    moves_memory: ClassVar[bool] = True
    breaks_connection: ClassVar[bool] = True
    cancel: StrictBool = False
    """Whether to cancel the migration while it is active; the guest then stays where it is."""
    postcopy: StrictBool = False
    """Lets the guest run at the other end before its memory is there: pages come as it touches
    them, and meanwhile QEMU discards nothing. A SKIP where the host gives no userfaultfd(2)."""
    deadline: Seconds = 120.0
    """If it passes, the run is a MISS, or `guest-hang` if the guest no longer answers."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.cancel and self.postcopy:
            raise ValueError("a guest that runs at the other end cannot come back: no `cancel`")
        return self

    def expected_seconds(self, _memory: int) -> float:
        """Estimate the time, most of which launches the second QEMU."""
        return 20.0

    def host_memory(self, memory: int) -> int:
        """The first QEMU keeps the guest's memory; it ends with the run."""
        return 2 * memory

    def perform(self, guest: Guest) -> None:
        """Migrate, or start and cancel. Raises `QmpError`, `DeadlineError`, `LaunchError`."""
        way = "postcopy" if self.postcopy else "precopy"
        guest.phase("migrate", "to be cancelled" if self.cancel else way)
        start = guest.record.now()
        deadline = Deadline(self.deadline * guest.vm.pace, "the migration to end")
        source, twin = guest.vm, guest.twin("incoming")
        address = f"unix:{twin.qemu_directory}/move.sock"
        if self.postcopy:
            _set_postcopy(source, twin)
        twin.monitor.execute("migrate-incoming", {"uri": address})
        speed = {"max-bandwidth": CRAWL if self.cancel else FULL_SPEED}
        source.monitor.execute("migrate-set-parameters", speed)
        source.monitor.execute("migrate", {"uri": address})
        if self.cancel:
            _await_migration(source, "active", deadline)
            source.monitor.execute("migrate_cancel")
            _await_migration(source, "cancelled", deadline)
            twin.end()
        else:
            if self.postcopy:
                _await_migration(source, "active", deadline)
                source.monitor.execute("migrate-start-postcopy")
                _await_migration(source, "postcopy-active", deadline)
                _run_at_the_other_end(twin, deadline)
            _await_migration(source, "completed", deadline)
            _go_on(guest, twin, deadline)
        _record(guest, "cancelled" if self.cancel else "migrated", start)


class Snapshot(Verb):
    """Saves the guest as savevm does, loads it in a second QEMU, and continues there."""

    verb: ClassVar[str] = "snapshot"
    real_clock: ClassVar[str] = "the guest's clock would not go with it"
    moves_memory: ClassVar[bool] = True
    breaks_connection: ClassVar[bool] = True
    deadline: Seconds = 120.0
    """If it passes, the run is a MISS, or `guest-hang` if the guest no longer answers."""

    def expected_seconds(self, _memory: int) -> float:
        """Estimate the time, most of which writes and reads the guest's memory."""
        return 20.0

    def host_memory(self, memory: int) -> int:
        """The first QEMU keeps the guest's memory; it ends with the run."""
        return 2 * memory

    def perform(self, guest: Guest) -> None:
        """Save and load the snapshot. Raises `QmpError`, `DeadlineError`, `LaunchError`."""
        guest.phase("snapshot", "save, and load in another QEMU")
        start = guest.record.now()
        deadline = Deadline(self.deadline * guest.vm.pace, "the snapshot to be saved and loaded")
        source = guest.vm
        path = f"{source.qemu_directory}/snapshot.qcow2"
        source.monitor.execute("stop")
        _run_job(source, deadline, "blockdev-create", options=_file(path) | {"size": 0})
        source.monitor.execute("blockdev-add", _file(path) | {"node-name": _FILE})
        disk = {"driver": "qcow2", "file": _FILE, "size": MIB}
        _run_job(source, deadline, "blockdev-create", options=disk)
        _attach_disk(source)
        disks = {"tag": TAG, "vmstate": _DISK, "devices": [_DISK]}
        _run_job(source, deadline, "snapshot-save", **disks)
        for node in (_DISK, _FILE):
            source.monitor.execute("blockdev-del", {"node-name": node})
        twin = guest.twin("stopped")
        twin.monitor.execute("blockdev-add", _file(path) | {"node-name": _FILE})
        _attach_disk(twin)
        _run_job(twin, deadline, "snapshot-load", **disks)
        _go_on(guest, twin, deadline)
        _record(guest, "restored", start)


def _file(path: str) -> dict[str, Any]:
    return {"driver": "file", "filename": path}


def _attach_disk(vm: Machine) -> None:
    vm.monitor.execute("blockdev-add", {"driver": "qcow2", "file": _FILE, "node-name": _DISK})


def _run_job(vm: Machine, deadline: Deadline, command: str, **arguments: Any) -> None:
    """Start a job and wait until it concludes. Raises `QmpError` with the job's error."""
    # QEMU loads a snapshot in its main loop, and answers only after that.
    seconds = deadline.remaining
    vm.monitor.execute(command, {"job-id": _JOB, **arguments}, timeout=seconds)
    while True:
        (job,) = [job for job in vm.monitor.execute("query-jobs") if job["id"] == _JOB]
        if job["status"] == "concluded":
            break
        deadline.check(f"the job {command} is {job['status']}")
        vm.sleep_alive(LOOK_SECONDS)
    vm.monitor.execute("job-dismiss", {"id": _JOB})
    if error := job.get("error"):
        raise QmpError(f"QEMU's job {command} failed: {error}", hint="see qmp.log and qemu.log")


def _set_postcopy(source: Machine, twin: Machine) -> None:
    """Raises `PreconditionError` where either end cannot."""
    wanted = {"capabilities": [{"capability": "postcopy-ram", "state": True}]}
    try:
        for vm in (twin, source):
            vm.monitor.execute("migrate-set-capabilities", wanted)
    except QmpError as error:
        raise PreconditionError(
            f"QEMU cannot migrate by postcopy here: {error.message}",
            hint="it needs userfaultfd(2): as root, sysctl vm.unprivileged_userfaultfd=1, or "
            f"{VARIABLE}=root",
        ) from error


def _run_at_the_other_end(twin: Machine, deadline: Deadline) -> None:
    """Let the guest run as soon as its devices are there, which leaves QEMU paused."""
    while twin.monitor.execute("query-status").get("status") == "inmigrate":
        deadline.check("the other QEMU still awaits the guest's devices")
        twin.sleep_alive(LOOK_SECONDS)
    twin.monitor.execute("cont")


def _await_migration(source: Machine, wanted: str, deadline: Deadline) -> None:
    while True:
        answer = source.monitor.execute("query-migrate")
        status = answer.get("status", "none")
        if status == wanted or (wanted == "postcopy-active" and status == "completed"):
            return
        if status in ("failed", "completed", "cancelled"):
            why = answer.get("error-desc", "no reason given")
            raise QmpError(
                f"the migration ended as {status!r} instead of {wanted!r}: {why}",
                hint="see qmp.log and qemu.log, here and in destination/",
            )
        moved = answer.get("ram", {}).get("transferred", 0) // MIB
        deadline.check(f"it is {status}, {moved} MiB were sent")
        source.sleep_alive(LOOK_SECONDS)


def _go_on(guest: Guest, twin: Machine, deadline: Deadline) -> None:
    """Continue with the guest in the twin."""
    twin.monitor.execute("cont")
    twin.arrive(deadline)
    guest.move_to_twin()
    # Zero pages were not sent, so a page that is absent in the twin is not lost.
    pages = guest.kept(SeenPages)
    pages.moved = True
    pages.begin(guest.instruments)
    if (tool := guest.kept(Held).tool) is not None:
        tool.attach(twin.shell)


def _record(guest: Guest, how: Literal["migrated", "cancelled", "restored"], start: float) -> None:
    now = guest.record.now()
    guest.record.add(GuestMoved(now, how, now - start))
    guest.read_console()
