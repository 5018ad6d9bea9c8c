# SPDX-License-Identifier: Apache-2.0
"""What lies in the cache is used only as it was put there, and made again if it is not."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from qemus import a_qemu

from harness.errors import ImageError
from harness.image import archive as archive_module
from harness.image import build
from harness.image.archive import AptRoot, Mirror
from harness.image.build import BootFiles, ensure_image, with_packages
from harness.image.cache import cache_directory, check_own, is_intact, made_whole, seal
from harness.image.definition import ImageDefinition, load_definitions, pinned
from harness.image.qemu_build import ensure_qemu
from harness.image.qemu_definition import load_qemus
from harness.image.sources import Suites
from harness.machine.accel import KvmMemory
from harness.machine.interposer import build_interposer
from harness.machine.qemu_probe import _shelf


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def garble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def write(text: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_text(text)

    return damage


DAMAGE = [cut, garble, Path.unlink, write("")]


# --- sealed directories -------------------------------------------------------------------------


def sealed(directory: Path) -> Path:
    with made_whole(directory) as temporary:
        (temporary / "one").write_bytes(b"first")
        (temporary / "two").write_bytes(b"second")
        seal(temporary)
    return directory


def test_what_was_made_whole_is_intact(tmp_path: Path) -> None:
    made = sealed(tmp_path / "made")
    assert is_intact(made, "one", "two")
    assert not is_intact(made, "three")


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["one", "two", "sha256.json"])
def test_any_damage_shows(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    made = sealed(tmp_path / "made")
    damage(made / name)
    assert not is_intact(made, "one")


@pytest.mark.parametrize("text", ["[]", "{}", '{"one": 1}', "null", "[" * 100_000, '{"../x": ""}'])
def test_a_seal_that_is_none(tmp_path: Path, text: str) -> None:
    made = sealed(tmp_path / "made")
    (made / "sha256.json").write_text(text)
    assert not is_intact(made, "one")


def test_a_planted_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept").touch()
    (tmp_path / "made").symlink_to(victim)
    sealed(tmp_path / "made")
    assert not (tmp_path / "made").is_symlink()
    assert (victim / "kept").exists()


# --- what is made from it -----------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_interposer_is_compiled_again(damage: Callable[[Path], None]) -> None:
    library = build_interposer()
    good = library.read_bytes()
    damage(library)
    assert build_interposer() == library
    assert library.read_bytes() == good


def test_an_interposer_that_is_whole_is_not_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    build_interposer()
    monkeypatch.delattr("harness.machine.interposer.compile_c")
    build_interposer()


def test_no_program_is_taken_from_a_cache_that_others_write_to() -> None:
    library = build_interposer()
    library.parent.chmod(0o777)
    with pytest.raises(ImageError, match="any user may write"):
        build_interposer()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_no_program_is_taken_from_a_cache_of_another_user() -> None:
    build_interposer()
    os.chown(cache_directory(), 65534, 65534)
    with pytest.raises(ImageError, match="belongs to another user"):
        check_own(cache_directory() / "interposer")


def definition() -> ImageDefinition:
    return load_definitions()["bookworm"]


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Builds are counted, and make three small files."""
    builds: list[str] = []

    def fake(_definition: object, _given: object, _archive: object, at: Path, digest: str) -> None:
        builds.append(digest)
        (at / "vmlinuz").write_bytes(b"kernel")
        (at / "initramfs").write_bytes(b"initramfs")
        manifest = {"release": "6.1.0", "digest": digest, "build": "6.1.176-1", "files": {}}
        (at / "manifest.json").write_text(json.dumps(manifest))

    monkeypatch.setattr(build, "_build", fake)
    return builds


def test_an_image_is_built_once(built: list[str]) -> None:
    assert build.ensure_image(definition()) == build.ensure_image(definition())
    assert len(built) == 1


@pytest.mark.parametrize("damage", [*DAMAGE, write('{"files": {}}'), write("[]"), write("null")])
@pytest.mark.parametrize("name", ["vmlinuz", "initramfs", "manifest.json"])
def test_a_damaged_image_is_built_again(
    built: list[str], name: str, damage: Callable[[Path], None]
) -> None:
    boot = build.ensure_image(definition())
    damage(boot.manifest.with_name(name))
    said: list[str] = []
    assert build.ensure_image(definition(), progress=said.append) == boot
    assert len(built) == 2
    assert "damaged" in said[0]


def test_pinned_images_are_listed_until_nobody_has_used_them_for_a_week(built: list[str]) -> None:
    old = build.ensure_image(pinned(definition(), "6.1.180"))
    pinned_images = [image.name for image in build.find_pinned(definition())]
    assert pinned_images == ["bookworm=6.1.180"]
    os.utime(old.manifest, (0, 0))
    assert build.ensure_image(definition()).build == "6.1.176-1"
    assert len(built) == 2
    assert build.find_built(pinned(definition(), "6.1.180")) is None


# --- the package lists --------------------------------------------------------------------------


class FakeApt:
    """Serves a list as apt does: not again while what is there bears the same name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.updates = 0
        self.broken = False

    def __call__(self, command: list[str], *, cwd: Path | None = None) -> str:
        del cwd
        if command[3] == "update":
            self.updates += 1
            if self.broken:
                raise ImageError("Could not resolve the archive")
            found = self.root / "lists" / "archive_bookworm_main_binary-amd64_Packages"
            if not found.exists():
                found.write_text("Package: busybox\n" * 100)
        return ""


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApt:
    fake = FakeApt(tmp_path / "apt")
    monkeypatch.setattr(archive_module, "run_tool", fake)
    monkeypatch.setattr(archive_module, "host_mirror", lambda _suite: Mirror("http://a/", ""))
    return fake


def packages_list(apt: FakeApt) -> Path:
    (found,) = (apt.root / "lists").glob("*_Packages")
    return found


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_package_list_is_fetched_again(
    apt: FakeApt, damage: Callable[[Path], None]
) -> None:
    """apt finds its description unchanged, and takes the damaged one for good."""
    root = AptRoot(apt.root, "bookworm", print)
    root.update()
    assert root.is_ready
    good = packages_list(apt).read_bytes()
    damage(packages_list(apt))
    assert not root.is_ready
    root.update()
    assert root.is_ready
    assert packages_list(apt).read_bytes() == good


def test_lists_stay_where_new_ones_cannot_be_had(apt: FakeApt) -> None:
    root = AptRoot(apt.root, "bookworm", print)
    root.update()
    apt.broken = True
    with pytest.raises(ImageError):
        root.update()
    assert root.is_ready
    assert stat.S_ISDIR((apt.root / "lists").stat().st_mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_nothing_is_taken_from_a_cache_of_another_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "fpr-harness").mkdir()
    os.chown(tmp_path / "fpr-harness", 65534, 65534)
    image = load_definitions()["bookworm"]
    takers: list[Callable[[], object]] = [
        lambda: ensure_image(image),
        lambda: with_packages(cast(BootFiles, None), image, ["stress-ng"], print),
        lambda: ensure_qemu(load_qemus()["bookworm"]),
        lambda: Suites(False, print).with_root("bookworm", lambda _root: []),
        build_interposer,
    ]
    for take in takers:
        with pytest.raises(ImageError, match="belongs to another user"):
            take()
    assert list((tmp_path / "fpr-harness").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_what_another_user_remembers_of_a_qemu_and_of_kvm_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    qemu = a_qemu(path=Path("/bin/true"))
    KvmMemory(qemu).remember("it crawls")
    assert KvmMemory(qemu).failure()
    os.chown(tmp_path / "fpr-harness", 65534, 65534)
    assert KvmMemory(qemu).failure() is None
    assert _shelf(qemu.path) is None
