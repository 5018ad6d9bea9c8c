# SPDX-License-Identifier: Apache-2.0
"""The way in by ssh(1): its command line, its messages, and a visit without a network."""

import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from churn_memory import needs_page_flags, needs_root

from harness.audit import guest_tool as tool
from harness.audit import ssh_visit
from harness.audit.guest_told import parse_facts
from harness.audit.guest_tool import guest_tool
from harness.audit.ssh_visit import SshVisit
from harness.audit.ssh_words import Destination, meaning, parse_destination, ssh_command
from harness.errors import SshError, UsageError
from harness.guest.page_stream import PageReader
from harness.kernel.page_kinds import PageKind

THERE = Destination("guest", "root", 2222)

pytestmark = pytest.mark.usefixtures("one_visit")


@pytest.fixture(autouse=True)
def _hurried_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tool, which reads this host's pages here, does not wait for the host's other work."""
    monkeypatch.setattr(tool, "PATIENT_SECONDS", 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("root@guest:2222", THERE),
        ("guest", Destination("guest")),
        ("me@10.0.0.7", Destination("10.0.0.7", "me")),
        ("me@[fe80::1%eth0]:22", Destination("fe80::1%eth0", "me", 22)),
    ],
)
def test_destinations(text: str, expected: Destination) -> None:
    assert parse_destination(text) == expected


@pytest.mark.parametrize(
    "text", ["", "-oProxyCommand=id", "a b", "root@", "host:99999", "host:0", "fe80::1"]
)
def test_what_is_no_destination_is_bad_usage(text: str) -> None:
    with pytest.raises(UsageError, match="is no destination"):
        parse_destination(text)


def test_ssh_asks_nothing_and_takes_no_word_for_an_option() -> None:
    command = ssh_command(THERE, 4711)
    assert "BatchMode=yes" in command
    assert command[command.index("-p") + 1] == "2222"
    assert command[-3:-1] == ["--", "root@guest"]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
            "is not the one in known_hosts",
        ),
        (
            "No ED25519 host key is known for guest\nHost key verification failed.",
            "is not in known_hosts",
        ),
        ("root@guest: Permission denied (publickey,password).", "would ask for a password"),
        ("sudo: a password is required", "its sudo asks for a password"),
        ("sh: 1: exec: sudo: not found", "has no sudo"),
        (
            "neither /tmp nor /run of the guest takes a program",
            "neither /tmp nor /run of the guest takes a program",
        ),
        ("hostname contains invalid characters", "is no name of a host"),
        ("ssh: Could not resolve hostname guest: Name or service not known", "has no address"),
        ("ssh: connect to host guest port 22: Connection refused", "nothing listens for SSH"),
        ("ssh: connect to host guest port 22: Connection timed out", "does not answer"),
    ],
)
def test_each_refusal_has_one_message(said: str, words: str) -> None:
    error = meaning(THERE, said)
    assert error is not None
    assert words in error.message
    assert error.hint
    assert "{" not in str(error)


@pytest.mark.parametrize(
    "said",
    [
        "fpr-audit: exec: line 59: /proc/self/fd/3: Permission denied",
        "bash: line 1: exec: nc: not found\nConnection closed by UNKNOWN port 65535",
    ],
)
def test_what_is_not_ssh_refusing_a_key_is_not_explained_so(said: str) -> None:
    assert meaning(THERE, said) is None


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `ssh` that runs the command here, where this host plays the guest."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    write(tmp_path, 'for last; do :; done; eval "$last"')
    return tmp_path


def write(directory: Path, script: str) -> None:
    program = directory / "ssh"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def left() -> list[Path]:
    return [file for base in ("/tmp", "/run") for file in Path(base).glob("fpr-audit.*")]


@pytest.mark.whole_command
@needs_root
@needs_page_flags
def test_a_visit_tells_facts_runs_the_tool_and_leaves_nothing(path: Path) -> None:
    del path
    with SshVisit(THERE, guest_tool()) as visit:
        assert "== fpr-audit: zoneinfo" in visit.facts()
        with PageReader(visit, 1 << 32, kinds=True) as reader:
            kinds = reader.read().states
            assert left() == []
            assert len(reader.read().states) > 0
    assert np.count_nonzero(kinds == PageKind.ANONYMOUS) > 1000
    assert np.count_nonzero(kinds == PageKind.SLAB) > 100


@pytest.mark.whole_command
@needs_root
@pytest.mark.parametrize("shell", ["bash", "csh", "dash", "fish", "ksh", "tcsh", "zsh"])
def test_every_login_shell_passes_the_script_on(path: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    write(path, f'echo "Welcome!"; for last; do :; done; exec {shell} -c "$last"')
    with SshVisit(THERE, bytes(1 << 20)) as visit:
        assert "== fpr-audit: zoneinfo" in visit.facts()
    assert left() == []


@pytest.mark.whole_command
@needs_root
def test_half_a_tool_is_removed(path: Path) -> None:
    del path
    with SshVisit(THERE, bytes(1 << 20)) as visit:
        visit.facts()
        visit.write(bytes(1000))
        assert len(left()) == 1
    assert left() == []


@pytest.mark.whole_command
def test_a_connection_that_breaks_is_one_error(path: Path) -> None:
    write(path, "echo nonsense; printf 'Connection reset by peer\\r\\n' >&2; exit 255")
    with (
        SshVisit(THERE, b"") as visit,
        pytest.raises(SshError, match=r"ended early .*255.*Connection reset by peer\n") as told,
    ):
        visit.facts()
    assert "try by hand: ssh -p 2222 root@guest true" in told.value.hint


@pytest.mark.whole_command
@needs_root
def test_a_greeting_without_an_end_of_line_hides_nothing(path: Path) -> None:
    write(path, 'printf "Last login: today"; for last; do :; done; eval "$last"')
    with SshVisit(THERE, bytes(1 << 20)) as visit:
        assert parse_facts(visit.facts(), offered=True, at=0.0).release


@pytest.mark.whole_command
def test_an_account_that_may_not_be_used_is_quoted(path: Path) -> None:
    """Cloud images refuse root so, on standard output."""
    write(path, 'echo \'Please login as the user "debian" rather than the user "root".\'; exit 142')
    with SshVisit(THERE, b"") as visit, pytest.raises(SshError, match="Please login as the user"):
        visit.facts()


@pytest.mark.whole_command
def test_a_guest_that_complains_without_end_fills_no_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_visit, "STDERR_BYTES", 1 << 20)
    write(path, "sleep 0.2; exec yes complaint >&2")
    with SshVisit(THERE, b"") as visit:
        with pytest.raises(SshError, match=r"ended early \(ssh's status -25\): \w*\ncomplaint"):
            visit.facts()
        assert os.fstat(visit._stderr.fileno()).st_size <= 1 << 20
