# SPDX-License-Identifier: Apache-2.0
"""`migrate` and `snapshot`: the guest goes on in another QEMU."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_guest import FakeGuest
from fake_process import FakeProcess

from harness.act.seen_pages import SeenPages
from harness.act.verbs.churn import Held
from harness.act.verbs.migrate import CRAWL, FULL_SPEED, Migrate, Snapshot
from harness.errors import DeadlineError, PreconditionError, QmpError
from harness.guest.churn_client import ChurnSession
from harness.kernel.pages import Seen
from harness.record.events import GuestMoved
from harness.units import MIB


def migration(guest: FakeGuest, *states: str, **more: Any) -> None:
    """What the source says of it, each time it is asked."""
    guest.vm.qmp["query-migrate"] = [{"status": state, **more} for state in states]


def job(guest: FakeGuest, *states: str, **more: Any) -> None:
    guest.vm.qmp["query-jobs"] = [
        [{"id": "other"}, {"id": "fpr-snapshot", "status": state, **more}] for state in states
    ]


def held(guest: FakeGuest) -> FakeProcess:
    """A churn tool holds memory, over the connection that will break."""
    process = FakeProcess()
    guest.kept(Held).tool = ChurnSession(process, size=1 << 20, detached=True)
    guest.vm.says["exec cat >/run/churn.in"] = FakeProcess()
    return process


def test_the_guest_goes_on_at_the_other_end(guest: FakeGuest) -> None:
    migration(guest, "setup", "active", "completed")
    source = guest.vm
    Migrate().perform(guest)
    (twin,) = guest.twins
    assert guest.vm is twin
    assert twin.arrived
    (speed,) = [asked for name, asked in source.asked if name == "migrate-set-parameters"]
    assert speed == {"max-bandwidth": FULL_SPEED}
    (sent,) = [asked["uri"] for name, asked in source.asked if name == "migrate"]
    assert [name for name, _asked in twin.asked] == ["migrate-incoming", "cont"]
    assert twin.asked[0][1] == {"uri": sent}
    assert [event.how for event in guest.recorded(GuestMoved)] == ["migrated"]
    assert guest.reopened == 1


@pytest.mark.parametrize("verb", [Migrate, Snapshot])
def test_what_audits_saw_counts_no_more_and_the_churn_tool_is_found_again(
    guest: FakeGuest, verb: Callable[[], Migrate | Snapshot]
) -> None:
    """Migration sends no pages of zeros: what is absent at the other end is no loss."""
    migration(guest, "completed")
    job(guest, "concluded")
    guest.kept(SeenPages).seen = np.full(4, Seen.RESIDENT, np.uint8)
    process = held(guest)
    verb().perform(guest)
    seen = guest.kept(SeenPages).seen
    assert seen is not None
    assert set(seen) == {Seen.ON_HOST}
    assert guest.kept(SeenPages).moved
    assert process.closed
    assert guest.vm.commands[-1].endswith("exec cat >/run/churn.in")


def test_by_postcopy_the_guest_runs_at_the_other_end_before_its_memory_has_come(
    guest: FakeGuest,
) -> None:
    migration(guest, "setup", "active", "active", "postcopy-active", "completed")
    source = guest.vm
    Migrate.model_validate({"postcopy": True}).perform(guest)
    (twin,) = guest.twins
    assert guest.vm is twin
    capable = {"capabilities": [{"capability": "postcopy-ram", "state": True}]}
    assert [name for name, _asked in twin.asked] == [
        "migrate-set-capabilities", "migrate-incoming", "query-status", "cont", "cont",
    ]  # fmt: skip
    assert ("migrate-set-capabilities", capable) in source.asked
    assert "migrate-start-postcopy" in [name for name, _asked in source.asked]
    assert [event.how for event in guest.recorded(GuestMoved)] == ["migrated"]


def test_a_host_without_userfaultfd_skips_postcopy(guest: FakeGuest) -> None:
    refused = QmpError("Postcopy is not supported")
    guest.vm.qmp["migrate-set-capabilities"] = refused
    with pytest.raises(PreconditionError, match="Postcopy is not supported") as caught:
        Migrate.model_validate({"postcopy": True}).perform(guest)
    assert "unprivileged_userfaultfd" in caught.value.hint


def test_a_migration_to_be_cancelled_crawls_and_leaves_the_guest_where_it_is(
    guest: FakeGuest,
) -> None:
    migration(guest, "setup", "active", "cancelling", "cancelled")
    source = guest.vm
    Migrate.model_validate({"cancel": True}).perform(guest)
    (twin,) = guest.twins
    assert guest.vm is source
    assert twin.ended
    assert ("migrate-set-parameters", {"max-bandwidth": CRAWL}) in source.asked
    assert "migrate_cancel" in [name for name, _asked in source.asked]
    assert [event.how for event in guest.recorded(GuestMoved)] == ["cancelled"]
    assert guest.reopened == 0


@pytest.mark.parametrize(
    ("cancel", "states", "words"),
    [
        (False, ["active", "failed"], "ended as 'failed' instead of 'completed': no route"),
        (True, ["completed"], "ended as 'completed' instead of 'active'"),
    ],
)
def test_a_migration_that_ends_otherwise_is_qemus_error(
    guest: FakeGuest, cancel: bool, states: list[str], words: str
) -> None:
    migration(guest, *states, **{"error-desc": "no route"})
    with pytest.raises(QmpError, match=words):
        Migrate.model_validate({"cancel": cancel}).perform(guest)
    assert not guest.recorded(GuestMoved)


def test_a_migration_that_does_not_end_is_a_deadline_with_what_was_sent(guest: FakeGuest) -> None:
    migration(guest, "active", ram={"transferred": 33 * MIB})
    with pytest.raises(DeadlineError, match="it is active, 33 MiB were sent"):
        Migrate.model_validate({"deadline": "5s"}).perform(guest)
    assert not guest.recorded(GuestMoved)


def test_a_snapshot_is_saved_by_one_qemu_and_loaded_by_another(guest: FakeGuest) -> None:
    job(guest, "running", "concluded")
    source = guest.vm
    Snapshot().perform(guest)
    (twin,) = guest.twins
    saves = [name for name, _asked in source.asked if name.startswith(("stop", "snap", "blockdev"))]
    assert saves == [
        "stop",
        *["blockdev-create", "blockdev-add"] * 2,
        "snapshot-save",
        *["blockdev-del"] * 2,
    ]
    loads = [name for name, _asked in twin.asked if not name.startswith(("query", "job"))]
    assert loads == ["blockdev-add", "blockdev-add", "snapshot-load", "cont"]
    files = [asked["filename"] for _name, asked in source.asked + twin.asked if "filename" in asked]
    assert len(set(files)) == 1
    assert guest.vm is twin
    assert [event.how for event in guest.recorded(GuestMoved)] == ["restored"]


def test_a_job_that_fails_is_qemus_error(guest: FakeGuest) -> None:
    job(guest, "concluded", error="No space left on device")
    with pytest.raises(QmpError, match="job blockdev-create failed: No space left on device"):
        Snapshot().perform(guest)
    assert not guest.twins


def test_a_job_that_does_not_end_is_a_deadline(guest: FakeGuest) -> None:
    job(guest, "running")
    with pytest.raises(DeadlineError, match="the job blockdev-create is running"):
        Snapshot.model_validate({"deadline": "5s"}).perform(guest)
