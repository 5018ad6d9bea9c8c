# SPDX-License-Identifier: Apache-2.0
"""Where the harness is root, a guest that takes QEMU over is nobody on the host."""

import os
import threading
from pathlib import Path

import pytest
from leftovers import qmp

from harness.errors import QmpError
from harness.image.build import ensure_image
from harness.image.definition import load_definitions
from harness.machine.launch import launch
from harness.machine.qemu_probe import find_qemu
from harness.machine.spec import GuestSpec
from harness.units import MIB

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
]


def test_a_real_qemu_of_root_has_none_of_its_rights(tmp_path: Path) -> None:
    nobody = find_qemu(None).user
    assert nobody is not None, find_qemu(None).as_root
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(1 << 20))
    secret.chmod(0o600)
    public = Path("/etc/passwd")
    with launch(
        GuestSpec(memory=256 * MIB, vcpus=1, backend="file-private", discard="slow", disk=MIB),
        ensure_image(load_definitions()["bookworm"], progress=print),
        accel="tcg",
        qemu=None,
        artefacts=tmp_path / "artefacts",
        progress=print,
        cancelled=threading.Event(),
    ) as vm:
        lines = Path(f"/proc/{vm.pid}/status").read_text().splitlines()
        status = {name: words.split() for name, _, words in (line.partition(":") for line in lines)}
        assert status["Uid"] == [str(nobody.uid)] * 4
        assert status["Gid"] == [str(nobody.gid)] * 4
        for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(status[kind][0], 16) == 0, kind
        assert status["NoNewPrivs"] == ["1"]
        assert vm.unconfined == ""
        # What a QEMU under a guest's control would do.
        for number, path in enumerate((public, secret, vm.directory / "ssh_key")):
            node = {"driver": "file", "filename": str(path), "read-only": True}
            add = {"driver": "raw", "node-name": f"n{number}", "read-only": True, "file": node}
            if path == public:
                vm.monitor.execute("blockdev-add", add)
            else:
                with pytest.raises(QmpError, match="Permission denied"):
                    vm.monitor.execute("blockdev-add", add)
        assert qmp(vm.directory, "query-status")["running"] is True
        logs = [tmp_path / "artefacts" / name for name in ("console.log", "discards.log")]
        assert all(path.exists() for path in logs)
        directory = vm.directory
    assert not directory.exists()
    assert {path.stat().st_uid for path in logs} == {0}
    assert "fpr-init: ready" in logs[0].read_text(errors="replace")
