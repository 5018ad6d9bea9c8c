# SPDX-License-Identifier: Apache-2.0
"""Turn what doctor saw into findings: a state and, unless that is ok, what to do."""

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import HarnessError, ImageError
from harness.image.compile import compile_c
from harness.machine.accel import known_defects
from harness.machine.qemu import Qemu
from harness.machine.qemu_user import AS_ROOT
from harness.observe.host_report import Finding

Accel = Literal["kvm", "tcg"]

PACKAGES = {
    "setpriv": "util-linux",
    "apt-get": "apt",
    "apt-cache": "apt",
    "dpkg-deb": "dpkg",
    "ssh": "openssh-client",
}
"""Programs that the harness runs, with the Debian package of each."""

_KVM_ABSENT = (
    "enable virtualization in the firmware (in a VM: enable nested virtualization on its host), "
    "then modprobe kvm_intel or kvm_amd (as root)"
)

_NOT_AS_ROOT = (
    "start the harness as a user without rights; or let root's QEMU be another user (SECURITY.md): "
    "keep it where every user reaches it, and give a container CAP_SYS_PTRACE"
)

_MSR = re.compile(r"failed to set MSR (0x[0-9a-f]+)")
_LOG_STAMP = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z ")


@dataclass(frozen=True)
class Trial:
    """The result of booting a guest under an accelerator."""

    trouble: str | None
    """Why no guest became ready; None if one did."""
    seconds: float = 0.0
    release: str = ""
    remembered: str | None = None
    """An earlier failure of KVM, because of which `--accel auto` takes TCG."""
    hint: str = ""
    launched: bool = True
    """Whether QEMU was launched; False if this host lacks what that needs."""


def judge_accelerator(accel: Accel, trial: Trial, *, only: bool) -> Finding:
    """Judge a trial; with `only`, no other accelerator may be used instead."""
    name = accel.upper()
    if trial.trouble is None:
        seen = f"a guest became ready in {trial.seconds:.1f} s (Linux {trial.release})"
        if trial.remembered is None:
            return Finding(name, "ok", seen)
        return Finding(
            name,
            "warn",
            f"{seen}, but --accel auto takes TCG because of an earlier failure",
            trial.remembered,
        )
    if accel == "tcg":
        return Finding(name, "bad", _one_line(trial.trouble), _advice(trial, accel))
    seen, advice = _kvm_in_clear(trial.trouble, trial)
    instead = "use --accel auto or tcg" if only else "TCG is used"
    return Finding(name, "bad" if only else "warn", seen, f"{advice}; until then {instead}")


def _kvm_in_clear(whole: str, trial: Trial) -> tuple[str, str]:
    """Say what is wrong with KVM, and what to do."""
    trouble = _one_line(whole)
    if msr := _MSR.search(trouble):
        return (
            "/dev/kvm can be opened, but no guest starts: KVM rejects a register of the CPU model "
            f"that it offers ({msr[0]}), which happens with incomplete nested virtualization",
            "use a host with complete (nested) virtualization, or bare metal",
        )
    if not trial.launched:
        seen, _, remedy = trouble.removesuffix(")").partition(" (")
        return seen, _KVM_ABSENT if "does not exist" in seen else remedy
    return (
        f"/dev/kvm can be opened, but no guest becomes ready: {trouble}",
        _advice(trial, "kvm"),
    )


def _advice(trial: Trial, accel: Accel) -> str:
    # Leave out hints that refer to `doctor`, which the reader is running.
    hint = f"{trial.hint}; " if trial.hint and "doctor" not in trial.hint else ""
    return f"{hint}`fpr-harness shell --accel {accel}` with the same options keeps the guest's logs"


def judge_qemu(qemu: Qemu, accelerators: tuple[Accel, ...]) -> Finding:
    """Judge the QEMU by its version and its known defects under these accelerators."""
    seen = f"{qemu.version} ({qemu.path})"
    if qemu.discard_event is None:
        return Finding(
            "QEMU",
            "warn",
            f"{seen}: {qemu.untraced}, so its discards are not seen, and scenarios that expect "
            "something of them are a MISS",
            "choose another with --qemu: `fpr-harness qemu list` has builds that trace discards",
        )
    defects = {
        accel: known for accel in accelerators for known in known_defects(qemu, accel)
    }.items()
    if qemu.user is not None:
        seen += f" runs as {qemu.user.name}"
    if qemu.unconfined:
        seen += f" ({qemu.unconfined}: a guest that takes QEMU over can do more)"
    if not defects and qemu.as_root and qemu.as_root != AS_ROOT:
        return Finding("QEMU", "warn", f"{seen}, no known defects", _NOT_AS_ROOT)
    if not defects:
        return Finding("QEMU", "ok", f"{seen}, no known defects")
    titles = "; ".join(defect.title for _accel, defect in defects)
    remedies = "; ".join(defect.remedy for _accel, defect in defects)
    return Finding(
        "QEMU",
        "warn",
        f"{seen}: {titles}",
        f"use QEMU 8 or later; until then {remedies}, which avoids it",
    )


def judge_programs(
    which: Callable[[str], str | None], compiler: HarnessError | None, *, built: bool
) -> Finding:
    """Judge the programs that `which` finds.

    `compiler` is why the guest tool cannot be compiled, or None. With `built`, all images exist,
    so that the programs that build them are not needed.
    """
    missing = [program for program in PACKAGES if which(program) is None]
    if not missing and compiler is None:
        return Finding("programs", "ok", f"cc with a static C library, {', '.join(PACKAGES)}")
    troubles = [f"no {', '.join(missing)}"] if missing else []
    advice = []
    if missing:
        packages = dict.fromkeys(PACKAGES[program] for program in missing)
        advice.append(f"install {', '.join(packages)}")
    if compiler is not None:
        troubles.append(_one_line(compiler.message))
        advice.append(compiler.hint)
    to_build = compiler is not None or not {"setpriv", "ssh"}.issuperset(missing)
    bad = "setpriv" in missing or (to_build and not built)
    uses = ["to build images, and all are built"] if to_build else []
    uses += ["for `shell`"] if "ssh" in missing else []
    why = "" if bad else f" (needed {'; '.join(uses)})"
    return Finding(
        "programs", "bad" if bad else "warn", "; ".join(troubles) + why, "; ".join(advice)
    )


def compiler_trouble() -> HarnessError | None:
    """Compile a static program; returns the error if that fails, else None."""
    try:
        with tempfile.TemporaryDirectory(prefix="fpr-harness-") as name:
            source = Path(name) / "trial.c"
            source.write_text("int main(void) { return 0; }\n", encoding="ascii")
            compile_c([source], Path(name) / "trial")
    except HarnessError as error:
        return error
    except OSError as error:
        return ImageError(f"cannot try the C compiler: {error}", hint="set TMPDIR")
    return None


def _one_line(text: str) -> str:
    """Return the first line of a message without the time stamps of QEMU's log."""
    return _LOG_STAMP.sub("", text.partition("\n")[0]).rstrip(":")
