"""Methods of several sources: literal float64 forms, batches that they must survive, predictions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fercore.hooks.assemble import assemble
from fercore.hooks.discovery import installed_plugins, load_class
from fercore.losses import moment_distance
from fercore.models import Model
from fercore.records.step import Batch, DomainBatch, Encoded, Progress
from fercore.records.task import BatchPolicy, DatasetInfo, TaskInfo

CLASSES, WIDTH, NAMES = 4, 5, ("a", "b", "c", "d")
METHODS = ("mdan", "m3sda", "m3sda_beta", "mfsan", "dctn")
RAMP = 2 / (1 + math.exp(-3)) - 1


def task(sources=3, missing=()):
    counts = [{name: 0 if (n, name) in missing else 5 for name in NAMES} for n in range(sources)]
    infos = tuple(DatasetInfo("folder", "folder", 20, each) for each in counts)
    policy = BatchPolicy(8, 8, None, class_balanced=False, domain_balanced=False)
    return TaskInfo(NAMES, infos, DatasetInfo("folder", "folder", 20), None, None, False, policy)


class Step:
    """A step in float64 whose images are the features; `domain` gives each source sample its source."""

    def __init__(self, name, settings=None, domain=(0, 0, 0, 1, 1, 2, 2, 2), target=6, known=None):
        cls = load_class(installed_plugins()[name])
        self.plugin = cls(name, cls.Settings.model_validate(settings or {}))
        torch.manual_seed(0)
        known = known or task()
        n, sources = len(domain), len(known.sources)
        self.x = (2 * torch.randn(n, WIDTH, dtype=torch.float64)).requires_grad_()
        self.y = (2 * torch.randn(target, WIDTH, dtype=torch.float64) + 1).requires_grad_()
        self.labels = torch.arange(n) % CLASSES
        self.domain = torch.tensor(domain)
        if name == "mfsan":
            names = [f"source{i}" for i in range(sources)]
            branches = {each: nn.Linear(WIDTH, 3) for each in names}
            heads = {each: nn.Linear(3, CLASSES) for each in names}
        else:
            branches, heads = {"main": nn.Identity()}, {"main": self.plugin.head(WIDTH, CLASSES, sources, 0.0)}
        self.model = Model(nn.Identity(), branches, heads, (0.0,) * 3, (1.0,) * 3)
        for part, module in self.plugin.parts(WIDTH, known).items():
            self.plugin.attach(self.model, module, part)
        self.model = self.model.double()

    def terms(self, phase="main", stage="train"):
        """Return the terms of a phase by short name."""
        clock = Progress(stage, phase, 0, 300, 1000)
        m = len(self.y)
        source = DomainBatch({"weak": self.x}, self.labels, self.domain, torch.arange(len(self.x)))
        target = DomainBatch({"weak": self.y}, torch.full((m,), -1), torch.zeros(m, dtype=torch.int64), torch.arange(m))
        given = {"model": self.model, "batch": Batch(source, target), "clock": clock, "pseudo": None}
        if self.plugin.name == "mfsan":
            each = {side.images["weak"]: side for side in (source, target)}
            encode = lambda side, name: self.plugin.encode(self.model, side, "weak", name, "train")  # noqa: E731
            given["encoded"] = {
                (name, "weak"): encode(side, name)
                for name, side in zip(("source", "target"), each.values(), strict=True)
            }
        else:
            given["encoded"] = {("source", "weak"): self.model(self.x), ("target", "weak"): self.model(self.y)}

        def call(hook):
            method = getattr(self.plugin, hook, None)
            if method is None:
                return []
            wanted = method.__code__.co_varnames[: method.__code__.co_argcount]
            return method(**{k: v for k, v in given.items() if k in wanted})

        with torch.no_grad():
            given["pseudo"] = call("pseudo_label") or None
        return {term.name.partition("/")[2]: term for hook in ("align", "loss") for term in call(hook)}

    def of(self, n):
        """Return features and labels of one source."""
        rows = [i for i, d in enumerate(self.domain.tolist()) if d == n]
        return self.x[rows], self.labels[rows]

    def leaves(self):
        return [self.x, self.y, *self.model.parameters()]

    def near(self, value, wanted, sign=1.0):
        """Compare value and gradients; sign times the features' ones."""
        torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-11)
        found, literal = (
            torch.autograd.grad(v, self.leaves(), allow_unused=True, retain_graph=True) for v in (value, wanted)
        )
        for number, (a, b) in enumerate(zip(found, literal, strict=True)):
            zero = torch.zeros_like(self.leaves()[number])
            ours, theirs = (zero if g is None else g for g in (a, b))
            torch.testing.assert_close(ours, sign * theirs if number < 2 else theirs, rtol=1e-7, atol=1e-10)


def cross_entropy(z, y):
    return sum(-z[i].log_softmax(0)[y[i]] for i in range(len(z))) / len(z)


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_mdan(mode):
    """Zhao et al. 2018, section 4; discriminators apart from the reversal, which has a test of its own."""
    one = Step("mdan", {"mode": mode, "mu": 0.3, "gamma": 2.0})
    head, critic = one.model.heads["main"], one.model.parts["mdan/adversary"]
    told = lambda rows, n: 1 / (1 + torch.exp(-critic(rows)[:, n]))  # noqa: E731
    errors, far = [], []
    for n in range(3):
        x, labels = one.of(n)
        errors.append(cross_entropy(head(x), labels))
        far.append(-told(x, n).log().mean() - (1 - told(one.y, n)).log().mean())
    if mode == "soft":
        wanted = sum(torch.exp(2.0 * (e + 0.3 * d)) for e, d in zip(errors, far, strict=True)).log() / 2.0
    else:
        wanted = max(errors) + 0.3 * min(far)
    value = one.terms()["bound"].value
    torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-11)
    inner = [*one.model.parameters()]
    for a, b in zip(*(torch.autograd.grad(v, inner, retain_graph=True) for v in (value, wanted)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10)
    (slope,), (plain,) = (torch.autograd.grad(v, [one.y], retain_graph=True) for v in (value, wanted))
    torch.testing.assert_close(slope, -plain)


def test_one_source_of_mdan_is_dann_and_cross_entropy():
    one = Step("mdan", {"mu": 0.5}, domain=(0,) * 5, known=task(1))
    critic = one.model.parts["mdan/adversary"]
    both = torch.cat([critic(one.x), critic(one.y)])[:, 0]
    right = torch.tensor([1.0] * 5 + [0.0] * 6, dtype=torch.float64)
    halves = torch.tensor([1 / 10] * 5 + [1 / 12] * 6, dtype=torch.float64)
    dann = halves @ F.binary_cross_entropy_with_logits(both, right, reduction="none")
    wanted = cross_entropy(one.model.heads["main"](one.x), one.labels) + 2 * 0.5 * dann
    torch.testing.assert_close(one.terms()["bound"].value, wanted)


def moments(sides, k):
    out = []
    for rows in sides:
        mean = sum(rows) / len(rows)
        out.append(mean if k == 1 else sum((row - mean) ** 2 for row in rows) / (len(rows) - 1))
    return out


@pytest.mark.parametrize("pairs", ["together", "apart"])
def test_m3sda(pairs):
    """Peng et al. 2019, Eq 3: the mean, then the variance of each domain."""
    one = Step("m3sda", {"pairs": pairs})
    sides = [one.of(n)[0] for n in range(3)] + [one.y]
    total = 0.0
    for k in (1, 2):
        each = moments(sides, k)
        norm = lambda i, j, each=each: ((each[i] - each[j]) ** 2).sum().sqrt()  # noqa: E731
        near, among = [norm(i, 3) for i in range(3)], [norm(0, 1), norm(0, 2), norm(1, 2)]
        total = total + (sum(near + among) / 6 if pairs == "together" else sum(near) / 3 + sum(among) / 3)
    terms = one.terms()
    one.near(terms["moments"].value, total / 2)
    heads = one.model.heads["main"].heads
    one.near(
        terms["cross_entropy"].value,
        sum(cross_entropy(heads[n](x), y) for n, (x, y) in enumerate(map(one.of, range(3)))) / 3,
    )


def test_m3sda_beta_parts_and_brings_together():
    one = Step("m3sda_beta")
    heads = one.model.heads["main"].heads
    apart = sum((heads[n](one.y).softmax(1) - heads[n + 3](one.y).softmax(1)).abs().mean() for n in range(3)) / 3
    both = sum(cross_entropy(heads[h](x), y) for n, (x, y) in enumerate(map(one.of, range(3))) for h in (n, n + 3)) / 3
    fit, part, meet = (one.terms(phase) for phase in ("fit", "part", "meet"))
    assert fit.keys() == {"moments", "cross_entropy"}
    one.near(fit["cross_entropy"].value, both)
    one.near(part["disagreement"].value, -apart)
    assert part.keys() == {"disagreement", "cross_entropy"}
    one.near(meet["disagreement"].value, apart)
    assert meet.keys() == {"disagreement"}
    resolved = assemble(["m3sda_beta"], [])
    (stage,) = resolved.plugins[0].plan(resolved.config)
    assert [(p.name, p.shares, p.repeats) for p in stage.phases] == [
        ("fit", None, 1),
        ("part", "fit", 1),
        ("meet", "fit", 4),
    ]


def kernel_distance(x, y):
    rows = [*x, *y]
    n = len(rows)
    s = sum(float(((a - b) ** 2).sum().detach()) for a in rows for b in rows) / (n * (n - 1))
    k = lambda a, b: sum(torch.exp(-((a - b) ** 2).sum() / (s * 2.0**q)) for q in range(-2, 3))  # noqa: E731
    mean = lambda u, v: sum(k(a, b) for a in u for b in v) / (len(u) * len(v))  # noqa: E731
    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


@pytest.mark.parametrize("phase", ["main", "source1"])
def test_mfsan(phase):
    """Zhu et al. 2019, Eqs 1-4; a phase of one source has its own distance and differences."""
    one = Step("mfsan")
    own = range(3) if phase == "main" else [1]
    nets = [(one.model.branches[f"source{n}"], one.model.heads[f"source{n}"]) for n in range(3)]
    distances, errors = [], []
    for n in own:
        x, labels = one.of(n)
        distances.append(kernel_distance(nets[n][0](x), nets[n][0](one.y)))
        errors.append(cross_entropy(nets[n][1](nets[n][0](x)), labels))
    p = [head(branch(one.y)).softmax(1) for branch, head in nets]
    differ = [(p[i] - p[j]).abs().mean() for i in range(3) for j in range(i + 1, 3) if phase == "main" or 1 in (i, j)]
    terms = one.terms(phase)
    one.near(terms["mmd"].value, sum(distances) / len(distances))
    one.near(terms["difference"].value, sum(differ) / len(differ))
    one.near(terms["cross_entropy"].value, sum(errors) / len(errors))
    assert terms["mmd"].weight == terms["difference"].weight == pytest.approx(RAMP)


def test_mfsan_has_a_step_for_each_source():
    resolved = assemble(["mfsan"], [{"mfsan": {"step": "per_source"}}])
    (stage,) = resolved.plugins[0].plan(resolved.config, task())
    assert [(p.name, p.shares) for p in stage.phases] == [
        ("source0", None),
        ("source1", "source0"),
        ("source2", "source0"),
    ]


def test_dctn_takes_turns():
    """Xu et al. 2018, section 3: discriminators, the source told best, and weighted heads."""
    one = Step("dctn", {"hidden": 3, "p_cutoff": 0.3})
    critic, heads = one.model.parts["dctn/adversary"], one.model.heads["main"].heads
    told = lambda rows: 1 / (1 + torch.exp(-critic(rows.repeat(1, 3))))  # noqa: E731
    cost = [-told(one.of(n)[0])[:, n].log().mean() - (1 - told(one.y)[:, n]).log().mean() for n in range(3)]
    one.near(one.terms("tell", "adapt")["tell"].value, sum(cost))
    best = min(range(3), key=lambda n: float(cost[n].detach()))
    seen = torch.cat([told(one.of(best)[0])[:, best], told(one.y)[:, best]])
    one.near(one.terms("hide", "adapt")["hide"].value, (-(seen.log() + (1 - seen).log()) / 2).mean())
    level = one.model.parts["dctn/perplexity"].level.double()
    for n in range(3):
        own = -(1 - told(one.of(n)[0])[:, n]).log().mean()
        assert float(level[n]) == pytest.approx(0.1 * float(own.detach()), rel=1e-5)
    scores = [[-(1 - told(one.y)[i, n]).log() + level[n] for n in range(3)] for i in range(6)]
    p = [head(one.y).softmax(1) for head in heads]
    wanted = torch.stack([sum(scores[i][n] * p[n][i] for n in range(3)) / sum(scores[i]) for i in range(6)])
    found = one.plugin.predict(one.model, one.model(one.y))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-8)
    sure = [i for i in range(6) if found[i].max() >= 0.3]
    labels = found.argmax(1)
    expected = sum(cross_entropy(head(one.y[sure]), labels[sure]) for head in heads) / 3
    one.near(one.terms("classify", "adapt")["pseudo_labels"].value, expected)
    assert one.terms("pretrain", "pretrain").keys() == {"cross_entropy"}


def test_dctn_asks_only_sources_that_have_a_class():
    one = Step("dctn", known=task(2, missing={(0, "d")}), domain=(0, 0, 1, 1))
    with torch.no_grad():
        one.model.heads["main"].heads[0][1].bias[3] = 50.0  # a head that never saw the class and is sure of it
    first, second = (head(one.y).softmax(1) for head in one.model.heads["main"].heads)
    score = F.softplus(one.model.parts["dctn/adversary"](one.y.repeat(1, 2)))
    both = (score[:, :1] * first + score[:, 1:] * second) / score.sum(1, keepdim=True)
    wanted = torch.cat([both[:, :3], second[:, 3:]], 1)
    found = one.plugin.predict(one.model, one.model(one.y))
    torch.testing.assert_close(found, wanted / wanted.sum(1, keepdim=True), rtol=1e-6, atol=1e-9)
    assert (first.argmax(1) == 3).all()


PHASES = {
    "m3sda_beta": ("fit", "part", "meet"),
    "dctn": ("pretrain", "tell", "hide", "classify"),
    "mfsan": ("main", "source0"),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("domain", "target"), [((0, 0, 2), 4), ((1,), 1), ((0, 1, 2), 1), ((2, 2, 2, 2), 0), ((0, 0, 1, 2), 2)]
)
def test_batches_without_a_source_and_with_one_sample(name, domain, target):
    one = Step(name, {"hidden": 3} if name == "dctn" else {}, domain=domain, target=target)
    for phase in PHASES.get(name, ("main",)):
        terms = one.terms(phase, phase if phase == "pretrain" else "adapt").values()
        total = sum(term.weight * term.value for term in terms) + 0 * one.x.sum()
        grads = torch.autograd.grad(total, one.leaves(), allow_unused=True)
        assert math.isfinite(float(total.detach()))
        assert all(bool(grad.isfinite().all()) for grad in grads if grad is not None)
        if not target:
            assert {term.role.value for term in terms} <= {"supervised"}


@pytest.mark.parametrize("name", METHODS)
def test_a_constant_batch(name):
    one = Step(name, {"hidden": 3} if name == "dctn" else {})
    one.x, one.y = (torch.ones_like(rows).requires_grad_() for rows in (one.x, one.y))
    total = sum(term.weight * term.value for term in one.terms(PHASES.get(name, ("main",))[0]).values())
    grads = torch.autograd.grad(total, one.leaves(), allow_unused=True)
    assert all(bool(grad.isfinite().all()) for grad in grads if grad is not None)


def test_heads_predict_by_their_mean():
    one = Step("m3sda")
    mean = torch.stack([head(one.y).softmax(1) for head in one.model.heads["main"].heads]).mean(0)
    torch.testing.assert_close(one.model(one.y).logits["main"].softmax(1), mean)


def test_moments_of_one_domain_against_itself_are_none():
    rows = torch.randn(6, 3, dtype=torch.float64)
    assert float(moment_distance([rows], rows, 3)) == pytest.approx(1e-6)
    assert isinstance(Step("mfsan").model(torch.ones(2, WIDTH, dtype=torch.float64)), Encoded)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_run_with_every_option(name, make_context, tmp_path, listener):
    """Few labels of the target as a third source, even classes, bfloat16."""
    from fercore.engine.run import run

    few = "synthfer:wild?n=112&seed=2&shots=2"
    data = {"sources": ["synthfer:studio?n=84", "synthfer:web?n=84&seed=1", few], "target": few, "class_balanced": True}
    layer = {"data": data, "train": {"steps": 3, "steps_per_epoch": 1, "precision": "bf16-mixed"}}
    heard = listener()
    result = run(make_context(name, layers=(layer,)), tmp_path / "run", heard)
    assert all(math.isfinite(value) for report in heard.reports for value in report.terms.values())
    assert result.target.labelled.n == 14
