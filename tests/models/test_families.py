"""Every family of timm as a backbone: its width is what it yields, and images of another size are taken or refused.

Networks are built on "meta": layers and shapes, no numbers, so that a network of 400 million weights takes no memory.
"""

from __future__ import annotations

import pytest
import timm
import torch

from fercore.config import RunConfig
from fercore.engine.setup import _try_backbone
from fercore.errors import UserInputError
from fercore.models import Model, build_backbone

pytestmark = pytest.mark.filterwarnings("ignore")


def check(name: str, size: int = 64) -> bool:
    """Build a network, compare its width with what two images yield; return whether it takes images of `size` px."""
    config = RunConfig.model_validate({"model": {"backbone": name}, "data": {"size": size}})
    with torch.device("meta"):
        trunk = build_backbone(config.model)
        module = trunk.module.eval()
        assert module(torch.zeros(2, *module.pretrained_cfg["input_size"])).shape == (2, trunk.channels), name
        refusal = refusal_of(Model(module, {}, {}, trunk.mean, trunk.std), config)
    assert refusal == "" or refusal.startswith(f"backbone '{name}' does not take {size} px images: ")
    assert "\n" not in refusal
    return not refusal


def refusal_of(model: Model, config: RunConfig) -> str:
    try:
        _try_backbone(model, config)
    except UserInputError as error:
        return str(error)
    return ""


def shortest(family: str) -> str:
    return min(timm.list_models(module=family), key=lambda name: (len(name), name))


@pytest.mark.slow
@pytest.mark.parametrize("family", timm.list_modules())
def test_the_width_of_every_family_is_what_it_yields(family):
    check(shortest(family))


def test_a_network_of_fixed_size_is_refused_in_a_line_and_another_taken():
    assert not check("vit_tiny_patch16_224")
    assert check("vit_tiny_patch16_224", size=224)
    assert check("lcnet_035")


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_the_width_of_every_network_is_what_it_yields():
    taken = [check(name) for name in timm.list_models()]
    assert 100 < sum(taken) < len(taken) > 1000
