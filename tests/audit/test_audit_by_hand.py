# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness audit` of a VM that a plain QEMU command line started: ways in, refusals, traces."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from plain_vm import PlainVm, part, plain_vm

from harness.audit.attached_monitor import AttachedMonitor
from harness.audit.guest_tool import guest_tool
from harness.audit.ssh_visit import SshVisit
from harness.audit.ssh_words import parse_destination
from harness.deadline import Deadline, wait_for
from harness.errors import QmpError
from harness.guest.page_stream import PageReader
from harness.units import MIB

pytestmark = pytest.mark.vm

SCHEMA = Path(__file__).parents[2] / "schemas" / "audit.schema.json"


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainVm]:
    with plain_vm(tmp_path_factory.mktemp("vm")) as running:
        yield running


def test_a_list_says_how_to_name_the_vm(vm: PlainVm) -> None:
    lines = [line.split() for line in vm.audit().splitlines()]
    [row] = [line for line in lines if line[:1] == [str(vm.pid)]]
    assert row[1:3] == [vm.name, "512MiB"]
    assert row[4:] == ["reporting", str(vm.qmp)]


def test_the_parts_of_both_sides_add_up(vm: PlainVm) -> None:
    audit = vm.both()
    jsonschema.validate(audit, json.loads(SCHEMA.read_text()))
    assert sum(part["size"] for part in audit["parts"]) == audit["total"]
    assert abs(part(audit, "unexplained")) <= audit["total"] / 100
    assert audit["guest"]["reporting"] is True
    assert part(audit, "kernel") > MIB, "struct pages alone take 8 MiB of 512"
    assert part(audit, "anonymous") > 0
    assert audit["guest"]["account"]["absent_written"] == 0
    assert vm.run("ls /tmp /run | grep fpr-audit || true") == "", "the tool left its file"


def test_the_hosts_side_alone_says_what_it_cannot_know(vm: PlainVm) -> None:
    audit = vm.look()
    assert audit["guest"] is None
    assert abs(part(audit, "unexplained")) <= audit["total"] / 100
    assert audit["balloon"]["negotiated"] is True
    assert any("only the guest knows" in line for line in audit["unknown"])
    blocks = audit["host"]["blocks"]
    assert blocks["full"] + blocks["partly"] + blocks["empty"] == 256
    assert audit["host_seconds"] < 0.3 * max(1.0, os.getloadavg()[0])


def test_a_comparison_names_what_grew(vm: PlainVm, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier.json"
    earlier.write_text(vm.audit(vm.name, "--ssh", vm.name, "--json"))
    vm.run("head -c 33554432 /dev/zero > /tmp/big")
    text = vm.audit("--qmp", str(vm.qmp), "--ssh", vm.name, "--compare", str(earlier))
    vm.run("rm /tmp/big")
    [line] = [row for row in text.splitlines() if row.startswith("  tmpfs and shared memory")]
    assert "+32" in line, text


def test_one_client_at_a_time(vm: PlainVm) -> None:
    with AttachedMonitor(vm.qmp):
        said = vm.audit("--pid", str(vm.pid), status=69)
    assert "another client is connected there" in said
    with AttachedMonitor(vm.qmp) as monitor, pytest.raises(ValueError, match="does not send"):
        monitor.execute("stop")


def test_what_is_no_vm_of_ours_is_refused(vm: PlainVm, tmp_path: Path) -> None:
    assert "is no QEMU" in vm.audit("--pid", str(os.getpid()), status=69)
    assert "there is no process" in vm.audit("--pid", "4194304", status=69)
    assert "no QEMU of this host is called 'nobody'" in vm.audit("nobody", status=69)
    assert "there is no QMP socket" in vm.audit("--qmp", str(tmp_path / "none"), status=69)
    assert "needs a VM" in vm.audit("--json", status=2)
    with pytest.raises(QmpError, match="nobody listens"):
        _dead_socket(tmp_path)


def _dead_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "dead.sock"))
    AttachedMonitor(tmp_path / "dead.sock")


def test_a_guest_with_another_key_is_not_entered(vm: PlainVm) -> None:
    known = vm.directory / "known_hosts"
    right = known.read_text()
    host, kind, key = right.split()
    try:
        known.write_text(f"{host} {kind} {key[:30]}AAAA{key[34:]}\n")
        said = vm.audit("--pid", str(vm.pid), "--ssh", vm.name, status=69)
        assert "is not the one in known_hosts" in said
        known.write_text("")
        assert "is not in known_hosts" in vm.audit(vm.name, "--ssh", vm.name, status=69)
    finally:
        known.write_text(right)


def _left(vm: PlainVm) -> str:
    """What a visit could leave in the guest: a file, or a process."""
    return vm.run(
        "ls /tmp /run | grep fpr-audit; ps | grep -e --kinds -e fpr-audit | grep -v grep; :"
    )


@pytest.fixture
def visit(vm: PlainVm, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshVisit]:
    monkeypatch.setenv("PATH", vm.environment["PATH"])
    with SshVisit(parse_destination(vm.name), guest_tool()) as way:
        way.facts()
        yield way


def _cut(visit: SshVisit, vm: PlainVm) -> None:
    """Break the connection, as a network does, and wait until the guest has noticed."""
    visit._process.kill()
    wait_for(lambda: None if _left(vm) else True, Deadline(30.0, "the guest to clean up"))


def test_a_connection_cut_while_the_tool_is_copied_leaves_nothing(
    vm: PlainVm, visit: SshVisit
) -> None:
    visit.write(bytes(300_000))
    assert "fpr-audit" in _left(vm), "while it is copied, it is there"
    _cut(visit, vm)


def test_a_connection_cut_while_the_tool_runs_leaves_nothing(vm: PlainVm, visit: SshVisit) -> None:
    with PageReader(visit, 1 << 20, kinds=True) as reader:
        reader.read()
        left = _left(vm)
        assert "--kinds" in left
        assert "/tmp" not in left, "the tool runs without a file"
        _cut(visit, vm)


def test_ctrl_c_leaves_nothing(vm: PlainVm) -> None:
    watching = subprocess.Popen(
        [sys.executable, "-m", "harness", "audit", vm.name, "--ssh", vm.name, "--watch", "1"],
        env=vm.environment,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert watching.stdout is not None
        watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        assert watching.wait(20.0) == 69
    finally:
        watching.kill()
        watching.communicate()
    assert _left(vm) == ""
