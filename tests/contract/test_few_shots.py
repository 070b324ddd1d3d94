"""Methods trained with a few labelled images of the target: one more source domain, whatever the method."""

from __future__ import annotations

import json

import pytest
import torch

from fercore.builtin.supervised import SourceOnly
from fercore.config import Settings
from fercore.console import print_result
from fercore.engine.describe import describe
from fercore.engine.run import run
from fercore.engine.setup import build_context
from fercore.hooks import Plugin, hookimpl
from fercore.hooks.assemble import ResolvedRun, assemble
from fercore.hooks.discovery import PluginInfo
from fercore.records.result import Labelled
from fercore.runs.folder import RunFolder

TARGET = "synthfer:wild?n=112&seed=2&shots=1"
DATA = {"data": {"target": TARGET, "source_batch": 30}}
METHODS = ("source_only", "la_cmfer", "fixmatch")


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_with_target_labels_says_so_and_resumes_to_the_bit(
    name, tiny, make_context, tmp_path, listener, weights_of, capsys
):
    context = make_context(name, layers=(DATA,))
    lines = " ".join(describe(context))
    assert f"source {TARGET}: 7 images, labelled ones of the target" in lines
    assert "labelled 7 (anger 1" in lines
    record = run(context, tmp_path / "whole", listener())
    assert record.target.labelled == Labelled(n=7, per_class=dict.fromkeys(context.domains.classes, 1))
    assert [source.n for source in record.sources] == [84, 84, 7]
    assert record.target.n + record.target.n_adaptation + 7 == 112
    print_result(record)
    assert "trained with 7 target labels" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(KeyboardInterrupt):
        run(make_context(name, layers=(DATA,)), tmp_path / "cut", listener(stop_after=5))
    folder = RunFolder(tmp_path / "cut")
    again = assemble([name], [folder.config_layers()])
    assert again.config.data == context.config.data  # what was written down brings the same domains
    run(build_context(again, label_file=folder.label_file), tmp_path / "cut", listener(), resume=True)
    left, right = (weights_of(tmp_path / each)["model"] for each in ("whole", "cut"))
    assert [key for key in left if not torch.equal(left[key], right[key])] == []


def test_without_shots_no_target_label_is_counted(make_context, tmp_path, listener, capsys):
    record = run(make_context("source_only"), tmp_path / "run", listener())
    assert record.target.labelled == Labelled(n=0, per_class={})
    print_result(record)
    assert "target labels" not in capsys.readouterr().out


class Ear(Plugin):
    """Keeps domains and labels of both sides as the loss sees them."""

    kind = "addon"

    def __init__(self) -> None:
        super().__init__("ear", Settings())
        self.heard = []

    @hookimpl
    def build_sampler(self, config, dataset, side):
        self.heard.append((side, config.task.few_shot_domain, dataset.labels.tolist(), dataset.domain.tolist()))

    @hookimpl
    def loss(self, batch):
        self.heard.append(("loss", batch.source.domain, batch.source.labels, batch.target.labels))
        return []


def test_labels_come_on_the_source_side_alone(tiny, tmp_path, listener):
    ear = Ear()
    infos = tuple(PluginInfo(name, "tests:X", "tests", "0", "") for name in ("source_only", "ear"))
    config = assemble(["source_only"], [tiny, DATA]).config
    context = build_context(ResolvedRun(config, (SourceOnly("source_only", SourceOnly.Settings()), ear), infos))
    run(context, tmp_path / "run", listener())
    few = context.domains.sources[2]
    for where, *found in ear.heard:
        if where == "loss":
            domain, labels, target = found
            assert domain.bincount(minlength=3).tolist() == [10, 10, 10]
            assert set(labels[domain == 2].tolist()) == set(few.labels.tolist()) == set(range(7))
            assert (target == -1).all()
        elif where == "source":
            assert found[0] == 2
            assert [label for label, d in zip(*found[1:], strict=True) if d == 2] == few.labels.tolist()
        else:
            assert set(found[1]) == {-1}
    saved = json.loads((tmp_path / "run/labelled.json").read_text())
    assert saved["rule"] == "shots=1"
    assert sum(row[0] == "labelled" for row in saved["samples"].values()) == 7
