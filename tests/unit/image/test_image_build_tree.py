# SPDX-License-Identifier: Apache-2.0
"""`--kernel DIR` of a built tree: its kernel, the modules where the build left them, its commit."""

import lzma
import subprocess
from pathlib import Path

import pytest
from kernel_trees import RELEASE, build_tree, bzimage, good_config, module

from harness.errors import ImageError
from harness.image.build_tree import describe, parse_config, read_config
from harness.image.modules import ModuleTree, find_module_tree
from harness.image.sources import given_kernel

WANTED = ["virtio_pci", "virtio_balloon"]


def loaded(tree: Path, modules: Path | None = None) -> list[str]:
    kernel = given_kernel(tree, modules)
    assert kernel.modules is not None
    return [name for name, _data in kernel.modules.load_order(WANTED, kernel.release)]


def files(suffix: str = ".ko", release: str = RELEASE) -> dict[str, bytes]:
    pack = lzma.compress if suffix == ".ko.xz" else bytes
    return {
        f"drivers/virtio/virtio{suffix}": pack(module(release=release)),
        f"drivers/virtio/virtio_pci{suffix}": pack(module("virtio", release)),
        f"drivers/virtio/virtio_balloon{suffix}": pack(module("virtio", release)),
        f"samples/stray{suffix}": pack(module(release=release)),
    }


@pytest.mark.parametrize("suffix", [".ko", ".ko.xz"])
@pytest.mark.parametrize(
    "line", ["kernel/drivers/virtio/{}.ko", "drivers/virtio/{}.ko", "drivers/virtio/{}.o"]
)
def test_modules_are_found_where_the_build_left_them(
    tmp_path: Path, line: str, suffix: str
) -> None:
    """`modules.order` had other lines up to 5.2, and has others from 6.2 on."""
    order = [line.format(name) for name in ("virtio", "virtio_pci", "virtio_balloon")]
    tree = build_tree(tmp_path, order=order, modules=files(suffix))
    assert loaded(tree) == loaded(tree / "arch/x86/boot/bzImage") == ["virtio", *WANTED]
    kernel = given_kernel(tree, None)
    assert kernel.modules is not None
    assert "stray" not in kernel.modules.files


def test_what_is_built_in_needs_no_modules(tmp_path: Path) -> None:
    builtin = [f"drivers/virtio/{name}.ko" for name in WANTED]
    assert loaded(build_tree(tmp_path, builtin=builtin)) == []


def test_modules_that_were_not_built_are_told_with_the_command(tmp_path: Path) -> None:
    tree = build_tree(tmp_path, order=["drivers/virtio/virtio_pci.o"])
    with pytest.raises(ImageError, match="virtio_pci is neither built into this kernel") as refused:
        loaded(tree)
    assert f"run `make -C {tree} modules`" in refused.value.hint


def test_modules_of_an_earlier_build_are_refused(tmp_path: Path) -> None:
    order = [name.replace(".ko", ".o") for name in files()]
    tree = build_tree(tmp_path, order=order, modules=files(release="6.12.0-old"))
    with pytest.raises(ImageError, match=r"built with the kernel 6\.12\.0-old, and this one is"):
        loaded(tree)


def test_lines_that_lead_out_of_the_tree_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "virtio_pci.ko").write_bytes(module())
    tree = build_tree(tmp_path / "tree", order=["../virtio_pci.o", "/etc/passwd", ""])
    assert ModuleTree.read(tree).files == {}


def test_installed_modules_are_known_by_their_contents_and_not_by_a_directorys_name(
    tmp_path: Path,
) -> None:
    tree = build_tree(tmp_path / "tree")
    mine, other = tmp_path / "mods" / "mine", tmp_path / "mods" / RELEASE
    for directory, release in ((mine, RELEASE), (other, "6.12.0-old")):
        for name, data in files(release=release).items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(data)
        (directory / "modules.builtin").touch()
    assert find_module_tree(tmp_path / "mods", RELEASE) == mine
    assert loaded(tree, mine) == ["virtio", *WANTED]
    with pytest.raises(ImageError, match=r"holds modules of 6\.12\.0-old"):
        loaded(tree, other)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({**good_config()}, "is not built: it has no arch/x86/boot/bzImage"),
        ({"ARM64": "y"}, "configured for ARM64, and the guests are x86_64"),
        ({"X86_32": "y"}, "configured for X86_32"),
    ],
)
def test_a_tree_without_a_kernel_says_why(
    tmp_path: Path, config: dict[str, str], words: str
) -> None:
    tree = build_tree(tmp_path, config=config)
    (tree / "arch/x86/boot/bzImage").unlink()
    with pytest.raises(ImageError, match=words):
        given_kernel(tree, None)


def test_sources_that_were_never_configured_say_so(tmp_path: Path) -> None:
    (tmp_path / "Kbuild").touch()
    (tmp_path / "arch/x86").mkdir(parents=True)
    (tmp_path / "arch/x86/Kconfig").touch()
    with pytest.raises(ImageError, match="these sources are not configured"):
        given_kernel(tmp_path, None)


def test_options_are_read_as_they_are_set() -> None:
    text = '# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=m\nCONFIG_D="x y"\nCONFIG_E=0x10\nX=1\n'
    assert parse_config(text) == {"B": "y", "C": "m", "D": "x y", "E": "0x10"}


def test_a_configuration_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".config").write_bytes(b"CONFIG_A=y\n" * 200_000)
    with pytest.raises(ImageError, match="larger than any configuration"):
        read_config(tmp_path)


def test_the_commit_is_the_trees_own(tmp_path: Path) -> None:
    """Not that of a repository around it, and not that of the objects' directory."""
    tree = build_tree(tmp_path / "around" / "tree")
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@x", "-C"]
    subprocess.run([*git, str(tmp_path / "around"), "init", "-q"], check=True)
    commit = ["commit", "-q", "--allow-empty", "-m", "m"]
    subprocess.run([*git, str(tmp_path / "around"), *commit], check=True)
    assert describe(tree) is None

    source = tmp_path / "source"
    (source / "mm").mkdir(parents=True)
    (source / "mm" / "page_reporting.c").write_text("int a;\n")
    for words in (["init", "-q"], ["add", "."], [*commit], ["tag", "-a", "-m", "t", "v6.13"]):
        subprocess.run([*git, str(source), *words], check=True)
    assert describe(source) == "v6.13"
    objects = build_tree(tmp_path / "objects")
    (objects / "source").symlink_to(source)
    (source / "mm" / "page_reporting.c").write_text("int b;\n")
    assert describe(objects) == "v6.13-dirty"


def test_a_kernel_that_was_copied_out_of_its_tree_has_none(tmp_path: Path) -> None:
    (tmp_path / "bzImage").write_bytes(bzimage())
    assert given_kernel(tmp_path, None).modules is None


@pytest.mark.parametrize("name", ["PROC_PAGE_MONITOR", "PAGE_REPORTING", "VIRTIO_BALLOON"])
def test_a_tree_without_what_no_guest_can_do_without_is_refused(tmp_path: Path, name: str) -> None:
    config = {key: value for key, value in good_config().items() if key != name}
    tree = build_tree(tmp_path, config=config)
    with pytest.raises(ImageError, match=rf"was configured without {name} \(") as refused:
        given_kernel(tree, None)
    assert f"kernel check {tree}" in refused.value.hint


def test_the_configuration_that_was_built_counts_and_not_one_edited_since(tmp_path: Path) -> None:
    tree = build_tree(tmp_path)
    (tree / "include/config/auto.conf").write_text("CONFIG_X86_64=y\n")
    assert read_config(tree) == {"X86_64": "y"}
    with pytest.raises(ImageError, match="configured without"):
        given_kernel(tree, None)
