# SPDX-License-Identifier: Apache-2.0
"""Feed every reader with what no honest guest, host or file says, and keep what escapes.

    python tests/fuzz/fuzz.py [--seconds N] [TARGET ...]

Where atheris is installed it drives the mutations by coverage, in a process for each target; else
hypothesis does.
An input that brings anything but the project's own errors, or takes longer than it may, is written
to seeds/TARGET/, where the unit tests find it too, and the exit status is 1.
"""

import argparse
import contextlib
import hashlib
import importlib
import importlib.util
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

atheris = importlib.import_module("atheris") if importlib.util.find_spec("atheris") else None

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
with atheris.instrument_imports(include=["harness"]) if atheris else contextlib.nullcontext():
    from targets import SEEDS, TARGETS, Target

FOUND = Path(__file__).parents[2] / "build" / "fuzz"
"""Inputs that reach code no other did, kept from one run of atheris to the next."""

LONGEST = 4096
MOST_SECONDS = 2.0
"""Of this thread's time, for an input of a few KiB."""

BATCH = 500
_DONE = re.compile(r"^Done (\d+) runs in", re.MULTILINE)
"""libFuzzer's last line (FuzzerLoop.cpp)."""

_TOKENS = (
    *(b"9" * 5000, b"-1", b"0x", b"nan", b"\0", b"\xff" * 8, b"\n", b"\r", b" " * 200),
    *("\u0663\u202e\ud7ff".encode(), b"[" * 300, b"{" * 300, b"&a [*a]", b"1:" * 100 + b"1.5"),
)


def mutations(target: Target) -> st.SearchStrategy[bytes]:
    """A seed with parts cut out, doubled, exchanged with another's, or replaced."""
    seeds = [seed[:LONGEST] for seed in target.seeds]

    @st.composite
    def mutated(draw: st.DrawFn) -> bytes:
        generator = random.Random(draw(st.integers(0, (1 << 64) - 1)))
        data = bytearray(generator.choice(seeds))
        for _ in range(generator.randint(1, 6)):
            start, end = sorted(generator.randint(0, len(data)) for _ in "ab")
            match generator.randrange(6):
                case 0:
                    data[start:end] = b""
                case 1:
                    data[end:end] = data[start:end]
                case 2:
                    data[start:end] = generator.choice(_TOKENS)
                case 3:
                    data[start:end] = generator.choice(seeds)[start:end]
                case _ if data:
                    data[generator.randrange(len(data))] = generator.randrange(256)
        return bytes(data[: 2 * LONGEST])

    return st.one_of(mutated(), mutated(), mutated(), st.binary(max_size=200))


class EscapeError(Exception):
    """An input that the target did not take as it must."""


def attempt(target: Target, data: bytes) -> None:
    """Raises what escapes, and keeps the input."""
    began = time.thread_time()
    try:
        target(data)
        seconds = time.thread_time() - began
        if seconds > MOST_SECONDS:
            raise EscapeError(f"took {seconds:.1f} s")  # noqa: TRY301 - as any other escape
    except BaseException:
        directory = SEEDS / target.name
        directory.mkdir(parents=True, exist_ok=True)
        kept = directory / f"escape-{hashlib.sha256(data).hexdigest()[:12]}"
        kept.write_bytes(data)
        print(f"{target.name}: ESCAPE, kept in {kept}", file=sys.stderr)
        raise


def fuzz(target: Target, seconds: float) -> int:
    """How many inputs were tried. Raises what escapes."""
    tried = 0

    @settings(
        max_examples=BATCH,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(mutations(target))
    def batch(data: bytes) -> None:
        nonlocal tried
        tried += 1
        attempt(target, data)

    for seed in target.seeds:
        attempt(target, seed)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        batch()
    return tried


def with_atheris(target: Target, seconds: float) -> None:
    """Never returns: libFuzzer ends the process."""
    assert atheris is not None
    found = FOUND / target.name
    found.mkdir(parents=True, exist_ok=True)
    words = [
        sys.argv[0],
        f"-max_total_time={seconds:.0f}",
        f"-artifact_prefix={found.parent}/{target.name}-",
        str(found),
        *(str(path) for path in [SEEDS / target.name] if path.is_dir()),
    ]
    atheris.Setup(words, lambda data: attempt(target, data))
    atheris.Fuzz()


def by_coverage(target: Target, seconds: float) -> int:
    """The same as `fuzz`, with atheris in a process of its own. Raises `EscapeError`."""
    command = [sys.executable, __file__, "--seconds", f"{seconds}", target.name]
    # libFuzzer ends the process without a word to Python: what it leaves goes with this.
    with tempfile.TemporaryDirectory(prefix="fpr-fuzz-") as scratch:
        environment = {**os.environ, "TMPDIR": scratch}
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, env=environment
        )
    tried = _DONE.search(done.stderr)
    if done.returncode or tried is None:
        print(done.stdout[-2000:], done.stderr[-1000:], file=sys.stderr)
        raise EscapeError(f"atheris ended with status {done.returncode}")
    return int(tried[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each target")
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], metavar="TARGET")
    options = parser.parse_args()
    chosen = [TARGETS[name] for name in options.targets or TARGETS]
    if atheris is not None and len(chosen) == 1:
        with_atheris(chosen[0], options.seconds)
    status = total = 0
    for target in chosen:
        try:
            tried = (by_coverage if atheris else fuzz)(target, options.seconds)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what was looked for
            print(f"{target.name:14} {type(error).__name__}: {error}"[:300])
            status = 1
            continue
        total += tried
        print(f"{target.name:14} {tried:9,} inputs, no escape", flush=True)
    print(f"{total:,} inputs")
    return status


if __name__ == "__main__":
    sys.exit(main())
