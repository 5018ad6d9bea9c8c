# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of scenario files: it takes what the loader takes, and refuses only mistakes."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from harness.act.discover import VERBS
from harness.errors import ScenarioFileError
from harness.resources import SCENARIOS_DIR
from harness.scenario.load import load_scenarios
from harness.scenario.model import Guest
from harness.scenario.schema import scenario_schema

SCHEMA = scenario_schema(VERBS)
VALIDATOR = Draft202012Validator(SCHEMA)
PLAIN = {"name": "x", "title": "t", "steps": [{"settle": {}}]}


def test_it_is_a_schema_itself() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", sorted(SCENARIOS_DIR.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_projects_scenarios_follow_it(path: Path) -> None:
    VALIDATOR.validate(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "more",
    [
        {"steps": [{"chrun": {"size": "50%"}}]},
        {"steps": [{"churn": {}}]},
        {"steps": [{"churn": None}]},
        {"steps": [{"churn": {"size": "50 per cent"}}]},
        {"steps": [{"churn": {"size": "10%", "free": "some"}}]},
        {"steps": [{"settle": {"dealine": "60s"}}]},
        {"steps": [{"settle": {"deadline": 60}}]},
        {"steps": [{"settle": {}, "audit": {}}]},
        {"steps": [{"repeat": {"times": 2, "steps": []}}]},
        {"steps": [{"repeat": {"times": 2, "steps": [{"repeat": {"times": 1, "steps": []}}]}}]},
        {"steps": []},
        {"guest": {"memory": 1024}},
        {"guest": {"vcpus": 0}},
        {"host": {"backend": "swap"}},
        {"ballon": {}},
        {"expect": {"rounds": 1}},
        {"expect": {"rounds": "at least 1"}},
        {"tags": ["Default"]},
        {"variants": {}},
        {"variants": {"Small": {"guest.memory": "64MiB"}}},
    ],
    ids=str,
)
def test_what_it_refuses_the_loader_refuses_too(more: dict[str, Any], tmp_path: Path) -> None:
    data = PLAIN | more
    assert not VALIDATOR.is_valid(data)
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ScenarioFileError):
        load_scenarios(path, VERBS)


def test_verbs_without_required_fields_may_stand_alone() -> None:
    VALIDATOR.validate(PLAIN | {"steps": [{"settle": None}, {"verify": None}]})


def test_verbs_and_fields_are_described_with_defaults_as_a_file_has_them() -> None:
    definitions = SCHEMA["$defs"]
    assert definitions["Settle"]["description"].startswith("Waits until no reportable memory")
    (fields, _null) = definitions["Settle"]["properties"]["settle"]["anyOf"]
    assert fields["properties"]["deadline"]["default"] == "60s"
    assert definitions["Repeat"]["description"] == "Carries out the inner steps several times."
    assert definitions["Guest"]["properties"]["memory"]["default"] == "1GiB"
    assert definitions["Guest"]["properties"]["vcpus"]["default"] == 2
    assert "default" not in SCHEMA["properties"]["guest"]
    undescribed = [
        name for name, field in SCHEMA["properties"].items() if "description" not in field
    ]
    assert undescribed == []
    assert set(definitions["Guest"]["properties"]) == set(Guest.model_fields)
