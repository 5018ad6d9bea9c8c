# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness image`: build guest images, or list them."""

import argparse

from harness.image.build import ensure_image, find_built
from harness.image.definition import load_definitions
from harness.run.plan import choose_images


def execute(options: argparse.Namespace) -> int:
    """Build or list images. Raises `ImageError`, and what loading the definitions raises."""
    definitions = load_definitions()
    if options.verb == "list":
        for definition in definitions.values():
            built = find_built(definition)
            state = f"{built.release}  {built.kernel.parent}" if built else "not built"
            print(f"{definition.name:12} {definition.title}: {state}")
        return 0
    for definition in choose_images(definitions, options.image):
        boot = ensure_image(definition, refresh=options.refresh, progress=print)
        print(f"{definition.name}: {boot.release} in {boot.kernel.parent}")
    return 0
