# SPDX-License-Identifier: Apache-2.0
"""What a person who wrote a wrong YAML file is told."""

import contextlib
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, StrictBool, StrictInt

from harness.errors import ScenarioFileError
from harness.yamlfile import format_loc, load_model, parse_value


class Wheel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    size: StrictInt
    kind: Literal["summer", "winter"] = "summer"


class Car(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    electric: StrictBool = False
    wheels: tuple[Wheel, ...] = ()


def said(tmp_path: Path, content: str | bytes) -> list[str]:
    """The lines of the error for a file of this content, without the directory."""
    path = tmp_path / "car.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ScenarioFileError) as caught:
        load_model(path, Car)
    return caught.value.message.replace(f"{tmp_path}/", "").splitlines()


def test_a_right_file_is_its_model(tmp_path: Path) -> None:
    path = tmp_path / "car.yaml"
    path.write_text("name: beetle\nwheels:\n  - {size: 15}\n  - size: 16\n    kind: winter\n")
    wheels = (Wheel(size=15), Wheel(size=16, kind="winter"))
    assert load_model(path, Car) == Car(name="beetle", wheels=wheels)


def test_every_mistake_at_once_sorted_by_line(tmp_path: Path) -> None:
    text = """\
colour: red
electric: 1
wheels:
  - size: big
  - kind: wintre
    siez: 15
electric: true
"""
    assert said(tmp_path, text) == [
        "car.yaml:1: name: missing",
        "car.yaml:1: colour: unknown field; fields are: electric, name, wheels",
        "car.yaml:2: electric: must be true or false, not 1",
        "car.yaml:4: wheels[0].size: must be a whole number, not 'big'",
        "car.yaml:5: wheels[1].size: missing",
        "car.yaml:5: wheels[1].kind: 'wintre' is not one of 'summer' or 'winter'; "
        "did you mean 'winter'",
        "car.yaml:6: wheels[1].siez: unknown field; did you mean 'size'; fields are: kind, size",
        "car.yaml:7: electric: given twice; first at line 2",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "car.yaml:1: the file is empty"),
        ("# nothing\n", "car.yaml:1: the file is empty"),
        ("- a\n- b\n", "car.yaml:1: the file must be a mapping (`field: value`) at its top"),
        ("name: x\nwheels: [\n", "car.yaml:3: not YAML: did not find expected node content, "),
        ("name: x\n\tbad: y\n", "car.yaml:2: not YAML: "),
        ("name: x\n---\nname: y\n", "car.yaml:2: not YAML: but found another document"),
        (b"name: x\nabout: \xff\n", "car.yaml:2: not UTF-8 text: byte 0xff"),
        ("name: x\nabout: \x00\n", "car.yaml:2: not YAML: "),
        ("name: &n x\n", "car.yaml:1: anchor `&n` is not allowed; write the value out"),
        ("a: 1\nname: *n\n", "car.yaml:2: alias `*n` is not allowed; write the value out"),
        ("name: x\n<<: {a: 1}\n", "car.yaml:2: merge key `<<` is not allowed"),
        ("name: x\n[a]: y\n", "car.yaml:2: a field's name must be plain text"),
        ("name: x\nwheels: !!int y\n", "car.yaml:2: wheels: 'y' cannot be read as int"),
        ("a: " + "[" * 40, "car.yaml:1: nested more than 20 deep"),
        ("name: " + "x" * 70_000, "car.yaml: the file is larger than 64 KiB"),
    ],
)
def test_what_is_no_usable_file_is_said_with_its_line(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    assert any(line.startswith(message) for line in said(tmp_path, content))


def test_a_billion_laughs_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    text = "a: &a [lol, lol]\n" + "".join(
        f"{new}: &{new} [*{old}, *{old}, *{old}, *{old}]\n"
        for old, new in zip("abcdefghi", "bcdefghij", strict=True)
    )
    assert "car.yaml:1: anchor `&a` is not allowed; write the value out" in said(tmp_path, text)


@pytest.mark.parametrize("path", ["missing.yaml", ".", "/dev/zero"])
def test_what_cannot_be_read_says_why(tmp_path: Path, path: str) -> None:
    with pytest.raises(ScenarioFileError, match="cannot be read: "):
        load_model(tmp_path / path, Car)


def test_a_path_below_the_current_directory_is_shown_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "car.yaml").write_text("name: [x]\n")
    with pytest.raises(ScenarioFileError) as caught:
        load_model(tmp_path / "car.yaml", Car)
    assert caught.value.message == "car.yaml:1: name: must be text, not ['x']"


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300
)
@given(
    st.binary(max_size=80)
    | st.text(alphabet="nameizwhl: -[]{}&*!|>'\"%@#?,\n\t0x1~<._\\", max_size=80).map(str.encode)
    | st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_no_file_raises_anything_else(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "car.yaml"
    path.write_bytes(content)
    with contextlib.suppress(ScenarioFileError):
        load_model(path, Car)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2),
        ("false", False),
        ("50%", "50%"),
        (">= 0.95", ">= 0.95"),
        ("", ""),
        ("2GiB", "2GiB"),
        ('"2"', "2"),
        ("[{memory: 1GiB}]", [{"memory": "1GiB"}]),
    ],
)
def test_a_value_on_the_command_line_means_what_it_means_in_a_file(
    text: str, value: object
) -> None:
    assert parse_value(text) == value


def test_a_place_is_written_as_people_write_it() -> None:
    assert format_loc(("steps", 2, "churn", "size")) == "steps[2].churn.size"
