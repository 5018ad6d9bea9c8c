# SPDX-License-Identifier: Apache-2.0
"""`python -m harness.cli.make_docs DIRECTORY RESULTS...`: write generated docs (`make docs`)."""

import sys

from harness.act.discover import VERBS
from harness.report.catalogue import main

if __name__ == "__main__":
    main(sys.argv[1:], VERBS)
