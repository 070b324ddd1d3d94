"""The methods' equations in literal float64, one sample, one class and one pair at a time; autograd gives the slopes.

Every method returns what each group of parameters descends: that of the features, of the head, and of what else the
method has. The first is also the value that a step reports.
"""

from __future__ import annotations

import math

import torch


def softmax(z):
    return torch.stack([row.exp() / row.exp().sum() for row in z])


def cross_entropy(z, y):
    return sum(-z[i][y[i]] + z[i].exp().sum().log() for i in range(len(z))) / len(z)


def entropy_of(p):
    return -sum(p[k] * p[k].log() for k in range(len(p)))


def mean(rows, weights=None):
    weights = weights or [1 / len(rows)] * len(rows)
    return sum(w * row for w, row in zip(weights, rows, strict=True))


def square(a, b):
    return ((a - b) ** 2).sum()


def bandwidth(rows):
    n = len(rows)
    return sum(float(square(rows[i], rows[j]).detach()) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))


def mixture(a, b, s):
    return sum(torch.exp(-square(a, b) / (s * 2.0**q)) for q in (-2, -1, 0, 1, 2))


def mmd(x, y, wx, wy, kernel):
    value = 0.0
    for rows, weights in ((x, wx), (y, wy)):
        n = range(len(rows))
        value = value + sum(weights[i] * weights[j] * kernel(rows[i], rows[j]) for i in n for j in n)
    return value - 2 * sum(wx[i] * wy[j] * kernel(x[i], y[j]) for i in range(len(x)) for j in range(len(y)))


def even(rows):
    return [1 / len(rows)] * len(rows)


def by_class(labels, ratio):
    raw = [ratio[y] for y in labels]
    return [r / sum(raw) for r in raw]


def dan(d, wx=None):
    """Long et al. 2015, Eq 4."""
    s = bandwidth([*d.x, *d.y])
    return mmd(d.x, d.y, wx or even(d.x), even(d.y), lambda a, b: mixture(a, b, s))


def dan_linear(d):
    """Long et al. 2015, Eq 5, neighbours in a ring of the shorter side."""
    n = min(len(d.x), len(d.y))
    x, y = d.x[:n], d.y[:n]
    s = bandwidth([*x, *y])
    total = 0.0
    for i in range(n):
        j = (i + 1) % n
        total = (
            total + mixture(x[i], x[j], s) + mixture(y[i], y[j], s) - mixture(x[i], y[j], s) - mixture(x[j], y[i], s)
        )
    return total / n


def jan(d):
    """Long et al. 2017, Eq 9, with a Gaussian of width 0.92 on predictions."""
    s = bandwidth([*d.x, *d.y])
    x, y = ([*zip(f, softmax(z), strict=True)] for f, z in ((d.x, d.zx), (d.y, d.zy)))

    def kernel(a, b):
        return mixture(a[0], b[0], s) * torch.exp(-square(a[1], b[1]) / (2 * 0.92**2))

    return mmd(x, y, even(x), even(y), kernel)


def dsan(d):
    """Zhu et al. 2021, Eqs 5-6."""
    s, p = bandwidth([*d.x, *d.y]), softmax(d.zy).detach()
    predicted = {int(row.argmax()) for row in p}
    values = []
    for c in sorted(predicted & {int(y) for y in d.labels}):
        count = sum(1 for y in d.labels if y == c)
        wx = [1 / count if y == c else 0.0 for y in d.labels]
        wy = [float(row[c] / p[:, c].sum()) for row in p]
        values.append(mmd(d.x, d.y, wx, wy, lambda a, b: mixture(a, b, s)))
    return sum(values) / len(values)


def detn(d):
    """Li and Deng 2018, Eq 6."""
    return dan(d, by_class(d.labels, d.ratio))


def ecan(d):
    """Li and Deng 2022, Eq 8: every class has its own bandwidth."""
    value = detn(d)
    for c in range(d.classes):
        x = [f for f, y in zip(d.x, d.labels, strict=True) if y == c]
        y = [f for f, z in zip(d.y, d.zy, strict=True) if z.argmax() == c]
        if x and y:
            s = bandwidth([*x, *y])
            value = value + mmd(x, y, even(x), even(y), lambda a, b, s=s: mixture(a, b, s)) / d.classes
    return value


def ddc(d):
    """Tzeng et al. 2014, Eq 1, squared."""
    return square(mean(d.x), mean(d.y))


def covariance(rows):
    m, n = mean(rows), len(rows)
    return sum(torch.outer(row - m, row - m) for row in rows) / (n - 1)


def deep_coral(d):
    """Sun and Saenko 2016, Eq 1."""
    return square(covariance(d.x), covariance(d.y)) / (4 * len(d.x[0]) ** 2)


def cmd(d):
    """Zellinger et al. 2017, Eq 4, of features between 0 and 1."""
    x, y = [f.tanh() for f in d.x], [f.tanh() for f in d.y]
    a, b = mean(x), mean(y)
    value = square(a, b).sqrt()
    for k in range(2, 6):
        value = value + square(mean([(f - a) ** k for f in x]), mean([(f - b) ** k for f in y])).sqrt()
    return value


def afn(d):
    """Xu et al. 2019, Eq 8 with a step of 1."""
    return sum(((f.norm() - (f.norm().detach() + 1)) ** 2) / len(side) for side in (d.x, d.y) for f in side)


def afn_hard(d):
    """Xu et al. 2019, Eq 6 with a radius of 25."""
    return sum((sum(f.norm() for f in side) / len(side) - 25) ** 2 for side in (d.x, d.y))


def bsp(d):
    """Chen et al. 2019, Eq 8: the largest eigenvalue of F'F is the square of F's largest singular value."""
    return sum(torch.linalg.eigvalsh(f.T @ f)[-1] for f in (d.x, d.y))


def entropy_min(d):
    p = softmax(d.zy)
    return sum(entropy_of(row) for row in p) / len(p)


def nuclear(p):
    """Sum of the roots of the eigenvalues of P'P or PP', whichever is smaller."""
    gram = p.T @ p if p.shape[0] >= p.shape[1] else p @ p.T
    return torch.linalg.eigvalsh(gram).clamp_min(1e-300).sqrt().sum()


def bnm(d):
    """Cui et al. 2020, Eq 9."""
    p = softmax(d.zy)
    return -nuclear(p) / len(p)


def bnm_fast(d):
    """Cui et al. 2021: the largest column norms."""
    p = softmax(d.zy)
    columns = sorted((p[:, k].norm() for k in range(p.shape[1])), key=lambda norm: norm.item(), reverse=True)
    return -sum(columns[: min(p.shape)]) / len(p)


def mcc(d):
    """Jin et al. 2020, Eqs 3-8, T = 2.5."""
    p = softmax(d.zy / 2.5)
    n, classes = p.shape
    raw = [1 + math.exp(-entropy_of(row).item()) for row in p]
    w = [n * r / sum(raw) for r in raw]
    c = [[sum(w[i] * p[i][j] * p[i][k] for i in range(n)) for k in range(classes)] for j in range(classes)]
    beside = 0.0
    for j in range(classes):
        whole = sum(c[j][k] for k in range(classes))
        beside = beside + sum(c[j][k] / whole for k in range(classes) if k != j)
    return beside / classes


def log_loss(logit, is_source):
    p = 1 / (1 + torch.exp(-logit))
    return -(p.log() if is_source else (1 - p).log())


def told_apart(d, seen_x, seen_y, wx, wy):
    """Mean over both sides of the discriminators' cross-entropy; both pass them together."""
    logits = d.adversary(torch.stack([*seen_x, *seen_y]))
    left = sum(w * sum(log_loss(logit, True) for logit in row) for w, row in zip(wx, logits[: len(wx)], strict=True))
    right = sum(w * sum(log_loss(logit, False) for logit in row) for w, row in zip(wy, logits[len(wx) :], strict=True))
    return (left + right) / 2


def strength(share):
    return 2 / (1 + math.exp(-10 * share)) - 1


def against(value, factor):
    """A game: the features climb what the method's own parameters descend."""
    return {"features": -factor * value, "parts": value}


def dann(d):
    """Ganin et al. 2016, Eq 9."""
    return against(told_apart(d, d.x, d.y, even(d.x), even(d.y)), strength(d.share))


def cdan(d, entropy=True, joint=False):
    """Long et al. 2018, Eqs 5 and 8."""
    px, py = softmax(d.zx).detach(), softmax(d.zy).detach()
    wx, wy = even(d.x), even(d.y)
    if entropy:
        wx, wy = ([1 + math.exp(-float(entropy_of(row))) for row in p] for p in (px, py))
        half = (sum(wx) + sum(wy)) / 2
        wx, wy = ([w / (half if joint else sum(side)) for w in side] for side in (wx, wy))
    sides = ([torch.outer(p, f).flatten() for p, f in zip(*side, strict=True)] for side in ((px, d.x), (py, d.y)))
    return against(told_apart(d, *sides, wx, wy), strength(d.share))


def mada(d):
    """Pei et al. 2018, Eq 4: the discriminator of class k sees p_k f."""
    return cdan(d, entropy=False)


def mdd(d):
    """Zhang et al. 2019, Eq 30, margin 4; strength 0.1 (2 / (1 + e^(-i / 1000)) - 1)."""
    x, y = softmax(d.adversary(d.x)), softmax(d.adversary(d.y))
    value = 4 * sum(-x[i][d.zx[i].argmax()].log() for i in range(len(x))) / len(x)
    value = value + sum(-(1 - y[i][d.zy[i].argmax()]).log() for i in range(len(y))) / len(y)
    return against(value, 0.1 * (2 / (1 + math.exp(-d.step / 1000)) - 1))


def daln(d):
    """Chen et al. 2022, Eqs 6-8: the head widens the difference of nuclear norms, the features narrow it."""
    x, y = softmax(d.head(d.x)), softmax(d.head(d.y))
    value = nuclear(x) / len(x) - nuclear(y) / len(y)
    factor = 2 / (1 + math.exp(-d.step / 1000)) - 1
    return {"features": factor * value, "head": -value, "value": -value}


def gvb(d):
    """Cui et al. 2020, Eqs 5-10; weights e^-H per side, whose gradient is reversed; D answers and bridges."""
    c = strength(d.share)

    def game(probs, sign):
        """What the answers descend, with the predictions' slopes times sign."""
        rows = torch.stack([*probs[0], *probs[1]])
        rows = sign * rows + (1 - sign) * rows.detach()
        entropies = [entropy_of(p) for p in (*probs[0], *probs[1])]
        sure = [torch.exp(-(sign * h + (1 - sign) * h.detach())) for h in entropies]
        out, n = d.adversary(rows), len(probs[0])
        value = 0.0
        for side, is_source in ((range(n), True), (range(n, len(rows)), False)):
            whole = sum(float(sure[i].detach()) for i in side)
            value = value + sum(sure[i] / whole * log_loss(out[i][0] - out[i][1], is_source) for i in side) / 2
        return value + sum(row[1].abs() for row in out) / len(out)

    probs = softmax(d.zx), softmax(d.zy)
    own = sum(d.head.bridge(f).abs().mean() for f in (*d.x, *d.y)) / (len(d.x) + len(d.y))
    network = game(probs, -c) + own
    return {"features": network, "head": network, "parts": game(probs, 1.0), "value": game(probs, 1.0) + own}


def lpl(d, k=20):
    """Li et al. 2017, Eq 4."""
    total, counted = 0.0, 0
    for i, f in enumerate(d.x):
        others = [j for j in range(len(d.x)) if j != i and d.labels[j] == d.labels[i]]
        near = sorted(others, key=lambda j: square(d.x[i], d.x[j]).item())[:k]
        if near:
            total = total + square(f, mean([d.x[j].detach() for j in near])) / 2
            counted += 1
    return total / counted


def heads_learn(d):
    return cross_entropy(d.zx, d.labels) + cross_entropy(d.second(d.x), d.labels)


def mcd(d, phase):
    """Saito et al. 2018, Eqs 3-6, with the distance of Eq 2."""
    return in_turns(d, phase, lambda p, q: sum((p[i] - q[i]).abs().sum() for i in range(len(p))) / p.numel())


def swd(d, phase):
    """Lee et al. 2019, Eq 4: sorted projections on 128 directions."""

    def distance(p, q):
        torch.manual_seed(5)
        directions = torch.randn(d.classes, 128, dtype=torch.float64)
        total = 0.0
        for r in range(128):
            one = directions[:, r] / directions[:, r].norm()
            left, right = (sorted((row @ one for row in side), key=lambda v: v.item()) for side in (p, q))
            total = total + sum((a - b) ** 2 for a, b in zip(left, right, strict=True))
        return total / (128 * len(p))

    return in_turns(d, phase, distance)


def in_turns(d, phase, distance):
    value = distance(softmax(d.zy), softmax(d.second(d.y)))
    if phase == "fit":
        return {"supervised": heads_learn(d), "value": 0.0}
    if phase == "one_step":
        return {"supervised": heads_learn(d), "features": value, "head": -value, "parts": -value, "value": -value}
    sign = {"part": -1, "meet": 1}[phase]
    supervised = heads_learn(d) if phase == "part" else 0.0
    return {"supervised": supervised, **dict.fromkeys(("features", "head", "parts", "value"), sign * value)}


def symnets(d, rise):
    """Zhang et al. 2019, Eqs 3-12: heads descend one sum, features another; both are of one softmax."""

    def halves(rows):
        z = torch.stack([torch.cat([d.adversary(row[None])[0], d.head(row[None])[0]]) for row in rows])
        return z, softmax(z)

    n = d.classes
    (zx, ux), (_, uy) = halves(d.x), halves(d.y)
    heads = cross_entropy(zx[:, :n], d.labels) + cross_entropy(zx[:, n:], d.labels)
    heads = heads - sum(u[:n].sum().log() for u in ux) / len(ux) - sum(u[n:].sum().log() for u in uy) / len(uy)
    features = (cross_entropy(zx, d.labels) + cross_entropy(zx, [y + n for y in d.labels])) / 2
    target = -sum(u[:n].sum().log() + u[n:].sum().log() for u in uy) / (2 * len(uy))
    target = target + sum(entropy_of(u[:n] + u[n:]) for u in uy) / len(uy)
    both = features + rise * target
    return {"supervised": 0.0, "features": both, "head": heads, "parts": heads, "value": heads + both}


def dfa(d):
    """Zhu et al. 2016: means meet, classes are tight, and lie apart as far as a Gaussian of their distance tells."""
    m, n = mean(d.x), len(d.x)
    classes = {y: mean([x for x, other in zip(d.x, d.labels, strict=True) if other == y]) for y in set(d.labels)}
    s = sum(square(x, m).item() for x in d.x) / n
    within = sum(square(x, classes[y]) for x, y in zip(d.x, d.labels, strict=True))
    between = sum(1 - torch.exp(-square(classes[y], m) / s) for y in d.labels)
    return ddc(d) + (within - between) / (2 * n)


def icid(d):
    """Ji et al. 2019: both channels fused, the second alone, and pairs of neighbours in a ring from the first."""
    h, n = d.head, len(d.x)
    z = h.classify(h.different(d.x))
    common = h.common(d.x)
    total = cross_entropy(d.zx, d.labels) + cross_entropy(z, d.labels)
    for i in range(n):
        logit = h.compare(torch.cat([common[i], common[(i + 1) % n]])[None])[0, 0]
        total = total + log_loss(logit, d.labels[i] == d.labels[(i + 1) % n]) / n
    return {"supervised": total, "value": 0.0}


def mstn(d):
    """Xie et al. 2018, Eq 8, its first step: means begin at 0 and move by 0.3; weight 1 beside the adversary's 0.1."""
    told, c = told_apart(d, d.x, d.y, even(d.x), even(d.y)), strength(d.share)
    predicted = [int(z.argmax()) for z in d.zy]
    total = 0.0
    for k in range(d.classes):
        sides = []
        for rows, labels in ((d.x, d.labels), (d.y, predicted)):
            mine = [row for row, y in zip(rows, labels, strict=True) if y == k]
            sides.append(0.3 * mean(mine) if mine else torch.zeros_like(rows[0]))
        total = total + square(*sides) / (d.classes * len(d.x[0]))
    means = c * total / 0.1
    return {"features": means - c * told, "parts": told, "value": told + means}


def aglrls(d):
    """Gao et al. 2024, the global head: thresholds begin at 0.95 / 4, so that every label counts at first."""
    pseudo = [int(z.argmax()) for z in d.zy]
    total = 0.0
    for i, z in enumerate(d.zy):
        if softmax(z[None])[0].max() >= 0.95 * ((0 + 1) / 2) ** 2:
            total = total + cross_entropy(z[None], [pseudo[i]]) / len(d.zy)
    return {"supervised": 7 * cross_entropy(d.zx, d.labels) + 7 * total, **cdan(d)}
