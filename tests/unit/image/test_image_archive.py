# SPDX-License-Identifier: Apache-2.0
"""Which archive an image comes from, and whose signature it must bear: the host's own apt's."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.image.archive import choose_archive, signed_by

BOTH = "/usr/share/keyrings/a.gpg,/usr/share/keyrings/b.gpg"
DEB822 = """\
# The distribution.
Types: deb
URIs: http://one.example/debian
  http://two.example/debian/
# A comment among the fields.
Suites: bookworm bookworm-updates
Components: main
signed-by: /usr/share/keyrings/a.gpg /usr/share/keyrings/b.gpg

Types: deb
URIs: http://three.example/debian
Suites: sid
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEZ
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: http://four.example/debian
Suites: sid
"""

ONE_LINE = """\
# deb [signed-by=/never.gpg] http://one.example/debian bookworm main
deb [arch=amd64 Signed-By=/usr/share/keyrings/a.gpg] http://one.example/debian/ bookworm main
deb-src [signed-by=/source.gpg] http://two.example/debian bookworm main
deb http://two.example/debian bookworm main
"""


@pytest.mark.parametrize(
    ("sources", "uri", "key"),
    [
        (
            DEB822,
            "http://one.example/debian",
            "/usr/share/keyrings/a.gpg,/usr/share/keyrings/b.gpg",
        ),
        (
            DEB822,
            "http://two.example/debian",
            "/usr/share/keyrings/a.gpg,/usr/share/keyrings/b.gpg",
        ),
        (DEB822, "http://four.example/debian", ""),
        (DEB822, "http://one.example", ""),
        (ONE_LINE, "http://one.example/debian", "/usr/share/keyrings/a.gpg"),
        (ONE_LINE, "http://two.example/debian", ""),
        ("", "http://one.example/debian", ""),
    ],
)
def test_keyring_of_an_archive(sources: str, uri: str, key: str) -> None:
    assert signed_by(sources, uri) == key
    assert signed_by(sources, f"{uri}/") == key


def test_key_written_into_the_file_is_its_text() -> None:
    assert signed_by(DEB822, "http://three.example/debian") == (
        "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEZ\n-----END PGP PUBLIC KEY BLOCK-----\n"
    )


@given(st.text("deb :[]/.-#\nURIsgn-By=", max_size=80))
def test_no_sources_file_breaks_it(text: str) -> None:
    assert isinstance(signed_by(text, "http://one.example/debian"), str)


def test_debians_own_archive_is_taken_before_others_and_without_side_suites() -> None:
    targets = (
        "Other|bookworm|/etc/apt/sources.list.d/other.list:1|http://other.example/\n"
        "Debian|bookworm-security|/etc/apt/sources.list.d/debian.sources:2|http://sec.example/\n"
        "Debian|bookworm|/etc/apt/sources.list.d/debian.sources:1|http://deb.example/debian/\n"
    )
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    assert choose_archive(targets) == ("http://deb.example/debian/", sources)
    assert choose_archive("") is None


def test_security_updates_come_from_an_archive_of_their_own() -> None:
    targets = (
        "Debian|bookworm|/etc/apt/sources.list.d/debian.sources:1|http://deb.example/debian/\n"
        "Debian|bookworm-security|/etc/apt/sources.list.d/sec.sources:2|http://sec.example/\n"
    )
    sources = Path("/etc/apt/sources.list.d/sec.sources")
    assert choose_archive(targets, security=True) == ("http://sec.example/", sources)
    assert choose_archive(targets.splitlines()[0], security=True) is None
