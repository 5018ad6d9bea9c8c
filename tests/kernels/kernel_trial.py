# SPDX-License-Identifier: Apache-2.0
"""One scenario on one broken kernel: what was expected, and what the harness made of it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from kernel_defects import Question
from kernel_tree import defect_key, kernel_tree
from outcome_key import outcome_key
from running import Running

from harness.act.discover import VERBS
from harness.scenario.load import load_scenarios

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "build" / "kernels"
"""One JSON file for each trial: what `kernel_detection.py` writes its table from."""

CLEAN = "clean"
RUN_SECONDS = 600.0
EXIT_STATUS = {"PASS": 0, "FAIL": 1, "MISS": 69, "ERROR": 69, "SKIP": 77}


@dataclass(frozen=True)
class Trial:
    """The outcome of a scenario on a kernel."""

    defect: str
    """`clean` where there is none."""
    scenario: str
    expected: str
    seen: str
    reason: str
    right: bool
    """With one of the right causes, the right words and the right exit status."""
    seconds: float
    kernel: str
    accel: str
    qemu: str
    key: str
    """Of the sources: an outcome is good for as long as nothing changes."""


def attempt(defect: str, question: Question, directory: Path) -> Trial:
    """Run the question's scenario on the defect's kernel. Raises `ImageError`."""
    image = kernel_tree().image("" if defect == CLEAN else defect)
    words = ["run", question.scenario, "--kernel", str(image)]
    if question.qemu != "host":
        words += ["--qemu", question.qemu]
    run = Running(directory / "results", words)
    status, output = run.end(RUN_SECONDS)
    print(output)
    summary = run.summary()
    seen = " ".join(filter(None, [summary["verdict"], summary.get("cause")]))
    right = status == EXIT_STATUS[summary["verdict"]] and question.says in summary["reason"]
    return Trial(
        defect=defect,
        scenario=question.scenario,
        expected=expected(question),
        seen=seen,
        reason=summary["reason"],
        right=right and seen in verdicts(question),
        seconds=round(summary.get("seconds", 0.0), 1),
        kernel=summary.get("kernel", ""),
        accel=summary.get("accel", ""),
        qemu=summary.get("qemu", ""),
        key=trial_key(defect, question),
    )


def clean_questions() -> list[Question]:
    """Every default scenario, to be passed."""
    scenarios = (
        scenario
        for path in sorted((ROOT / "scenarios").glob("*.yaml"))
        for scenario in load_scenarios(path, VERBS)
    )
    return [Question(each.name, ()) for each in scenarios if "default" in each.tags]


def verdicts(question: Question) -> tuple[str, ...]:
    """Verdict and cause as `Trial.seen` has them; PASS and SKIP where there is no cause."""
    return tuple(f"FAIL {cause}" for cause in question.causes) or ("PASS", "SKIP")


def expected(question: Question) -> str:
    """The same for a person."""
    return " or ".join(verdicts(question)).replace(" or FAIL ", " or ")


def trial_key(defect: str, question: Question) -> str:
    """Changes with whatever an outcome depends on in this tree."""
    kernel = defect_key("" if defect == CLEAN else defect)
    return outcome_key([_scenario_file(question.scenario)], salt=f"{kernel} {question}")


def _scenario_file(name: str) -> Path:
    """A variant's name begins with its file's."""
    files = (ROOT / "scenarios").glob("*.yaml")
    return max((p for p in files if name.startswith(p.stem)), key=lambda path: len(path.stem))


def load_trial(defect: str, scenario: str) -> Trial | None:
    """What is kept of a trial, if anything."""
    path = _kept(defect, scenario)
    return Trial(**json.loads(path.read_text())) if path.exists() else None


def keep_trial(trial: Trial) -> None:
    """Keep it for the table; whole or not at all."""
    path = _kept(trial.defect, trial.scenario)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".new").write_text(json.dumps(asdict(trial), indent=2) + "\n")
    path.with_suffix(".new").replace(path)


def _kept(defect: str, scenario: str) -> Path:
    return KEPT / f"{defect}-on-{scenario}.json"
