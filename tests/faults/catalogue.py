# SPDX-License-Identifier: Apache-2.0
"""The faults the harness is proved by, and what it must make of each. Data only."""

from dataclasses import dataclass

from harness.units import KIB, MIB


@dataclass(frozen=True)
class Fault:
    """One fault on one scenario."""

    name: str
    layer: str
    """Where it is injected: `none`, `host`, `guest` or `controller`."""
    about: str
    scenario: str
    """A scenario's name, or the stem of a file in `broken/`."""
    verdict: str
    cause: str | None = None
    discard: str = ""
    """What the interposer does to discards from the free on: FPR_DISCARD."""
    where: str = ""
    """Only discards of this part of guest memory: `held` by the churn tool, `node1`,
    or `above-4g`."""
    deed: str = ""
    """A function of `deeds`, done to the run once it has reached the phase `at`."""
    at: str = "free"
    options: tuple[str, ...] = ()
    """Further options of `fpr-harness run`."""
    measure: str = ""
    """The measure that must equal, within 1 %, what the interposer logged."""
    says: str = ""
    """Words that the verdict's reason must have."""
    churn: int | None = None
    """The scenario's step that holds memory, where what is done in `hold` takes its time: it holds
    for `HOLD_SECONDS`, longer on a slow machine."""
    quick: bool = False
    """Part of `make test`: one for each layer."""


def _discards(name: str, about: str, cause: str | None, **more: object) -> Fault:
    """A fault of discards on `reclaim-basic`, unless `more` says otherwise."""
    fields = {"scenario": "reclaim-basic", "verdict": "FAIL" if cause else "PASS", **more}
    return Fault(name=name, layer="host", about=about, cause=cause, **fields)  # type: ignore[arg-type]


SMALL = ("--set", "guest.memory=512MiB")
"""Less to write and verify: what hangs is given up sooner."""

HOLD_SECONDS = 6.0
"""To look through all of a guest's memory for what the churn tool holds."""

ELSEWHERE = ("none", "swallow-half", "einval", "neighbour", "lazily", "memfd-holes", "repopulate")
"""A clean run, and one of every way in which a discard can go wrong between QEMU and the host's
kernel: also run on other QEMUs and under KVM."""

RESIDENT = "reported_resident_bytes"
ACKED = "acked-not-discarded"

LATE = {
    50: ("reused-at-once", "no-loss-isolated-plain"),
    300: ("reused-at-once", "forward-progress-noisy", "no-loss-isolated-plain"),
    3000: ("forward-progress-noisy", "no-loss-isolated-plain"),
}
"""Milliseconds by which discards are late, and the scenarios that must find it."""

FAULTS = (
    Fault("none", "none", "a clean run", "reclaim-basic", "PASS"),
    Fault("none-off", "none", "reporting off", "control-reporting-off", "PASS"),
    _discards(
        "swallow", "discards do nothing and succeed", ACKED, discard="swallow", measure=RESIDENT
    ),
    _discards(
        "swallow-half",
        "every second discard does nothing",
        ACKED,
        discard="swallow-one-of=2",
        measure=RESIDENT,
        quick=True,
    ),
    _discards(
        "swallow-node1",
        "only discards of the second NUMA node do nothing",
        ACKED,
        scenario="two-nodes",
        discard="swallow",
        where="node1",
        measure=RESIDENT,
        says="only 1 of 2 nodes are reclaimed",
    ),
    _discards(
        "swallow-above-4g",
        "only discards above 4 GiB do nothing",
        ACKED,
        scenario="above-4g",
        discard="swallow",
        where="above-4g",
        measure=RESIDENT,
    ),
    _discards(
        "swallow-4m",
        "only discards of 4 MiB do nothing",
        ACKED,
        discard=f"swallow-length={4 * MIB}",
        measure=RESIDENT,
    ),
    _discards("delay", "each discard takes 20 ms longer", None, discard="delay-ms=20"),
    _discards(
        "einval", "discards fail: EINVAL", ACKED, discard="errno=22", measure="failed_discard_bytes"
    ),
    _discards(
        "enomem", "discards fail: ENOMEM", ACKED, discard="errno=12", measure="failed_discard_bytes"
    ),
    _discards(
        "neighbour",
        "the page after each block is discarded too",
        "data-loss",
        scenario="reclaim-partial",
        discard=f"neighbour={4 * KIB}",
        where="held",
        churn=2,
    ),
    *(
        _discards(
            f"neighbour-of-anybody-{scenario}",
            "the page after each block is discarded too, whoever uses it",
            "data-loss",
            scenario=scenario,
            discard=f"neighbour={4 * KIB}",
        )
        for scenario in ("reclaim-basic", "reclaim-partial", "no-loss-isolated-plain")
    ),
    _discards(
        "wrong-block",
        "the next block of equal length is discarded instead",
        "data-loss",
        scenario="reclaim-partial",
        discard=f"shift={2 * MIB}",
        where="held",
        churn=2,
    ),
    _discards(
        "zeroed-page",
        "one page that the guest holds is zeroed",
        "data-loss",
        deed="zero_a_held_page",
        at="hold",
        churn=2,
        quick=True,
    ),
    *(
        _discards(
            f"{deed.replace('_', '-')}-{scenario}",
            about,
            "data-loss",
            scenario=scenario,
            deed=deed,
            at="hold",
            churn=2,
            says="own memory",
        )
        for scenario in ("reclaim-basic", "reclaim-partial")
        for deed, about in (
            ("zero_the_ledger", "the churn tool's list of its pages is zeroed, both copies"),
            ("zero_half_the_ledger", "one copy of the churn tool's list is zeroed"),
        )
    ),
    *(
        _discards(
            f"late-{delay}-{scenario}",
            f"discards are answered at once and made {delay} ms later",
            "data-loss",
            scenario=scenario,
            discard=f"late-ms={delay}",
            at="race",
            says="race",
        )
        for delay, scenarios in LATE.items()
        for scenario in scenarios
    ),
    _discards(
        "repopulate",
        "something touches every page after its discard",
        ACKED,
        discard="repopulate",
        measure=RESIDENT,
    ),
    *(
        _discards(
            f"keep-elsewhere-{scenario}",
            "discarded memory leaves guest RAM and stays elsewhere in QEMU",
            "still-charged",
            scenario=scenario,
            discard="keep-elsewhere",
            says="QEMU grew elsewhere",
        )
        for scenario in ("reclaim-basic", "reclaim-partial")
    ),
    Fault(
        "memfd-holes",
        "host",
        "holes are not punched into a memfd, only its mapping is dropped",
        "reclaim-basic",
        "FAIL",
        "still-charged",
        discard="swallow-holes",
        options=("--set", "host.backend=memfd-shared"),
        measure=RESIDENT,
    ),
    _discards(
        "lazily",
        "memory is freed with MADV_FREE where it should be gone",
        "lazily-free",
        discard="lazily",
        measure="lazyfree_bytes",
    ),
    Fault(
        "unbound",
        "guest",
        "the driver is unbound half-way",
        "driver-unbound-half-way",
        "FAIL",
        "feature-off",
    ),
    Fault(
        "order-out-of-reach",
        "guest",
        "the reporting order is raised above the allocator's largest",
        "order-out-of-reach",
        "FAIL",
        "not-reported",
        quick=True,
    ),
    Fault(
        "worker-starved",
        "guest",
        "a real-time process takes the CPU of the reporting worker",
        "worker-starved",
        "FAIL",
        "not-reported",
    ),
    Fault(
        "page-cache",
        "guest",
        "freed memory becomes page cache",
        "page-cache",
        "FAIL",
        "guest-retained",
    ),
    Fault(
        "fragmentation",
        "guest",
        "every second page is freed: no block of the order is",
        "fragmentation",
        "FAIL",
        "guest-retained",
    ),
    Fault(
        "hugetlb-pool",
        "guest",
        "freed memory goes to the pool of huge pages",
        "hugetlb-pool",
        "FAIL",
        "guest-retained",
    ),
    Fault(
        "compressed-swap",
        "guest",
        "freed memory becomes compressed swap (zram)",
        "compressed-swap",
        "FAIL",
        "guest-retained",
        says="compressed swap",
    ),
    Fault("panic", "guest", "sysrq c", "panic", "FAIL", "guest-crash"),
    Fault(
        "hang",
        "guest",
        "the vCPUs are stopped over QMP",
        "reclaim-basic",
        "FAIL",
        "guest-hang",
        deed="stop_vcpus",
        at="hold",
        options=SMALL,
    ),
    Fault(
        "oom",
        "guest",
        "a process takes memory until the OOM killer ends it",
        "oom",
        "FAIL",
        "kernel-warning",
    ),
    Fault(
        "guest-clock",
        "guest",
        "the guest's clock is stepped by an hour",
        "guest-clock",
        "PASS",
    ),
    Fault(
        "console-flood",
        "controller",
        "the guest floods its console",
        "console-flood",
        "PASS",
    ),
    Fault(
        "qemu-killed",
        "controller",
        "QEMU is killed",
        "reclaim-basic",
        "MISS",
        deed="kill_qemu",
        at="hold",
    ),
    Fault(
        "qemu-stopped",
        "controller",
        "QEMU is stopped (SIGSTOP)",
        "reclaim-basic",
        "MISS",
        deed="stop_qemu",
        at="hold",
        options=SMALL,
    ),
    Fault(
        "qmp-closed",
        "controller",
        "the QMP connection is closed; nothing that is judged needs it any more",
        "reclaim-basic",
        "PASS",
        deed="close_qmp",
        at="hold",
    ),
    Fault(
        "ssh-cut",
        "controller",
        "the guest's network link goes down",
        "reclaim-basic",
        "MISS",
        deed="cut_ssh",
        at="hold",
        options=SMALL,
    ),
    Fault(
        "disk-full",
        "controller",
        "the disk of the results is full",
        "reclaim-basic",
        "MISS",
        deed="fill_the_disk",
        at="hold",
    ),
)
