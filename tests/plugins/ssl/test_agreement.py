"""Methods that draw predictions together, in literal NumPy: pi_model, mean_teacher, vat, mixmatch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fercore import losses
from fercore.records.step import Role

K = 4


def test_pi_model(method, step, paper):
    s = step()
    plugin = method("pi_model")
    _, terms = s.run(plugin, s.model(plugin), s.clock(2))
    _, weak, weak2, _ = s.views()
    assert s.value(terms, "consistency") == s.near(paper.mean_squared(weak2, paper.softmax(weak)))
    assert terms["consistency"].weight == pytest.approx(5.0)
    terms["consistency"].value.backward()
    assert s.leaves["target", "weak"].grad is None  # the first view is the target


def test_mean_teacher(method, step, paper):
    s = step()
    plugin = method("mean_teacher", decay=0.75)
    model = s.model(plugin)
    running = model.backbone[1].running_mean.clone()
    shadow = {name: p.detach().clone() for name, p in model.named_parameters()}
    for turn in range(3):
        _, terms = s.run(plugin, model)
        with torch.no_grad():
            now = {name: p.clone() for name, p in model.named_parameters()}
            for name, p in model.named_parameters():
                p.copy_(shadow[name])
            teacher = model(torch.tensor(s.images["target", "weak"])).logits["main"]
            for name, p in model.named_parameters():
                p.copy_(now[name])
        assert s.value(terms, "consistency") == s.near(paper.mean_squared(s.views()[2], paper.softmax(teacher.numpy())))
        if turn == 0:
            model.backbone[1].running_mean.copy_(running)
            s.run(plugin, model)
            assert torch.equal(model.backbone[1].running_mean, running)  # the teacher leaves no trace
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        plugin.after_step(model)
        shadow = {name: 0.75 * shadow[name] + 0.25 * p.detach() for name, p in model.named_parameters()}


def test_vat_finds_the_worst_direction(method, step, paper):
    s = step()
    plugin = method("vat", xi=1e-3, iterations=60, eps=0.5)
    model = s.model(plugin).eval()
    images = torch.tensor(s.images["target", "weak"][:1])
    clean = model(images).logits["main"].detach()

    def gap(x):
        return losses.soft_kl(
            model(images + x.view_as(images)).logits["main"], clean.softmax(-1), torch.ones(1).double()
        )

    hessian = torch.autograd.functional.hessian(gap, torch.zeros(48, dtype=torch.float64))
    worst = torch.linalg.eigh(hessian).eigenvectors[:, -1]
    found = plugin.direction(model, images, clean).flatten()
    assert float(found.norm()) == pytest.approx(1.0)
    assert abs(float(found @ worst)) > 0.99


def test_vat(method, step, paper):
    s = step()
    plugin = method("vat", eps=2.0)
    model = s.model(plugin)
    torch.manual_seed(5)
    _, terms = s.run(plugin, model, s.clock(2))
    torch.manual_seed(5)
    images = torch.tensor(s.images["target", "weak"])
    clean = torch.tensor(s.logits["target", "weak"])
    moved = model(images + 2.0 * plugin.direction(model, images, clean)).logits["main"].detach().numpy()
    assert s.value(terms, "consistency") == s.near(paper.divergence(clean.numpy(), moved))
    assert terms["consistency"].weight == pytest.approx(0.5)
    p = paper.softmax(clean.numpy())
    assert s.value(terms, "entropy") == s.near(float(np.mean(-(p * np.log(p)).sum(1))))
    assert (terms["entropy"].role, terms["entropy"].weight) == (Role.REGULARISER, 0.06)


def test_mixmatch(method, step, paper, monkeypatch):
    import fercore_ssl.mixmatch as module

    s = step()
    plugin = method("mixmatch")
    model = s.model(plugin)
    order, factor = torch.randperm(15, generator=torch.Generator().manual_seed(0)), 0.7
    monkeypatch.setattr(module.torch, "randperm", lambda n: order)
    monkeypatch.setattr(module.Beta, "sample", lambda self: torch.tensor(1 - factor))
    _, terms = s.run(plugin, model, s.clock(2))
    _, weak, weak2, _ = s.views()
    guess = paper.sharpened((paper.softmax(weak) + paper.softmax(weak2)) / 2, 0.5)
    known = np.eye(K)[s.labels]
    images = np.concatenate([s.images[k] for k in (("source", "weak"), ("target", "weak"), ("target", "weak2"))])
    labels = np.concatenate([known, guess, guess])
    at = order.numpy()
    images, labels = (factor * a + (1 - factor) * a[at] for a in (images, labels))
    mine = model(torch.tensor(images[:3])).logits["main"].detach().numpy()
    others = model(torch.tensor(images[3:])).logits["main"].detach().numpy()
    supervised = np.mean([paper.soft_cross_entropy(z, p) for z, p in zip(mine, labels[:3], strict=True)])
    assert s.value(terms, "cross_entropy") == pytest.approx(float(supervised), rel=1e-6)
    assert s.value(terms, "consistency") == pytest.approx(paper.mean_squared(others, labels[3:]), rel=1e-6)
    assert terms["consistency"].weight == pytest.approx(5.0)


def test_mixing_factors_favour_the_sample_itself():
    from fercore_ssl.mixmatch import mix

    images, labels = torch.arange(4.0).view(4, 1, 1, 1), torch.eye(4)
    for seed in range(20):
        torch.manual_seed(seed)
        mixed, soft = mix(images, labels, 0.5)
        assert (soft.diagonal() >= 0.5).all()
        assert torch.allclose(soft.sum(1), torch.ones(4))
        assert torch.allclose(mixed.flatten(), soft @ torch.arange(4.0), atol=1e-6)
    assert mix(images, labels, 0)[0] is images
