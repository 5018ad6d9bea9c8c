# SPDX-License-Identifier: Apache-2.0
"""What an invocation hands to the history."""

from pathlib import Path

import pytest
from recorded_runs import ALL

from harness.errors import RecordError
from harness.record.run_history import read_history
from harness.report.past_runs import history_for, remember
from harness.report.summary import build_summary


def test_runs_that_were_measured_go_to_the_file_beside_their_directory(tmp_path: Path) -> None:
    results = tmp_path / "2026-01-02T03-04-05Z"
    history = history_for(results, explicit=None, asked=None)
    assert history is not None
    remember(build_summary(ALL), history)
    runs = {run.scenario: run for run in read_history(tmp_path / "history.jsonl")}
    assert list(runs) == ["basic", "partial"]
    assert runs["basic"].measures["settle_seconds"] == 9.5
    assert runs["basic"].kernel == "6.1.0-50-cloud-amd64"
    assert runs["basic"].began == "2026-01-02T03:04:05+00:00"
    assert runs["partial"].cause == "acked-not-discarded"


def test_a_directory_given_by_name_has_a_history_only_where_one_is_asked_for(
    tmp_path: Path,
) -> None:
    assert history_for(tmp_path / "r", explicit=tmp_path / "r", asked=None) is None
    asked = tmp_path / "deep" / "h"
    assert history_for(tmp_path / "r", explicit=tmp_path / "r", asked=asked) == asked
    remember(build_summary(ALL), asked)
    assert len(list(read_history(asked))) == 2


@pytest.mark.parametrize(
    ("old", "new"), [('"settle_seconds": 9.5', '"settle_seconds": NaN'), ("9.5", "1e999")]
)
def test_what_is_no_number_is_told(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "h"
    remember(build_summary(ALL), path)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(RecordError, match=r"measures\.settle_seconds: Input should be a finite"):
        list(read_history(path))


def test_a_damaged_line_that_is_nested_without_end_is_passed_by(tmp_path: Path) -> None:
    path = tmp_path / "h"
    remember(build_summary(ALL), path)
    with path.open("a") as file:
        file.write("[" * 200_000 + "\n")
    assert len(list(read_history(path))) == 2
