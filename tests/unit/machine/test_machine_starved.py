# SPDX-License-Identifier: Apache-2.0
"""What QEMU had of the processors, on files as the kernel shows them."""

from pathlib import Path

import pytest

from harness.machine.starved import Share, share, thread_times


@pytest.mark.parametrize(
    ("threads", "expected"),
    [
        ({7: "900 300 4", 8: "20000000000 5000000000 99"}, Share(20, 5)),
        ({7: "900 1300 4", 8: "5000000000 54000000000 99"}, Share(5, 54)),
        ({}, Share(0, 0)),
        ({7: "what"}, Share(0, 0)),
        ({7: ""}, Share(0, 0)),
    ],
    ids=["as usual", "throttled", "ended", "no number", "nothing"],
)
def test_the_busiest_thread_counts(
    tmp_path: Path, threads: dict[int, str], expected: Share
) -> None:
    for thread, text in threads.items():
        directory = tmp_path / f"7/task/{thread}"
        directory.mkdir(parents=True)
        (directory / "schedstat").write_text(f"{text}\n")
    assert share(thread_times(7, tmp_path)) == expected


def test_what_was_before_does_not_count() -> None:
    before = {8: (90_000_000_000, 1_000_000_000)}
    now = {8: (91_000_000_000, 10_000_000_000), 9: (0, 2_000_000_000)}
    assert share(now, before) == Share(1, 9)
    assert share(now, before).words == "QEMU ran for 1.0 s and waited 9.0 s for a processor"
