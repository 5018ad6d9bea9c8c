# SPDX-License-Identifier: Apache-2.0
"""A bundle with its kernel runs elsewhere as it ran: on the kernel and the initramfs it brings."""

import hashlib
from pathlib import Path

import pytest
from running import Running
from short_scenario import short_scenario

from harness.record.bundle_read import Bundle
from harness.record.events import RunStarted
from harness.record.reader import read_events

pytestmark = pytest.mark.vm


def test_a_bundle_is_run_again_on_the_kernel_it_holds(tmp_path: Path) -> None:
    made = tmp_path / "bug.tgz"
    words = ["run", short_scenario(tmp_path), "--accel", "tcg"]
    bundled = [*words, "--bundle", str(made), "--with-kernel"]
    code, output = Running(tmp_path / "there", bundled).end()
    assert code == 0, output
    (kernel,) = Bundle(made).manifest.kernels.values()
    run = Running(tmp_path / "here", ["replay", str(made)])
    code, output = run.end()
    assert code == 0, output
    assert "short: PASS, as there" in output
    assert "differs:" not in output
    assert (run.summary()["accel"], run.summary()["kernel"]) == ("tcg", kernel.release)
    events = [event for _run, event in read_events(tmp_path / "here/results.jsonl")]
    (started,) = [event for event in events if isinstance(event, RunStarted)]
    assert started.plan is not None
    assert started.plan.kernel_sha256 == kernel.kernel
    unpacked = [path.read_bytes() for path in (tmp_path / "here/.bundle").iterdir()]
    digests = {hashlib.sha256(each).hexdigest() for each in unpacked}
    assert digests == {kernel.kernel, kernel.initramfs}
