"""Each score against its equation written out sample by sample, and against skada where it has it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fercore.evaluation.selection import VALIDATORS, Evidence, needs, score_pool
from fercore.evaluation.selection.accuracy import temperature
from fercore.evaluation.selection.arrays import softmax
from fercore.evaluation.selection.certainty import mano
from fercore.evaluation.selection.shift import dev_risk

N, K, D = 60, 5, 6


def evidence(seed: int = 0, *, n: int = N, k: int = K, sure: float = 2.0) -> Evidence:
    """A candidate that is right on two of three images, with features that show the class."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(k, D)) * 3

    def side(count: int, shift: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        labels = np.arange(count) % k
        logits = sure * np.eye(k)[labels] + rng.normal(size=(count, k))
        return labels, logits, means[labels] + rng.normal(size=(count, D)) + shift

    (_, target, near), (labels, source, far), (_, _, train) = side(n, 0.5), side(n, 0), side(2 * n, 0)
    return Evidence(
        target_probs=softmax(target),
        target_logits=target,
        target_features=near,
        target_view_probs=softmax(target + rng.normal(size=target.shape)),
        target_au=near[:, :3],
        target_mix=lambda a, b, share: softmax(share * target[a] + (1 - share) * target[b]),
        source_probs=softmax(source),
        source_logits=source,
        source_features=far,
        source_labels=labels,
        train_features=train,
        source_prior=np.full(k, 1 / k),
    )


def one(name: str, found: Evidence) -> float:
    return float(score_pool(name, [found])[0])


E0 = evidence()
P, Z, F = E0.target_probs, E0.target_logits, E0.target_features
QS, YS, ZS, FS = E0.source_probs, E0.source_labels, E0.source_logits, E0.source_features


def h(row):
    return -sum(p * math.log(p) for p in row if p > 0)


def literal_snd(points):
    total = 0.0
    for i in range(len(points)):
        near = []
        for j in range(len(points)):
            if i != j:
                cosine = points[i] @ points[j] / math.hypot(*points[i]) / math.hypot(*points[j])
                near.append(math.exp(cosine / 0.05))
        total += h([v / sum(near) for v in near])
    return total / len(points)


def literal_mano(z):
    z = z - z.mean(axis=1, keepdims=True)
    surprise = -np.mean([[math.log(math.exp(v) / sum(map(math.exp, row))) for v in row] for row in z])
    total = 0.0
    for row in z:
        series = [1 + v + v * v / 2 for v in row]
        t = [math.exp(v) for v in row] if surprise > 5 else [v - min(series) for v in series]
        total += sum((v / sum(t)) ** 4 for v in t)
    return (total / z.size) ** 0.25


def literal_neighbours(labels, points):
    agreed = 0.0
    for i, point in enumerate(points):
        order = sorted((j for j in range(len(points)) if j != i), key=lambda j: math.dist(point, points[j]))
        agreed += sum(labels[j] == labels[i] for j in order[:5]) / 5
    chance = sum((list(labels).count(c) / len(labels)) ** 2 for c in set(labels))
    return (agreed / len(points) - chance) / (1 - chance)


def literal_mmd(x, y):
    rows = [*x, *y]
    square = {(i, j): math.dist(a, b) ** 2 for i, a in enumerate(rows) for j, b in enumerate(rows)}
    width = float(np.median([square[i, j] for i in range(len(rows)) for j in range(i + 1, len(rows))]))

    def kernel(i, j):
        return sum(math.exp(-square[i, j] / (width * 2**e)) for e in (-3, -2, -1, 0, 1, 2, 3))

    first, second = range(len(x)), range(len(x), len(rows))
    mean = lambda a, b: sum(kernel(i, j) for i in a for j in b) / len(a) / len(b)  # noqa: E731
    return -(mean(first, first) + mean(second, second) - 2 * mean(first, second))


def literal_coral(x, y):
    def covariance(f):
        mean = sum(f) / len(f)
        return sum(np.outer(r - mean, r - mean) for r in f) / (len(f) - 1)

    return -np.sum((covariance(x) - covariance(y)) ** 2) / (4 * x.shape[1] ** 2)


def literal_mixval():
    labels = P.argmax(1)
    order = list(np.random.default_rng(0).permutation(N))
    pairs = [(a, order[i - 1]) for i, a in enumerate(order)]
    inter = [(a, b) for a, b in pairs if labels[a] != labels[b]]
    groups = [a for k in range(K) for a in order if labels[a] == k]
    intra = [(a, groups[i - 1]) for i, a in enumerate(groups) if labels[a] == labels[groups[i - 1]]]
    keeps = [np.mean([(0.55 * Z[a] + 0.45 * Z[b]).argmax() == labels[a] for a, b in kind]) for kind in (inter, intra)]
    return sum(keeps) / 2


def kappa(a, b):
    chance = sum(np.mean(a == k) * np.mean(b == k) for k in range(K))
    return (np.mean(a == b) - chance) / (1 - chance)


MEAN = [sum(row[k] for row in P) / N for k in range(K)]
LITERAL = {
    "source_accuracy": lambda: sum(q.argmax() == y for q, y in zip(QS, YS, strict=True)) / N,
    "source_balanced_accuracy": lambda: sum(np.mean(QS[YS == k].argmax(1) == k) for k in range(K)) / K,
    "entropy": lambda: -sum(map(h, P)) / N,
    "diversity": lambda: h(MEAN),
    "information_maximisation": lambda: h(MEAN) - sum(map(h, P)) / N,
    "bnm": lambda: np.sqrt(np.maximum(np.linalg.eigvalsh(P.T @ P), 0)).sum() / N,
    "nuclear_norm": lambda: np.sqrt(np.maximum(np.linalg.eigvalsh(P.T @ P), 0)).sum() / math.sqrt(N * K),
    "snd": lambda: literal_snd(P),
    "mano": lambda: literal_mano(Z),
    "neighbour_agreement": lambda: literal_neighbours(P.argmax(1), F / np.linalg.norm(F, axis=1)[:, None]),
    "au_agreement": lambda: literal_neighbours(P.argmax(1), E0.target_au),
    "mmd": lambda: literal_mmd(FS, F),
    "coral": lambda: literal_coral(FS, F),
    "prior_distance": lambda: -sum(abs(m - 1 / K) for m in MEAN) / 2,
    "consistency": lambda: kappa(P.argmax(1), E0.target_view_probs.argmax(1)),
    "mixval": literal_mixval,
}


@pytest.mark.parametrize("name", LITERAL)
def test_equals_its_equation(name):
    assert one(name, E0) == pytest.approx(LITERAL[name](), rel=1e-9, abs=1e-12)


def test_entropy_snd_and_mano_are_those_of_skada():
    from skada.metrics import MaNoScorer, PredictionEntropyScorer, SoftNeighborhoodDensity

    class Trained:
        def predict_proba(self, x, **given):
            return P

        def predict_log_proba(self, x, **given):
            return np.log(P)

    x, domain = np.zeros((2 * N, 1)), np.repeat([1, -2], N)
    for name, scorer in {"entropy": PredictionEntropyScorer, "snd": SoftNeighborhoodDensity}.items():
        made = scorer() if name == "entropy" else scorer(greater_is_better=True)
        theirs = made._score(None, Trained(), x, np.zeros(2 * N), domain)
        per = K if name == "entropy" else 1  # theirs is the mean over the classes too
        assert one(name, E0) == pytest.approx(per * theirs, rel=1e-6)
    taylor, soft = MaNoScorer(), MaNoScorer(threshold=0)
    centred = Z - Z.mean(axis=1, keepdims=True)
    theirs = np.mean(taylor._taylor_softmax(centred.copy()) ** 4) ** 0.25
    assert mano(Z) == pytest.approx(theirs)
    far = Z * 20  # surprise above 5: the softmax
    assert soft._get_criterion(far.copy()) > 5
    assert mano(far) == pytest.approx(np.mean(soft._stable_softmax(far.copy()) ** 4) ** 0.25)


def test_dev_risk_takes_the_variance_that_the_weights_explain_out():
    weight, loss = np.array([0.5, 1.0, 2.0, 0.25]), np.array([1.0, 0.2, 0.7, 2.0])
    wl = weight * loss
    cov = sum((a - wl.mean()) * (b - weight.mean()) for a, b in zip(wl, weight, strict=True)) / 3
    eta = -cov / (sum((b - weight.mean()) ** 2 for b in weight) / 3)
    assert dev_risk(weight, loss) == pytest.approx(wl.mean() + eta * weight.mean() - eta)
    assert dev_risk(np.ones(4), loss) == pytest.approx(loss.mean())


def test_dev_prefers_the_model_that_is_right_where_source_looks_like_the_target():
    """Half of the source looks like the target; which half a model has right is all that two models differ in."""
    rng = np.random.default_rng(1)
    near, far = rng.normal(2, 1, (200, 2)), rng.normal(-2, 1, (200, 2))
    both, target = np.concatenate([near, far]), rng.normal(2, 1, (200, 2))
    right, wrong = np.tile([0.9, 0.1], (200, 1)), np.tile([0.3, 0.7], (200, 1))
    good, bad = np.concatenate([right, wrong]), np.concatenate([wrong, right])
    shared = {"target_probs": right, "target_features": target, "source_features": both, "train_features": both}
    labels = np.zeros(400, dtype=np.int64)
    scores = score_pool("dev", [Evidence(**shared, source_probs=p, source_labels=labels) for p in (good, bad)])
    assert scores[0] == pytest.approx(math.log(0.9), abs=0.15)
    assert scores[1] == pytest.approx(math.log(0.3), abs=0.3)


def test_a_distance_is_that_of_the_error_of_a_linear_classifier():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(400, 3))
    near, apart = Evidence(P, source_features=x, target_features=rng.normal(size=(400, 3))), x + np.array([4, 0, 0])
    assert one("a_distance", near) > -0.3
    error = 0.5 * math.erfc(2 / math.sqrt(2))  # half the distance of the means, in deviations
    assert one("a_distance", Evidence(P, source_features=x, target_features=apart)) == pytest.approx(
        -2 * (1 - 2 * error), abs=0.06
    )


def test_class_ami_and_silhouette_are_those_of_scikit_learn_on_clusters_that_are_plain():
    from sklearn.metrics import adjusted_mutual_info_score, silhouette_score

    truth = np.arange(90) % 3
    features = 10 * np.eye(3)[truth] + np.random.default_rng(0).normal(size=(90, 3)) * 0.1
    guess = np.where(np.arange(90) < 20, 0, truth)
    found = Evidence(np.eye(3)[guess], target_features=features)
    assert one("class_ami", found) == pytest.approx(adjusted_mutual_info_score(guess, truth))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert one("class_silhouette", found) == pytest.approx(silhouette_score(unit, truth))


def test_estimators_of_accuracy_give_that_of_the_source_where_target_is_source():
    same = Evidence(QS, target_logits=ZS, source_probs=QS, source_logits=ZS, source_labels=YS)
    for name in ("difference_of_confidences", "atc"):
        assert one(name, same) == pytest.approx(one("source_accuracy", same), abs=1e-12)
    heat = min(np.linspace(0.2, 5, 2000), key=lambda t: -np.log(softmax(ZS / t)[np.arange(N), YS]).mean())
    assert temperature(ZS, YS) == pytest.approx(heat, rel=0.01)
    assert one("average_confidence", E0) == pytest.approx(np.mean([softmax(r[None] / heat).max() for r in Z]), rel=0.01)


def pool() -> list[Evidence]:
    return [evidence(seed, sure=1 + 0.5 * seed) for seed in range(6)]


def test_pool_scores_equal_their_equations():
    votes = [e.target_probs.argmax(1) for e in pool()]
    mean = sum(e.target_probs for e in pool()) / 6
    np.testing.assert_allclose(score_pool("ensemble", pool()), [np.mean(v == mean.argmax(1)) for v in votes])
    pairs = [np.mean([np.mean(v == w) for w in votes if w is not v]) for v in votes]
    np.testing.assert_allclose(score_pool("agreement", pool()), pairs)


def test_agreement_on_the_line_finds_the_line():
    """Errors on both sides are independent with one share a model, so the line is the diagonal."""
    rng = np.random.default_rng(0)
    truth = np.zeros(20000, dtype=np.int64)

    def guesses(share):
        return np.eye(50)[np.where(rng.random(20000) < share, 0, rng.integers(1, 50, 20000))]

    shares = np.linspace(0.4, 0.9, 6)
    models = [Evidence(guesses(s), source_probs=guesses(s), source_labels=truth) for s in shares]
    np.testing.assert_allclose(score_pool("agreement_on_the_line", models), shares, atol=0.02)
    assert np.isnan(score_pool("agreement_on_the_line", models[:4])).all()


COLLAPSED, UNIFORM = np.eye(K)[np.zeros(N, dtype=int)], np.full((N, K), 1 / K)


def constant(probs: np.ndarray) -> Evidence:
    """A model that gives every image the same probabilities, from the same features."""
    n, k = probs.shape
    labels = np.arange(n) % k
    return Evidence(
        target_probs=probs,
        target_logits=np.log(np.maximum(probs, 1e-12)),
        target_features=np.ones((n, D)),
        target_view_probs=probs,
        target_au=np.ones((n, 3)),
        target_mix=lambda a, b, share: probs[a],
        source_probs=probs,
        source_logits=np.log(np.maximum(probs, 1e-12)),
        source_features=np.ones((n, D)),
        source_labels=labels,
        train_features=np.ones((n, D)),
        source_prior=np.full(k, 1 / k),
    )


def perfect() -> Evidence:
    labels = np.arange(N) % K
    right = np.eye(K)[labels]
    features = right @ np.eye(K, D) * 5 + np.random.default_rng(0).normal(size=(N, D)) * 0.1
    return Evidence(
        target_probs=right,
        target_logits=12 * right,
        target_features=features,
        target_view_probs=right,
        target_au=features[:, :4],
        target_mix=lambda a, b, share: share * right[a] + (1 - share) * right[b],
        source_probs=right,
        source_logits=12 * right,
        source_features=features,
        source_labels=labels,
        train_features=features,
        source_prior=np.full(K, 1 / K),
    )


SOUND = (
    "information_maximisation bnm nuclear_norm class_ami mixval neighbour_agreement au_agreement consistency "
    "prior_distance source_accuracy source_balanced_accuracy diversity"
).split()


@pytest.mark.parametrize("name", SOUND)
def test_a_perfect_model_beats_one_that_gives_one_class(name):
    best, collapsed = score_pool(name, [perfect(), constant(COLLAPSED)])
    assert best > collapsed + 0.05


@pytest.mark.parametrize("name", ["entropy", "snd", "mano", "mmd", "coral", "a_distance"])
def test_the_trap_a_collapsed_model_is_no_worse_than_a_perfect_one(name):
    best, collapsed = score_pool(name, [perfect(), constant(COLLAPSED)])
    assert collapsed >= best - 1e-9
    if name == "snd":
        assert collapsed == pytest.approx(math.log(N - 1))  # the maximum


def test_collapsed_models_elect_none_of_their_own_where_one_is_left_that_is_not():
    scores = score_pool("ensemble", [constant(COLLAPSED), constant(COLLAPSED), perfect()])
    assert scores[2] == 1
    assert scores[0] == pytest.approx(1 / K)
    np.testing.assert_allclose(score_pool("ensemble", [constant(COLLAPSED)] * 2), 1)


@pytest.mark.parametrize("name", list(VALIDATORS.builtin))
def test_degenerate_models_have_a_finite_score_or_nan_and_never_an_exception(name):
    few = [constant(p) for p in (np.eye(2)[[0]], np.full((1, 2), 0.5), np.eye(2)[[0, 1, 0]])]
    for found in [constant(COLLAPSED), constant(UNIFORM), perfect(), *few]:
        if len(found.target_probs) == 1 and name in ("dev", "agreement_on_the_line"):
            continue  # a classifier of one sample a domain is still one
        with np.errstate(all="ignore"):
            assert not math.isinf(one(name, found))


@pytest.mark.parametrize("name", [n for n in VALIDATORS.builtin if n not in ("mixval", "ensemble", "agreement")])
def test_the_order_of_images_does_not_matter(name):
    order = np.random.default_rng(9).permutation(N)
    wide = np.random.default_rng(8).permutation(2 * N)

    def shuffled(found: Evidence) -> Evidence:
        values = {f: getattr(found, f) for f in needs(name)}
        for field, value in values.items():
            if isinstance(value, np.ndarray) and field != "source_prior":
                values[field] = value[wide if field == "train_features" else order]
        return Evidence(**{"target_probs": found.target_probs[order], **values})

    plain, mixed = score_pool(name, pool()), score_pool(name, [shuffled(e) for e in pool()])
    np.testing.assert_allclose(mixed, plain, atol=1e-7)
