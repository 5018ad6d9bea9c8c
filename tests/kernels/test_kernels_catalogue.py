# SPDX-License-Identifier: Apache-2.0
"""The catalogue of broken kernels fits its patches and the scenarios. Needs no guest."""

import re

import pytest
from kernel_defects import DEFECTS, Defect
from kernel_detection import clean
from kernel_tree import DEFECTS as PATCHES
from kernel_tree import TOUCHED, defect_names
from kernel_trial import ROOT, Trial

from harness.act.discover import VERBS
from harness.record.facts import Cause
from harness.scenario.load import load_scenarios

SCENARIOS = {
    scenario.name
    for path in (ROOT / "scenarios").glob("*.yaml")
    for scenario in load_scenarios(path, VERBS)
}


def test_every_patch_has_an_entry_and_every_entry_a_patch() -> None:
    assert sorted(defect.name for defect in DEFECTS) == defect_names()


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_an_entry_names_scenarios_and_causes_that_exist(defect: Defect) -> None:
    assert defect.questions or defect.unseen
    for question in defect.questions:
        assert question.scenario in SCENARIOS
        assert set(question.causes) <= set(Cause)
        assert question.causes, "a defect that is not found is no defect"


@pytest.mark.parametrize("name", defect_names())
def test_a_patch_changes_only_files_that_can_be_restored(name: str) -> None:
    changed = re.findall(r"^\+\+\+ b/(\S+)$", (PATCHES / f"{name}.patch").read_text(), re.MULTILINE)
    assert changed
    assert all(path.startswith(TOUCHED) for path in changed)


def test_an_outcome_takes_one_row_whatever_the_console_said() -> None:
    words = "the guest did not become ready\nIts console ended with:\n[ 1.0] a | b"
    one = Trial("clean", "reclaim-basic", "PASS", "MISS", words, False, 60.2, "", "", "", "")
    *_head, row = clean([one])
    assert row == "| reclaim-basic | **MISS**: the guest did not become ready | 60 |"
