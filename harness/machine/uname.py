# SPDX-License-Identifier: Apache-2.0
"""What a guest calls its kernel. It names columns, files and tests, so it must be a plain word."""

import re

from harness.errors import GuestError

ANSWER_BYTES = 256
"""More than any kernel can answer, with room for a hint of what did."""

_RELEASE = re.compile(rb"[!-~]{1,64}")
"""`struct new_utsname` has 64 characters (include/uapi/linux/utsname.h)."""


def parse_release(answer: bytes) -> str:
    """The release from the output of `uname -r`. Raises `GuestError` if it is none."""
    word = answer.removesuffix(b"\n")
    if not _RELEASE.fullmatch(word):
        raise GuestError(
            f"the guest's `uname -r` is not a kernel release: {answer[:80]!r}",
            hint="a release is 1 to 64 printable ASCII characters without spaces",
        )
    return word.decode("ascii")
