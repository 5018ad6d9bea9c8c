# SPDX-License-Identifier: Apache-2.0
"""(machine helper is writing this file now, 16:37)"""
