# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness audit` of a Debian guest that the project did not make: by SSH, sudo and agent."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from plain_vm import PlainVm, advised, debian_vm, part, settled

from harness.deadline import Deadline, wait_for
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


def test_page_cache_and_a_limit_for_the_service_that_reads(vm: PlainVm) -> None:
    read = "cat /dev/vda | head -c 419430400 > /dev/null"
    vm.run(f"systemd-run --unit reader --remain-after-exit sh -c '{read}; sleep 600'")
    before = wait_for(
        lambda: _with_cache(vm.both()), Deadline(120.0, "the service to read"), interval=1.0
    )
    [line] = [
        command["line"]
        for command in advised(before)["page-cache"]["commands"]
        if command["line"].startswith("systemctl set-property")
    ]
    vm.run(line.replace("NAME", "reader").replace("SIZE", "50M"))
    after = settled(vm, 40 * MIB)
    vm.run("systemctl stop reader")
    assert part(after, "page_cache") < part(before, "page_cache") - 150 * MIB
    assert after["host"]["ram"]["held"] < before["host"]["ram"]["held"] - 100 * MIB


def _with_cache(audit: Any) -> Any:
    return audit if part(audit, "page_cache") > 300 * MIB else None


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


def test_who_keeps_the_memory_by_the_kernels_own_structures(vm: PlainVm) -> None:
    pytest.importorskip("drgn")
    release = vm.run("uname -r").strip()
    vmlinux = Path(f"/usr/lib/debug/boot/vmlinux-{release}")
    if not vmlinux.exists():
        pytest.skip(f"no {vmlinux} (package linux-image-{release}-dbg)")
    vm.run("head -c 20000000 /dev/zero > /root/written")
    audit = vm.look("--debug-info", str(vmlinux), "--ssh", vm.name)
    sizes = {
        sort: sum(keeper["size"] for keeper in audit["keepers"] if keeper["sort"] == sort)
        for sort in ("slab", "file", "process", "kernel")
    }
    [written] = [k for k in audit["keepers"] if k["name"] == "vda: root/written"]
    assert written["size"] >= 20000000 // 4096 * 4096
    assert {"dentry", "task_struct"} <= {k["name"] for k in audit["keepers"]}
    assert any(k["name"].startswith("systemd (1)") for k in audit["keepers"])
    # The same as what the guest tool has seen, by quite another way.
    for sort, name in (("slab", "slab"), ("file", "page_cache"), ("process", "anonymous")):
        assert abs(sizes[sort] - part(audit, name)) < 10 * MIB, (sort, sizes, name)


def test_another_kernels_debug_information_is_refused(vm: PlainVm, tmp_path: Path) -> None:
    pytest.importorskip("drgn")
    wrong = tmp_path / "vmlinux"
    wrong.write_bytes(b"no kernel")
    said = vm.audit("debian", "--debug-info", str(wrong), status=69)
    assert "is no debug information of the guest's kernel 6.1" in said
    assert "-dbg" in said
