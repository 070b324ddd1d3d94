"""The Python interface is the command line's: the same arguments, the same runs, errors as exceptions."""

from __future__ import annotations

import json
import subprocess
import sys
from inspect import signature
from pathlib import Path

import pytest
import tomli_w

import fercore
from fercore import api, cli
from fercore.cli.mirror import mirrors
from fercore.engine.observer import Observer
from fercore.errors import UserInputError


@pytest.fixture
def tiny_file(tiny, tmp_path) -> Path:
    (tmp_path / "tiny.toml").write_text(tomli_w.dumps({**tiny, "train": {**tiny["train"], "steps": 2}}))
    return tmp_path / "tiny.toml"


def test_a_run_from_python_is_the_run_of_the_command_line(tiny_file, tmp_path, monkeypatch, capsys):
    heard = []

    class Ear(Observer):
        def message(self, text: str) -> None:
            heard.append(text)

    run = fercore.train(
        "source_only",
        config=tiny_file,
        set={"optim.lr": 0.25},
        seed=4,
        out=tmp_path / "py",
        observe=lambda label: Ear(),
    )
    assert heard[0] == "preset demo: the data are synthetic faces"
    assert heard[-1] == f"preset demo | 2 steps | out {tmp_path / 'py'}"
    assert not any("hook chain" in line for line in heard)
    arguments = ["run", "-p", "source_only", "--config", str(tiny_file), "--set", "optim.lr=0.25", "--seed", "4"]
    monkeypatch.setattr(sys, "argv", ["fercore", *arguments, "--out", str(tmp_path / "cli")])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert all(" ".join(line.split()) in printed for line in heard[:-1])
    assert printed.endswith(f"next: fercore predict {tmp_path / 'cli/model'} DIR")
    other = fercore.open_run(str(tmp_path / "cli"))
    assert run.finished
    assert run.result.target == other.result.target
    assert run.config == other.config
    assert run.config.optim.lr == 0.25
    assert json.loads((tmp_path / "py/result.json").read_text()) == run.result.to_json()
    assert run.load().classes == tuple(run.result.target.classes)


@pytest.mark.slow
def test_a_run_is_resumed_and_made_longer(tiny_file, tmp_path):
    longer = {"optim.schedule": "constant", "optim.warmup_steps": 0}
    fercore.train("source_only", config=tiny_file, set=longer, out=tmp_path / "run")
    with pytest.raises(UserInputError, match="that run is finished"):
        fercore.train(resume=tmp_path / "run")
    with pytest.raises(UserInputError, match="--resume goes with no other setting"):
        fercore.train(resume=tmp_path / "run", seed=0)
    run = fercore.train(resume=tmp_path / "run", set={"train.steps": 3})
    assert (run.path, run.result.steps) == (tmp_path / "run", 3)
    assert run.load().record.evaluation.step == 3


def test_a_description_trains_nothing(tiny_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = fercore.describe("source_only", config=tiny_file)
    assert any("G MACs per image" in line for line in lines)
    assert list(tmp_path.iterdir()) == [tiny_file]


@pytest.mark.slow
def test_a_comparison_is_what_its_file_holds(tiny_file, tmp_path):
    found = fercore.compare(
        ["source_only", "low:source_only optim.lr=0.001"], seeds=[0, 1], config=tiny_file, out=tmp_path
    )
    assert json.loads((tmp_path / "compare.json").read_text()) == found.to_json()
    assert [row.label for row in found.rows] == ["source_only", "low"]
    one, other = (row.accuracy.by_seed for row in found.rows)
    assert found.rows[1].accuracy.difference.by_seed == [b - a for a, b in zip(one, other, strict=True)]
    assert found.table()[1][0][0] == "source_only"
    assert fercore.open_run(tmp_path / "low-s1").result.target.accuracy == other[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (fercore.train, "no plugin named"),
        (lambda: fercore.train("source_onyl"), "unknown plugin 'source_onyl'.*did you mean 'source_only'"),
        (lambda: fercore.train("source_only", set={"optim.lrr": 1}), "unknown setting 'optim.lrr'"),
        (lambda: fercore.train("source_only", source="folder:x"), "--target is missing"),
        (lambda: fercore.compare("source_only", seeds=(1, 1)), "a seed is given twice"),
        (lambda: fercore.open_run("nowhere"), r"no run in this folder \(nowhere\)"),
        (lambda: fercore.load("nowhere"), r"model not found \(nowhere\)"),
    ],
)
def test_wrong_input_is_the_line_of_the_command(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(fercore.UserInputError, match=message):
        call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "function", "of_python", "of_the_command_line"),
    [
        ("run", api.train, {"observe"}, {"dry_run"}),
        ("run", api.describe, {"observe"}, {"dry_run", "resume", "with_reference"}),
        ("compare", api.compare, {"observe"}, {"choose"}),
        ("predict", api.predict, {"tell", "each", "progress"}, {"executor", "address", "num_cpus", "num_gpus"}),
        ("evaluate", api.evaluate, {"progress"}, {"out"}),
        ("verdict", api.verdict, set(), {"json_"}),
        ("ask", api.ask, {"models"}, {"reference", "adapted"}),
    ],
)
def test_no_argument_is_missing_on_the_command_line(command, function, of_python, of_the_command_line):
    commands = {info.callback.__name__: signature(info.callback).parameters for info in cli.app.registered_commands}
    assert commands[command].keys() - of_the_command_line == signature(function).parameters.keys() - of_python


def test_an_option_that_the_function_does_not_take_is_an_error():
    with pytest.raises(TypeError, match="load does not take size"):
        mirrors(api.load, {"path": str, "size": int})


def test_the_interface_is_what_it_lists():
    assert set(fercore.__all__) == set(api.__all__) == set(dir(fercore)) - {"__version__"}
    assert all(getattr(fercore, name) is getattr(api, name) for name in fercore.__all__)
    with pytest.raises(AttributeError, match="module 'fercore' has no attribute 'nothing'"):
        _ = fercore.nothing
    text = (Path(__file__).parents[1] / "docs/architecture.md").read_text(encoding="utf-8")
    assert all(f"`{name}" in text for name in fercore.__all__)
    assert fercore.plugins()["source_only"].distribution == "fercore"


def test_listing_plugins_and_opening_a_folder_import_no_torch(tmp_path):
    code = "import sys, fercore; fercore.plugins(); fercore.train, fercore.compare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
