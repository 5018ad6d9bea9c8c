# SPDX-License-Identifier: Apache-2.0
"""The man page and the completions in `share/` name all that the parser knows."""

import argparse
import re
from collections.abc import Iterator

import pytest

from harness.cli.make_manual import FILES, MAN_PAGE, man_page, parsers
from harness.cli.parser import build_parser
from harness.resources import SCENARIOS_DIR

ROOT = SCENARIOS_DIR.parent
SHARE = ROOT / "share"


def commands() -> list[str]:
    """`run`, `image build` and so on."""
    below = list(parsers(build_parser()))[1:]
    return [parser.prog.removeprefix("fpr-harness ") for parser in below]


def options() -> Iterator[str]:
    for parser in parsers(build_parser()):
        for action in parser._actions:
            if action.help != argparse.SUPPRESS:
                yield from action.option_strings


def words(text: str) -> set[str]:
    # Without roff's escapes: a hyphen, and changes of the font.
    plain = re.sub(r"\\f[BIPR]", " ", text.replace("\\-", "-"))
    return set(re.findall(r"[\w-]+", plain))


@pytest.mark.parametrize("name", [MAN_PAGE, *FILES.values()])
def test_every_subcommand_and_option_is_named(name: str) -> None:
    """`make docs` was forgotten where this fails."""
    known = words((SHARE / name).read_text(encoding="utf-8"))
    long_options = {option for option in options() if option.startswith("--")}
    assert "--accel" in long_options
    # fish has the options without their hyphens, zsh those of two letters with `=` after them.
    for option in long_options - {"--help"}:
        assert {option, option.removeprefix("--")} & known, option
    for command in commands():
        assert set(command.split()) <= known, command


def test_the_man_page_has_a_section_for_each_command_and_the_exit_statuses() -> None:
    page = man_page().replace("\\-", "-")
    for command in commands():
        assert f"fpr-harness {command}" in page, command
    for heading in ("EXIT STATUS", "EXAMPLES", "FILES", "SEE ALSO"):
        assert f".SH {heading}\n" in page
    assert "69  an ERROR or a MISS" in page


def test_every_target_of_the_makefile_has_a_line_in_its_help() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.M)
    helped = set(re.findall(r"^([a-z-]+):.*  ## \S", makefile, re.M))
    assert set(phony.split()) - {"system"} == helped
