"""Networks from elsewhere: in no state, compared by identity, frozen for good."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from fercore.errors import UserInputError
from fercore.models import External


def frozen(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))


def model(identity, seed=0):
    torch.manual_seed(seed)
    return nn.ModuleDict({"frozen": External(frozen(seed), identity), "head": nn.Linear(4, 2)})


def test_the_state_holds_what_it_is_and_none_of_its_tensors():
    state = model({"model": "a", "seed": 1}).state_dict()
    assert list(state) == ["frozen._extra_state", "head.weight", "head.bias"]
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert bytes(state["frozen._extra_state"].tolist()) == b'{"model": "a", "seed": 1}'
    assert list(External(frozen(), {"a": "b"}).state_dict()) == ["_extra_state"]


def test_a_state_fits_the_same_network_and_leaves_its_tensors_alone():
    saved, other = model({"model": "a"}, seed=1), model({"model": "a"}, seed=2)
    before = deepcopy(other["frozen"].module.state_dict())
    missing, unexpected = other.load_state_dict(saved.state_dict())
    assert not missing
    assert not unexpected
    assert torch.equal(other["head"].weight, saved["head"].weight)
    assert all(torch.equal(before[key], tensor) for key, tensor in other["frozen"].module.state_dict().items())


@pytest.mark.parametrize(
    ("saved", "now", "line"),
    [
        ({"model": "a", "pretrained": "x"}, {"model": "a", "pretrained": "y"}, "pretrained was 'x' and is 'y'"),
        ({"model": "a", "pretrained": "x"}, {"model": "a", "sha256": "0"}, "pretrained was 'x' and is None"),
        ({"model": "a"}, {"model": "a", "seed": 3}, "seed was None and is 3"),
    ],
)
def test_another_network_is_one_line(saved, now, line):
    with pytest.raises(UserInputError, match=line) as error:
        model(now).load_state_dict(model(saved).state_dict())
    assert "\n" not in str(error.value)


def test_a_state_without_it_is_refused():
    state = model({"model": "a"}).state_dict()
    del state["frozen._extra_state"]
    with pytest.raises(RuntimeError, match="frozen._extra_state"):
        model({"model": "a"}).load_state_dict(state)


def test_it_stays_frozen_and_in_evaluation_mode():
    whole = model({"model": "a"}).train()
    assert whole.training
    assert not whole["frozen"].module[2].training
    assert not any(p.requires_grad for p in whole["frozen"].parameters())
    before = deepcopy(whole["frozen"].module.state_dict())
    x = torch.randn(5, 3, requires_grad=True)
    whole["frozen"](x).sum().backward()
    assert x.grad is not None
    assert all(torch.equal(before[key], tensor) for key, tensor in whole["frozen"].module.state_dict().items())


def test_copies_keep_what_it_is():
    copied = deepcopy(model({"model": "a"}))
    assert copied["frozen"].identity == {"model": "a"}
    assert list(copied.state_dict()) == ["frozen._extra_state", "head.weight", "head.bias"]
