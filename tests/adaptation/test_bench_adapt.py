"""bench.adapt: the figures of a pair, and pairs on which adapting must not be believed."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from bench import adapt as bench
from fercore.adaptation import plan
from fercore.errors import UserInputError

SETTINGS = ["data.size=32", "data.source_batch=16", "data.target_batch=16", "train.threads=1"]


def test_scores_by_labels():
    truth = ["anger", "anger", "anger", "fear"]
    assert bench.scores_of(["anger", "anger", "fear", "anger"], truth) == {"accuracy": 0.5, "balanced_accuracy": 0.3333}


def test_class_shares_fall_from_ten_to_one(tmp_path):
    bench.write_shifted(tmp_path, 700)
    counts = [len(list(folder.iterdir())) for folder in tmp_path.iterdir()]
    assert max(counts) >= 9 * min(counts)
    assert len(counts) == 7


def test_images_that_show_no_face_are_of_four_kinds(tmp_path):
    bench.write_patterns(tmp_path, 8)
    assert {path.parent.name for path in tmp_path.glob("*/*.png")} == set(bench.PATTERNS)


def test_the_row_that_is_blind_to_shares_is_one_more():
    assert [row.label for row in bench.with_blind()][-1] == bench.BLIND_LABEL


def test_worst_cases_are_over_all_pairs(tmp_path):
    for name, gain, over in (("a", 0.02, -0.1), ("b", -0.01, 0.03)):
        scores = {"pick": 0.5 + gain, "source_model": 0.5, "best_candidate": 0.53, "gain": gain}
        (tmp_path / f"{name}.json").write_text(json.dumps({"pair": name, "over_budget": over, "accuracy": scores}))
    found = bench.table(tmp_path)
    assert (found["mean_gain"], found["worst_gain"]) == (0.005, -0.01)
    assert (found["most_behind_best"], found["most_over_budget"]) == (0.04, 0.03)


def test_no_pair_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["adapt", str(tmp_path), "--source", "synthfer:studio"])
    with pytest.raises(UserInputError, match="no pair"):
        bench.main()


@pytest.mark.slow
def test_a_pair_is_scored_after_it_is_shipped(tmp_path, monkeypatch):
    for name, value in {"MOST_SOURCE": 12, "LEAST_SOURCE": 12, "MOST_STEPS": 4, "LEAST_STEPS": 4}.items():
        monkeypatch.setattr(plan, name, value)
    words = ["adapt", str(tmp_path), "--pair", "mine", "--source", "synthfer:studio?n=140", "--preset", "demo"]
    words += ["--target", "synthfer:wild?n=80&seed=3", "--test", "synthfer:wild?n=60&seed=4", "--budget", "2h"]
    monkeypatch.setattr(sys, "argv", [*words, "--method", "adabn", "--set", *SETTINGS])
    bench.main()
    found = json.loads((tmp_path / "mine.json").read_text())
    assert set(found["scores"]) == {"no_adaptation", "source_only", "adabn"}
    assert found["accuracy"]["pick"] == found["scores"][found["pick"]]["accuracy"]
    assert found["over_budget"] < 0
    assert found["memory_mb"] > 0
    assert found["verdict"] in ("helped", "hurt", "unclear", None)
    assert np.isclose(found["accuracy"]["gain"], found["accuracy"]["pick"] - found["accuracy"]["source_model"])
