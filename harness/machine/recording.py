# SPDX-License-Identifier: Apache-2.0
"""What is kept of a guest that QEMU has recorded, so that it can be replayed.

QEMU writes down what reaches a guest from outside, with the count of instructions at which it
does: packets, the time, the end (docs/system/replay.rst). What QMP commands do to a guest's devices
is not among it. In the directory of the run stay QEMU's log, the kernel, the initramfs with the
run's keys, and the machine.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from harness import __version__
from harness.errors import RecordError
from harness.machine.spec import GuestSpec
from harness.regular_file import open_regular

RECORDING = "recording"
"""In a run's directory."""

LOG, KERNEL, INITRAMFS, MACHINE = "record.bin", "kernel", "initramfs", "machine.json"

MOST_BYTES = 1 << 20
"""Of the description of the machine, which takes a few hundred bytes."""

HEAD_BYTES = 4
"""Head of the log, which QEMU fills in when it ends (replay/replay.c, replay_finish())."""


@dataclass(frozen=True)
class Machine:
    """The machine that was recorded."""

    spec: GuestSpec
    qemu: str
    """Version of the QEMU that recorded it."""
    harness: str = __version__
    """Version of the harness that made its command line."""


_MACHINE = TypeAdapter(Machine)


def write_recording(run: Path, machine: Machine, *, log: Path, kernel: Path, initrd: Path) -> None:
    """Keep a recording in a run's directory. Raises `OSError`."""
    directory = run / RECORDING
    directory.mkdir(exist_ok=True)
    for path, name in ((log, LOG), (kernel, KERNEL), (initrd, INITRAMFS)):
        shutil.copyfile(path, directory / name)
    (directory / MACHINE).write_bytes(_MACHINE.dump_json(machine, indent=1) + b"\n")


def read_recording(run: Path) -> Machine:
    """Read the machine that a run recorded, to be replayed. Raises `RecordError`."""
    directory = run / RECORDING
    try:
        with open_regular(directory / MACHINE) as file:
            machine = _MACHINE.validate_json(file.read(MOST_BYTES))
        with open_regular(directory / LOG) as log:
            complete = any(log.read(HEAD_BYTES))
        for name in (KERNEL, INITRAMFS):
            open_regular(directory / name).close()
    except FileNotFoundError as error:
        raise RecordError(
            f"{run} has no recording of a guest: there is no {error.filename}",
            hint="name the directory of one run that was made with `run --record`",
        ) from error
    except ValidationError as error:
        raise RecordError(
            f"{directory / MACHINE} describes no machine: {error.errors()[0]['msg']}",
            hint="copy the recording again from where it was made",
        ) from error
    except OSError as error:
        raise RecordError(f"the recording in {directory} cannot be read: {error}") from error
    if not complete:
        raise RecordError(
            f"{directory / LOG} is not complete: QEMU writes its head when it ends, and was killed "
            "before that",
            hint="record the run again",
        )
    return replace(machine, spec=replace(machine.spec, rr="replay"))
