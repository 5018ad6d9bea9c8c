# SPDX-License-Identifier: Apache-2.0
"""Compare what scenarios say under the virtual clock with what they say under the real one.

    make clocks                         on every image what has not been compared, and write
                                        docs/clocks.md
    make clocks IMAGES=trixie           only on this image
    ARGS="--seconds 420"                begins nothing new after so many seconds
    ARGS="--results DIR"                goes on with the runs in DIR
    ARGS="reclaim-* odd-sizes-3073m"    only these scenarios
    ARGS="--qemu trixie numa-*"         passed on to `fpr-harness run`

A scenario is compared on an image if it has been run there under both clocks. Its verdict under the
real one is taken from docs/scenarios.json where that has one, and else from a run. What was found
before stands in docs/clocks.json, and is run again only with `--again`. Ends with status 1 if the
clocks disagree anywhere.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from harness.act.discover import VERBS
from harness.image.definition import load_definitions
from harness.report.catalogue import STORE
from harness.report.matrix import oldest_first
from harness.scenario.model import Scenario
from harness.scenario.selection import find_scenarios
from harness.units import MIB, format_size

DOCS = Path(__file__).resolve().parents[2] / "docs"
TABLE, DOCUMENT = "clocks.json", "clocks.md"
IN_A_BATCH = 6
BATCH_SECONDS = 900.0
REAL: Final = "real"
VIRTUAL: Final = "virtual"
COMPARED = ("PASS", "FAIL", "DONE", "SKIP")
"""What is known of a scenario; an ERROR or a MISS is no answer."""

MOST_OFF = 48 * MIB
"""What the bytes that did not come back may differ by, of those freed last: the per-CPU lists of
the virtual clock's only vCPU were seen to keep 40 MiB more."""

Outcome = dict[str, Any]
Outcomes = dict[str, dict[str, dict[str, Outcome]]]
"""By scenario, image and clock: verdict, cause, reason, kernel, qemu, seconds, retained bytes."""


def valid_under_both(scenario: Scenario) -> bool:
    """Whether the clocks can be compared on it."""
    return not scenario.not_under(VIRTUAL) and not scenario.not_under(REAL)


def outcome(run: Mapping[str, Any]) -> Outcome:
    """What is kept of a run in a summary.json."""
    kept = {name: run.get(name) for name in ("verdict", "cause", "kernel", "qemu")}
    measures = run.get("measures", {})
    back = [measures.get(name) for name in ("freed_bytes", "reclaimed_bytes")]
    return {
        **kept,
        "reason": "" if run["verdict"] in ("PASS", "DONE") else run["reason"],
        "seconds": round(run["seconds"], 1),
        "retained": None if None in back else back[0] - back[1],
    }


def from_catalogue(catalogue: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Outcomes:
    """The outcomes under the real clock that docs/scenarios.json has."""
    return {
        scenario: {
            image: {REAL: {"qemu": None, "retained": None, **told}}
            for image, told in images.items()
        }
        for scenario, images in catalogue.items()
    }


def joined(*parts: Outcomes) -> Outcomes:
    """All of them; a later part goes before an earlier one."""
    found: Outcomes = {}
    for part in parts:
        for scenario, images in part.items():
            for image, clocks in images.items():
                found.setdefault(scenario, {}).setdefault(image, {}).update(clocks)
    return found


def from_results(directory: Path) -> Outcomes:
    """The outcomes of all batches that have ended, in order."""
    found: Outcomes = {}
    for summary in sorted(directory.glob("batch-*/summary.json")):
        # A run that was a SKIP before its guest was ready does not know its clock.
        clock = summary.parent.name.rpartition("-")[2]
        for run in json.loads(summary.read_text())["runs"]:
            if run["verdict"] in COMPARED:
                of_image = found.setdefault(run["scenario"], {}).setdefault(run["image"], {})
                of_image[clock] = outcome(run)
    return found


def to_run(
    scenarios: Sequence[Scenario], images: Sequence[str], known: Outcomes, clock: str
) -> dict[str, list[str]]:
    """By image, the scenarios that have no outcome under this clock: those of the default set
    first, and the short ones.
    """

    def rank(each: Scenario) -> tuple[bool, float]:
        return "default" not in each.tags, each.expected_seconds

    names = [each.name for each in sorted(scenarios, key=rank)]
    lacking = {
        image: [name for name in names if clock not in known.get(name, {}).get(image, {})]
        for image in images
    }
    return {image: left for image, left in lacking.items() if left}


def difference(clocks: Mapping[str, Outcome]) -> str | None:
    """How the clocks differ; empty if they agree, None if one of the two was not run or a SKIP."""
    real, virtual = clocks.get(REAL), clocks.get(VIRTUAL)
    if real is None or virtual is None or "SKIP" in (real["verdict"], virtual["verdict"]):
        return None
    if _words(real) != _words(virtual):
        return f"{_words(real)} under the real clock, {_words(virtual)} under the virtual one"
    if real["retained"] is None or virtual["retained"] is None:
        return ""
    if abs(real["retained"] - virtual["retained"]) > MOST_OFF:
        sizes = [format_size(max(0, each["retained"])) for each in (real, virtual)]
        return f"{sizes[0]} did not come back under the real clock, {sizes[1]} under the other"
    return ""


def _words(one: Outcome) -> str:
    return " ".join(filter(None, [one["verdict"], one["cause"]]))


def table(names: Sequence[str], images: Sequence[str], known: Outcomes) -> Iterator[str]:
    """Scenario by image: the verdict under both clocks, and where they differ."""
    titles = [_title(image, known) for image in images]
    yield f"| scenario | {' | '.join(titles)} |"
    yield "|---|" + "---|" * len(titles)
    for name in names:
        cells = " | ".join(_cell(known.get(name, {}).get(image, {})) for image in images)
        yield f"| {name} | {cells} |"


def _title(image: str, known: Outcomes) -> str:
    kernels = [i[image][VIRTUAL]["kernel"] for i in known.values() if VIRTUAL in i.get(image, {})]
    return f"{image} {kernels[-1].partition('-')[0]}" if kernels and kernels[-1] else image


def _cell(clocks: Mapping[str, Outcome]) -> str:
    differs = difference(clocks)
    if differs is None:
        skipped = [clock for clock in clocks if clocks[clock]["verdict"] == "SKIP"]
        return f"SKIP ({', '.join(skipped)})" if skipped else "-"
    return f"**{differs}**" if differs else _words(clocks[VIRTUAL])


def document(scenarios: Sequence[Scenario], known: Outcomes) -> str:
    """docs/clocks.md."""
    valid = [each.name for each in scenarios if valid_under_both(each)]
    refused = [(each.name, each.not_under("virtual")) for each in scenarios]
    kernels = {
        image: outcomes[VIRTUAL]["kernel"] or ""
        for images in known.values()
        for image, outcomes in images.items()
        if VIRTUAL in outcomes
    }
    images = oldest_first(kernels)
    pairs = [known.get(name, {}).get(image, {}) for name in valid for image in images]
    compared = [differs for pair in pairs if (differs := difference(pair)) is not None]
    differ = [
        abs(pair[REAL]["retained"] - pair[VIRTUAL]["retained"])
        for pair in pairs
        if len(pair) == 2 and None not in (pair[REAL]["retained"], pair[VIRTUAL]["retained"])
    ]
    never = [
        name
        for name in valid
        if all(difference(pair) is None for pair in known.get(name, {}).values())
    ]
    qemus = sorted({p[VIRTUAL]["qemu"] for p in pairs if VIRTUAL in p and p[VIRTUAL]["qemu"]})
    rows = "\n".join(table(valid, images, known))
    real_only = "\n".join(f"- {name}: {why}." for name, why in refused if why)
    compared_by = ""
    if differ:
        compared_by = (
            f"Where it is known what of the memory freed last did not come back, {len(differ)} "
            f"times, it differs by {format_size(max(differ))} at most; {format_size(MOST_OFF)} "
            "are allowed, for per-CPU lists."
        )
    return f"""# Scenarios under both clocks

`make clocks` writes this page. Each scenario that is valid under [both clocks](virtual-clock.md)
was run under the virtual one, on the kernels named, with QEMU {", ".join(qemus)} and TCG. A cell
has the verdict and cause that both clocks gave, or how they differ; `-` was not compared, nor was
what one of the clocks had to skip. A verdict under the real clock is that of [the
catalogue](scenarios.md), where it has one.

Compared: {len(compared)} of {len(pairs)} pairs of scenario and kernel; {sum(map(bool, compared))}
of them differ, and {len(never)} of {len(valid)} scenarios were compared on no kernel. {compared_by}

{rows}

## Valid under the real clock only

{real_only}
"""


def batch(words: Sequence[str], results: Path) -> None:
    """One invocation of the harness, with a log beside its results."""
    with (results.parent / f"{results.name}.log").open("wb") as log:
        subprocess.run(
            [sys.executable, "-m", "harness", "run", *words, "--results", str(results)],
            stdout=log,
            stderr=log,
            timeout=BATCH_SECONDS,
            check=False,
        )


def next_batch(lacking: Mapping[str, Sequence[str]]) -> tuple[str, list[str]] | None:
    """The image with the most left to run, and the first of that."""
    if not lacking:
        return None
    image = max(lacking, key=lambda each: len(lacking[each]))
    return image, list(lacking[image][:IN_A_BATCH])


def run_batches(
    arguments: argparse.Namespace,
    scenarios: Sequence[Scenario],
    images: Sequence[str],
    kept: Outcomes,
) -> None:
    """Run what is lacking, under the virtual clock first, until the time is up."""
    end = time.monotonic() + arguments.seconds
    under_way, tried = arguments.results / "under-way", set()
    number = len(list(arguments.results.glob("batch-*")))
    for clock in (VIRTUAL, REAL):
        while time.monotonic() < end:
            known = joined(kept, from_results(arguments.results))
            lacking = {
                image: [name for name in names if (name, image, clock) not in tried]
                for image, names in to_run(scenarios, images, known, clock).items()
            }
            chosen = next_batch({image: names for image, names in lacking.items() if names})
            if chosen is None:
                break
            image, names = chosen
            tried |= {(name, image, clock) for name in names}
            shutil.rmtree(under_way, ignore_errors=True)
            words = [*names, "--image", image, "--clock", clock, "--accel", "tcg"]
            words += ["--jobs", str(arguments.jobs)]
            batch([*words, *(["--qemu", arguments.qemu] if arguments.qemu else [])], under_way)
            if (under_way / "summary.json").exists():
                ended = arguments.results / f"batch-{number:04}-{image}-{clock}"
                under_way.rename(ended)
                number += 1
                for run in json.loads((ended / "summary.json").read_text())["runs"]:
                    print(
                        f"{clock} {image} {run['scenario']}: {_words(run)} {run['seconds']:.0f} s",
                        flush=True,
                    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="SCENARIO")
    parser.add_argument("--results", type=Path, default=Path("results/clocks"))
    parser.add_argument("--image", default="all", metavar="NAME,...")
    parser.add_argument("--qemu", metavar="NAME")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="also what docs/clocks.json has")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    every = find_scenarios([], VERBS, tags=["all"])
    asked = find_scenarios(arguments.names, VERBS) if arguments.names else every
    images = list(load_definitions()) if arguments.image == "all" else arguments.image.split(",")
    store = DOCS / TABLE
    written: Outcomes = json.loads(store.read_text()) if store.exists() else {}
    recorded = from_catalogue(json.loads((DOCS / STORE).read_text()))
    kept = recorded if arguments.again else joined(recorded, written)
    valid = [each for each in asked if valid_under_both(each)]
    try:
        run_batches(arguments, valid, images, kept)
    except KeyboardInterrupt:
        print("interrupted; the next call goes on", file=sys.stderr)
    written = joined(written, from_results(arguments.results))
    store.write_text(json.dumps(written, indent=1, sort_keys=True) + "\n")
    known = joined(recorded, written)
    (DOCS / DOCUMENT).write_text(document(every, known))
    differ = [
        f"{name} on {image}: {differs}"
        for name, of_image in known.items()
        for image, clocks in of_image.items()
        if (differs := difference(clocks))
    ]
    print("\n".join(differ) or "the clocks agree wherever both were run")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
