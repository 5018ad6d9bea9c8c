# SPDX-License-Identifier: Apache-2.0
"""QEMUs unpacked into the cache: what is kept, how they start, and that damage is seen."""

import subprocess
from pathlib import Path

import pytest

from harness.errors import ImageError, ScenarioFileError
from harness.image import qemu_build as subject
from harness.image.archive import Package
from harness.image.qemu_build import ensure_qemu, find_qemu_build, qemu_package
from harness.image.qemu_definition import QemuDefinition, load_qemus
from harness.image.sources import Suites

DEFINITION = QemuDefinition(name="sid", title="QEMU of sid", suite="sid", package="qemu-system-x86")
LIBRARIES = "usr/lib/x86_64-linux-gnu"

TREE = {
    "usr/bin/qemu-system-x86_64": "the program",
    "usr/bin/systemctl": "a program of some dependency",
    "usr/share/qemu/linuxboot_dma.bin": "firmware",
    "usr/share/doc/qemu/copyright": "words",
    f"{LIBRARIES}/libslirp.so.0": "a library",
    f"{LIBRARIES}/qemu/accel-tcg-x86_64.so": "a module",
    f"{LIBRARIES}/pkgconfig/slirp.pc": "words for compilers",
    # It stands for the loader, and says what it was asked to load.
    f"{LIBRARIES}/ld-linux-x86-64.so.2": '#!/bin/sh\necho "$QEMU_MODULE_DIR"\necho "$@"\n',
}


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the archive's packages hold, and a cache of its own."""
    tree = dict(TREE)

    def unpack(_suites: Suites, suite: str, _choose: object, unpacked: Path) -> tuple[Package, ...]:
        for name, text in tree.items():
            path = unpacked / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
        (unpacked / LIBRARIES).mkdir(parents=True, exist_ok=True)
        (unpacked / LIBRARIES / "libslirp.so").symlink_to("libslirp.so.0")
        return (Package("qemu-system-x86", "1:11.1.3+ds-1", suite, "qemu.deb", "00"),)

    monkeypatch.setattr(Suites, "unpack", unpack)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a cache"))
    return tree


@pytest.mark.usefixtures("archive")
def test_it_starts_with_its_own_loader_libraries_and_firmware() -> None:
    program = ensure_qemu(DEFINITION)
    said = subprocess.run([program, "-S", "two words"], capture_output=True, text=True, check=True)
    files = program.parent / "files"
    modules, words = said.stdout.splitlines()
    assert modules == f"{files}/{LIBRARIES}/qemu"
    assert words == (
        f"--library-path {files}/lib/x86_64-linux-gnu:{files}/{LIBRARIES}"
        f" {files}/usr/bin/qemu-system-x86_64 -L {files}/usr/share/qemu"
        f" -L {files}/usr/share/seabios"
        f" -L {files}/usr/lib/ipxe/qemu -S two words"
    )


@pytest.mark.usefixtures("archive")
def test_only_what_it_runs_with_is_kept() -> None:
    files = ensure_qemu(DEFINITION).parent / "files"
    kept = {str(path.relative_to(files)) for path in files.rglob("*") if not path.is_dir()}
    assert kept == {
        "usr/bin/qemu-system-x86_64",
        "usr/share/qemu/linuxboot_dma.bin",
        f"{LIBRARIES}/libslirp.so",
        f"{LIBRARIES}/libslirp.so.0",
        f"{LIBRARIES}/ld-linux-x86-64.so.2",
        f"{LIBRARIES}/qemu/accel-tcg-x86_64.so",
    }


@pytest.mark.usefixtures("archive")
def test_it_is_fetched_once_and_its_package_is_known() -> None:
    said: list[str] = []
    first = ensure_qemu(DEFINITION, progress=said.append)
    assert ensure_qemu(DEFINITION, progress=said.append) == first == find_qemu_build(DEFINITION)
    assert said == ["fetching QEMU of Debian's sid"]
    assert qemu_package(first) == "1:11.1.3+ds-1"


@pytest.mark.parametrize("harm", ["truncate", "delete", "add", "link", "manifest"])
def test_a_build_that_is_damaged_is_fetched_again(archive: dict[str, str], harm: str) -> None:
    program = ensure_qemu(DEFINITION)
    library = program.parent / "files" / LIBRARIES / "libslirp.so.0"
    match harm:
        case "truncate":
            library.write_text(TREE[f"{LIBRARIES}/libslirp.so.0"][:-1])
        case "delete":
            library.unlink()
        case "add":
            library.with_name("libevil.so.1").write_text("")
        case "link":
            library.with_name("libslirp.so").unlink()
            library.with_name("libslirp.so").symlink_to("/nowhere")
        case "manifest":
            (program.parent / "manifest.json").write_text("[]")
    assert find_qemu_build(DEFINITION) is None
    assert ensure_qemu(DEFINITION) == program
    assert library.read_text() == archive[f"{LIBRARIES}/libslirp.so.0"]


@pytest.mark.parametrize(
    "lacks", ["usr/bin/qemu-system-x86_64", f"{LIBRARIES}/ld-linux-x86-64.so.2"]
)
def test_packages_that_lack_the_program_or_its_loader_are_refused(
    archive: dict[str, str], lacks: str
) -> None:
    del archive[lacks]
    with pytest.raises(ImageError, match=Path(lacks).name):
        ensure_qemu(DEFINITION)
    assert find_qemu_build(DEFINITION) is None


@pytest.mark.usefixtures("archive")
def test_builds_that_nobody_has_used_for_long_go(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ensure_qemu(DEFINITION)
    later = DEFINITION.model_copy(update={"title": "another"})
    assert ensure_qemu(later).exists()
    assert old.exists(), "a repro.sh may name it"
    monkeypatch.setattr(subject, "KEPT_SECONDS", -1.0)
    ensure_qemu(later, refresh=True)
    assert not old.exists()


def test_a_definition_with_a_name_that_means_something_else(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(
        "name: all\ntitle: t\nsuite: sid\npackage: qemu-system-x86\n"
    )
    (tmp_path / "b.yaml").write_text("name: a\ntitle: t\nsuite: sid\npackage: qemu\nmore: 1\n")
    with pytest.raises(ScenarioFileError) as caught:
        load_qemus(tmp_path)
    assert "'all' is a reserved word" in str(caught.value)
    assert "more" in str(caught.value)
