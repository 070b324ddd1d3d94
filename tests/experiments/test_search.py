"""A search: its space within the settings' bounds, trials that a stop repeats not, what is cut, and what it writes."""

from __future__ import annotations

import csv
import io
import tomllib
from types import SimpleNamespace

import pytest

from fercore.errors import UserInputError
from fercore.experiments import search as search_module
from fercore.experiments import search_space
from fercore.experiments.search import Pruned, Search, Watched
from fercore.experiments.search_file import Dimension
from fercore.experiments.search_space import grid_of, plan_search
from fercore.experiments.search_table import ORACLE_COLUMN, search_notes
from fercore.experiments.search_trials import JOURNAL, open_journal, search_package
from fercore.experiments.study import Study
from fercore.experiments.study_file import check_study
from fercore.runs.folder import RunFolder

FILE = {
    "preset": "demo",
    "seeds": [0],
    "settings": {"train": {"steps": 4, "threads": 1}, "data": {"size": 32}},
    "methods": ["la_cmfer"],
    "pairs": [{"name": "to web", "source": ["synthfer:studio?n=100"], "target": "synthfer:web?n=120"}],
    "search": {
        "objective": "entropy",
        "trials": 2,
        "space": {"la_cmfer.gamma": {"low": 0.01, "high": 1.0, "log": True}, "la_cmfer.consistency": ["mcc", "kl"]},
    },
}


def searching(**keys):
    return {**FILE, "search": {**FILE["search"], **keys}}


def searched(study, executor):
    search = Search(study)
    search.run(executor=executor)
    return search


def planned(tmp_path, **keys):
    search = Search(Study(searching(**keys), tmp_path))
    return plan_search(search.study.cell(search.row, *search.anywhere).cell, search.file)


def test_ends_that_are_not_given_are_the_settings_own(tmp_path):
    space = {
        "la_cmfer.eps": {},
        "la_cmfer.consistency": {},
        "la_cmfer": {"hardness": {"enabled": {}}, "alpha": {"low": 0.1, "high": 0.4}},
        "la_cmfer.align.num_kernels": {},
        "optim.lr": {"high": 0.1, "low": 0.001, "log": True},
        "model.dropout": {},
    }
    axes = {axis.name: axis for axis in planned(tmp_path, space=space).axes}
    assert (axes["la_cmfer.eps"].low, axes["la_cmfer.eps"].high) == (0, 1)
    assert axes["la_cmfer.consistency"].values == ("mcc", "kl", "l1", "mse", "none")
    assert axes["la_cmfer.hardness.enabled"].values == (False, True)
    assert (axes["la_cmfer.alpha"].low, axes["la_cmfer.alpha"].high) == (0.1, 0.4)
    assert axes["la_cmfer.align.num_kernels"].points() == list(range(1, 17))
    assert 0.999 < axes["model.dropout"].high < 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"space": {"la_cmfer.beta": {}}}, "la_cmfer.beta (number at least 0) has no bound of its own at the high end"),
        ({"space": {"la_cmfer.beta": {"low": -1, "high": 1}}}, "la_cmfer.beta = -1.0 cannot be tried"),
        ({"space": {"la_cmfer.betta": {}}}, "unknown setting 'la_cmfer.betta'"),
        ({"space": {"la_cmfer.consistency": ["mcc", "kll"]}}, "la_cmfer.consistency = 'kll' cannot be tried"),
        ({"space": {"la_cmfer.eps": {"log": True}}}, "has no bound of its own at the low end"),
        ({"space": {"model.backbone": {}}}, "model.backbone is text, which has no bounds of its own"),
        ({"objective": "ensemble"}, "compares models with each other"),
        ({"objective": "source_accuracy"}, "needs source that is held out"),
        ({"objective": "entropie"}, "unknown score 'entropie'"),
    ],
)
def test_a_space_outside_the_settings_bounds_is_refused(keys, message, tmp_path):
    with pytest.raises(UserInputError) as caught:
        planned(tmp_path, **keys)
    assert message in str(caught.value)


TOML = """
methods = ["source_only"]
[[pairs]]
name = "p"
source = ["synthfer:studio"]
target = "synthfer:web"
[search]
objective = "entropy"
trials = 3
[search.space]
optim.lr = { low = 0.1, high = 1 }
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("high = 1 ", "hihg = 1 ", "unknown key 'search.space.optim.lr.hihg' (study:11); did you mean 'high'?"),
        ("high = 1 ", "high = 0.01 ", "search.space.optim.lr: low must be below high (study:11)"),
        ("trials = 3", "trails = 3", "unknown key 'search.trails' (study:9); did you mean 'trials'?"),
        ("trials = 3\n", "", "search: a search without an end (study:7); give trials or hours"),
        ("optim.lr", "data.target", "data.target says what is scored"),
        ('"source_only"', '"source_only", "dan"', "[search] has several methods to choose from"),
    ],
)
def test_what_is_wrong_with_the_table_is_told_with_its_line(old, new, message):
    text = TOML.replace(old, new)
    with pytest.raises(UserInputError) as caught:
        check_study(tomllib.loads(text), text, "study")
    assert message in str(caught.value)


def test_a_row_that_takes_no_part_is_refused():
    keys = {**searching(method="b"), "methods": ["a: source_only", {"method": "dan", "label": "b", "from": "a"}, "cmd"]}
    with pytest.raises(UserInputError, match="cmd takes no part in \\[search\\]"):
        check_study(keys, "", "study")
    study = Study(
        {**keys, "methods": keys["methods"][:2], "search": {**keys["search"], "space": {"dan.weight": [1]}}}, "x"
    )
    assert [cell.method for cell in study.cells] == ["a"]  # the trials run b
    started = Study({**FILE, "pretrain_source": 7}, "x")
    assert (started.file.searched.name, [cell.method for cell in started.cells]) == ("la_cmfer", ["source"])


def test_a_grid_has_every_combination_and_a_range_without_steps_none():
    axis = search_space.Axis
    axes = [axis("a", ("x", "y")), axis("b", (), 0.1, 0.4, step=0.1), axis("c", (), 1, 2, whole=True)]
    grid = grid_of(axes)
    assert len(grid) == 2 * 4 * 2
    assert grid[0] == {"a": "x", "b": 0.1, "c": 1}
    assert grid[-1]["b"] == pytest.approx(0.4)
    with pytest.raises(UserInputError, match="a range without steps"):
        axis("d", (), 0.0, 1.0).points()


class Told:
    """Runs nothing: every run's score is worked out from its settings, and a run may be killed or fail."""

    def __init__(self, monkeypatch, stop_after=None, fail=()):
        self.begun, self.stop_after, self.fail = [], stop_after, fail
        monkeypatch.setattr(search_module, "apart", lambda calls: [call() for _, call in calls].__iter__())
        monkeypatch.setattr(search_module, "check_cells", lambda *_, **__: None)
        monkeypatch.setattr(search_module, "run_cell", lambda cell, observe: cell)
        monkeypatch.setattr(search_module, "score_of", self.score)
        monkeypatch.setattr(RunFolder, "finished", property(lambda folder: folder.path in self.scores))
        result = SimpleNamespace(train_seconds=2.0, target=SimpleNamespace(score=lambda metric: 0.5))
        monkeypatch.setattr(RunFolder, "result", lambda folder: result)
        self.scores = {}

    def score(self, run, objective, metric):
        return self.scores[run.path]

    def observing(self, observe):
        return observe

    def run(self, calls):
        for number, call in enumerate(calls):
            cell = call.make()
            self.begun.append(cell)
            if self.stop_after is not None and len(self.begun) > self.stop_after:
                raise KeyboardInterrupt
            if number in self.fail:
                yield number, ValueError("no luck")
                continue
            gamma = cell.layers[-3]["la_cmfer"]["gamma"]
            self.scores[cell.folder] = -abs(gamma - 0.1)
            yield number, None


def labels(told):
    return [cell.label for cell in told.begun]


@pytest.mark.slow
def test_a_search_that_was_killed_draws_what_it_would_have_drawn(tmp_path, monkeypatch):
    whole = Told(monkeypatch)
    study = Study(searching(trials=8, startup=3), tmp_path / "whole")
    wanted = searched(study, whole)
    first = Told(monkeypatch, stop_after=4)
    with pytest.raises(KeyboardInterrupt, match="goes on"):
        searched(Study(searching(trials=8, startup=3), tmp_path / "killed"), first)
    with (tmp_path / "killed" / JOURNAL).open("a") as journal:
        journal.write('{"half a li')  # as a kill may leave it
    second = Told(monkeypatch)
    second.scores = first.scores
    search = searched(Study(searching(trials=8, startup=3), tmp_path / "killed"), second)
    assert [t.settings for t in search.trials()] == [t.settings for t in wanted.trials()]
    assert [t.score for t in search.trials()] == [t.score for t in wanted.trials()]
    # The run in which it was killed alone is begun again.
    assert labels(first)[:4] + labels(second) == labels(whole)
    assert search.best == max(search.trials(), key=lambda trial: trial.score)
    again = Told(monkeypatch)
    searched(Study(searching(trials=8, startup=3), tmp_path / "killed"), again)
    assert again.begun == []
    with pytest.raises(UserInputError, match="folder holds a search with other seeds, search"):
        searched(Study({**searching(trials=8), "seeds": [1]}, tmp_path / "killed"), again)


def test_a_grid_is_gone_through_once_and_failures_end_no_other(tmp_path, monkeypatch):
    space = {"la_cmfer.gamma": [0.1, 0.5, 1.0], "la_cmfer.consistency": ["mcc", "kl"]}
    told = Told(monkeypatch, fail=(2,))
    search = searched(Study(searching(sampler="grid", trials=None, space=space, oracle=True), tmp_path), told)
    trials = search.trials()
    assert len({tuple(trial.settings.values()) for trial in trials}) == len(trials) == 6
    assert [trial.state for trial in trials].count("failed") == 1
    assert trials[2].reason == "ValueError: no luck"
    assert search.best.settings["la_cmfer.gamma"] == 0.1
    text = (tmp_path / "best.toml").read_text()
    assert tomllib.loads(text)["la_cmfer"]["gamma"] == 0.1
    assert "# best entropy: 0.000000, mean over 1 pair and 1 seed" in text
    records = list(csv.DictReader(io.StringIO((tmp_path / "trials.csv").read_text())))
    assert records[0][ORACLE_COLUMN] == "0.5"
    assert {record["uses_target_labels"] for record in records} == {"False"}
    assert any(
        "regret 0.0 points of accuracy" in line and "uses target labels" in line for line in search_notes(search)
    )


def test_an_oracle_is_flagged_wherever_it_shows(tmp_path, monkeypatch):
    search = searched(Study(searching(objective="oracle"), tmp_path), Told(monkeypatch))
    assert "CHOSEN ON LABELS OF THE TARGET" in (tmp_path / "best.toml").read_text()
    assert "oracle,-" in (tmp_path / "trials.csv").read_text()
    assert "True" in (tmp_path / "trials.csv").read_text()
    assert any("judged by labels" in line for line in search_notes(search))
    from fercore.reporting.search_page import search_page_html

    page = search_page_html(search)
    assert "chosen on target test labels" in page
    assert "Importance" in page
    assert "<script" not in page


def test_a_run_that_most_others_beat_is_cut(tmp_path):
    optuna, file = search_package(), Study(searching(startup=2), tmp_path).file.search
    journal = tmp_path / JOURNAL
    study = open_journal(journal, optuna, file)

    def watched():
        trial, silent = study.ask(), SimpleNamespace(begin=print, selected=print)
        one = Watched(lambda label: silent, journal, file, trial._trial_id, "accuracy", "x")
        one.begin(0, 20)
        return trial, one

    for score in (-0.1, -0.2):
        trial, one = watched()
        one.selected({"entropy": score}, 10)
        one.selected({"entropy": score}, 20)
        study.tell(trial, score)
    trial, one = watched()
    one.selected({"entropy": -0.11}, 10)
    trial, one = watched()
    with pytest.raises(Pruned, match="after 10 steps"):
        one.selected({"entropy": -0.9}, 10)
    trial, one = watched()
    one.selected({"entropy": -0.9}, 20)  # nothing is left to save


def test_a_setting_is_drawn_within_its_dimension(tmp_path):
    optuna = search_package()
    study = optuna.create_study()
    axes = [
        search_space.Axis("a", (), 1, 9, step=4, whole=True),
        search_space.Axis("b", (), 0.001, 1, log=True),
        search_space.Axis("c", (True, "x")),
    ]
    for _ in range(20):
        trial = study.ask()
        assert axes[0].suggest(trial) in (1, 5, 9)
        assert 0.001 <= axes[1].suggest(trial) <= 1
        assert axes[2].suggest(trial) in (True, "x")


def test_without_optuna_it_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(UserInputError, match="a search needs the package optuna"):
        Search(Study(FILE, tmp_path))


def test_values_exclude_ends():
    with pytest.raises(ValueError, match="give values, or low and high"):
        Dimension(values=(1, 2), low=0)


@pytest.mark.slow
def test_a_search_end_to_end_writes_settings_that_a_run_takes(tmp_path, fercore):
    (tmp_path / "s.toml").write_text(
        'preset = "demo"\nseeds = [0]\nmethods = ["source_only", { method = "dan", from = "source_only" }]\n'
        "[settings]\ntrain = { steps = 3, threads = 1 }\ndata = { size = 32 }\n"
        '[[pairs]]\nname = "to web"\nsource = ["synthfer:studio?n=100"]\ntarget = "synthfer:web?n=120"\n'
        '[search]\nmethod = "dan"\nobjective = "information_maximisation"\ntrials = 2\noracle = true\n'
        '[search.space]\n"dan.weight" = { low = 0.1, high = 1.0 }\n'
    )
    out = tmp_path / "out"
    code, told, error = fercore("study", tmp_path / "s.toml", "--out", out)
    assert code == 0, error
    assert "2 trials by tpe: 2 complete" in told
    assert "regret" in told
    trial = RunFolder(out / "trials/0000/to-web/dan-s0")
    assert "source_only-s0" in (trial.path / "config.toml").read_text()
    assert any(line["kind"] == "selection" for line in trial.logged())
    kept = {path: path.stat().st_mtime_ns for path in out.glob("**/result.json")}
    assert len(kept) == 3
    assert fercore("study", out)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("**/result.json")} == kept
    assert "2 complete" in fercore("study", out, "--status")[1]
    assert fercore("table", out, "--format", "csv")[1].count("\n") == 3
    assert fercore("table", out, "--format", "html", "--out", tmp_path / "page.html")[0] == 0
    assert "Settings and score" in (tmp_path / "page.html").read_text()
    assert (out / "trials.parquet").is_file()
    code, told, error = fercore("run", "--plugin", "dan", "--config", out / "best.toml", "--out", tmp_path / "run")
    assert code == 0, error
    weight = tomllib.loads((out / "best.toml").read_text())["dan"]["weight"]
    assert tomllib.loads((tmp_path / "run/config.toml").read_text())["plugins"]["dan"]["weight"] == weight
