# SPDX-License-Identifier: Apache-2.0
"""Write `repro.sh`, the script in a run's directory that boots its guest by hand."""

import shlex
from pathlib import Path

from harness.errors import RecordError
from harness.machine.vm import VirtualMachine
from harness.run.plan import PlannedRun, RunOptions
from harness.run.qemus import QemuChoice

_END_OF_SCENARIO = "END_OF_SCENARIO"


def write_repro(directory: Path, vm: VirtualMachine, run: PlannedRun, options: RunOptions) -> None:
    """Write `repro.sh`, which boots the same guest with its console on the terminal.

    `repro.sh scenario` prints the scenario as it was run. Raises `RecordError`.
    """
    path = directory / "repro.sh"
    again = ["fpr-harness", "run", f"{run.scenario.name}.yaml", "--image", run.image.name]
    again += ["--accel", vm.accel]
    if vm.spec.clock != "real":
        again += ["--clock", vm.spec.clock]
    for flag, option in (
        ("--kernel", options.kernel),
        ("--modules", options.modules),
    ):
        if option is not None:
            again += [flag, str(option.absolute())]
    if run.qemu != QemuChoice():
        again += ["--qemu", run.qemu.word]
    printed = shlex.join(["sh", str(path.absolute()), "scenario"])
    end = _END_OF_SCENARIO
    while end in run.scenario.as_yaml:
        end += "_"
    script = "\n".join(
        [
            "#!/bin/sh",
            f"# Boots the guest of {run.run_id} by hand, with its console on this terminal",
            "# (Ctrl-A x ends it) and its QMP socket and discard trace in the current directory.",
            "# To run the whole scenario again, with a verdict:",
            f"#   {_in_comment(printed)} >{run.scenario.name}.yaml",
            f"#   {_in_comment(shlex.join(again))}",
            f"if [ \"$1\" = scenario ]; then cat <<'{end}'",
            run.scenario.as_yaml + end,
            "exit",
            "fi",
            "exec " + " \\\n    ".join(shlex.quote(word) for word in vm.argv_by_hand()) + ' "$@"',
            "",
        ]
    )
    try:
        path.write_text(script, encoding="utf-8")
        path.chmod(0o755)
    except OSError as error:
        hint = "free space on the disk, or check that the directory is writable"
        raise RecordError(f"cannot write {path}: {error.strerror}", hint=hint) from error


def _in_comment(words: str) -> str:
    """Keep words inside their comment, even if a path contains line ends."""
    return words.replace("\n", "\n#   ").replace("\r", "\n#   ")
