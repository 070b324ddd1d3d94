"""Each method's step against its equations in literal NumPy, with gradients, ties, empty masks and extreme logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fercore import losses
from fercore.types import Role

K = 4


def value(terms, name):
    return float(terms[name].value.detach())


def near(expected):
    return pytest.approx(expected, rel=1e-9, abs=1e-12)


def keys(s):
    return (
        s.logits["source", "weak"],
        s.logits["target", "weak"],
        s.logits["target", "weak2"],
        s.logits["target", "strong"],
    )


@pytest.mark.parametrize("threshold", [0.3, 0.8, 0.999999])
def test_fixmatch(method, step, paper, threshold):
    s = step()
    plugin = method("fixmatch", p_cutoff=threshold, lambda_u=2.0)
    pseudo, terms = s.run(plugin, s.model(plugin))
    labelled, weak, _, strong = keys(s)
    assert value(terms, "cross_entropy") == near(paper.labelled_loss(labelled, s.labels))
    assert value(terms, "consistency") == near(paper.fixmatch(weak, strong, threshold))
    assert (terms["consistency"].weight, terms["consistency"].role) == (2.0, Role.CONSISTENCY)
    assert pseudo.labels.tolist() == weak.argmax(1).tolist()
    terms["consistency"].value.backward()
    chosen = paper.softmax(weak).max(1) >= threshold
    expected = (paper.softmax(strong) - np.eye(K)[weak.argmax(1)]) * chosen[:, None] / len(weak)
    np.testing.assert_allclose(s.leaves["target", "strong"].grad.numpy(), expected, atol=1e-12)
    assert s.leaves["target", "weak"].grad is None


def test_fixmatch_with_soft_labels(method, step, paper):
    s = step()
    plugin = method("fixmatch", p_cutoff=0.5, hard_label=False, T=0.25)
    _, terms = s.run(plugin, s.model(plugin))
    assert value(terms, "consistency") == near(paper.soft_above(*keys(s)[1::2], 0.5, 0.25))


@pytest.mark.parametrize("schedule", ["none", "linear", "log", "exp"])
def test_uda(method, step, paper, schedule):
    s = step()
    plugin = method("uda", tsa_schedule=schedule)
    _, terms = s.run(plugin, s.model(plugin), s.clock(4))
    labelled, weak, _, strong = keys(s)
    assert value(terms, "consistency") == near(paper.soft_above(weak, strong, 0.8, 0.4))
    progress = 0.4
    share = {"none": 1.0, "linear": progress, "log": 1 - math.exp(-5 * progress), "exp": math.exp(5 * (progress - 1))}
    level = 1.0 if schedule == "none" else share[schedule] * (1 - 1 / K) + 1 / K
    kept = [paper.softmax(z).max() <= level for z in labelled]
    expected = sum(paper.cross_entropy(z, y) for z, y, k in zip(labelled, s.labels, kept, strict=True) if k)
    assert value(terms, "cross_entropy") == near(expected / len(labelled))
    assert schedule == "none" or not all(kept) or expected > 0


def test_annealing_leaves_samples_out(method, step, paper):
    s = step(scale=6.0)
    plugin = method("uda", tsa_schedule="exp")
    _, terms = s.run(plugin, s.model(plugin), s.clock(0))
    assert value(terms, "cross_entropy") < paper.labelled_loss(keys(s)[0], s.labels)


def test_pseudo_label_and_its_rise(method, step, paper):
    s = step()
    plugin = method("pseudo_label", p_cutoff=0.6)
    for done, weight in ((0, 0.0), (2, 0.5), (4, 1.0), (9, 1.0)):
        _, terms = s.run(plugin, s.model(plugin), s.clock(done))
        weak = keys(s)[1]
        assert value(terms, "consistency") == near(paper.fixmatch(weak, weak, 0.6))
        assert terms["consistency"].weight == pytest.approx(weight)


def test_pi_model(method, step, paper):
    s = step()
    plugin = method("pi_model")
    _, terms = s.run(plugin, s.model(plugin), s.clock(2))
    _, weak, weak2, _ = keys(s)
    assert value(terms, "consistency") == near(paper.mean_squared(weak2, paper.softmax(weak)))
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
        assert value(terms, "consistency") == near(paper.mean_squared(keys(s)[2], paper.softmax(teacher.numpy())))
        if turn == 0:
            model.backbone[1].running_mean.copy_(running)
            s.run(plugin, model)
            assert torch.equal(model.backbone[1].running_mean, running)  # the teacher leaves no trace
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        plugin.after_step(model)
        shadow = {name: 0.75 * shadow[name] + 0.25 * p.detach() for name, p in model.named_parameters()}


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
        _, weak, _, strong = keys(s)
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
        assert value(terms, "consistency") == near(expected / 5)
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
        _, weak, _, strong = keys(s)
        probs = paper.softmax(weak)
        state, levels = paper.freematch_step(state, probs, 0.7)
        mask = [p.max() >= levels[p.argmax()] for p in probs]
        pseudo, terms = s.run(plugin, model)
        assert pseudo.weight.tolist() == [float(m) for m in mask]
        expected = sum(paper.cross_entropy(z, p.argmax()) for z, p, m in zip(strong, probs, mask, strict=True) if m)
        assert value(terms, "consistency") == pytest.approx(expected / 6, rel=1e-6)
        fairness = paper.freematch_fairness(strong, mask, state[1], state[2])
        assert value(terms, "fairness") == pytest.approx(fairness, rel=1e-6)
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
        labelled, weak, _, strong = keys(s)
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
        assert value(terms, "consistency") == pytest.approx(expected / 30, rel=1e-6)
        assert min(weights) < 1


@pytest.mark.parametrize("align", [True, False])
def test_adamatch_over_steps(method, step, paper, align):
    s = step()
    plugin = method("adamatch", ema_p=0.6, p_cutoff=0.9, dist_align=align)
    model = s.model(plugin)
    seen, wanted = None, np.full(K, 1 / K)
    for _ in range(3):
        s.logits = {key: 2.0 * s.rng.normal(size=z.shape) for key, z in s.logits.items()}
        labelled, weak, _, strong = keys(s)
        probs, known = paper.softmax(weak), paper.softmax(labelled)
        seen = probs.mean(0) if seen is None else 0.6 * seen + 0.4 * probs.mean(0)
        wanted = 0.6 * wanted + 0.4 * known.mean(0)
        moved = np.array([paper.aligned(p, seen, wanted) for p in probs]) if align else probs
        level = 0.9 * np.mean(known.max(1))
        mask = moved.max(1) >= level
        expected = sum(paper.cross_entropy(z, p.argmax()) for z, p, m in zip(strong, moved, mask, strict=True) if m)
        pseudo, terms = s.run(plugin, model)
        assert pseudo.weight.tolist() == mask.astype(float).tolist()
        assert value(terms, "consistency") == pytest.approx(expected / 6, rel=1e-6)


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
    assert value(terms, "cross_entropy") == near(float(expected))


def test_dash_over_a_run(method, step, paper):
    s = step(scale=1.5)
    plugin = method("dash", gamma=2.0, C=1.01, rho_min=0.3, T=0.5, update_share=0.2)
    model = s.model(plugin)
    model.parts["dash/state"].start.fill_(1.6)
    _, weak, _, strong = keys(s)
    hard = []
    for done in range(10):
        rho = 1.01 * 2.0 ** -(done // 2) * 1.6
        total, mask = 0.0, []
        for w, z in zip(weak, strong, strict=True):
            p = paper.softmax(w)
            target = np.eye(K)[p.argmax()] if rho <= 0.3 else paper.softmax(w / 0.5)
            mask.append(paper.soft_cross_entropy(w, target) <= max(rho, 0.3))
            total += paper.soft_cross_entropy(z, target) * mask[-1]
        pseudo, terms = s.run(plugin, model, s.clock(done))
        assert pseudo.weight.tolist() == [float(m) for m in mask]
        assert value(terms, "consistency") == pytest.approx(total / 6, rel=1e-9)
        hard.append(rho <= 0.3)
    assert hard[0] is False
    assert hard[-1] is True
    assert plugin.pseudo_label(model, s.batch(), s.encoded(), s.clock(0, stage="warm_up")) is None


def test_adacm(method, step, paper):
    s = step(scale=2.0)
    plugin = method("adacm")
    model = s.model(plugin)
    model.parts["adacm/state"].levels.copy_(torch.tensor([0.5, 0.7, 0.8, 0.6]))
    labelled, weak, weak2, strong = keys(s)
    mean = (paper.softmax(weak) + paper.softmax(weak2)) / 2
    mask = [p.max() >= [0.5, 0.7, 0.8, 0.6][p.argmax()] for p in mean]
    assert 0 < sum(mask) < 5
    pseudo, terms = s.run(plugin, model)
    expected = sum(paper.cross_entropy(z, p.argmax()) for z, p, m in zip(strong, mean, mask, strict=True) if m) / 6
    assert value(terms, "consistency") == near(expected)
    assert value(terms, "cross_entropy") == near(paper.labelled_loss(labelled, s.labels))
    unsure = [i for i, m in enumerate(mask) if not m]
    rows = [s.features["target", name][unsure] for name in ("weak", "weak2")]
    assert value(terms, "contrast") == near(paper.simclr(*rows, 0.07))
    assert [terms[n].weight for n in ("cross_entropy", "consistency", "contrast")] == [0.5, 1.0, 0.1]
    assert pseudo.weight.tolist() == [float(m) for m in mask]


def test_adacm_without_or_with_one_unsure_sample(method, step):
    for floor, left in ((1e-6, 0), (1.0, 6)):
        s = step()
        plugin = method("adacm", floor=floor)
        pseudo, terms = s.run(plugin, s.model(plugin))
        assert int((pseudo.weight == 0).sum()) == left
        assert math.isfinite(value(terms, "contrast"))
        assert (value(terms, "contrast") == 0) == (left == 0)


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_thresholds_from_labelled_samples(paper, epoch):
    rng = np.random.default_rng(epoch)
    probs, labels = paper.softmax(4 * rng.normal(size=(40, K))), rng.integers(0, K - 1, 40)
    found = losses.labelled_thresholds(torch.tensor(probs), torch.tensor(labels), epoch, floor=0.4)
    np.testing.assert_allclose(found.numpy(), paper.adacm_thresholds(probs, labels, epoch, 0.4, 0.97, K), rtol=1e-12)
    assert found[K - 1] == 0.4


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
    assert value(terms, "consistency") == near(paper.divergence(clean.numpy(), moved))
    assert terms["consistency"].weight == pytest.approx(0.5)
    p = paper.softmax(clean.numpy())
    assert value(terms, "entropy") == near(float(np.mean(-(p * np.log(p)).sum(1))))
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
    _, weak, weak2, _ = keys(s)
    guess = paper.sharpened((paper.softmax(weak) + paper.softmax(weak2)) / 2, 0.5)
    known = np.eye(K)[s.labels]
    images = np.concatenate([s.images[k] for k in (("source", "weak"), ("target", "weak"), ("target", "weak2"))])
    labels = np.concatenate([known, guess, guess])
    at = order.numpy()
    images, labels = (factor * a + (1 - factor) * a[at] for a in (images, labels))
    mine = model(torch.tensor(images[:3])).logits["main"].detach().numpy()
    others = model(torch.tensor(images[3:])).logits["main"].detach().numpy()
    supervised = np.mean([paper.soft_cross_entropy(z, p) for z, p in zip(mine, labels[:3], strict=True)])
    assert value(terms, "cross_entropy") == pytest.approx(float(supervised), rel=1e-6)
    assert value(terms, "consistency") == pytest.approx(paper.mean_squared(others, labels[3:]), rel=1e-6)
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


EXTREMES = (1e4, -1e4)


@pytest.mark.parametrize("extreme", EXTREMES)
def test_extreme_logits_stay_finite(method, step, names, extreme):
    for name in names:
        s = step()
        s.logits = {key: z.copy() for key, z in s.logits.items()}
        for z in s.logits.values():
            z[0] = extreme * np.eye(K)[1]
            z[1] = 0.0
        plugin = method(name)
        model = s.model(plugin)
        if name == "dash":
            model.parts["dash/state"].start.fill_(1.0)
        _, terms = s.run(plugin, model)
        total = sum(term.weight * term.value for term in terms.values())
        total.backward()
        assert torch.isfinite(total), name
        for leaf in s.leaves.values():
            assert leaf.grad is None or torch.isfinite(leaf.grad).all(), name


def test_pseudo_labels_are_weights_in_the_unit_interval(method, step, names):
    for name in names:
        s = step()
        plugin = method(name)
        pseudo, terms = s.run(plugin, s.model(plugin))
        assert terms["cross_entropy"].role is Role.SUPERVISED
        assert terms["consistency"].role is Role.CONSISTENCY
        if pseudo is not None:
            assert ((pseudo.weight >= 0) & (pseudo.weight <= 1)).all()
            torch.testing.assert_close(pseudo.probs.sum(1), torch.ones(6, dtype=torch.float64))


def test_an_empty_mask_gives_a_connected_zero():
    z = torch.randn(3, K, dtype=torch.float64, requires_grad=True)
    nothing = torch.zeros(3, dtype=torch.float64)
    uniform = torch.full((K,), 1 / K, dtype=torch.float64)
    for found in (
        losses.weighted_cross_entropy(z, torch.tensor([0, 1, 2]), nothing),
        losses.self_adaptive_fairness(z, nothing, uniform, uniform),
    ):
        (gradient,) = torch.autograd.grad(found, z)
        assert float(found) == 0
        assert (gradient == 0).all()


def test_weights_without_variance_are_a_threshold():
    confidence, zero = torch.tensor([0.4, 0.5, 0.6]), torch.tensor(0.0)
    assert losses.truncated_gaussian(confidence, torch.tensor(0.5), zero).tolist() == [0.0, 1.0, 1.0]


def test_sharpening_survives_small_probabilities():
    found = losses.sharpen(torch.tensor([[1e-30, 1e-30, 1 - 2e-30]]), 0.05)
    assert torch.isfinite(found).all()
    assert float(found[0, 2]) == 1.0


@pytest.mark.parametrize("statistics", ["weak", "all"])
def test_strong_views_leave_the_statistics_alone(method, step, statistics):
    s = step()
    plugin = method("fixmatch", statistics=statistics)
    model = s.model(plugin)
    target = s.batch().target
    norm = model.backbone[1]
    before = norm.running_mean.clone()
    encoded = plugin.encode(model, target, "strong").logits["main"]
    assert torch.equal(norm.running_mean, before) == (statistics == "weak")
    assert torch.allclose(encoded, model(target.images["strong"]).logits["main"])  # the batch's own statistics
    encoded.sum().backward()
    assert model.heads["main"].weight.grad is not None
    norm.running_mean.copy_(before)
    plugin.encode(model, target, "weak")
    assert not torch.equal(norm.running_mean, before)
