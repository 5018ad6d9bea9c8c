# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness audit`: say where the host's memory for a VM is, and what to do about it."""

import argparse
import contextlib
import sys
import time
from dataclasses import replace
from pathlib import Path

from harness.audit.audit_document import Audit, as_json, from_json
from harness.audit.audit_text import audit_text, list_table
from harness.audit.guest_kernel import import_drgn
from harness.audit.guest_tool import guest_tool
from harness.audit.keepers import find_keepers
from harness.audit.qemu_facts import ask
from harness.audit.qemu_list import list_qemus
from harness.audit.refresh import watch
from harness.audit.ssh_words import parse_destination
from harness.audit.target import Named, connect
from harness.audit.vm_audit import Taken, take_vm_audit
from harness.audit.ways_in import WayIn, agent_way, ssh_way
from harness.errors import RecordError, UsageError
from harness.file_kind import why_not
from harness.regular_file import open_regular
from harness.report.screen import make_console, print_whole

LEAST_WATCH_SECONDS, MOST_WATCH_SECONDS = 1.0, 86400.0
NOT_WITH_WATCH = ("json", "html", "compare", "debug_info")
NEED_A_VM = ("ssh", "guest_agent", "watch", *NOT_WITH_WATCH)
MOST_BYTES = 16 << 20
"""Of an earlier audit's file; one takes 10 KiB."""


def execute(options: argparse.Namespace) -> int:
    """List VMs or audit one; returns 0.

    Raises `UsageError`, and whatever keeps the VM from being audited.
    """
    named = Named(options.name, options.pid, options.qmp, options.domain)
    if named == Named():
        _check_alone(options)
        return _list()
    if named.name == "":
        raise UsageError("a VM without a name is named by --pid or --qmp")
    if options.json and options.compare is not None:
        raise UsageError("--compare shows what has grown; it does not go with --json")
    way = _way_in(options)
    earlier = _earlier(options.compare)
    if options.html is not None and not options.html.absolute().parent.is_dir():
        raise UsageError(f"--html {options.html}: there is no such directory")
    if options.html is not None and options.html.exists() and not options.html.is_file():
        kind = why_not(options.html, "a regular file", "")
        raise UsageError(f"--html {options.html}: {kind}")
    if options.debug_info is not None:
        import_drgn()
        if not options.debug_info.is_file():
            raise UsageError(f"--debug-info {options.debug_info}: there is no such file")
    if options.watch is None:
        taken = _take(named, way, options.debug_info)
        if options.html is not None:
            # Jinja, and what a recorded run is read with: most audits need neither.
            from harness.audit.audit_html import write_page

            write_page(taken, options.html)
        _show(taken.audit, earlier, options)
        return 0
    given = [f"--{name.replace('_', '-')}" for name in NOT_WITH_WATCH if _is_given(options, name)]
    if given:
        raise UsageError(f"--watch shows what moves; it does not go with {given[0]}")
    if not LEAST_WATCH_SECONDS <= options.watch <= MOST_WATCH_SECONDS:
        raise UsageError(
            f"--watch takes seconds, from {LEAST_WATCH_SECONDS:g} to {MOST_WATCH_SECONDS:g}"
        )
    watch(lambda: _take(named, way).audit, options.watch)
    return 0


def _take(named: Named, way: WayIn | None, debug_info: Path | None = None) -> Taken:
    start = time.monotonic()
    process, monitor = connect(named)
    # The monitor is free again before the guest is visited: others may need it.
    with contextlib.closing(monitor):
        facts = ask(monitor)
    visit = way(process) if way is not None else None
    taken = take_vm_audit(process, facts, visit, asked=time.monotonic() - start)
    if debug_info is None:
        return taken
    keepers = find_keepers(process.pid, facts.layout, taken.states, debug_info)
    unknown = (*taken.audit.unknown, *keepers.unknown)
    return replace(taken, audit=replace(taken.audit, keepers=keepers.found, unknown=unknown))


def _check_alone(options: argparse.Namespace) -> None:
    given = [name for name in NEED_A_VM if _is_given(options, name)]
    if given:
        raise UsageError(
            f"--{given[0].replace('_', '-')} needs a VM: NAME, --pid, --qmp or --domain",
            hint="`fpr-harness audit` without arguments lists them",
        )


def _is_given(options: argparse.Namespace, name: str) -> bool:
    return getattr(options, name) not in (None, False)


def _list() -> int:
    qemus = list_qemus()
    mine = [process for process in qemus if process.readable]
    console = make_console()
    if mine:
        print_whole(console, list_table(mine))
        console.print(
            "\nAudit one of them: fpr-harness audit --pid PID [--ssh USER@HOST | --guest-agent]"
        )
    else:
        console.print("There is no QEMU process here that may be audited.")
    others = sorted({process.user for process in qemus if not process.readable})
    if others:
        console.print(
            f"{len(qemus) - len(mine)}{' more' if mine else ''} of {', '.join(others)} may not be "
            "read: run this as that user, or with the capability CAP_SYS_PTRACE (as root)."
        )
    return 0


def _way_in(options: argparse.Namespace) -> WayIn | None:
    if options.guest_agent is not None:
        if options.domain is not None and options.guest_agent:
            raise UsageError("--guest-agent takes no SOCKET with --domain: libvirt holds it")
        return lambda process: agent_way(process, options.domain, options.guest_agent, guest_tool())
    if options.ssh is None:
        return None
    to = parse_destination(options.ssh)
    return lambda _process: ssh_way(to, guest_tool())


def _earlier(path: Path | None) -> Audit | None:
    if path is None:
        return None
    try:
        with open_regular(path) as file:
            text = file.read(MOST_BYTES)
    except OSError as error:
        raise UsageError(f"--compare {path}: {error.strerror}") from error
    try:
        return from_json(text, str(path))
    except RecordError as error:
        raise UsageError(error.message, hint=error.hint) from error


def _show(audit: Audit, earlier: Audit | None, options: argparse.Namespace) -> None:
    if options.json:
        sys.stdout.write(as_json(audit))
    else:
        make_console().print(audit_text(audit, earlier))
