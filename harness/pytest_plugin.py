# SPDX-License-Identifier: Apache-2.0
"""pytest plugin that collects `scenarios/*.yaml` as tests, so that -k, -m, -n and --junitxml work.

Without pytest-xdist, several selected scenarios run at once (`--jobs`) and each test waits for its
verdict. With pytest-xdist, every worker runs its tests one by one into the same results directory,
and the controller follows results.jsonl. Tags are marks: `-m default`.
"""

import os
import sys
import threading
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from harness.cli.options import (
    check_run_options,
    declare_boot_options,
    declare_directory_option,
    declare_night_options,
    declare_results_option,
    declare_run_options,
    run_options,
    scenarios_directory,
)
from harness.errors import (
    UNAVAILABLE,
    USAGE,
    HarnessError,
    RecordError,
    ScenarioFileError,
    UsageError,
)
from harness.image.definition import load_definitions
from harness.image.qemu_definition import load_qemus
from harness.pytest_github import GithubStep
from harness.pytest_items import ScenarioFile, ScenarioItem, keep_shard
from harness.record.events import Event, GuestReady, Judged, RunStarted
from harness.record.reader import RESULTS_NAME, tail_events
from harness.record.results_directory import make_results_directory
from harness.report.past_runs import history_for
from harness.report.sink import LastingSink
from harness.report.summary import Summary
from harness.report.terminal import ProgressView, print_table
from harness.resources import SCENARIOS_DIR
from harness.run.host_paths import check_host_paths
from harness.run.invocation import conclude, prepare_images, run_pool
from harness.run.plan import PlannedRun, choose_images, distinct, longest_first
from harness.run.pool import RunPool, workers_at_once
from harness.run.qemus import choose_qemus, prepare_qemus, refuse_if_none
from harness.run.stop_request import StopRequest, stopping_on_signals
from harness.safe_text import safe_text

WORKER_RESULTS = "fpr_harness_results"
SESSION = pytest.StashKey["ScenarioSession"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fpr-harness", "free page reporting scenarios")
    declare_directory_option(group.addoption)
    declare_boot_options(group.addoption)
    declare_results_option(group.addoption)
    declare_run_options(group.addoption)
    declare_night_options(group.addoption)


def pytest_configure(config: pytest.Config) -> None:
    with _refusals():
        check_run_options(config.option)
        run_options(config.option)
        directory = scenarios_directory(config.option)
        if config.option.image:
            choose_images(load_definitions(), config.option.image)
        choose_qemus(load_qemus(), config.option.qemu)
    if config.option.scenarios_directory and config.args_source != config.ArgsSource.ARGS:
        config.args = [str(directory)]
    config.stash[SESSION] = ScenarioSession(config)
    config.pluginmanager.register(config.stash[SESSION], "fpr-harness-session")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> "ScenarioFile | None":
    if file_path.suffix == ".yaml" and _holds_a_scenario(file_path, parent.config):
        file: ScenarioFile = ScenarioFile.from_parent(parent, path=file_path)
        return file
    return None


@contextmanager
def _refusals() -> Iterator[None]:
    """End the session with one message and exit status 2 or 69 instead of a traceback."""
    try:
        yield
    except HarnessError as error:
        bad_usage = isinstance(error, UsageError | ScenarioFileError)
        pytest.exit(
            f"fpr-harness: {safe_text(str(error))}", returncode=USAGE if bad_usage else UNAVAILABLE
        )


def _holds_a_scenario(file: Path, config: pytest.Config) -> bool:
    """Whether a YAML file is named on the command line or lies in a directory of scenarios."""
    named = (Path(str(argument).split("::")[0]).resolve() for argument in config.args)
    directory: Path | None = config.option.scenarios_directory
    return (
        file in named
        or file.parent.name == SCENARIOS_DIR.name
        or (directory is not None and file.parent == directory.resolve())
    )


class ScenarioSession:
    """What the scenario tests of a session share: results, images, pool and progress."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._results: Path | None = None
        self._summary: Summary | None = None
        self._trouble = ""
        self._pool: RunPool | None = None
        self._futures: dict[str, Future[Judged]] = {}
        self._guests: dict[str, GuestReady] = {}
        self._started: dict[str, RunStarted] = {}
        self._resources = ExitStack()
        self._github = GithubStep()
        self._view: ProgressView | None = None
        self._follows = False
        self._submitted = False
        self._following = threading.Event()

    @property
    def _is_worker(self) -> bool:
        return hasattr(self._config, "workerinput")

    # --- refusing wrong options --------------------------------------------------------------

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Refuse `--set` for the scenarios that -k and -m selected; leave out other shards.

        xdist would replace a worker that exits, so in a worker each such test is an error instead.
        """
        if getattr(self._config.option, "reruns", None) and not self._is_worker:
            _refuse_reruns(items)
        for item in items if not self._is_worker else []:
            if isinstance(item, ScenarioItem) and item.refused is not None:
                with _refusals():
                    raise item.refused
        if self._config.option.shard:
            with _refusals():
                keep_shard(items, self._config)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Under xdist, make the results directory before the first worker starts."""
        if self._distributes() and any(map(self._may_hold_scenarios, self._config.args)):
            with _refusals():
                check_host_paths(self._config.option.results, [])
                choices = choose_qemus(load_qemus(), self._config.option.qemu)
                refuse_if_none(prepare_qemus(choices, self._note))
                self._results = make_results_directory(self._config.option.results)

    # --- one process: the pool starts once the tests to run are known ---------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Iterator[None]:
        scenarios = [item for item in session.items if isinstance(item, ScenarioItem)]
        items = [item for item in scenarios if item.refused is None]
        for item, run in zip(items, distinct([item.run for item in items]), strict=True):
            item.run = run
        if items and not self._config.option.collectonly and not self._distributes():
            with _refusals():
                self._open_pool([item.run for item in items])
        return (yield)

    def _distributes(self) -> bool:
        """Whether this process is an xdist controller, which runs no tests itself."""
        return bool(getattr(self._config.option, "tx", None)) and not self._is_worker

    def _may_hold_scenarios(self, argument: str) -> bool:
        """Whether a path on pytest's command line is a scenario file or a directory with one."""
        path = Path(argument.split("::")[0]).resolve()
        if not path.is_dir():
            return path.suffix == ".yaml"
        return any(_holds_a_scenario(file, self._config) for file in path.rglob("*.yaml"))

    def _open_pool(self, runs: list[PlannedRun]) -> None:
        options = self._config.option
        chosen = run_options(options)
        request = StopRequest()
        self._resources.enter_context(stopping_on_signals(request, then=self._interrupt))
        choices = {run.qemu.name: run.qemu for run in runs}
        qemus = prepare_qemus(choices.values(), self._note)
        if not self._is_worker:
            refuse_if_none(qemus)
        if self._is_worker:
            results = Path(self._config.workerinput[WORKER_RESULTS])  # type: ignore[attr-defined]
            observers, note = [self._hear], lambda _text: None
        else:
            check_host_paths(options.results, [run.scenario for run in runs])
            results = self._results = make_results_directory(options.results)
            expected = {run.run_id: run.scenario.expected_seconds for run in longest_first(runs)}
            view = self._view = self._make_view(expected)
            observers, note = [self._hear, view.feed], view.note
        images = {run.image.name: run.image for run in runs}
        boots = prepare_images(images.values(), chosen, note)
        jobs = 1 if self._is_worker else options.jobs
        self._pool = self._resources.enter_context(
            run_pool(results, chosen, boots, qemus, jobs, observers, request, note)
        )
        if not self._is_worker:
            for run in longest_first(runs):
                self._futures[run.run_id] = self._pool.submit(run)
        # Not before: a run that was not submitted would have no verdict.
        self._submitted = True
        if request.cancelled.is_set():
            raise KeyboardInterrupt

    def _interrupt(self) -> None:
        if self._submitted:
            raise KeyboardInterrupt

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Wait for the verdict before the test begins, while pytest does not capture output."""
        if isinstance(item, ScenarioItem) and item.refused is None:
            assert self._pool is not None
            if not self._is_worker:
                self._config.pluginmanager.getplugin("terminalreporter").ensure_newline()
            item.future = self._futures.get(item.run.run_id) or self._pool.submit(item.run)
            # pytest writes nothing meanwhile: its own reporter stays in charge.
            with self._view or nullcontext():
                wait([item.future])
            item.guest = self._guests.get(item.run.run_id)
            item.started = self._started.get(item.run.run_id)
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Report the run's duration, and drop the captured log.

        The run is over before its test begins, and pytest captures what other runs log meanwhile;
        each run has its own harness.log.
        """
        report = yield
        if isinstance(item, ScenarioItem) and item.refused is None:
            if report.when == "call" or (report.when == "setup" and not report.passed):
                report.duration = item.future.result().t
            report.sections = [s for s in report.sections if not s[0].startswith("Captured log")]
        return report

    def _hear(self, run_id: str, event: Event) -> None:
        if isinstance(event, GuestReady):
            self._guests[run_id] = event
        elif isinstance(event, RunStarted):
            self._started[run_id] = event

    # --- xdist: the controller makes the results directory and follows results.jsonl ------------

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        if self._results is None:
            return
        if not self._follows:
            self._follows = True
            view = self._make_view({})
            follower = threading.Thread(
                target=self._follow, args=(self._results / RESULTS_NAME, view), daemon=True
            )
            follower.start()
            self._resources.callback(follower.join, 10.0)
            self._resources.callback(self._following.set)
        node.workerinput[WORKER_RESULTS] = str(self._results)

    def _follow(self, path: Path, view: ProgressView) -> None:
        for run_id, event in tail_events(path, self._following):
            view.feed(run_id, event)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_auto_num_workers(self, config: pytest.Config) -> int:
        jobs: int | None = config.option.jobs
        return jobs or workers_at_once()

    # --- the end ---------------------------------------------------------------------------------

    def _note(self, text: str) -> None:
        if not self._is_worker:
            self._config.pluginmanager.getplugin("terminalreporter").write_line(text)

    def _make_view(self, expected: Mapping[str, float]) -> ProgressView:
        self._github.begin(self._config)
        # A duplicated descriptor, because pytest redirects standard output while a test runs.
        output = self._resources.enter_context(os.fdopen(os.dup(1), "w", buffering=1))
        return ProgressView(
            len(expected) or None,
            LastingSink(output),
            # The controller of xdist writes at any time, so that nothing can be redrawn there.
            live=False if self._distributes() else None,
            expected=expected,
            quiet=self._config.option.verbose < 0,
        )

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self._resources.close()
        if self._results is None or not (self._results / RESULTS_NAME).exists():
            return
        try:
            option = self._config.option
            history = history_for(self._results, explicit=option.results, asked=option.history)
            ended = conclude(self._results, self._keep, history)
            self._trouble = safe_text("\n".join(map(str, (*ended.troubles, *ended.notes))))
            status = ended.status
        except RecordError as error:
            self._trouble = safe_text(str(error))
            status = UNAVAILABLE
        if status and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            session.exitstatus = status

    def _keep(self, summary: Summary) -> None:
        self._summary = summary

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._results is not None and self._summary is not None:
            print_table(self._summary, self._results, LastingSink(sys.stdout))
        if self._trouble:
            terminalreporter.write_line(f"fpr-harness: {self._trouble}")

    def pytest_unconfigure(self) -> None:
        self._github.end(self._summary)


def _refuse_reruns(items: list[pytest.Item]) -> None:
    """Refuse `--reruns`: a passing second run would hide an intermittent failure."""
    if any(isinstance(item, ScenarioItem) for item in items):
        with _refusals():
            raise UsageError(
                "--reruns cannot be used with scenarios: it would hide an intermittent failure",
                hint="use --repeat N to run them several times; then every run counts",
            )
