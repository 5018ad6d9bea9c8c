# SPDX-License-Identifier: Apache-2.0
"""The pytest nodes of scenarios: a collected file, and in it one test for each run."""

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from harness.act.discover import VERBS
from harness.errors import ScenarioFileError, UsageError
from harness.image.definition import load_definitions
from harness.image.qemu_definition import load_qemus
from harness.record.events import GuestReady, Judged, RunStarted
from harness.record.facts import Verdict
from harness.record.run_plan import Quarantined
from harness.run.plan import PlannedRun, choose_images, plan_runs
from harness.run.qemus import choose_qemus
from harness.run.shards import Shard, runs_of_shard
from harness.safe_text import safe_line, safe_text
from harness.scenario.load import load_scenarios
from harness.scenario.permission import refuse_unallowed


class ScenarioFile(pytest.File):
    """A scenario file: one test for each variant, image, QEMU and repetition."""

    def collect(self) -> Iterator["ScenarioItem"]:
        options = self.config.option
        refused: UsageError | None = None
        try:
            try:
                scenarios = load_scenarios(self.path, VERBS, options.overrides)
            except UsageError as error:
                # This matters only if the scenario is selected.
                scenarios, refused = load_scenarios(self.path, VERBS), error
            images = choose_images(load_definitions(), options.image)
            qemus = choose_qemus(load_qemus(), options.qemu)
        except (ScenarioFileError, UsageError) as error:
            raise self.CollectError(safe_text(str(error))) from error
        for run in plan_runs(scenarios, images, options.repeat, qemus):
            why = refused or _unallowed(run, options)
            yield ScenarioItem.from_parent(self, name=run.test_name, run=run, refused=why)


def _unallowed(run: PlannedRun, options: Any) -> UsageError | None:
    """Return why the run needs a permission it was not given; raised only if it is selected."""
    try:
        refuse_unallowed([run.scenario], options.allow_qmp, qemu_args=options.allow_qemu_args)
    except UsageError as error:
        return error
    return None


class ScenarioItem(pytest.Item):
    """One run as a test: ERROR and MISS are errors in its setup, FAIL is a failed test."""

    def __init__(self, *, run: PlannedRun, refused: UsageError | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run = run
        self.refused = refused
        """Why the scenario rejects the fields of `--set`, or lacks a permission."""
        self.future: Future[Judged]
        self.guest: GuestReady | None = None
        """The guest that ran, if one answered."""
        self.started: RunStarted | None = None
        """The last attempt at it."""
        for tag in run.scenario.tags:
            self.config.addinivalue_line("markers", f"{tag}: scenario tag")
            self.add_marker(tag)

    def setup(self) -> None:
        if self.refused is not None:
            pytest.fail(safe_text(str(self.refused)), pytrace=False)
        judged = self.future.result()
        self._describe(judged)
        if judged.verdict is Verdict.SKIP:
            pytest.skip(safe_line(judged.reason))
        if judged.verdict in (Verdict.ERROR, Verdict.MISS):
            self._fail(judged)

    def runtest(self) -> None:
        judged = self.future.result()
        if judged.verdict is Verdict.FAIL:
            self._fail(judged)

    @property
    def _quarantine(self) -> Quarantined | None:
        plan = self.started.plan if self.started is not None else None
        return plan.quarantine if plan is not None else None

    def _fail(self, judged: Judged) -> None:
        """Fail the test; one in quarantine is known to fail."""
        if self._quarantine is not None:
            pytest.xfail(safe_text(f"{self._quarantine}: {self._message(judged)}"))
        pytest.fail(self._message(judged), pytrace=False)

    def _describe(self, judged: Judged) -> None:
        """Set the properties that the test has in `--junitxml`."""
        known = {"image": self.run.image.name, "verdict": str(judged.verdict)}
        if judged.cause is not None:
            known["cause"] = str(judged.cause)
        if self.started is not None:
            known["began"] = self.started.wall
        if (quarantine := self._quarantine) is not None:
            known["quarantine"] = str(quarantine)
        if self.guest is not None:
            known |= {
                "kernel": self.guest.kernel,
                "accel": self.guest.accel,
                "qemu": self.guest.qemu,
            }
        self.user_properties += known.items()

    def _message(self, judged: Judged) -> str:
        cause = f" {judged.cause}" if judged.cause else ""
        return safe_text(f"{judged.verdict}{cause}: {judged.reason}")

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, self.name


def keep_shard(items: list[pytest.Item], config: pytest.Config) -> None:
    """Deselect the scenarios of other shards. Raises `UsageError`."""
    scenarios = [item for item in items if isinstance(item, ScenarioItem)]
    if not scenarios:
        return
    shard = Shard.parse(config.option.shard)
    runs = [item.run for item in scenarios]
    kept = {id(run) for run in runs_of_shard(runs, shard)}
    others = [item for item in scenarios if id(item.run) not in kept]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]
