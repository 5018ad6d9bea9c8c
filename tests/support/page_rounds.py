# SPDX-License-Identifier: Apache-2.0
"""A round of the guest's page states, as a guest that says just that is read."""

from scripted_guest import ScriptedGuest

from harness.guest.page_stream import PageReader, PageReading


def decode_pages(data: bytes, pfn_end: int) -> PageReading:
    """Read one round. Raises what `PageReader.read` raises."""
    with PageReader(ScriptedGuest(data), pfn_end) as reader:
        return reader.read()
