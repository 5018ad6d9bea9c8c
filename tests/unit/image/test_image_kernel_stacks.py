# SPDX-License-Identifier: Apache-2.0
"""A stack on the console gets the lines of the sources; its text may be a hostile guest's."""

import itertools
import os
import subprocess
import time
from pathlib import Path

import pytest
from kernel_trees import RELEASE, build_tree

from harness.errors import ImageError
from harness.image.kernel_stacks import (
    MOST_PLACES,
    DebugFiles,
    Place,
    decode,
    places_in,
    with_lines,
)

KASAN = Path(__file__).parents[2] / "data" / "console" / "kasan-use-after-free.log"
OOPS = """\
WARNING: CPU: 0 PID: 39 at drivers/x.c:9 virtballoon_free_page_report+0x2c/0x90 [virtio_balloon]
RIP: 0010:virtballoon_free_page_report+0x2c/0x90 [virtio_balloon]
Call Trace:
 <TASK>
 page_reporting_process+0x1f0/0x3a0
 ? __pfx_worker_thread+0x10/0x10
 ret_from_fork+0x22/0x30 [nf_tables 0123456789abcdef]
Modules linked in: virtio_balloon(E) x+0x1/zz
"""

REPORT = Place("virtballoon_free_page_report", 0x2C, 0x90, "virtio_balloon")
PROCESS = Place("page_reporting_process", 0x1F0, 0x3A0)


def test_all_three_stacks_of_a_report_of_kasan_are_places() -> None:
    text = KASAN.read_text().partition("soft lockup")[0]
    found = places_in(text)
    assert Place("kthread", 0x174, 0x1A0) in found
    assert Place("async_run_entry_fn", 0x4A, 0x170) in found, "the last that no other stack has"
    assert len(found) < MOST_PLACES


def test_places_are_found_wherever_the_kernel_prints_them() -> None:
    assert places_in(OOPS) == [
        REPORT,
        PROCESS,
        Place("__pfx_worker_thread", 0x10, 0x10),
        Place("ret_from_fork", 0x22, 0x30, "nf_tables"),
    ]


def test_lines_take_the_place_of_offsets_and_what_is_not_known_stays() -> None:
    lines = {REPORT: "drivers/virtio/virtio_balloon.c:169", PROCESS: "mm/a.h:3 mm/b.c:9"}
    told = with_lines(OOPS, lines).splitlines()
    assert told[1] == (
        "RIP: 0010:virtballoon_free_page_report (drivers/virtio/virtio_balloon.c:169) "
        "[virtio_balloon]"
    )
    assert told[4] == " page_reporting_process (mm/a.h:3 mm/b.c:9)"
    assert told[5] == " ? __pfx_worker_thread+0x10/0x10"


@pytest.mark.parametrize(
    "text",
    [
        '"||system("touch /tmp/x")||"+0x1/0x2',
        "a[$(touch x)]+0x1/0x2",
        "$(id)+0x1/0x2",
        "name+0x1/0x2x",
        "name+0x123456789/0x2",
        "näme+0x1/0x2",
    ],
)
def test_what_is_no_name_is_no_place(text: str) -> None:
    assert [str(place) for place in places_in(text) if place.name not in ("me",)] == []


@pytest.mark.parametrize("piece", ["a", "a+0x", "a+0x1/0x", " [a", "a+0x1/0x2 [", "a.", "+"])
def test_a_text_of_any_form_is_read_in_linear_time(piece: str) -> None:
    began = time.monotonic()
    places_in(piece * (400_000 // len(piece)))
    assert time.monotonic() - began < 2.0


def test_so_many_places_of_a_text_are_asked_for() -> None:
    assert len(places_in(" ".join(f"f{n}+0x1/0x2" for n in range(1000)))) == MOST_PLACES


SOURCE = """\
static __attribute__((noinline, used)) int twin(int a)
{
	return a + 1;
}
__attribute__((noinline)) int alone(int a)
{
	return twin(a) * 3;
}
int kernel_init(void) { return alone(2); }
char banner[] = "Linux version RELEASE (me@here) #1";
"""
"""Its third line is the body of `twin`, its seventh that of `alone`."""

OTHER = """\
static __attribute__((noinline, used)) int twin(int a)
{
	return a * a * a * a * a * a * a * a * a + 2;
}
int more(int a) { return twin(a); }
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A build tree whose vmlinux has two functions of one name, and its debug information."""
    tree = build_tree(tmp_path / "tree", builtin=["x.ko"], order=["m.o"])
    (tree / "init").mkdir()
    (tree / "init/main.c").write_text(SOURCE.replace("RELEASE", RELEASE))
    (tree / "other.c").write_text(OTHER)
    cc = ["cc", "-g", "-O1", "-fno-inline", "-nostdlib", "-static"]
    for words in (
        ["-Wl,-e,kernel_init", "-o", "vmlinux", f"{tree}/init/main.c", f"{tree}/other.c"],
        ["-c", "-o", "m.ko", "other.c"],
    ):
        subprocess.run([*cc, *words], cwd=tree, check=True)
    os.utime(tree / "vmlinux", (1, 1))
    return tree


def files(tree: Path) -> DebugFiles:
    kernel = tree / "arch/x86/boot/bzImage"
    return DebugFiles.of(tree, kernel)


def sizes(path: Path) -> dict[str, int]:
    """Of each function, up to the next one, as the kernel prints it."""
    said = subprocess.run(["nm", "-n", str(path)], check=True, capture_output=True, text=True)
    code = [line.split() for line in said.stdout.splitlines() if line.split()[-2] in "tT"]
    starts = [(int(words[0], 16), words[2]) for words in code]
    return {
        f"{name}{index if name == 'twin' else ''}": following - start
        for index, ((start, name), (following, _next)) in enumerate(itertools.pairwise(starts))
    }


@pytest.mark.whole_command
def test_lines_are_told_without_a_script(tree: Path) -> None:
    found = sizes(tree / "vmlinux")
    first, second = (found[name] for name in sorted(found) if name.startswith("twin"))
    assert first != second
    text = f" twin+0x1/{first:#x}\n twin+0x1/{second:#x}\n alone+0x1/{found['alone']:#x}\n"
    told = decode(text, files(tree)).splitlines()
    assert told[0] == " twin (init/main.c:3)"
    assert told[1].startswith(" twin (other.c:")
    assert told[2].startswith(" alone (init/main.c:")
    assert decode(" alone+0x1/0x1\n nobody+0x1/0x2\n", files(tree)) == (
        " alone+0x1/0x1\n nobody+0x1/0x2\n"
    )


@pytest.mark.whole_command
def test_a_module_of_the_tree_is_read_too(tree: Path) -> None:
    text = f" more+0x1/{0x40:#x} [m]\n more+0x1/0x40 [absent]"
    told = decode(text, files(tree)).splitlines()
    assert told[0] == " more (other.c:5) [m]"
    assert told[1] == " more+0x1/0x40 [absent]"


SCRIPT = """\
echo "$@" >"$(dirname "$0")/asked"
while read line; do
	echo "$line" >>"$(dirname "$0")/asked"
	echo " ${line%%+*} (mm/page_alloc.c:12 mm/rmqueue.h:3) "
done
"""


@pytest.mark.whole_command
def test_the_trees_script_is_asked_for_places_alone(tree: Path) -> None:
    (tree / "scripts").mkdir()
    (tree / "scripts/decode_stacktrace.sh").write_text(SCRIPT)
    text = 'evil"||system("id")||" alone+0x3/0x9 [m] $(id)\n alone+0x3/0x9 [m]\n f+0x1/0x2'
    told = decode(text, files(tree))
    assert told.splitlines()[1:] == [
        " alone (mm/page_alloc.c:12 mm/rmqueue.h:3) [m]",
        " f (mm/page_alloc.c:12 mm/rmqueue.h:3)",
    ]
    asked = (tree / "scripts/asked").read_text().splitlines()
    assert asked == [f"{tree}/vmlinux auto {tree}", "alone+0x3/0x9 [m]", "f+0x1/0x2"]


@pytest.mark.whole_command
def test_a_vmlinux_that_does_not_belong_to_the_kernel_is_refused(
    tree: Path, tmp_path: Path
) -> None:
    booted = tmp_path / "booted"
    booted.write_bytes((tree / "arch/x86/boot/bzImage").read_bytes())
    assert DebugFiles.of(tree, booted).vmlinux == tree / "vmlinux"
    os.utime(tree / "vmlinux")
    os.utime(booted)
    os.utime(tree / "arch/x86/boot/bzImage", (2, 2))
    with pytest.raises(ImageError, match="was built after"):
        DebugFiles.of(tree, booted)
    (tree / "vmlinux").write_bytes(b"Linux version 5.1.0 (me@here)")
    os.utime(tree / "vmlinux", (1, 1))
    with pytest.raises(ImageError, match="of another kernel than"):
        DebugFiles.of(tree, booted)
    booted.write_bytes(b"another build")
    with pytest.raises(ImageError, match="built again since the guest booted it"):
        DebugFiles.of(tree, booted)
    (tree / "vmlinux").unlink()
    with pytest.raises(ImageError, match="no vmlinux beside"):
        DebugFiles.of(tree, tree / "arch/x86/boot/bzImage")
