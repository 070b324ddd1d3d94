"""Settings and records of other hands: read with a known shape and depth, or refused in one short line."""

from __future__ import annotations

import random
import sys
import tomllib

import pytest

from fercore.cli import main
from fercore.config import (
    RunConfig,
    Settings,
    build_config,
    dotted_names,
    merge,
    parse_assignment,
    read_toml,
)
from fercore.documents import MOST_DEPTH, parse_json, parse_toml, refuse_deep
from fercore.errors import UserInputError

DEEP = 20_000


@pytest.mark.parametrize(
    "text",
    [
        "data.classes=" + "[" * DEEP,
        "data.classes=" + "[" * DEEP + "]" * DEEP,
        "data.classes=" + "[" * 200 + "]" * 200,
        "data.classes=" + "{a=" * 100 + "1" + "}" * 100,
        "a." * 2000 + "b=1",
        "a={" + "'a' . " * 2000 + "b=1}",
    ],
)
def test_deep_settings_are_refused_in_one_line(tmp_path, text):
    with pytest.raises(UserInputError, match="nested too deep .*--set .*32 levels") as caught:
        parse_assignment(text)
    assert len(str(caught.value)) < 300
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(UserInputError, match="nested too deep"):
        read_toml(tmp_path / "c.toml")


@pytest.mark.parametrize(
    "text", ["[" * DEEP, "[" * DEEP + "]" * DEEP, "[" * 33 + "]" * 33, '{"a":' * 500 + "1" + "}" * 500]
)
def test_deep_json_is_refused_in_one_line(text):
    with pytest.raises(UserInputError, match=r"nested too deep \(f.json\)"):
        parse_json(text, where="f.json")


def test_what_is_as_deep_as_may_be_is_read():
    text = "[" * (MOST_DEPTH - 1) + "]" * (MOST_DEPTH - 1)
    assert str(parse_json(text, where="f")) == text
    refuse_deep({"a": [({"b": 1},)]}, where="f")
    with pytest.raises(ValueError, match="Expecting value"):
        parse_json("x", where="f")
    with pytest.raises(tomllib.TOMLDecodeError):
        parse_toml("a = " + "9" * 5000, where="f")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("data.sources=5", "setting data.sources = 5: input should be a valid tuple"),
        ("data.std=[1,0,1]", "setting data.std.1 = 0: input should be greater than 0"),
        ("data.std=0", "setting data.std = 0"),
        ("data.mean=[0,0,nan]", "setting data.mean.2 = nan: input should be a finite number"),
        ("optim.lr=inf", "setting optim.lr = inf: input should be a finite number"),
        ("train.steps=1000000000000", "setting train.steps = .*less than or equal to 1000000000"),
        ("data=3", r"setting data = 3: input should be a valid dictionary \(--set"),
        ("optim=x", r"setting optim = 'x': input should be a valid dictionary \(--set"),
    ],
)
def test_values_that_no_run_can_use(assignment, message):
    with pytest.raises(UserInputError, match=message):
        build_config([parse_assignment(assignment)], [])


@pytest.mark.parametrize("value", [3, "x", [1], True])
def test_a_value_that_a_later_table_would_hide_is_refused(value):
    with pytest.raises(UserInputError, match=r"setting data = .* is no table; write data.key=value"):
        build_config([{"data": value}, {"data": {"size": 48}}], [])
    with pytest.raises(UserInputError, match=r"setting x.mcc = .* is no table; write x.mcc.key=value"):
        merge({"x": {"mcc": value}}, {"x": {"mcc": {"form": "abs"}}})
    assert merge({"a": 1}, {"a": 2}) == {"a": 2}
    assert merge({"a": {"b": 1}}, {"a": 2}) == {"a": 2}


def test_a_very_long_name_leaves_a_line_short():
    error = UserInputError(f"no {'x' * 5000} here", where="y" * 5000)
    assert len(str(error)) < 500
    assert error.where == "y" * 5000
    assert f"/{'d' * 400}" in str(UserInputError("x", where=f"/{'d' * 400}"))


NAME = "x" * 5000


@pytest.mark.filterwarnings("ignore:.*imghdr:DeprecationWarning")  # of a face detector's module
@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "-p", "source_only", "--out", NAME],
        ["run", "-p", "source_only", "--config", NAME],
        ["run", "--resume", NAME],
        ["run", "-p", NAME],
        ["run", "-p", "source_only", "--source", f"folder:{NAME}", "--target", f"folder:{NAME}"],
        ["data", "check", f"manifest:{NAME}"],
        ["data", "convert", "synthfer:wild?n=14", "--out", NAME],
        ["data", "split", "synthfer:wild?n=14", "--out", NAME],
        ["data", "prepare", "synthfer:wild?n=14", "--out", NAME],
        ["data", "synthfer", "wild", "--out", NAME, "--n", "7"],
        ["au", "train", "--out", f"{NAME}.safetensors"],
        ["clip", "warmup", "--out", f"{NAME}.safetensors"],
    ],
    ids=lambda a: " ".join(part[:12] for part in a),
)
def test_a_name_of_5000_letters_is_one_line(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fercore", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    line = capsys.readouterr().err
    assert ended.value.code == 2
    assert line.startswith("fercore: error: ")
    assert line.count("\n") == 1
    assert len(line) < 1500
    assert not list(tmp_path.iterdir())


# Any value for any setting

VALUES = (
    0, -1, 1, 5, 0.5, -0.5, 1e400, float("nan"), 10**30, True, False, "", "x", "none", [], [1], ["x"], [[]], [0, 0, 0],
    {}, {"x": 1}, {"x": {"y": []}}, [{}], "\x1b[2J", "x" * 3000, "synthfer:wild", ["synthfer:wild"], "é\0", [None],
)  # fmt: skip


class Inner(Settings):
    form: str = "abs"
    rate: float = 0.5


class Own(Settings):
    mcc: Inner = Inner()
    weights: tuple[float, ...] = ()


def any_settings(dice: random.Random) -> dict:
    names = [
        *dotted_names(RunConfig),
        "own.mcc",
        "own.mcc.form",
        "own.weights",
        "data",
        "model",
        "plugins",
        "odd",
        "data.odd",
    ]
    tree: dict = {}
    for _ in range(dice.choice((1, 1, 2, 4))):
        name, value = dice.choice(names), dice.choice(VALUES)
        layer: dict = {}
        inner = layer
        *path, last = name.split(".")
        for part in path:
            inner[part] = inner = {}
        inner[last] = value
        tree = merge(tree, layer)
    return tree


def check_any_settings(seeds: range) -> int:
    refused = []
    for seed in seeds:
        dice = random.Random(seed)
        try:
            config = build_config([any_settings(dice), any_settings(dice)], ["own"])
            config.model_dump(mode="json")
            Own.model_validate(config.plugins.get("own", {}))
        except UserInputError as error:
            refused.append(str(error))
        except ValueError:  # of `Own`, which `check_settings` would have put in words
            refused.append("")
    assert not any("\n" in line or len(line) > 2000 for line in refused)
    return len(refused)


def test_any_value_for_any_setting():
    assert check_any_settings(range(500)) > 200


@pytest.mark.soak
def test_any_value_for_any_setting_for_long():
    assert check_any_settings(range(20_000)) > 8000
