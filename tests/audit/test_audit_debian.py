# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness audit` of a Debian guest that the project did not make: by SSH, sudo and agent."""

from collections.abc import Iterator

import pytest
from plain_vm import PlainVm, debian_vm, part

from harness.units import MIB

pytestmark = pytest.mark.vm

LEFT = "ls /tmp /run | grep fpr-audit; pgrep -fa 'pages [-]-kinds'; :"
"""Lists what a visit could leave in the guest."""


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainVm]:
    with debian_vm(tmp_path_factory.mktemp("debian")) as running:
        yield running


def test_both_sides_by_ssh(vm: PlainVm) -> None:
    audit = vm.both()
    assert abs(part(audit, "unexplained")) <= audit["total"] / 100
    assert audit["guest"]["reporting"] is True
    assert part(audit, "anonymous") > 10 * MIB, "systemd, sshd, the agent"
    assert part(audit, "page_cache") > 30 * MIB, "the programs that booted it"
    assert audit["guest"]["account"]["absent_written"] == 0
    assert vm.run(LEFT) == ""


def test_a_user_with_sudo_is_as_good_as_root(vm: PlainVm) -> None:
    audit = vm.look("--ssh", "someone@debian")
    assert part(audit, "anonymous") > 10 * MIB
    assert vm.run(LEFT) == ""


def test_a_user_whose_sudo_asks_for_a_password_is_told(vm: PlainVm) -> None:
    said = vm.audit("debian", "--ssh", "nobodys@debian", status=69)
    assert "its sudo asks for a password" in said
    assert "--ssh root@debian" in said


def test_a_user_without_a_key_is_told(vm: PlainVm) -> None:
    said = vm.audit("debian", "--ssh", "daemon@debian", status=69)
    assert "would ask for a password" in said


@pytest.mark.parametrize("named", [False, True])
def test_the_guest_agent_shows_the_same(vm: PlainVm, named: bool) -> None:
    by_ssh = vm.both()
    socket = (str(vm.directory / "ga.sock"),) if named else ()
    audit = vm.look("--guest-agent", *socket)
    assert abs(part(audit, "unexplained")) <= audit["total"] / 100
    for name in ("anonymous", "page_cache", "slab", "kernel"):
        assert abs(part(audit, name) - part(by_ssh, name)) < 24 * MIB, name
    assert audit["guest"]["account"]["absent_written"] == 0
    assert vm.run(LEFT) == ""


def test_an_agent_that_does_not_run(vm: PlainVm) -> None:
    vm.run("systemctl stop qemu-guest-agent")
    try:
        said = vm.audit("debian", "--guest-agent", status=69)
    finally:
        vm.run("systemctl start qemu-guest-agent")
    assert "the guest agent to answer" in said
    assert "systemctl status qemu-guest-agent" in said
    assert vm.look("--guest-agent")["guest"] is not None


def test_an_agent_that_may_run_nothing(vm: PlainVm) -> None:
    """As Fedora and its kin configure it."""
    vm.run(
        "mkdir -p /run/systemd/system/qemu-guest-agent.service.d; cd $_; "
        "printf '[Service]\\nExecStart=\\nExecStart=/usr/sbin/qemu-ga -b guest-exec\\n' > b.conf; "
        "systemctl daemon-reload; systemctl restart qemu-guest-agent"
    )
    try:
        said = vm.audit("debian", "--guest-agent", status=69)
    finally:
        vm.run(
            "rm /run/systemd/system/qemu-guest-agent.service.d/b.conf; "
            "systemctl daemon-reload; systemctl restart qemu-guest-agent"
        )
    assert "refuses guest-exec" in said
    assert "block-rpcs" in said
