"""A reference trained beside a run: source_only with the same data, sampling and steps, and the verdict on both."""

from __future__ import annotations

import pytest

import fercore
from fercore.runs.folder import RunFolder

DATA = {"source": "synthfer:studio?n=70&seed=1", "target": "synthfer:wild?n=80&seed=2", "preset": "demo"}
SMALL = {
    "data.size": 32, "data.source_batch": 14, "data.target_batch": 14, "train.threads": 1,
    "model.backbone_args.resnet18.channels": [8, 8, 8, 8], "report.tensorboard": False, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    out = tmp_path_factory.mktemp("pair") / "adapted"
    settings = {**SMALL, "data.class_balanced": True, "train.steps": 4, "optim.lr": 0.05, "dan.weight": 30.0}
    return fercore.train("dan", **DATA, set=settings, seed=3, out=out, with_reference=True)


@pytest.mark.slow
def test_the_reference_has_the_same_data_sampling_and_steps(pair):
    reference = pair.reference
    assert reference.path == pair.path.with_name("adapted-reference")
    assert reference.result.plugins == ["source_only"]
    assert reference.result.steps == pair.result.steps
    assert reference.config.data == pair.config.data
    assert (reference.config.seed, reference.config.train.steps) == (3, 4)
    prints = [RunFolder(run.path).data_report()["fingerprint"] for run in (pair, reference)]
    assert prints[0] == prints[1]
    assert reference.config.report.reference is None
    assert pair.result.target.reference.plugins == ["source_only"]


@pytest.mark.slow
def test_the_run_gives_the_verdict_against_it(pair):
    judged = pair.verdict()
    assert judged == fercore.verdict(pair.reference.path, pair.path)
    assert judged.n == pair.result.target.n_adaptation
    assert pair.reference.verdict() is None


@pytest.mark.slow
def test_it_is_a_row_of_a_comparison_to_the_bit(pair, tmp_path):
    settings = {**SMALL, "data.class_balanced": True, "train.steps": 4, "optim.lr": 0.05}
    fercore.compare("source_only", **DATA, set=settings, seeds=[3], out=tmp_path / "c")
    rows = (tmp_path / "c/source_only-s3/predictions.csv").read_bytes()
    assert rows == (pair.reference.path / "predictions.csv").read_bytes()


@pytest.mark.parametrize(
    ("plugin", "more", "message"),
    [
        ("source_only", {}, "is the reference itself"),
        ("fixmatch", {"report.reference": "runs/other"}, "names one that is there"),
    ],
)
def test_what_has_no_reference_is_one_line_before_anything_is_trained(plugin, more, message, tmp_path):
    with pytest.raises(fercore.UserInputError, match=message):
        fercore.train(plugin, **DATA, set={**SMALL, **more}, out=tmp_path / "run", with_reference=True)
    assert not list(tmp_path.iterdir())
    with pytest.raises(fercore.UserInputError, match="resume goes with no other"):
        fercore.train(resume=tmp_path / "run", with_reference=True)
