"""Whole runs on synthetic faces: the record, the log, resume after a kill, stages and phases."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fercore.builtin.supervised import SourceOnly
from fercore.engine.run import run
from fercore.engine.setup import build_context
from fercore.errors import UserInputError
from fercore.hooks import Plugin, hookimpl
from fercore.hooks.assemble import ResolvedRun, assemble
from fercore.hooks.discovery import PluginInfo
from fercore.hooks.plans import single_stage
from fercore.records.plan import OptimiserSpec, ParamGroup, Phase, Stage
from fercore.records.result import Parameters
from fercore.runs import checkpoint
from fercore.runs.folder import installed_version

DESIGN = {
    "schema", "plugins", "seed", "device", "kernels", "target", "sources", "selection", "steps", "train_seconds",
    "skipped_steps", "train_images_per_second", "peak_memory_mb",
}  # fmt: skip
TARGET = {"spec", "n", "classes", "accuracy", "balanced_accuracy", "macro_f1", "per_class_recall", "confusion"}


def test_the_record_is_complete_and_true(make_context, tmp_path, listener):
    context = make_context("source_only")
    record = run(context, tmp_path / "run", listener())
    written = json.loads((tmp_path / "run/result.json").read_text())
    assert written == record.to_json()
    assert written.keys() >= DESIGN
    assert written["target"].keys() >= TARGET
    confusion = np.array(record.target.confusion)
    assert confusion.sum() == record.target.n == len(context.domains.test)
    assert record.target.accuracy == pytest.approx(np.trace(confusion) / confusion.sum())
    recalls = np.diag(confusion) / confusion.sum(1)
    assert record.target.balanced_accuracy == pytest.approx(recalls.mean())
    assert written["selection"] == {"rule": "last", "oracle_best": None}
    assert written["sources"] == [
        {"spec": str(s), "n": len(t)} for s, t in zip(context.config.data.sources, context.domains.sources, strict=True)
    ]
    assert record.versions["source_only"].startswith("fercore ")
    assert record.versions["open_clip_torch"] == version("open_clip_torch")
    weights = sum(p.numel() for p in context.model.parameters())
    assert record.parameters == Parameters(total=weights, trained=weights)
    assert record.seconds_per_step == pytest.approx(record.train_seconds / 6, abs=1e-3)


def test_a_plugin_knows_the_classes_by_name(tiny):
    seen = []

    class Nosy(SourceOnly):
        @hookimpl
        def build_model(self, config, num_classes):
            seen.append((config.data.classes, num_classes))
            return SourceOnly.build_model(self, config, num_classes)

    plugin = Nosy("source_only", SourceOnly.Settings())
    info = PluginInfo("source_only", "tests:X", "tests", "0", "")
    context = build_context(ResolvedRun(assemble(["source_only"], [tiny]).config, (plugin,), (info,)))
    assert seen == [(context.domains.classes, len(context.domains.classes))]
    assert context.config.data.classes is None


@pytest.mark.slow
def test_the_oracle_is_flagged_and_decides_nothing(make_context, tmp_path, listener, weights_of):
    watched = run(
        make_context("source_only", layers=({"select": {"oracle": True}, "train": {"eval_every": 2}},)),
        tmp_path / "a",
        listener(),
    )
    plain = run(make_context("source_only"), tmp_path / "b", listener())
    oracle = watched.selection.oracle_best
    assert oracle.uses_target_labels is True
    assert oracle.accuracy >= watched.target.accuracy
    assert watched.target == plain.target
    left, right = weights_of(tmp_path / "a")["model"], weights_of(tmp_path / "b")["model"]
    assert all(torch.equal(left[key], right[key]) for key in left)
    lines = [json.loads(line) for line in (tmp_path / "a/metrics.jsonl").read_text().splitlines()]
    assert [line["done"] for line in lines if line["kind"] == "evaluation"] == [2, 4, 6]


@pytest.mark.slow
def test_the_log_has_every_step_once_after_a_resume(make_context, tmp_path, listener):
    with pytest.raises(KeyboardInterrupt):
        run(make_context("source_only"), tmp_path / "run", listener(stop_after=5))
    with (tmp_path / "run/metrics.jsonl").open("a") as handle:
        handle.write('{"kind": "step", "do')
    run(make_context("source_only"), tmp_path / "run", listener(), resume=True)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["done"] for line in lines if line["kind"] == "step"] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_seeds_differ_and_repeat(make_context, tmp_path, listener, weights_of):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(make_context("source_only", layers=({"seed": seed},)), tmp_path / name, listener())
    a, b, c = (weights_of(tmp_path / name)["model"]["backbone.conv1.weight"] for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.slow
def test_reports_are_written_when_asked_for(make_context, tmp_path, listener):
    layers = ({"report": {"features": True, "distances": True, "tensorboard": True}},)
    record = run(make_context("source_only", layers=layers), tmp_path / "run", listener())
    with np.load(tmp_path / "run/features.npz", allow_pickle=False) as found:
        assert found["probs"].shape == (record.target.n, 7)
        assert found["features/main"].shape[0] == record.target.n
        assert (found["probs"].argmax(1) == found["labels"]).mean() == pytest.approx(record.target.accuracy)
    distances = json.loads((tmp_path / "run/distances.json").read_text())
    assert distances["target"]["main"].keys() == {"intra_l2", "intra_var", "inter_l2", "r"}
    assert distances["sources"]["main"]["intra_l2"] > 0
    assert len(distances["mmd_to_target"]) == len(record.sources)
    assert all(0 < found["main"] < 3 for found in distances["mmd_to_target"].values())
    board = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    steps = [line for line in map(json.loads, (tmp_path / "run/metrics.jsonl").open()) if line["kind"] == "step"]
    logged = board.Scalars("learning_rate/main/group0")
    assert [event.step for event in logged] == [line["done"] for line in steps]
    assert [event.value for event in logged] == pytest.approx([line["lr"][0] for line in steps])


def test_a_report_that_no_package_brings_is_refused_before_the_run(make_context, tmp_path, listener):
    context = make_context("source_only", layers=({"report": {"also": ["distance"]}},))
    with pytest.raises(UserInputError, match="unknown report 'distance'.*did you mean 'distances'"):
        run(context, tmp_path / "run", listener())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_evaluation_draws_nothing_from_the_run(make_context, tmp_path, listener, weights_of, monkeypatch):
    from fercore.builtin.defaults import Defaults

    def encode(self, model, batch, view, purpose):
        if purpose == "evaluate":
            torch.rand(3)
        return model(batch.images[view])

    monkeypatch.setattr(Defaults, "encode", hookimpl(encode, trylast=True))
    for name, every in (("often", 1), ("never", 0)):
        run(make_context("source_only", layers=({"train": {"eval_every": every}},)), tmp_path / name, listener())
    left, right = weights_of(tmp_path / "often"), weights_of(tmp_path / "never")
    assert torch.equal(left["random"]["torch"], right["random"]["torch"])


def test_a_target_without_labels_gets_predictions(tmp_path, tiny, listener, capsys):
    from PIL import Image

    from fercore.engine.setup import build_context

    (tmp_path / "clinic").mkdir()
    rng = np.random.default_rng(0)
    for number in range(40):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"clinic/{number}.png")
    (tmp_path / "clinic/copy.png").write_bytes((tmp_path / "clinic/7.png").read_bytes())
    data = {**tiny["data"], "target": f"folder:{tmp_path / 'clinic'}"}
    context = build_context(assemble(["source_only"], [{**tiny, "data": data}]))
    record = run(context, tmp_path / "run", listener())
    scores = ("accuracy", "balanced_accuracy", "macro_f1", "confusion")
    assert [getattr(record.target, name) for name in scores] == [None] * 4
    lines = (tmp_path / "run/predictions.csv").read_text().splitlines()
    assert lines[0] == "image,part,prediction,anger,disgust,fear,happiness,sadness,surprise,neutral"
    rows = {Path(line.split(",")[0]).name: line.split(",")[1:] for line in lines[1:]}
    assert rows.keys() == {path.name for path in (tmp_path / "clinic").iterdir()}
    parts = [row[0] for row in rows.values()]
    counts = {"test": len(context.domains.test), "adaptation": record.target.n_adaptation, "unused": 1}
    assert {part: parts.count(part) for part in counts} == counts
    assert rows["copy.png"][1:] == rows["7.png"][1:]
    tested = context.evaluator.predict(context.model, context.domains.test, None)
    for key, row in zip(context.domains.test.keys, tested.probs, strict=True):
        assert rows[Path(key).name] == ["test", context.domains.classes[row.argmax()], *(f"{p:.6f}" for p in row)]


@pytest.mark.slow
def test_kill_9_then_resume_gives_the_same_bits(tmp_path, tiny, make_context, listener):
    import tomli_w

    layer = {"train": {**tiny["train"], "steps": 60, "checkpoint_every": 5}}
    (tmp_path / "run.toml").write_text(tomli_w.dumps({**tiny, **layer}))
    start = [sys.executable, "-c", "from fercore.cli import main; main()", "run", "--plugin", "source_only"]
    start += ["--config", "run.toml", "--preset", "demo", "--out", "cut"]
    with subprocess.Popen(start, cwd=tmp_path, stdout=subprocess.DEVNULL, start_new_session=True) as running:
        deadline = time.monotonic() + 120
        while checkpoint.newest(tmp_path / "cut/checkpoints") is None and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
    assert not (tmp_path / "cut/result.json").exists()
    for name in ("whole", "cut"):
        run(make_context("source_only", layers=(layer,)), tmp_path / name, listener(), resume=name == "cut")
    final = [checkpoint.load(tmp_path / name / "checkpoints/step_00000060")["model"] for name in ("whole", "cut")]
    assert [key for key in final[0] if not torch.equal(final[0][key], final[1][key])] == []


class Stages(Plugin):
    """Two stages, the second with two phases; logs what it is asked."""

    log: list = []

    @hookimpl
    def build_model(self, config, num_classes):
        from fercore.builtin.supervised import SourceOnly

        return SourceOnly("stages", None).build_model(config, num_classes)

    @hookimpl
    def request_views(self):
        from fercore.records.plan import ViewRequest

        return [ViewRequest("source", "weak", "weak"), ViewRequest("target", "weak", "weak")]

    @hookimpl
    def plan(self, config):
        optimiser = OptimiserSpec(lr=0.01)
        phases = (
            Phase("encoder", (ParamGroup(("backbone.",)),), optimiser),
            Phase("heads", (ParamGroup(("heads.",)),), optimiser),
        )
        return [single_stage(config, "pretrain"), Stage("adapt", 5, phases, steps_per_epoch=2)]

    @hookimpl
    def refresh(self, clock, encode_dataset):
        target, source = encode_dataset("target"), encode_dataset("source")
        self.log.append((clock.stage, clock.epoch, set(target.labels.tolist()), len(source.labels)))
        return {"stages/count": 1}

    @hookimpl
    def build_sampler(self, dataset, side, clock):
        if clock.stage == "adapt" and side == "target":
            return torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=40)
        return None

    @hookimpl
    def loss(self, batch, encoded, clock):
        from fercore.records.step import LossTerm, Role

        logits = encoded[("source", "weak")].logits["main"]
        return [
            LossTerm(
                f"stages/{clock.phase}", Role.SUPERVISED, torch.nn.functional.cross_entropy(logits, batch.source.labels)
            )
        ]


@pytest.fixture(scope="module")
def staged(tiny):
    def make():
        config = assemble(["source_only"], [tiny]).config.model_copy(update={"plugins": {}})
        info = PluginInfo("stages", "tests:Stages", "tests", "0", "")
        Stages.log.clear()
        return build_context(ResolvedRun(config, (Stages("stages", None),), (info,)))

    return make


@pytest.fixture(scope="module")
def whole(staged, listener, weights_of, tmp_path_factory):
    """The weights at the end of a run that nothing stops."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(staged(), folder, listener())
    return weights_of(folder)["model"]


@pytest.mark.slow
def test_stages_phases_refresh_and_samplers(staged, tmp_path, listener):
    heard = listener()
    run(staged(), tmp_path / "run", heard)
    assert [(r.stage, r.phase) for r in heard.reports[:6]] == [("pretrain", "main")] * 6
    assert [(r.stage, r.phase) for r in heard.reports[6:10]] == [("adapt", "encoder"), ("adapt", "heads")] * 2
    assert [entry[:2] for entry in Stages.log] == [
        ("pretrain", 0),
        ("pretrain", 1),
        ("adapt", 0),
        ("adapt", 1),
        ("adapt", 2),
    ]
    assert all(labels == {-1} for _, _, labels, _ in Stages.log)


@pytest.mark.parametrize("stop", [9, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (4, 7, 11))])
def test_resume_inside_any_stage_gives_the_same_bits(staged, tmp_path, listener, weights_of, stop, whole):
    with pytest.raises(KeyboardInterrupt):
        run(staged(), tmp_path / "cut", listener(stop_after=stop))
    run(staged(), tmp_path / "cut", listener(), resume=True)
    found = weights_of(tmp_path / "cut")["model"]
    assert [key for key in whole if not torch.equal(whole[key], found[key])] == []


def test_a_damaged_checkpoint_is_one_clear_line(make_context, tmp_path, listener):
    with pytest.raises(KeyboardInterrupt):
        run(make_context("source_only"), tmp_path / "run", listener(stop_after=4))
    newest = checkpoint.newest(tmp_path / "run/checkpoints")
    (newest / checkpoint.TENSORS).write_bytes(b"short")
    with pytest.raises(UserInputError, match="damaged checkpoint"):
        run(make_context("source_only"), tmp_path / "run", listener(), resume=True)


def test_bf16_runs(make_context, tmp_path, listener):
    record = run(
        make_context("source_only", layers=({"train": {"precision": "bf16-mixed"}},)), tmp_path / "run", listener()
    )
    assert record.target.n > 0


@pytest.mark.slow
@pytest.mark.parametrize("ema", [None, 0.5])
def test_a_run_begins_with_the_backbone_of_another(make_context, tmp_path, listener, ema):
    context = make_context("source_only", layers=({"train": {"ema": ema}},))
    run(context, tmp_path / "first", listener())
    file = checkpoint.newest(tmp_path / "first/checkpoints") / checkpoint.TENSORS
    stored = load_file(file)
    part = "/model/backbone." if ema is None else "/average/model/backbone."
    second = make_context("source_only", layers=({"model": {"weights": str(file)}},))
    for key, value in second.model.backbone.state_dict().items():
        assert torch.equal(value, stored[part + key]), key


def test_a_package_that_is_not_there_is_recorded_as_that():
    assert installed_version("no-such-distribution") == "not installed"
