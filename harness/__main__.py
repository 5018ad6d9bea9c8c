# SPDX-License-Identifier: Apache-2.0
"""Run `fpr-harness` as `python -m harness`."""

import sys

from harness.cli import main

sys.exit(main())
