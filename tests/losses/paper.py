"""LA-CMFER (ACM MM 2024) equation by equation, in slow NumPy float64, written from the paper.

`at` freezes what the optimiser sees as constant (bandwidths), so that finite differences of these functions are the
gradients the paper means. Functions named `official_*` follow the released code's formulas instead.
"""

from __future__ import annotations

import numpy as np


def softmax(z):
    out = np.zeros_like(z)
    for i in range(len(z)):
        e = np.exp(z[i] - z[i].max())
        out[i] = e / e.sum()
    return out


def cross_entropy(z, label):
    return float(np.log(np.exp(z - z.max()).sum()) + z.max() - z[label])


def bandwidth(rows):
    n = len(rows)
    total = 0.0
    for i in range(n):
        for j in range(n):
            total += float(((rows[i] - rows[j]) ** 2).sum())
    return max(total / (n * n - n), 1e-12)


def kernel(u, v, sigma):
    return sum(np.exp(-float(((u - v) ** 2).sum()) / (sigma * 2.0 ** (q - 2))) for q in range(5))


def rkhs_distance(x, y, a, b, at=None):
    """|| sum a_i phi(x_i) - sum b_j phi(y_j) ||^2 by the kernel trick."""
    sigma = bandwidth(np.concatenate([x, y] if at is None else at))
    total = 0.0
    for i in range(len(x)):
        for j in range(len(x)):
            total += a[i] * a[j] * kernel(x[i], x[j], sigma)
    for i in range(len(y)):
        for j in range(len(y)):
            total += b[i] * b[j] * kernel(y[i], y[j], sigma)
    for i in range(len(x)):
        for j in range(len(y)):
            total -= 2 * a[i] * b[j] * kernel(x[i], y[j], sigma)
    return total


def eq1_2(x, y, at=None):
    return rkhs_distance(x, y, [1 / len(x)] * len(x), [1 / len(y)] * len(y), at)


def eq3(p, removed):
    """Norm of a prediction without one element."""
    return np.sqrt(sum(p[j] ** 2 for j in range(len(p)) if j != removed))


def eq4(probs, removed, reliable=None):
    """H of a domain batch: unreliable samples weigh nothing, the rest sums to 1."""
    omega = [eq3(p, r) for p, r in zip(probs, removed, strict=True)]
    if reliable is not None:
        omega = [o if ok else 0.0 for o, ok in zip(omega, reliable, strict=True)]
    total = sum(omega)
    return np.array([o / total if total > 0 else 0.0 for o in omega])


def reliable(probs, eps):
    return np.array([max(p) >= eps for p in probs])


def eq5_6(x, y, h_x, h_y, at=None):
    if sum(h_x) == 0 or sum(h_y) == 0:
        return 0.0
    return rkhs_distance(x, y, h_x, h_y, at)


def _members(labels, wanted, weight):
    chosen = [i for i in range(len(labels)) if labels[i] in wanted]
    total = sum(weight[i] for i in chosen)
    return chosen, total


def _group_distance(x, y, k, classes, x_labels, y_labels, w_x, w_y, at):
    """D between the source of class k and the target of some classes; None where either has no weight."""
    left, total_left = _members(x_labels, {k}, w_x)
    right, total_right = _members(y_labels, classes, w_y)
    if total_left == 0 or total_right == 0:
        return None
    a = [w_x[i] / total_left for i in left]
    b = [w_y[j] / total_right for j in right]
    frozen = None if at is None else (at[0][left], at[1][right])
    return rkhs_distance(x[left], y[right], a, b, frozen)


def eq7_8(x, y, x_labels, y_labels, num_classes, w_x, w_y, pairs, at=None):
    """Mean distance of equal classes less that to other classes, one at a time or together."""
    near, far = [], []
    for k in range(num_classes):
        near.append(_group_distance(x, y, k, {k}, x_labels, y_labels, w_x, w_y, at))
        others = [d for d in range(num_classes) if d != k]
        groups = [set(others)] if pairs == "one_vs_rest" else [{d} for d in others]
        far += [_group_distance(x, y, k, group, x_labels, y_labels, w_x, w_y, at) for group in groups]
    near, far = ([value for value in values if value is not None] for values in (near, far))
    return np.mean(near) - np.mean(far) if near and far else 0.0


def eq10(p_g, p_l):
    mpc = np.zeros((p_g.shape[1],) * 2)
    for c in range(len(mpc)):
        for d in range(len(mpc)):
            mpc[c, d] = sum(p_g[i, c] * p_l[i, d] for i in range(len(p_g)))
    return mpc


def eq11(p_g, p_l):
    mpc = eq10(p_g, p_l)
    classes = len(mpc)
    total = 0.0
    for matrix in (mpc, mpc.T):
        for c in range(classes):
            row = matrix[c] / matrix[c].sum()
            total += sum(abs(row[d] - (1.0 if c == d else 0.0)) for d in range(classes))
    return total / (2 * classes)


def eq12_votes(p_g, p_l, tau):
    votes = []
    for g, t in zip(p_g, p_l, strict=True):
        agree = g.argmax() == t.argmax()
        votes.append(int(g.argmax()) if agree and (g.max() > tau or t.max() > tau) else None)
    return votes


def eq12(z_g, z_l, votes):
    total = 0.0
    for i, vote in enumerate(votes):
        if vote is not None:
            total += cross_entropy(z_g[i], vote) + cross_entropy(z_l[i], vote)
    return total / len(votes)


def eq13(z_g, z_l, labels, domain):
    numbers = sorted(set(domain))
    total = 0.0
    for n in numbers:
        mine = [i for i in range(len(labels)) if domain[i] == n]
        total += sum(cross_entropy(z_l[i], labels[i]) + cross_entropy(z_g[i], labels[i]) for i in mine) / len(mine)
    return total / len(numbers)


def official_weight(z, labels, mask, other_labels, *, require_match):
    """get_weight: mean square of the logits, the label's lowered by the largest; 0 without a partner in the batch."""
    raw = []
    for i in range(len(z)):
        lowered = z[i].copy()
        lowered[labels[i]] -= z[i].max()
        partner = any(other == labels[i] for other in other_labels)
        raw.append((lowered**2).mean() * mask[i] * (partner or not require_match))
    total = sum(raw)
    return np.array(raw) / total if total else np.zeros(len(raw))


def official_cluster(x, y, x_labels, y_labels, mask_x, mask_y, at=None):
    """get_cluster_loss, the revision that is called: unreliable rows are gone, the rest weigh the same."""
    mask_x, mask_y = np.asarray(mask_x, bool), np.asarray(mask_y, bool)
    x, y, x_labels, y_labels = x[mask_x], y[mask_y], x_labels[mask_x], y_labels[mask_y]
    at = None if at is None else (at[0][mask_x], at[1][mask_y])
    near, far = [], []
    for k in sorted({*x_labels, *y_labels}):
        for d in sorted({*x_labels, *y_labels}):
            value = _group_distance(x, y, k, {d}, x_labels, y_labels, [1] * len(x), [1] * len(y), at)
            if value is not None:
                (near if k == d else far).append(value)
    return np.mean(near) - np.mean(far) if near and far else 0.0


def official_mcc(p, q):
    """mcc_loss: off-diagonal mass of the matrix normalised by rows, and by columns."""
    joint = p.T @ q
    rows = joint / joint.sum(1, keepdims=True)
    columns = joint / joint.sum(0, keepdims=True)
    classes = len(joint)
    return 0.5 * (rows.sum() - np.trace(rows)) / classes + 0.5 * (columns.sum() - np.trace(columns)) / classes


def official_mvv(z_g, z_l, votes):
    """select_pseudo_labels: mean over the selected; 0 where the code's division gives NaN."""
    chosen = [(i, v) for i, v in enumerate(votes) if v is not None]
    if not chosen:
        return 0.0
    return sum(cross_entropy(z_g[i], v) + cross_entropy(z_l[i], v) for i, v in chosen) / len(chosen)


def official_smoothed(z, labels, epsilon=0.1):
    """CrossEntropyLabelSmooth: targets (1 - epsilon) * one-hot + epsilon / K."""
    classes = z.shape[1]
    total = 0.0
    for i in range(len(z)):
        log_p = np.log(softmax(z[i : i + 1])[0])
        for c in range(classes):
            total -= ((1 - epsilon) * (c == labels[i]) + epsilon / classes) * log_p[c]
    return total / len(z)


def official_vote(rows):
    """get_confidence_test_vote: (largest logit, majority, hybrid) of the candidates' logits."""
    best, chosen, names = 0.0, 0, []
    for row in rows:
        names.append(int(row.argmax()))
        if row.max() > best:
            best, chosen = row.max(), names[-1]
    winner, count = 0, 0
    for name in names:
        if names.count(name) >= count:
            winner, count = name, names.count(name)
    return chosen, winner, chosen if count in (1, 3) else winner


def gradient(function, value, step=1e-6):
    """Central differences of a scalar function of one array."""
    grad = np.zeros_like(value)
    for index in np.ndindex(*value.shape):
        up, down = value.copy(), value.copy()
        up[index] += step
        down[index] -= step
        grad[index] = (function(up) - function(down)) / (2 * step)
    return grad
