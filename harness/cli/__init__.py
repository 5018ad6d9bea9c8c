# SPDX-License-Identifier: Apache-2.0
"""The `fpr-harness` command."""

import sys

from harness.errors import UNAVAILABLE, LaunchError
from harness.host_refusal import check_memory_limit

# Before numpy is imported, whose OpenBLAS ends a process that has not enough with status 1: a FAIL.
try:
    check_memory_limit()
except LaunchError as error:
    print(f"fpr-harness: {error}", file=sys.stderr)
    sys.exit(UNAVAILABLE)

from harness.cli.main import main

__all__ = ["main"]
