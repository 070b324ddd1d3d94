"""What a hook may answer, and that the plugin which answered wrongly is named, through wrappers as well."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import SequentialSampler

from fercore.builtin.defaults import Defaults
from fercore.config import RunConfig
from fercore.data.batches.sampling import drawn_from
from fercore.hooks import Plugin, hookimpl
from fercore.hooks.checks import HookError
from fercore.hooks.manager import Plugins
from fercore.models import Model
from fercore.records.plan import ParamGroup, Phase, Stage, StepLoss, ViewRequest
from fercore.records.step import Batch, DomainBatch, Encoded, LossTerm, Progress, PseudoLabels, Role

CLOCK = Progress("train", "main", 0, 0, 1)
K, ROWS = 3, 4
OFFENDING = r"plugin 'offending' \(dist 1\.0\) in hook '{}': .*"


def network(classes=K):
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    return Model(backbone, {"a": nn.Identity()}, {"a": nn.Linear(4, classes)}, (0.5,) * 3, (0.5,) * 3)


MODEL = network()


def side(rows):
    zero = torch.zeros(rows, dtype=torch.int64)
    return DomainBatch({"weak": torch.randn(rows, 3, 2, 2)}, zero, zero, zero)


BATCH = Batch(side(2), side(ROWS))
ENCODED = Encoded({"a": torch.randn(ROWS, 4)}, {"a": torch.randn(ROWS, K)})
PROBS = torch.full((ROWS, K), 1 / K)
LABELS = torch.zeros(ROWS, dtype=torch.int64)
WEIGHT = torch.ones(ROWS)


def term(name="offending/x", role=Role.SUPERVISED, value=None, weight=1.0):
    return LossTerm(name, role, torch.tensor(1.0) if value is None else value, weight)


CALLS = {
    "build_model": lambda p: p.build_model(RunConfig(), K, None),
    "request_views": lambda p: p.request_views(RunConfig()),
    "plan": lambda p: p.plan(RunConfig(), MODEL, {}, None),
    "build_sampler": lambda p: p.build_sampler(RunConfig(), MODEL, [0] * ROWS, "target", CLOCK),
    "refresh": lambda p: p.refresh(MODEL, CLOCK, lambda side: None, None),
    "encode": lambda p: p.encode(MODEL, BATCH.target, "weak", CLOCK, "target", "train"),
    "pseudo_label": lambda p: p.pseudo_label(MODEL, BATCH, {}, CLOCK),
    "align": lambda p: p.align(MODEL, BATCH, {}, None, CLOCK),
    "loss": lambda p: p.loss(MODEL, BATCH, {}, None, CLOCK),
    "backward": lambda p: p.backward(MODEL, lambda keep=None: None, CLOCK),
    "predict": lambda p: p.predict(MODEL, ENCODED),
}
RIGHT = {
    "build_model": MODEL,
    "request_views": [ViewRequest("source", "weak", "weak")],
    "plan": [Stage("a", 2)],
    "build_sampler": SequentialSampler(range(ROWS)),
    "refresh": {"offending/n": torch.tensor(0.5)},
    "encode": ENCODED,
    "pseudo_label": PseudoLabels(LABELS, WEIGHT, PROBS),
    "align": [term()],
    "loss": [term(weight=torch.tensor(0.5))],
    "backward": StepLoss({"offending/term": 0.5}, has_gradient=True),
    "predict": PROBS,
}
FAST = ParamGroup(("",), 10.0)
SIMPLEX = "finite, at least 0, and sum to 1 in each row; row 0 is"
WRONG = [
    ("build_model", nn.Linear(2, 2), "must return Model, got Linear"),
    ("request_views", [ViewRequest("source", "", "weak")], "its name must be some text"),
    ("request_views", ViewRequest("source", "weak", "weak"), "a list of ViewRequest"),
    ("plan", [], "stages with distinct names"),
    ("plan", [Stage("a", 1), Stage("a", 1)], "stages with distinct names"),
    ("plan", [Stage("a", 1.5)], "whole steps"),
    ("plan", [Stage("a", 1, ())], "phases of stage 'a' with distinct names"),
    ("plan", [Stage("a", 1, ("main",))], "must return Phase, got str"),
    ("plan", [Stage("a", 1, (Phase("p"), Phase("p")))], "phases of stage 'a' with distinct names"),
    ("plan", [Stage("a", 1, (Phase("p", repeats=0),))], "repeats of 1 or more, got 0"),
    ("plan", [Stage("a", 1, (Phase("p", shares="q"), Phase("q")))], "optimiser of 'q', which is no earlier phase"),
    ("plan", [Stage("a", 1, (Phase("p"), Phase("q", (FAST,), shares="p")))], "prefixes alone"),
    ("build_sampler", [0, 1], "must return Sampler, got list"),
    ("refresh", [0.5], "must return dict, got list"),
    ("refresh", {"done": 3}, "'done' must be named '<plugin>/<metric>'"),
    ("refresh", {"offending/n": "many"}, "'offending/n' is no number but str"),
    ("refresh", {"offending/n": torch.ones(2)}, "'offending/n' is no number but Tensor"),
    ("backward", {"offending/term": 0.5}, "must return StepLoss, got dict"),
    ("encode", {"a": 1}, "must return Encoded, got dict"),
    ("encode", Encoded({}, {}), "features must be tensors by branch"),
    ("encode", Encoded({"a": torch.ones(ROWS, 2)}, {"a": torch.ones(ROWS, K + 1)}), "one column for each of 3 classes"),
    ("encode", Encoded({"a": torch.ones(ROWS, 2)}, {"a": torch.ones(ROWS - 1, K)}), "one row for each of 4 samples"),
    ("encode", Encoded({"a": torch.ones(1, 2)}, {"a": torch.ones(ROWS, K)}), "one row for each of 4 samples"),
    ("encode", Encoded({"a": torch.ones(ROWS, 2)}, {"a": torch.ones(ROWS, K).long()}), "float tensor, got torch.int64"),
    ("encode", Encoded({"a": torch.ones(ROWS, 2)}, {"a": torch.ones(ROWS)}), "2 dimensions, got shape"),
    ("pseudo_label", PROBS, "must return PseudoLabels"),
    ("pseudo_label", PseudoLabels(LABELS.float(), WEIGHT, PROBS), "labels must be an int64 tensor of 4 samples"),
    ("pseudo_label", PseudoLabels(LABELS[:2], WEIGHT, PROBS), "labels must be an int64 tensor of 4 samples"),
    ("pseudo_label", PseudoLabels(LABELS + K, WEIGHT, PROBS), r"labels must lie in 0\.\.2"),
    ("pseudo_label", PseudoLabels(LABELS - 1, WEIGHT, PROBS), r"labels must lie in 0\.\.2"),
    ("pseudo_label", PseudoLabels(LABELS, WEIGHT > 0, PROBS), "weight must be a float tensor"),
    ("pseudo_label", PseudoLabels(LABELS, WEIGHT * 2, PROBS), r"weight must lie in \[0, 1\]"),
    ("pseudo_label", PseudoLabels(LABELS, WEIGHT * torch.nan, PROBS), r"weight must lie in \[0, 1\]"),
    ("pseudo_label", PseudoLabels(LABELS, WEIGHT[:2], PROBS), "weight must have one row for each of 4 samples"),
    ("pseudo_label", PseudoLabels(LABELS, WEIGHT, PROBS * 2), "probabilities that sum to 1"),
    ("pseudo_label", PseudoLabels(LABELS, WEIGHT, PROBS[:, :2]), "one column for each of 3 classes"),
    ("align", term(), "must return a list of LossTerm, got LossTerm"),
    ("loss", None, r"must return a list of LossTerm, got NoneType; return \[\] for none"),
    ("request_views", [ViewRequest("source", "weak", "week")], "a view with transform 'week'; did you mean 'weak'"),
    ("loss", [term(value=0.5)], "scalar float tensor, got float"),
    ("loss", [1.0], "must return LossTerm, got float"),
    ("loss", [term("else/x")], "must be named '<plugin>/<term>'"),
    ("loss", [term("offending/")], "must be named '<plugin>/<term>'"),
    ("loss", [term(value=torch.tensor(1))], r"scalar float tensor, got \(torch.int64, \(\)\)"),
    ("loss", [term(value=torch.ones(2))], "scalar float tensor"),
    ("loss", [term(role="consistency?")], "role of 'offending/x'"),
    ("loss", [term(weight="0.5")], "weight of 'offending/x' must be a number"),
    ("align", [term(weight=None)], "weight of 'offending/x' must be a number"),
    ("align", [term(), term()], "terms with distinct names"),
    ("predict", ENCODED, "must return Tensor, got Encoded"),
    ("predict", torch.full((ROWS, K - 2), 1.0), "one column for each of 3 classes"),
    ("predict", torch.full((ROWS, K + 1), 1 / (K + 1)), "one column for each of 3 classes"),
    ("predict", PROBS[1:], "one row for each of 4 samples"),
    ("predict", PROBS[0], "2 dimensions"),
    ("predict", LABELS[:, None].expand(ROWS, K), "float tensor, got torch.int64"),
    ("predict", PROBS * 2, SIMPLEX),
    ("predict", torch.tensor([[1.5, -0.5, 0.0]] * ROWS), SIMPLEX),
    ("predict", PROBS * torch.nan, SIMPLEX),
]


def answering(hook, value):
    return type("Offending", (Plugin,), {hook: hookimpl(lambda self: value)})("offending", None)


def replacing(hook, value, *, collected=False):
    """Return an add-on that puts its own value in place of the inner plugin's."""

    def replaced(self):
        yield
        return [value] if collected else value

    body = {"kind": "addon", hook: hookimpl(replaced, wrapper=True)}
    return type("Offending", (Plugin,), body)("offending", None)


def passing(hook):
    """Return an add-on that wraps a hook, looks at the answer as if it were right, and hands it on."""

    def looking(self):
        answer = yield
        if hook in ("loss", "align"):
            [term.value.mean() for terms in answer for term in terms]
        return answer

    body = {"kind": "addon", hook: hookimpl(looking, wrapper=True)}
    return type("Innocent", (Plugin,), body)("innocent", None)


def resolved(*plugins):
    found = Plugins([Defaults()], plugins, dict.fromkeys(("offending", "innocent", "quiet"), "dist 1.0"))
    found._classes = K
    return found


@pytest.mark.parametrize("hook", CALLS)
def test_a_right_answer_passes_through_wrappers(hook):
    CALLS[hook](resolved(answering(hook, RIGHT[hook]), passing(hook)))


@pytest.mark.parametrize(("hook", "value", "message"), WRONG)
def test_a_wrong_answer_names_the_plugin_and_not_the_add_on_around_it(hook, value, message):
    with pytest.raises(HookError, match=OFFENDING.format(hook) + message) as caught:
        CALLS[hook](resolved(answering(hook, value), passing(hook)))
    assert "plugin 'innocent'" not in str(caught.value)
    assert not getattr(caught.value, "__notes__", [])


@pytest.mark.parametrize(("hook", "value", "message"), WRONG)
def test_an_add_on_that_answers_wrongly_is_named_and_not_the_method_inside(hook, value, message):
    collected = hook in ("request_views", "refresh", "align", "loss")
    inner = {"align": [], "loss": [], "refresh": {}}.get(hook, RIGHT[hook])
    quiet = type("Quiet", (Plugin,), {hook: hookimpl(lambda self: inner)})("quiet", None)
    with pytest.raises(HookError, match=OFFENDING.format(hook) + message) as caught:
        CALLS[hook](resolved(quiet, replacing(hook, value, collected=collected), passing(hook)))
    assert "plugin 'quiet'" not in str(caught.value)


@pytest.mark.parametrize("hook", ["build_model", "plan", "encode", "predict"])
def test_an_add_on_that_forgets_to_return_is_named(hook):
    plugins = resolved(answering(hook, RIGHT[hook]).__class__("innocent", None), replacing(hook, None))
    with pytest.raises(HookError, match=OFFENDING.format(hook) + "write `return result` after the yield"):
        CALLS[hook](plugins)


def test_an_add_on_must_return_a_list_of_answers():
    with pytest.raises(HookError, match=OFFENDING.format("loss") + "must return list or tuple, one answer for each"):
        CALLS["loss"](resolved(replacing("loss", None)))


def test_unused_pseudo_labels_may_be_anything():
    unused = PseudoLabels(LABELS - 1, WEIGHT * 0, PROBS * 0)
    assert CALLS["pseudo_label"](resolved(answering("pseudo_label", unused))) is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_probabilities_of_any_float_type_pass(dtype):
    probs = torch.randn(64, K).softmax(1).to(dtype)
    encoded = Encoded({}, {"a": torch.randn(64, K)})
    assert resolved(answering("predict", probs)).predict(MODEL, encoded).dtype == dtype


def test_a_network_with_a_class_too_many_names_who_built_it():
    plugins = resolved(answering("build_model", network(K + 1)))
    model = CALLS["build_model"](plugins)
    who = r"the network of plugin 'offending' \(dist 1\.0\) in hook 'build_model', run by hook 'encode',: "
    with pytest.raises(HookError, match=who + "logits of branch 'a' must have one column for each of 3 classes"):
        plugins.encode(model, BATCH.target, "weak", CLOCK, "target", "train")


@pytest.mark.parametrize("hook", CALLS)
@pytest.mark.parametrize("code", [0, 1, None, "done"])
def test_a_plugin_that_calls_exit_ends_no_run_and_is_named(hook, code):
    def leave(self):
        raise SystemExit(code)

    plugin = type("Offending", (Plugin,), {hook: hookimpl(leave)})("offending", None)
    with pytest.raises(HookError, match=OFFENDING.format(hook) + r"called sys\.exit"):
        CALLS[hook](resolved(plugin, passing(hook)))


@pytest.mark.parametrize("hook", ["loss", "predict"])
@pytest.mark.parametrize("after", [False, True])
def test_an_add_on_that_calls_exit_is_named(hook, after):
    def leave(self):
        if not after:
            raise SystemExit(0)
        yield
        raise SystemExit(0)

    offending = type("Offending", (Plugin,), {"kind": "addon", hook: hookimpl(leave, wrapper=True)})("offending", None)
    with pytest.raises(HookError, match=OFFENDING.format(hook) + r"called sys\.exit\(0\)"):
        CALLS[hook](resolved(offending, passing(hook)))


def test_a_wrapper_must_yield_once():
    def never(self):
        if self.settings:
            yield

    def twice(self):
        yield
        yield

    for body, message in ((never, "never does"), (twice, "yields again")):
        offending = type("Offending", (Plugin,), {"kind": "addon", "loss": hookimpl(body, wrapper=True)})(
            "offending", None
        )
        with pytest.raises(HookError, match=OFFENDING.format("loss") + message):
            CALLS["loss"](resolved(offending))


def test_an_add_on_may_mend_an_error_and_is_blamed_for_its_own():
    def failing(self):
        raise RuntimeError("inner")

    def mending(self):
        try:
            return (yield)
        except RuntimeError:
            return PROBS

    def breaking(self):
        try:
            return (yield)
        except RuntimeError as error:
            raise LookupError("outer") from error

    inner = type("Quiet", (Plugin,), {"predict": hookimpl(failing)})("quiet", None)
    mend = type("Offending", (Plugin,), {"kind": "addon", "predict": hookimpl(mending, wrapper=True)})(
        "offending", None
    )
    assert CALLS["predict"](resolved(inner, mend)) is PROBS
    broken = type("Offending", (Plugin,), {"kind": "addon", "predict": hookimpl(breaking, wrapper=True)})(
        "offending", None
    )
    with pytest.raises(LookupError) as caught:
        CALLS["predict"](resolved(inner, broken))
    assert caught.value.__notes__ == ["raised by plugin 'offending' (dist 1.0) in hook 'predict'"]
    with pytest.raises(RuntimeError) as caught:
        CALLS["predict"](resolved(inner, passing("predict")))
    assert caught.value.__notes__ == ["raised by plugin 'quiet' (dist 1.0) in hook 'predict'"]


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ([0, 1.7], TypeError, "float"),
        ([0, ROWS], ValueError, "gave index 4 for a side of 4 samples"),
        ([0, -1], ValueError, "gave index -1 for a side of 4 samples"),
        ([0], ValueError, "gave 1 indices, a batch needs 2"),
    ],
)
def test_a_sampler_that_draws_wrongly_names_its_plugin(indices, error, message):
    class Odd(SequentialSampler):
        def __iter__(self):
            return iter(indices)

    plugins = resolved(answering("build_sampler", Odd(indices)), passing("build_sampler"))
    sampler = CALLS["build_sampler"](plugins)
    with pytest.raises(error, match=message) as caught, plugins.blaming("build_sampler"):
        drawn_from(sampler, ROWS, 2, 0, 10)
    assert caught.value.__notes__ == ["raised by plugin 'offending' (dist 1.0) in hook 'build_sampler'"]
