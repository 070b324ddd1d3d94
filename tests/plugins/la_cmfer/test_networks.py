"""Shapes and sizes of the networks, in every architecture, and a step through each."""

from __future__ import annotations

import pytest
import torch
from fercore_la_cmfer.modules import Attention, GlobalBranch, LocalBranch, branch_groups, quarters
from fercore_la_cmfer.settings import LaCmferSettings

from fercore.config import RunConfig, check_settings
from fercore.data.domains.dataset_info import task_info
from fercore.errors import UserInputError
from fercore.records.step import Batch, DomainBatch


def millions(module):
    return round(sum(p.numel() for p in module.parameters()) / 1e6, 2)


def side(n, domains, size=32, labelled=True):
    labels = torch.arange(n) % 7 if labelled else torch.full((n,), -1)
    return DomainBatch({"weak": torch.randn(n, 3, size, size)}, labels, torch.arange(n) % domains, torch.arange(n))


def run_step(plugin, model, batch, clock):
    encoded = {(s, "weak"): model(batch.side(s).images["weak"]) for s in ("source", "target")}
    with torch.no_grad():
        pseudo = plugin.pseudo_label(encoded=encoded)
    terms = [*plugin.align(model=model, batch=batch, encoded=encoded, clock=clock)]
    terms += plugin.loss(model=model, batch=batch, encoded=encoded, pseudo=pseudo)
    return {term.name: term for term in terms}


def test_the_published_network(method):
    with torch.device("meta"):
        config = RunConfig.model_validate({"data": {"size": 224}})
        model = method().build_model(config, 7, task_info(config, (), ([9, 9, 9], 9)))
        encoded = model.eval()(torch.empty(2, 3, 224, 224))
        trunk_map = model.backbone(torch.empty(2, 3, 224, 224))
    assert trunk_map.shape == (2, 128, 28, 28)
    assert {name: tuple(f.shape) for name, f in encoded.features.items()} == {"global": (2, 1024), "local": (2, 1024)}
    assert encoded.logits["local"].shape == (2, 7)
    assert (millions(model.backbone), millions(model.branches["global"])) == (0.68, 57.09)
    assert millions(model.branches["local"]) == 8.4


@pytest.mark.parametrize("official", [False, True])
def test_the_published_maps(official):
    settings = LaCmferSettings(variant="official" if official else "paper")
    with torch.device("meta"):
        whole, parts = GlobalBranch(128, settings), LocalBranch(128, settings)
        e = torch.empty(1, 128, 28, 28)
        assert whole.stages[0](e).shape == (1, 256, 14, 14)
        assert whole.stages(e).shape == (1, 1024, 7, 7)
        assert parts.stacks[0](quarters(e)[0]).shape == (1, 256, 7, 7)
    assert len(parts.stacks) == (2 if official else 4)
    has_attention = any("attention.channel" in name for name, _ in parts.named_parameters())
    assert has_attention is official


def test_shared_columns_keep_their_places():
    torch.manual_seed(0)
    settings = LaCmferSettings.model_validate({"local": {"share": "column"}, "network": {"local_width": 3}})
    branch = LocalBranch(2, settings).eval()
    x = torch.randn(1, 2, 8, 8)
    x[:, :, 4:, :4] = x[:, :, :4, :4]
    features = branch(x).view(4, 3)
    torch.testing.assert_close(features[0], features[2])
    assert not torch.allclose(features[0], features[1])


@pytest.mark.parametrize(("h", "w"), [(2, 2), (3, 5), (7, 7), (8, 6), (28, 28)])
def test_quarters_cover_maps_of_any_size(h, w):
    x = torch.randn(2, 3, h, w)
    parts = quarters(x)
    assert sum(part.shape[2] * part.shape[3] for part in parts) == h * w
    assert torch.equal(parts[0], x[:, :, : h // 2, : w // 2])
    assert torch.equal(parts[3], x[:, :, h // 2 :, w // 2 :])


def test_maps_too_small_for_quarters_are_refused(build):
    with pytest.raises(ValueError, match="1x4 cannot be cut"):
        quarters(torch.zeros(1, 1, 1, 4))
    with pytest.raises(UserInputError, match="images of 16 px are too small.*smaller la_cmfer.network.reduction"):
        build({"data": {"size": 16}}, network={"reduction": 16})


@pytest.mark.parametrize("size", [32, 50, 75])
@pytest.mark.parametrize("reduction", [4, 8])
def test_other_sizes_and_cuts(build, size, reduction):
    network = {"reduction": reduction, "widths": [8], "depths": [2], "local_width": 3, "local_depth": 1}
    _, model = build({"data": {"size": size}}, network=network)
    encoded = model.eval()(torch.randn(1, 3, size, size))
    assert {name: f.shape[1] for name, f in encoded.features.items()} == {"global": 8, "local": 12}
    assert torch.isfinite(encoded.logits["global"]).all()


ARCHITECTURES = {
    "shared": ["global", "local"],
    "global": ["global"],
    "local": ["local"],
    "df": ["fused"],
    "ds": ["global_0", "local_0", "global_1", "local_1"],
}


@pytest.mark.parametrize("kind", ["mmd", "adversarial"])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_step_through_every_architecture(build, clock, architecture, kind):
    torch.manual_seed(0)
    settings = {"architecture": architecture, "align": {"kind": kind}, "eps": 0.1, "tau": 0.15}
    plugin, model = build(**settings)
    assert list(model.branches) == ARCHITECTURES[architecture]
    terms = run_step(plugin, model, Batch(side(8, 2), side(6, 1, labelled=False)), clock)
    expected = {"supervised", "voting"} | ({"adversarial"} if kind == "adversarial" else {"sample_mmd", "cluster_mmd"})
    if architecture in ("shared", "ds"):
        expected.add("consistency")
    assert {name.removeprefix("la_cmfer/") for name in terms} == expected
    sum(term.weight * term.value for term in terms.values()).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert silent == []
    probs = plugin.predict(encoded=model.eval()(torch.randn(1, 3, 32, 32)))
    assert probs.sum().item() == pytest.approx(1.0, rel=1e-5)


def test_per_source_branches_learn_from_their_source_alone(build, clock):
    torch.manual_seed(0)
    plugin, model = build(
        architecture="ds", align={"kind": "none"}, consistency="none", pseudo_label={"scheme": "none"}
    )
    batch = side(4, 2)
    only_first = DomainBatch(batch.images, batch.labels, torch.zeros(4, dtype=torch.int64), batch.index)
    terms = run_step(plugin, model, Batch(only_first, side(4, 1, labelled=False)), clock)
    terms["la_cmfer/supervised"].value.backward()
    assert model.heads["global_0"].weight.grad.abs().sum() > 0
    assert model.heads["global_1"].weight.grad.abs().sum() == 0


def test_the_adversarial_strength_follows_the_clock(build, clock):
    from dataclasses import replace

    pulls = []
    for now in (0, clock.total_steps):
        torch.manual_seed(0)
        plugin, model = build(align={"kind": "adversarial"})
        terms = run_step(plugin, model, Batch(side(4, 2), side(4, 1, labelled=False)), replace(clock, step=now))
        terms["la_cmfer/adversarial"].value.backward()
        pulls.append(model.backbone.extractor.conv1.weight.grad.abs().sum().item())
        assert model.parts["la_cmfer/discriminator_local"][0].weight.grad.abs().sum() > 0
    assert pulls[0] == 0
    assert pulls[1] > 0


def test_counts_are_reported_once_an_epoch_and_saved(build, clock):
    plugin, model = build()
    assert plugin.refresh(model=model) is None
    run_step(plugin, model, Batch(side(4, 2), side(4, 1, labelled=False)), clock)
    assert any(key.startswith("parts.la_cmfer/state") for key in model.state_dict())
    counts = plugin.refresh(model=model)
    assert (counts["la_cmfer/groups"], counts["la_cmfer/targets"]) == (4, 4)
    assert plugin.refresh(model=model) is None


def test_dropout_stands_before_the_heads(build):
    _, model = build({"model": {"dropout": 0.5, "backbone_args": {"resnet18": {"channels": [8, 8, 8, 8]}}}})
    assert isinstance(model.heads["global"][0], torch.nn.Dropout)


def test_teams_keep_to_known_branches():
    groups = branch_groups(["global_1", "local_1", "moe", "global_0", "local_0"])
    assert [(team.branches, team.source) for team in groups] == [
        (("global_1", "local_1"), 1),
        (("global_0", "local_0"), 0),
    ]


def test_both_sides_are_seen_in_one_weak_view(method):
    views = {(view.side, view.name, view.transform) for view in method().request_views()}
    assert views == {("source", "weak", "weak"), ("target", "weak", "weak")}


def released_block(block, x):
    """AttentionBlock with its library's CBAMBlock, from a block's own weights: gates, their input, the shortcut."""
    w = dict(block.named_parameters())

    def norm(name, x):
        bn = block.get_submodule(name)
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        place = (None, slice(None), None, None)
        return (x - mean[place]) / (var[place] + bn.eps).sqrt() * bn.weight[place] + bn.bias[place]

    def squeeze(pooled):
        hidden = torch.relu(pooled @ w["attention.channel.fc1.weight"].flatten(1).T)
        return hidden @ w["attention.channel.fc2.weight"].flatten(1).T

    out = torch.relu(norm("bn1", torch.nn.functional.conv2d(x, w["conv1.weight"], stride=2, padding=1)))
    out = norm("bn2", torch.nn.functional.conv2d(out, w["conv2.weight"], padding=1))
    channel = torch.sigmoid(squeeze(out.amax((2, 3))) + squeeze(out.mean((2, 3))))
    gated = out * channel[:, :, None, None]
    seen = torch.stack([gated.mean(1), gated.amax(1)], 1)
    gate = w["attention.spatial.conv.weight"]
    place = torch.nn.functional.conv2d(seen, gate, w["attention.spatial.conv.bias"], padding=gate.shape[-1] // 2)
    attended = gated * torch.sigmoid(place) + out
    return torch.relu(attended + norm("shortcut.1", torch.nn.functional.conv2d(x, w["shortcut.0.weight"], stride=2)))


@pytest.mark.parametrize("local", [False, True])
def test_the_official_block_is_the_released_one(local):
    torch.manual_seed(0)
    network = {"widths": [8], "depths": [1], "local_width": 8, "local_depth": 1, "cbam_reduction": 4}
    settings = LaCmferSettings.model_validate({"variant": "official", "network": network})
    branch = LocalBranch(4, settings) if local else GlobalBranch(4, settings)
    block = (branch.stacks[0] if local else branch.stages[0])[0].double()
    assert block.attention.spatial.conv.weight.shape == (1, 2, 49, 49)
    x = torch.randn(3, 4, 14, 14, dtype=torch.float64)
    torch.testing.assert_close(block(x), released_block(block, x), rtol=1e-12, atol=1e-12)


def test_the_attention_passes_its_input_on_where_asked():
    torch.manual_seed(0)
    x = torch.randn(2, 64, 14, 14)
    share = {}
    for residual in (False, True):
        settings = LaCmferSettings.model_validate({"cbam": {"residual": residual, "gate": 49, "gate_norm": False}})
        share[residual] = (Attention(64, 16, settings.cbam)(x) / x).mean().item()
    assert share[False] == pytest.approx(0.26, abs=0.02)
    assert share[True] == pytest.approx(1.26, abs=0.02)


def test_a_gate_of_even_size_is_refused():
    with pytest.raises(UserInputError, match="cbam.gate must be odd"):
        check_settings(LaCmferSettings, {"cbam": {"gate": 48}}, prefix="la_cmfer")
