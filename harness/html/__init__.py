# SPDX-License-Identifier: Apache-2.0
"""report.html, one self-contained page that shows every run of a results directory."""
