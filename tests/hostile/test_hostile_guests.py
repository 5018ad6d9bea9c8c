# SPDX-License-Identifier: Apache-2.0
"""Whatever a guest says, the run ends with its verdict, in its time, and in bounded memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from leftovers import vm_directories
from misbehaviours import MISBEHAVIOURS, Misbehaviour

pytestmark = pytest.mark.vm

SLACK_SECONDS = 5.0
BOOT_SECONDS = 60.0
END_SECONDS = 30.0
MORE_BYTES = 256 << 20
"""Over what the run of an honest guest takes."""

PROGRAM = Path(__file__).with_name("one_run.py")


def run(name: str, directory: Path, seconds: float) -> dict[str, Any]:
    with subprocess.Popen(
        [sys.executable, str(PROGRAM), name, str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=BOOT_SECONDS + seconds + END_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors, errors
    assert vm_directories(process.pid) == []
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found = run("none", tmp_path_factory.mktemp("honest"), 60.0)
    assert found["verdict"] == "DONE", found
    return found


@pytest.mark.parametrize("guest", MISBEHAVIOURS, ids=lambda guest: guest.name)
def test_a_hostile_guest_does_no_harm(
    guest: Misbehaviour, honest: dict[str, Any], tmp_path: Path
) -> None:
    found = run(guest.name, tmp_path, 60.0 + guest.deadline)
    print(json.dumps(found))
    assert found["verdict"] == guest.verdict, found
    assert guest.says in found["reason"], found
    if guest.deadline:
        # A guest that was slow to boot is given more time, by as much.
        assert found["waited"] < (guest.deadline + SLACK_SECONDS) * found["pace"], found
    assert found["held"] < honest["held"] + MORE_BYTES, found
