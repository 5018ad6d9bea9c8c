# SPDX-License-Identifier: Apache-2.0
"""Bundle what an invocation ran, and plan the runs of a bundle again."""

import hashlib
import platform
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from harness import __version__
from harness.act.discover import VERBS
from harness.errors import HarnessError, ImageError, RecordError, ScenarioFileError, UsageError
from harness.image.build import BootFiles, ensure_image, find_built
from harness.image.definition import ImageDefinition, load_definitions
from harness.image.qemu_definition import HOST, load_qemus
from harness.machine.qemu import Qemu
from harness.record.bundle_manifest import BundledKernel, BundledRun
from harness.record.bundle_read import Bundle
from harness.record.bundle_write import write_bundle
from harness.run.plan import PlannedRun, choose_images, plan_runs
from harness.run.qemus import QemuChoice, choose_one_qemu
from harness.scenario.load import load_scenarios
from harness.scenario.model import Scenario

Note = Callable[[str], None]
Boots = Mapping[str, BootFiles | HarnessError]

UNPACKED = ".bundle"
"""The directory in the results that holds a bundle's kernels; no run's name begins with a dot."""


def bundle(
    target: Path,
    results: Path,
    boots: Boots,
    qemus: Mapping[str, Qemu | HarnessError],
    *,
    commit: str | None,
    with_kernel: bool,
) -> None:
    """Bundle a results directory; `commit` is that of the tree of `--kernel`.

    Raises `RecordError`.
    """
    booted = {name: boot for name, boot in boots.items() if isinstance(boot, BootFiles)}
    kernels = {
        name: BundledKernel(
            release=boot.release,
            build=boot.build,
            commit=commit,
            kernel=_sha256(boot.kernel),
            initramfs=_sha256(boot.initramfs),
            included=with_kernel,
        )
        for name, boot in booted.items()
    }
    files = [path for boot in booted.values() for path in (boot.kernel, boot.initramfs)]
    packages = {name: qemu.package for name, qemu in qemus.items() if isinstance(qemu, Qemu)}
    write_bundle(target, results, kernels, files if with_kernel else (), packages)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plan_replay(bundle: Bundle, kernel: Path | None, qemu: list[str]) -> list[PlannedRun]:
    """Plan every run of a bundle; `qemu` names another QEMU than those it ran on.

    Raises `UsageError`, `ScenarioFileError`, and `RecordError` for what no bundle says.
    """
    manifest = bundle.manifest
    if not manifest.runs:
        raise UsageError(f"{bundle.path} holds no run")
    scenarios = _scenarios(bundle)
    found = []
    for run in manifest.runs:
        image = _image(bundle, run, given=kernel is not None)
        choice = _qemu(run, qemu)
        (planned,) = plan_runs([scenarios[run.scenario]], [image], 1, [choice])
        found.append(replace(planned, run_id=run.run))
    return found


def _scenarios(bundle: Bundle) -> dict[str, Scenario]:
    """Load the scenarios of the runs, by member."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="fpr-replay-") as directory:
        for number, member in enumerate(sorted({run.scenario for run in bundle.manifest.runs})):
            # A scenario's file has its name.
            path = Path(directory) / str(number) / Path(member).name
            path.parent.mkdir()
            path.write_bytes(bundle.scenario(member))
            try:
                scenarios = load_scenarios(path, VERBS)
            except ScenarioFileError as error:
                # By the names that the user knows, and with what another version may explain.
                told = error.message.replace(str(path), f"{bundle.path}, {member}")
                raise ScenarioFileError(told, hint=_wrote(bundle)) from error
            if len(scenarios) != 1:
                raise _refused(bundle, f"its {member} is {len(scenarios)} scenarios")
            found[member] = scenarios[0]
    return found


def _wrote(bundle: Bundle) -> str:
    """Advice for what this version cannot read."""
    return (
        f"fpr-harness {bundle.manifest.harness} made the bundle, and this is {__version__}: "
        "replay it with that one"
    )


def _refused(bundle: Bundle, what: str) -> RecordError:
    return RecordError(f"{bundle.path} cannot be used: {what}", hint=_wrote(bundle))


def _one_image(bundle: Bundle, name: str) -> ImageDefinition:
    images = choose_images(load_definitions(), [name])
    if len(images) != 1:
        raise _refused(bundle, f"{name!r} is not the name of one image")
    return images[0]


def _image(bundle: Bundle, run: BundledRun, *, given: bool) -> ImageDefinition:
    """The image to run on: that of the same build of the kernel, unless the kernel is at hand."""
    kernels = bundle.manifest.kernels
    facts = kernels.get(run.kernel) if run.kernel is not None else None
    image = _one_image(bundle, run.image)
    if given or facts is None or facts.included:
        return image
    if not facts.build:
        raise UsageError(
            f"the bundle does not hold the kernel {facts.release} of run {run.run}, which was "
            "given by its path",
            hint="give it with --kernel PATH, or ask for a bundle made with --with-kernel",
        )
    version = facts.build.partition(" of ")[0]
    built = find_built(image)
    if image.kernel.version is not None or (built is not None and built.build == facts.build):
        return image
    return _one_image(bundle, f"{run.image}={version}")


def _qemu(run: BundledRun, words: list[str]) -> QemuChoice:
    definitions = load_qemus()
    named = words or [run.qemu if run.qemu in (HOST, *definitions) else HOST]
    return choose_one_qemu(definitions, named)


def replay_boots(bundle: Bundle, runs: list[PlannedRun], results: Path, note: Note) -> Boots:
    """Make the images of planned runs: of the bundle's kernels where it holds them.

    Raises `RecordError`.
    """
    images = {run.image.name: run.image for run in runs}
    kernels = bundle.manifest.kernels
    included = {name for name in images if name in kernels and kernels[name].included}
    unpacked: dict[str, Path] = {}
    if included:
        directory = results / UNPACKED
        directory.mkdir()
        unpacked = bundle.unpack_kernels(directory)
    boots: dict[str, BootFiles | HarnessError] = {}
    for name, image in images.items():
        if name in included:
            facts = kernels[name]
            boots[name] = BootFiles(
                name,
                unpacked[facts.kernel],
                unpacked[facts.initramfs],
                facts.release,
                facts.initramfs[:16],
                bundle.path,
                build=facts.build,
            )
            continue
        try:
            boots[name] = ensure_image(image, progress=note)
        except HarnessError as error:
            boots[name] = error
    return boots


def differences(
    bundle: Bundle, runs: list[PlannedRun], boots: Boots, qemus: Mapping[str, Qemu | HarnessError]
) -> list[str]:
    """Say what is not here as it was there, one line each."""
    manifest = bundle.manifest
    pairs = [("fpr-harness", manifest.harness, __version__)]
    pairs += [("the host's kernel", manifest.host.get("kernel", ""), platform.release())]
    for run, planned in zip(manifest.runs, runs, strict=True):
        qemu = qemus.get(planned.qemu.name)
        if isinstance(qemu, Qemu):
            there = f"{run.qemu_version} {run.qemu_package}".strip()
            pairs.append(("QEMU", there, f"{qemu.version} {qemu.package}".strip()))
        boot = boots.get(planned.image.name)
        facts = manifest.kernels.get(run.kernel or "")
        if isinstance(boot, BootFiles) and facts is not None:
            try:
                pairs += _kernel_pairs(facts, boot)
            except OSError as error:
                raise ImageError(f"cannot read {error.filename}: {error.strerror}") from error
    told = [
        f"{what}: {there or 'not known'} there, {here} here"
        for what, there, here in pairs
        if there != here
    ]
    return list(dict.fromkeys(told))


def _kernel_pairs(facts: BundledKernel, boot: BootFiles) -> list[tuple[str, str, str]]:
    """The kernel and the initramfs, there and here, each as one word."""
    kernel, initramfs = _sha256(boot.kernel), _sha256(boot.initramfs)
    here = boot.release if kernel == facts.kernel else f"{boot.release} ({kernel[:12]})"
    there = facts.release if kernel == facts.kernel else f"{facts.release} ({facts.kernel[:12]})"
    return [
        ("kernel", there, here),
        ("initramfs", facts.initramfs[:12], initramfs[:12]),
    ]
