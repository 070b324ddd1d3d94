"""A backbone in two: trunk and later stages together are the whole one."""

from __future__ import annotations

import pytest
import torch

from fercore.config import ModelSettings
from fercore.errors import UserInputError
from fercore.models import build_backbone, divide_backbone

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def settings(backbone, **changes):
    arguments = changes.pop("arguments", {})
    return ModelSettings(backbone=backbone, weights="none", backbone_args={backbone: arguments}, **changes)


@pytest.mark.parametrize("backbone", ["resnet18", "test_efficientnet", "test_convnext", "mobilenetv3_small_050"])
@pytest.mark.parametrize("training", [False, True])
def test_trunk_and_later_stages_are_the_whole_backbone(backbone, training):
    torch.manual_seed(0)
    whole = build_backbone(settings(backbone)).module.train(training)
    torch.manual_seed(0)
    divided = divide_backbone(settings(backbone), reduction=8)
    trunk, later = divided.trunk.module.train(training), divided.later.train(training)
    # Running statistics of a step in training would differ: each network makes its own, once.
    torch.testing.assert_close(later(trunk(IMAGES)), whole(IMAGES), rtol=0, atol=0)
    assert divided.width == whole(IMAGES).shape[1]
    parts = [{id(p) for p in module.parameters()} for module in (trunk, later)]
    assert not parts[0] & parts[1]
    assert sum(map(len, parts)) == len(list(whole.parameters()))


def test_gradients_reach_both_parts():
    divided = divide_backbone(settings("test_efficientnet"), reduction=8)
    divided.later(divided.trunk.module(IMAGES)).sum().backward()
    for module in (divided.trunk.module, divided.later):
        assert all(p.grad is not None for p in module.parameters())


def test_a_frozen_backbone_is_frozen_in_both_parts():
    divided = divide_backbone(settings("resnet18", freeze=True), reduction=8)
    for module in (divided.trunk.module, divided.later):
        assert not module.train().training
        assert not any(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize(
    ("backbone", "arguments", "message"),
    [
        ("test_efficientnet", {"drop_rate": 0.5}, "others in training than in evaluation"),
        ("mini_xception", {}, "yields no feature maps"),
    ],
)
def test_what_cannot_be_divided_is_refused(backbone, arguments, message):
    with pytest.raises(UserInputError, match=message):
        divide_backbone(settings(backbone, arguments=arguments), reduction=8)
