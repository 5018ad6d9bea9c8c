# SPDX-License-Identifier: Apache-2.0
"""Shows audits, and the list of VMs, on a terminal or in a pipe."""

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.audit.account import Part, sum_of
from harness.audit.audit_document import Advice, Audit, Guest, Where
from harness.audit.keepers import Keeper
from harness.audit.part_words import GROUP_WORDS, KEEPER_WORDS, MOST_KEEPERS, PART_WORDS
from harness.audit.qemu_facts import Balloon
from harness.audit.qemu_list import QemuProcess, socket_paths
from harness.report.screen import new_table
from harness.safe_text import safe_line
from harness.units import format_size

_ALWAYS = ("waiting", "reported", "unexplained", "guest_ram")
"""Parts that are shown although they are 0."""

_BALLOON_WORDS = {"reporting": "reporting", "silent": "no reporting", "none": "none"}
PROMPTS: dict[Where, str] = {
    "guest": "guest#",
    "host": "host#",
    "qemu": "QEMU:",
    "libvirt": "libvirt:",
}
"""In front of a command, by where it is given."""


def list_table(qemus: Sequence[QemuProcess]) -> Table:
    """Make the table of QEMU processes that may be audited."""
    table = new_table()
    for heading in ("PID", "NAME", "MEMORY", "RSS", "BALLOON", "QMP"):
        right = heading in ("PID", "MEMORY", "RSS")
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for process in qemus:
        words = process.words
        sockets = [str(path) for path in socket_paths(process)]
        domain = f"--domain {words.domain}" if words.domain else "none"
        table.add_row(
            str(process.pid),
            safe_line(words.name) or "-",
            format_size(words.memory) if words.memory is not None else "unknown",
            format_size(process.rss) if process.rss is not None else "ended",
            _BALLOON_WORDS[words.balloon],
            safe_line(sockets[0] if sockets else domain),
        )
    return table


def audit_text(audit: Audit, earlier: Audit | None = None) -> RenderableType:
    """Make the whole report; `earlier`: an audit to compare with, by part."""
    return Group(*_blocks(audit, earlier))


def _blocks(audit: Audit, earlier: Audit | None) -> Iterator[RenderableType]:
    vm = audit.vm
    yield Text(
        f"{safe_line(vm.name) or 'VM'} (process {vm.pid}, QEMU {vm.qemu}): "
        f"{format_size(audit.total)} on the host for {format_size(vm.memory)} of guest RAM",
        style="bold",
    )
    if earlier is not None:
        yield Text(_compared(audit, earlier))
    yield Text()
    yield _parts_table(audit, earlier)
    yield Text()
    yield from (Text(line) for line in fact_lines(audit))
    if audit.advice:
        yield Text("\nWhat to do", style="bold")
        for number, advice in enumerate(audit.advice, 1):
            yield from _advice(number, advice)
    if audit.keepers is not None:
        yield Text("\nWho keeps it in the guest", style="bold")
        yield _keepers_table(audit.keepers)
    if audit.unknown:
        yield Text("\nWhat cannot be known", style="bold")
        yield from (
            Padding(Text(f"- {line}"), (0, 0, 0, 2), expand=False) for line in audit.unknown
        )
    yield Text(
        f"\nTook {audit.seconds:.2f} s, {audit.host_seconds:.2f} s of it on the host.", style="dim"
    )


def _compared(audit: Audit, earlier: Audit) -> str:
    """Say with what it is compared, and what keeps the two from being compared."""
    other = (earlier.vm.name, earlier.vm.uuid) != (audit.vm.name, audit.vm.uuid)
    notes = [f"compared with {earlier.at}"]
    if other:
        notes.append(f"of ANOTHER VM ({safe_line(earlier.vm.name) or 'without a name'})")
    if (earlier.guest is None) != (audit.guest is None):
        notes.append("only one of the two looked into the guest, so that its parts do not compare")
    return ", ".join(notes)


def _parts_table(audit: Audit, earlier: Audit | None) -> Table:
    table = new_table(headed=False)
    table.add_column(no_wrap=True)
    for _number in range(2 if earlier is None else 3):
        table.add_column(justify="right")
    table.add_column()

    def row(name: str, size: int, before: int, note: str = "", style: str = "") -> None:
        share = f"{100 * size / audit.total:.1f} %" if audit.total else ""
        moved = [] if earlier is None else [signed_size(size - before)]
        table.add_row(name, format_size(size), share, *moved, note, style=style)

    for group, words in GROUP_WORDS.items():
        parts = [part for part in audit.parts if part.group == group]
        if not parts:
            continue
        before = sum_of(earlier.parts, group) if earlier is not None else 0
        row(words, sum_of(audit.parts, group), before, style="bold")
        for part in parts:
            was = earlier.part(part.name) if earlier is not None else 0
            if part.size or was or part.name in _ALWAYS:
                row(f"  {PART_WORDS[part.name]}", part.size, was, part_note(audit, part))
    row("in all", audit.total, earlier.total if earlier is not None else 0, style="bold")
    return table


def _keepers_table(keepers: Sequence[Keeper]) -> Table:
    table = new_table()
    table.add_column("SIZE", justify="right", no_wrap=True)
    table.add_column("KEEPS FREE", justify="right", no_wrap=True)
    table.add_column("IN BLOCKS", justify="right", no_wrap=True)
    table.add_column("WHO", overflow="fold")
    for keeper in keepers[:MOST_KEEPERS]:
        name = f"{KEEPER_WORDS[keeper.sort]} {safe_line(keeper.name)}".strip()
        kept = format_size(keeper.keeps_free) if keeper.blocks else ""
        table.add_row(format_size(keeper.size), kept, str(keeper.blocks or ""), name)
    return table


def part_note(audit: Audit, part: Part) -> str:
    """Say what more is known of a part than its size."""
    account = audit.guest.account if audit.guest is not None else None
    if part.name == "below_order" and account is not None:
        sizes = sorted(account.below_order.items(), reverse=True)
        return ", ".join(f"order {order}: {format_size(size)}" for order, size in sizes[:4]) + (
            ", ..." if len(sizes) > 4 else ""
        )
    return ""


def fact_lines(audit: Audit) -> Iterator[str]:
    """Say in sentences what the parts do not show."""
    host, account = audit.host, audit.guest.account if audit.guest is not None else None
    if account is not None:
        yield (
            f"Not held by the host: {format_size(account.given_back)} that the guest has reported, "
            f"{format_size(account.absent_free)} free otherwise, "
            f"{format_size(account.absent_used)} in use and never touched."
        )
    elif audit.guest is not None:
        yield _counted(audit.guest.meminfo)
    blocks = host.blocks
    yield (
        f"Guest RAM in blocks of 2 MiB: {blocks.full} resident, {blocks.partly} partly "
        f"({format_size(blocks.partly_bytes)}), {blocks.empty} not at all."
    )
    notes = {
        "in huge pages of the host": host.ram.huge,
        "swapped out": host.ram.swapped,
        "merged by KSM": host.ram.merged or 0,
        "freed and not yet taken (MADV_FREE)": host.ram.lazily_free,
        "locked": host.counters.locked,
    }
    found = [f"{format_size(size)} {words}" for words, size in notes.items() if size]
    if found:
        yield f"Of it: {', '.join(found)}."
    yield _reporting(audit.balloon, audit.guest)
    if audit.balloon is not None and audit.guest is None:
        yield from _statistics(audit.balloon)


def _counted(meminfo: Mapping[str, int]) -> str:
    names = {
        "MemFree": "free",
        "AnonPages": "processes",
        "Cached": "page cache and tmpfs",
        "Shmem": "of it tmpfs",
        "Slab": "slab",
        "PageTables": "page tables",
        "Hugetlb": "huge-page pool",
    }
    told = [f"{words} {format_size(meminfo[n])}" for n, words in names.items() if n in meminfo]
    return f"The guest counts (/proc/meminfo), held by the host or not: {', '.join(told)}."


def _reporting(balloon: Balloon | None, guest: Guest | None) -> str:
    if balloon is None:
        return "Free page reporting: the VM has no balloon device."
    if not balloon.offered:
        return "Free page reporting: the balloon device does not offer it."
    if guest is None:
        accepted = {True: "accepted", False: "not accepted", None: "accepted or not, unknown"}
        return f"Free page reporting: offered, and {accepted[balloon.negotiated]} by the guest."
    if not guest.reporting:
        return f"Free page reporting: offered, not accepted by the guest (Linux {guest.release})."
    return (
        f"Free page reporting: accepted by the guest (Linux {guest.release}), order {guest.order}, "
        f"a pass every {guest.pass_seconds:g} s."
    )


def _statistics(balloon: Balloon) -> Iterator[str]:
    stats = balloon.stats
    if stats is None or balloon.stats_age is None:
        return
    told = {"free": stats.free, "available": stats.available, "page cache": stats.disk_caches}
    words = [f"{name} {format_size(size)}" for name, size in told.items() if size is not None]
    yield f"The guest's statistics, {balloon.stats_age:.0f} s old: {', '.join(words)}."


def _advice(number: int, advice: Advice) -> Iterator[RenderableType]:
    size = f"{format_size(advice.size)}: " if advice.size is not None else ""
    yield Padding(Text(f"{number}. {size}{advice.words}"), (0, 0, 0, 2), expand=False)
    for command in advice.commands:
        yield Padding(Text(f"{PROMPTS[command.where]} {command.line}"), (0, 0, 0, 6), expand=False)


def signed_size(size: int) -> str:
    """Format a difference of bytes with its sign; nothing for none."""
    return f"{'+' if size > 0 else ''}{format_size(size)}" if size else ""
