# SPDX-License-Identifier: Apache-2.0
"""Check that free page reporting gives a guest's freed memory back and never takes too much."""

import os

# Imported, numpy has OpenBLAS start a thread for each core, which nothing here uses; where it may
# not (ulimit -u), OpenBLAS raises SIGINT. It is before any import of numpy that this must be said.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__version__ = "0.1.0"
