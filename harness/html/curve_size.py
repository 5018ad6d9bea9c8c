# SPDX-License-Identifier: Apache-2.0
"""The size of a curve of past runs, in units of its drawing."""

WIDTH, HEIGHT = 240.0, 40.0
