# SPDX-License-Identifier: Apache-2.0
"""`fpr-harness image`: build guest images, or list them."""

import argparse
import sys

from harness.image.build import ensure_image, find_built, find_pinned
from harness.image.definition import ImageDefinition, load_definitions
from harness.image.kernel_builds import oldest_first, shortest_name
from harness.image.sources import Archive
from harness.run.plan import choose_images
from harness.safe_text import safe_text


def execute(options: argparse.Namespace) -> int:
    """Build or list images.

    Raises `ImageError`, `PreconditionError`, and what loading the definitions raises.
    """
    definitions = load_definitions()
    if options.verb == "list":
        chosen = (
            choose_images(definitions, options.image) if options.image else [*definitions.values()]
        )
        for definition in chosen:
            if options.builds:
                _list_builds(definition, options.refresh)
            else:
                _list_built(definition)
        return 0
    for definition in choose_images(definitions, options.image):
        boot = ensure_image(definition, refresh=options.refresh, progress=print)
        print(f"{definition.name}: {boot.release} in {boot.kernel.parent}")
    return 0


def _list_built(definition: ImageDefinition) -> None:
    """Print a line for the image, and one for each pinned build of it that is in the cache."""
    for each in (definition, *find_pinned(definition)):
        built = find_built(each)
        if built is not None:
            build = f" ({built.build})" if built.build else ""
            print(f"{each.name:16} {each.title}: {built.release}{build}  {built.kernel.parent}")
        elif each is definition:
            print(f"{each.name:16} {each.title}: not built")


def _list_builds(definition: ImageDefinition, refresh: bool) -> None:
    """Print each build that the archive holds for the image, by what `--image` calls it."""
    archive = Archive(definition, refresh, _tell)
    builds = oldest_first(archive.builds())
    whole = [build for build in builds if not build.missing]
    name = definition.name.partition("=")[0]
    for build in whole:
        asked = f"{name}={shortest_name(build, whole)}"
        print(f"{asked:32} {build.package} {build.version}  {build.suite}")
    parts = ", ".join(dict.fromkeys(build.upstream for build in builds if build.missing))
    if parts:
        _tell(f"{name}: the archive no longer has all packages of {parts}")


def _tell(text: str) -> None:
    print(f"... {safe_text(text)}", file=sys.stderr, flush=True)
