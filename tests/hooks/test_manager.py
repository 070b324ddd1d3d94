from __future__ import annotations

import pytest
import torch
from torch import nn

from fercore.builtin.defaults import Defaults
from fercore.config import RunConfig
from fercore.errors import UserInputError
from fercore.hooks import Plugin, hookimpl
from fercore.hooks.checks import HOOKS, HookError, check_class, check_company
from fercore.hooks.manager import Plugins
from fercore.models import Model
from fercore.records.plan import Stage, ViewRequest
from fercore.records.step import Batch, DomainBatch, Encoded, LossTerm, Progress, PseudoLabels, Role

CLOCK = Progress("train", "main", 0, 0, 1)


def side(rows):
    zero = torch.zeros(rows, dtype=torch.int64)
    return DomainBatch({"weak": torch.randn(rows, 3, 2, 2)}, zero, zero, zero)


BATCH = Batch(side(4), side(2))


def tiny_model():
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    heads = {"a": nn.Linear(4, 3), "b": nn.Linear(4, 3)}
    return Model(backbone, {"a": nn.Identity(), "b": nn.Identity()}, heads, (0.5,) * 3, (0.5,) * 3)


def plugin(name="one", kind="method", **hooks):
    body = {hook: hookimpl(function) for hook, function in hooks.items()}
    return type(name.title(), (Plugin,), {"kind": kind, **body})(name, None)


def term(name="one/x", value=None):
    return LossTerm(name, Role.SUPERVISED, torch.tensor(1.0) if value is None else value)


def manager(*plugins):
    return Plugins([Defaults()], plugins, {p.name: f"dist-{p.name} 1.0" for p in plugins})


def test_defaults_answer_when_no_plugin_does():
    model = tiny_model()
    plugins = manager(plugin())
    assert [stage.name for stage in plugins.plan(RunConfig(), model, {}, None)] == ["train"]
    encoded = model(torch.randn(5, 3, 2, 2))
    probs = plugins.predict(model, encoded)
    expected = (encoded.logits["a"].softmax(1) + encoded.logits["b"].softmax(1)) / 2
    torch.testing.assert_close(probs, expected)


def test_a_plugin_comes_before_the_default():
    own = plugin(plan=lambda self: [Stage("mine", 3)])
    assert manager(own).plan(RunConfig(), tiny_model(), {}, None)[0].name == "mine"


def test_two_owners_of_one_hook_are_refused_by_name():
    one = plugin("one", predict=lambda self: None)
    two = plugin("two", kind="addon", predict=lambda self: None)
    with pytest.raises(UserInputError, match="two plugins own hook 'predict': one and two"):
        manager(one, two)


def test_the_later_wrapper_is_the_outer_one():
    calls = []

    def wrapping(name):
        class Wrap(Plugin):
            kind = "addon"

            @hookimpl(wrapper=True)
            def align(self):
                calls.append(name)
                return (yield)

        return Wrap(name, None)

    plugins = manager(plugin("one", align=lambda self: []), wrapping("inner"), wrapping("outer"))
    assert plugins.align(tiny_model(), None, {}, None, CLOCK) == []
    assert calls == ["outer", "inner"]
    links = [(link.plugin, link.kind) for link in plugins.chain()["align"]]
    assert links == [("outer", "wraps"), ("inner", "wraps"), ("one", "implements")]


def test_every_hook_stands_in_the_chain():
    assert set(manager(plugin()).chain()) == set(HOOKS)


def test_an_exception_names_plugin_version_and_hook():
    def loss(self):
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError) as caught:
        manager(plugin("offending", loss=loss)).loss(tiny_model(), None, {}, None, CLOCK)
    assert caught.value.__notes__ == ["raised by plugin 'offending' (dist-offending 1.0) in hook 'loss'"]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (term(), "must return a list of LossTerm, got LossTerm"),
        ([1.0], "must return LossTerm, got float"),
        ([term("x")], "must be named '<plugin>/<term>'"),
        ([term("two/x")], "must be named '<plugin>/<term>'"),
        ([term(value=torch.ones(2))], "must be a scalar float tensor"),
        ([term(value=torch.tensor(1))], "must be a scalar float tensor"),
        ([term(value=1.0)], "must be a scalar float tensor"),
    ],
)
def test_wrong_loss_terms_are_refused(result, message):
    plugins = manager(plugin("one", loss=lambda self: result))
    with pytest.raises(HookError, match=message):
        plugins.loss(tiny_model(), None, {}, None, CLOCK)


@pytest.mark.parametrize(
    ("hook", "result", "call"),
    [
        ("build_model", "model", lambda p: p.build_model(RunConfig(), 3, None)),
        ("plan", [1], lambda p: p.plan(RunConfig(), tiny_model(), {}, None)),
        ("plan", [Stage("a", 1), Stage("a", 1)], lambda p: p.plan(RunConfig(), tiny_model(), {}, None)),
        ("encode", {"a": 1}, lambda p: p.encode(tiny_model(), None, "weak", CLOCK, "source", "train")),
        ("pseudo_label", torch.ones(3), lambda p: p.pseudo_label(tiny_model(), None, {}, CLOCK)),
        ("build_sampler", [1, 2], lambda p: p.build_sampler(RunConfig(), tiny_model(), None, "source", CLOCK)),
        ("predict", torch.ones(3), lambda p: p.predict(tiny_model(), Encoded({}, {}))),
        ("predict", torch.full((2, 3), torch.nan), lambda p: p.predict(tiny_model(), Encoded({}, {}))),
        ("refresh", [3], lambda p: p.refresh(tiny_model(), CLOCK, lambda side: None, None)),
        ("request_views", [ViewRequest("aside", "weak", "weak")], lambda p: p.request_views(RunConfig())),
        ("request_views", [ViewRequest("source", "weak", "odd")], lambda p: p.request_views(RunConfig())),
    ],
)
def test_wrong_return_values_are_refused(hook, result, call):
    with pytest.raises(HookError, match=hook):
        call(manager(plugin("one", **{hook: lambda self: result})))


def test_views_asked_for_twice_are_made_once():
    weak = ViewRequest("source", "weak", "weak")
    one = plugin("one", request_views=lambda self: [weak])
    two = plugin("two", kind="addon", request_views=lambda self: [weak, ViewRequest("target", "strong", "strong")])
    assert manager(one, two).request_views(RunConfig()) == (weak, ViewRequest("target", "strong", "strong"))
    odd = plugin("three", kind="addon", request_views=lambda self: [ViewRequest("source", "weak", "none")])
    with pytest.raises(HookError, match="disagree"):
        manager(one, odd).request_views(RunConfig())


def test_pseudo_labels_come_out_detached():
    probs = torch.rand(2, 3, requires_grad=True).softmax(1)
    labels = PseudoLabels(torch.zeros(2, dtype=torch.int64), probs[:, 0], probs)
    found = manager(plugin("one", pseudo_label=lambda self: labels)).pseudo_label(tiny_model(), BATCH, {}, CLOCK)
    assert found is not None
    assert not found.probs.requires_grad
    assert not found.weight.requires_grad


def test_refresh_collects_numbers():
    one = plugin("one", refresh=lambda self: {"one/threshold": torch.tensor(0.5)})
    two = plugin("two", kind="addon", refresh=lambda self: None)
    assert manager(one, two).refresh(tiny_model(), CLOCK, lambda side: None, None) == {"one/threshold": 0.5}


def test_after_hooks_reach_every_plugin():
    heard = []
    one = plugin(
        "one", after_step=lambda self, report: heard.append(report), after_run=lambda self, result: heard.append(result)
    )
    plugins = manager(one)
    plugins.after_step(tiny_model(), "report", CLOCK)
    plugins.after_run("result")
    assert heard == ["report", "result"]


class UnknownHook(Plugin):
    @hookimpl
    def losss(self):
        return []


class UnknownArgument(Plugin):
    @hookimpl
    def loss(self, modle):
        return []


class DefaultArgument(Plugin):
    @hookimpl
    def loss(self, model=None):
        return []


class OldWrapper(Plugin):
    @hookimpl(hookwrapper=True)
    def loss(self):
        yield


class NoPlugin:
    pass


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (UnknownHook, "unknown hook 'losss'; did you mean 'loss'"),
        (UnknownArgument, "unknown hook argument 'modle'.*did you mean 'model'"),
        (DefaultArgument, "hook argument 'model' has a default"),
        (OldWrapper, "old-style hookwrapper"),
        (NoPlugin, "does not subclass fercore.hooks.Plugin"),
    ],
)
def test_wrong_implementations_are_refused(cls, message):
    with pytest.raises(UserInputError, match=message):
        check_class(cls, "x")


def test_company_rules():
    method, addon = plugin("one"), plugin("two", kind="addon")
    check_company([method, addon])
    with pytest.raises(UserInputError, match="two methods in one run: one and three"):
        check_company([method, plugin("three")])
    with pytest.raises(UserInputError, match="no method in this run, only add-ons: two"):
        check_company([addon])
    with pytest.raises(UserInputError, match="no plugin named"):
        check_company([])
    with pytest.raises(UserInputError, match="named twice"):
        check_company([method, plugin("one")])
    addon.__class__.requires = ("four",)
    with pytest.raises(UserInputError, match="plugin 'two' needs 'four'"):
        check_company([method, addon])
    addon.__class__.requires, addon.__class__.conflicts = (), ("one",)
    with pytest.raises(UserInputError, match="plugin 'two' cannot run with 'one'"):
        check_company([method, addon])
