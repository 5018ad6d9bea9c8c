# SPDX-License-Identifier: Apache-2.0
"""Runs of a bundle are planned as they were, on the kernel they ran on, or it says why not."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from qemus import a_qemu

from harness.cli import replay_command
from harness.cli.main import main
from harness.errors import RecordError, ScenarioFileError, UsageError
from harness.image.build import BootFiles
from harness.record.bundle_manifest import BundledKernel, BundledRun, BundleManifest
from harness.run.bundling import differences, plan_replay, replay_boots
from harness.run.plan import RunOptions

SCENARIO = b"name: small\ntitle: t\nsteps: [settle: {}]\n"
A, B = "a" * 64, "b" * 64


def a_bundle(**kernel: Any) -> Any:
    """A checked bundle of two runs of one scenario, whose kernel is `kernel`."""
    facts = BundledKernel(**{"release": "6.1.0", "kernel": A, "initramfs": B, **kernel})
    run = BundledRun(
        run="small#1",
        scenario="scenarios/small.yaml",
        image="bookworm",
        kernel="bookworm",
        qemu="sid",
        qemu_version="11.1.3",
        accel="tcg",
        verdict="FAIL",
        cause="not-reported",
        reason="why",
    )
    manifest = BundleManifest(
        harness="0.0.9",
        host={"kernel": "6.12"},
        kernels={"bookworm": facts},
        runs=(run, run.model_copy(update={"run": "small#2", "qemu": "build-qemu"})),
        files={},
    )
    return SimpleNamespace(
        manifest=manifest,
        path=Path("x.tgz"),
        scenario=lambda _member: SCENARIO,
        unpack_kernels=lambda directory: {A: directory / A, B: directory / B},
    )


def test_runs_have_their_names_their_scenario_and_their_qemu() -> None:
    first, second = plan_replay(a_bundle(included=True), None, [])
    assert [first.run_id, second.run_id] == ["small#1", "small#2"]
    assert first.scenario.name == "small"
    assert first.image.name == "bookworm"
    assert first.qemu.name == "sid"
    assert second.qemu.name == "host", "a program that was given by its path is not here"
    assert {run.qemu.name for run in plan_replay(a_bundle(included=True), None, ["trixie"])} == {
        "trixie"
    }


def test_a_kernel_of_the_archive_is_asked_for_by_its_version() -> None:
    runs = plan_replay(a_bundle(build="6.1.0-999 of bookworm"), None, [])
    assert {run.image.name for run in runs} == {"bookworm=6.1.0-999"}


def test_a_kernel_that_is_nowhere_has_to_be_given() -> None:
    with pytest.raises(UsageError, match=r"does not hold the kernel 6\.1\.0 of run small#1"):
        plan_replay(a_bundle(), None, [])
    assert len(plan_replay(a_bundle(), Path("bzImage"), [])) == 2


def test_the_kernels_of_the_bundle_are_booted(tmp_path: Path) -> None:
    bundle = a_bundle(included=True)
    boots = replay_boots(bundle, plan_replay(bundle, None, []), tmp_path, print)
    boot = boots["bookworm"]
    assert isinstance(boot, BootFiles)
    assert (boot.kernel.name, boot.initramfs.name, boot.release) == (A, B, "6.1.0")


def test_it_says_what_is_not_as_it_was(tmp_path: Path) -> None:
    bundle = a_bundle(included=True)
    runs = plan_replay(bundle, None, ["host"])
    (tmp_path / "k").write_bytes(b"another")
    boot = BootFiles("bookworm", tmp_path / "k", tmp_path / "k", "6.1.1", "", tmp_path)
    qemu = replace(a_qemu(), version="7.2.22", package="")
    told = differences(bundle, runs, {"bookworm": boot}, {"host": qemu})
    assert "QEMU: 11.1.3 there, 7.2.22 here" in told
    assert any(line.startswith("kernel: 6.1.0 (aaaaaaaaaaaa) there, 6.1.1 (") for line in told)
    assert any(line.startswith("fpr-harness: 0.0.9 there") for line in told)


def test_a_scenario_that_is_wrong_is_told_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = a_bundle(included=True)
    monkeypatch.setattr(bundle, "scenario", lambda _member: b"name: small\nsteps: 7\n")
    with pytest.raises(ScenarioFileError):
        plan_replay(bundle, None, [])


def test_a_scenario_that_is_wrong_is_named_as_in_the_bundle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The directory it was unpacked to is gone by then."""
    bundle = a_bundle(included=True)
    monkeypatch.setattr(
        bundle, "scenario", lambda _member: b"name: small\ntitle: t\nsteps: [teleport: {}]\n"
    )
    with pytest.raises(ScenarioFileError, match=r"^x\.tgz, scenarios/small\.yaml:3: ") as told:
        plan_replay(bundle, None, [])
    assert "fpr-harness 0.0.9 made the bundle" in told.value.hint


@pytest.mark.parametrize(
    ("image", "build"),
    [("all", ""), ("bookworm,trixie", ""), ("bookworm", "6.1.0-1,all of bookworm")],
)
def test_more_than_one_image_is_no_image(image: str, build: str) -> None:
    bundle = a_bundle(build=build)
    run = bundle.manifest.runs[0].model_copy(update={"image": image})
    bundle.manifest = bundle.manifest.model_copy(update={"runs": (run,)})
    with pytest.raises(RecordError, match="is not the name of one image"):
        plan_replay(bundle, None, [])


def test_more_than_one_scenario_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = a_bundle(included=True)
    several = SCENARIO + b"variants: {a: {guest.vcpus: 1}, b: {guest.vcpus: 2}}\n"
    monkeypatch.setattr(bundle, "scenario", lambda _member: several)
    with pytest.raises(RecordError, match=r"its scenarios/small\.yaml is 2 scenarios"):
        plan_replay(bundle, None, [])


@pytest.mark.parametrize(("there", "asked"), [("virtual", "auto"), ("real", "real")])
def test_it_runs_under_the_clock_it_ran_under(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, there: str, asked: str
) -> None:
    bundle = a_bundle(included=True)
    run = bundle.manifest.runs[0].model_copy(update={"clock": there})
    bundle.manifest = bundle.manifest.model_copy(update={"runs": (run,)})
    seen = []

    def perform(_options: object, chosen: RunOptions, *_: object) -> None:
        seen.append(chosen.clock)
        raise UsageError("enough")

    monkeypatch.setattr(replay_command, "Bundle", lambda _path: bundle)
    monkeypatch.setattr(replay_command, "perform", perform)
    assert main(["replay", str(tmp_path / "x.tgz")]) == 2
    assert seen == [asked]


def test_a_file_that_is_no_bundle_has_status_69(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").write_bytes(b"no bundle at all")
    assert main(["replay", str(tmp_path / "x")]) == 69
    assert main(["replay", str(tmp_path / "none")]) == 2
    assert main(["run", "--with-kernel"]) == 2
    assert main(["run", "--bundle", str(tmp_path / "x")]) == 2
    assert "Traceback" not in capsys.readouterr().err
