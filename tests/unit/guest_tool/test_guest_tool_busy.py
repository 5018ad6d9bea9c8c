# SPDX-License-Identifier: Apache-2.0
"""`busy`: whole pages, verified in every round."""

from churn_memory import SECONDS, SIZE, await_filled
from local_guest import LocalShell

from harness.guest.tool_lines import ToolLine


def test_busy_verifies_all_it_takes_in_every_round(shell: LocalShell) -> None:
    with shell.start(f"fpr-guest busy --bytes {SIZE} --hold-ms 0 --idle-ms 0") as busy:
        assert busy.read_line(SECONDS).startswith(f"busy bytes={SIZE} ")
        busy.close_stdin()
        done = ToolLine(busy.read_line(SECONDS))
        assert busy.wait(SECONDS).status == 0
    assert done.word == "done"
    assert done.value("rounds") >= 1
    assert done.value("checked_bytes") == done.value("rounds") * SIZE
    assert done.value("mismatched_pages") == 0


def test_what_is_lost_while_busy_holds_it_is_found_before_it_is_freed(shell: LocalShell) -> None:
    """The first round has seed 1; it lasts until the input ends."""
    with shell.start(f"fpr-guest busy --bytes {SIZE} --hold-ms {SECONDS * 1000:.0f}") as busy:
        memory = await_filled(busy.pid, seed=1)
        memory.set_word(77, 511, 0)
        busy.close_stdin()
        mismatch, _first, done = (ToolLine(busy.read_line(SECONDS)) for _line in range(3))
        assert busy.wait(SECONDS).status == 3
    assert mismatch.text.startswith("mismatch round=1 page=77 offset=4088 expected=0x")
    assert (done.value("checked_bytes"), done.value("mismatched_pages")) == (SIZE, 1)
