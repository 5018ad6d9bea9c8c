# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness bisect-releases` finds where a scenario turned, with as few builds as it takes."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from harness.cli import bisect_releases_command as subject
from harness.cli.bisect_search import Boundary, Word, search
from harness.cli.main import main
from harness.errors import ImageError, InterruptedRunError
from harness.image.kernel_builds import KernelBuild
from harness.record.facts import Cause, Verdict
from harness.report.summary import RunSummary


@pytest.mark.parametrize("turn", range(1, 16))
@pytest.mark.parametrize("first", ["bad", "good"])
def test_the_place_is_found_in_the_logarithm_of_builds(turn: int, first: Word) -> None:
    other: Word = "good" if first == "bad" else "bad"
    asked: list[int] = []

    def judge(place: int) -> Word:
        asked.append(place)
        return first if place < turn else other

    assert search(16, judge) == Boundary(turn - 1, turn, other)
    assert len(asked) == len(set(asked)) <= 2 + 4


def test_builds_that_say_nothing_are_passed_by_and_told() -> None:
    words: list[Word] = ["skip", "bad", "bad", "skip", "skip", "good", "good", "skip"]
    assert search(8, words.__getitem__) == Boundary(2, 5, "good")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["good", "skip", "good"], "good"),
        (["bad"] * 3, "bad"),
        (["skip"] * 3, "skip"),
        (["skip", "bad", "skip"], "skip"),
    ],
)
def test_without_two_that_differ_there_is_no_boundary(words: list[Word], found: Word) -> None:
    assert search(len(words), words.__getitem__) == found


class Archive:
    """Holds four builds of 6.12, one of them not whole, and one from backports."""

    def __init__(self, *_: object) -> None:
        pass

    def builds(self) -> list[KernelBuild]:
        names = {"6.12.101": "", "6.12.103": "modules", "6.12.105": "", "6.12.107": "", "7.3.4": ""}
        return [
            KernelBuild(
                f"linux-image-{name}-cloud-amd64",
                f"{name}-1",
                "trixie-backports" if name.startswith("7") else "trixie-security",
                (missing,) if missing else (),
            )
            for name, missing in names.items()
        ]


@pytest.fixture
def bisect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(verdict: Callable[[str], Verdict], *words: str) -> int:
        def carry_out(options: SimpleNamespace, *_: object) -> list[RunSummary]:
            (image,) = options.image
            found = verdict(image)
            cause = Cause.GUEST_CRASH if found is Verdict.FAIL else None
            run = RunSummary("s", "s", image, 1, kernel="6.12", verdict=found, cause=cause)
            return [run]

        monkeypatch.setattr(subject, "Archive", Archive)
        monkeypatch.setattr(subject, "check_default_base", lambda: None)
        monkeypatch.setattr(subject, "run_until_decided", carry_out)
        return main(["bisect-releases", "reclaim-basic", "--image", "trixie", *words])

    return run


def test_a_fix_is_found_among_whole_builds_of_the_series_of_the_suite(
    bisect: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    def verdict(image: str) -> Verdict:
        return Verdict.FAIL if image == "trixie=6.12.101" else Verdict.PASS

    assert bisect(verdict) == 0
    said = capsys.readouterr()
    assert said.out.startswith("fixed between 6.12.101-1 and 6.12.105-1\n")
    assert "3 builds, 6.12.101-1 to 6.12.107-1" in said.err
    assert "6.12.103" not in said.err
    assert "7.3.4" not in said.err


def test_no_turn_and_no_answer_have_statuses_of_their_own(bisect: Callable[..., int]) -> None:
    assert bisect(lambda _image: Verdict.PASS) == 1
    assert bisect(lambda _image: Verdict.MISS) == 69
    assert bisect(lambda _image: Verdict.PASS, "--series", "7.3") == 2
    assert bisect(lambda _image: Verdict.PASS, "--kernel", "/") == 2
    assert bisect(lambda _image: Verdict.PASS, "--clock", "virtual", "--accel", "kvm") == 2


def test_a_build_that_cannot_be_fetched_is_passed_by_and_ctrl_c_ends_it(
    bisect: Callable[..., int],
) -> None:
    def verdict(image: str) -> Verdict:
        if image == "trixie=6.12.105":
            raise ImageError("not there")
        return Verdict.FAIL if image == "trixie=6.12.101" else Verdict.PASS

    assert bisect(verdict) == 0

    def interrupted(_image: str) -> Verdict:
        raise InterruptedRunError("stopped")

    assert bisect(interrupted) == 69
