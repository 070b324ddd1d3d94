"""leaf_eaf around other methods: where its mixtures stand, what it replaces, and that it names no method."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from fercore_leaf.addon import LeafEaf
from fercore_leaf.settings import LeafEafSettings
from torch import nn

from fercore.config import RunConfig, Settings
from fercore.engine.run import run
from fercore.engine.setup import build_context, build_plugins
from fercore.errors import UserInputError
from fercore.hooks import Plugin, hookimpl
from fercore.hooks.assemble import ResolvedRun, assemble
from fercore.hooks.discovery import PluginInfo
from fercore.losses import ambiguous_consistency, positive_set
from fercore.models import Model, build_backbone
from fercore.records.plan import ParamGroup, Phase, Stage, ViewRequest
from fercore.records.step import Encoded, LossTerm, Progress, PseudoLabels, Role

TINY = {"n_experts": 3}


class Dummy(Plugin):
    """A method of two branches with terms of several roles, one of them in align, and a plan of its own."""

    @hookimpl
    def build_model(self, config, num_classes):
        trunk = build_backbone(config.model)
        branches = {"one": nn.Identity(), "two": nn.Linear(trunk.channels, 5)}
        heads = {"one": nn.Linear(trunk.channels, num_classes), "two": nn.Linear(5, num_classes)}
        return Model(trunk.module, branches, heads, trunk.mean, trunk.std)

    @hookimpl
    def request_views(self):
        return [ViewRequest("source", "weak", "weak"), ViewRequest("target", "strong", "strong")]

    @hookimpl
    def plan(self, config):
        phases = (
            Phase("network", (ParamGroup(("backbone.", "branches.")),)),
            Phase("heads", (ParamGroup(("heads.",)),)),
        )
        return [Stage("all", config.train.steps, phases)]

    @hookimpl
    def align(self, model, batch, encoded):
        inner = model(batch.target.images["strong"]).logits["two"]  # a forward of the method's own
        spread = (inner - encoded[("target", "strong")].logits["two"]).square().mean()
        return [
            LossTerm("dummy/spread", Role.ALIGNMENT, spread),
            LossTerm("dummy/agreement", Role.CONSISTENCY, inner.mean(), 3.0),
        ]

    @hookimpl
    def loss(self, batch, encoded):
        logits = encoded[("source", "weak")].logits
        terms = [
            LossTerm(f"dummy/{k}", Role.SUPERVISED, F.cross_entropy(z, batch.source.labels)) for k, z in logits.items()
        ]
        return [*terms, LossTerm("dummy/consistent", Role.CONSISTENCY, logits["one"].square().mean())]


def resolved(tiny, plugins, layers=()):
    names = [plugin.name for plugin in plugins]
    config = assemble(["source_only"], [tiny, *layers]).config
    infos = tuple(PluginInfo(name, "tests:X", "tests", "0", "") for name in names)
    return ResolvedRun(config.model_copy(update={"plugins": {}}), tuple(plugins), infos)


@pytest.fixture
def around(tiny):
    """Build the run of the dummy method with the add-on."""

    def make(*layers, **settings):
        addon = LeafEaf("leaf_eaf", LeafEafSettings.model_validate({**TINY, **settings}))
        return build_context(resolved(tiny, [Dummy("dummy", Settings()), addon], layers))

    return make


def step_of(context):
    """Encode a batch and return (encoded, the terms of both hooks by name)."""
    clock, loader = Progress("all", "network", 0, 0, 6), context.loader()
    batch = next(loader)
    encoded = {
        (v.side, v.name): context.plugins.encode(context.model, batch.side(v.side), v.name, clock, v.side, "train")
        for v in context.views
    }
    pseudo = context.plugins.pseudo_label(context.model, batch, encoded, clock)
    terms = context.plugins.align(context.model, batch, encoded, pseudo, clock)
    terms += context.plugins.loss(context.model, batch, encoded, pseudo, clock)
    return batch, encoded, {term.name: term for term in terms}


def test_mixtures_stand_before_and_after_every_head(around):
    model = around().model.eval()
    parts = {name: part for name, part in model.parts.items()}
    assert set(parts) == {
        f"leaf_eaf/{level}/{branch}" for level in ("semantic", "instance") for branch in ("one", "two")
    }
    images = torch.randn(3, 3, 32, 32)
    encoded, shared = model(images), model.backbone(images)
    with torch.no_grad():
        plain = {"one": shared, "two": F.linear(shared, model.branches["two"].weight, model.branches["two"].bias)}
        for branch, feature in plain.items():
            fused, head = parts[f"leaf_eaf/semantic/{branch}"](feature), model.heads[branch]
            logits = parts[f"leaf_eaf/instance/{branch}"](F.linear(fused, head.weight, head.bias))
            torch.testing.assert_close(encoded.features[branch], fused)
            torch.testing.assert_close(encoded.logits[branch], logits)


def test_the_method_keeps_its_modules_names_and_first_weights(around, tiny):
    alone = build_context(resolved(tiny, [Dummy("dummy", Settings())])).model.state_dict()
    together = around().model.state_dict()
    assert alone.keys() <= together.keys()
    assert all(torch.equal(alone[key], together[key]) for key in alone)
    assert all(key.startswith("parts.leaf_eaf/") for key in together.keys() - alone.keys())


def test_consistency_is_replaced_by_role(around):
    _, encoded, terms = step_of(around())
    assert set(terms) == {"dummy/spread", "dummy/one", "dummy/two", "leaf_eaf/consistency"}
    assert terms["leaf_eaf/consistency"].role is Role.CONSISTENCY
    assert terms["leaf_eaf/consistency"].weight == 1.0
    weak, strong = encoded[("target", "weak")].logits, encoded[("target", "strong")].logits
    expected = [
        ambiguous_consistency(weak[branch], positive_set(strong[branch].softmax(-1), 0.9)).mean()
        for branch in ("one", "two")
    ]
    torch.testing.assert_close(terms["leaf_eaf/consistency"].value, torch.stack(expected).mean())


def test_a_forward_inside_the_methods_own_loss_has_the_mixtures_too(around):
    context = around()
    context.model.eval()
    assert step_of(context)[2]["dummy/spread"].value.item() == 0


def test_the_methods_consistency_may_stay(around):
    context = around(consistency="keep")
    assert {view.name for view in context.views if view.side == "target"} == {"strong"}
    assert set(step_of(context)[2]) == {"dummy/spread", "dummy/agreement", "dummy/one", "dummy/two", "dummy/consistent"}


def test_only_what_is_present_may_be_replaced(around, make_context):
    _, _, terms = step_of(around(consistency="where_present", weight=0.5))
    found = {name for name, term in terms.items() if term.role is Role.CONSISTENCY}
    assert found == {"leaf_eaf/consistency", "leaf_eaf/consistency_in_align"}
    assert terms["leaf_eaf/consistency"].weight == 0.5
    context = make_context("source_only", "leaf_eaf", layers=({"leaf_eaf": {**TINY, "consistency": "where_present"}},))
    assert set(step_of(context)[2]) == {"source_only/cross_entropy"}
    context = make_context("source_only", "leaf_eaf", layers=({"leaf_eaf": TINY},))
    assert set(step_of(context)[2]) == {"source_only/cross_entropy", "leaf_eaf/consistency"}


SWITCHES = [
    {"partition_from": "weak"},
    {"candidates": "reach_minus_1_max3"},
    {"score": "prob"},
    {"threshold": 0.5},
    {"epsilon": 0.3},
    {"semantic": False},
    {"instance": False},
    {"expert": "linear"},
    {"expert": {"shared": True}},
    {"n_experts": 4},
    {"gate": "noisy_topk"},
    {"gate": {"k": 1}},
    {"combine": "log"},
    {"feat_norm": True},
    {"dropout": 0.5},
    {"samples": "trusted"},
]


@pytest.mark.slow
def test_every_switch_changes_the_term(around, tiny):
    context = around()
    clock, batch = Progress("all", "network", 0, 0, 6), next(context.loader())

    def value(**settings):
        addon = LeafEaf("leaf_eaf", LeafEafSettings.model_validate({**TINY, **settings}))
        plugins = build_plugins(resolved(tiny, [Dummy("dummy", Settings()), addon]))
        torch.manual_seed(0)
        model = plugins.build_model(context.config, 7, None)
        torch.manual_seed(1)
        views = plugins.request_views(context.config)
        encoded = {
            (v.side, v.name): plugins.encode(model, batch.side(v.side), v.name, clock, v.side, "train") for v in views
        }
        pseudo = PseudoLabels(torch.zeros(14, dtype=torch.int64), torch.arange(14) / 13, torch.zeros(14, 7))
        terms = {term.name: term for term in plugins.loss(model, batch, encoded, pseudo, clock)}
        return terms["leaf_eaf/consistency"].value.item()

    plain = value()
    assert value() == plain
    assert [switch for switch in SWITCHES if value(**switch) == plain] == []


def test_a_balance_term_is_there_where_it_has_weight(around):
    terms = step_of(around(gate={"balance": 0.2}))[2]
    assert terms["leaf_eaf/balance"].weight == 0.2
    assert terms["leaf_eaf/balance"].value.item() > 0


def test_levels_may_be_left_out(around):
    assert {name.split("/")[1] for name in around(semantic=False).model.parts} == {"instance"}
    assert {name.split("/")[1] for name in around(instance=False).model.parts} == {"semantic"}
    assert len(around(instance=False, semantic=False).model.parts) == 0


@pytest.mark.slow
def test_the_mixtures_are_trained_by_a_plan_that_does_not_know_them(around, tmp_path, listener):
    context = around({"train": {"steps": 2}})
    names = [[group.prefixes for group in phase.groups] for phase in context.stages[0].phases]
    assert names == [[("backbone.", "branches."), ("parts.leaf_eaf/",)], [("heads.",)]]
    before = {name: p.detach().clone() for name, p in context.model.named_parameters()}
    run(context, tmp_path / "run", listener())
    still = [name for name, p in context.model.named_parameters() if torch.equal(before[name], p)]
    assert still == []


@pytest.mark.slow
def test_resume_is_exact_in_phases(around, tmp_path, listener, weights_of):
    short = {"train": {"steps": 3, "checkpoint_every": 1}}
    run(around(short, gate="noisy_topk"), tmp_path / "whole", listener())
    with pytest.raises(KeyboardInterrupt):
        run(around(short, gate="noisy_topk"), tmp_path / "cut", listener(stop_after=2))
    run(around(short, gate="noisy_topk"), tmp_path / "cut", listener(), resume=True)
    left, right = (weights_of(tmp_path / folder)["model"] for folder in ("whole", "cut"))
    assert [key for key in left if not torch.equal(left[key], right[key])] == []


def test_a_copy_of_the_network_has_mixtures_of_its_own(around):
    model = around().model.eval()
    images = torch.randn(2, 3, 32, 32)
    before = model(images).logits["one"].detach()
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parts.parameters():
            parameter.zero_()
    assert torch.equal(model(images).logits["one"], before)
    x, head = torch.randn(2, 8), other.heads["one"]
    assert torch.equal(head(x), F.linear(x, head.weight, head.bias))  # a residual expert without weights passes x on


def test_branches_that_share_a_module_share_a_mixture(tiny):
    class Shared(Dummy):
        @hookimpl
        def build_model(self, config, num_classes):
            trunk = build_backbone(config.model)
            branch, head = nn.Identity(), nn.Linear(trunk.channels, num_classes)
            return Model(trunk.module, dict.fromkeys("ab", branch), dict.fromkeys("ab", head), trunk.mean, trunk.std)

    addon = LeafEaf("leaf_eaf", LeafEafSettings(n_experts=2))
    plugins = build_plugins(resolved(tiny, [Shared("dummy", Settings()), addon]))
    model = plugins.build_model(RunConfig.model_validate(tiny), 7, None)
    assert set(model.parts) == {"leaf_eaf/semantic/a", "leaf_eaf/instance/a"}
    encoded = model.eval()(torch.randn(2, 3, 32, 32))
    assert torch.equal(encoded.logits["a"], encoded.logits["b"])


@pytest.mark.slow
def test_fixmatch_keeps_its_choice_of_samples_or_its_whole_term(make_context):
    def terms(**settings):
        context = make_context(
            "fixmatch", "leaf_eaf", layers=({"leaf_eaf": TINY | settings, "fixmatch": {"p_cutoff": 1.0}},)
        )
        return {name: term.value.item() for name, term in step_of(context)[2].items()}

    assert set(terms()) == {"fixmatch/cross_entropy", "leaf_eaf/consistency"}
    assert terms()["leaf_eaf/consistency"] > 0
    assert terms(samples="trusted")["leaf_eaf/consistency"] == 0  # no prediction reaches a threshold of 1
    assert set(terms(consistency="keep")) == {"fixmatch/cross_entropy", "fixmatch/consistency"}


def test_a_method_that_goes_past_its_branches_is_refused(tiny, tmp_path, listener):
    class Past(Dummy):
        @hookimpl
        def encode(self, model, batch, view):
            shared = model.backbone(batch.images[view])
            return Encoded({"one": shared, "two": shared}, {"one": shared[:, :7], "two": shared[:, :7]})

    addon = LeafEaf("leaf_eaf", LeafEafSettings.model_validate(TINY))
    context = build_context(resolved(tiny, [Past("dummy", Settings()), addon]))
    with pytest.raises(UserInputError, match="leaf_eaf changes nothing here: this method scores images past"):
        run(context, tmp_path / "run", listener())
    addon = LeafEaf("leaf_eaf", LeafEafSettings(semantic=False, instance=False))
    step_of(build_context(resolved(tiny, [Past("dummy", Settings()), addon])))  # nothing to go through
