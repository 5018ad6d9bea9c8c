# SPDX-License-Identifier: Apache-2.0
"""What goes wrong while an audit looks: each is one error that says so."""

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest
from plain_vm import PlainVm, part, plain_vm

from harness.audit.audit_document import Audit
from harness.audit.guest_tool import guest_tool
from harness.audit.qemu_facts import ask
from harness.audit.qemu_list import qemu_of
from harness.audit.ssh_visit import SshVisit
from harness.audit.ssh_words import parse_destination
from harness.audit.target import Named, connect
from harness.audit.vm_audit import take_vm_audit
from harness.errors import HarnessError, ObserveError, SshError
from harness.units import format_size

pytestmark = pytest.mark.vm

NOBODY = 65534
HIDE = """
mkdir /proc2; mount -t proc proc /proc2; mount -t tmpfs none /proc
for file in /proc2/*; do ln -s $file /proc/; done
rm /proc/kpageflags
"""
"""Hides /proc/kpageflags, as if the kernel had been built without it."""
TOOLS = "grep -l '^/proc/self/fd/3.pages' /proc/[0-9]*/cmdline | cut -d / -f 3"
"""Lists the processes of the guest tool."""


@pytest.fixture
def vm(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PlainVm]:
    with plain_vm(tmp_path_factory.mktemp("vm")) as running:
        monkeypatch.setenv("PATH", running.environment["PATH"])
        yield running


class Disturbed(SshVisit):
    """A visit during which something happens, between the two readings of the guest."""

    happens: Callable[[], object]

    def write(self, data: bytes, timeout: float = 10.0) -> None:
        if data == b"\n":
            self.happens()
        super().write(data, timeout)


def audit_while(vm: PlainVm, happens: Callable[[], object]) -> Audit:
    def visit() -> Disturbed:
        way = Disturbed(parse_destination(vm.name), guest_tool())
        way.happens = happens
        return way

    process, monitor = connect(Named(pid=vm.pid))
    with contextlib.closing(monitor):
        facts = ask(monitor)
    return take_vm_audit(process, facts, visit).audit


def test_a_tool_that_is_killed(vm: PlainVm) -> None:
    with pytest.raises(ObserveError, match="ended early") as told:
        audit_while(vm, lambda: vm.run(f"kill -9 $({TOOLS})"))
    assert "the tool was killed" in told.value.hint
    assert vm.both()["guest"] is not None, "the next audit is none the worse"


def test_a_guest_that_reboots(vm: PlainVm) -> None:
    with pytest.raises(HarnessError) as told:
        audit_while(vm, lambda: vm.tell("system_reset"))
    assert "the guest restarts" in told.value.hint


def test_a_qemu_that_ends(vm: PlainVm) -> None:
    with pytest.raises((SshError, ObserveError)):
        audit_while(vm, lambda: vm.tell("quit"))


def test_a_guest_that_is_paused(vm: PlainVm) -> None:
    vm.tell("stop")
    said = vm.audit(vm.name, "--ssh", vm.name, status=69)
    assert "it does not run (QEMU says paused)" in said
    assert vm.look()["guest"] is None, "the host's side can be audited"
    vm.tell("cont")
    assert vm.both()["guest"] is not None


def test_a_guest_without_page_flags_gets_less(vm: PlainVm) -> None:
    vm.run(HIDE)
    audit = vm.both()
    assert audit["guest"]["account"] is None
    assert part(audit, "guest_ram") == audit["host"]["ram"]["held"]
    assert abs(part(audit, "unexplained")) <= audit["total"] / 100
    said = vm.audit(vm.name, "--ssh", vm.name)
    assert "CONFIG_PROC_PAGE_MONITOR is off" in said
    assert "The guest counts (/proc/meminfo)" in said
    assert f"free {format_size(audit['guest']['meminfo']['MemFree'])[:2]}" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_another_users_vm_is_seen_and_not_read(vm: PlainVm) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresuid(NOBODY, NOBODY, NOBODY)
        found = qemu_of(vm.pid)
        os.write(writing, repr((found.user, found.readable) if found else None).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        assert told.read() == "('root', False)"
    os.waitpid(child, 0)
