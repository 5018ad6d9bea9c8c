# SPDX-License-Identifier: Apache-2.0
"""Where in a guest the tool can lie: in /tmp, else in /run; and guests in which it cannot."""

from collections.abc import Iterator

import pytest
from plain_vm import PlainVm, plain_vm

pytestmark = pytest.mark.vm

NOEXEC, SMALL = "noexec", "size=100k"


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainVm]:
    with plain_vm(tmp_path_factory.mktemp("vm")) as running:
        yield running


@pytest.fixture
def mounts(vm: PlainVm) -> Iterator[list[str]]:
    """What a test mounts there is unmounted after it."""
    mounted: list[str] = []
    yield mounted
    for place in mounted:
        vm.run(f"umount {place}")


def mount(vm: PlainVm, mounts: list[str], place: str, options: str) -> None:
    vm.run(f"mount -t tmpfs -o {options} none {place}")
    mounts.append(place)


@pytest.mark.parametrize("options", [NOEXEC, SMALL, "ro"])
def test_the_second_place_will_do(vm: PlainVm, mounts: list[str], options: str) -> None:
    mount(vm, mounts, "/tmp", options)
    assert vm.both()["guest"]["account"] is not None
    assert vm.run("ls /tmp /run | grep fpr-audit || true") == ""


@pytest.mark.parametrize("options", [NOEXEC, SMALL, "ro"])
def test_no_place_is_one_message(vm: PlainVm, mounts: list[str], options: str) -> None:
    mount(vm, mounts, "/tmp", SMALL)
    mount(vm, mounts, "/run", options)
    said = vm.audit(vm.name, "--ssh", vm.name, status=69)
    assert "neither /tmp nor /run of the guest takes a program" in said
    assert "connection" not in said
    assert vm.run("ls /tmp /run | grep fpr-audit || true") == ""
