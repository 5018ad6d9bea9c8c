# SPDX-License-Identifier: Apache-2.0
"""Collect the harness's own verbs, which the modules of `harness.act.verbs` define."""

import harness.act.verbs
from harness.scenario.vocabulary import Verbs

VERBS = Verbs.found_in(harness.act.verbs)
"""The verbs that the loader of scenario files is handed."""
