# SPDX-License-Identifier: Apache-2.0
"""Bad usage of `fpr-harness audit` is told before anything is looked at."""

from pathlib import Path

import pytest

from harness.cli.audit_command import execute
from harness.cli.parser import build_parser
from harness.errors import UsageError

OLD = str(Path(__file__).parents[2] / "data" / "audit" / "audit.json")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([""], "a VM without a name"),
        (["--json"], "--json needs a VM"),
        (["--debug-info", "vmlinux"], "--debug-info needs a VM"),
        (["--ssh", "root@guest"], "--ssh needs a VM"),
        (["--compare", OLD], "--compare needs a VM"),
        (["web", "--json", "--compare", OLD], "does not go with --json"),
        (["web", "--watch", "--json"], "does not go with --json"),
        (["web", "--watch", "--html", "x.html"], "does not go with --html"),
        (["web", "--html", "/nowhere/x.html"], "no such directory"),
        (["web", "--html", "/tmp"], "a directory, not a regular file"),
        (["web", "--html", "/dev/full"], "a character device, not a regular file"),
        (["--html", "x.html"], "--html needs a VM"),
        (["--guest-agent"], "--guest-agent needs a VM"),
        (["--domain", "web", "--guest-agent", "/run/ga"], "libvirt holds it"),
        (["web", "--watch", "0.5"], "from 1 to 86400"),
        (["web", "--watch", "nan"], "from 1 to 86400"),
        (["web", "--watch", "inf"], "from 1 to 86400"),
        (["web", "--ssh", "a b"], "is no destination"),
        (["web", "--compare", "/nowhere"], "No such file"),
        (["web", "--compare", "/dev/zero"], "a character device, not a regular file"),
        (["web", "--compare", __file__], "is not an audit"),
        (["--domain", ""], "is no name of a domain"),
    ],
)
def test_bad_usage(words: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        execute(build_parser().parse_args(["audit", *words]))
