# SPDX-License-Identifier: Apache-2.0
"""A proof of lost memory in a sentence."""

from collections.abc import Sequence

from harness.record.events import Audited, ChurnVerified, Witnessed
from harness.units import format_size


def loss_sentence(loss: ChurnVerified | Audited | Witnessed) -> str:
    """What was lost, where it begins, and who found out."""
    if isinstance(loss, Witnessed):
        words = f": {loss.detail[0]}" if loss.detail else ""
        return (
            f"{loss.lost} pages or files that the guest uses and no step verifies (the kernel's "
            f"code, the initramfs, pages of the witness) had changed at the end of the run{words}"
        )
    if isinstance(loss, ChurnVerified) and not loss.mismatched_pages:
        words = loss.detail[-1] if loss.detail else f"{loss.damaged} entries"
        return f"the {loss.by} tool found its own data changed when it verified memory: {words}"
    if isinstance(loss, ChurnVerified):
        words = f": {loss.detail[0]}" if loss.detail else ""
        return (
            f"{loss.mismatched_pages} of the pages that the {loss.by} tool held "
            f"({format_size(loss.bytes)}) had changed when it verified them{words}"
        )
    report = loss.report
    if report.total.held_absent:
        return (
            f"{format_size(report.total.held_absent)} that the churn tool had written and held "
            f"were gone from the host at audit {loss.name!r}{_first(report.held_absent_pfns)}"
        )
    where = f"at audit {loss.name!r}{_first(report.lost_pfns)}"
    size = report.lost_bytes or 0
    if report.lost_undiscarded >= size / 2:
        return (
            f"{format_size(size)} that the guest uses were gone from the host {where}, and QEMU's "
            "trace shows no discard of them since they were last seen"
        )
    return (
        f"{format_size(size)} that the guest uses and has written (processes, page tables, files) "
        f"were gone from the host {where}: memory in use was discarded"
    )


def _first(pfns: Sequence[int]) -> str:
    return f" (first at PFN {pfns[0]:#x})" if pfns else ""
