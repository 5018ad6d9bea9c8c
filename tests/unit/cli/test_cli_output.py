# SPDX-License-Identifier: Apache-2.0
"""Standard output that takes nothing is no reason for a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def list_images(output: int) -> tuple[int, str]:
    """Status and complaints of a command that prints a few lines there."""
    words = [sys.executable, "-m", "harness", "image", "list"]
    done = subprocess.run(words, stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stderr


def test_nobody_reads_on() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert list_images(writer) == (141, "")
    finally:
        os.close(writer)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_full_disk() -> None:
    with Path("/dev/full").open("wb") as full:
        status, complaint = list_images(full.fileno())
    assert status == 69
    assert complaint == "fpr-harness: [Errno 28] No space left on device\n"
