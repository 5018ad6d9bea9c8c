# SPDX-License-Identifier: Apache-2.0
"""The harness's own verbs: every one that a module of `harness.act.verbs` defines."""

import harness.act.verbs
from harness.scenario.vocabulary import Verbs

VERBS = Verbs.found_in(harness.act.verbs)
"""What the loader of scenario files is handed."""
