"""The methods as their papers write them: float64, sample by sample, slow, with a network and statistics of its own."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F

EPS = 1e-5


class Net:
    """The network of conftest, its weights by name, its statistics as a dictionary norm -> [mean, variance]."""

    def __init__(self, model):
        self.w = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
        buffers = dict(model.named_buffers())
        self.stats = {
            n: [buffers[f"backbone.{n}.running_mean"].clone(), buffers[f"backbone.{n}.running_var"].clone()]
            for n in ("norm1", "norm2")
        }

    def affine(self):
        return [self.w[f"backbone.norm{i}.{part}"] for i in (1, 2) for part in ("weight", "bias")]

    def __call__(self, x, norm):
        """Return features and logits; norm(name, x) -> x normalised, before scale and shift."""
        for i, stride in ((1, 1), (2, 2)):
            x = norm(f"norm{i}", F.conv2d(x, self.w[f"backbone.conv{i}.weight"], stride=stride, padding=1))
            scale, shift = (self.w[f"backbone.norm{i}.{part}"] for part in ("weight", "bias"))
            x = (x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)).clamp_min(0)
        features = torch.stack([image.flatten(1).sum(1) / image[0].numel() for image in x])
        return features, features @ self.w["heads.main.weight"].T + self.w["heads.main.bias"]


def by_channel(x):
    """Return mean and variance (over n) of each channel, channel by channel, and n."""
    columns = [x[:, c].reshape(-1) for c in range(x.shape[1])]
    means = torch.stack([column.sum() / len(column) for column in columns])
    variances = torch.stack([((c - m) ** 2).sum() / len(c) for c, m in zip(columns, means, strict=True)])
    return means, variances, len(columns[0])


def normalise(x, mean, variance):
    return (x - mean.view(1, -1, 1, 1)) / (variance.view(1, -1, 1, 1) + EPS).sqrt()


def with_batch(net, momentum):
    def norm(name, x):
        mean, variance, n = by_channel(x)
        old = net.stats[name]
        old[0] = (1 - momentum) * old[0] + momentum * mean.detach()
        old[1] = (1 - momentum) * old[1] + momentum * variance.detach() * n / (n - 1)
        return normalise(x, mean, variance)

    return norm


def with_mixture(net, share, momentum):
    def norm(name, x):
        mean, variance, n = by_channel(x)
        old_mean, old_variance = net.stats[name]
        if momentum:
            net.stats[name] = [
                (1 - momentum) * old_mean + momentum * mean.detach(),
                (1 - momentum) * old_variance + momentum * variance.detach() * n / (n - 1),
            ]
        return normalise(x, (1 - share) * old_mean + share * mean, (1 - share) * old_variance + share * variance)

    return norm


def with_running(net):
    return lambda name, x: normalise(x, *net.stats[name])


def softmax(z):
    e = torch.stack([(row - row.max()).exp() for row in z])
    return torch.stack([row / row.sum() for row in e])


def entropy(p):
    """Return -sum p ln p of one row."""
    return -sum(p[k] * p[k].log() for k in range(len(p)))


def entropies(z):
    return torch.stack([entropy(p) for p in softmax(z)])


class AdaBN:
    def __init__(self, model, alpha=None, count=16, momentum=0.1, average=False):
        self.net, self.alpha, self.count, self.momentum, self.average, self.t = (
            Net(model),
            alpha,
            count,
            momentum,
            average,
            0,
        )

    def step(self, x):
        share = len(x) / (len(x) + self.count) if self.alpha is None else self.alpha
        self.t += 1
        momentum = 1 / self.t if self.average else self.momentum
        return softmax(self.net(x, with_mixture(self.net, share, momentum))[1]).detach()


class Tent:
    def __init__(self, model, mixed=False):
        self.net, self.mixed = Net(model), mixed
        self.optimiser = torch.optim.Adam(self.net.affine(), lr=1e-3)

    def norm(self, n, momentum=0.1):
        return with_mixture(self.net, n / (n + 16), momentum) if self.mixed else with_batch(self.net, momentum)

    def step(self, x):
        z = self.net(x, self.norm(len(x)))[1]
        self.optimiser.zero_grad()
        (entropies(z).sum() / len(z)).backward()
        self.optimiser.step()
        return softmax(z).detach()


class EATA(Tent):
    def __init__(self, model, mixed=False, similarity=0.5, measured=4):
        super().__init__(model, mixed)
        self.optimiser = torch.optim.SGD(self.net.affine(), lr=2.5e-4, momentum=0.9)
        self.source = [w.detach().clone() for w in self.net.affine()]
        self.fisher = [torch.zeros_like(w) for w in self.source]
        self.mean, self.t, self.similarity, self.measured = None, 0, similarity, measured

    def step(self, x):
        z = self.net(x, self.norm(len(x)))[1]
        p = softmax(z)
        self.t += 1
        self.optimiser.zero_grad()
        if self.t <= self.measured:
            (-sum(row.max().log() for row in p) / len(p)).backward()
            for f, w in zip(self.fisher, self.net.affine(), strict=True):
                f.add_(w.grad**2 / self.measured)
            return p.detach()
        margin, chosen = 0.4 * math.log(7), []
        for row in p:
            cosine = 0 if self.mean is None else float(row @ self.mean / (row.norm() * self.mean.norm()))
            if float(entropy(row)) < margin and abs(cosine) < self.similarity:
                chosen.append(row)
        if chosen:
            new = sum(row.detach() for row in chosen) / len(chosen)
            loss = sum(math.exp(margin - float(entropy(row))) * entropy(row) for row in chosen) / len(chosen)
            for f, w, old in zip(self.fisher, self.net.affine(), self.source, strict=True):
                loss = loss + 2000 * (f * (w - old) ** 2).sum()
            loss.backward()
            self.optimiser.step()
            self.mean = new if self.mean is None else 0.9 * self.mean + 0.1 * new
        return p.detach()


class SAR(Tent):
    def __init__(self, model, mixed=False, reset_below=0.2):
        super().__init__(model, mixed)
        self.optimiser = torch.optim.SGD(self.net.affine(), lr=2.5e-4, momentum=0.9)
        self.began = copy.deepcopy((self.net.w, self.net.stats))
        self.running, self.least, self.resets = None, reset_below * math.log(7) / math.log(1000), 0

    def step(self, x):
        margin = 0.4 * math.log(7)
        z = self.net(x, self.norm(len(x)))[1]
        h = entropies(z)
        first = [i for i in range(len(h)) if float(h[i]) < margin]
        if first:
            self.optimiser.zero_grad()
            (sum(h[i] for i in first) / len(first)).backward()
            slopes = [w.grad.clone() for w in self.net.affine()]
            length = math.sqrt(sum(float((g**2).sum()) for g in slopes)) + 1e-12
            old = [w.detach().clone() for w in self.net.affine()]
            with torch.no_grad():
                for w, g in zip(self.net.affine(), slopes, strict=True):
                    w.add_(0.05 * g / length)
            h = entropies(self.net(x, self.norm(len(x), 0.0))[1])
            second = [i for i in first if float(h[i]) < margin]
            self.optimiser.zero_grad()
            if second:
                loss = sum(h[i] for i in second) / len(second)
                loss.backward()
            with torch.no_grad():
                for w, value in zip(self.net.affine(), old, strict=True):
                    w.copy_(value)
            if second:
                self.optimiser.step()
                new = float(loss.detach())
                self.running = new if self.running is None else 0.9 * self.running + 0.1 * new
        if self.running is not None and self.running < self.least:
            with torch.no_grad():
                for name, value in self.began[0].items():
                    self.net.w[name].copy_(value)
            self.net.stats, self.running = copy.deepcopy(self.began[1]), None
            self.optimiser.state.clear()
            self.resets += 1
        return softmax(z).detach()


class CoTTA:
    def __init__(self, model, views, view, sure=0.92, restore=0.01):
        self.teacher, self.student, self.source = Net(model), Net(model), Net(model)
        self.views, self.view, self.sure, self.restore = views, view, sure, restore
        self.optimiser = torch.optim.Adam(list(self.student.w.values()), lr=1e-3)

    def step(self, x):
        teacher = self.teacher(x, with_batch(self.teacher, 0.1))[1].detach()
        sure = sum(float(row.max()) for row in softmax(self.source(x, with_batch(self.source, 0.0))[1])) / len(x)
        if sure < self.sure:
            every = [self.teacher(self.view(x), with_batch(self.teacher, 0.0))[1].detach() for _ in range(self.views)]
            teacher = sum(every) / self.views
        target, p = softmax(teacher), softmax(self.student(x, with_batch(self.student, 0.0))[1])
        self.optimiser.zero_grad()
        (-sum((target[i] * p[i].log()).sum() for i in range(len(x))) / len(x)).backward()
        self.optimiser.step()
        with torch.no_grad():
            for name, w in self.student.w.items():
                self.teacher.w[name].copy_(0.999 * self.teacher.w[name] + 0.001 * w)
            for name, w in self.student.w.items():
                back = torch.rand(w.shape) < self.restore
                w[back] = self.source.w[name][back]
        return target


class RoTTA:
    def __init__(self, model, view, size):
        self.teacher, self.student, self.view, self.size = Net(model), Net(model), view, size
        self.optimiser = torch.optim.Adam(self.student.affine(), lr=1e-3)
        self.memory, self.seen = [[] for _ in range(7)], 0

    def badness(self, age, h):
        return 1 / (1 + math.exp(-age / self.size)) + h / math.log(7)

    def take(self, image, k, h):
        counts = [len(members) for members in self.memory]
        if counts[k] < self.size / 7 and sum(counts) < self.size:
            self.memory[k].append([image, 0, h])
        else:
            classes = [c for c in range(7) if counts[c] == max(counts)] if counts[k] < self.size / 7 else [k]
            worst = None
            for c in classes:
                for place, (_, age, own) in enumerate(self.memory[c]):
                    if worst is None or self.badness(age, own) >= worst[0]:
                        worst = (self.badness(age, own), c, place)
            if worst is None or worst[0] > self.badness(0, h):
                if worst is not None:
                    del self.memory[worst[1]][worst[2]]
                self.memory[k].append([image, 0, h])
        for members in self.memory:
            for item in members:
                item[1] += 1

    def robust(self, net):
        def norm(name, x):
            mean, variance, _ = by_channel(x)
            mean, variance = (
                0.95 * old + 0.05 * new for old, new in zip(net.stats[name], (mean, variance), strict=True)
            )
            net.stats[name] = [mean.detach(), variance.detach()]
            return normalise(x, mean, variance)

        return norm

    def step(self, x):
        p = softmax(self.teacher(x, with_running(self.teacher))[1]).detach()
        for image, row in zip(x, p, strict=True):
            self.take(image, int(row.argmax()), float(entropy(row)))
        before, self.seen = self.seen, self.seen + len(x)
        if before // self.size < self.seen // self.size:
            items = [item for members in self.memory for item in members]
            images = torch.stack([item[0] for item in items])
            target = softmax(self.teacher(images, self.robust(self.teacher))[1]).detach()
            q = softmax(self.student(self.view(images), self.robust(self.student))[1])
            loss = 0
            for (_, age, _), t, s in zip(items, target, q, strict=True):
                e = math.exp(-age / self.size)
                loss = loss - e / (1 + e) * (t * s.log()).sum()
            self.optimiser.zero_grad()
            (loss / len(items)).backward()
            self.optimiser.step()
            with torch.no_grad():
                for name, w in self.student.w.items():
                    self.teacher.w[name].copy_(0.999 * self.teacher.w[name] + 0.001 * w)
        return p


class NOTE:
    def __init__(self, model, size, aware=True, width=4.0):
        self.net, self.size, self.aware, self.width = Net(model), size, aware, width
        self.optimiser = torch.optim.Adam(self.net.affine(), lr=1e-4)
        self.memory, self.counts, self.seen = [[] for _ in range(7)], [0] * 7, 0

    def norm(self, training):
        def norm(name, x):
            middle = self.net.stats[name]
            if training:
                mean, variance, n = by_channel(x)
                middle = [mean, variance * n / (n - 1)] if self.aware else [mean, variance]
                fresh = (mean.detach(), variance.detach() * n / (n - 1))
                self.net.stats[name] = [
                    0.99 * o + 0.01 * new for o, new in zip(self.net.stats[name], fresh, strict=True)
                ]
            if not self.aware:
                return normalise(x, *middle)
            area, rows = x[0, 0].numel(), []
            for image in x:
                own_mean, own_variance = image.flatten(1).mean(1), image.flatten(1).var(1)
                lower = self.width * ((middle[1] + EPS) / area).sqrt()
                wider = self.width * (middle[1] + EPS) * math.sqrt(2 / (area - 1))
                mean, variance = self.towards(middle[0], own_mean, lower), self.towards(middle[1], own_variance, wider)
                rows.append(normalise(image[None], mean, variance.clamp_min(0))[0])
            return torch.stack(rows)

        return norm

    @staticmethod
    def towards(middle, own, width):
        gap = own - middle
        return middle + torch.where(gap > width, gap - width, torch.where(gap < -width, gap + width, 0 * gap))

    def take(self, image, k):
        self.counts[k] += 1
        sizes = [len(members) for members in self.memory]
        if sum(sizes) >= self.size:
            largest = [c for c in range(7) if sizes[c] == max(sizes)]
            if k not in largest:
                gives = largest[int(torch.randint(len(largest), ()))]
            elif float(torch.rand(())) <= sizes[k] / self.counts[k]:
                gives = k
            else:
                return
            del self.memory[gives][int(torch.randint(sizes[gives], ()))]
        self.memory[k].append(image)

    def step(self, x):
        p = softmax(self.net(x, self.norm(False))[1]).detach()
        for image, row in zip(x, p, strict=True):
            self.take(image, int(row.argmax()))
        before, self.seen = self.seen, self.seen + len(x)
        if before // self.size < self.seen // self.size:
            images = torch.stack([image for members in self.memory for image in members])
            h = entropies(self.net(images, self.norm(True))[1])
            self.optimiser.zero_grad()
            (h.sum() / len(h) / 7).backward()
            self.optimiser.step()
        return p


class DELTA:
    def __init__(self, model, start="batch", select=False):
        self.net, self.select = Net(model), select
        self.optimiser = torch.optim.SGD(self.net.affine(), lr=2.5e-4, momentum=0.9)
        self.shares = torch.full((7,), 1 / 7, dtype=torch.float64)
        of_source = {n: [mean, (variance + EPS).sqrt()] for n, (mean, variance) in self.net.stats.items()}
        self.stream = of_source if start == "source" else {}

    def norm(self, name, x):
        mean, variance, _ = by_channel(x)
        deviation = (variance + EPS).sqrt()
        if name not in self.stream:
            self.stream[name] = [mean.detach(), deviation.detach()]
        old_mean, old_deviation = self.stream[name]
        r, d = deviation.detach() / old_deviation, (mean.detach() - old_mean) / old_deviation
        self.stream[name] = [
            0.95 * old_mean + 0.05 * mean.detach(),
            0.95 * old_deviation + 0.05 * deviation.detach(),
        ]
        mean, deviation, r, d = (values.view(1, -1, 1, 1) for values in (mean, deviation, r, d))
        return (x - mean) / deviation * r + d

    def step(self, x):
        z = self.net(x, self.norm)[1]
        p = softmax(z)
        weights = [1 / float(self.shares[int(row.argmax())]) for row in p]
        weights = [w * len(p) / sum(weights) for w in weights]
        terms = []
        for row, w in zip(p, weights, strict=True):
            h = entropy(row)
            sure = math.exp(0.5 * math.log(7) - float(h))
            if not self.select or sure > 1:
                terms.append(w * (sure if self.select else 1) * h)
        if terms:
            self.optimiser.zero_grad()
            (sum(terms) / len(terms)).backward()
            self.optimiser.step()
        self.shares = 0.95 * self.shares + 0.05 * p.detach().mean(0)
        return p.detach()


class LAME:
    def __init__(self, model, kind="knn", neighbours=5):
        self.net, self.kind, self.neighbours = Net(model), kind, neighbours

    def weights(self, f):
        n = len(f)
        unit = [row / row.norm().clamp_min(1e-12) for row in f]
        distance = [[float((unit[i] - unit[j]).norm()) for j in range(n)] for i in range(n)]
        w = torch.zeros(n, n, dtype=torch.float64)
        if self.kind == "rbf":
            scale = max(sum(sorted(row)[min(self.neighbours, n) - 1] for row in distance) / n, 1e-10)
        for i in range(n):
            near = sorted((j for j in range(n) if j != i), key=lambda j: distance[i][j])[: self.neighbours]
            for j in range(n):
                if self.kind == "knn":
                    w[i, j] = float(j in near)
                elif self.kind == "rbf":
                    w[i, j] = math.exp(-(distance[i][j] ** 2) / (2 * scale**2))
                else:
                    w[i, j] = float(unit[i] @ unit[j])
        return w

    def step(self, x):
        f, z = self.net(x, with_running(self.net))
        p = softmax(z).detach()
        if len(x) == 1:
            return p
        unary, w, old = -(p + 1e-10).log(), self.weights(f.detach()), math.inf
        y = softmax(-unary)
        for i in range(100):
            pairwise = w @ y
            y = softmax(-unary + pairwise)
            energy = float((unary * y - pairwise * y + y * y.clamp_min(1e-20).log()).sum())
            if i > 1 and abs(energy - old) <= 1e-8 * abs(old):
                break
            old = energy
        return y


class T3A:
    def __init__(self, model, most):
        self.net, self.most = Net(model), most
        rows = self.net.w["heads.main.weight"].detach()
        self.supports = [[(float(h), row)] for h, row in zip(entropies(self.logits(rows)), rows, strict=True)]

    def logits(self, f):
        return f @ self.net.w["heads.main.weight"].detach().T + self.net.w["heads.main.bias"].detach()

    def step(self, x):
        f = self.net(x, with_running(self.net))[0].detach()
        p = softmax(self.logits(f))
        for feature, row in zip(f, p, strict=True):
            self.supports[int(row.argmax())].append((float(entropy(row)), feature))
        self.supports = [sorted(own, key=lambda pair: pair[0])[: self.most] for own in self.supports]
        means = [sum(row / row.norm() for _, row in own) for own in self.supports]
        return softmax(torch.stack([torch.stack([feature @ (m / m.norm()) for m in means]) for feature in f]))


class MEMO:
    def __init__(self, model, views, view, lr=2.5e-4, optimiser="sgd", decay=0.0):
        self.net, self.views, self.view, self.how = Net(model), views, view, (lr, optimiser, decay)

    def step(self, x):
        lr, name, decay = self.how
        began, given = copy.deepcopy(self.net.w), []
        for image in x:
            kind = torch.optim.AdamW if name == "adamw" else torch.optim.SGD
            optimiser = kind(list(self.net.w.values()), lr=lr, weight_decay=decay)
            seen = self.view(torch.stack([image] * self.views))
            mean = sum(softmax(self.net(seen, with_running(self.net))[1])) / self.views
            optimiser.zero_grad()
            entropy(mean).backward()
            optimiser.step()
            given.append(softmax(self.net(image[None], with_running(self.net))[1]).detach()[0])
            with torch.no_grad():
                for key, value in began.items():
                    self.net.w[key].copy_(value)
        return torch.stack(given)
