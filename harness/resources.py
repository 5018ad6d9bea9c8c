# SPDX-License-Identifier: Apache-2.0
"""Locate the files that a run needs besides Python: scenarios, image definitions, C sources.

A wheel carries them in `harness/data/`; a checkout, installed editable or not at all, has them in
its top folder. The compiler and `dpkg-deb` need real paths, so the package must be unpacked, as
pip always does.
"""

import importlib.resources
from pathlib import Path


def _folder(name: str) -> Path:
    package = Path(str(importlib.resources.files("harness")))
    packed = package / "data" / name
    return packed if packed.is_dir() else package.parent / name


SCENARIOS_DIR = _folder("scenarios")
"""The project's own scenarios, `*.yaml`."""

IMAGES_DIR = _folder("guest-images")
"""Definitions of guest images, the guest's init and shell, and the source of the guest tool."""

INTERPOSER_SOURCE = Path(str(importlib.resources.files("harness.machine") / "interposer.c"))
"""Source of the shared object, preloaded into QEMU, that changes how QEMU discards memory."""
