# SPDX-License-Identifier: Apache-2.0
"""One invocation, from the chosen scenarios to results on disk; used by the CLI and pytest."""

import contextlib
import logging
import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.bug_report import internal_error
from harness.errors import UNAVAILABLE, HarnessError, InternalError
from harness.host_refusal import refusal
from harness.html.document import REPORT_NAME, write_report
from harness.image.build import BootFiles, ensure_image
from harness.image.definition import ImageDefinition
from harness.machine.qemu import Qemu
from harness.record.events import Event
from harness.record.reader import RESULTS_NAME, read_events
from harness.record.recorder import Recorder
from harness.report.junit import write_junit
from harness.report.past_runs import remember
from harness.report.summary import Summary, build_summary, status_of, write_summary
from harness.run.plan import RunOptions
from harness.run.pool import RunPool
from harness.run.runner import Bench
from harness.run.stop_request import StopRequest

LOG = logging.getLogger(__name__)

FAILED = 1
"""Exit status of a FAIL."""

_Task = tuple[str, Callable[[], None]]
"""What it does, in words, and the work."""


def prepare_images(
    images: Iterable[ImageDefinition], options: RunOptions, progress: Callable[[str], None]
) -> dict[str, BootFiles | HarnessError]:
    """Make every image ready to boot; returns by name its files, or the error that prevented it."""
    boots: dict[str, BootFiles | HarnessError] = {}
    for image in images:
        try:
            boots[image.name] = ensure_image(
                image, kernel=options.kernel, modules=options.modules, progress=progress
            )
        except HarnessError as error:
            boots[image.name] = error
        except Exception as error:  # noqa: BLE001 - runs on other images go on
            doing = f"preparing image {image.name}"
            broken = refusal(error, doing) or InternalError(f"{doing}: {error!r}")
            broken.__cause__ = error
            boots[image.name] = broken
    return boots


@contextmanager
def run_pool(
    results: Path,
    options: RunOptions,
    boots: Mapping[str, BootFiles | HarnessError],
    qemus: Mapping[str, Qemu | HarnessError],
    jobs: int | None,
    observers: Sequence[Callable[[str, Event], None]] = (),
    request: StopRequest | None = None,
    note: Callable[[str], None] = LOG.info,
    *,
    alone: bool = False,
) -> Iterator[RunPool]:
    """Open a pool that records into `results` and passes each event to the observers.

    `note` takes what the user should know of runs that have not begun; `alone` as in `RunPool`. An
    observer that raises is dropped; the runs go on. Raises `RecordError`.
    """
    _allow_descriptors()
    recorder = Recorder(results)
    audience = list(observers)

    def emit(run_id: str, event: Event) -> None:
        recorder.for_run(run_id).emit(event)
        for observe in tuple(audience):
            try:
                observe(run_id, event)
            except Exception as error:  # noqa: BLE001 - the display must not break the run
                with contextlib.suppress(ValueError, OSError):
                    audience.remove(observe)
                    print(f"fpr-harness: the progress display broke: {error!r}", file=sys.stderr)

    request = request or StopRequest()
    bench = Bench(
        options=options, results=results, qemus=qemus, emit=emit, cancelled=request.cancelled
    )
    with recorder, RunPool(bench, boots, jobs, note, alone=alone) as pool:
        yield pool


def _allow_descriptors() -> None:
    """Raise the limit of open files to its maximum: each guest needs about a dozen."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@dataclass(frozen=True)
class Conclusion:
    """How an invocation ended."""

    summary: Summary
    troubles: tuple[HarnessError, ...]
    """Errors met while showing and writing the results."""
    notes: tuple[HarnessError, ...] = ()
    """Why there is no report.html, or the history lacks the runs: no change of the exit status."""

    @property
    def status(self) -> int:
        """The exit status: 1 on a FAIL, else 69 if results were not all shown and written."""
        status = status_of(self.summary.runs)
        return UNAVAILABLE if self.troubles and status != FAILED else status


def conclude(
    results: Path, show: Callable[[Summary], None], history: Path | None = None
) -> Conclusion:
    """Show the verdicts, write summary.json and junit.xml from results.jsonl, then what else is.

    That is the runs' lines of the `history`, and report.html. Each is tried even if another fails.
    Raises `RecordError` if results.jsonl cannot be read.
    """
    events = list(read_events(results / RESULTS_NAME))
    summary = build_summary(events)
    contract: list[_Task] = [
        ("showing the results", lambda: show(summary)),
        ("writing summary.json", lambda: write_summary(summary, results / "summary.json")),
        ("writing junit.xml", lambda: write_junit(events, results / "junit.xml")),
    ]
    beside: list[_Task] = [
        (f"writing {REPORT_NAME}", lambda: write_report([results], results / REPORT_NAME, history))
    ]
    if history is not None:
        beside.insert(0, (f"appending to {history}", lambda: remember(summary, history)))
    return Conclusion(summary, _tried(contract, results), _tried(beside, results))


def _tried(tasks: Iterable[_Task], results: Path) -> tuple[HarnessError, ...]:
    tried = [_attempt(doing, work, results) for doing, work in tasks]
    return tuple(trouble for trouble in tried if trouble is not None)


def _attempt(doing: str, work: Callable[[], None], results: Path) -> HarnessError | None:
    """Do one of the last things; return what went wrong, so that the others are still done."""
    try:
        work()
    except (BrokenPipeError, KeyboardInterrupt):
        raise
    except HarnessError as error:
        return error
    except Exception as error:  # noqa: BLE001 - the other files are still written
        return internal_error(error, doing, results, attach=[RESULTS_NAME])
    return None
