"""Equations 7 to 13 against literal loops in float64, values and gradients."""

from __future__ import annotations

import pytest
import torch
from fercore_pca.alignment import ImageGuidedAlignment, RowNorm, attend
from fercore_pca.scores import aligned_logits, cosine_logits, infer, label_loss

CLASSES, DIM, HIDDEN, BATCH = 3, 4, 3, 5


@pytest.fixture
def scene():
    """Leaves in float64: image features, text features, centres of both domains, labels, and the projectors."""

    def make(norm="layer", eps=10.0):
        torch.manual_seed(1)
        module = ImageGuidedAlignment(DIM, HIDDEN, norm=norm, eps=eps).double()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.randn_like(parameter))
        leaves = {
            "features": torch.randn(BATCH, DIM, dtype=torch.float64, requires_grad=True),
            "texts": torch.randn(CLASSES, DIM, dtype=torch.float64, requires_grad=True),
            "centres": torch.randn(2, CLASSES, DIM, dtype=torch.float64, requires_grad=True),
        }
        return module, leaves, torch.tensor([0, 2, -1, 1, 0])

    return make


def layers(module):
    one, norm_1, _, two, norm_2, _, three = module.project
    pairs = [(layer.weight, layer.bias) for layer in (one, norm_1, two, norm_2, three)]
    return tuple(pairs), (module.back.weight, module.back.bias)


def gradients(value, module, leaves):
    names = [*leaves, *(name for name, _ in module.named_parameters())]
    wanted = [*leaves.values(), *module.parameters()]
    found = torch.autograd.grad(value, wanted, allow_unused=True)
    return {name: torch.zeros(()) if g is None else g for name, g in zip(names, found, strict=True)}


def both_terms(module, leaves, labels, scale, *, score="cosine", beta=1.0):
    allowed = torch.ones(2, CLASSES, dtype=torch.bool)
    x = module(leaves["features"], leaves["centres"], allowed)
    cls = label_loss(cosine_logits(leaves["features"], leaves["texts"], scale), labels)
    return cls, label_loss(aligned_logits(x, leaves["texts"], scale, score=score, beta=beta), labels)


@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize(("scale", "eps"), [(1.0, 10.0), (30.0, 0.5)])
def test_the_whole_loss_and_its_gradients_are_those_of_the_paper(paper, scene, norm, scale, eps):
    module, leaves, labels = scene(norm, eps)
    cls, iga = both_terms(module, leaves, labels, scale)
    f_pr, f_po = layers(module)
    kind = paper.layer_norm if norm == "layer" else paper.batch_norm
    _, x = paper.aligned(leaves["features"], leaves["centres"], f_pr, f_po, eps, kind)
    wanted_cls = paper.cross_entropy([paper.equation_7(f, leaves["texts"], scale) for f in leaves["features"]], labels)
    wanted_iga = paper.cross_entropy([paper.equation_7(f, leaves["texts"], scale) for f in x], labels)
    torch.testing.assert_close(cls, wanted_cls, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(iga, wanted_iga, rtol=1e-10, atol=1e-12)
    found = gradients(0.5 * cls + 0.7 * iga, module, leaves)
    wanted = gradients(paper.equation_13(wanted_cls, wanted_iga, 0.5, 0.7), module, leaves)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-11, msg=name)
    assert all(float(found[name].abs().max()) > 0 for name in (*leaves, "project.0.weight", "back.weight"))


def test_the_sum_of_logits_keeps_the_length_of_both_halves(paper, scene):
    module, leaves, _ = scene()
    allowed = torch.ones(2, CLASSES, dtype=torch.bool)
    x = module(leaves["features"], leaves["centres"], allowed)
    found = aligned_logits(x, leaves["texts"], 20.0, score="sum_logits", beta=0.1)
    halves, _ = paper.aligned(leaves["features"], leaves["centres"], *layers(module), 10.0)
    for i in range(BATCH):
        for c in range(CLASSES):
            wanted = sum(0.1 * 20 * paper.sim(half[i], leaves["texts"][c]) for half in halves)
            torch.testing.assert_close(found[i, c], wanted)


def test_probabilities_of_every_rule(paper, scene):
    _, leaves, _ = scene()
    first = cosine_logits(leaves["features"], leaves["texts"], 7.0).detach()
    second = torch.randn(BATCH, CLASSES, dtype=torch.float64)
    logits = {"cls": first, "iga": second}
    for i in range(BATCH):
        p, q = paper.softmax(list(first[i])), paper.softmax(list(second[i]))
        rules = {
            "cls": p,
            "iga": q,
            "weighted": [(0.5 * a + 1.5 * b) / 2 for a, b in zip(p, q, strict=True)],
            "pda": paper.softmax([a + 0.5 * b for a, b in zip(first[i], second[i], strict=True)]),
        }
        for rule, wanted in rules.items():
            found = infer(logits, rule, (0.5, 1.5))[i]
            torch.testing.assert_close(found, torch.stack(wanted), msg=rule)
    torch.testing.assert_close(infer({"cls": first}, "cls", (0.5, 0.0)).sum(1), torch.ones(BATCH, dtype=torch.float64))


def test_samples_without_a_label_count_for_nothing():
    logits = torch.randn(4, CLASSES, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([2, -1, 0, -1])
    value = label_loss(logits, labels)
    wanted = torch.nn.functional.cross_entropy(logits[[0, 2]], labels[[0, 2]])
    torch.testing.assert_close(value, wanted)
    weight = torch.tensor([1.0, 1.0, 0.0, 1.0])
    alone = torch.nn.functional.cross_entropy(logits[:1], labels[:1])
    torch.testing.assert_close(label_loss(logits, labels, weight), alone)
    nothing = label_loss(logits, torch.full((4,), -1))
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert not logits.grad.any()


def test_a_masked_centre_is_not_looked_at():
    torch.manual_seed(0)
    queries, keys, values = torch.randn(5, 4), torch.randn(3, 4), torch.randn(3, 4)
    allowed = torch.tensor([True, False, True])
    found = attend(queries, keys, values, 2.0, allowed)
    torch.testing.assert_close(found, attend(queries, keys[[0, 2]], values[[0, 2]], 2.0, torch.tensor([True, True])))
    huge = attend(1e4 * queries, 1e4 * keys, values, 1.0, allowed)
    assert torch.isfinite(huge).all()


@pytest.mark.parametrize("eps", [0.0, -1.0, float("nan")])
def test_eps_must_be_above_zero(eps):
    one = torch.ones(1, 2)
    with pytest.raises(ValueError, match="above 0"):
        attend(one, one, one, eps, torch.tensor([True]))


def test_a_feature_of_no_length_stays_finite():
    module = ImageGuidedAlignment(4, 2)
    features = torch.zeros(2, 4, requires_grad=True)
    centres = torch.randn(2, 3, 4)
    x = module(features, centres, torch.ones(2, 3, dtype=torch.bool))
    loss = label_loss(
        cosine_logits(x, centres[0], 100.0) + cosine_logits(features, centres[0], 100.0), torch.tensor([0, 1])
    )
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(features.grad).all()


def test_a_batch_of_one_takes_running_statistics_under_batch_norm():
    module = ImageGuidedAlignment(4, 2, norm="batch")
    norms = [layer for layer in module.project if isinstance(layer, RowNorm)]
    for layer in norms:
        layer.running_mean.fill_(0.3)
    row = torch.randn(1, 2)
    trained = norms[0](row)
    assert torch.equal(trained, norms[0].eval()(row))
    assert torch.equal(norms[0].running_mean, torch.full((2,), 0.3))
    x = module.train()(torch.randn(1, 4), torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))
    assert torch.isfinite(x).all()


def test_a_zero_start_leaves_images_where_they_are():
    module = ImageGuidedAlignment(4, 2, start="zero")
    features = torch.randn(3, 4)
    x = module(features, torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))
    torch.testing.assert_close(x, 2 * torch.nn.functional.normalize(features))
    x.sum().backward()
    assert module.back.weight.grad.abs().sum() > 0
