# SPDX-License-Identifier: Apache-2.0
"""What people are told to read, copy and run is there and works."""

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from harness.act.discover import VERBS
from harness.cli.main import main
from harness.cli.make_reference import commands_document, fields_document
from harness.cli.parser import build_parser
from harness.resources import SCENARIOS_DIR
from harness.scenario.load import load_all

ROOT = SCENARIOS_DIR.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob(".github/*.md")])
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))

# As GitHub makes anchors: lower case, spaces to hyphens, punctuation gone.
_PUNCTUATION = re.compile(r"[^\w\- ]")


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.M)
    return {_PUNCTUATION.sub("", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _hash, anchor = target.partition("#")
        file = document.parent / name if name else document
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


@pytest.mark.parametrize(
    ("name", "document"), [("commands.md", commands_document), ("fields.md", fields_document)]
)
def test_the_reference_is_what_parser_and_models_say(
    name: str, document: Callable[[], str]
) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == document(), "run `make docs`"


def test_the_site_has_every_document_in_its_menu() -> None:
    """What is in no table of contents, Sphinx would warn of, but in `make docs` alone."""
    menu = re.findall(
        r"^```{toctree}$(.*?)^```$", (ROOT / "docs/index.md").read_text(), re.M | re.S
    )
    named = [word for part in menu for word in part.split() if not word.startswith(":")]
    assert {f"{name}.md" for name in named} >= {
        path.name for path in ROOT.glob("docs/*.md") if path.name != "index.md"
    }


def test_the_scenario_of_the_tutorial_loads(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    whole, dropped = re.findall(r"^```yaml\n(.*?)^```$", text, re.M | re.S)
    (tmp_path / "after-the-build.yaml").write_text(whole)
    before, _settle, after = whole.rpartition("  - settle: {deadline: 60s}\n")
    second = (before + dropped + _settle + after).replace("after-the-build", "caches-dropped")
    (tmp_path / "caches-dropped.yaml").write_text(second)
    names = [scenario.name for scenario in load_all(sorted(tmp_path.glob("*.yaml")), VERBS)]
    assert names == ["after-the-build", "caches-dropped"]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


def named_targets(text: str) -> set[str]:
    return set(re.findall(r"(?:`|^    )make\s+([a-z-]+)(?![\w=])", text, re.M))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_that_are_named_exist(document: Path) -> None:
    named = named_targets(document.read_text(encoding="utf-8"))
    assert named <= targets()
    assert named or document.name not in ("README.md", "CONTRIBUTING.md")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_what_the_makefile_has(path: Path) -> None:
    """Targets, and the variables that are given to them."""
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    commands = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    words = [found for text in commands for found in re.findall(r"^make (.*)$", text, re.M)]
    words += [
        entry
        for job in jobs
        for entry in job.get("strategy", {}).get("matrix", {}).get("target", ())
    ]
    makefile = (ROOT / "Makefile").read_text()
    variables = set(re.findall(r"^([A-Z_]+) \?=(?: |$)", makefile, re.M))
    for line in words:
        target, *rest = shlex.split(line.partition(" && ")[0])
        assert target in targets(), line
        assert {word.partition("=")[0] for word in rest} <= variables | {"RESULTS"}, line


def test_the_examples_load_and_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    examples = sorted((ROOT / "examples").glob("*.yaml"))
    assert examples
    for scenario in load_all(examples, VERBS):
        assert scenario.red, "an example shows its negative control"
        assert scenario.expect
    schema = json.loads((ROOT / "schemas" / "scenario.schema.json").read_text())
    for example in examples:
        Draft202012Validator(schema).validate(yaml.safe_load(example.read_text()))
    assert main(["list", "--scenarios", str(ROOT / "examples")]) == 0
    assert "after-my-workload" in capsys.readouterr().out


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_may_read_alone_and_run_pinned_actions(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        assert "timeout-minutes" in job
        for step in job["steps"]:
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", step.get("uses", f"a@{'0' * 40}"))
            assert "${{" not in step.get("run", ""), "an expression pasted into a shell"


def test_a_night_starts_nothing_after_a_failed_doctor_or_when_it_is_cancelled() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/nightly.yml").read_text())["jobs"]
    for name, job in jobs.items():
        assert "always()" not in str(job), name
        if "self-hosted" not in job["runs-on"]:
            continue
        ids = [step.get("id") for step in job["steps"]]
        for step in job["steps"][ids.index("doctor") + 1 :]:
            # Without an `if`, a step starts only after success.
            asked = "!cancelled() && steps.doctor.outcome == 'success'"
            assert asked in step.get("if", asked), step
        doctor = job["steps"][ids.index("doctor")]["run"]
        assert "doctor --accel kvm" in doctor, "no silent TCG"
    shards = jobs["catalogue"]["strategy"]["matrix"]["shard"]
    workflow = yaml.safe_load((ROOT / ".github/workflows/nightly.yml").read_text())
    assert shards == list(range(1, workflow["env"]["SHARDS"] + 1))


def test_other_engines_call_what_there_is() -> None:
    gitlab = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text())
    scripts = [line for job in gitlab.values() if "script" in job for line in job["script"]]
    named = {found for line in scripts for found in re.findall(r"^make ([a-z-]+)", line)}
    assert {"lint", "test-quick", "setup", "venv"} == named <= targets()
    known = build_parser()
    for line in scripts:
        if line.startswith(".venv/bin/fpr-harness"):
            known.parse_args(shlex.split(line.partition(" || ")[0])[1:])
    plan = yaml.safe_load((ROOT / "plans" / "catalogue.fmf").read_text())
    assert plan["execute"] == {"how": "tmt"}
    test = yaml.safe_load((ROOT / "tests" / "tmt" / "catalogue.fmf").read_text())
    program = ROOT / "tests" / "tmt" / test["test"]
    assert program.stat().st_mode & 0o111
    assert "--format tmt" in program.read_text()


def test_forms_for_reports_have_what_github_asks_of_them() -> None:
    forms = set(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml")) - {
        ROOT / ".github/ISSUE_TEMPLATE/config.yml"
    }
    assert len(forms) == 2
    for form in forms:
        said = yaml.safe_load(form.read_text())
        assert {"name", "description", "body"} <= set(said)
        names = [part["id"] for part in said["body"] if part["type"] != "markdown"]
        assert len(names) == len(set(names))
        for part in said["body"]:
            assert part["attributes"].get("label") or part["type"] == "markdown"


def test_hooks_before_a_commit_run_what_the_project_has() -> None:
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repo["repo"] == "local"
    for hook in repo["hooks"]:
        program = hook["entry"].split()[0]
        assert program.startswith(".venv/bin/")
        # Of the environment that runs this, which need not be called .venv.
        assert Path(sys.executable).with_name(program.removeprefix(".venv/bin/")).exists()
