# SPDX-License-Identifier: Apache-2.0
"""How the guest tool is used, and what it says to wrong use."""

import pytest
from churn_memory import SECONDS, SIZE, needs_page_flags
from local_guest import LocalShell

BAD_NUMBERS = ["''", "many", "1x", "-4096", "' -4096'", "' 4096'", "+4096", "99999999999999999999"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "expected a subcommand"),
        ("dance", "expected a subcommand"),
        ("churn", "--bytes takes whole pages"),
        ("churn --bytes 4097 --seed 1", "--bytes takes whole pages"),
        ("churn --bytes 4096 --seed 0", "--seed a number other than 0"),
        ("churn --bytes 4096 --seed", "--seed needs a value"),
        ("churn --bytes 4096 --colour red", "unknown option --colour red"),
        ("churn --bytes 4096 --seed 1 --hugepages maybe", "unknown option --hugepages maybe"),
        ("counters", "expected --once, --on-request, or --hz RATE"),
        ("counters --twice", "expected --once, --on-request, or --hz RATE"),
        ("counters --hz 0", "--hz takes 0.01 to 1000, not '0'"),
        ("counters --hz nan", "--hz takes 0.01 to 1000, not 'nan'"),
        ("counters --hz 10x", "--hz takes 0.01 to 1000, not '10x'"),
        ("pages --held-by", "--held-by needs a value"),
        ("race --window 4096 --rounds 1 --seed 1", "--window take whole huge pages"),
        ("race --window 2097152 --rounds 1 --seed 0", "a number other than 0"),
        ("race --window", "--window needs a value"),
        ("race --colour 1", "unknown option --colour"),
        ("witness --bytes 4097 --seed 1", "--bytes takes whole pages"),
        ("witness --colour red", "unknown option --colour"),
        ("starve", "expected the number of a CPU"),
        ("starve x", "is not a whole number"),
        ("starve 1024", "expected the number of a CPU"),
        ("pages --touched-by 1", "unknown option --touched-by"),
        *((f"churn --seed 1 --bytes {number}", "is not a whole number") for number in BAD_NUMBERS),
        pytest.param("pages --held-by me", "is not a whole number", marks=needs_page_flags),
    ],
)
def test_wrong_usage_is_told_on_stderr(shell: LocalShell, arguments: str, words: str) -> None:
    result = shell.run(f"fpr-guest {arguments}", check=False)
    assert (result.status, result.stdout) == (2, b"")
    assert result.stderr.startswith(b"fpr-guest: ")
    assert words in result.stderr.decode()


@pytest.mark.parametrize(
    "command",
    [
        *("dance", "verify all", "free", "free some", "refill", "refill 0", "refill x"),
        *("refill -1", "refill 5x", "refill 99999999999999999999"),
        *("free blocks 1 2", "free blocks 1 2 2", "free blocks 1 0 0", "free blocks 21 2 0"),
        *("free blocks 1 2 0 0", "free blocks -1 2 0", "free blocks 4294967297 2 0"),
        *("free blocks 1 -1 0", "verify " + "x" * 500),
    ],
)
def test_churn_refuses_a_command_it_does_not_know(shell: LocalShell, command: str) -> None:
    with shell.start(f"fpr-guest churn --bytes {SIZE} --seed 1") as churn:
        assert churn.read_line(SECONDS).startswith("filled ")
        churn.write(f"{command}\n".encode())
        result = churn.wait(SECONDS)
    assert (result.status, result.stdout) == (2, b"")
    assert f"churn: unknown command {command[:100]}" in result.stderr.decode()


@pytest.mark.parametrize("command", ["pong", "ping", "ping x", "ping " + "1" * 300])
def test_counters_refuse_a_command_they_do_not_know(shell: LocalShell, command: str) -> None:
    result = shell.run(
        "fpr-guest counters --hz 0.1", stdin=f"{command}\n".encode(), timeout=SECONDS, check=False
    )
    assert result.status == 2
    assert result.stderr.startswith(b"fpr-guest: ")


def test_more_memory_than_there_can_be_is_told_with_the_systems_words(shell: LocalShell) -> None:
    result = shell.run(f"fpr-guest churn --bytes {1 << 62} --seed 1", check=False)
    assert result.status == 1
    assert "Cannot allocate memory" in result.stderr.decode()
