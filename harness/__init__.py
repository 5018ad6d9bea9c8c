# SPDX-License-Identifier: Apache-2.0
"""Check that free page reporting gives a guest's freed memory back and never takes too much."""

__version__ = "0.1.0"
