"""`fercore.adapt` end to end on tiny runs: what is shipped, what is written, and that a kill changes nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

import fercore
from fercore import api
from fercore.adaptation import plan, ship
from fercore.adaptation.state import read_record, read_state
from fercore.errors import UserInputError
from fercore.evaluation.verdict import Verdict
from fercore.experiments.cells import run_cell
from fercore.writing import WriteError

DATA = {"source": ["synthfer:studio?n=140"], "target": "synthfer:wild?n=80&seed=3"}
SET = {"data.size": 32, "data.source_batch": 16, "data.target_batch": 16, "train.threads": 1}
GIVEN = {**DATA, "preset": "demo", "set": SET, "method": ["adabn", "mcc"], "report_faces": False}
SHORT = """
import fercore
from fercore import api
from fercore.adaptation import plan
plan.MOST_SOURCE = plan.LEAST_SOURCE = 12
plan.MOST_STEPS = plan.LEAST_STEPS = 4
"""


@pytest.fixture(scope="module", autouse=True)
def short():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"MOST_SOURCE": 12, "LEAST_SOURCE": 12, "MOST_STEPS": 4, "LEAST_STEPS": 4}.items():
            patch.setattr(plan, name, value)
        yield


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, short):
    out = tmp_path_factory.mktemp("adapt") / "out"
    lines = []
    return fercore.adapt(**GIVEN, budget="2h", out=out, tell=lines.append), lines


@pytest.fixture
def copy(adapted, tmp_path):
    return shutil.copytree(adapted[0].path, tmp_path / "out")


@pytest.mark.slow
def test_a_model_is_shipped_with_all_that_goes_with_it(adapted):
    done, lines = adapted
    record = done.record
    assert [row.label for row in record.tried if row.plugins] == ["no_adaptation", "source_only", "adabn", "mcc"]
    assert record.adapted == (record.shipped not in ("no_adaptation", "source_only"))
    assert set(record.files) == {"model", "onnx", "report"}
    assert done.report is not None
    assert done.verdict is not None
    assert done.verdict.n == record.n_target == 40
    answers = done.model.predict([np.zeros((32, 32, 3), np.uint8)])
    assert abs(answers.probs.sum() - 1) < 1e-5
    assert done.model.record.plugins[0].name == "no_adaptation"  # calibrated, and nothing trained after the choice
    head, rows = done.table()
    assert len(rows) == 4
    assert all(len(row) == len(head) for row in rows)
    assert any("source model: 12 steps" in line for line in lines)


@pytest.fixture
def unwritten(monkeypatch):
    """Leave out ONNX file and report, which are most of what a choice costs."""
    monkeypatch.setattr(ship, "write_files", lambda *_, **__: ({"model": "model"}, []))


@pytest.mark.slow
def test_the_same_call_again_trains_nothing(copy, unwritten):
    before = {path: path.stat().st_mtime_ns for path in copy.glob("runs/**/result.json")}
    record = fercore.adapt(**GIVEN, budget="2h", out=copy).record
    assert before == {path: path.stat().st_mtime_ns for path in copy.glob("runs/**/result.json")}
    assert record.shipped == read_record(copy).shipped


@pytest.mark.slow
def test_another_request_in_the_same_folder_is_refused(copy):
    with pytest.raises(UserInputError, match="asked for otherwise: seed"):
        fercore.adapt(**GIVEN, budget="2h", out=copy, seed=1)
    with pytest.raises(UserInputError, match="not empty"):
        (copy / "adapt.json").unlink()
        fercore.adapt(**GIVEN, budget="2h", out=copy)


@pytest.mark.slow
@pytest.mark.parametrize(("word", "shipped"), [("helped", True), ("unclear", False), ("hurt", False)])
def test_the_verdict_decides(copy, monkeypatch, unwritten, word, shipped):
    monkeypatch.setattr(ship, "judge", lambda *_, **__: Verdict(word, 0.1, (0.0, 0.2), 40, 9, {}))
    asked = []
    monkeypatch.setattr(ship, "ask", lambda models, out, n: asked.append((models, n)))
    record = fercore.adapt(**GIVEN, budget="2h", out=copy, ask=5).record
    assert record.adapted is shipped
    assert (record.shipped in ("adabn", "mcc")) is shipped
    assert bool(asked) == bool(record.asked) == (word == "unclear")


@pytest.mark.slow
def test_a_method_that_fails_is_dropped(copy, monkeypatch, tmp_path):
    state = read_state(copy)
    broken = "fercore.adaptation.race.run_cell"
    shutil.rmtree(copy / "runs" / "last" / "mcc")
    monkeypatch.setattr(broken, _fails)
    record = fercore.adapt(**GIVEN, budget="2h", out=copy).record
    row = next(row for row in record.tried if row.label == "mcc")
    assert row.fate == "dropped"
    assert "out of memory" in row.why
    assert state.plan == read_state(copy).plan


def _fails(cell, observe):
    if cell.entry.label == "mcc":
        raise RuntimeError("out of memory")
    return run_cell(cell, observe)


@pytest.mark.slow
def test_a_full_disk_ends_it(copy, monkeypatch):
    shutil.rmtree(copy / "runs" / "last" / "mcc")
    monkeypatch.setattr("fercore.adaptation.race.run_cell", _full)
    with pytest.raises(WriteError, match="no space"):
        fercore.adapt(**GIVEN, budget="2h", out=copy)
    assert read_state(copy).dropped == {}


def _full(cell, observe):
    raise WriteError("no space left on device", where=str(cell.folder))


@pytest.mark.slow
def test_when_the_time_is_over_runs_end_as_they_stand(copy, unwritten):
    for name in ("last/source_only", "last/mcc"):
        shutil.rmtree(copy / "runs" / name)
    # What calibration and report need is kept from training: of two hours and a bit, with nothing but that left.
    (copy / "spent.json").write_text(json.dumps({"seconds": 7200.0}))
    done = fercore.adapt(**GIVEN, budget="7300s", out=copy)
    rows = {row.label: row for row in done.record.tried}
    assert (rows["source_only"].steps, rows["source_only"].planned) == (1, 4)
    assert rows["mcc"].fate == "dropped"
    assert "no time left for it" in rows["mcc"].why
    assert rows["adabn"].fate in ("finalist", "shipped")
    assert "1 of 4" in [text[2] for text in done.table()[1]]
    assert done.model.record.plugins[0].name == "no_adaptation"


@pytest.mark.slow
def test_methods_are_timed_within_a_quarter_of_the_budget(tmp_path):
    given = {name: value for name, value in GIVEN.items() if name != "report_faces"}
    lines = []
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "spent.json").write_text(json.dumps({"seconds": 1900.0}))
    api.plan(**given, budget="2h", out=tmp_path / "out", tell=lines.append)
    state = read_state(tmp_path / "out")
    assert state.plan.left == {"adabn": "no time to try it", "mcc": "no time to try it"}
    assert set(state.timing) == {"source_only", "no_adaptation"}
    assert "  left out: mcc: no time to try it" in lines


@pytest.mark.slow
def test_methods_that_train_at_a_time_come_to_the_same(adapted, copy, unwritten):
    for name in ("last/adabn", "last/mcc"):
        shutil.rmtree(copy / "runs" / name)
    record = fercore.adapt(**GIVEN, budget="2h", out=copy, jobs=2).record
    assert record.shipped == adapted[0].record.shipped
    for name in ("adabn", "mcc"):
        both = [path / f"runs/last/{name}/model/model.safetensors" for path in (adapted[0].path, copy)]
        assert both[0].read_bytes() == both[1].read_bytes()


@pytest.mark.slow
def test_a_killed_adaptation_goes_on_to_the_same_bits(adapted, tmp_path, unwritten):
    done, out = adapted[0], tmp_path / "killed"
    script = f"{SHORT}\nif __name__ == '__main__':\n    fercore.adapt(**{GIVEN!r}, budget='2h', out={str(out)!r})\n"
    (tmp_path / "script.py").write_text(script)
    process = subprocess.Popen([sys.executable, tmp_path / "script.py"], cwd=tmp_path)
    until = time.monotonic() + 300
    while not (out / "runs" / "source_model" / "result.json").is_file() and time.monotonic() < until:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    plan_before = read_state(out).plan
    again = fercore.adapt(**GIVEN, budget="2h", out=out)
    assert read_state(out).plan == plan_before
    assert again.record.shipped == done.record.shipped
    model = "model/model.safetensors"
    assert (out / model).read_bytes() == (done.path / model).read_bytes()


@pytest.mark.slow
def test_a_model_without_a_source_is_adapted_too(adapted, tmp_path):
    source = adapted[0].path / "model"
    given = {**GIVEN, "source": (), "init": source, "method": ["adabn"]}
    record = fercore.adapt(**given, budget="2h", out=tmp_path / "out").record
    assert [row.label for row in record.tried if row.plugins] == ["no_adaptation", "adabn"]
    assert record.beyond_training is None
    assert record.verdict is not None


def test_what_cannot_be_done_is_said_before_anything_is_trained(tmp_path):
    with pytest.raises(UserInputError, match="neither a source nor a model"):
        fercore.adapt("synthfer:wild?n=80", out=tmp_path / "a")
    with pytest.raises(UserInputError, match="cannot read a time"):
        fercore.adapt(**{**GIVEN, "budget": "soon"}, out=tmp_path / "b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserInputError, match="no usable sample"):
        fercore.adapt(**{**GIVEN, "target": str(tmp_path / "empty")}, budget="1h", out=tmp_path / "d")
    with pytest.raises(UserInputError, match="FORMAT:PATH"):
        fercore.adapt(**{**GIVEN, "target": str(tmp_path / "nowhere")}, budget="1h", out=tmp_path / "d")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine.txt").write_text("mine")
    with pytest.raises(UserInputError, match="not empty"):
        fercore.adapt(**GIVEN, budget="1h", out=tmp_path / "c")
    assert [path.name for path in (tmp_path / "c").iterdir() if "lock" not in path.name] == ["mine.txt"]
