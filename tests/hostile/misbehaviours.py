# SPDX-License-Identifier: Apache-2.0
"""Guests that mean harm: what each does instead of an honest answer, and how a run of it ends.

Each is a real guest. Its login shell, put in place of the image's by an archive behind the
initramfs, does what the kernel argument `fpr.misbehave=NAME` says. The harness has no part in it.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

from harness.guest.counter_stream import VERSION as COUNTERS_VERSION
from harness.guest.page_stream import VERSION as PAGES_VERSION
from harness.image.cpio import directory_entry, file_entry, write_cpio
from harness.resources import IMAGES_DIR

SHELL = """\
#!/bin/sh
# $1 is -c, $2 the command that the harness asks for.
for word in $(cat /proc/cmdline); do
  case "$word" in fpr.misbehave=*) . "/hostile/${word#*=}" ;; esac
done
exec /bin/guest-shell.honest "$@"
"""

ENDLESS = "exec busybox tr '\\\\0' x </dev/zero"
TRICKLE = "while :; do printf x; busybox usleep 50000; done"
STAY = "exec sleep 600"


@dataclass(frozen=True)
class Misbehaviour:
    """What a guest does, and how a run of it must end."""

    name: str
    on: str
    """Commands that begin so; each other is carried out honestly."""
    does: str
    """Shell commands; `/hostile/NAME.bin` holds `sends`."""
    verdict: str
    says: str
    """Words of the reason."""
    deadline: float = 0.0
    """Seconds of the wait that it tries to outlast; 0: there is nothing to wait for."""
    sends: bytes = b""

    def files(self) -> dict[str, bytes]:
        """Path in the guest: contents."""
        script = f'case "$2" in "{self.on}"*) {self.does}\n exit ;; esac\n'
        return {f"hostile/{self.name}": script.encode(), f"hostile/{self.name}.bin": self.sends}


def _pages(pages: int, runs: int, body: bytes = b"") -> bytes:
    header = struct.pack("<8sIIQQQQ", b"FPRPAGES", PAGES_VERSION, 4096, pages, 1, 2, runs)
    return header + body


def _counters(*texts: bytes, lengths: tuple[int, ...] | None = None) -> bytes:
    sizes = lengths or tuple(map(len, texts))
    return struct.pack("<4sIQQQQ4I", b"FPRC", COUNTERS_VERSION, 0, 0, 1, 1, *sizes) + b"".join(
        texts
    )


def _zones(number: int, present: int = 1000) -> bytes:
    """The counters of a guest with so many zones."""
    fields = "".join(
        f"  {name} {present}\n"
        for name in "pages free,min,low,high,spanned,present,managed".split(",")
    )
    zones = "".join(
        f"Node {node}, zone DMA32\n{fields}  start_pfn: 4096\n" for node in range(number)
    )
    buddy = "".join(f"Node {node}, zone DMA32 1 2 3\n" for node in range(number))
    return _counters(
        b"MemTotal: 1000 kB\nMemFree: 250 kB\n", b"pgfault 1\n", buddy.encode(), zones.encode()
    )


def _cat(then: str = STAY) -> str:
    return f'cat "/hostile/${{word#*=}}.bin"; {then}'


_FEATURES = "\nfor device in"
_RUN_LIMIT = "printed more than 8388608 bytes"
_WAITED = "waited"

MISBEHAVIOURS = (
    # --- its name
    Misbehaviour("name-endless", "uname", "exec busybox yes 6.1.0", "ERROR", "more than 256 bytes"),
    Misbehaviour("name-lines", "uname", "echo 6.1; echo '| PASS |'", "ERROR", "a kernel release"),
    Misbehaviour("name-binary", "uname", r"printf '\377\376\n'", "ERROR", "a kernel release"),
    Misbehaviour("name-escape", "uname", r"printf '6.1\033[2J\n'", "ERROR", "a kernel release"),
    Misbehaviour("name-none", "uname", "true", "ERROR", "a kernel release"),
    Misbehaviour("name-never", "uname", STAY, "MISS", _WAITED, deadline=60.0),
    Misbehaviour("name-hang-up", "uname", "kill -9 $PPID", "MISS", "did not become ready"),
    # --- what it says of the balloon
    Misbehaviour("features-endless", _FEATURES, ENDLESS, "ERROR", _RUN_LIMIT),
    Misbehaviour("features-trickle", _FEATURES, TRICKLE, "MISS", _WAITED, deadline=10.0),
    Misbehaviour("features-errors", _FEATURES, "exec busybox yes >&2", "MISS", _WAITED, 10.0),
    Misbehaviour(
        "features-garbage", _FEATURES, _cat("true"), "MISS", "reporting order", 0.0, b"\xff" * 9000
    ),
    Misbehaviour(
        "features-rare", _FEATURES, "echo delay=4294967295; echo block_order=9", "MISS", "every"
    ),
    Misbehaviour("features-refused", _FEATURES, "exit 127", "ERROR", "status 127"),
    # --- its page states
    Misbehaviour(
        "pages-claim",
        "fpr-guest pages",
        _cat(),
        "MISS",
        "damaged",
        0.0,
        _pages(1 << 29, 9, b"\xff\xff\xff\xff" * 9),
    ),
    Misbehaviour(
        "pages-runs", "fpr-guest pages", _cat(), "MISS", "damaged", 0.0, _pages(1 << 40, 1 << 40)
    ),
    Misbehaviour(
        "pages-trickle",
        "fpr-guest pages",
        _cat(TRICKLE),
        "MISS",
        _WAITED,
        30.0,
        _pages(1 << 18, 1 << 18),
    ),
    Misbehaviour("pages-never", "fpr-guest pages", STAY, "MISS", _WAITED, 30.0),
    Misbehaviour("pages-garbage", "fpr-guest pages", ENDLESS, "MISS", "unknown format"),
    Misbehaviour(
        "pages-cut",
        "fpr-guest pages",
        _cat("exit 0"),
        "MISS",
        "page states",
        0.0,
        _pages(1 << 18, 1 << 18),
    ),
    # --- its counters, asked for once
    Misbehaviour(
        "zones-many", "fpr-guest counters --once", _cat("true"), "MISS", "zones", 0.0, _zones(7000)
    ),
    Misbehaviour(
        "zones-huge",
        "fpr-guest counters --once",
        _cat("true"),
        "MISS",
        "more pages than an x86_64 machine",
        0.0,
        _zones(1, 1 << 60),
    ),
    Misbehaviour("counters-endless", "fpr-guest counters --once", ENDLESS, "ERROR", _RUN_LIMIT),
    Misbehaviour("counters-never", "fpr-guest counters --once", STAY, "MISS", _WAITED, 20.0),
    # --- its stream of counters, without which a run goes on
    Misbehaviour(
        "stream-claim",
        "fpr-guest counters --hz",
        _cat(),
        "DONE",
        "",
        0.0,
        _counters(lengths=(0xFFFFFFFF,) * 4),
    ),
    Misbehaviour("stream-flood", "fpr-guest counters --hz", ENDLESS, "DONE", ""),
    Misbehaviour("stream-never", "fpr-guest counters --hz", STAY, "DONE", ""),
    # --- its churn tool
    Misbehaviour(
        "churn-claim",
        "fpr-guest churn",
        f"echo filled bytes=99999999999999 pid=1 seconds=1; {STAY}",
        "ERROR",
        "asked to hold",
    ),
    Misbehaviour("churn-line", "fpr-guest churn", ENDLESS, "ERROR", "a line of more than"),
    Misbehaviour(
        "churn-lines", "fpr-guest churn", "exec busybox yes mismatch", "MISS", _WAITED, 14.0
    ),
    Misbehaviour("churn-never", "fpr-guest churn", STAY, "MISS", _WAITED, 14.0),
    Misbehaviour(
        "churn-garbage",
        "fpr-guest churn",
        f"echo filled bytes=many; {STAY}",
        "ERROR",
        "without a number",
    ),
    Misbehaviour("churn-dies", "fpr-guest churn", "echo oh >&2; exit 1", "ERROR", "oh"),
    # --- its console
    Misbehaviour(
        "console-flood",
        _FEATURES,
        "exec busybox tr '\\\\0' x </dev/zero >/dev/ttyS0",
        "ERROR",
        "on its console",
        60.0,
    ),
    Misbehaviour(
        "console-patterns",
        _FEATURES,
        "p=:1; for i in 1 2 3 4 5 6 7 8 9 10 11; do p=$p$p; done; "
        'for i in 1 2 3 4 5 6 7 8; do echo "WARNING: $p" >/dev/ttyS0; done; exit 127',
        "FAIL",
        "",
        10.0,
    ),
)
"""In the order of what a run asks first."""


def hostile_archive(path: Path) -> Path:
    """The archive that replaces the login shell; written to `path`."""
    honest = (IMAGES_DIR / "guest-shell").read_bytes()
    entries = [
        directory_entry("hostile"),
        file_entry("bin/guest-shell", SHELL.encode(), 0o755),
        file_entry("bin/guest-shell.honest", honest, 0o755),
        file_entry("hostile/none", b""),
    ]
    for each in MISBEHAVIOURS:
        entries += [file_entry(name, data) for name, data in each.files().items()]
    path.write_bytes(write_cpio(entries))
    return path
