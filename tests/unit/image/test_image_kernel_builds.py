# SPDX-License-Identifier: Apache-2.0
"""Which build of a kernel an image boots: the newest with its fixes, or the one that is named."""

from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_archive import DATA, RecordedArchive

from harness.errors import ImageError, UsageError
from harness.image import archive as archive_module
from harness.image.archive import AptRoot
from harness.image.definition import ImageDefinition, load_definitions, pinned
from harness.image.kernel_builds import (
    KernelBuild,
    flavour,
    is_build,
    missing_parts,
    nearest_builds,
    newest,
    newest_called,
    oldest_first,
    parse_madison,
    shortest_name,
)
from harness.image.sources import Archive, _kernel_packages
from harness.run.plan import choose_images


def recorded(suite: str) -> list[KernelBuild]:
    """The cloud kernels that a suite really had."""
    text = (DATA / f"madison-{suite}.txt").read_text()
    return [build for build in parse_madison(text, suite) if is_build(build.package, "cloud-amd64")]


# --- what apt prints ----------------------------------------------------------------------------


def test_a_meta_package_stands_for_a_flavour() -> None:
    assert flavour("linux-image-cloud-amd64") == "cloud-amd64"
    assert flavour("linux-image-amd64") == "amd64"
    assert flavour("linux-image-6.1.0-50-cloud-amd64") is None
    assert flavour("busybox") is None


@pytest.mark.parametrize(
    ("package", "is_one"),
    [
        ("linux-image-6.1.0-50-cloud-amd64", True),
        ("linux-image-6.1.0-0.deb11.52-cloud-amd64", True),
        ("linux-image-7.1.7+deb13-cloud-amd64", True),
        ("linux-image-7.3-rc7-cloud-amd64", True),
        ("linux-image-cloud-amd64", False),
        ("linux-image-6.1.0-50-amd64", False),
        ("linux-image-6.1.0-50-cloud-amd64-dbg", False),
        ("linux-image-6.1.0-50-cloud-amd64-unsigned", False),
    ],
)
def test_builds_of_a_flavour(package: str, is_one: bool) -> None:
    assert is_build(package, "cloud-amd64") is is_one


def test_the_cloud_flavour_is_none_of_the_plain_one() -> None:
    assert is_build("linux-image-6.1.0-50-amd64", "amd64")
    assert not is_build("linux-image-6.1.0-50-cloud-amd64", "amd64")
    assert not is_build("linux-image-6.1.0-50-rt-amd64", "amd64")


def test_source_packages_are_no_kernels() -> None:
    text = (
        "linux | 6.1.176-1 | http://archive.example/debian bookworm/main Sources\n"
        "linux-image-6.1.0-50-cloud-amd64 | 6.1.176-1 | "
        "http://archive.example/debian bookworm/main amd64 Packages\n"
        "N: Unable to locate package other\n"
    )
    (build,) = parse_madison(text, "bookworm")
    assert build == KernelBuild("linux-image-6.1.0-50-cloud-amd64", "6.1.176-1", "bookworm")
    assert build.upstream == "6.1.176"


def test_a_build_without_its_modules_shows() -> None:
    """The index has linux-image of 7.1.7, and linux-modules only from 7.2.6 on."""
    missing = missing_parts((DATA / "depends-trixie-backports.txt").read_text())
    assert missing["linux-image-7.1.7+deb13-cloud-amd64"] == (
        "linux-base-7.1.7+deb13-cloud-amd64",
        "linux-modules-7.1.7+deb13-cloud-amd64",
    )
    assert "linux-image-7.2.6+deb13-cloud-amd64" not in missing
    assert "linux-image-6.16.12+deb13-cloud-amd64" not in missing


def test_packages_of_other_suites_are_not_missed() -> None:
    """linux-base and an initramfs builder are not in the suite of security updates."""
    assert missing_parts((DATA / "depends-bookworm-security.txt").read_text()) == {}


# --- which of them ------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ["6.1.187", "6.1.187-1", "6.1.0-53-cloud-amd64"])
def test_a_build_is_called_by_its_version_its_package_or_its_release(wanted: str) -> None:
    build = newest_called(recorded("bookworm-security"), wanted)
    assert build is not None
    assert build.package == "linux-image-6.1.0-53-cloud-amd64"


def test_of_two_builds_of_one_version_the_later_is_meant() -> None:
    builds = recorded("bookworm-security")
    build = newest_called(builds, "6.1.192")
    assert build is not None
    assert build.version == "6.1.192-2"
    assert shortest_name(build, builds) == "6.1.192-2"


def test_a_part_of_a_version_calls_nothing() -> None:
    assert newest_called(recorded("bookworm-security"), "6.1") is None
    assert newest_called(recorded("bookworm-security"), "6.1.1") is None


def test_builds_are_ordered_as_versions_and_once_each() -> None:
    builds = oldest_first(recorded("trixie-security") + recorded("trixie"))
    versions = [build.version for build in builds]
    assert versions[:2] == ["6.12.90-1", "6.12.90-2"]
    assert versions[-2:] == ["6.12.117-1", "6.12.118-1"]
    assert len(set(versions)) == len(versions)


def test_the_package_of_a_series_is_no_build_of_its_own() -> None:
    builds = [
        build
        for build in oldest_first(recorded("bookworm-security"))
        if "6.12.117" in build.version
    ]
    assert [build.package for build in builds] == ["linux-image-6.12.117+deb12-cloud-amd64"]
    assert shortest_name(builds[0], recorded("bookworm-security")) == "6.12.117"


def test_a_release_candidate_is_older_than_the_release() -> None:
    builds = [KernelBuild("a", "7.3~rc7-1~exp1", "x"), KernelBuild("b", "7.3-1", "x")]
    assert newest(builds) == builds[1]
    assert newest([]) is None


def test_the_nearest_builds_are_those_of_the_series() -> None:
    builds = recorded("trixie-backports")
    assert nearest_builds(builds, "7.1.9") == ["7.1.3", "7.1.7", "7.1.8", "7.1.13"]
    assert nearest_builds(builds, "5.4.1")[-3:] == ["7.1.13", "7.2.12", "7.3.4"]


@settings(deadline=None)
@given(st.from_regex(r"[0-9][A-Za-z0-9.+~-]{0,63}", fullmatch=True))
def test_any_version_that_a_user_may_name_has_a_few_nearest(wanted: str) -> None:
    builds = recorded("trixie-security") + recorded("trixie-backports")
    assert 1 <= len(nearest_builds(builds, wanted)) <= 12


class Closure:
    """A package root that knows what a package needs."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)

    def closure(self, _names: list[str]) -> list[str]:
        return self.names


def test_the_package_that_stands_for_the_newest_build_is_not_fetched() -> None:
    """bullseye-security lists it, and answers 404; the build that it stands for is there."""
    build = KernelBuild("linux-image-cloud-amd64", "5.10.262-1", "bullseye-security")
    whole = "linux-image-5.10.0-46-cloud-amd64"
    root = cast(AptRoot, Closure("initramfs-tools", "linux-base", build.package, whole))
    assert _kernel_packages(build, root) == ["linux-base", whole]
    only = cast(AptRoot, Closure(build.package))
    assert _kernel_packages(build, only) == [build.package]


# --- an image's kernel --------------------------------------------------------------------------


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedArchive:
    return RecordedArchive.in_place_of_apt(tmp_path, monkeypatch)


def kernel_of(image: ImageDefinition, said: list[str] | None = None) -> KernelBuild:
    """The build that is chosen, without fetching it."""
    archive = Archive(image, False, (said if said is not None else []).append)
    return archive.choose()


def test_an_image_boots_the_newest_kernel_of_its_release_with_security_updates(
    apt: RecordedArchive,
) -> None:
    build = kernel_of(load_definitions()["bookworm"])
    assert (build.version, build.suite) == ("6.1.192-2", "bookworm-security")
    assert "bookworm-backports" not in apt.updates


@pytest.mark.usefixtures("apt")
def test_backports_are_an_image_of_their_own() -> None:
    build = kernel_of(load_definitions()["trixie-backports"])
    assert (build.version, build.suite) == ("7.3.4-1~bpo13+1", "trixie-backports")


def test_a_rolling_suite_has_no_updates(apt: RecordedArchive) -> None:
    assert kernel_of(load_definitions()["sid"]).version == "7.2.13-1"
    assert apt.updates == ["sid"]


def test_without_security_updates_the_image_goes_on_and_says_so(apt: RecordedArchive) -> None:
    apt.suites.remove("bookworm-security")
    said: list[str] = []
    assert kernel_of(load_definitions()["bookworm"], said).version == "6.1.176-1"
    assert any("going on without bookworm-security" in text for text in said)


def test_security_updates_that_cannot_be_read_end_it(
    apt: RecordedArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older kernel in its place would be booted unnoticed."""

    def broken(command: list[str], *, cwd: Path | None = None) -> str:
        if command[3] == "update" and "security" in command[2]:
            raise ImageError("Could not resolve the archive")
        return apt(command, cwd=cwd)

    monkeypatch.setattr(archive_module, "run_tool", broken)
    with pytest.raises(ImageError, match="Could not resolve"):
        kernel_of(load_definitions()["bookworm"])


@pytest.mark.parametrize(
    ("asked", "version", "suite"),
    [
        ("bookworm=6.1.180", "6.1.180-1", "bookworm-security"),
        ("bookworm=6.1.0-47-cloud-amd64", "6.1.170-3", "bookworm"),
        ("bookworm=6.12.43", "6.12.43-1~bpo12+1", "bookworm-backports"),
        ("trixie=7.2.6", "7.2.6-1~bpo13+1", "trixie-backports"),
        ("trixie-security=6.12.105", "6.12.105-1", "trixie-security"),
    ],
)
@pytest.mark.usefixtures("apt")
def test_a_named_build_is_found_in_every_suite_of_the_release(
    asked: str, version: str, suite: str
) -> None:
    (image,) = choose_images(load_definitions(), [asked])
    assert image.name == asked
    build = kernel_of(image)
    assert (build.version, build.suite) == (version, suite)


def test_a_build_that_is_not_there_is_looked_for_in_new_lists_and_then_others_are_named(
    apt: RecordedArchive,
) -> None:
    image = pinned(load_definitions()["trixie"], "6.12.102")
    kernel_of(pinned(load_definitions()["trixie"], "6.12.101"))
    assert apt.updates.count("trixie-security") == 1
    with pytest.raises(ImageError) as refused:
        kernel_of(image)
    assert "no build 6.12.102" in refused.value.message
    assert "6.12.101, 6.12.105" in refused.value.message
    assert "image list --builds --image trixie`" in refused.value.hint
    assert apt.updates.count("trixie-security") == 2


@pytest.mark.usefixtures("apt")
def test_a_build_whose_modules_are_gone_is_refused_by_name() -> None:
    with pytest.raises(ImageError) as refused:
        kernel_of(pinned(load_definitions()["trixie"], "7.1.7"))
    assert "no longer linux-base-7.1.7+deb13-cloud-amd64" in refused.value.message
    assert "7.1.8" not in refused.value.message


@pytest.mark.usefixtures("apt")
def test_a_suite_that_does_not_exist_is_an_error_and_no_skip() -> None:
    (image,) = choose_images(load_definitions(), ["bookwrm=6.1.180"])
    with pytest.raises(ImageError, match="does not serve the suite bookwrm"):
        kernel_of(image)


@pytest.mark.parametrize("asked", ["bookworm=", "bookworm=a/b", "x y=1", "=6.1", "bookworm=6.1=2"])
def test_what_can_be_no_version_or_suite_is_bad_usage(asked: str) -> None:
    with pytest.raises(UsageError):
        choose_images(load_definitions(), [asked])
