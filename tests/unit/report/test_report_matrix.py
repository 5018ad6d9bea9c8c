# SPDX-License-Identifier: Apache-2.0
"""Scenario x kernel, on the terminal and as a document."""

import io
import json
import re
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.act.discover import VERBS
from harness.measure.measures import FAMILIES, MEASURES
from harness.measure.terms import Family, Measure
from harness.record.facts import Cause, Verdict
from harness.report.catalogue import (
    DOCUMENT,
    MEASURES_DOCUMENT,
    STORE,
    catalogue,
    document,
    images_of,
    main,
    merge,
)
from harness.report.matrix import build_matrix, matrix_table
from harness.report.measures_document import measures_document
from harness.report.summary import RunSummary, Summary
from harness.resources import SCENARIOS_DIR
from harness.scenario.fields import shown
from harness.scenario.model import Scenario
from harness.units import MIB


def run(scenario: str, image: str, verdict: Verdict, **more: Any) -> RunSummary:
    kernel = {"bookworm": "6.1.0-50-cloud-amd64", "bullseye": "5.10.0-32-cloud-amd64"}[image]
    return RunSummary(f"{scenario}@{image}", scenario, image, 1, kernel, verdict=verdict, **more)


CROWD = {"crowd": {"limit": "1.5GiB", "touch": "80%", "boot_first": True}}

NOTHING = ("none", "one node")
"""Defaults that have no value a file could write."""

RUNS = (
    run("alpha", "bookworm", Verdict.PASS),
    run("alpha", "bullseye", Verdict.PASS),
    run("alpha", "bookworm", Verdict.FAIL),
    run("beta", "bookworm", Verdict.SKIP),
)


def test_one_image_needs_no_table() -> None:
    assert build_matrix(Summary(RUNS[2:])) is None
    assert build_matrix(Summary(())) is None


def test_each_cell_has_the_worst_of_its_runs() -> None:
    console = Console(file=io.StringIO(), width=80)
    matrix = build_matrix(Summary(RUNS))
    assert matrix is not None
    table = matrix_table(matrix)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert lines == [
        ["bullseye", "bookworm"],
        ["scenario", "5.10.0-32", "6.1.0-50"],
        ["alpha", "PASS", "FAIL", "1/2"],
        ["beta", "-", "SKIP"],
    ]


def scenario(name: str, **more: Any) -> Scenario:
    plain = {
        "name": name,
        "title": "Freed memory goes back",
        "about": "Half of memory is freed.",
        "reference": "https://example.org/x",
        "tags": ["default"],
        "steps": [{"churn": {"size": "50%"}}, {"audit": {"expect": {"rounds": ">= 1"}}}],
    }
    return VERBS.scenario.model_validate(plain | more)


def test_the_last_result_counts_and_others_stay() -> None:
    first = merge({}, RUNS[:2], "2026-01-01")
    later = merge(first, [RUNS[2]], "2026-01-02")
    assert later["alpha"]["bullseye"]["date"] == "2026-01-01"
    assert later["alpha"]["bookworm"]["verdict"] == "FAIL"
    assert first["alpha"]["bookworm"]["verdict"] == "PASS", "what was given is left alone"
    stopped = run("alpha", "bookworm", Verdict.MISS, interrupted=True)
    assert merge(later, [stopped], "2026-01-03") == later, "somebody stopped it"


def test_images_stand_in_the_order_of_their_kernels() -> None:
    last = merge({}, RUNS, "2026-01-01")
    last["alpha"]["bookworm"]["kernel"] = None
    assert images_of(last) == ["bullseye", "bookworm"]


def test_the_document_has_question_method_threshold_and_results() -> None:
    failed = run(
        "alpha-off",
        "bookworm",
        Verdict.FAIL,
        cause=Cause.NOT_REPORTED,
        reason="3MiB\nstayed",
        answer={"freed_bytes": 3 * MIB, "before.settle_seconds": 2.25},
    )
    last = merge({}, [*RUNS, failed], "2026-01-02")
    text = document(
        [
            [
                scenario("reclaim-basic", red={"balloon.free_page_reporting": False}),
                scenario("alpha-off", balloon={"free_page_reporting": False}),
            ],
            [scenario("beta", steps=[{"settle": {"deadline": "90s"}}, CROWD])],
        ],
        last,
        ["bullseye", "bookworm"],
    )
    for line in (
        "| scenario | bullseye 5.10.0 | bookworm 6.1.0 |",
        "| alpha-off | - | **FAIL not-reported** |",
        "| beta | - | SKIP |",
        "Half of memory is freed.",
        "- Method: churn size 50%; audit *audit*",
        "- Expected: at *audit* `rounds >= 1`",
        "- Method: settle deadline 90s; crowd limit 1.5GiB, touch 80%, boot_first true",
        "- Expected: nothing; the run only measures",
        "- Reference: <https://example.org/x>",
        "| measured | bullseye 5.10.0 | bookworm 6.1.0 |",
        "| alpha-off `freed_bytes` | - | 3MiB |",
        "| alpha-off `before.settle_seconds` | - | 2.2 s |",
        "- alpha-off on bookworm (2026-01-02): **FAIL not-reported**: 3MiB stayed",
    ):
        assert line in text.splitlines(), line
    assert "`balloon.free_page_reporting: false`" in text
    assert "reporting off" in text


def test_the_projects_document_is_up_to_date() -> None:
    docs = SCENARIOS_DIR.parent / "docs"
    last = json.loads((docs / STORE).read_text(encoding="utf-8"))
    written = (docs / DOCUMENT).read_text(encoding="utf-8")
    assert written == document(catalogue(VERBS), last, images_of(last)), "run `make docs`"


def test_every_measure_has_a_row_with_unit_moment_and_what_it_means_out_of_bounds() -> None:
    rows = measures_document().splitlines()
    for start, end in (
        (
            "| `freed_bytes` | bytes | ",
            "| - | ERROR: the churn tool freed less than the scenario asks for "
            "| ERROR: the churn tool freed more than the scenario asks for |",
        ),
        ("| `reclaimed_fraction` | fraction | ", "| - | *shortfall* | *came back* |"),
        ("| `reported_bytes` | bytes | ", "| audit | *shortfall* | *came back* |"),
        (
            "| `merged_bytes` | bytes | ",
            "| audit, await | ERROR: the host's KSM merged less memory than the scenario sets up "
            "| *shortfall* |",
        ),
        ("| `settle_t90_seconds` | seconds | ", "| - | *came back soon* | *slow* |"),
        ("| `nodeN_ZONE_returned_fraction` | fraction | ", "| audit | *place* | *came back* |"),
        (
            r"| `cost_(process\|thread)_(base\|huge\|file)_(on\|idle)[_orderN]_fraction` | ",
            "| `overhead`: reporting costs too much of the guest's page fault rate |",
        ),
        (
            r"| `faults_(process\|thread)_(base\|huge\|file)_(on\|idle\|off)[_orderN]_per_second`",
            "| `overhead`: the guest takes more page faults per second than the scenario expects |",
        ),
    ):
        assert sum(row.startswith(start) and row.endswith(end) for row in rows) == 1, start
    for name, measure in MEASURES.items():
        assert any(row.startswith(f"| `{name}` |") and measure.meaning in row for row in rows)


def test_every_rule_that_a_row_names_is_explained_below_the_table() -> None:
    text = measures_document()
    table, rules = text.split("## Rules")
    named = set(re.findall(r"\| (\*[a-z ]+\*)(?= \|)", table))
    assert named == {row.split(" | ")[0].strip("| ") for row in rules.splitlines() if "| *" in row}


def test_every_row_stands_by_itself() -> None:
    every: list[Measure | Family] = [*MEASURES.values(), *FAMILIES]
    for each in every:
        words = set(re.findall(r"[a-z]+", each.meaning.lower()))
        assert not words & {"likewise", "same", "following", "above-mentioned", "there"}, each.name


def test_both_documents_are_written(tmp_path: Path) -> None:
    main([str(tmp_path)], VERBS)
    assert (tmp_path / MEASURES_DOCUMENT).read_text() == measures_document()
    assert (tmp_path / DOCUMENT).read_text() == document(catalogue(VERBS), {}, [])


def test_the_document_of_measures_is_up_to_date() -> None:
    written = SCENARIOS_DIR.parent / "docs" / MEASURES_DOCUMENT
    assert written.read_text(encoding="utf-8") == measures_document(), "run `make docs`"


def test_the_document_for_writers_has_every_tag_and_field_of_guest_and_host() -> None:
    text = (SCENARIOS_DIR.parent / "docs" / "writing-scenarios.md").read_text(encoding="utf-8")
    cells = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    rows = {name.strip("|` "): row for row in cells for name in row[0].split(",")}
    for tag in {tag for each in catalogue(VERBS) for scenario in each for tag in scenario.tags}:
        assert tag in rows
    for section in ("guest", "balloon", "host"):
        part = Scenario.model_fields[section].default
        for name, field in type(part).model_fields.items():
            value = shown(field.default, field.metadata)
            assert rows[f"{section}.{name}"][1].strip("`") in (value, *NOTHING), name


def test_the_document_of_the_code_has_every_room() -> None:
    root = SCENARIOS_DIR.parent
    text = (root / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall("^[|] `(harness/.*?)/`", text, re.M))
    assert named == {
        str(path.parent.relative_to(root)) for path in root.glob("harness/*/__init__.py")
    }
