"""`fercore predict --adapt`: answers, then adapts; its state goes on to the same bits; an alarm falls back."""

from __future__ import annotations

import json

import numpy as np
import pytest

import fercore
from fercore.errors import UserInputError
from fercore.evaluation.collapse import Watch
from fercore.prediction import adapting
from fercore.stopping import Interrupted

BATCH = {"data.target_batch": 4}


@pytest.fixture(scope="module")
def pictures(trained):
    return str(trained / "gone/wild")


@pytest.fixture
def probabilities(trained, pictures):
    """Predict on the pictures, and return f[N,K]."""

    def ask(**how):
        rows = []
        fercore.predict(trained / "run", how.pop("inputs", pictures), each=rows.append, device="cpu", **how)
        return np.array([row.probs for row in rows])

    return ask


def test_a_method_that_moves_nothing_gives_the_model_s_own_answers(probabilities):
    still = {"adabn.alpha": 0.0, "adabn.momentum": 0.0}
    np.testing.assert_allclose(probabilities(adapt="adabn", set=still), probabilities(), atol=1e-6)


def test_every_batch_is_answered_before_the_model_adapts_to_it(probabilities):
    running = {"tent.statistics": "running", "optim.lr": 0.1, **BATCH}
    plain, adapted = probabilities(), probabilities(adapt="tent", set=running)
    np.testing.assert_allclose(adapted[:4], plain[:4], atol=1e-6)
    assert np.abs(adapted[4:] - plain[4:]).max() > 1e-3
    again = probabilities(adapt="tent", set=running, reset_every=4)
    np.testing.assert_allclose(again, plain, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("save_every", [1, 1000])
def test_a_table_that_was_cut_goes_on_to_the_same_bytes(trained, pictures, tmp_path, monkeypatch, save_every):
    monkeypatch.setattr(adapting, "SAVE_EVERY", save_every)
    how = {"adapt": "rotta", "set": {"rotta.memory": 8, **BATCH}, "device": "cpu"}
    fercore.predict(trained / "run", pictures, out=tmp_path / "whole.csv", state=tmp_path / "one", **how)
    seen = []

    def stop(row):
        seen.append(row)
        if len(seen) == 22:
            raise KeyboardInterrupt

    cut = {"out": tmp_path / "cut.csv", "state": tmp_path / "two", **how}
    with pytest.raises(Interrupted):
        fercore.predict(trained / "run", pictures, each=stop, **cut)
    rows = len((tmp_path / "cut.csv").read_text().splitlines()) - 1
    assert 0 < rows < 84
    fercore.predict(trained / "run", pictures, resume=True, **cut)
    assert (tmp_path / "cut.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    beside = json.loads((tmp_path / "cut.csv.json").read_text())
    assert (beside["frames"], beside["adapt"]["method"]) == (84, "rotta")
    assert beside["adapted"] == {"resets": {}, "alarms": [], "stopped_at": None}


@pytest.mark.slow
def test_a_later_call_takes_up_the_state(probabilities, trained, pictures, tmp_path):
    how = {"adapt": "tent", "set": {"tent.statistics": "running", "optim.lr": 0.05, **BATCH}}
    files = sorted(str(path) for path in (trained / "gone/wild").rglob("*.png"))
    whole = probabilities(inputs=files, **how)
    first = probabilities(inputs=files[:40], state=tmp_path / "state", **how)
    second = probabilities(inputs=files[40:], state=tmp_path / "state", **how)
    assert np.array_equal(np.concatenate([first, second]), whole)
    with pytest.raises(UserInputError, match=r"saved with other settings: optim.lr 0.05 -> 0.1"):
        probabilities(state=tmp_path / "state", adapt="tent", set={**how["set"], "optim.lr": 0.1})


def test_an_alarm_is_told_and_the_initial_model_answers_from_there_on(probabilities, monkeypatch):
    monkeypatch.setattr(Watch, "alarm", lambda watch: "collapsed" if len(watch.initial) >= 18 else "")
    told = []
    how = {"tent.statistics": "running", "optim.lr": 0.1, **BATCH}
    adapted, plain = probabilities(adapt="tent", set=how, tell=told.append), probabilities()
    assert any(line.startswith("alarm after 20 images: collapsed; the initial model predicts") for line in told)
    np.testing.assert_allclose(adapted[20:], plain[20:], atol=1e-6)
    assert np.abs(adapted[4:20] - plain[4:20]).max() > 1e-3


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"adapt": "tent", "set": {"data.target_batch": 1}}, "a batch of one"),
        ({"adapt": "tent", "tta": "flip"}, "mirror images are not for a model that adapts"),
        ({"adapt": "mcc"}, "'mcc'"),
        ({"adapt": "tent", "resume": True, "out": "{tmp}/a.csv"}, "goes on from its state, and none was kept"),
        ({"reset_every": 3}, "settings of a model that adapts"),
        ({"adapt": "tent", "set": {"tent.nothing": 1}}, "unknown setting 'tent.nothing'"),
    ],
)
def test_wrong_input_is_told_in_a_line(trained, pictures, tmp_path, how, words):
    how = {key: value.format(tmp=tmp_path) if isinstance(value, str) else value for key, value in how.items()}
    with pytest.raises(UserInputError) as caught:
        fercore.predict(trained / "run", pictures, device="cpu", **how)
    assert words in str(caught.value)
