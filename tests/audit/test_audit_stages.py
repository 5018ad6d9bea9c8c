# SPDX-License-Identifier: Apache-2.0
"""An audit that a signal or a cut connection ends, at any stage, leaves nothing in guest and host.

A program between the audit and ssh(1) passes on what goes to and fro, and strikes at its stage.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from plain_vm import PlainVm, plain_vm

from harness.deadline import Deadline, wait_for
from harness.machine.pace import slowness

pytestmark = pytest.mark.vm

LEFT = "ls /tmp /run | grep fpr-audit; ps | grep -e --kinds -e fpr-audit | grep -v grep; :"
"""Lists what a visit could leave in the guest."""

BETWEEN = """#!{python}
import ctypes, os, select, signal, subprocess, sys

stage, way = os.environ["STAGE"], os.environ["WAY"]
struck = False


def strike():
    global struck
    if struck:
        return
    struck = True
    open("{mark}", "w").close()
    if way == "cut":
        if stage != "login":
            ssh.kill()
        sys.exit(255)
    os.kill(os.getppid(), getattr(signal, way))


if stage == "login":
    strike()
ssh = subprocess.Popen(
    ["{ssh}", *sys.argv[1:]],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    bufsize=0,
    preexec_fn=lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL),
)
inputs, said, sent, told = [0, ssh.stdout.fileno()], b"", 0, 0
while True:
    for file in select.select(inputs, [], [])[0]:
        data = os.read(file, 65536)
        if file != 0 and not data:
            sys.exit(ssh.wait())
        if file != 0:
            told += len(data) if ready in said else 0
            said = (said + data)[-200000:]
            os.write(1, data)
        elif data:
            sent += len(data)
            if stage == "between" and ready in said and data == b"\\n":
                strike()
            try:
                os.write(ssh.stdin.fileno(), data)
            except BrokenPipeError:
                pass
        else:
            if stage == "end":
                strike()
            ssh.stdin.close()
            inputs.remove(0)
        if stage == "facts" and sent:
            strike()
        if stage == "copy" and sent > 300000:
            strike()
        if stage == "run" and told:
            strike()
""".replace("ready in said", 'b"fpr-audit: ready" in said')

STAGES = ("login", "facts", "copy", "run", "between", "end")


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainVm]:
    with plain_vm(tmp_path_factory.mktemp("vm")) as running:
        yield running


@pytest.mark.parametrize("way", ["SIGINT", "SIGTERM", "SIGHUP", "cut"])
@pytest.mark.parametrize("stage", STAGES)
def test_nothing_is_left(vm: PlainVm, tmp_path: Path, stage: str, way: str) -> None:
    mark, temporary = tmp_path / "struck", tmp_path / "temporary"
    temporary.mkdir()
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    text = BETWEEN.format(python=sys.executable, mark=mark, ssh=vm.directory / "ssh")
    program.write_text(text)
    program.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "harness", "audit", vm.name, "--ssh", vm.name, "--json"],
        env={
            **os.environ,
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "STAGE": stage,
            "WAY": way,
            "TMPDIR": str(temporary),
        },
        capture_output=True,
        text=True,
        timeout=60.0 * slowness(),
        check=False,
    )
    assert mark.exists(), "the stage was never reached"
    # A connection that breaks after all has been told does no harm.
    assert done.returncode == (0 if (stage, way) == ("end", "cut") else 69), done
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 4, done.stderr
    wait_for(lambda: None if vm.run(LEFT) else True, Deadline(30.0 * slowness(), "a clean guest"))
    assert list(temporary.iterdir()) == []
    assert _on_host(vm.directory) == []


def _on_host(directory: Path) -> list[str]:
    """Processes of this host, other than the VM, whose command line names its directory's files."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if f"{directory}/ssh_config".encode() in words:
            found.append(words.replace(b"\0", b" ").decode())
    return found
