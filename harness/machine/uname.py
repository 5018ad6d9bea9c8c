# SPDX-License-Identifier: Apache-2.0
"""Parse the guest's `uname -r`, which names columns, files and tests and must be a plain word."""

import re

from harness.errors import GuestError

ANSWER_BYTES = 256
"""Limit of the answer: more than any kernel release, with room to show what came instead."""

_RELEASE = re.compile(rb"[!-~]{1,64}")
"""A release; `struct new_utsname` has 64 characters (include/uapi/linux/utsname.h)."""


def parse_release(answer: bytes) -> str:
    """Return the release from the output of `uname -r`. Raises `GuestError` if it is not one."""
    word = answer.removesuffix(b"\n")
    if not _RELEASE.fullmatch(word):
        raise GuestError(
            f"the guest's `uname -r` is not a kernel release: {answer[:80]!r}",
            hint="a release is 1 to 64 printable ASCII characters without spaces",
        )
    return word.decode("ascii")
