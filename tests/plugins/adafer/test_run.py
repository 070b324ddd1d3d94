"""Whole runs on tiny generated faces: exact resume with mined triplets, label quality, baselines, switches."""

from __future__ import annotations

import ast
import csv
import json
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from fercore_adafer.report import unit_shares
from PIL import Image

import fercore
from fercore.engine.run import run
from fercore.export.targets import export_model
from fercore.models import PseudoLabelRecord
from fercore.synthfer import SynthFER

pytestmark = pytest.mark.slow

ONE_SOURCE = {"data": {"sources": ["synthfer:studio?n=84"], "au": "synthfer"}}


def tensors(tree, prefix=""):
    if isinstance(tree, torch.Tensor):
        yield prefix, tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from tensors(value, f"{prefix}/{key}")
    elif isinstance(tree, list | tuple):
        for number, value in enumerate(tree):
            yield from tensors(value, f"{prefix}/{number}")


def log_of(folder, kind):
    return [entry for line in (folder / "metrics.jsonl").open() if (entry := json.loads(line))["kind"] == kind]


@pytest.mark.parametrize(
    ("settings", "stop"),
    [({}, 7), ({"agt": {"resample": "once"}, "gamma": {"mode": "learnable"}, "source_pretrain_epochs": 1}, 6)],
    ids=["epoch", "once"],
)
def test_a_run_resumes_to_the_bit_with_its_triplets(settings, stop, tmp_path, make_context, listener, weights_of):
    layers = (ONE_SOURCE, {"train": {"steps": 8, "steps_per_epoch": 4, "checkpoint_every": 1}, "adafer": settings})
    whole = run(make_context("adafer", layers=layers), tmp_path / "whole", listener())
    with pytest.raises(KeyboardInterrupt):
        run(make_context("adafer", layers=layers), tmp_path / "cut", listener(stop_after=stop))
    resumed = run(make_context("adafer", layers=layers), tmp_path / "cut", listener(), resume=True)
    one, two = (dict(tensors(weights_of(tmp_path / name))) for name in ("whole", "cut"))
    assert one.keys() == two.keys()
    assert [key for key in one if not torch.equal(one[key], two[key])] == []
    mined = [tensor for key, tensor in one.items() if key.endswith("triplets_source")]
    assert mined
    assert mined[0].shape[1] > 5
    assert resumed.target == whole.target
    assert resumed.pseudo_labels == whole.pseudo_labels
    steps = [[entry["terms"] for entry in log_of(tmp_path / name, "step")] for name in ("whole", "cut")]
    assert steps[0] == steps[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    from fercore.engine.observer import Observer
    from fercore.engine.setup import build_context
    from fercore.hooks.assemble import assemble
    from tests.conftest import TINY

    folder = tmp_path_factory.mktemp("runs") / "run"
    context = build_context(assemble(["adafer"], [TINY, {"data": {"target": "synthfer:wild?n=224&seed=2"}}]))
    return context, folder, run(context, folder, Observer())


def test_the_evaluator_scores_the_pseudo_labels(finished):
    context, _, record = finished
    assert set(record.pseudo_labels) == {f"adafer/labels_{name}" for name in ("s_hard", "t_hard", "t_soft")}
    faces = SynthFER("wild", n=224, seed=2)
    truth = faces.labels[context.domains.adaptation.rows]
    for name, quality in record.pseudo_labels.items():
        part = context.model.parts[name]
        assert isinstance(part, PseudoLabelRecord)
        given = part.weight.numpy() > 0
        right = part.probs.numpy().argmax(1) == truth
        assert 0.2 < quality.coverage == pytest.approx(given.mean())
        assert quality.accuracy == pytest.approx(right[given].mean())
        assert quality.accuracy > 0.6  # 1/7 by chance
        assert quality.probability == pytest.approx(part.probs.numpy()[given, truth[given]].mean())
        assert quality.uses_target_labels
        anger = quality.per_class["anger"]
        assert anger.coverage == pytest.approx(given[truth == 0].mean())


def test_unit_shares_by_class_and_domain(finished):
    _, folder, _ = finished
    found = json.loads((folder / "au.json").read_text())
    assert found["uses_target_labels"]
    assert [(row["side"], row["name"]) for row in found["domains"]] == [
        ("source", "studio"), ("source", "web"), ("target", "wild"),
    ]  # fmt: skip
    faces = SynthFER("studio", n=84)
    happy = faces.au_scores[faces.labels == 3] >= 0.5
    np.testing.assert_allclose(found["domains"][0]["shares"]["happiness"], happy.mean(0), atol=1e-6)
    smile = found["units"].index("AU12")
    assert all(row["shares"]["happiness"][smile] > 0.6 > row["shares"]["anger"][smile] for row in found["domains"])


def test_unit_shares_by_hand():
    codes, labels = np.array([[1, 0], [1, 1], [0, 0]], dtype=np.uint8), np.array([0, 0, -1])
    found = unit_shares(codes, labels, ("anger", "fear", "neutral"))
    assert found == {"anger": [1.0, 0.5], "fear": None, "neutral": None}


def test_the_log_tells_what_was_mined(finished):
    _, folder, _ = finished
    first, second = log_of(folder, "refresh")
    assert 0 < first["adafer/coverage"] < 1
    for side, n in (("source", 168), ("target", 112)):
        assert first[f"adafer/{side}_triplets"] + first[f"adafer/{side}_without_positive"] == n
    assert second["epoch"] == 1
    assert set(log_of(folder, "step")[0]["terms"]) == {
        f"adafer/{name}" for name in ("supervised", "s_hard", "t_soft", "triplet")
    }


def test_baseline_2_answers_by_code(tmp_path, make_context, listener):
    layers = (ONE_SOURCE, {"adafer": {"baseline": "au_lookup"}})
    context = make_context("adafer", layers=layers)
    record = run(context, tmp_path / "run", listener())
    table, test = context.domains.sources[0], context.domains.test
    prior = np.bincount(table.labels, minlength=7) / len(table)
    right = 0
    for code, label in zip(test.extras["au_code"], test.labels, strict=True):
        same = table.labels[(table.extras["au_code"] == code).all(axis=1)]
        votes = np.bincount(same, minlength=7) if len(same) else prior
        right += votes.argmax() == label
    assert record.target.accuracy == pytest.approx(right / len(test))
    assert record.pseudo_labels["adafer/labels_au_lookup"].coverage < 1


@pytest.mark.parametrize("baseline", ["hard_labels", "soft_labels", "joint"])
def test_baselines_3_to_5_train_and_fine_tune(baseline, tmp_path, make_context, listener):
    layers = (ONE_SOURCE, {"adafer": {"baseline": baseline, "finetune_steps": 3}, "train": {"steps": 4}})
    context = make_context("adafer", layers=layers)
    record = run(context, tmp_path / "run", listener())
    assert record.steps == 7
    assert record.pseudo_labels["adafer/labels_predicted"].coverage == 1
    term = "t_hard" if baseline == "hard_labels" else "t_soft"
    names = [set(entry["terms"]) for entry in log_of(tmp_path / "run", "step")]
    assert names == [{"adafer/supervised"}] * 4 + [{f"adafer/{term}"}] * 3


def test_a_batch_that_does_not_divide_among_the_sources_runs(tmp_path, make_context, listener):
    data = {"sources": ["synthfer:studio?n=84", "synthfer:web?n=84&seed=1"], "au": "synthfer", "source_batch": 15}
    record = run(make_context("adafer", layers=({"data": data, "train": {"steps": 2}},)), tmp_path / "run", listener())
    terms = log_of(tmp_path / "run", "step")[-1]["terms"]
    assert record.target.n > 0
    assert "adafer/triplet" in terms


def test_a_target_smaller_than_a_batch_of_triplets_runs(tmp_path, make_context, listener):
    small = {"data": {"target": "synthfer:wild?n=28&seed=2", "target_batch": 40, "source_batch": 40}}
    context = make_context("adafer", layers=(ONE_SOURCE, small))
    record = run(context, tmp_path / "run", listener())
    assert len(context.domains.adaptation) == record.target.n == 14
    assert sum(context.model.parts["adafer/state"].shares) == 26


@pytest.mark.parametrize(("baseline", "missing"), [("joint", "au"), ("au_lookup", "au, au_code")])
def test_a_baseline_that_reads_action_units_predicts_with_those_it_is_given(
    baseline, missing, tmp_path, make_context, listener
):
    context = make_context("adafer", layers=(ONE_SOURCE, {"adafer": {"baseline": baseline}, "train": {"steps": 2}}))
    run(context, tmp_path / "run", listener())
    model, test = fercore.load(tmp_path / "run", device="cpu"), context.domains.test
    images = list(test.read_many(range(len(test))))
    with pytest.raises(fercore.UserInputError, match=f"the model predicts from {missing} beside the image"):
        model.predict(images)
    evaluated = context.evaluator.predict(context.reported, test, model.record.evaluation.clock)
    assert np.array_equal(model.predict(images, extras=test.extras).probs, evaluated.probs)

    with (tmp_path / "run/predictions.csv").open(encoding="utf-8") as file:
        written = {row["image"]: [float(row[name]) for name in model.classes] for row in csv.DictReader(file)}
    rows = []
    fercore.predict(tmp_path / "run", str(context.config.data.target), device="cpu", each=rows.append)
    assert {row.input for row in rows} >= written.keys()
    assert max(np.abs(np.subtract(row.probs, written[row.input])).max() for row in rows if row.input in written) < 1e-5

    names = [tmp_path / f"faces/{i:03}.png" for i in range(len(test))]
    (tmp_path / "faces").mkdir()
    table = ["path," + ",".join(model.units)]
    for name, pixels, scores in zip(names, images, test.extras["au"], strict=True):
        Image.fromarray(pixels).save(name)
        table.append(f"faces/{name.name}," + ",".join(f"{score:.9f}" for score in scores))
    (tmp_path / "units.csv").write_text("\n".join(table[:-1]), encoding="utf-8")
    with pytest.raises(fercore.UserInputError, match=r"the model predicts from action units .*: AU01, AU02.*--au"):
        fercore.predict(tmp_path / "run", str(tmp_path / "faces"), device="cpu")
    told, rows = [], []
    units = tmp_path / "units.csv"
    fercore.predict(
        tmp_path / "run", str(tmp_path / "faces"), au=units, device="cpu", each=rows.append, tell=told.append
    )
    assert "1 of 56 pictures have no row" in told[0]
    said = np.array([row.probs for row in rows])
    assert np.abs(said - evaluated.probs)[:-1].max() < 1e-5
    assert np.array_equal(model.predict(names, extras=model.action_units(names, units)).probs, said)
    scores = fercore.evaluate(tmp_path / "run", str(context.config.data.target), device="cpu", replicates=10)
    assert scores.n == 112

    exported = export_model(tmp_path / "run", tmp_path / "model.onnx", to="onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    feed = {"input": np.stack([model.fit(image) for image in images]).astype(np.float32) / 255}
    feed |= {name: test.extras[name] for name in missing.split(", ")}
    assert [one.name for one in session.get_inputs()] == list(feed)
    assert np.abs(session.run(["output"], feed)[0] - evaluated.probs).max() < 1e-5
    assert len(set(evaluated.probs.argmax(axis=1))) > 1
    shown = json.dumps(test.extras["au"][0].tolist())
    alone = "import sys; sys.modules['fercore'] = None\n" + "\n".join(exported.usage)
    words = [sys.executable, "-I", "-c", alone, names[0], shown]
    printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert np.abs(np.array(list(ast.literal_eval(printed).values())) - evaluated.probs[0]).max() < 1e-5
