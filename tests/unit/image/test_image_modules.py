# SPDX-License-Identifier: Apache-2.0
"""A kernel's modules: their order, what is built in, how Debian packs them, what is refused."""

import contextlib
import gzip
import lzma
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import ImageError
from harness.image.modules import (
    MODULE_BYTES,
    ModuleTree,
    find_module_tree,
    module_dependencies,
    module_name,
    parse_builtin,
    read_module,
)

DATA = Path(__file__).parents[2] / "data" / "image"
WANTED = ("virtio_pci", "virtio_net", "virtio_balloon")

Compile = Callable[[str], bytes]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """An ELF object whose .modinfo has the given `depends=`, as modpost writes it."""
    made: dict[str, bytes] = {}
    directory = tmp_path_factory.mktemp("objects")

    def compile_one(depends: str) -> bytes:
        if depends not in made:
            source, output = directory / "m.c", directory / "m.o"
            source.write_text(
                'static const char info[] __attribute__((used, section(".modinfo"))) = '
                f'"license=GPL\\0depends={depends}\\0name=m";\n'
            )
            subprocess.run(["cc", "-c", "-o", str(output), str(source)], check=True)
            made[depends] = output.read_bytes()
        return made[depends]

    return compile_one


def packed(path: Path, data: bytes) -> bytes:
    match path.suffix:
        case ".xz":
            return lzma.compress(data)
        case ".gz":
            return gzip.compress(data, mtime=0)
    return data


def tree_of(version: str, root: Path, compiled: Compile) -> Path:
    """The recorded tree of a kernel, with objects that depend as its modules do."""
    for line in (DATA / f"depends-{version}.txt").read_text().splitlines():
        name, _, depends = line.partition(" depends=")
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed(path, compiled(depends)))
    (root / "modules.builtin").write_text((DATA / f"modules.builtin-{version}").read_text())
    return root


@pytest.mark.parametrize("version", ["6.1", "7.3"])
def test_dependencies_come_first_and_what_is_built_in_is_left_out(
    version: str, tmp_path: Path, compiled: Compile
) -> None:
    tree = ModuleTree.read(tree_of(version, tmp_path, compiled))
    names = [name for name, data in tree.load_order(WANTED) if data.startswith(b"\x7fELF")]
    assert len(names) == len(set(names))
    assert names.index("failover") < names.index("net_failover") < names.index("virtio_net")
    assert not set(names) & tree.builtin
    assert ("virtio" in names) == (version == "6.1")
    assert set(WANTED) <= set(names) | tree.builtin


def test_a_module_the_kernel_lacks_is_named(tmp_path: Path, compiled: Compile) -> None:
    tree = ModuleTree.read(tree_of("6.1", tmp_path, compiled))
    assert tree.lacks(["virtio_net", "virtio_mem_x"]) == ["virtio_mem_x"]
    with pytest.raises(ImageError, match="virtio_mem_x is neither built into this kernel"):
        tree.load_order(["virtio_mem_x"])


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".ko", b"not an object"),
        (".ko", b"\x7fELF, and no further"),
        (".ko.xz", b"\xfd7zXZ\0 torn"),
        (".ko.gz", b"\x1f\x8b torn"),
        (".ko.gz", gzip.compress(b"\x7fELF" + bytes(100), mtime=0)[:-12]),
    ],
)
def test_a_damaged_module_is_our_own_error(tmp_path: Path, suffix: str, content: bytes) -> None:
    (tmp_path / "modules.builtin").touch()
    (tmp_path / f"virtio_net{suffix}").write_bytes(content)
    with pytest.raises(ImageError) as refused:
        ModuleTree.read(tmp_path).load_order(["virtio_net"])
    assert refused.value.hint


def test_modules_of_another_kernel_are_refused(tmp_path: Path) -> None:
    tree = tmp_path / "lib" / "modules" / "6.12.0"
    tree.mkdir(parents=True)
    (tree / "modules.builtin").touch()
    assert find_module_tree(tmp_path, "6.12.0") == tree
    with pytest.raises(ImageError, match=r"holds modules of 6\.12\.0, but the kernel is 6\.13\.0"):
        find_module_tree(tmp_path, "6.13.0")


def test_names_are_written_as_the_kernel_does() -> None:
    assert module_name("kernel/drivers/char/hw_random/virtio-rng.ko.xz") == "virtio_rng"
    assert "rng_core" in parse_builtin((DATA / "modules.builtin-6.1").read_text())


# --- damage -------------------------------------------------------------------------------------


def bomb(suffix: str) -> bytes:
    zeros = b"\x7fELF" + bytes(MODULE_BYTES + 1)
    match suffix:
        case ".xz":
            return lzma.compress(zeros, preset=0)
        case ".gz":
            return gzip.compress(zeros, compresslevel=1)
    return subprocess.run(["zstd", "-qc"], input=zeros, capture_output=True, check=True).stdout


@pytest.mark.parametrize("suffix", [".xz", ".gz", ".zst"])
def test_a_module_that_unpacks_without_end_is_given_up(tmp_path: Path, suffix: str) -> None:
    if suffix == ".zst" and shutil.which("zstd") is None:
        pytest.skip("no zstd")
    path = tmp_path / f"virtio.ko{suffix}"
    path.write_bytes(bomb(suffix))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ImageError, match=r"larger than 64 MiB, unpacked"):
        read_module(path)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_of_a_module_raises_anything_else(compiled: Compile, data: st.DataObject) -> None:
    good = bytearray(compiled("virtio,virtio-ring"))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(good) - 1) | st.integers(0, 63))
        good[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ImageError):
        module_dependencies(bytes(good[: data.draw(st.integers(0, len(good)))]))


def test_a_module_that_claims_endless_sections(compiled: Compile) -> None:
    """e_shnum 0: the number stands in the first section's size (elf(5)), here 2^62."""
    data = bytearray(compiled("virtio"))
    table = struct.unpack_from("<Q", data, 0x28)[0]
    struct.pack_into("<H", data, 0x3C, 0)
    struct.pack_into("<Q", data, table + 0x20, 1 << 62)
    with pytest.raises(ImageError, match="sections"):
        module_dependencies(bytes(data))


def test_a_section_that_claims_more_than_there_is(compiled: Compile) -> None:
    data = bytearray(compiled("virtio"))
    table, count = struct.unpack_from("<Q", data, 0x28)[0], struct.unpack_from("<H", data, 0x3C)[0]
    for number in range(1, count):
        header = table + 64 * number
        struct.pack_into("<I", data, header + 4, 8)  # SHT_NOBITS: contents of zeros
        struct.pack_into("<Q", data, header + 0x20, 1 << 40)
    with contextlib.suppress(ImageError):
        module_dependencies(bytes(data))
