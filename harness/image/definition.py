# SPDX-License-Identifier: Apache-2.0
"""The definitions of guest images: the files `guest-images/*.yaml`."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from harness.errors import ScenarioFileError, UsageError
from harness.resources import IMAGES_DIR
from harness.yamlfile import load_model

PackageName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$")]
"""Debian policy, section 5.6.7."""

SuiteName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
KernelVersion = Annotated[str, Field(pattern=r"^[0-9][A-Za-z0-9.+~-]{0,63}$")]
ModuleName = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KernelSource(_Part):
    """A kernel package; a meta-package stands for the newest kernel it depends on.

    The newest of a released suite is looked for in its `-updates` and `-security` too.
    """

    suite: SuiteName
    package: PackageName
    version: KernelVersion | None = None
    """A build to stay with, instead of the newest: of the kernel (`6.12.105`), of the package
    (`6.12.105-1`), or as `uname -r` prints it. `-backports` and `-proposed-updates` of the suite
    are searched too."""


class UserlandSource(_Part):
    """The packages of busybox and dropbear; their libraries follow as dependencies."""

    suite: SuiteName
    packages: Annotated[tuple[PackageName, ...], Field(min_length=1)]


class ImageDefinition(_Part):
    """One guest image."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    title: str
    default: StrictBool = False
    """Whether to use this image if none is named."""
    kernel: KernelSource
    userland: UserlandSource
    modules: Annotated[tuple[ModuleName, ...], Field(min_length=1)]
    """Modules the guest needs, built in or loadable; each kernel's own dependencies are added."""
    on_demand: tuple[ModuleName, ...] = ()
    """Modules for `modprobe`, not loaded at boot; those that the kernel lacks are left out."""


def load_definitions(directory: Path = IMAGES_DIR) -> dict[str, ImageDefinition]:
    """Load every definition, by name. Raises one `ScenarioFileError` with all mistakes."""
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


def pinned(definition: ImageDefinition, version: str) -> ImageDefinition:
    """Return the image with another build of its kernel, named `NAME=VERSION`.

    Raises `UsageError` if that cannot be a version.
    """
    try:
        kernel = KernelSource.model_validate(
            {**definition.kernel.model_dump(), "version": version}, strict=True
        )
    except ValidationError as error:
        raise UsageError(
            f"--image {definition.name}={version}: {version!r} is not the version of a kernel",
            hint="give it like 6.12.105, 6.12.105-1 or 6.12.105+deb13-cloud-amd64",
        ) from error
    return definition.model_copy(
        update={
            "name": f"{definition.name}={version}",
            "title": f"kernel {version} of {kernel.suite}",
            "default": False,
            "kernel": kernel,
        }
    )


def of_suite(definition: ImageDefinition, suite: str) -> ImageDefinition:
    """Return the image with the newest kernel of another suite, and named after it.

    Raises `UsageError` if that cannot be a suite.
    """
    try:
        kernel = KernelSource(suite=suite, package=definition.kernel.package)
    except ValidationError as error:
        raise UsageError(
            f"--image: {suite!r} is neither an image nor the name of a suite",
            hint="`fpr-harness image list` names the images",
        ) from error
    return definition.model_copy(update={"name": suite, "default": False, "kernel": kernel})
