# SPDX-License-Identifier: Apache-2.0
"""What the churn tool says is believed only within what it was asked for."""

import pytest
from scripted_guest import LineGuest

from harness.errors import GuestError
from harness.guest.churn_client import ChurnSession
from harness.guest.held_pages import TOLD_MISMATCHES

SIZE = 8 << 20
GOOD = "damaged_entries=0 text_changed=0"
FILLED = f"filled bytes={SIZE} pid=12 seconds=0.5\n"


def start(said: str) -> ChurnSession:
    guest = LineGuest(said.encode())
    return ChurnSession.start(guest, size=SIZE, seed=1, hugepages="never", timeout=1.0)


def test_an_honest_tool_is_believed() -> None:
    churn = start(
        f"{FILLED}verified bytes={SIZE} mismatched_pages=0 {GOOD}\n"
        "freed bytes=4096 blocks=1 "
        f"held_bytes={SIZE - 4096}\n"
    )
    assert churn.verify(1.0).checked_bytes == SIZE
    assert churn.free_all().held_bytes == churn.held == SIZE - 4096


@pytest.mark.parametrize(
    "said",
    [
        "filled bytes=99999999999999999999 pid=12 seconds=0.5\n",
        f"{FILLED}verified bytes={SIZE + 1} mismatched_pages=0 damaged_entries=0 text_changed=0\n",
        f"{FILLED}freed bytes={SIZE + 1} blocks=0 held_bytes=0\n",
        f"{FILLED}freed bytes=0 blocks=0 held_bytes={SIZE + 1}\n",
    ],
    ids=["filled", "verified", "freed", "held"],
)
def test_a_size_beyond_the_one_asked_for_is_no_answer(said: str) -> None:
    """Deadlines follow from what is held: it was once for the guest to set its own."""

    def use() -> None:
        churn = start(said)
        churn.verify(1.0) if "verified" in said else churn.free_all()

    with pytest.raises(GuestError, match=f"asked to hold {SIZE} bytes"):
        use()


def test_only_so_many_mismatches_are_kept() -> None:
    flood = "mismatch page=1 pfn=0x2 offset=0 expected=1 found=2\n" * 5000
    churn = start(f"{FILLED}{flood}verified bytes={SIZE} mismatched_pages=1 {GOOD}\n")
    assert len(churn.verify(60.0).details) == TOLD_MISMATCHES
