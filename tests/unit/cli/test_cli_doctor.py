# SPDX-License-Identifier: Apache-2.0
"""What doctor makes of a host's own words: a state, and for all that is not ok what to do."""

from pathlib import Path

import pytest
from qemus import a_qemu

from harness.cli.doctor_findings import Trial, judge_accelerator, judge_programs, judge_qemu
from harness.errors import ImageError
from harness.machine.accel import kvm_unusable
from harness.machine.qemu_user import AS_ROOT, QemuUser
from harness.observe.host_report import (
    Finding,
    judge_cgroup,
    judge_disk,
    judge_kernel,
    judge_ksm,
    judge_memory,
    judge_swap,
    judge_thp,
    read_disk,
    read_host,
)
from harness.observe.page_walk import ScanSupport
from harness.units import GIB, MIB

DATA = Path(__file__).parents[2] / "data" / "host"
DEFRAG = (DATA / "thp-defrag.txt").read_text()


def recorded(name: str) -> str:
    return (DATA / name).read_text(encoding="utf-8")


def found(finding: Finding) -> tuple[str, str]:
    """State and sight; an advice is there exactly if something is not ok."""
    assert bool(finding.advice) == (finding.state != "ok"), finding
    return finding.state, finding.seen


@pytest.mark.parametrize(
    ("file", "state", "policy"),
    [
        ("thp-madvise", "ok", "madvise"),
        ("thp-always", "ok", "always"),
        ("thp-never", "warn", "nev"),
    ],
)
def test_huge_pages(file: str, state: str, policy: str) -> None:
    seen = found(judge_thp(recorded(f"{file}.txt"), DEFRAG))
    assert seen[0] == state
    assert f": {policy}" in seen[1]
    assert "defrag: madvise" in seen[1]


def test_kernel_without_huge_pages() -> None:
    assert found(judge_thp(None, None))[0] == "warn"


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("swaps-none", ("ok", "none")),
        ("swaps-idle", ("ok", "2GiB, not in use")),
        ("swaps-in-use", ("warn", "512MiB of 3GiB in use")),
    ],
)
def test_swap(file: str, expected: tuple[str, str]) -> None:
    assert found(judge_swap(recorded(f"{file}.txt"))) == expected


def test_kernel_that_cannot_swap() -> None:
    assert found(judge_swap(None)) == ("ok", "none")


def test_same_page_merging() -> None:
    assert found(judge_ksm(None, None))[0] == "ok"
    assert found(judge_ksm(recorded("ksm-off.txt"), "0\n")) == ("ok", "off")
    state, seen = found(judge_ksm(recorded("ksm-on.txt"), "1234\n"))
    assert (state, "1234" in seen) == ("warn", True)


@pytest.mark.parametrize(
    ("support", "state"),
    [
        (ScanSupport.FULL, "ok"),
        (ScanSupport.ZERO_PAGE, "warn"),
        (ScanSupport.NONE, "warn"),
    ],
)
def test_how_well_the_kernel_tells_pages(support: ScanSupport, state: str) -> None:
    finding = judge_kernel("6.1.0-50-amd64", support)
    assert found(finding)[0] == state
    assert "6.1.0-50-amd64" in finding.seen


@pytest.mark.parametrize("name", ["memory.current", "memory.usage_in_bytes"])
def test_readable_charge_of_the_control_group(name: str) -> None:
    state, seen = found(judge_cgroup("", Path("/group") / name))
    assert state == "ok"
    assert f"/group/{name} is readable" in seen
    assert ("v2" if name == "memory.current" else "v1") in seen


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (recorded("cgroup-v1.txt"), "v1, but"),
        (recorded("cgroup-v2.txt"), "v2, but memory.current is not readable"),
        ("", "no cgroup"),
    ],
)
def test_charge_that_is_not_readable(groups: str, words: str) -> None:
    state, seen = found(judge_cgroup(groups, None))
    assert (state, words in seen) == ("warn", True)


def test_memory_says_how_many_guests_fit_and_by_whose_limit() -> None:
    assert found(judge_memory(4 * GIB, None, 2)) == ("ok", "4GiB available: 2 guests of 1GiB fit")
    assert "within the cgroup's limit: 1 guest of" in judge_memory(9 * GIB, GIB, 1).seen
    assert "limit" not in judge_memory(GIB, 9 * GIB, 1).seen
    assert found(judge_memory(MIB, None, 0))[0] == "bad"


@pytest.mark.parametrize(
    ("free", "writable", "state"),
    [(GIB, True, "ok"), (GIB - 1, True, "warn"), (100 * MIB, True, "bad"), (GIB, False, "bad")],
)
def test_disk(free: int, writable: bool, state: str) -> None:
    finding = judge_disk("disk", Path("/cache"), free, writable, "put it elsewhere")
    assert found(finding)[0] == state
    assert "elsewhere" in finding.advice or state == "ok"


def test_disk_of_a_directory_not_made_yet_is_that_of_the_nearest_one(tmp_path: Path) -> None:
    finding = read_disk("disk", tmp_path / "not" / "yet", "")
    assert str(tmp_path / "not" / "yet") in finding.seen
    assert "free for" in finding.seen


def test_bare_host_gives_every_finding_and_no_error(tmp_path: Path) -> None:
    findings = list(read_host(ScanSupport.NONE, proc=tmp_path, sys=tmp_path))
    assert [f.name for f in findings] == ["kernel", "huge pages", "swap", "KSM", "cgroup"]


def test_old_qemu_under_tcg_has_a_known_defect_and_a_remedy() -> None:
    old, new = a_qemu(version="7.2.22"), a_qemu(version="10.0.2")
    finding = judge_qemu(old, ("kvm", "tcg"))
    assert found(finding)[0] == "warn"
    assert "cmpxchg16b" in finding.seen
    assert "-cx16" in finding.advice
    assert found(judge_qemu(old, ("kvm",)))[0] == "ok"
    assert found(judge_qemu(new, ("kvm", "tcg")))[0] == "ok"


def test_whose_rights_qemu_has_is_told() -> None:
    nobody = a_qemu(user=QemuUser("nobody", 65534, 65534, (65534,)))
    assert " runs as nobody, no known defects" in judge_qemu(nobody, ("tcg",)).seen
    forced = judge_qemu(a_qemu(as_root="nobody cannot run it"), ("tcg",))
    assert found(forced)[0] == "warn"
    assert "it runs as root: nobody cannot run it" in forced.seen
    assert "CAP_SYS_PTRACE" in forced.advice
    asked = judge_qemu(a_qemu(as_root=AS_ROOT), ("tcg",))
    assert found(asked)[0] == "ok"
    assert "it runs as root: FPR_QEMU_USER asks for that" in asked.seen


def test_programs() -> None:
    def everything(program: str) -> str:
        return f"/bin/{program}"

    def no_apt(program: str) -> str | None:
        return None if program == "apt-get" else program

    compiler = ImageError("it does not compile:\ncannot find -lc", hint="install libc6-dev")
    assert found(judge_programs(everything, None, built=False))[0] == "ok"
    assert found(judge_programs(no_apt, None, built=False)) == ("bad", "no apt-get")
    assert found(judge_programs(no_apt, None, built=True))[0] == "warn"
    assert found(judge_programs(lambda _program: None, None, built=True))[0] == "bad"  # setpriv
    no_ssh = judge_programs(lambda name: None if name == "ssh" else name, None, built=False)
    assert found(no_ssh) == ("warn", "no ssh (needed for `shell`)")
    assert no_ssh.advice == "install openssh-client"
    lacking = judge_programs(no_apt, compiler, built=False)
    assert lacking.seen == "no apt-get; it does not compile"
    assert lacking.advice == "install apt; install libc6-dev"


def test_kvm_that_refuses_a_register_is_told_in_clear_words() -> None:
    trial = Trial(recorded("kvm-msr.txt"), hint="use --accel tcg or auto")
    finding = judge_accelerator("kvm", trial, only=False)
    assert found(finding)[0] == "warn"
    assert finding.seen.startswith("/dev/kvm can be opened, but no guest starts")
    assert "failed to set MSR 0x10a" in finding.seen
    assert "kvm.c" not in finding.seen
    assert "TCG is used" in finding.advice
    assert found(judge_accelerator("kvm", trial, only=True))[0] == "bad"


def test_kvm_without_its_device(tmp_path: Path) -> None:
    trial = Trial(kvm_unusable(tmp_path / "kvm"), launched=False)
    finding = judge_accelerator("kvm", trial, only=False)
    assert found(finding) == ("warn", f"{tmp_path}/kvm does not exist")
    assert "virtualization" in finding.advice


def test_kvm_whose_device_may_not_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kvm").touch()
    monkeypatch.setattr("os.access", lambda *_args: False)
    trial = Trial(kvm_unusable(tmp_path / "kvm"), launched=False)
    finding = judge_accelerator("kvm", trial, only=False)
    assert found(finding) == ("warn", f"you may not open {tmp_path}/kvm")
    assert "as root" in finding.advice


def test_guest_that_does_not_become_ready_is_told_in_one_line_and_never_sends_back_here() -> None:
    trial = Trial(
        "not ready in 60 s\nIts console ended with:\n...", hint="ask `fpr-harness doctor`"
    )
    finding = judge_accelerator("tcg", trial, only=False)
    assert found(finding) == ("bad", "not ready in 60 s")
    assert "doctor" not in finding.advice
    assert "fpr-harness shell --accel tcg" in finding.advice
    assert "not ready" in judge_accelerator("kvm", trial, only=False).seen


def test_kvm_that_works_though_auto_believes_it_does_not() -> None:
    trial = Trial(None, 1.4, "6.1.0", remembered="died (remembered in /x; delete it to try again)")
    finding = judge_accelerator("kvm", trial, only=False)
    assert found(finding)[0] == "warn"
    assert "delete it" in finding.advice


def test_accelerator_that_works() -> None:
    finding = judge_accelerator("tcg", Trial(None, 1.44, "6.1.0"), only=False)
    assert found(finding) == ("ok", "a guest became ready in 1.4 s (Linux 6.1.0)")
