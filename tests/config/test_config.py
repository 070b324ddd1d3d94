from __future__ import annotations

import pytest
from pydantic import Field, model_validator

from fercore.config import (
    RunConfig,
    Settings,
    build_config,
    check_settings,
    dotted_names,
    merge,
    parse_assignment,
    read_toml,
)
from fercore.errors import UserInputError


def test_later_layers_win_and_tables_merge():
    config = build_config([{"data": {"size": 48, "workers": 1}}, {"data": {"size": 96}}], [])
    assert (config.data.size, config.data.workers) == (96, 1)


def test_an_empty_table_empties():
    assert merge({"a": {"b": {"c": 1}, "d": 2}}, {"a": {"b": {}}}) == {"a": {"b": {}, "d": 2}}


def test_merge_leaves_its_inputs_alone():
    base = {"a": {"b": 1}}
    assert merge(base, {"a": {"c": 2}}) == {"a": {"b": 1, "c": 2}}
    assert base == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data.size=48", {"data": {"size": 48}}),
        ("la.beta=0.5", {"la": {"beta": 0.5}}),
        ("la.on=true", {"la": {"on": True}}),
        ("data.target=folder:/x y", {"data": {"target": "folder:/x y"}}),
        ('data.classes=["anger","fear"]', {"data": {"classes": ["anger", "fear"]}}),
        ("model.weights=a=b", {"model": {"weights": "a=b"}}),
    ],
)
def test_assignments(text, expected):
    assert parse_assignment(text) == expected


@pytest.mark.parametrize("text", ["data.size", "=3", "data..size=3"])
def test_unreadable_assignments(text):
    with pytest.raises(UserInputError, match="--set section.key=value"):
        parse_assignment(text)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("data.sizes=48", "unknown setting 'data.sizes'.*did you mean 'data.size'"),
        ("dat.size=48", "unknown setting 'dat'; did you mean 'data'"),
        ("data.size=big", "setting data.size = 'big'.*valid integer"),
        ("data.size=3", "setting data.size = 3.*greater than or equal to 16"),
        ("optim.name=rmsprop", "setting optim.name = 'rmsprop'.*'sgd', 'adam' or 'adamw'"),
        ("la_cmfr.beta=1", "unknown setting 'la_cmfr'; did you mean 'la_cmfer'"),
    ],
)
def test_a_wrong_setting_names_the_nearest(assignment, message):
    with pytest.raises(UserInputError, match=message) as caught:
        build_config([parse_assignment(assignment)], ["la_cmfer"])
    assert "\n" not in str(caught.value)


def test_plugin_tables_move_under_plugins():
    config = build_config([{"la_cmfer": {"beta": 1}}, {"plugins": {"la_cmfer": {"gamma": 2}}}], ["la_cmfer"])
    assert config.plugins == {"la_cmfer": {"beta": 1, "gamma": 2}}


def test_a_table_of_an_absent_plugin_is_refused():
    with pytest.raises(UserInputError, match="'pocan', which is not in this run"):
        build_config([{"plugins": {"pocan": {}}}], ["la_cmfer"])


def test_nested_names_are_suggested_in_full():
    class Inner(Settings):
        form: str = "abs"

    class Outer(Settings):
        mcc: Inner = Inner()

    assert dotted_names(Outer) == ["mcc.form"]
    with pytest.raises(UserInputError, match=r"unknown setting 'x.mcc.from'.*did you mean 'x.mcc.form'"):
        check_settings(Outer, {"mcc": {"from": 1}}, prefix="x")


def test_an_alias_is_what_is_suggested():
    class Weights(Settings):
        lambda_: float = Field(0.02, alias="lambda")

    assert dotted_names(Weights) == ["lambda"]
    assert check_settings(Weights, {"lambda": 0.5}, prefix="x").lambda_ == 0.5


def test_a_whole_table_is_not_read_back_to_the_user():
    class Pair(Settings):
        low: int = 0

        @model_validator(mode="after")
        def _never(self):
            raise ValueError("low must be high")

    with pytest.raises(UserInputError, match=r"^setting x: value error, low must be high \(--set or --config\)$"):
        check_settings(Pair, {"low": 3}, prefix="x")


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().seed = 3  # type: ignore[misc]


def test_toml_errors_name_file_and_line(tmp_path):
    with pytest.raises(UserInputError, match=r"settings file not found .*nowhere\.toml"):
        read_toml(tmp_path / "nowhere.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("[data]\nsize = = 3\n")
    with pytest.raises(UserInputError, match=r"not valid TOML.*line 2.*bad\.toml"):
        read_toml(bad)
    bad.write_bytes(b"\xff\xfe")
    with pytest.raises(UserInputError, match="cannot read settings file"):
        read_toml(bad)
