# SPDX-License-Identifier: Apache-2.0
"""Does free page reporting give a guest's freed memory back, and does it ever take too much?"""

__version__ = "0.1.0"
