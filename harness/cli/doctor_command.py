# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness doctor`: check what this host can do and what to fix, one line for each finding."""

import argparse
import shutil
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

from rich.text import Text

from harness.cli.doctor_findings import (
    Accel,
    Trial,
    compiler_trouble,
    judge_accelerator,
    judge_programs,
    judge_qemu,
)
from harness.cli.options import run_options
from harness.cli.shell_command import stopping_guests
from harness.errors import UNAVAILABLE, HarnessError, ObserveError, UsageError
from harness.image.build import BootFiles, find_built
from harness.image.cache import cache_directory
from harness.image.definition import ImageDefinition, load_definitions
from harness.image.qemu_definition import load_qemus
from harness.machine.accel import (
    KvmMemory,
    boot_seconds,
    kvm_unusable,
)
from harness.machine.launch import launch
from harness.machine.qemu import Qemu
from harness.machine.spec import GuestSpec
from harness.observe.host_report import Finding, read_disk, read_host, read_memory
from harness.observe.page_walk import scan_support
from harness.record.results_directory import DEFAULT_BASE
from harness.report.screen import make_console
from harness.run.invocation import prepare_images
from harness.run.plan import choose_images
from harness.run.pool import MEMORY_SHARE, QEMU_OVERHEAD
from harness.run.qemus import choose_one_qemu, prepare_qemu
from harness.safe_text import safe_line, safe_text
from harness.units import GIB, MIB

TRIAL_MEMORY = 256 * MIB
STYLES = {"ok": "green", "warn": "yellow", "bad": "bold red"}
NAME_WIDTH = 14
INDENT = 6 + NAME_WIDTH + 1


def execute(options: argparse.Namespace) -> int:
    """Print findings as they arise, then a summary; returns 0 if guests can run here, else 69."""
    try:
        with stopping_guests() as cancelled:
            return _Doctor(options, cancelled).examine()
    except (BrokenPipeError, SystemExit):  # rich exits with 1 on a closed pipe (`| head`)
        return UNAVAILABLE
    except OSError as error:
        raise ObserveError(f"cannot examine this host: {error}") from error


class _Doctor:
    """One examination of this host."""

    def __init__(self, options: argparse.Namespace, cancelled: threading.Event) -> None:
        self._options = options
        self._cancelled = cancelled
        self._console = make_console()
        self._states: list[str] = []

    def examine(self) -> int:
        """Examine everything, quick checks first where the order is free; returns the status."""
        images = choose_images(load_definitions(), self._options.image)
        qemu = self._examine_qemu()
        built = all(find_built(image) is not None for image in images)
        self._show(judge_programs(shutil.which, compiler_trouble(), built=built))
        for finding in read_host(scan_support()):
            self._show(finding)
        self._show(read_memory(GIB + QEMU_OVERHEAD, MEMORY_SHARE))
        self._show(
            read_disk(
                "disk: cache", cache_directory(), "set XDG_CACHE_HOME to a disk with more room"
            )
        )
        self._show(
            read_disk("disk: results", DEFAULT_BASE.absolute(), "choose another with --results DIR")
        )
        boots = [boot for image in images if (boot := self._examine_image(image)) is not None]
        usable = self._examine_accelerators(qemu, boots[0] if boots else None)
        self._show_summary(usable)
        return 0 if usable else UNAVAILABLE

    def _examine_qemu(self) -> Qemu | None:
        try:
            choice = choose_one_qemu(load_qemus(), self._options.qemu)
            qemu = prepare_qemu(choice, _tell)
        except UsageError:
            raise
        except HarnessError as error:
            self._show(Finding("QEMU", "bad", error.message, error.hint))
            return None
        self._show(judge_qemu(qemu, self._accelerators()))
        return qemu

    def _examine_image(self, image: ImageDefinition) -> BootFiles | None:
        """Build the image unless it is built, since only that shows that it can be built here."""
        name = f"image {image.name}"
        news: list[str] = []

        def progress(text: str) -> None:
            news.append(text)
            _tell(text)

        boot = prepare_images([image], run_options(self._options), progress)[image.name]
        if isinstance(boot, UsageError):
            raise boot
        if isinstance(boot, HarnessError):
            self._show(Finding(name, "bad", f"not built: {boot.message}", boot.hint))
            return None
        kernel = f" with {self._options.kernel}" if self._options.kernel is not None else ""
        how = "built just now" if news else "built"
        build = f" ({boot.build})" if boot.build else ""
        self._show(Finding(name, "ok", f"{how}{kernel}: Linux {boot.release}{build}"))
        return boot

    def _accelerators(self) -> tuple[Accel, ...]:
        return ("kvm", "tcg") if self._options.accel == "auto" else (self._options.accel,)

    def _examine_accelerators(self, qemu: Qemu | None, boot: BootFiles | None) -> list[Accel]:
        """Return the accelerators under which a guest became ready."""
        usable: list[Accel] = []
        for accel in self._accelerators():
            trial = self._try(accel, qemu, boot)
            usable += [accel] if trial.trouble is None else []
            self._show(
                judge_accelerator(accel, trial, only=len(self._accelerators()) == 1)
                if qemu is not None and boot is not None
                else Finding(
                    accel.upper(),
                    "bad",
                    f"not tried without a {'QEMU' if qemu is None else 'guest image'}",
                    "fix that first, see above",
                )
            )
        return usable

    def _try(self, accel: Accel, qemu: Qemu | None, boot: BootFiles | None) -> "Trial":
        """Boot a small guest; raises only if the examination is interrupted."""
        if qemu is None or boot is None:
            return Trial("not tried", launched=False)
        if accel == "kvm" and (why := kvm_unusable()):
            return Trial(why, launched=False)
        _tell(f"trying {accel.upper()}: booting a guest, at most {boot_seconds(accel):.0f} s")
        try:
            with (
                tempfile.TemporaryDirectory(prefix="fpr-harness-") as artefacts,
                launch(
                    GuestSpec(memory=TRIAL_MEMORY, vcpus=1),
                    boot,
                    accel=accel,
                    qemu=qemu.path,
                    artefacts=Path(artefacts),
                    progress=_tell,
                    cancelled=self._cancelled,
                ) as vm,
            ):
                remembered = KvmMemory(qemu).failure() if accel == "kvm" else None
                return Trial(None, vm.boot_seconds, vm.kernel_release, remembered)
        except HarnessError as error:
            if self._cancelled.is_set():
                raise
            return Trial(error.message, hint=error.hint)
        except OSError as error:
            return Trial(f"cannot make a temporary directory: {error}", hint="set TMPDIR")

    def _show(self, finding: Finding) -> None:
        self._states.append(finding.state)
        text = f"{finding.seen} -- to do: {finding.advice}" if finding.advice else finding.seen
        text = safe_line(" ".join(text.split()))
        line = Text.assemble(
            (f"{finding.state:<6}", STYLES[finding.state]), f"{finding.name:<{NAME_WIDTH}} "
        )
        if self._console.is_terminal:
            width = max(20, self._console.width - INDENT)
            text = textwrap.fill(text, width, break_on_hyphens=False, break_long_words=False)
            text = text.replace("\n", "\n" + " " * INDENT)
        self._console.print(line.append(text), soft_wrap=True)

    def _show_summary(self, usable: list[Accel]) -> None:
        counts = [
            f"{count} {word}{'s'[: count != 1]}"
            for state, word in (("bad", "problem"), ("warn", "warning"))
            if (count := self._states.count(state))
        ]
        rest = f"; {' and '.join(counts)}, see above" if counts else "; nothing to fix"
        where = " and ".join(accel.upper() for accel in usable)
        can = f"guests can run here, under {where}" if usable else "no guest can run here"
        self._console.print(Text(can + rest, style="bold"), soft_wrap=True)


def _tell(text: str) -> None:
    """Print progress on standard error, so that standard output has only findings."""
    print(f"... {safe_text(text)}", file=sys.stderr, flush=True)
