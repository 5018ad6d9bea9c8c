# SPDX-License-Identifier: Apache-2.0
"""Move the guest to another QEMU: by migration, by one that is cancelled, or by a snapshot.

What was started in the guest over the old connection must have been started detached.
"""

from typing import Any, Literal

from harness.act.session import GuestSession
from harness.deadline import Deadline
from harness.errors import QmpError
from harness.machine.vm import VirtualMachine
from harness.record.events import GuestMoved
from harness.scenario.steps import MigrateStep, SnapshotStep
from harness.units import GIB, MIB

LOOK_SECONDS = 0.05
FULL_SPEED = 64 * GIB
CRAWL = MIB
"""Bytes a second of a migration that is to be cancelled: it must not end before."""

TAG = "fpr"
_JOB = "fpr-snapshot"
_FILE, _DISK = "snapshot-file", "snapshot-disk"


def migrate(session: GuestSession, step: MigrateStep) -> None:
    """Precopy to a twin over a socket. Raises `QmpError` if it fails, `DeadlineError`."""
    session.phase("migrate", "to be cancelled" if step.cancel else "precopy")
    start = session.record.now()
    deadline = Deadline(step.deadline, "the migration to end")
    source, twin = session.vm, session.vm.twin("incoming")
    address = f"unix:{twin.directory}/migration.sock"
    twin.monitor.execute("migrate-incoming", {"uri": address})
    speed = {"max-bandwidth": CRAWL if step.cancel else FULL_SPEED}
    source.monitor.execute("migrate-set-parameters", speed)
    source.monitor.execute("migrate", {"uri": address})
    if step.cancel:
        _await_migration(session, "active", deadline)
        source.monitor.execute("migrate_cancel")
        _await_migration(session, "cancelled", deadline)
        twin.end()
    else:
        _await_migration(session, "completed", deadline)
        _go_on(session, twin, deadline)
    _record(session, "cancelled" if step.cancel else "migrated", start)


def snapshot(session: GuestSession, step: SnapshotStep) -> None:
    """Save, and load in a twin. Raises `QmpError`, `DeadlineError`."""
    session.phase("snapshot", "save, and load in another QEMU")
    start = session.record.now()
    deadline = Deadline(step.deadline, "the snapshot to be saved and loaded")
    source = session.vm
    path = f"{source.directory}/snapshot.qcow2"
    source.monitor.execute("stop")
    _run_job(source, deadline, "blockdev-create", options=_file(path) | {"size": 0})
    source.monitor.execute("blockdev-add", _file(path) | {"node-name": _FILE})
    _run_job(
        source, deadline, "blockdev-create", options={"driver": "qcow2", "file": _FILE, "size": MIB}
    )
    _attach_disk(source)
    disks = {"tag": TAG, "vmstate": _DISK, "devices": [_DISK]}
    _run_job(source, deadline, "snapshot-save", **disks)
    for node in (_DISK, _FILE):
        source.monitor.execute("blockdev-del", {"node-name": node})
    twin = source.twin("stopped")
    twin.monitor.execute("blockdev-add", _file(path) | {"node-name": _FILE})
    _attach_disk(twin)
    _run_job(twin, deadline, "snapshot-load", **disks)
    _go_on(session, twin, deadline)
    _record(session, "restored", start)


def _file(path: str) -> dict[str, Any]:
    return {"driver": "file", "filename": path}


def _attach_disk(vm: VirtualMachine) -> None:
    vm.monitor.execute("blockdev-add", {"driver": "qcow2", "file": _FILE, "node-name": _DISK})


def _run_job(vm: VirtualMachine, deadline: Deadline, command: str, **arguments: Any) -> None:
    """Start a job and see it through. Raises `QmpError` with what the job says of itself."""
    vm.monitor.execute(command, {"job-id": _JOB, **arguments})
    while True:
        (job,) = [job for job in vm.monitor.execute("query-jobs") if job["id"] == _JOB]
        if job["status"] == "concluded":
            break
        deadline.check(f"the job {command} is {job['status']}")
        vm.sleep_alive(LOOK_SECONDS)
    vm.monitor.execute("job-dismiss", {"id": _JOB})
    if error := job.get("error"):
        raise QmpError(f"QEMU's job {command} failed: {error}", hint="see qmp.log and qemu.log")


def _await_migration(session: GuestSession, wanted: str, deadline: Deadline) -> None:
    while True:
        answer = session.vm.monitor.execute("query-migrate")
        status = answer.get("status", "none")
        if status == wanted:
            return
        if status in ("failed", "completed", "cancelled"):
            why = answer.get("error-desc", "no reason given")
            raise QmpError(
                f"the migration is {status} where {wanted} was awaited: {why}",
                hint="see qmp.log and qemu.log, here and in destination/",
            )
        moved = answer.get("ram", {}).get("transferred", 0) // MIB
        deadline.check(f"it is {status}, {moved} MiB were sent")
        session.vm.sleep_alive(LOOK_SECONDS)


def _go_on(session: GuestSession, twin: VirtualMachine, deadline: Deadline) -> None:
    """The guest runs in the twin from now on."""
    twin.monitor.execute("cont")
    twin.arrive(deadline)
    session.observe(twin)
    # Pages of zeros were not sent: what is absent there now is no loss.
    session.seen = None
    session.moved = True
    if session.churn is not None:
        session.churn.attach(twin.shell)


def _record(
    session: GuestSession, how: Literal["migrated", "cancelled", "restored"], start: float
) -> None:
    now = session.record.now()
    session.record.add(GuestMoved(now, how, now - start))
    session.read_console()
