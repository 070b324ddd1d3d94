"""Every switch is accepted, refuses nonsense, and stands where the network is built; presets are the published ones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from fercore_leaf.addon import LeafEaf
from fercore_leaf.plugin import Leaf
from fercore_leaf.settings import LeafEafSettings, LeafSettings
from fercore_leaf.state import RunState
from torch import nn

from fercore.config import RunConfig, build_config, check_settings
from fercore.config.presets import PRESETS
from fercore.errors import UserInputError
from fercore.models import ExpertMixture, shrink
from fercore.records.step import EncodedDataset, Progress


def mixtures(module):
    return [m for m in module.modules() if isinstance(m, ExpertMixture)]


def test_the_official_variant_sets_defaults_only():
    official = LeafSettings.model_validate({"variant": "official", "gate": {"k": 2}, "cons": {"mask": False}})
    assert (official.gate.kind, official.gate.k, official.expert.shared) == ("noisy_topk", 2, True)
    assert (official.expert.kind, official.combine, official.dropout, official.feat_norm) == (
        "residual",
        "log",
        0.5,
        True,
    )
    assert (official.partition_from, official.candidates, official.weak_views) == ("weak", "reach_minus_1_max3", 2)
    assert (official.cons.weight, official.cons.rescale, official.cons.mask) == ("concave", True, False)
    assert (official.loss_weights, official.thresholds.kind, official.lr_scale) == ((0.5, 1.0, 0.1), "adaptive", True)
    assert (official.eaf.instance_on, official.shrink.rate, official.shrink.buffers) == ("features", 0.02, False)
    plain = LeafSettings()
    assert (plain.gate.kind, plain.gate.k, plain.expert.shared, plain.combine) == ("softplus_topk", 2, False, "linear")
    assert (plain.n_experts, plain.threshold, plain.epsilon, plain.lambda_) == (8, 0.9, 0.0, 1.0)
    assert (plain.partition_from, plain.candidates, plain.score) == ("strong", "reach", "logits")
    assert (plain.loss_weights, plain.shrink.rate, plain.lr_scale, plain.dropout) == ((1.0, 1.0, 0.0), 0.0, False, 0.0)


def test_tables_may_be_given_by_their_kind_alone():
    short = LeafSettings.model_validate({"expert": "linear", "gate": "noisy_topk", "thresholds": "adaptive"})
    assert (short.expert.kind, short.gate.kind, short.thresholds.kind) == ("linear", "noisy_topk", "adaptive")
    official = LeafSettings.model_validate({"variant": "official", "expert": "linear"})
    assert (official.expert.kind, official.expert.shared) == ("linear", True)
    assert LeafEafSettings.model_validate({"expert": "bottleneck"}).expert.kind == "bottleneck"


@pytest.mark.parametrize("settings", [LeafSettings, LeafEafSettings])
@pytest.mark.parametrize("variant", ["paper", "official"])
def test_settings_survive_being_written_down(settings, variant):
    chosen = settings.model_validate({"variant": variant, "n_experts": 3})
    assert settings.model_validate(chosen.model_dump(mode="json")) == chosen


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lamda": 0.1}, "unknown setting 'leaf.lamda'.*did you mean 'leaf.lambda"),
        ({"gate": {"kk": 1}}, "unknown setting 'leaf.gate.kk'.*did you mean 'leaf.gate.k'"),
        ({"expert": "deep"}, "leaf.expert.kind = 'deep'"),
        ({"gate": {"k": 0}}, "leaf.gate.k = 0"),
        ({"n_experts": 0}, "leaf.n_experts = 0"),
        ({"threshold": 0}, "leaf.threshold = 0"),
        ({"threshold": 1.1}, "leaf.threshold = 1.1"),
        ({"epsilon": -1}, "leaf.epsilon = -1"),
        ({"weak_views": 3}, "leaf.weak_views = 3"),
        ({"loss_weights": [1, -1, 0]}, "loss_weights must be at least 0"),
        ({"loss_weights": [1, 1, 0.1]}, "compares two weak views: set weak_views=2"),
        ({"variant": "released"}, "leaf.variant = 'released'"),
        ({"expert": {"kind": "bottleneck", "start": "identity"}}, "with kind=bottleneck set expert.start=random"),
    ],
)
def test_wrong_settings_are_one_clear_line(values, message):
    with pytest.raises(UserInputError, match=message):
        check_settings(LeafSettings, values, prefix="leaf")


@pytest.mark.parametrize("preset", ["demo", "small", "paper"])
def test_presets_are_layers_of_settings(preset):
    for plugin in (Leaf, LeafEaf):
        name = "leaf" if plugin is Leaf else "leaf_eaf"
        config = build_config([PRESETS[preset], plugin.presets.get(preset, {})], [name])
        check_settings(plugin.Settings, config.plugins.get(name, {}), prefix=name)


def test_the_paper_preset_is_section_5_2(method):
    config = build_config([PRESETS["paper"], Leaf.presets["paper"]], ["leaf"])
    assert (config.optim.name, config.optim.lr, config.optim.weight_decay) == ("adam", 5e-4, 0.0)
    assert (config.optim.schedule, config.optim.warmup_steps) == ("constant", 0)
    assert (config.data.size, config.data.source_batch, config.data.target_batch) == (224, 64, 64)
    (stage,) = method(**config.plugins["leaf"]).plan(config=config)
    assert (stage.epochs, stage.steps, stage.steps_per_epoch) == (20, 0, None)


def test_the_learning_rate_may_follow_the_batch(method):
    config = RunConfig.model_validate({"data": {"source_batch": 48}, "optim": {"lr": 0.01}, "train": {"steps": 7}})
    (plain,) = method().plan(config=config)
    (scaled,) = method(lr_scale=True).plan(config=config)
    assert plain.phases[0].optimiser.lr == 0.01
    assert scaled.phases[0].optimiser.lr == pytest.approx(0.03)
    assert (plain.steps, plain.epochs) == (7, None)


def test_the_paper_network_has_a_level_before_and_one_after_the_classifier(build):
    _, model = build(5)
    (semantic,), (instance,) = mixtures(model.branches), mixtures(model.heads)
    assert semantic.experts.weights[0].shape == (3, 8, 4)
    assert instance.experts.weights[0].shape == (3, 5, 2)
    assert isinstance(model.heads["main"][0], nn.Linear)
    assert model.heads["main"][1] is instance
    images = torch.randn(2, 3, 32, 32)
    encoded = model.eval()(images)
    features = semantic(model.backbone(images))
    torch.testing.assert_close(encoded.features["main"], features)
    torch.testing.assert_close(encoded.logits["main"], instance(model.heads["main"][0](features)))


@pytest.mark.parametrize("expert", ["linear", "bottleneck", "residual"])
@pytest.mark.parametrize("count", [1, 2, 6])
def test_table_2_and_figure_6_are_settings(build, expert, count):
    _, model = build(n_experts=count, expert=expert)
    for mixture in mixtures(model):
        assert mixture.experts.weights[0].shape[0] == count
        assert len(mixture.experts.weights) == (1 if expert == "linear" else 2)
        assert mixture.experts.residual == (expert == "residual")
    assert model(torch.randn(2, 3, 32, 32)).logits["main"].shape == (2, 7)


def test_levels_may_be_left_out(build):
    _, model = build(eaf={"semantic": False})
    assert not mixtures(model.branches)
    assert len(mixtures(model.heads)) == 1
    _, model = build(eaf={"instance": False})
    assert len(mixtures(model.branches)) == 1
    assert not mixtures(model.heads)


def test_the_official_network(build):
    _, model = build(variant="official", n_experts=8, dropout=0.1)
    kinds = [type(m).__name__ for m in model.branches["main"]]
    assert kinds == ["Dropout", "ExpertMixture", "UnitLength"]
    assert [type(m).__name__ for m in model.heads["main"]] == ["ExpertMixture", "Dropout", "Linear"]
    for mixture in mixtures(model):
        assert mixture.experts.weights[0].shape == (1, 8, 4)
        assert (mixture.gate.k, mixture.gate.kind, mixture.combine) == (1, "noisy_topk", "log")
    features = model(torch.randn(4, 3, 32, 32)).features["main"]
    torch.testing.assert_close(features.norm(dim=1), torch.ones(4))


@pytest.mark.parametrize("epoch", [1, 2, 6, 41])
def test_thresholds_follow_the_released_formula_after_each_epoch(paper, method, epoch):
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(60, 4, generator=rng) * 4
    labels = torch.where(torch.rand(60, generator=rng) < 0.8, logits.argmax(-1), torch.tensor(0))
    labels[labels == 3] = 2  # the last class has no labelled sample
    plugin, state = method(thresholds={"kind": "adaptive", "floor": 0.3}), RunState(4, 0.3)
    model = SimpleNamespace(parts={"leaf/state": state})

    def encode_dataset(side):
        assert side == "source"
        return EncodedDataset({}, {"main": logits}, labels, torch.zeros(60), torch.arange(60))

    first = plugin.refresh(model=model, clock=Progress("train", "", 0, 0, 9), encode_dataset=encode_dataset)
    assert first is None
    assert (state.thresholds == 0.3).all()
    told = plugin.refresh(model=model, clock=Progress("train", "", epoch, 3, 9), encode_dataset=encode_dataset)
    expected = paper.official_thresholds(paper.softmax(logits.double().numpy()), labels.numpy(), epoch, floor=0.3)
    torch.testing.assert_close(state.thresholds.double(), torch.tensor(expected), rtol=1e-5, atol=0)
    assert expected[3] == 0.3
    assert expected.max() > 0.3
    assert told == {"leaf/mean_threshold": pytest.approx(expected.mean(), rel=1e-5)}


def test_fixed_thresholds_stay_and_ask_for_nothing(method):
    model = SimpleNamespace(parts={"leaf/state": RunState(4, 0.8)})
    assert method().refresh(model=model, clock=Progress("train", "", 3, 3, 9), encode_dataset=None) is None


def test_decay_leaves_buffers_alone_unless_asked(build):
    plugin, model = build()
    nn.init.ones_(model.heads["main"][0].weight)
    running = next(name for name, _ in model.named_buffers() if name.endswith("running_var"))
    model.backbone.get_parameter(next(n for n, _ in model.backbone.named_parameters())).requires_grad_(False)
    frozen = next(p for p in model.parameters() if not p.requires_grad).clone()
    shrink(model, 0.25, buffers=False)
    assert (model.heads["main"][0].weight == 0.75).all()
    assert (model.get_buffer(running) == 1).all()
    assert torch.equal(next(p for p in model.parameters() if not p.requires_grad), frozen)
    shrink(model, 0.25, buffers=True)
    assert (model.get_buffer(running) == 0.75).all()
    assert (plugin.part(model).thresholds == 0.8).all()


def test_counts_are_means_of_an_epoch():
    state = RunState(4, 0.8)
    assert state.take() == {}
    rows = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]], dtype=torch.bool)
    state.add(rows, torch.tensor([True, True, False]))
    state.add(rows[:1], torch.tensor([False]))
    assert state.take() == {"candidates": 9 / 4, "all_candidates": 1 / 4, "selected": 2 / 4}
    assert state.take() == {}
