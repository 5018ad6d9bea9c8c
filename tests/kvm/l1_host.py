# SPDX-License-Identifier: Apache-2.0
"""Runs a job on a host in a VM, and brings its results out."""

import io
import subprocess
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

from l1_image import HostImage, project_archive

from harness.machine.accel import host_khz
from harness.machine.command import KERNEL_WORDS
from harness.machine.console import ConsoleScanner

MEMORY_MIB = 5120
"""For two guests of 1 GiB, their QEMUs and the harness."""

RESULTS_MIB = 256
SECTOR = 512


@dataclass(frozen=True)
class Job:
    """What a job left."""

    results: Path
    """What it put into /results."""
    console: str
    status: int | None
    """Its exit status; None: it did not come to its end."""
    seconds: float
    """From power-on to power-off."""

    @property
    def crash(self) -> str | None:
        """What the host's own kernel died of, if it did: TCG's SVM is no perfect hardware."""
        scanner = ConsoleScanner()
        scanner.feed(self.console.encode() + b"\n")
        scanner.finish()
        crashes = [found.title for found in scanner.findings if found.severity == "crash"]
        return crashes[0] if self.status is None and crashes else None


def _clock() -> list[str]:
    """Have the host take the TSC for its clock: it trusts none that it must measure under TCG, and
    reading the HPET instead takes every reader through QEMU, one at a time.
    """
    khz = host_khz()
    return [f"tsc_early_khz={khz}", "tsc=reliable"] if khz else []


def run_job(
    script: str,
    directory: Path,
    image: HostImage,
    qemu: Path,
    *,
    seconds: float,
) -> Job:
    """Boot the host, run a shell script in it, and unpack its /results below `directory`.

    The disk stays as it is: what is written goes into a temporary file. QEMU ends with this call.
    """
    directory.mkdir(parents=True, exist_ok=True)
    job, out, console = directory / "job.sh", directory / "results.tar", directory / "l1.log"
    text = script.encode() + b"\nexit $?\n"
    job.write_bytes(text + b"\n" * (-len(text) % SECTOR))
    with out.open("wb") as file:
        file.truncate(RESULTS_MIB << 20)
    project = directory / "project.tar"
    project.write_bytes(project_archive())
    disks = (
        (image.disk, "snapshot=on"),
        (out, "snapshot=off"),
        (job, "readonly=on"),
        (project, "readonly=on"),
    )
    drives = [f"if=virtio,format=raw,file={path},{how}" for path, how in disks]
    words = [
        *("-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"),
        *("-m", f"{MEMORY_MIB}M", "-nodefaults", "-no-user-config", "-display", "none"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initramfs)),
        *("-append", " ".join([*KERNEL_WORDS, *_clock(), "quiet"])),
        *("-serial", f"file:{console}", "-no-reboot"),
        *(word for drive in drives for word in ("-drive", drive)),
    ]
    began = time.monotonic()
    with (directory / "qemu.log").open("wb") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", str(qemu), *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            process.kill()
            process.wait()
    said = console.read_text(errors="replace") if console.exists() else ""
    _, mark, rest = said.rpartition("L1: the job ended with ")
    results = directory / "results"
    results.mkdir()
    if not mark:
        return Job(results, said, None, time.monotonic() - began)
    with tarfile.open(fileobj=io.BytesIO(out.read_bytes())) as tar:
        tar.extractall(results, filter="data")
    out.unlink()
    return Job(results, said, int(rest.split()[0]), time.monotonic() - began)
