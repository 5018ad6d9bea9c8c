# SPDX-License-Identifier: Apache-2.0
"""The definitions of QEMU builds that can be fetched: the files `guest-images/qemu/*.yaml`."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from harness.errors import ScenarioFileError
from harness.image.definition import PackageName, SuiteName
from harness.resources import IMAGES_DIR
from harness.yamlfile import load_model

ALL, HOST = "all", "host"
"""Words that `--qemu` reserves: every definition; the QEMU installed on the host."""


class QemuDefinition(BaseModel):
    """One build of QEMU, from one suite of Debian's archive."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    title: str
    suite: SuiteName
    package: PackageName
    """Its libraries, firmware and loader follow as dependencies."""


def load_qemus(directory: Path = IMAGES_DIR / "qemu") -> dict[str, QemuDefinition]:
    """Load every definition, by name. Raises one `ScenarioFileError` with all mistakes."""
    definitions: dict[str, QemuDefinition] = {}
    mistakes: list[str] = []
    for path in sorted(directory.glob("*.yaml")):
        try:
            definition = load_model(path, QemuDefinition)
        except ScenarioFileError as error:
            mistakes.append(str(error))
            continue
        if definition.name != path.stem:
            mistakes.append(f"{path}: name: {definition.name!r} must be the file's name")
        elif definition.name in (ALL, HOST):
            mistakes.append(f"{path}: name: {definition.name!r} is a reserved word of --qemu")
        definitions[definition.name] = definition
    if mistakes:
        raise ScenarioFileError("\n".join(mistakes))
    return definitions
