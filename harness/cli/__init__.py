# SPDX-License-Identifier: Apache-2.0
"""The `fpr-harness` command."""

from harness.cli.main import main

__all__ = ["main"]
