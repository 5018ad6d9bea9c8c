# SPDX-License-Identifier: Apache-2.0
"""What a guest needs is merged by the tree's own script; what Kconfig refuses is told."""

from pathlib import Path

import pytest

from harness.cli.main import main
from harness.image.kernel_config import DEBUGS, GUEST, read_fragment
from harness.image.kernel_options import OPTIONS

MERGE = """\
[ "$1" = -m ] || exit 3
config=$2; shift 2
cat "$@" >>"$config"
"""
"""As the real one merges: later lines replace earlier ones, which `olddefconfig` sees to."""

OLDDEFCONFIG = """\
olddefconfig:
\tgrep -v '^CONFIG_{refused}=' .config >.config.new; mv .config.new .config
defconfig:
\t(echo CONFIG_X86_64=y; echo CONFIG_MODULES=y) >.config
bzImage modules:
\techo no compiler here >&2; false
"""


def sources(directory: Path, refused: str = "NONE") -> Path:
    """A source tree whose Kconfig refuses one option."""
    for name in ("Kbuild", "arch/x86/Kconfig", "scripts/kconfig/merge_config.sh"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(MERGE)
    (directory / "Makefile").write_text(OLDDEFCONFIG.format(refused=refused))
    return directory


@pytest.mark.parametrize("name", [GUEST, *DEBUGS])
def test_each_line_of_a_fragment_says_what_it_is_for(name: str) -> None:
    lines = read_fragment(name)
    assert [line.name for line in lines if not line.why] == []
    assert len({line.name for line in lines}) == len(lines)


def test_the_fragment_has_all_that_the_check_wants() -> None:
    wanted = {line.name: line.on for line in read_fragment(GUEST)}
    # X86_64 cannot be set: it follows from 64BIT.
    missing = {o.name for o in OPTIONS if o.rank != "costly" and not wanted.get(o.name)}
    assert missing == {"X86_64"}
    assert all(not wanted.get(option.name) for option in OPTIONS if option.rank == "costly")


@pytest.mark.whole_command
def test_a_tree_is_configured_and_told_line_by_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = sources(tmp_path / "a tree", refused="VIRTIO_MEM")
    assert main(["kernel", "config", str(tree), "--debug", "kasan"]) == 0
    said = capsys.readouterr().out
    assert "set      PROC_PAGE_MONITOR=y: without it: no /proc/kpageflags" in said
    assert "set      KASAN=y: the checker itself" in said
    assert "refused  VIRTIO_MEM=y: without it: scenarios with virtio-mem do not pass" in said
    assert "CONFIG_KASAN=y" in (tree / ".config").read_text()
    assert main(["kernel", "config", str(tree), "--debug", "kasan"]) == 0
    assert "it had all of it already" in capsys.readouterr().out


@pytest.mark.whole_command
def test_modules_are_built_only_where_the_kernel_loads_any(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loads = sources(tmp_path / "loads")
    assert main(["kernel", "config", str(loads)]) == 0
    assert capsys.readouterr().out.rstrip().endswith(" bzImage modules")
    loads_none = sources(tmp_path / "none")
    (loads_none / ".config").write_text("CONFIG_X86_64=y\n")
    assert main(["kernel", "config", str(loads_none)]) == 0
    assert capsys.readouterr().out.rstrip().endswith(" bzImage")


@pytest.mark.whole_command
def test_what_no_guest_can_do_without_and_a_failed_build_have_status_69(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["kernel", "config", str(sources(tmp_path / "a", "PAGE_REPORTING"))]) == 69
    assert "does not grant PAGE_REPORTING" in capsys.readouterr().err
    assert main(["kernel", "config", str(sources(tmp_path / "b")), "--build"]) == 69
    assert "the build exited with 2" in capsys.readouterr().err


def test_a_directory_without_the_script_has_status_69(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["kernel", "config", str(tmp_path)]) == 69
    assert "neither Linux's sources nor" in capsys.readouterr().err
