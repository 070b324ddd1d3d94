"""What a method cannot work with is told in a line; networks of other norms, and memories at their edge."""

from __future__ import annotations

import pytest
import torch
from fercore_test_time.memory import Memory
from fercore_test_time.t3a import surest
from torch import nn

from fercore.engine.online import refuse_other_forward
from fercore.errors import UserInputError
from fercore.hooks.discovery import installed_plugins, load_class
from fercore.models import batch_norms, norm_parameters
from tests.plugins.test_time.conftest import CLASSES, Network, answers, online, small_network, stream


class Nothing(nn.Identity):
    """Stands for a norm in a network without any."""

    def __init__(self, channels):
        super().__init__()


def grouped(channels):
    return nn.GroupNorm(1, channels)


@pytest.mark.parametrize("name", ["tent", "eata", "sar", "delta", "rotta", "note"])
def test_a_network_without_norms_is_refused_by_name(name):
    with pytest.raises(UserInputError, match=f"{name} trains scale and shift .* Sequential has no normalisation layer"):
        online(name, small_network(Nothing))


def test_adabn_needs_batch_normalisation():
    with pytest.raises(UserInputError, match="adabn adapts batch statistics, and the network Sequential has none"):
        online("adabn", small_network(grouped))
    with pytest.raises(UserInputError, match="no batch normalisation") as caught:
        online("tent", small_network(grouped), {"affine_of": "batch_norm"})
    assert "affine_of=any_norm" in str(caught.value)


@pytest.mark.parametrize("name", ["tent", "eata", "sar", "cotta"])
def test_a_batch_of_one_is_refused_where_statistics_are_the_batch_s(name):
    with pytest.raises(UserInputError, match="a batch of one"):
        online(name, small_network(), batch=1)


@pytest.mark.parametrize("name", ["tent", "eata", "sar", "delta", "rotta", "note", "cotta", "memo", "lame", "t3a"])
def test_networks_of_other_norms_and_batches_of_one_adapt_where_defined(name, monkeypatch):
    for module in ("cotta", "rotta", "memo"):
        monkeypatch.setattr(f"fercore_test_time.{module}.face_views", lambda model, images: images)
    small = {"rotta": {"memory": 8}, "note": {"memory": 8}, "cotta": {"views": 2}, "memo": {"views": 2}}
    network = small_network(grouped)
    before = {key: p.detach().clone() for key, p in network.named_parameters()}
    given = answers(online(name, network, small.get(name, {}), batch=1), stream("batch_of_one", 20))
    assert all(torch.isfinite(probs).all() for probs in given)
    moved = any(not torch.equal(before[key], p) for key, p in network.named_parameters() if key in before)
    assert moved == (name not in ("lame", "t3a", "memo"))


def test_what_sar_leaves_alone():
    network = small_network()
    assert norm_parameters(network, "any_norm", frozen=("norm2",), who="sar") == (
        "backbone.norm1.weight",
        "backbone.norm1.bias",
    )
    assert len(batch_norms(network)) == 2
    given = online("sar", network, {"frozen": ["norm2"]})
    kept = network.backbone.norm2.weight.detach().clone()
    answers(given, stream("shuffled", 5))
    assert torch.equal(kept, network.backbone.norm2.weight)


def test_t3a_needs_a_linear_head_and_keeps_every_class():
    network = small_network()
    network.heads["main"] = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, CLASSES))
    with pytest.raises(UserInputError, match="t3a needs a linear head"):
        online("t3a", network)
    labels, entropy = torch.tensor([0, 1, 0, 1, 0]), torch.tensor([0.3, 0.2, 0.1, 0.4, 0.2])
    assert surest(labels, entropy, 2, 2).tolist() == [2, 4, 1, 3]


def test_methods_that_run_the_network_themselves_want_one_that_answers_so():
    class Hooked(Network):
        """A model whose plugin turns images before the network sees them."""

        from fercore.hooks import hookimpl

        @hookimpl(trylast=True)
        def encode(self, model, batch, view):
            return model(batch.images[view] + 1)

    from fercore.builtin.defaults import Defaults
    from fercore.hooks.manager import Plugins

    for name, refused in (("memo", True), ("tent", False)):
        cls = load_class(installed_plugins()[name])
        method = cls(name, cls.Settings())
        network = small_network().float()
        for given in (Network(network), Hooked(network)):
            plugins = Plugins([given, Defaults()], [method], {})
            if refused and isinstance(given, Hooked):
                with pytest.raises(UserInputError, match="memo runs the network several times"):
                    refuse_other_forward([method], plugins, network, 6)
            else:
                refuse_other_forward([method], plugins, network, 6)


def test_a_memory_is_full_at_its_size_and_lets_the_worst_go():
    memory = Memory(4, 2)
    for number, (label, entropy) in enumerate([(0, 0.1), (0, 0.6), (0, 0.2), (1, 0.3), (1, 0.2), (1, 0.1)]):
        memory.add_timely(torch.full((3, 2, 2), float(number)), label, entropy, 1.0, 1.0)
    assert memory.shares() == [2, 2]
    assert memory.images[memory.by_class()][:, 0, 0, 0].tolist() == [0.0, 2.0, 4.0, 5.0]
    assert memory.ages[memory.by_class()].tolist() == [6, 4, 2, 1]
    reservoir = Memory(4, 2)
    for number in range(50):
        reservoir.add_balanced(torch.full((3, 2, 2), float(number)), int(number % 10 == 0))
    assert sum(reservoir.shares()) == 4
    assert reservoir.shares() == [2, 2]
    assert reservoir.counts.tolist() == [45, 5]
