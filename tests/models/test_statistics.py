"""Forwards that leave no trace in the batch statistics."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fercore.models import (
    Model,
    encode_view,
    forward_without_bn_update,
    restore_bn_stats,
    swap_bn_stats,
    without_bn_update,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    made = Model(net, {"main": nn.Identity()}, {"main": nn.Linear(4, 5)}, (0.0,) * 3, (1.0,) * 3)
    made.parts["some/state"] = nn.BatchNorm1d(5)
    made.heads["main"].register_forward_hook(lambda module, inputs, output: made.parts["some/state"](output))
    return made


IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def statistics(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers() if not name.startswith("parts.")}


def same(left, right):
    return all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("view", ["weak", "strong"])
@pytest.mark.parametrize("of", ["weak", "all"])
def test_a_strong_view_in_training_leaves_no_trace_unless_all_views_are_to(model, training, view, of):
    model.train(training)
    before = statistics(model)
    silent = training and view == "strong" and of == "weak"
    assert without_bn_update(model, view, of) == silent
    found = encode_view(model, IMAGES, view, of).logits["main"]
    assert same(before, statistics(model)) == (silent or not training)
    assert torch.equal(found, model(IMAGES).logits["main"])  # the batch's own statistics, whoever runs it
    found.sum().backward()
    assert model.backbone[0].weight.grad is not None


def test_other_weights_in_place_of_the_networks_own(model):
    other = {name: p.detach() * 2 for name, p in model.named_parameters()}
    before = statistics(model)
    found = forward_without_bn_update(model, IMAGES, other).logits["main"]
    assert same(before, statistics(model))
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(other[name])
    assert torch.equal(found, model(IMAGES).logits["main"])


def test_what_is_set_aside_stands_again_as_it_was(model):
    first = model(IMAGES).logits["main"]
    before, held = statistics(model), dict(model.named_buffers())
    kept = swap_bn_stats(model)
    second = model(IMAGES + 1).logits["main"]
    assert not same(before, statistics(model))
    restore_bn_stats(model, kept)
    assert same(before, statistics(model))
    assert all(held[name] is buffer for name, buffer in model.named_buffers())
    (first.square().sum() + second.square().sum()).backward()  # both forwards still have their backward pass


def test_what_plugins_keep_is_not_set_aside(model):
    model.train()
    before = model.parts["some/state"].running_mean.clone()
    kept = swap_bn_stats(model)
    model(IMAGES)
    restore_bn_stats(model, kept)
    assert not torch.equal(before, model.parts["some/state"].running_mean)
    assert all(not name.startswith("parts.") for name in kept)
