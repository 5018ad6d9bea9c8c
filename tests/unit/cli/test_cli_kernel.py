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
    assert f"{one.name}: {one.costs}\n" in said
    assert wrong(config) == [one]
    assert status == (69 if one.rank == "needed" else 0)
    assert (f"scripts/config -e {one.name};" in said) == (one.rank != "costly")


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
    assert (status, "is no kernel tree" in said) == (69, True)
    (tree / ".config").write_text("")
    status, said = check(tree, capsys)
    assert (status, "has no .config that sets anything" in said) == (69, True)
