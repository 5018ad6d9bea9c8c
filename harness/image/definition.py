# SPDX-License-Identifier: Apache-2.0
"""What a guest image is made of: the files `guest-images/*.yaml`."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from harness.errors import ScenarioFileError
from harness.resources import IMAGES_DIR
from harness.yamlfile import load_model

PackageName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$")]
"""Debian policy, section 5.6.7."""

SuiteName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
ModuleName = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KernelSource(_Part):
    """A kernel package; a meta-package leads to the newest."""

    suite: SuiteName
    package: PackageName


class UserlandSource(_Part):
    """Packages that give busybox and dropbear; their libraries follow by dependency."""

    suite: SuiteName
    packages: Annotated[tuple[PackageName, ...], Field(min_length=1)]


class ImageDefinition(_Part):
    """One guest image."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    title: str
    default: StrictBool = False
    """Used when no image is named."""
    kernel: KernelSource
    userland: UserlandSource
    modules: Annotated[tuple[ModuleName, ...], Field(min_length=1)]
    """Modules the guest needs; built in or loadable, and what they depend on, differs by kernel."""
    on_demand: tuple[ModuleName, ...] = ()
    """Modules for `modprobe` that a boot does not load; one that the kernel lacks is left out."""


def load_definitions(directory: Path = IMAGES_DIR) -> dict[str, ImageDefinition]:
    """Every definition by its name. Raises one `ScenarioFileError` with all mistakes."""
    definitions: dict[str, ImageDefinition] = {}
    mistakes: list[str] = []
    for path in sorted(directory.glob("*.yaml")):
        try:
            definition = load_model(path, ImageDefinition)
        except ScenarioFileError as error:
            mistakes.append(str(error))
            continue
        if definition.name != path.stem:
            mistakes.append(f"{path}: name: {definition.name!r} must be the file's name")
        definitions[definition.name] = definition
    if mistakes:
        raise ScenarioFileError("\n".join(mistakes))
    if not definitions:
        raise ScenarioFileError(f"{directory} holds no image definition (*.yaml)")
    return definitions
