# SPDX-License-Identifier: Apache-2.0
"""Kernels given by path: which file is meant, what it says of itself, and what is refused."""

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_trees import bzimage

from harness.errors import ImageError
from harness.image.kernel import find_kernel, kernel_release, least_memory
from harness.units import MIB


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "bzImage"
    path.write_bytes(bzimage())
    return path


def test_the_header_tells_the_release(image: Path) -> None:
    assert kernel_release(image) == "6.13.0-test"


def test_a_truncated_kernel_is_refused_with_both_sizes(image: Path) -> None:
    image.write_bytes(bzimage()[:-1])
    with pytest.raises(ImageError, match=r"truncated: 5119 of 5120 bytes"):
        kernel_release(image)


@pytest.mark.parametrize("content", [b"", b"\x7fELF" + bytes(4096), b"HdrS"])
def test_what_is_no_bzimage_is_refused(image: Path, content: bytes) -> None:
    image.write_bytes(content)
    with pytest.raises(ImageError, match="is not a bzImage") as refused:
        kernel_release(image)
    assert "arch/x86/boot/bzImage" in refused.value.hint


@settings(deadline=None)
@given(st.binary(max_size=2000), st.integers(0, 2000))
def test_no_content_brings_anything_but_our_own_error(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "bzImage"
    path.write_bytes(bzimage()[:at] + noise)
    try:
        assert kernel_release(path)
    except ImageError as refused:
        assert str(path) in refused.message  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize("place", ["arch/x86/boot/bzImage", "bzImage", "vmlinuz", "vmlinuz-6.13.0"])
def test_a_directory_holds_one_kernel_where_they_lie(tmp_path: Path, place: str) -> None:
    kernel = tmp_path / place
    kernel.parent.mkdir(parents=True, exist_ok=True)
    kernel.write_bytes(bzimage())
    assert find_kernel(tmp_path) == kernel


def test_several_kernels_in_a_directory_are_named(tmp_path: Path) -> None:
    for name in ("vmlinuz-6.1", "vmlinuz-6.12"):
        (tmp_path / name).touch()
    with pytest.raises(ImageError, match=r"found several: vmlinuz-6\.1, vmlinuz-6\.12"):
        find_kernel(tmp_path)


def test_an_empty_directory_and_a_missing_path_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="found none"):
        find_kernel(tmp_path)
    with pytest.raises(ImageError, match="no such file or directory"):
        find_kernel(tmp_path / "absent")


def test_least_memory_is_where_it_unpacks_to_what_it_needs_there_and_the_initramfs(
    tmp_path: Path, image: Path
) -> None:
    """The figures are those of Debian's 6.1.0-50-cloud-amd64: a guest of 64 MiB cannot start it."""
    initramfs = tmp_path / "initramfs"
    initramfs.write_bytes(bytes(3 * MIB))
    data = bytearray(image.read_bytes())
    struct.pack_into("<H", data, 0x206, 0x20F)
    struct.pack_into("<Q", data, 0x258, 16 * MIB)
    struct.pack_into("<I", data, 0x260, 53968896)
    image.write_bytes(data)
    assert least_memory(image, initramfs) == 19 * MIB + 53968896
    struct.pack_into("<H", data, 0x206, 0x209)
    image.write_bytes(data)
    assert least_memory(image, initramfs) == 0  # an older protocol does not say


@pytest.mark.parametrize("content", [b"", b"ELF", bytes(0x270)])
def test_least_memory_of_what_is_no_bzimage_is_not_known(tmp_path: Path, content: bytes) -> None:
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(content)
    assert least_memory(kernel, kernel) == 0
    assert least_memory(tmp_path / "absent", kernel) == 0
