# SPDX-License-Identifier: Apache-2.0
"""Takes a picture of all guest memory at its peak, for the report; nothing is judged by it."""

import logging
import os

from harness.act.guest import Guest
from harness.errors import ObserveError
from harness.guest.counter_stream import read_counters
from harness.observe.page_audit import take_audit
from harness.record.audit_file import AuditFacts, AuditInputs, save_audit
from harness.record.events import Pictured
from harness.record.run_directory import PICTURE_NUMBER, audit_path

LOG = logging.getLogger(__name__)


def take_picture(guest: Guest, name: str, held_by: tuple[int, ...]) -> None:
    """Record what every page is, and save it like an audit; `held_by` are the tool's processes.

    A host that cannot be read costs the picture alone. Raises `GuestError`, `SshError`,
    `DeadlineError`, `RecordError`.
    """
    try:
        reading, _ = take_audit(guest.vm.shell, guest.instruments.residency, lambda: None, held_by)
    except ObserveError as error:
        LOG.warning("no picture of the pages: %s", error)
        return
    inputs = AuditInputs(
        reading=reading,
        seen=None,
        discards=None,
        facts=AuditFacts(
            at=guest.record.now(),
            zones=read_counters(guest.vm.shell).zones,
            reporting_order=guest.reporting_order,
            moved=False,
            pieces=guest.instruments.layout.pieces,
            held_by=held_by,
            discard_log=os.path.relpath(guest.instruments.discards.path, guest.directory),
        ),
    )
    report, _ = inputs.reduce()
    sha256 = save_audit(audit_path(guest.directory, PICTURE_NUMBER, name), inputs)
    guest.record.add(Pictured(guest.record.now(), name=name, report=report, sha256=sha256))
