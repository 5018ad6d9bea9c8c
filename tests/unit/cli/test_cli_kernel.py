# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness kernel check`: what a tree lacks, and what each costs."""

from pathlib import Path

import pytest
from kernel_trees import RELEASE, build_tree, good_config

from harness.cli.main import main
from harness.image.kernel_options import OPTIONS, wrong

BUILTIN = [
    f"drivers/virtio/{name}.ko"
    for name in ("virtio_pci", "virtio_mmio", "virtio_net", "virtio_balloon")
]


def check(tree: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    status = main(["kernel", "check", str(tree)])
    said = capsys.readouterr()
    return status, said.out + said.err


def test_a_good_tree_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = check(build_tree(tmp_path, builtin=BUILTIN), capsys)
    assert status == 0
    assert said == (
        f"{tmp_path}: Linux {RELEASE}\nIt can be tested: fpr-harness run --kernel {tmp_path}\n"
    )


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_option_is_named_with_what_it_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: object
) -> None:
    config = good_config()
    (one,) = (each for each in OPTIONS if each is option)
    if one.rank == "costly":
        config[one.name] = "y"
    else:
        del config[one.name]
    status, said = check(build_tree(tmp_path, config=config, builtin=BUILTIN), capsys)
    if one.name == "X86_64":
        assert "configured for another architecture" in said
    else:
        assert f"{one.name}: {one.costs}\n" in said
    assert wrong(config) == [one]
    assert status == (69 if one.rank == "needed" else 0)
    if one.name != "X86_64":
        again = f"kernel config --build {tmp_path}\n"
        assert (again in said) == (one.rank != "costly")


def test_a_module_does_as_well() -> None:
    assert wrong({**good_config(), "VIRTIO_BALLOON": "m"}) == []


def test_modules_that_are_configured_and_not_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = check(build_tree(tmp_path), capsys)
    assert status == 69
    assert "virtio_pci is neither built into this kernel" in said
    assert f"run `make -C {tmp_path} modules`" in said


def test_a_tree_that_is_not_built_and_what_is_no_tree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = build_tree(tmp_path / "tree")
    (tree / "arch/x86/boot/bzImage").unlink()
    status, said = check(tree, capsys)
    assert (status, "is not built" in said) == (69, True)
    status, said = check(tmp_path / "absent", capsys)
    assert (status, "there is no such directory" in said) == (69, True)
    status, said = check(tmp_path, capsys)
    assert (status, "is no kernel tree" in said) == (69, True)
    (tree / ".config").write_text("")
    status, said = check(tree, capsys)
    assert (status, "has no .config that sets anything" in said) == (69, True)


def test_what_was_merged_into_a_tree_that_is_not_built_is_not_called_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make defconfig` leaves an auto.conf, and `kernel config` changes .config after it."""
    tree = build_tree(tmp_path)
    (tree / "arch/x86/boot/bzImage").unlink()
    (tree / "include/config/auto.conf").write_text("CONFIG_X86_64=y\n")
    status, said = check(tree, capsys)
    assert status == 69
    assert [line for line in said.splitlines() if line.startswith("  ")] == [
        f"  missing  {tree}: this tree is not built: it has no arch/x86/boot/bzImage"
    ]


def test_options_that_were_set_after_the_build_take_a_build_and_no_other_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = build_tree(tmp_path, builtin=BUILTIN)
    without = good_config() | {"PAGE_REPORTING": "n"}
    (tree / "include/config/auto.conf").write_text(
        "".join(f"CONFIG_{name}={value}\n" for name, value in without.items())
    )
    status, said = check(tree, capsys)
    assert (status, "missing  PAGE_REPORTING" in said) == (69, True)
    assert f"edited since the build: make -C {tree} -j$(nproc)" in said


def test_a_tree_of_another_architecture_is_one_message_and_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = build_tree(tmp_path, config={"ARM64": "y"})
    for name in ("Kbuild", "arch/x86/Kconfig", "scripts/kconfig/merge_config.sh"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    before = (tree / ".config").read_text()
    for verb in ("check", "config"):
        assert main(["kernel", verb, str(tree)]) == 69
        said = capsys.readouterr()
        assert said.out == ""
        assert "configured for ARM64, and the guests are x86_64" in said.err
    assert (tree / ".config").read_text() == before
