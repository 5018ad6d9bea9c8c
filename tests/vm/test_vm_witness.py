# SPDX-License-Identifier: Apache-2.0
"""The witness finds lost pages of a real guest's kernel, which nothing else in the guest checks."""

import os
import re
import threading
from pathlib import Path

import pytest

from harness.guest.witness_client import WitnessSession
from harness.image.build import ensure_image
from harness.image.definition import load_definitions
from harness.machine.launch import launch
from harness.machine.spec import GuestSpec
from harness.units import MIB, PAGE_SIZE

pytestmark = pytest.mark.vm


def test_lost_pages_of_the_kernel_are_told_by_their_physical_address(tmp_path: Path) -> None:
    with (
        launch(
            GuestSpec(memory=512 * MIB, vcpus=2, backend="file-shared"),
            ensure_image(load_definitions()["bookworm"], progress=print),
            accel="tcg",
            qemu=None,
            artefacts=tmp_path,
            progress=print,
            cancelled=threading.Event(),
        ) as vm,
        WitnessSession.start(vm.shell, size=MIB) as witness,
    ):
        sound = witness.verify()
        assert sound.lost_pages == 0
        assert sound.text_pages is not None
        assert sound.text_pages > 1000

        iomem = vm.shell.run("cat /proc/iomem").stdout.decode()
        constants = re.search(r"([0-9a-f]+)-[0-9a-f]+ : Kernel rodata", iomem)
        assert constants
        start = int(constants[1], 16)
        [ram] = vm.directory.rglob("m0.ram")
        with ram.open("r+b") as memory:
            pages = range(start, start + 16 * MIB, PAGE_SIZE)
            full = (page for page in pages if any(os.pread(memory.fileno(), PAGE_SIZE, page)))
            lost = next(page for page in full if page > start + MIB)
            os.pwrite(memory.fileno(), bytes(PAGE_SIZE), lost)
        seen = witness.verify()
        assert (seen.text_lost, seen.lost_pages) == (1, 1)
        assert seen.details[0].startswith(f"lost what=text address={lost:#x}")
