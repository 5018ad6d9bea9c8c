# SPDX-License-Identifier: Apache-2.0
"""Every broken guest kernel is found by the scenario whose question it is, with its cause named;
the clean one of the same configuration passes.

`make test-kernels` runs them all, keeps each outcome, and after an interruption goes on where it
stopped. The kernels come from `kernel_tree.py`.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from kernel_defects import DEFECTS, Question
from kernel_trial import CLEAN, attempt, clean_questions, keep_trial, load_trial, trial_key

pytestmark = pytest.mark.vm


def _trials() -> Iterator[tuple[str, Question]]:
    for defect in DEFECTS:
        for question in defect.questions:
            yield defect.name, question
    for question in clean_questions():
        yield CLEAN, question


@pytest.mark.parametrize(
    ("defect", "question"),
    [pytest.param(*trial, id=f"{trial[0]}-on-{trial[1].scenario}") for trial in _trials()],
)
def test_kernel_is_judged_rightly(defect: str, question: Question, tmp_path: Path) -> None:
    kept = load_trial(defect, question.scenario)
    if kept is not None and kept.right and kept.key == trial_key(defect, question):
        return
    seen = attempt(defect, question, tmp_path)
    keep_trial(seen)
    assert seen.right, f"{seen.seen}, not {seen.expected}: {seen.reason}"
