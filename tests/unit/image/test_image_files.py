# SPDX-License-Identifier: Apache-2.0
"""What an image is made with: definitions, the cpio archive, the cache, the compiler."""

import os
import shutil
import subprocess
import threading
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import DeadlineError, ImageError, ScenarioFileError
from harness.image.cache import exclusive, made_whole
from harness.image.compile import compile_c
from harness.image.cpio import directory_entry, file_entry, link_entry, write_cpio
from harness.image.definition import load_definitions
from harness.image.initramfs import file_sums

GOOD = """\
name: other
title: Another kernel
kernel: {suite: trixie, package: linux-image-cloud-amd64}
userland: {suite: bookworm, packages: [busybox-static, dropbear-bin]}
modules: [virtio_pci]
"""


def test_a_new_image_is_a_few_lines(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(GOOD)
    (definition,) = load_definitions(tmp_path).values()
    assert (definition.kernel.suite, definition.default) == ("trixie", False)


def test_a_definition_may_stay_with_one_build(tmp_path: Path) -> None:
    pinned = GOOD.replace("suite: trixie,", "suite: trixie, version: 6.12.105,")
    (tmp_path / "other.yaml").write_text(pinned)
    (definition,) = load_definitions(tmp_path).values()
    assert definition.kernel.version == "6.12.105"
    (tmp_path / "other.yaml").write_text(pinned.replace("6.12.105", "newest"))
    with pytest.raises(ScenarioFileError, match=r"other.yaml:3: kernel.version"):
        load_definitions(tmp_path)


def test_every_mistake_of_every_definition_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(GOOD.replace("suite: trixie", "suit: trixie"))
    (tmp_path / "third.yaml").write_text(GOOD.replace("[virtio_pci]", "[]"))
    with pytest.raises(ScenarioFileError) as refused:
        load_definitions(tmp_path)
    assert f"{tmp_path / 'other.yaml'}:3: kernel.suit" in refused.value.message
    assert f"{tmp_path / 'third.yaml'}:5: modules" in refused.value.message


def test_the_projects_own_definitions_have_one_default() -> None:
    assert [d.name for d in load_definitions().values() if d.default] == ["bookworm"]


def members(archive: bytes) -> dict[str, bytes]:
    """A reader of "newc" archives (Documentation/driver-api/early-userspace)."""
    found: dict[str, bytes] = {}
    at = 0
    while True:
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        size, name_size = fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        start = at + (110 + name_size + 3) // 4 * 4
        if name == "TRAILER!!!":
            return found
        found[name] = archive[start : start + size]
        at = start + (size + 3) // 4 * 4


@settings(deadline=None)
@given(st.dictionaries(st.text("abcäß/.-", min_size=1, max_size=20), st.binary(max_size=50)))
def test_every_file_comes_out_of_the_archive_as_it_went_in(files: dict[str, bytes]) -> None:
    archive = write_cpio(file_entry(name, data) for name, data in files.items())
    assert len(archive) % 4 == 0
    assert members(archive) == files


def test_every_regular_file_has_its_sum_in_the_guest() -> None:
    entries = [directory_entry("bin"), file_entry("bin/it", b"words"), link_entry("bin/sh", "it")]
    assert file_sums(entries) == b"%08x 5 /bin/it\n" % zlib.crc32(b"words")


@pytest.mark.skipif(shutil.which("cpio") is None, reason="no cpio program")
def test_the_cpio_program_reads_it_too(tmp_path: Path) -> None:
    entries = [directory_entry("bin"), file_entry("bin/a", b"x", 0o755), link_entry("bin/b", "a")]
    subprocess.run(
        ["cpio", "--extract", "--quiet"], input=write_cpio(entries), cwd=tmp_path, check=True
    )
    assert (tmp_path / "bin" / "b").read_bytes() == b"x"
    assert os.access(tmp_path / "bin" / "a", os.X_OK)


def test_an_interrupted_build_leaves_nothing_and_the_next_sweeps_up(tmp_path: Path) -> None:
    target = tmp_path / "image"

    def build_until_ctrl_c() -> None:
        with made_whole(target) as directory:
            (directory / "kernel").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_until_ctrl_c()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".making.killed").mkdir()
    with made_whole(target) as directory:
        (directory / "kernel").write_bytes(b"whole")
    assert list(tmp_path.iterdir()) == [target]
    assert (target / "kernel").read_bytes() == b"whole"


def test_one_builder_at_a_time(tmp_path: Path) -> None:
    order: list[str] = []
    inside = threading.Event()

    def second() -> None:
        inside.wait(5.0)
        with exclusive(tmp_path / ".lock", "the image"):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with exclusive(tmp_path / ".lock", "the image"):
        inside.set()
        thread.join(0.3)
        order.append("first")
    thread.join(5.0)
    assert order == ["first", "second"]


def test_a_builder_that_does_not_end_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.image.cache.LOCK_SECONDS", 0.1)
    with (
        exclusive(tmp_path / ".lock", "the image"),
        pytest.raises(DeadlineError, match=r"waited 0\.1 s for another process to end building it"),
        exclusive(tmp_path / ".lock", "it"),
    ):
        pass


def test_a_cache_that_cannot_be_written_is_named() -> None:
    with (
        pytest.raises(ImageError, match="cannot write to the cache /proc/nosuch"),
        exclusive(Path("/proc/nosuch/.lock"), "it"),
    ):
        pass


def test_without_a_compiler_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "init.c"
    source.write_text("int main(void) { return 0; }\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match="there is no C compiler") as refused:
        compile_c([source], tmp_path / "init")
    assert "gcc" in refused.value.hint


def test_a_program_with_a_warning_does_not_compile(tmp_path: Path) -> None:
    source = tmp_path / "init.c"
    source.write_text("int main(int count) { return 0; }\n")
    with pytest.raises(ImageError, match="unused parameter"):
        compile_c([source], tmp_path / "init")
