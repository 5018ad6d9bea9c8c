# SPDX-License-Identifier: Apache-2.0
"""A second witness to lost memory, for what no step verifies: it looks when the last step is done.

An audit sees that a used page is absent. If the guest has read the page before the audit, the host
has put zeros there, and nothing is absent. The witness compares contents instead: pages of its own,
the kernel's code and constants, and the files of the initramfs, which have no copy but these pages.
"""

import contextlib
from collections.abc import Iterator

from harness.act.run_record import RunRecord
from harness.act.testimony import CANARY, record_testimony
from harness.guest.witness_client import WitnessSession
from harness.machine.interfaces import GuestShell


@contextlib.contextmanager
def second_witness(shell: GuestShell, *, stays: bool) -> Iterator["SecondWitness"]:
    """A witness from now on. `stays`: no step breaks the connection, which the witness would not
    survive; else it knows at the end only what the image was built with.

    Raises `GuestError`, `SshError`, `DeadlineError`.
    """
    with contextlib.ExitStack() as ended:
        session = None
        if stays:
            session = ended.enter_context(WitnessSession.start(shell, size=CANARY))
        yield SecondWitness(session)


class SecondWitness:
    """What has watched the guest's used memory since its first step."""

    def __init__(self, session: WitnessSession | None) -> None:
        self._session = session

    def testify(self, shell: GuestShell, record: RunRecord) -> None:
        """Look at everything, and record it. Raises `GuestError`, `SshError`, `DeadlineError`."""
        if self._session is not None:
            record_testimony(self._session, record)
            return
        with WitnessSession.start(shell, size=CANARY) as late:
            record_testimony(late, record)
