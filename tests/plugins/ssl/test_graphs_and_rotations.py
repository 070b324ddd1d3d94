"""Methods with embeddings, memories and further views, in NumPy: defixmatch, remixmatch, comatch, simmatch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fercore.losses import graph_contrast
from fercore.records.step import EncodedDataset, Progress

K = 4


@pytest.mark.parametrize("threshold", [0.3, 0.8])
def test_defixmatch(method, step, paper, threshold):
    """Schmutz et al., Eq 4: FixMatch's term, less the same one of labelled samples."""
    s = step(labelled=5)
    plugin = method("defixmatch", p_cutoff=threshold)
    _, terms = s.run(plugin, s.model(plugin))
    keys = [("source", "weak"), ("source", "strong"), ("target", "weak"), ("target", "strong")]
    weak, strong, w, t = (s.logits[key] for key in keys)
    both = (paper.labelled_loss(weak, s.labels) + paper.labelled_loss(strong, s.labels)) / 2
    assert s.value(terms, "cross_entropy") == s.near(both)
    assert s.value(terms, "consistency") == s.near(
        paper.fixmatch(w, t, threshold) - paper.fixmatch(weak, strong, threshold)
    )
    assert terms["consistency"].weight == 0.5
    terms["consistency"].value.backward()
    assert s.leaves["source", "weak"].grad is None
    chosen = paper.softmax(weak).max(1) >= threshold
    slope = -(paper.softmax(strong) - np.eye(K)[weak.argmax(1)]) * chosen[:, None] / len(weak)
    np.testing.assert_allclose(s.leaves["source", "strong"].grad.numpy(), slope, atol=1e-12)


def test_remixmatch(method, step, paper):
    """Berthelot et al. 2020, Eqs 3-6, without mixing, whose factor is drawn; aligned to the labelled shares."""
    s = step(labelled=4, images=True)
    plugin = method("remixmatch", mixup_alpha=0.0)
    model = s.model(plugin)
    torch.manual_seed(3)
    pseudo, terms = s.run(plugin, model, s.clock(5))
    p = paper.softmax(s.logits["target", "weak"])
    seen, wanted = p.mean(0), np.array([2, 1, 1, 0]) / 4
    moved = p * (wanted + 1e-6) / (seen + 1e-6)
    sharp = (moved / moved.sum(1, keepdims=True)) ** 2
    guess = sharp / sharp.sum(1, keepdims=True)
    np.testing.assert_allclose(pseudo.probs.numpy(), guess, atol=1e-6)
    strong = s.logits["target", "strong"]
    anchor = np.mean([paper.soft_cross_entropy(z, q) for z, q in zip(strong, guess, strict=True)])
    assert s.value(terms, "anchor") == pytest.approx(anchor, rel=1e-5)
    weights = {name: term.weight for name, term in terms.items()}
    assert weights == {"cross_entropy": 1.0, "consistency": 1.5, "anchor": 0.5, "rotation": 0.5}
    with torch.no_grad():
        z = model(torch.tensor(s.images["source", "weak"])).logits["main"]
        views = [torch.tensor(s.images["target", name]) for name in ("strong", "strong2", "weak")]
        others = model(torch.cat(views)).logits["main"]
        torch.manual_seed(3)
        turns = torch.randint(4, (6,)).tolist()
        turned = torch.stack([torch.rot90(x, k, (1, 2)) for x, k in zip(views[0], turns, strict=True)])
        told = model.parts["remixmatch/rotation"](model(turned).features["main"])
    assert s.value(terms, "cross_entropy") == s.near(paper.labelled_loss(z.numpy(), s.labels))
    pairs = zip(others.numpy(), np.tile(guess, (3, 1)), strict=True)
    mixed = np.mean([paper.soft_cross_entropy(z, q) for z, q in pairs])
    assert s.value(terms, "consistency") == pytest.approx(mixed, rel=1e-5)
    assert s.value(terms, "rotation") == s.near(paper.labelled_loss(told.numpy(), turns))
    assert all(t.weight == 0 for n, t in s.run(plugin, model, s.clock(0))[1].items() if n in ("anchor", "consistency"))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def embed(model, name, rows):
    with torch.no_grad():
        return unit(model.parts[f"{name}/projection"](torch.tensor(rows)).numpy())


def aligned(p, means):
    moved = p * (1 / K + 1e-6) / (np.mean(means, 0) + 1e-6)
    return moved / moved.sum(1, keepdims=True)


def test_comatch(method, step, paper):
    """Li et al. 2021, Eqs 1-8; the second epoch smooths by what the first step put into the memory."""
    s = step(scale=1.0)
    plugin = method("comatch", p_cutoff=0.3, contrast_p_cutoff=0.2, T=0.5, queue_batch=1)
    model = s.model(plugin)
    p = paper.softmax(s.logits["target", "weak"])
    weak, known = (embed(model, "comatch", s.features[side, "weak"]) for side in ("target", "source"))
    first, _ = s.run(plugin, model)
    own = aligned(p, [p.mean(0)])
    np.testing.assert_allclose(first.probs.numpy(), own, atol=1e-6)
    held, labels = np.concatenate([weak, known]), np.concatenate([own, np.eye(K)[s.labels]])
    clock = Progress("train", "main", 1, 5, 10)
    pseudo, terms = s.run(plugin, model, clock)
    a = np.exp(weak @ held.T / 0.5)
    probs = 0.9 * own + 0.1 * (a / a.sum(1, keepdims=True)) @ labels
    np.testing.assert_allclose(pseudo.probs.numpy(), probs, atol=1e-6)
    strong = s.logits["target", "strong"]
    sure = probs.max(1) >= 0.3
    expected = sum(paper.soft_cross_entropy(strong[i], probs[i]) for i in range(6) if sure[i]) / 6
    assert s.value(terms, "consistency") == pytest.approx(expected, rel=1e-5)
    one, two = (embed(model, "comatch", s.features["target", v]) for v in ("strong", "strong2"))
    total = 0.0
    for i in range(6):
        row = np.array([1.0 if i == j else probs[i] @ probs[j] for j in range(6)])
        row = np.where(row >= 0.2, row, 0.0)
        scores = np.exp(one[i] @ two.T / 0.5)
        total -= (row / row.sum()) @ np.log(scores / scores.sum()) / 6
    assert s.value(terms, "graph") == pytest.approx(total, rel=1e-5)
    terms["graph"].value.backward()
    assert s.embedded["target", "strong"].grad.abs().sum() > 0
    assert s.embedded["target", "weak"].grad is None


def test_memory_is_a_ring():
    from fercore_ssl.comatch import Memory

    memory = Memory(5, 2, 2)
    for start in (0, 3, 6):
        rows = torch.arange(start, start + 3).float()[:, None].expand(3, 2)
        memory.put(rows, rows)
    assert memory.probs[:, 0].tolist() == [5, 6, 7, 8, 4]
    few = Memory(5, 2, 2)
    few.put(torch.eye(2), torch.eye(2))
    p = torch.tensor([1.0, 0.0]).softmax(0)
    torch.testing.assert_close(few.smoothed(torch.eye(2)[:1], 1.0), p[None])


def test_a_graph_of_samples_alone_is_info_nce_without_symmetry():
    rows = F.normalize(torch.randn(5, 3, dtype=torch.float64), dim=1)
    probs = torch.full((5, K), 1 / K, dtype=torch.float64)
    scores = (rows @ rows.roll(1, 1).T / 0.3).log_softmax(1).diagonal()
    torch.testing.assert_close(graph_contrast(rows, rows.roll(1, 1), probs, 0.3, 0.5), -scores.mean())
    assert torch.isfinite(graph_contrast(rows[:1], rows[:1], probs[:1], 0.1))


@pytest.mark.parametrize("epoch", [0, 1])
def test_simmatch(method, step, paper, epoch):
    """Zheng et al. 2022, Eqs 3-10, at the teacher's start, where it is the student."""
    s = step(labelled=4, images=True)
    plugin = method("simmatch", p_cutoff=0.2, T=0.5)
    model = s.model(plugin)
    index, labels = torch.arange(4), torch.tensor(s.labels)
    with torch.no_grad():
        # Other images than the step's: what the step puts into the bank must not reach the student's likenesses.
        whole = model(torch.tensor(s.images["source", "weak"]).roll(1, -1))
        answers = {side: model(torch.tensor(s.images[side, "weak"])) for side in ("source", "target")}
    dataset = EncodedDataset(whole.features, whole.logits, labels, 0 * index, index)
    plugin.refresh(model, Progress("train", "main", 0, 0, 10), lambda side: dataset)
    bank = embed(model, "simmatch", whole.features["main"].numpy())
    np.testing.assert_allclose(model.parts["simmatch/bank"].embeddings.numpy(), bank, atol=1e-12)
    p = paper.softmax(answers["target"].logits["main"].numpy())
    own = aligned(p, [p.mean(0)])
    near = paper.softmax(embed(model, "simmatch", answers["target"].features["main"].numpy()) @ bank.T / 0.5)
    likeness = near * own[:, s.labels]
    likeness = likeness / likeness.sum(1, keepdims=True)
    probs = 0.9 * own + 0.1 * np.stack([near[:, s.labels == k].sum(1) for k in range(K)], 1) if epoch else own
    _, terms = s.run(plugin, model, Progress("train", "main", epoch, 5, 10))
    strong = s.logits["target", "strong"]
    sure = probs.max(1) >= 0.2
    expected = sum(paper.soft_cross_entropy(strong[i], probs[i]) for i in range(6) if sure[i]) / 6
    assert s.value(terms, "consistency") == pytest.approx(expected, rel=1e-6)
    assert ("instances" in terms) == bool(epoch)
    if epoch:
        scores = embed(model, "simmatch", s.features["target", "strong"]) @ bank.T / 0.5
        alike = np.mean([paper.soft_cross_entropy(z, q) for z, q in zip(scores, likeness, strict=True)])
        assert s.value(terms, "instances") == pytest.approx(alike, rel=1e-6)
        terms["instances"].value.backward()
        assert s.embedded["target", "strong"].grad.abs().sum() > 0
    moved = embed(model, "simmatch", answers["source"].features["main"].numpy())
    np.testing.assert_allclose(model.parts["simmatch/bank"].embeddings.numpy(), moved, atol=1e-6)


def test_simmatch_teacher_follows(method, step):
    s = step(images=True)
    plugin = method("simmatch", decay=0.75)
    model = s.model(plugin)
    s.run(plugin, model)
    teacher = model.parts["simmatch/teacher"]
    before = teacher.parameters_of(model)["heads.main.bias"].clone()
    with torch.no_grad():
        model.heads["main"].bias.add_(1.0)
    plugin.after_step(model)
    torch.testing.assert_close(teacher.parameters_of(model)["heads.main.bias"], before + 0.25)
