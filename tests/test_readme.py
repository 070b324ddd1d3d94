"""The README's code blocks run: ```bash blocks line by line, ```python blocks as modules."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from fercore.cli import main

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BASH = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines() if line.strip()]
FIRST, *PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
"""The first block trains and predicts; the others are plugins."""


def test_there_is_something_to_run():
    assert len(BASH) >= 5
    assert PYTHON


@pytest.mark.slow
@pytest.mark.parametrize("line", BASH)
def test_a_command_runs(line, tmp_path, monkeypatch):
    words = shlex.split(line)
    assert words[0] == "fercore"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        main()
        raise SystemExit(0)
    assert not end.value.code


@pytest.mark.slow
def test_the_first_lines_train_load_and_predict(tmp_path, monkeypatch, capsys):
    from PIL import Image

    assert README.index(FIRST) < README.index("\n## ")
    (tmp_path / "faces/inner").mkdir(parents=True)
    for name in ("inner/b.png", "a.png"):
        Image.new("RGB", (70, 60)).save(tmp_path / "faces" / name)
    monkeypatch.chdir(tmp_path)
    small = FIRST.replace('steps": 20', 'steps": 2, "data.size": 32, "data.workers": 0')
    exec(compile(small, "README.md", "exec"), {})
    first, *lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"accuracy 0\.\d{3} on \d+ images of synthfer:\S+", first)
    found = [re.fullmatch(r"(\S+): [a-z]+ \((0\.\d\d|1\.00)\)", line) for line in lines]
    assert [Path(match[1]).name for match in found if match] == ["a.png", "b.png"]


@pytest.mark.slow
def test_the_whole_way_from_a_run_to_something_used(tmp_path, monkeypatch, capsys):
    from PIL import Image

    *commands, last = re.search(r"```sh\n(.*?)```", README, re.S)[1].splitlines()
    assert len(commands) == 4
    for name in ("faces/images/fear/0.png", "faces/images/anger/1.png"):  # as `fercore data synthfer` writes them
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (70, 60)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for line in commands:
        words = shlex.split(line.replace("steps=20", "steps=2 --set data.size=32"))
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            main()
            raise SystemExit(0)
        assert not end.value.code, line
    assert {"answers.csv", "model.onnx"} <= {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "runs/way/report.html").stat().st_size > 10_000
    capsys.readouterr()
    python, option, code = shlex.split(last)
    assert (python, option) == ("python", "-c")
    exec(compile(code, "README.md", "exec"), {})
    row = (tmp_path / "answers.csv").read_text().splitlines()[1].split(",")
    assert row[3] in capsys.readouterr().out


@pytest.mark.parametrize("block", PYTHON)
def test_a_module_is_accepted(block):
    from fercore.hooks import Plugin
    from fercore.hooks.checks import check_class

    names: dict = {}
    exec(compile(block, "README.md", "exec"), names)
    plugins = [v for v in names.values() if isinstance(v, type) and issubclass(v, Plugin) and v is not Plugin]
    assert plugins
    for plugin in plugins:
        check_class(plugin, "readme")


def test_the_example_minimises_the_entropy_of_the_target(monkeypatch, tmp_path, make_context, listener):
    from fercore.engine.run import run
    from fercore.hooks import assemble, discovery

    names: dict = {}
    exec(compile(PYTHON[0], "README.md", "exec"), names)
    info = discovery.PluginInfo("entropy", "readme:Entropy", "readme", "1", "")
    load = discovery.load_class
    monkeypatch.setattr(assemble, "installed_plugins", lambda: {**discovery.installed_plugins(), "entropy": info})
    monkeypatch.setattr(assemble, "load_class", lambda found: names["Entropy"] if found is info else load(found))
    layer = {"train": {"steps": 3}}
    context = make_context("source_only", "entropy", layers=(layer,))
    seen: list = []
    predictions = context.plugins.loss

    def watched(model, batch, encoded, pseudo, clock):
        seen.append(encoded[("target", "weak")].logits["main"].detach().clone())
        return predictions(model, batch, encoded, pseudo, clock)

    monkeypatch.setattr(context.plugins, "loss", watched)
    watcher = listener()
    run(context, tmp_path / "run", watcher)
    p = [logits.double().softmax(1).numpy() for logits in seen]
    for report, probs in zip(watcher.reports, p, strict=True):
        assert report.terms["entropy/main"] == pytest.approx(-0.1 * (probs * np.log(probs)).sum(1).mean(), abs=1e-5)
        assert report.total == pytest.approx(sum(report.terms.values()), abs=1e-5)
        assert set(report.terms) == {"source_only/cross_entropy", "entropy/main"}


def test_every_plugin_is_listed():
    for path in (Path(__file__).parents[1] / "plugins").glob("*/pyproject.toml"):
        assert f"`{path.parent.name}`" in README
