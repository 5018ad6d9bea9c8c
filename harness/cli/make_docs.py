# SPDX-License-Identifier: Apache-2.0
"""`python -m harness.cli.make_docs DIRECTORY RESULTS...`: write generated docs (`make docs`)."""

import sys
from pathlib import Path

from harness.act.discover import VERBS
from harness.cli.make_reference import write_reference
from harness.report.catalogue import main

if __name__ == "__main__":
    write_reference(Path(sys.argv[1]))
    main(sys.argv[1:], VERBS)
