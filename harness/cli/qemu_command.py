# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness qemu`: fetch builds of QEMU, or list them."""

import argparse

from harness.image.qemu_build import ensure_qemu, find_qemu_build
from harness.image.qemu_definition import load_qemus
from harness.machine.qemu_probe import probe
from harness.run.qemus import choose_qemus


def execute(options: argparse.Namespace) -> int:
    """Fetch or list builds.

    Raises `ImageError`, `LaunchError`, and what loading the definitions raises.
    """
    definitions = load_qemus()
    if options.verb == "list":
        for definition in definitions.values():
            built = find_qemu_build(definition)
            state = f"{probe(built).version}  {built}" if built is not None else "not fetched"
            print(f"{definition.name:12} {definition.title}: {state}")
        return 0
    for choice in choose_qemus(definitions, options.names):
        if choice.definition is not None:
            path = ensure_qemu(choice.definition, refresh=options.refresh, progress=print)
            print(f"{choice.name}: {probe(path).version} in {path}")
    return 0
