"""Class shares of new images, by what a model says of held-out source."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import fercore
from fercore.data.spec import parse_spec
from fercore.decisions.judging import judge
from fercore.engine.model_record import HELD_OUT, read_held_out
from fercore.engine.run import run
from fercore.errors import UserInputError
from fercore.evaluation.label_shift import em, named_estimates
from fercore.prediction.class_shares import class_shares

NEW = "synthfer:wild?n=60&seed=5"
UNDONE = {"predict": {"calibrate": True, "prior": "uniform"}}


@pytest.fixture(scope="module")
def runs(make_context, tmp_path_factory, listener):
    """The same run as it is, calibrated, and without held-out source."""
    root, held = tmp_path_factory.mktemp("runs"), {"data": {"source_validation": 0.3}}
    for name, layers in {"plain": (held,), "calibrated": (held, UNDONE), "none": ()}.items():
        run(make_context("source_only", layers=layers), root / name, listener())
    return root


def test_the_model_carries_what_it_says_of_held_out_source(runs):
    probs, labels = read_held_out(runs / "plain/model", 7)
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)
    again, same = read_held_out(runs / "calibrated/model", 7)
    np.testing.assert_array_equal(labels, same)
    np.testing.assert_array_equal(probs, again)  # the network's own, though its answers are calibrated
    assert read_held_out(runs / "none/model", 7) is None


def test_shares_of_images_are_those_of_the_estimators(runs):
    model = fercore.load(runs / "plain", device="cpu")
    answers = np.random.default_rng(0).dirichlet(np.ones(7), 50)
    found = class_shares(model, answers)
    wanted = named_estimates(model.classes, answers, *model.held_out, seed=0)
    assert found.keys() == wanted.keys() >= {"em"}
    for name in model.classes:
        assert found["em"][name].share == pytest.approx(wanted["em"][name].share, abs=1e-6)
        assert found["em"][name].low <= found["em"][name].share <= found["em"][name].high
    assert class_shares(model, answers[:19]) is None
    assert class_shares(fercore.load(runs / "none", device="cpu"), answers) is None


def test_calibrated_answers_give_the_shares_of_the_network_itself(runs):
    plain, calibrated = (fercore.load(runs / name, device="cpu") for name in ("plain", "calibrated"))
    images = [image for image in np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), dtype=np.uint8)]
    answers = [model.predict(images).probs for model in (plain, calibrated)]
    assert np.abs(answers[0] - answers[1]).max() > 1e-3
    one, two = (class_shares(m, a) for m, a in zip((plain, calibrated), answers, strict=True))
    for name in plain.classes:
        assert one["em"][name].share == pytest.approx(two["em"][name].share, abs=1e-4)


@pytest.mark.slow
def test_predict_prints_shares_and_keeps_them_beside_the_table(runs, tmp_path):
    summary = fercore.predict(runs / "plain", NEW, out=tmp_path / "a.csv", device="cpu")
    told = json.loads((tmp_path / "a.csv.json").read_text())["estimated_shares"]["em"]
    assert sum(share["share"] for share in told.values()) == pytest.approx(1)
    line = next(line for line in summary.lines() if line.startswith("class shares of the target by em: anger "))
    assert f"{told['anger']['share']:.0%} ({told['anger']['low']:.0%}-{told['anger']['high']:.0%})" in line
    mirrored = fercore.predict(runs / "plain", NEW, tta="flip", device="cpu")
    assert mirrored.estimated_shares is None  # means of two answers are none that held-out source has
    assert "estimated_shares" not in fercore.predict(runs / "none", NEW, device="cpu").to_json()


@pytest.mark.slow
def test_a_verdict_on_a_dataset_says_its_shares(runs, tmp_path):
    other = shutil.copytree(runs / "plain", tmp_path / "other")
    weights = load_file(other / "model/model.safetensors")
    name = next(name for name in weights if name.startswith("heads.") and name.endswith("weight"))
    save_file({**weights, name: weights[name][::-1].copy()}, other / "model/model.safetensors")
    (other / "model/SHA256SUMS").unlink()
    judged = judge(runs / "plain", other, target=parse_spec(NEW), device="cpu")
    model = fercore.load(runs / "plain", device="cpu")
    answers = fercore.predict(runs / "plain", NEW, device="cpu")
    assert judged.estimated_shares["em"].keys() == set(model.classes)
    for name, share in judged.estimated_shares["em"].items():
        assert share.share == pytest.approx(answers.estimated_shares["em"][name].share, abs=1e-4)
    assert judged.to_json()["estimated_shares"]["em"].keys() == set(model.classes)


@pytest.mark.parametrize("change", [{"labels": 9}, {"labels": -1}, {"probs": np.nan}, {"probs": "short"}])
def test_a_damaged_file_of_held_out_source_is_one_line(runs, tmp_path, change):
    folder = shutil.copytree(runs / "plain/model", tmp_path / "model")
    arrays = load_file(folder / HELD_OUT)
    for name, value in change.items():
        arrays[name] = arrays[name][1:] if value == "short" else np.full_like(arrays[name], value)
    save_file(arrays, folder / HELD_OUT)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(UserInputError, match=r"held_out\.safetensors does not fit model\.json"):
        fercore.load(folder, device="cpu")


def test_em_by_hand_of_what_is_stored(runs):
    probs, labels = read_held_out(runs / "plain/model", 7)
    assert em(probs, probs) == pytest.approx(probs.mean(axis=0), abs=1e-6)  # no shift on the source itself
    assert len(labels) == len(probs)
