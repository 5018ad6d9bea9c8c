# SPDX-License-Identifier: Apache-2.0
"""The broken guest kernels the harness is proved by, and what it must make of each. Data only.

`defects/NAME.patch` holds the one change to the kernel's source.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A scenario that asks about a defect, and the cause it must name."""

    scenario: str
    causes: tuple[str, ...]
    """All that are right, where chance decides (what a stray discard hits)."""
    says: str = ""
    """Words that the verdict's reason must have."""
    qemu: str = "host"
    """The QEMU to run it on: the installed one, or a definition in `guest-images/qemu/`."""


@dataclass(frozen=True)
class Defect:
    """One defect of a guest kernel."""

    name: str
    about: str
    questions: tuple[Question, ...]
    unseen: str = ""
    """Why it cannot be seen from outside; then every verdict is right."""


def _defect(name: str, about: str, scenario: str, *causes: str, says: str = "") -> Defect:
    return Defect(name, about, (Question(scenario, causes, says),))


DEFECTS = (
    # What the worker hands over.
    _defect(
        "last-block-of-zone",
        "the last block of each zone is never reported",
        "memory-hotplug-dimm",
        "not-reported",
    ),
    _defect(
        "only-node-0", "only node 0 is reported", "numa-two-nodes", "not-reported", says="node"
    ),
    _defect("dma32-left-out", "zone DMA32 is never reported", "reclaim-basic", "not-reported"),
    _defect("normal-left-out", "zone Normal is never reported", "zones-all", "not-reported"),
    _defect("movable-zone-left-out", "zone Movable is never reported", "zones-all", "not-reported"),
    _defect(
        "movable-type-left-out",
        "free lists of movable blocks are never reported",
        "reclaim-basic",
        "not-reported",
    ),
    _defect(
        "order-9-left-out", "blocks of order 9 are never reported", "reclaim-basic", "not-reported"
    ),
    _defect(
        "top-order-left-out",
        "blocks of the highest order are never reported",
        "reclaim-basic",
        "not-reported",
    ),
    _defect(
        "no-watermark",
        "zones below their watermark are reported too",
        "reclaim-basic",
        "control-broken",
    ),
    # When it does.
    _defect("runs-once", "the worker runs once", "reclaim-basic", "not-reported"),
    _defect("never-requeues", "a pass never asks for another", "reclaim-basic", "not-reported"),
    _defect(
        "stops-at-budget",
        "a pass whose budget is used up asks for no other",
        "reclaim-basic",
        "not-reported",
    ),
    _defect("passes-every-20s", "20 s lie between two passes", "reclaim-basic", "not-reported"),
    _defect(
        "stops-after-400-calls",
        "the worker stops for good after 400 calls",
        "many-reports",
        "not-reported",
    ),
    _defect(
        "head-of-list-only",
        "a pass looks at the first 32 blocks of each list: reported ones there starve the rest",
        "hotplug-behind-reported",
        "not-reported",
    ),
    _defect(
        "same-blocks-again",
        "marked blocks are reported again in every pass",
        "idle-stays-quiet",
        "overhead",
    ),
    _defect("never-marked", "reported blocks are never marked", "idle-stays-quiet", "overhead"),
    # What becomes of the blocks.
    *(
        _defect(
            f"given-back-early{head}{pause}",
            f"blocks go back to the {where} of their lists{when} before the host is told",
            "no-loss-isolated-plain",
            "data-loss",
            "guest-crash",
        )
        for head, where in (("", "tail"), ("-to-head", "head"))
        for pause, when in (("", ""), ("-50ms", " 50 ms"))
    ),
    Defect(
        "host-not-awaited",
        "the driver does not wait for the host's answer",
        # QEMU 7.2 discards while the guest's CPU notifies it, so that the answer is there at once:
        # without KVM it has no ioeventfd (kvm_has_many_ioeventfds(), hw/virtio/virtio-pci.c).
        (Question("no-loss-isolated-plain", ("data-loss", "guest-crash"), qemu="sid"),),
    ),
    _defect(
        "leaks-one-each-pass",
        "one block of each pass is never put back",
        "reclaim-repeat",
        "guest-retained",
        says="never put back",
    ),
    _defect(
        "leaks-one-in-32",
        "one block in 32 is never put back",
        "reclaim-basic",
        "guest-retained",
        says="never put back",
    ),
    _defect(
        "slow-putback",
        "blocks are put back 5 s after the host's answer",
        "no-loss-isolated-plain",
        "not-reported",
        "guest-retained",
        "kernel-warning",
        "guest-crash",
    ),
    _defect(
        "under-zone-lock",
        "the host is told under the zone's lock",
        "reclaim-basic",
        "kernel-warning",
        "guest-crash",
    ),
    _defect(
        "memfree-drifts",
        "MemFree loses 8 pages for each block put back",
        "reclaim-basic",
        "kernel-warning",
        says="MemFree",
    ),
    # The mark of a reported block.
    _defect(
        "mark-kept-through-merge",
        "a block that merges with a reported one bears its mark",
        "reclaim-partial",
        "acked-not-discarded",
    ),
    _defect(
        "mark-kept-on-allocation",
        "the mark stays when a block leaves its free list",
        "reclaim-basic",
        "kernel-warning",
        "acked-not-discarded",
    ),
    # What the host is told.
    _defect(
        "claims-all",
        "blocks are marked, and the host is told of none",
        "reclaim-basic",
        "acked-not-discarded",
    ),
    _defect(
        "claims-every-fourth",
        "the host is not told of every fourth call",
        "reclaim-basic",
        "acked-not-discarded",
    ),
    _defect(
        "claims-one-in-32",
        "the host is not told of one block in 32",
        "reclaim-basic",
        "acked-not-discarded",
    ),
    _defect(
        "half-of-block",
        "the host is told of the first half of each block",
        "reclaim-basic",
        "acked-not-discarded",
    ),
    _defect(
        "page-too-many",
        "the host is told of one page beyond each block",
        "reclaim-partial",
        "data-loss",
        "guest-crash",
    ),
    _defect(
        "wrong-pfn",
        "the host is told of the block before each, from the first call on",
        "reclaim-basic",
        "guest-crash",
        "data-loss",
    ),
    _defect(
        "wrong-pfn-later",
        "the host is told of the block before each, from the 11th call on",
        "reclaim-repeat",
        "data-loss",
        "guest-crash",
        "acked-not-discarded",
    ),
    _defect("host-not-kicked", "the host is never notified", "reclaim-basic", "not-reported"),
    _defect(
        "poison-not-announced",
        "the value of poisoned pages is not announced",
        "poison-announced",
        "control-broken",
    ),
    # Its beginning and end.
    _defect(
        "not-unregistered",
        "the driver goes without unregistering",
        "disable-races-unbind",
        "kernel-warning",
        "guest-crash",
    ),
    _defect(
        "not-flushed",
        "unregistering does not wait for the worker",
        "disable-races-unbind",
        "guest-crash",
        "guest-hang",
        "kernel-warning",
    ),
)
