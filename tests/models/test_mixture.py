"""The mixture of experts: equations, top-K gates, what learns and what cannot, and no loop over experts."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from fercore.models import ExpertMixture

KINDS = ("linear", "bottleneck", "residual")


@pytest.fixture(scope="module")
def leaf():
    path = Path(__file__).parents[1] / "plugins" / "leaf" / "paper.py"
    spec = importlib.util.spec_from_file_location("leaf_paper", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arrays(mixture):
    experts = mixture.experts
    return [w.detach().numpy() for w in experts.weights], [b.detach().numpy() for b in experts.biases]


def double(*args, seed=0, **kwargs):
    torch.manual_seed(seed)
    return ExpertMixture(*args, **kwargs).double()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dim", "count", "k"), [(5, 3, 1), (5, 4, 2), (1, 2, 2), (7, 3, 3), (6, 1, 1)])
def test_equations_2_to_5_value_and_gradient(leaf, kind, dim, count, k):
    mixture = double(dim, count, k, kind)
    x = np.random.default_rng(1).normal(size=(6, dim))
    w, (weights, biases) = mixture.gate.weight.detach().numpy(), arrays(mixture)
    leaf_x = torch.tensor(x, requires_grad=True)
    found = mixture(leaf_x)
    np.testing.assert_allclose(found.detach().numpy(), leaf.eq2_mixture(kind, w, weights, biases, x, k), rtol=1e-12)
    pull = np.random.default_rng(2).normal(size=found.shape)
    (found * torch.tensor(pull)).sum().backward()

    def of_x(value):
        return float((leaf.eq2_mixture(kind, w, weights, biases, value, k) * pull).sum())

    def of_w(value):
        return float((leaf.eq2_mixture(kind, value, weights, biases, x, k) * pull).sum())

    def of_first(value):
        return float((leaf.eq2_mixture(kind, w, [value, *weights[1:]], biases, x, k) * pull).sum())

    for tensor, function, at in (
        (leaf_x.grad, of_x, x),
        (mixture.gate.weight.grad, of_w, w),
        (mixture.experts.weights[0].grad, of_first, weights[0]),
    ):
        np.testing.assert_allclose(tensor.numpy(), leaf.gradient(function, at), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_only_the_top_k_weigh_and_they_sum_to_one(k):
    mixture = double(4, 5, k, "residual")
    gates = mixture.gate(torch.randn(20, 4, dtype=torch.float64)).exp()
    assert ((gates > 0).sum(1) == k).all()
    torch.testing.assert_close(gates.sum(1), torch.ones(20, dtype=torch.float64))


@pytest.mark.parametrize("k", [4, 5, 99])
def test_a_k_of_all_or_more_uses_all(k):
    mixture = double(4, 4, k, "linear")
    assert (mixture.gate(torch.randn(3, 4, dtype=torch.float64)).exp() > 0).all()


def test_ties_go_to_the_lower_index():
    mixture = ExpertMixture(3, 40, 2, "linear")
    torch.nn.init.zeros_(mixture.gate.weight)
    gates = mixture.gate(torch.randn(50, 3)).exp()
    assert gates[:, :2].tolist() == [[0.5, 0.5]] * 50


def test_the_official_gate_of_one_expert_gets_no_gradient():
    mixture = double(6, 8, 1, "residual", gate="noisy_topk", shared=True, combine="log")
    x = torch.randn(9, 6, dtype=torch.float64)
    answer = mixture(x)
    answer.square().sum().backward()
    assert mixture.gate.weight.grad.abs().max() == 0
    assert mixture.gate.noise.grad.abs().max() == 0
    torch.testing.assert_close(answer, mixture.experts(x)[0])
    assert mixture.experts.weights[0].grad.abs().sum() > 0


@pytest.mark.parametrize("gate", ["softplus_topk", "noisy_topk"])
def test_a_gate_of_one_stands_still_and_a_gate_of_two_learns(gate):
    def moved(k):
        torch.manual_seed(0)
        mixture = ExpertMixture(6, 4, k, "residual", gate=gate)
        before = mixture.gate.weight.detach().clone()
        x = torch.randn(64, 6)
        optimiser = torch.optim.SGD(mixture.parameters(), lr=0.1)
        losses = []
        for _ in range(60):
            loss = (mixture(x) - x.flip(1)).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        return (mixture.gate.weight.detach() - before).abs().max().item()

    assert moved(1) == 0
    assert moved(2) > 1e-3


@pytest.mark.parametrize("combine", ["linear", "log"])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_a_gate_over_experts_that_share_their_weights_learns_nothing(combine, k):
    mixture = double(6, 4, k, "residual", gate="noisy_topk", shared=True, combine=combine)
    mixture(torch.randn(9, 6, dtype=torch.float64)).square().sum().backward()
    torch.testing.assert_close(mixture.gate.weight.grad, torch.zeros(4, 6, dtype=torch.float64), rtol=0, atol=1e-12)
    assert mixture.experts.weights[0].grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["softplus_topk", "noisy_topk"])
@pytest.mark.parametrize("combine", ["linear", "log"])
@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extreme_inputs_are_finite_in_value_and_gradient(kind, combine, scale):
    torch.manual_seed(0)
    mixture = ExpertMixture(7, 4, 2, "residual", gate=kind, combine=combine)
    x = (scale * torch.eye(7)[:5]).requires_grad_()
    answer = mixture(x)
    answer.sum().backward()
    gradients = [p.grad for p in mixture.parameters() if p.grad is not None]
    assert all(torch.isfinite(t).all() for t in (answer, x.grad, *gradients))


def test_noise_is_for_training_only_and_follows_the_seed():
    mixture = ExpertMixture(4, 6, 2, "linear", gate="noisy_topk")
    x = torch.randn(5, 4)
    assert mixture.gate.weight.abs().sum() == 0
    torch.manual_seed(3)
    first = mixture.gate(x)
    assert not torch.equal(first, mixture.gate(x))
    torch.manual_seed(3)
    assert torch.equal(first, mixture.gate(x))
    mixture.eval()
    assert torch.equal(mixture.gate(x), mixture.gate(x))
    assert (mixture.gate(x).exp()[:, :2] == 0.5).all()


def test_noise_has_the_published_scale():
    mixture = double(3, 2, 2, "linear", gate="noisy_topk")
    torch.nn.init.normal_(mixture.gate.noise)
    x = torch.randn(1, 3, dtype=torch.float64)
    draws = mixture.gate.scores(x.expand(4000, -1))
    scale = torch.nn.functional.softplus(x @ mixture.gate.noise.T)[0] + 0.01
    torch.testing.assert_close(draws.std(0), scale, rtol=0.05, atol=0)


def test_shared_experts_are_one_network():
    mixture = double(5, 8, 2, "residual", shared=True)
    x = torch.randn(4, 5, dtype=torch.float64)
    assert mixture.experts.weights[0].shape == (1, 5, 2)
    torch.testing.assert_close(mixture(x), mixture.experts(x)[0])


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_logarithmic_sum_is_what_the_code_means(k):
    mixture = double(3, 4, k, "bottleneck", combine="log")
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    gates, answers = mixture.gate(x).exp(), mixture.experts(x)
    torch.testing.assert_close(mixture(x), torch.einsum("bn,nbd->bd", gates, answers.exp()).log())
    mixture(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_the_logarithmic_sum_neither_overflows_nor_underflows():
    mixture = ExpertMixture(3, 4, 2, "residual", combine="log")
    for scale in (1e4, -1e4):
        x = torch.full((2, 3), scale, requires_grad=True)
        answer = mixture(x)
        answer.sum().backward()
        assert torch.isfinite(answer).all()
        assert torch.isfinite(x.grad).all()
        assert all(torch.isfinite(p.grad).all() for p in mixture.parameters())


class Calls(TorchFunctionMode):
    """Names of the torch functions that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.append(getattr(func, "__name__", str(func)))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_operations_does_not_grow_with_experts_or_samples(kind):
    def names(count, samples):
        mixture, x = ExpertMixture(6, count, 2, kind), torch.randn(samples, 6)
        with Calls() as calls:
            mixture(x)
        return [name for name in calls.names if name != "__get__"]

    assert names(2, 3) == names(16, 3) == names(16, 64)
    assert not {"nonzero", "item", "tolist"} & set(names(4, 8))


def test_imbalance_is_the_squared_variation_of_the_summed_weights():
    mixture = double(4, 3, 2, "linear", balance=True)
    x = torch.randn(10, 4, dtype=torch.float64)
    assert mixture.take_imbalance() is None
    mixture(x)
    mixture(x[:4])
    expected = []
    for rows in (x, x[:4]):
        importance = mixture.gate(rows).exp().sum(0).detach().numpy()
        expected.append(importance.var() / importance.mean() ** 2)
    found = mixture.take_imbalance()
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-5)
    found.backward()
    assert mixture.gate.weight.grad.abs().sum() > 0
    assert mixture.take_imbalance() is None


def test_imbalance_is_kept_for_training_forwards_alone():
    mixture = ExpertMixture(4, 3, 2, "linear", balance=True)
    with torch.no_grad():
        mixture(torch.randn(2, 4))
    mixture.eval()(torch.randn(2, 4))
    assert mixture.take_imbalance() is None
    plain = ExpertMixture(4, 3, 2, "linear")
    plain(torch.randn(2, 4))
    assert plain.take_imbalance() is None


@pytest.mark.parametrize("sizes", [(0, 2, 1), (3, 0, 1), (3, 2, 0)])
def test_sizes_below_one_are_refused(sizes):
    with pytest.raises(ValueError, match="must be at least 1"):
        ExpertMixture(*sizes, "linear")


@pytest.mark.parametrize("count", [0, 1])
def test_empty_batches_and_single_samples(count):
    mixture = ExpertMixture(7, 4, 2, "residual")
    assert mixture(torch.randn(count, 7)).shape == (count, 7)


def test_half_precision():
    mixture = ExpertMixture(8, 4, 2, "residual")
    x = torch.randn(5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = mixture(x)
    torch.testing.assert_close(half.float(), mixture(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("kind", ["linear", "residual"])
@pytest.mark.parametrize("combine", ["linear", "log"])
def test_experts_as_identity_change_little_and_differ(kind, combine):
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(0)).double()
    near, far = (double(32, 4, 2, kind, combine=combine, as_identity=given) for given in (True, False))
    change = [float((mixture(x) - x).detach().norm() / x.norm()) for mixture in (near, far)]
    assert change[0] < 0.1 < change[1]
    experts = near.experts(x)
    assert not torch.equal(experts[0], experts[1])


def test_bottlenecks_cannot_begin_as_identity():
    with pytest.raises(ValueError, match="bottleneck"):
        double(8, 2, 1, "bottleneck", as_identity=True)
