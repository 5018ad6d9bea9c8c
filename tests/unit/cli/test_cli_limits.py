# SPDX-License-Identifier: Apache-2.0
"""A host that allows little (ulimit): one message that names the limit, status 69, no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

USER = 64999
"""Somebody with no process yet: `ulimit -u` counts a user's, and does not hold for root."""

RIGHTS = "+dac_override,+dac_read_search"
"""To read the harness, wherever it lies."""


THREADS = """
import os, threading
from harness.host_refusal import refusal
from harness.run_log import RunThread

for number in range(9):
    try:
        RunThread(target=threading.Event().wait, daemon=True).start()
    except RuntimeError as error:
        print(number, refusal(error, "trying").hint, flush=True)
        os._exit(0)
"""

AS_ROOT = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can be somebody without processes"
)


def limited(limit: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """A command with a limit of prlimit(1), as a user to whom it applies."""
    somebody = [
        *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"),
        f"--inh-caps=-all,{RIGHTS}",
        f"--ambient-caps=-all,{RIGHTS}",
    ]
    return subprocess.run(
        ["prlimit", limit, *somebody, sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=120.0,
        check=False,
    )


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("--nproc=1", "ulimit -u"),
        ("--as=100000000", "ulimit -v"),
        ("--data=50000000", "ulimit -v"),
        ("--fsize=0", "temporary directory"),
    ],
)
@pytest.mark.whole_command
@AS_ROOT
def test_one_message_names_the_limit(
    limit: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # no image: nothing could boot
    tmp_path.chmod(0o777)
    results = str(tmp_path / "results")
    done = limited(limit, "-m", "harness", "run", "reclaim-basic", "--results", results)
    assert done.returncode == 69, done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@AS_ROOT
def test_a_thread_too_many_is_told_with_the_limit() -> None:
    done = limited("--nproc=3", "-c", THREADS)
    assert done.stdout.startswith("2 allow more processes and threads (ulimit -u)")
