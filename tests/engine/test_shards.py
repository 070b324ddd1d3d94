"""Weights divided among processes (strategy fsdp): the same losses and files as in one process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from fercore import open_run
from fercore.config import RunConfig, merge
from fercore.engine.observer import Observer
from fercore.engine.several import shards_of
from fercore.engine.trainer import Trainer
from fercore.errors import UserInputError
from fercore.hooks.assemble import assemble
from fercore.hooks.discovery import installed_plugins
from fercore.models import Model
from fercore.models.shards import Shards, blocks_of, divided, own_part, part_of, whole_of
from fercore.records.plan import StepReport
from fercore.runs import checkpoint
from fercore.runs.folder import ReadFolder
from fercore.stopping import StopRequest
from fercore.testing import tiny_context
from fercore.testing.tiny import TINY
from tests.engine.spread import BATCHES, DOUBLE, in_processes, main_in, steps_of

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "drop_path_rate": 0.2}
VIT: dict[str, Any] = {"model": {"backbone": "vit_tiny_patch16_224", "backbone_args": {"vit_tiny_patch16_224": SIZES}}}
CHECKPOINTING = merge(VIT, {"model": {"backbone_args": {"vit_tiny_patch16_224": {"drop_path_rate": 0.0}}}})
FSDP = {"strategy": "fsdp"}
CASES = {
    "average": ("fixmatch", VIT),
    "clipped": ("dann", merge(VIT, {"optim": {"clip_grad_norm": 0.01}})),
    "pieces": ("fixmatch", merge(VIT, {"train": {"accumulate": 2}})),
    "checkpointing": ("source_only", merge(CHECKPOINTING, {"model": {"checkpointing": True}})),
    "batch normalisation": ("la_cmfer", {}),
    "through the network twice": ("vat", VIT),
}


def gap(one: Any, other: Any) -> float:
    """Return the largest difference of two equal trees of arrays and numbers."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return max([gap(one[name], other[name]) for name in one], default=0.0)
    if isinstance(one, list | tuple):
        return max([gap(*pair) for pair in zip(one, other, strict=True)], default=0.0)
    if isinstance(one, str):
        assert one == other
        return 0.0
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).max(initial=0.0))


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", [2, pytest.param(4, marks=pytest.mark.soak)])
@pytest.mark.parametrize("case", CASES)
def test_divided_weights_come_to_the_terms_gradients_and_weights_of_one_process(case, number):
    name, layer = CASES[case]
    one, many = steps_of(name, 1, layer), steps_of(name, number, layer, FSDP)
    assert any(gradient.any() for step in one["gradients"] for gradient in step.values())
    for part in ("terms", "gradients", "state", "reported"):
        assert gap(one[part], many[part]) < 1e-10, part
    assert np.array_equal(one["random"], many["random"])


def _parts_of_a_network() -> list[float]:
    torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    # Three rows for two processes: unequal parts.
    body = nn.Sequential(*[nn.Sequential(nn.Linear(3, 3), nn.Tanh()) for _ in range(2)])
    model = Model(body, {"main": nn.Identity()}, {"main": nn.Linear(3, 2)}, (0.0,) * 3, (1.0,) * 3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    shards = Shards(model, blocks_of(model))
    shards.divide(torch.device("cpu"), None)
    rows = [p for p in model.parameters() if divided(p)]
    assert len(rows) == 4
    held = sum(own_part(p).numel() for p in rows)
    with shards.whole():
        found = {name: p.detach().clone() for name, p in shards.model.named_parameters()}
        gaps = [float((found[name] - value).abs().max()) for name, value in before.items()]
        assert shards.model.heads is model.heads
    assert all(p.numel() == 0 for name, p in shards.model.named_parameters() if name.startswith("backbone"))
    whole = torch.arange(9.0).view(3, 3)
    gaps.append(float((whole_of(part_of(whole, rows[0]), rows[0]) - whole).abs().max()))
    torch.distributed.destroy_process_group()
    return [*gaps, float(held)]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_parts_of_unequal_size_make_the_whole():
    *gaps, held = in_processes(2, _parts_of_a_network)
    assert max(gaps) == 0
    # The first process has two rows of three of each of two layers, and as much of the biases.
    assert held == 2 * (2 * 3 + 2)


@pytest.mark.parametrize(
    ("name", "count", "kind"),
    [("vit_tiny_patch16_224", 12, "Block"), ("swin_tiny_patch4_window7_224", 12, "SwinTransformerBlock"),
     ("resnet18", 8, "BasicBlock"), ("convnext_atto", 12, "ConvNeXtBlock")],
)  # fmt: skip
def test_blocks_are_the_innermost_in_lists(name, count, kind):
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0)
    model = Model(network, {}, {}, (0.0,) * 3, (1.0,) * 3)
    assert [type(block).__name__ for block in blocks_of(model)] == [kind] * count


def _asked(*layers: dict[str, Any]) -> RunConfig:
    layer: dict[str, Any] = {"devices": 2, **FSDP}
    for each in layers:
        layer = merge(layer, each)
    return RunConfig.model_validate(layer)


@pytest.mark.parametrize(
    ("name", "layer", "says"),
    [
        ("mean_teacher", {}, "mean_teacher cannot run with a part of the weights in each process: its teacher is an"),
        ("adda", {}, "adda cannot run with a part of the weights in each process: it keeps a copy of the encoder"),
        ("source_only", {"train": {"sync": "local"}}, "take train.sync=batch, or take --strategy ddp"),
        ("source_only", {"train": {"precision": "16-mixed"}}, "take train.precision=bf16-mixed"),
        ("pca", {}, "ImageTower has no blocks that are trained, whose weights to divide"),
    ],
)
def test_what_cannot_run_with_divided_weights_is_one_line(name, layer, says):
    context = tiny_context([name])
    with pytest.raises(UserInputError) as caught:
        shards_of(_asked(layer), context.resolved.plugins, context.model)
    assert says in str(caught.value)
    assert "--strategy fsdp" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_process_divides_nothing():
    context = tiny_context(["source_only"], [FSDP])
    assert context.shards is None
    assert context.trained is context.model


@pytest.fixture
def group_of_one(tmp_path) -> Iterator[None]:
    """A group of processes that is this one."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def _train(name: str, *, parts: bool) -> tuple[list[Any], dict[str, torch.Tensor]]:
    layer = merge(DOUBLE, {"train": {"steps": 4, "steps_per_epoch": 2}})
    context = tiny_context([name], [layer])
    if parts:
        context = replace(context, shards=Shards(context.model, blocks_of(context.model)))
    terms: list[Any] = []

    class Terms(Observer):
        def step(self, report: StepReport, done: int) -> None:
            terms.append((report.phase, dict(report.terms)))

    trainer = Trainer(context, ReadFolder(Path("nowhere")), Terms(), StopRequest())
    trainer.save = lambda: None  # type: ignore[method-assign]
    trainer.train()
    with context.whole():
        return terms, {key: value.clone() for key, value in context.reported.state_dict().items()}


@pytest.mark.soak
@pytest.mark.usefixtures("group_of_one")
@pytest.mark.parametrize("name", installed_plugins())
def test_every_method_says_why_it_cannot_or_trains_the_same(name):
    info = installed_plugins()[name]
    plugin = assemble([name], [TINY]).plugins[0] if _is_method(name) else None
    if plugin is None:
        pytest.skip(f"{info.name} is an add-on")
    if plugin.needs_whole_weights():
        return
    context = tiny_context([name])
    try:
        blocks_of(context.model)
    except UserInputError:
        return
    if any(stage.stream for stage in context.stages):
        return  # of one process anyway
    (one, weights), (two, divided_weights) = _train(name, parts=False), _train(name, parts=True)
    assert gap(one, two) < 1e-10
    assert gap(dict(weights), dict(divided_weights)) < 1e-10


def _is_method(name: str) -> bool:
    from fercore.hooks.checks import check_class
    from fercore.hooks.discovery import find_plugin, load_class

    return check_class(load_class(find_plugin(name, installed_plugins())), name).kind == "method"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_checkpoint_of_divided_weights_is_that_of_any_number_of_processes(tmp_path):
    import tomli_w

    own = {"train": {"memory_format": "channels_last", "eval_every": 2}, "select": {"scores": ["entropy"]}}
    layer = merge(merge(merge(TINY, VIT), BATCHES), own)
    (tmp_path / "run.toml").write_bytes(tomli_w.dumps(layer).encode())

    def fercore(*words: object) -> str:
        command = [sys.executable, "-m", "fercore", "run", *map(str, words)]
        done = subprocess.run(command, env=main_in(tmp_path), capture_output=True, text=True, timeout=150, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    given = ["--plugin", "fixmatch", "--config", tmp_path / "run.toml", "--out"]
    fercore(*given, tmp_path / "one")
    fercore(*given, tmp_path / "two", "--devices", 2, "--strategy", "fsdp")
    for name in ("same", "alone"):
        unfinished = shutil.ignore_patterns("result.json", "model", "step_00000006")
        shutil.copytree(tmp_path / "two", tmp_path / name, ignore=unfinished)
        spread = [] if name == "same" else ["--devices", 1]
        assert "resumed after 3 of 6 steps" in fercore("--resume", tmp_path / name, *spread)
    # A checkpoint of one process, by two that divide it.
    shutil.copytree(tmp_path / "one", tmp_path / "joined", ignore=unfinished)
    fercore("--resume", tmp_path / "joined", "--devices", 2, "--strategy", "fsdp")
    assert _bytes(tmp_path / "two") == _bytes(tmp_path / "same")
    states = [
        checkpoint.load(tmp_path / name / "checkpoints" / "step_00000006") for name in ("one", "two", "alone", "joined")
    ]
    for state in states[1:]:
        for part in ("model", "average", "optimisers"):
            assert gap(_numbers(states[0][part]), _numbers(state[part])) < 1e-3, part
    accuracies = [open_run(tmp_path / name).result.target.accuracy for name in ("two", "same")]
    assert accuracies[0] == accuracies[1]


def _bytes(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


def _numbers(tree: Any) -> Any:
    """Return what of a checkpoint is tensors."""
    if isinstance(tree, dict):
        return {key: _numbers(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_numbers(each) for each in tree]
    return tree.numpy() if isinstance(tree, torch.Tensor) else 0.0
