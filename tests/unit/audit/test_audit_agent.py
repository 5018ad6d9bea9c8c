# SPDX-License-Identifier: Apache-2.0
"""The way in through QEMU's guest agent, of which this host plays the guest."""

import json
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from churn_memory import needs_page_flags, needs_root
from fake_agent import FakeAgent, serving

from harness.audit import agent_channel
from harness.audit import guest_tool as tool
from harness.audit.agent_channel import SocketAgent, refused
from harness.audit.agent_visit import LIFE_SECONDS, MAKE_SCRIPT, AgentVisit
from harness.audit.guest_tool import guest_tool
from harness.audit.qemu_words import read_words
from harness.audit.virsh import refusal
from harness.deadline import Deadline, wait_for
from harness.errors import ObserveError
from harness.guest.page_stream import PageReader
from harness.kernel.page_kinds import PageKind

pytestmark = pytest.mark.usefixtures("one_visit")


@pytest.fixture(autouse=True)
def _hurried_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tool, which reads this host's pages here, does not wait for the host's other work."""
    monkeypatch.setattr(tool, "PATIENT_SECONDS", 0)


@pytest.fixture
def path() -> Iterator[Path]:
    """A short one, for a socket."""
    with tempfile.TemporaryDirectory(prefix="fprt") as directory:
        yield Path(directory) / "ga.sock"


@pytest.fixture
def agent(path: Path) -> Iterator[FakeAgent]:
    with serving(path) as running:
        yield running


def left() -> list[Path]:
    return [file for base in ("/tmp", "/run") for file in Path(base).glob("fpr-audit.*")]


@pytest.mark.whole_command
@needs_root
@needs_page_flags
def test_a_visit_tells_facts_runs_the_tool_twice_and_leaves_nothing(
    path: Path, agent: FakeAgent
) -> None:
    with AgentVisit(SocketAgent(path), guest_tool()) as visit:
        assert "== fpr-audit: zoneinfo" in visit.facts()
        [place] = left()
        assert place.stat().st_mode & 0o777 == 0o700
        with PageReader(visit, 1 << 32, kinds=True) as reader:
            kinds = reader.read().states
            assert len(reader.read().states) > 0
    assert left() == []
    assert np.count_nonzero(kinds == PageKind.ANONYMOUS) > 1000
    assert agent.seen.count("guest-file-close") == agent.seen.count("guest-file-open") == 3


@pytest.mark.whole_command
def test_a_visit_that_is_given_up_leaves_nothing(path: Path, agent: FakeAgent) -> None:
    with AgentVisit(SocketAgent(path), b"") as visit:
        visit.facts()
        assert len(left()) == 1
    assert left() == []
    assert agent.seen[-2:] == ["guest-exec", "guest-exec-status"]


@pytest.mark.whole_command
def test_a_visit_that_is_cut_is_cleaned_up_by_the_guest_itself() -> None:
    script = MAKE_SCRIPT.replace("NAME", "fpr-audit.test").replace(f"-lt {LIFE_SECONDS}", "-lt 1")
    subprocess.run(["sh", "-c", script], check=True, capture_output=True)
    assert [file.name for file in left()] == ["fpr-audit.test"]
    wait_for(lambda: None if left() else True, Deadline(20.0, "the directory to be removed"))


@pytest.mark.whole_command
def test_an_answer_that_ctrl_c_left_unread_is_not_taken_for_the_next(
    path: Path, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = SocketAgent(path)
    visit = AgentVisit(channel, b"")
    with monkeypatch.context() as patch:
        patch.setattr(channel, "_line", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            visit.facts()
    visit.close()
    assert agent.seen == [
        "guest-sync-delimited",
        "guest-exec",
        "guest-sync-delimited",
        "guest-exec",
        "guest-exec-status",
    ]
    assert left() == []


@pytest.mark.whole_command
def test_a_tool_that_cannot_run_says_so_and_is_removed(path: Path, agent: FakeAgent) -> None:
    with AgentVisit(SocketAgent(path), b"#!/bin/sh\necho no memory >&2; kill -9 $$\n") as visit:
        visit.facts()
        with pytest.raises(ObserveError, match=r"the guest tool ended \(status 137\): .*no memory"):
            visit.start("")
    assert left() == []
    assert agent.seen


def test_what_an_earlier_client_left_is_skipped(path: Path, agent: FakeAgent) -> None:
    agent.before = b'{"return": {"pid": 5}}\n{"return": 17}\n'
    agent.refuses["guest-info"] = "words"
    channel = SocketAgent(path)
    with pytest.raises(ObserveError, match="refuses guest-info: words"):
        channel.execute("guest-info", {})
    channel.close()


def test_an_agent_that_is_not_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_channel, "SYNC_SECONDS", 0.05)
    with pytest.raises(ObserveError, match="cannot reach the guest agent's socket"):
        SocketAgent(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        with pytest.raises(ObserveError, match="the guest agent to answer") as told:
            SocketAgent(path)
    assert "systemctl status qemu-guest-agent" in told.value.hint


class Talkative:
    """A connection on which there is always one more answer, to something else."""

    def __init__(self) -> None:
        self.received = 0

    def connect(self, _address: str) -> None:
        """There it is."""

    def settimeout(self, _seconds: float) -> None:
        """It never blocks."""

    def sendall(self, _data: bytes) -> None:
        """It listens to nothing."""

    def recv(self, _size: int) -> bytes:
        self.received += 1
        assert self.received < 100_000, "nobody gave up"
        return b'\xff{"return": -1}\n'

    def close(self) -> None:
        """There is none."""


def test_an_agent_that_never_stops_talking_is_given_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_channel, "SYNC_SECONDS", 0.02)
    monkeypatch.setattr(socket, "socket", lambda _family: Talkative())
    with pytest.raises(ObserveError, match="the guest agent to answer"):
        SocketAgent(path)


class Nonsense:
    """An agent's connection; every command has the answers given for it."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self._answers = answers

    def execute(self, command: str, *_: object, **__: object) -> Any:
        return self._answers.get(command)

    def close(self) -> None:
        """There is none."""


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {"guest-exec": 5},
        {"guest-exec": {"pid": "1"}},
        {"guest-exec": {"pid": 1}, "guest-exec-status": [True]},
        {"guest-exec": {"pid": 1}, "guest-exec-status": {"exited": True, "exitcode": "0"}},
        {"guest-exec": {"pid": 1}, "guest-exec-status": {"exited": True, "signal": None}},
        {"guest-exec": {"pid": 1}, "guest-exec-status": {"exited": True, "out-data": 7}},
    ],
)
def test_nonsense_of_an_agent_is_told_as_such(answers: dict[str, Any]) -> None:
    with AgentVisit(Nonsense(answers), b"") as visit, pytest.raises(ObserveError, match="agent"):
        visit.facts()


@pytest.mark.parametrize(
    "said",
    [
        "Command guest-exec has been disabled",
        "The command guest-exec has been disabled for this instance",
        "The command guest-exec has not been found",
    ],
)
def test_an_agent_that_may_run_nothing_says_what_to_allow(path: Path, said: str) -> None:
    with serving(path) as agent:
        agent.refuses["guest-exec"] = said
        with AgentVisit(SocketAgent(path), b"") as visit, pytest.raises(ObserveError) as told:
            visit.facts()
    assert said in told.value.message
    assert "block-rpcs" in told.value.hint
    assert refused("guest-exec", "whatever").hint != told.value.hint


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("error: argument unsupported: QEMU guest agent is not configured", "has no port"),
        (
            "error: Guest agent is not responding: QEMU guest agent is not connected",
            "does not answer",
        ),
        ("error: Requested operation is not valid: domain is not running", "does not run"),
        ("error: failed to get domain 'web'", "has no domain"),
        ("error: something else", "something else"),
    ],
)
def test_each_refusal_of_virsh_has_one_message(said: str, words: str) -> None:
    error = refusal("web", said)
    assert words in error.message
    assert error.hint


def test_the_command_line_names_the_agents_socket() -> None:
    port = "-chardev socket,id=qga0,path=/run/ga,server=on,wait=off -device virtio-serial,id=s"
    named = f"{port} -device virtserialport,chardev=qga0,name=org.qemu.guest_agent.0"
    other = f"{port} -device virtserialport,chardev=qga0,name=com.example.1"
    json_words = json.dumps(
        {"driver": "virtserialport", "chardev": "qga0", "name": "org.qemu.guest_agent.0"}
    )
    assert read_words(["qemu", *named.split()]).agents == ("/run/ga",)
    assert read_words(["qemu", *other.split()]).agents == ()
    assert read_words(["qemu", *port.split(), "-device", json_words]).agents == ("/run/ga",)
