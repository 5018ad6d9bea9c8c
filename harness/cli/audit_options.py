# SPDX-License-Identifier: Apache-2.0
"""Options of `fpr-harness audit`."""

import argparse
from pathlib import Path

ABOUT = """\
Why is my VM so big? Says where the host's memory for a running VM is, and what to do about it. The
VM need not have been started by the harness, and nothing in it or on the host is changed. Without
arguments, lists the VMs that can be audited."""


def add_audit_options(parser: argparse.ArgumentParser) -> None:
    """Declare which VM to audit, by which ways, and what to do with the result."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("name", nargs="?", metavar="NAME", help="the VM that QEMU's -name calls so")
    which.add_argument("--pid", type=int, metavar="PID", help="the QEMU of this process id")
    which.add_argument(
        "--qmp", type=Path, metavar="SOCKET", help="the QEMU that listens on this QMP socket"
    )
    which.add_argument(
        "--domain",
        metavar="NAME",
        help="libvirt's domain of this name, asked through virsh (LIBVIRT_DEFAULT_URI)",
    )
    way = parser.add_mutually_exclusive_group()
    way.add_argument(
        "--ssh",
        metavar="USER@HOST[:PORT]",
        help="look into the guest too, as root or with sudo there (default: the host's side alone)",
    )
    way.add_argument(
        "--guest-agent",
        nargs="?",
        const="",
        metavar="SOCKET",
        help="look into the guest through QEMU's guest agent: with --domain libvirt's, else behind "
        "SOCKET (default: the one that QEMU's command line names)",
    )
    parser.add_argument(
        "--debug-info",
        type=Path,
        metavar="VMLINUX",
        help="say who in the guest keeps its memory (process, file, slab cache), read from its "
        "kernel, whose debug information this is; needs drgn, and nothing in the guest",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="write one HTML page as well, with a map of guest RAM",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="FILE",
        help="show what has grown since an earlier audit, written by --json",
    )
    parser.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=10.0,
        metavar="SECONDS",
        help="audit again every SECONDS (default: 10) until Ctrl-C, and show what has moved",
    )
