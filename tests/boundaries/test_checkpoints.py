"""Checkpoints and models of other hands, checksums right: they are taken up, or one line says why not."""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

sys.path.insert(0, str(Path(__file__).parent))
from damage import Boundary, any_bytes, any_json, campaign, seeds

import fercore
from fercore.engine import initial, resume
from fercore.engine.memory_format import FORMATS, _remembered
from fercore.engine.model_record import RECORD, WEIGHTS
from fercore.engine.observer import Observer
from fercore.engine.run import run, take_up
from fercore.engine.trainer import Trainer
from fercore.errors import UserInputError
from fercore.hooks import assemble as assembling
from fercore.hooks import discovery
from fercore.records.step import Progress
from fercore.runs import checkpoint
from fercore.runs import folder as record
from fercore.runs.checkpoint import TENSORS, VALUES
from fercore.runs.folder import RunFolder
from fercore.stopping import StopRequest
from fercore.writing import write_sums

SMALL = {
    "data": {
        "sources": ["synthfer:studio?n=28", "synthfer:web?n=28"],
        "source_batch": 6,
        "target_batch": 3,
        "size": 16,
    },
    "model": {"backbone_args": {"resnet18": {"channels": [2, 2, 2, 2]}}},
    "train": {"steps": 3, "steps_per_epoch": 2, "checkpoint_every": 2, "ema": 0.9},
}


@pytest.fixture
def started(make_context, tmp_path, monkeypatch):
    """A run of three steps: its checkpoint after the second, and what goes on from it for a step."""
    context = make_context("source_only", layers=(SMALL,))
    run(context, tmp_path / "run", Observer())
    folder = RunFolder(tmp_path / "run")
    shutil.rmtree(folder.checkpoints / "step_00000003")
    last, found = folder.checkpoints / "step_00000002", record.versions()
    monkeypatch.setattr(resume, "versions", lambda: found)

    def go_on(at: Path) -> None:
        write_sums(at, (TENSORS, VALUES))
        resume.check_resume(folder, context.resolved)
        trainer = Trainer(context, folder, Observer(), StopRequest())
        take_up(trainer, at)
        stage = context.stages[0]
        trainer._train_batch(stage, Progress(stage.name, "", 0, trainer.step, stage.steps))

    return last, go_on


def any_tensors(content: bytes, dice: random.Random) -> bytes:
    """Give a tensor another shape, type or name, numbers that are none, or leave it out; sometimes damage bytes."""
    if dice.random() < 0.3:
        return any_bytes(content, dice)
    tensors = load(content)
    name = dice.choice(sorted(tensors))
    old = tensors.pop(name)
    odd = (
        old.reshape(-1)[:1], torch.zeros(0), torch.full_like(old, 255 if old.dtype == torch.uint8 else -1),
        old.double(), old.to(torch.int8), torch.zeros(1, *old.shape), torch.full(old.shape, torch.nan),
    )  # fmt: skip
    kind = dice.randrange(len(odd) + 2)
    if kind < len(odd):
        tensors[name] = odd[kind].contiguous()
    elif kind == len(odd):
        tensors[f"{name}x"] = old
    return save(tensors)


def any_state(content: bytes, dice: random.Random) -> bytes:
    return any_json()(content, dice) if content.startswith(b'{"$dict"') else any_tensors(content, dice)


@pytest.mark.slow
@pytest.mark.parametrize("number", seeds())
def test_any_shape(started, number):
    last, go_on = started
    files = {name: (last / name).read_bytes() for name in (TENSORS, VALUES)}
    campaign(Boundary(files, go_on, any_state), last, number)


STRANGE = {
    ("stage_index",): (1, r"stage 1, step \d is not in the plan of \[3\] steps"),
    ("step",): (4, r"stage 0, step 4 is not in the plan of \[3\] steps"),
    ("images",): ("2", "images: input should be a valid integer"),
    ("log_size",): (-1, "log_size: input should be greater than or equal to 0"),
    ("seconds",): (float("nan"), "seconds: input should be"),
    ("model", "backbone.bn1.bias"): (torch.zeros(3), "size mismatch for backbone.bn1.bias"),
    ("model", "backbone.bn1.weight"): (torch.full((64,), torch.nan), "weights 'backbone.bn1.weight' are not finite"),
    ("loader", "step"): (None, "TypeError int"),
    ("settings",): ([], "'list' object has no attribute 'items'"),
    ("optimisers",): ([], r"zip\(\) argument 2 is shorter"),
}


def test_states_of_another_run(started):
    last, go_on = started
    whole = checkpoint.load(last)
    go_on(last)
    for where, (value, message) in STRANGE.items():
        state = inner = checkpoint.load(last)
        for key in where[:-1]:
            inner = inner[key]
        assert where[-1] in inner
        inner[where[-1]] = value
        checkpoint.save(last, state)
        with pytest.raises(UserInputError, match=f"damaged checkpoint: .*{message}"):
            go_on(last)
        checkpoint.save(last, whole)


@pytest.mark.parametrize("number", seeds())
def test_a_memory_of_any_shape_is_no_fault(tmp_path, number):
    files = {"memory_format.json": json.dumps({"key": "contiguous"}).encode()}
    campaign(Boundary(files, lambda f: remembered(f / "memory_format.json"), any_json(), refused=0), tmp_path, number)


def remembered(path: Path) -> str:
    known = _remembered(path)
    json.dumps({**known, "other": "contiguous"})
    return known["key"] if known.get("key") in FORMATS else "contiguous"


@pytest.mark.slow
@pytest.mark.parametrize("number", seeds())
def test_a_model_of_any_shape(make_context, tmp_path, number, monkeypatch):
    run(make_context("source_only", layers=(SMALL,)), tmp_path / "run", Observer())
    folder, known = tmp_path / "run/model", discovery.installed_plugins()
    for module in (initial, assembling):
        monkeypatch.setattr(module, "installed_plugins", lambda: known)

    def load_and_predict(at: Path) -> None:
        write_sums(at, (WEIGHTS, RECORD))
        probs = fercore.load(at, device="cpu").predict(np.zeros((20, 20), np.uint8)).probs
        assert np.isfinite(probs).all()

    files = {name: (folder / name).read_bytes() for name in (WEIGHTS, RECORD)}
    harm = lambda content, dice: (any_json() if content[:1] == b"{" else any_tensors)(content, dice)  # noqa: E731
    campaign(Boundary(files, load_and_predict, harm), folder, number)
