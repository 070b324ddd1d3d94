"""Blocks that are worked out again, and what a step is likely to need."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from fercore.engine.describe import describe
from fercore.errors import UserInputError
from fercore.models.memory import checkpoint_blocks, kept_for_backward
from fercore.testing import tiny_context

ARGUMENTS = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
VIT = {"backbone": "vit_tiny_patch16_224", "backbone_args": {"vit_tiny_patch16_224": ARGUMENTS}}


def vit(**settings):
    return tiny_context(["source_only"], [{"model": {**VIT, **settings}}])


def test_checkpointed_blocks_keep_less_and_give_the_same_gradient():
    gradients, kept = [], []
    images = torch.randn(8, 3, 32, 32)
    for checkpointing in (False, True):
        model = vit(checkpointing=checkpointing).model.train()
        kept.append(kept_for_backward(lambda model=model: model(images).logits["main"], model))
        model(images).logits["main"].square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert kept[1] < 0.5 * kept[0]


def test_what_is_kept_is_counted():
    net = nn.Linear(3, 5)
    x = torch.randn(4, 3)
    # The input alone: weights are the network's own.
    assert kept_for_backward(lambda: net(x), net) == x.untyped_storage().nbytes()


def test_blocks_that_would_not_come_out_the_same_are_refused():
    with pytest.raises(UserInputError, match="batch normalisation"):
        tiny_context(["source_only"], [{"model": {"checkpointing": True}}])
    with pytest.raises(UserInputError, match="no blocks"):
        checkpoint_blocks(nn.Linear(2, 2), "linear", shared=False)
    dropping = {"backbone_args": {"vit_tiny_patch16_224": {**ARGUMENTS, "drop_path_rate": 0.1}}}
    vit(checkpointing=True, **dropping)
    layers = [{"model": {**VIT, "checkpointing": True, **dropping}}, {"train": {"accumulate": 2}}]
    with pytest.raises(UserInputError, match="drop at random"):
        tiny_context(["source_only"], layers)


def test_a_dry_run_tells_of_memory():
    def activations(**train):
        lines = describe(tiny_context(["source_only"], [{"model": VIT, "train": train}]), complexity=True)
        return int(re.search(r"memory of a step: about \d+ MiB .* activations (\d+)\)", "\n".join(lines))[1])

    whole = activations()
    assert whole > 0
    assert activations(accumulate=4) == pytest.approx(whole / 4, abs=1)
