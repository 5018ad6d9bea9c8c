# SPDX-License-Identifier: Apache-2.0
"""A real `git bisect run` over a small history of a QEMU finds the commit that broke reporting."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.machine.interposer import build_interposer

pytestmark = [pytest.mark.vm, pytest.mark.more_faults]

CLEAN = 'exec {real} "$@"'
BROKEN = 'LD_PRELOAD={interposer} FPR_DISCARD=swallow exec {real} "$@"'
DEAD = "exit 1"


def git(repository: Path, *words: str) -> str:
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]
    done = subprocess.run(
        ["git", *identity, *words], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def commit(repository: Path, subject: str, body: str) -> str:
    script = repository / "qemu-system-x86_64"
    words = {"real": shutil.which("qemu-system-x86_64"), "interposer": build_interposer()}
    script.write_text(f"#!/bin/sh\n# {subject}\n{body.format(**words)}\n")
    script.chmod(0o755)
    git(repository, "add", "qemu-system-x86_64")
    git(repository, "commit", "-q", "-m", subject)
    return git(repository, "rev-parse", "HEAD")


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_git_bisect_run_names_the_commit(tmp_path: Path) -> None:
    """One commit does not start at all: it is skipped, and counts neither way."""
    repository = tmp_path / "qemu"
    repository.mkdir()
    git(repository, "init", "-q")
    first = commit(repository, "a QEMU", CLEAN)
    commit(repository, "a QEMU that does not start", DEAD)
    good = commit(repository, "mend it", CLEAN)
    bad = commit(repository, "keep what is discarded", BROKEN)
    commit(repository, "work on", BROKEN)
    git(repository, "bisect", "start", "HEAD", first)
    command = Path(sys.executable).with_name("fpr-harness")
    qemu = repository / "qemu-system-x86_64"
    step = [str(command), "bisect-step", "reclaim-partial", "--accel", "tcg", "--qemu", str(qemu)]
    ran = subprocess.run(
        ["git", "bisect", "run", *step],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert f"{bad} is the first bad commit" in ran.stdout, ran.stdout + ran.stderr
    assert good in git(repository, "bisect", "log")
