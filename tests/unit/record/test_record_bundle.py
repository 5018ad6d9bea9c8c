# SPDX-License-Identifier: Apache-2.0
"""A bundle is the same for the same results, and one that was touched is refused as a whole."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from results_builders import Recorded, write_results

from harness.errors import RecordError, UsageError
from harness.record.bundle_manifest import BundledKernel, is_member_name
from harness.record.bundle_read import Bundle
from harness.record.bundle_write import check_target, write_bundle

Members = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    directory = write_results(tmp_path / "results", {"one": Recorded(), "two": Recorded()})
    (directory / "link").symlink_to("/etc/passwd")
    return directory


@pytest.fixture
def made(results: Path, tmp_path: Path) -> Path:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"a kernel")
    digest = "a" * 64
    facts = BundledKernel(release="6.1", build="6.1-1 of x", kernel=digest, initramfs=digest)
    write_bundle(tmp_path / "x.tgz", results, {"bookworm": facts}, [kernel])
    return tmp_path / "x.tgz"


def members(path: Path) -> Members:
    with tarfile.open(path) as tar:
        return [(each, tar.extractfile(each).read()) for each in tar]  # type: ignore[union-attr]


def packed(path: Path, found: Members) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member, content in found:
            if member.isreg():
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("clock", ["real", "virtual"])
def test_it_names_the_clock_of_each_guest(results: Path, tmp_path: Path, clock: str) -> None:
    record = results / "results.jsonl"
    record.write_text(record.read_text().replace('"clock": "real"', f'"clock": "{clock}"'))
    write_bundle(tmp_path / "x.tgz", results, {})
    assert [run.clock for run in Bundle(tmp_path / "x.tgz").manifest.runs] == [clock, clock]


def test_it_holds_the_results_and_each_scenario_and_no_link(made: Path) -> None:
    names = [member.name for member, _content in members(made)]
    assert names[0] == "manifest.json"
    assert {"results/results.jsonl", "scenarios/one.yaml", "scenarios/two.yaml"} <= set(names)
    assert "results/link" not in names
    bundle = Bundle(made)
    assert [run.run for run in bundle.manifest.runs] == ["one", "two"]
    assert bundle.scenario("scenarios/one.yaml") == b"name: one\n"


def test_the_same_results_make_the_same_bytes(made: Path, results: Path, tmp_path: Path) -> None:
    (results / "results.jsonl").touch()
    write_bundle(tmp_path / "again.tgz", results, Bundle(made).manifest.kernels)
    write_bundle(tmp_path / "and.tgz", results, Bundle(made).manifest.kernels)
    assert (tmp_path / "again.tgz").read_bytes() == (tmp_path / "and.tgz").read_bytes()
    assert not list(tmp_path.glob(".again*"))


def test_kernels_are_unpacked_by_their_checksum(made: Path, tmp_path: Path) -> None:
    found = Bundle(made).unpack_kernels(tmp_path)
    assert [path.read_bytes() for path in found.values()] == [b"a kernel"]


def test_a_bundle_that_was_cut_short_is_refused_wherever(made: Path, tmp_path: Path) -> None:
    whole = made.read_bytes()
    cut = tmp_path / "cut.tgz"
    for length in (0, 5, len(whole) // 2, len(whole) - 20, len(whole) - 1):
        cut.write_bytes(whole[:length])
        with pytest.raises(RecordError, match=r"cut\.tgz cannot be used"):
            Bundle(cut)


def test_a_flipped_bit_is_refused(made: Path, tmp_path: Path) -> None:
    plain = bytearray(gzip.decompress(made.read_bytes()))
    plain[plain.index(b"a kernel")] ^= 1
    (tmp_path / "flipped.tgz").write_bytes(gzip.compress(plain))
    with pytest.raises(RecordError, match=r"'kernels/\w+' was changed"):
        Bundle(tmp_path / "flipped.tgz")


def changed_manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Members], Members]:
    def apply(found: Members) -> Members:
        document = json.loads(found[0][1])
        change(document)
        return [(found[0][0], json.dumps(document).encode()), *found[1:]]

    return apply


def with_member(name: str, kind: bytes = tarfile.REGTYPE) -> Callable[[Members], Members]:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = "/etc/passwd"
    return lambda found: [*found, (member, b"")]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (with_member("/etc/cron.d/x"), "a name that no bundle holds"),
        (with_member("results/../../x"), "a name that no bundle holds"),
        (with_member("results/./x"), "a name that no bundle holds"),
        (with_member("elsewhere/x"), "a name that no bundle holds"),
        (with_member("results/x\x1b[2J"), "a name that no bundle holds"),
        (with_member("results/x", tarfile.SYMTYPE), "is not a regular file"),
        (with_member("results/x", tarfile.LNKTYPE), "is not a regular file"),
        (with_member("results/x", tarfile.FIFOTYPE), "is not a regular file"),
        (with_member("results/x", tarfile.DIRTYPE), "is not a regular file"),
        (with_member("results/more"), "does not name its member"),
        (with_member("scenarios/one.yaml"), "is there twice"),
        (lambda found: found[:-1], "is missing"),
        (
            lambda found: [each for each in found if each[0].name != "results/results.jsonl"],
            "its member 'results/results.jsonl' is missing",
        ),
        (lambda found: [*found[1:], found[0]], "does not begin with manifest.json"),
        (lambda found: [(found[0][0], b"{"), *found[1:]], "its manifest is wrong"),
        (changed_manifest(lambda m: m.update(more=1)), "its manifest is wrong at more"),
        (
            changed_manifest(lambda m: m.update(schema=2, harness="9.9", more=1)),
            "is a bundle of schema 2, made by fpr-harness '9.9'",
        ),
        (changed_manifest(lambda m: m["runs"].append(m["runs"][0])), "two runs called 'one'"),
        (changed_manifest(lambda m: m["runs"][0].update(run="../x")), "wrong at runs.0.run"),
        (changed_manifest(lambda m: m["runs"][0].update(scenario="scenarios/x")), "is missing"),
        (changed_manifest(lambda m: m["kernels"]["bookworm"].update(included=True)), "is missing"),
        (
            changed_manifest(lambda m: m["files"]["scenarios/one.yaml"].update(bytes=9 << 40)),
            "larger than 8 GiB together",
        ),
        (
            changed_manifest(lambda m: m["files"]["scenarios/one.yaml"].update(bytes=3)),
            "and its manifest says 3",
        ),
    ],
)
def test_what_no_bundle_holds_is_refused(
    made: Path, tmp_path: Path, change: Callable[[Members], Members], why: str
) -> None:
    touched = packed(tmp_path / "touched.tgz", change(members(made)))
    with pytest.raises(RecordError) as refused:
        Bundle(touched)
    assert why in refused.value.message


def test_a_header_that_claims_gigabytes_is_not_read(tmp_path: Path) -> None:
    member = tarfile.TarInfo("results/x")
    member.type = tarfile.XHDTYPE
    member.size = 3 << 30
    (tmp_path / "big.tgz").write_bytes(gzip.compress(member.tobuf(tarfile.USTAR_FORMAT)))
    with pytest.raises(RecordError, match="a header of 3221225472 bytes"):
        Bundle(tmp_path / "big.tgz")


def test_what_follows_the_archive_is_refused(made: Path, tmp_path: Path) -> None:
    plain = gzip.decompress(made.read_bytes())
    (tmp_path / "long.tgz").write_bytes(gzip.compress(plain + bytes(1 << 20)))
    with pytest.raises(RecordError, match="something follows its last member"):
        Bundle(tmp_path / "long.tgz")


def test_no_file_is_bad_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        Bundle(tmp_path / "none.tgz")
    (tmp_path / "there").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    for target, why in (
        ("there", "is there already"),
        ("dangling", "is there already"),
        ("no/such", "no file can be made"),
    ):
        with pytest.raises(UsageError, match=why):
            check_target(tmp_path / target)


@pytest.mark.parametrize("name", ["results", "results/", "results//x", "a/b", "kernels\\x"])
def test_names_of_members(name: str) -> None:
    assert not is_member_name(name)
