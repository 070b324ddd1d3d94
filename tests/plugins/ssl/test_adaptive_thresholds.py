"""Methods whose thresholds follow the predictions, over several steps, in literal NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fercore import losses
from fercore.config import RunConfig
from fercore.records.plan import StepReport
from fercore.records.step import EncodedDataset, Progress, Role

K = 4


@pytest.mark.parametrize("warmup", [True, False])
def test_flexmatch_over_steps(method, step, paper, warmup):
    s = step(unlabelled=5, scale=4.0)
    plugin = method("flexmatch", p_cutoff=0.7, thresh_warmup=warmup)
    model = s.model(plugin, n=12)
    learnt = [-1] * 12
    seen = set()
    for turn in range(6):
        s.logits = {key: 4.0 * s.rng.normal(size=z.shape) for key, z in s.logits.items()}
        s.index = s.rng.choice(12, 5, replace=False)
        _, weak, _, strong = s.views()
        levels = paper.flexmatch_thresholds(learnt, K, 0.7, warmup)
        found = losses.curriculum_thresholds(torch.tensor(learnt), K, 0.7, warmup=warmup)
        np.testing.assert_allclose(found.numpy(), levels, rtol=1e-6)
        probs = [paper.softmax(z) for z in weak]
        mask = [p.max() >= levels[p.argmax()] for p in probs]
        expected = sum(
            paper.cross_entropy(z, int(p.argmax())) for z, p, m in zip(strong, probs, mask, strict=True) if m
        )
        pseudo, terms = s.run(plugin, model)
        assert pseudo.weight.tolist() == [float(m) for m in mask]
        assert s.value(terms, "consistency") == s.near(expected / 5)
        for i, p in zip(s.index.tolist(), probs, strict=True):
            if p.max() >= 0.7:
                learnt[i] = int(p.argmax())
        assert model.parts["flexmatch/state"].learnt.tolist() == learnt
        seen.add(tuple(round(x, 6) for x in levels))
        assert turn < 5 or len(seen) > 2


def test_flexmatch_takes_all_before_anything_is_learnt(method, step):
    s = step(scale=0.1)
    plugin = method("flexmatch")
    pseudo, _ = s.run(plugin, s.model(plugin))
    assert pseudo.weight.tolist() == [1.0] * 6


def test_freematch_over_steps(method, step, paper):
    s = step()
    plugin = method("freematch", ema_p=0.7, ent_loss_ratio=0.5)
    model = s.model(plugin)
    state = (1 / K, [1 / K] * K, [1 / K] * K)
    shares = []
    for _ in range(4):
        s.logits = {key: 3.0 * s.rng.normal(size=z.shape) for key, z in s.logits.items()}
        _, weak, _, strong = s.views()
        probs = paper.softmax(weak)
        state, levels = paper.freematch_step(state, probs, 0.7)
        mask = [p.max() >= levels[p.argmax()] for p in probs]
        pseudo, terms = s.run(plugin, model)
        assert pseudo.weight.tolist() == [float(m) for m in mask]
        expected = sum(paper.cross_entropy(z, p.argmax()) for z, p, m in zip(strong, probs, mask, strict=True) if m)
        assert s.value(terms, "consistency") == pytest.approx(expected / 6, rel=1e-6)
        fairness = paper.freematch_fairness(strong, mask, state[1], state[2])
        assert s.value(terms, "fairness") == pytest.approx(fairness, rel=1e-6)
        assert (terms["fairness"].role, terms["fairness"].weight) == (Role.REGULARISER, 0.5)
        shares.append(float(np.mean(mask)))
    kept = model.parts["freematch/state"]
    assert float(kept.level) == pytest.approx(state[0], rel=1e-6)
    np.testing.assert_allclose(kept.probs.numpy(), state[1], rtol=1e-6)
    np.testing.assert_allclose(kept.histogram.numpy(), state[2], rtol=1e-6)
    assert 0 < min(shares) < 1


def test_freematch_switches(method, step):
    s = step(scale=8.0)
    plugin = method("freematch", ema_p=0.0, use_quantile=True, clip_thresh=True, ent_loss_ratio=0.0)
    model = s.model(plugin)
    _, terms = s.run(plugin, model)
    assert set(terms) == {"cross_entropy", "consistency"}
    top = torch.tensor(s.logits["target", "weak"]).softmax(-1).amax(-1)
    assert float(model.parts["freematch/state"].level) == pytest.approx(min(0.95, float(top.quantile(0.8))))


@pytest.mark.parametrize("settings", [{}, {"per_class": True}, {"dist_align": False}, {"dist_uniform": False}], ids=str)
def test_softmatch_over_steps(method, step, paper, settings):
    s = step(unlabelled=30)
    plugin = method("softmatch", ema_p=0.6, n_sigma=3.0, **settings)
    model = s.model(plugin)
    size = K if settings.get("per_class") else 1
    mean, variance = [1 / K] * size, [1.0] * size
    seen, wanted = None, np.full(K, 1 / K)
    for _ in range(3):
        s.logits = {key: 3.0 * s.rng.normal(size=z.shape) for key, z in s.logits.items()}
        labelled, weak, _, strong = s.views()
        probs = paper.softmax(weak)
        moved = probs
        if settings.get("dist_align", True):
            seen = probs.mean(0) if seen is None else 0.6 * seen + 0.4 * probs.mean(0)
            if not settings.get("dist_uniform", True):
                wanted = 0.6 * wanted + 0.4 * paper.softmax(labelled).mean(0)
            moved = np.array([paper.aligned(p, seen, wanted) for p in probs])
        places = [int(p.argmax()) if size > 1 else 0 for p in moved]
        for c in range(size):
            mine = [p.max() for p, place in zip(moved, places, strict=True) if place == c]
            found = (np.mean(mine), np.var(mine, ddof=1)) if len(mine) > 1 else (0.0, 1.0)
            mean[c], variance[c] = 0.6 * mean[c] + 0.4 * found[0], 0.6 * variance[c] + 0.4 * found[1]
        weights = [
            paper.softmatch_weight(p.max(), mean[c], variance[c], 3.0) for p, c in zip(moved, places, strict=True)
        ]
        pseudo, terms = s.run(plugin, model)
        np.testing.assert_allclose(pseudo.weight.numpy(), weights, rtol=1e-6)
        expected = sum(w * paper.cross_entropy(z, p.argmax()) for w, z, p in zip(weights, strong, probs, strict=True))
        assert s.value(terms, "consistency") == pytest.approx(expected / 30, rel=1e-6)
        assert min(weights) < 1


@pytest.mark.parametrize("align", [True, False])
def test_adamatch_over_steps(method, step, paper, align):
    s = step()
    plugin = method("adamatch", ema_p=0.6, p_cutoff=0.9, dist_align=align)
    model = s.model(plugin)
    seen, wanted = None, np.full(K, 1 / K)
    for _ in range(3):
        s.logits = {key: 2.0 * s.rng.normal(size=z.shape) for key, z in s.logits.items()}
        labelled, weak, _, strong = s.views()
        probs, known = paper.softmax(weak), paper.softmax(labelled)
        seen = probs.mean(0) if seen is None else 0.6 * seen + 0.4 * probs.mean(0)
        wanted = 0.6 * wanted + 0.4 * known.mean(0)
        moved = np.array([paper.aligned(p, seen, wanted) for p in probs]) if align else probs
        level = 0.9 * np.mean(known.max(1))
        mask = moved.max(1) >= level
        expected = sum(paper.cross_entropy(z, p.argmax()) for z, p, m in zip(strong, moved, mask, strict=True) if m)
        pseudo, terms = s.run(plugin, model)
        assert pseudo.weight.tolist() == mask.astype(float).tolist()
        assert s.value(terms, "consistency") == pytest.approx(expected / 6, rel=1e-6)


def test_adamatch_interpolates_between_alone_and_joint(method, step):
    s = step()
    plugin = method("adamatch", interpolate=True)
    model = s.model(plugin)
    torch.manual_seed(3)
    _, terms = s.run(plugin, model)
    joint = model(
        torch.cat([torch.tensor(s.images[k]) for k in (("source", "weak"), ("target", "weak"), ("target", "strong"))])
    )
    joint = joint.logits["main"][:3].detach()
    torch.manual_seed(3)
    alone = torch.tensor(s.logits["source", "weak"])
    share = torch.rand_like(alone)
    mixed = share * joint + (1 - share) * alone
    expected = torch.nn.functional.cross_entropy(mixed, torch.tensor(s.labels))
    assert s.value(terms, "cross_entropy") == s.near(float(expected))


def test_adacm(method, step, paper):
    s = step(scale=2.0)
    plugin = method("adacm")
    model = s.model(plugin)
    model.parts["adacm/state"].levels.copy_(torch.tensor([0.5, 0.7, 0.8, 0.6]))
    labelled, weak, weak2, strong = s.views()
    mean = (paper.softmax(weak) + paper.softmax(weak2)) / 2
    mask = [p.max() >= [0.5, 0.7, 0.8, 0.6][p.argmax()] for p in mean]
    assert 0 < sum(mask) < 5
    pseudo, terms = s.run(plugin, model)
    expected = sum(paper.cross_entropy(z, p.argmax()) for z, p, m in zip(strong, mean, mask, strict=True) if m) / 6
    assert s.value(terms, "consistency") == s.near(expected)
    assert s.value(terms, "cross_entropy") == s.near(paper.labelled_loss(labelled, s.labels))
    unsure = [i for i, m in enumerate(mask) if not m]
    rows = [s.features["target", name][unsure] for name in ("weak", "weak2")]
    assert s.value(terms, "contrast") == s.near(paper.simclr(*rows, 0.07))
    assert [terms[n].weight for n in ("cross_entropy", "consistency", "contrast")] == [0.5, 1.0, 0.1]
    assert pseudo.weight.tolist() == [float(m) for m in mask]


def test_adacms_network_is_the_released_one(method):
    """Pooled features, dropout 0.5, length 1, linear; rows of a matrix of their own, float64."""
    torch.manual_seed(0)
    tiny = {"backbone_args": {"resnet18": {"channels": [8, 8, 8, 16]}}}
    model = method("adacm").build_model(RunConfig.model_validate({"model": tiny}), 7, None).double()
    images = torch.rand(5, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        model.train()
        dropped = model(images).features["main"].numpy()
        model.eval()
        found, pooled = model(images), model.backbone(images).numpy()
    assert 0.25 < (dropped == 0).mean() < 0.85
    np.testing.assert_allclose((dropped**2).sum(1), 1, rtol=1e-12)
    unit = np.stack([row / math.sqrt(sum(x * x for x in row)) for row in pooled])
    np.testing.assert_allclose(found.features["main"].numpy(), unit, rtol=1e-12)
    (layer,) = [m for m in model.heads["main"].modules() if isinstance(m, torch.nn.Linear)]
    logits = unit @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    np.testing.assert_allclose(found.logits["main"].numpy(), logits, rtol=1e-12)


def test_adacms_logits_are_small_at_first(method):
    torch.manual_seed(0)
    model = method("adacm").build_model(RunConfig(), 7, None).eval()
    with torch.no_grad():
        assert model(torch.rand(8, 3, 64, 64)).logits["main"].abs().max() < 0.2


@pytest.mark.parametrize("buffers", [False, True])
def test_adacm_decays_its_weights_after_a_step(method, step, buffers):
    plugin = method("adacm", shrink_buffers=buffers)
    model = step().model(plugin)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plugin.after_step(model, StepReport("train", "main", 0, 0, {}, 0.0, (0.5,), 9))
    for name, tensor in model.state_dict().items():
        decayed = name in dict(model.named_parameters()) or (buffers and "running" in name)
        torch.testing.assert_close(tensor, before[name] * (1 - 0.02 * 0.5) if decayed else before[name], rtol=0, atol=0)


def test_adacm_without_or_with_one_unsure_sample(method, step):
    for floor, left in ((1e-6, 0), (1.0, 6)):
        s = step()
        plugin = method("adacm", floor=floor)
        pseudo, terms = s.run(plugin, s.model(plugin))
        assert int((pseudo.weight == 0).sum()) == left
        assert math.isfinite(s.value(terms, "contrast"))
        assert (s.value(terms, "contrast") == 0) == (left == 0)


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_thresholds_from_labelled_samples(paper, epoch):
    rng = np.random.default_rng(epoch)
    probs, labels = paper.softmax(4 * rng.normal(size=(40, K))), rng.integers(0, K - 1, 40)
    found = losses.labelled_thresholds(torch.tensor(probs), torch.tensor(labels), epoch, floor=0.4)
    np.testing.assert_allclose(found.numpy(), paper.adacm_thresholds(probs, labels, epoch, 0.4, 0.97, K), rtol=1e-12)
    assert found[K - 1] == 0.4
    assert losses.labelled_thresholds(torch.tensor(probs), torch.tensor(labels), epoch, scale=9.0).max() == 1


@pytest.mark.parametrize("finished", [1, 2, 9])
def test_adacm_renews_its_thresholds_after_every_epoch(method, step, paper, finished):
    s = step()
    plugin = method("adacm", floor=0.3)
    model = s.model(plugin)
    rng = np.random.default_rng(3)
    z, labels = 3 * rng.normal(size=(40, K)), rng.integers(0, K, 40)

    def encode_dataset(side):
        assert side == "source"
        zero = torch.zeros(40, dtype=torch.int64)
        return EncodedDataset({}, {"main": torch.tensor(z)}, torch.tensor(labels), zero, zero)

    assert plugin.refresh(model, Progress("train", "", 0, 0, 9), encode_dataset) is None
    told = plugin.refresh(model, Progress("train", "", finished, 3, 9), encode_dataset)
    expected = paper.adacm_thresholds(paper.softmax(z), labels, finished, 0.3, 0.97, K)
    assert min(expected) > 0.3
    np.testing.assert_allclose(model.parts["adacm/state"].levels.numpy(), expected, rtol=1e-6)
    assert told == {"adacm/mean_threshold": pytest.approx(np.mean(expected))}
