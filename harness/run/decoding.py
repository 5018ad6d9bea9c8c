# SPDX-License-Identifier: Apache-2.0
"""Decode the stacks on a guest's console once its run is over, where its kernel came by path."""

import logging
from pathlib import Path

from harness.act.run_record import RunRecord
from harness.errors import HarnessError
from harness.image.build import BootFiles
from harness.image.kernel_stacks import DebugFiles, decode, places_in
from harness.record.events import AttemptCrashed, ConsoleFinding, StackDecoded

MOST_DECODED = 3
"""Findings of a run; one bug may show on the console under many titles, and the first counts."""

LOG = logging.getLogger(__name__)


def decode_stacks(record: RunRecord, boot: BootFiles, kernel: Path | None) -> None:
    """Record the run's findings with the lines of the sources, as far as they can be told.

    A finding that cannot be decoded stays as it is, and the log says why. Never raises: what the
    run has found does not depend on it.
    """
    texts = {
        event.title: event.text
        for event in record.events
        if isinstance(event, ConsoleFinding | AttemptCrashed) and places_in(event.text)
    }
    if kernel is None or not texts:
        return
    try:
        files = DebugFiles.of(kernel, boot.kernel)
        for title, text in list(texts.items())[:MOST_DECODED]:
            if (decoded := decode(text, files)) != text:
                record.add(StackDecoded(record.now(), title, decoded))
            else:
                LOG.warning("%s: %s has no lines for its stack", title, files.vmlinux)
    except HarnessError as error:
        LOG.warning("the stacks on the console are not decoded: %s", error.message)
    except Exception:  # of the many formats of debug information; the verdict is yet to come
        LOG.exception("the stacks on the console are not decoded")
