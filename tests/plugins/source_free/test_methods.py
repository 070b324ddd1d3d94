"""What the source-free methods do beyond their terms: banks, stages, which weights move, refusals, one subject."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from fercore_source_free.aad import AaD, AadSettings
from fercore_source_free.base import Outset
from fercore_source_free.clup import k_means
from fercore_source_free.personalise import blend_statistics
from fercore_source_free.shot_pp import ByTurns, surest, turn
from torch import nn

from fercore.engine.run import run
from fercore.errors import UserInputError
from fercore.models import Model, SizedByData
from fercore.records.step import Batch, DomainBatch, Encoded, Progress
from fercore.testing.tiny import tiny_model

NONE = DomainBatch({}, torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0).long())
REGIMES = ("iid", "correlated", "one_class", "batch_of_one", "label_shift", "constant")


def stream(regime, seed):
    """Yield 50 batches (index, features, logits) of 30 samples in 3 classes."""
    draw = torch.Generator().manual_seed(seed)
    classes = torch.arange(30) % 3
    if regime == "label_shift":
        classes = torch.tensor([0] * 24 + [1] * 4 + [2] * 2)
    for step in range(50):
        size = 1 if regime == "batch_of_one" else 5
        pool = torch.arange(30)
        if regime == "correlated":
            pool = pool[classes == step // 17]
        elif regime == "one_class":
            pool = pool[classes == 0]
        index = pool[torch.randperm(len(pool), generator=draw)[:size]]
        features = nn.functional.one_hot(classes[index], 4).double() + torch.randn(size, 4, generator=draw).double()
        if regime == "constant":
            features = torch.ones_like(features)
        yield index, features, 2 * features[:, :3] + torch.randn(size, 3, generator=draw).double()


@pytest.mark.parametrize("regime", REGIMES)
def test_a_bank_over_fifty_steps_is_that_of_a_loop(regime):
    plugin = AaD("aad", AadSettings())
    model = Model(nn.Identity(), {"main": nn.Identity()}, {"main": nn.Identity()}, (0, 0, 0), (1, 1, 1))
    start = torch.randn(30, 4, generator=torch.Generator().manual_seed(9))
    rows = (start / start.norm(dim=1, keepdim=True)).double()
    plugin.attach(model, SizedByData({"features": rows.clone(), "probs": torch.full((30, 3), 1 / 3).double()}))
    bank = [row.clone() for row in rows]
    shares = [torch.full((3,), 1 / 3).double() for _ in range(30)]
    for step, (index, features, logits) in enumerate(stream(regime, 1)):
        n = len(index)
        logits.requires_grad_()
        batch = Batch(NONE, DomainBatch({}, torch.full((n,), -1), torch.zeros(n).long(), index))
        terms = plugin.loss(
            model, batch, {("target", "weak"): Encoded({"main": features}, {"main": logits})},
            Progress("adapt", "main", 0, step, 50),
        )  # fmt: skip
        total = sum(term.weight * term.value for term in terms)
        p = logits.float().softmax(1).double()  # features and logits count in float32, as those of a network
        for b, i in enumerate(index.tolist()):
            own = features[b].float()
            bank[i], shares[i] = (own / own.norm()).double(), p[b].detach()
        literal = 0.0
        for b, i in enumerate(index.tolist()):
            order = sorted((j for j in range(30) if j != i), key=lambda j: (-round(float(bank[j] @ bank[i]), 12), j))
            # Of equally near ones any may be taken, so what counts is how near the fifth is.
            least = float(bank[order[4]] @ bank[i])
            nearer = [j for j in order if float(bank[j] @ bank[i]) > least + 1e-6]
            level = [j for j in order if abs(float(bank[j] @ bank[i]) - least) <= 1e-6]
            if len(nearer) + len(level) > 5:
                break
            literal = literal - sum(shares[j] @ p[b] for j in order[:5]) / n
        else:
            weight = (1 + 10 * step / 50) ** -5.0
            literal = literal + weight * sum(p[i] @ p[j] for i in range(n) for j in range(n) if i != j) / n
            assert total.item() == pytest.approx(literal.item(), abs=1e-5)
            own, other = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (total, literal))
            assert torch.allclose(own, other, atol=1e-5)
        state = plugin.part(model, SizedByData)
        assert torch.allclose(state.get_buffer("features"), torch.stack(bank), atol=1e-6)
        assert torch.allclose(state.get_buffer("probs"), torch.stack(shares), atol=1e-6)


@pytest.mark.slow
def test_a_frozen_head_stays_and_the_rest_moves(make_context, listener, tmp_path, weights_of):
    context = make_context("shot", layers=({"optim": {"lr": 0.05}, "model": {"dropout": 0.3}},))
    before = {name: tensor.clone() for name, tensor in context.model.state_dict().items()}
    run(context, tmp_path / "run", listener())
    after = weights_of(tmp_path / "run")["model"]
    moved = {name.split(".")[0] for name, p in context.model.named_parameters() if not before[name].equal(after[name])}
    assert moved == {"backbone"}
    trained = make_context("shot", layers=({"shot": {"head": "trained"}},))
    assert any("heads." in prefix for group in trained.stages[0].phases[0].groups for prefix in group.prefixes)


@pytest.mark.slow
def test_shot_pp_goes_through_its_stages(make_context, listener, tmp_path):
    layer = {"train": {"steps": 9}, "shot_pp": {"rotation": 0.6, "mix_share": 0.4}}
    context, heard = make_context("shot_pp", layers=(layer,)), listener()
    run(context, tmp_path / "run", heard)
    terms = {}
    for report in heard.reports:
        terms.setdefault(report.stage, set()).update(report.terms)
    assert [stage.name for stage in context.stages] == ["rotation", "adapt", "mixmatch"]
    assert terms["rotation"] == {"shot_pp/rotation"}
    assert terms["adapt"] == {f"shot_pp/{name}" for name in ("entropy", "diversity", "pseudo_labels", "rotation")}
    assert terms["mixmatch"] == {"shot_pp/trusted", "shot_pp/guessed"}


def test_surest_predictions_and_turns():
    probs = torch.tensor([[0.99, 0.01], [0.6, 0.4], [0.7, 0.3], [0.45, 0.55]])
    assert surest(probs).tolist() == [True, False, False, True]
    order = iter(ByTurns(torch.tensor([1, 2]), torch.tensor([5])))
    drawn = [next(order) for _ in range(8)]
    assert set(drawn[::2]) == {1, 2}
    assert drawn[1::2] == [5] * 4
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 0, 1] = 1
    turned = turn(image, torch.tensor([90.0]))
    assert turned.sum() == pytest.approx(1, abs=1e-5)
    assert torch.allclose(turn(turned, torch.tensor([-90.0])), image, atol=1e-5)
    assert torch.allclose(turn(image, torch.tensor([0.0])), image)


def test_clusters_follow_from_the_seed():
    features = torch.cat([torch.randn(10, 3) + 9, torch.randn(10, 3) - 9])
    torch.manual_seed(4)
    first = k_means(features, 2)
    torch.manual_seed(4)
    assert first.equal(k_means(features, 2))
    assert len(set(first[:10].tolist())) == 1
    assert first[0] != first[-1]


def test_a_target_of_one_class_is_refused_where_classes_are_evened(make_context):
    context = make_context("shot")
    plugin = context.resolved.plugins[0]
    alike = torch.tensor([[0.9, 0.1]]).log().repeat(50, 1)
    with pytest.raises(UserInputError, match=r"the model calls 100% of the target anger, and shot spreads") as caught:
        plugin.watch_shares(context.model, alike, ["anger", "fear"], evens=True)
    assert caught.value.fix == "take --plugin personalise for frames of one class, or --set shot.diversity=0"
    context.model.parts["shot/outset"] = Outset()
    assert plugin.watch_shares(context.model, alike, ["anger", "fear"], evens=False) == {"shot/largest_share": 1.0}


def test_a_collapse_is_told(make_context, capsys):
    context = make_context("shot")
    plugin = context.resolved.plugins[0]
    plugin.watch_shares(context.model, torch.eye(2).repeat(20, 1), ["anger", "fear"], evens=True)
    plugin.watch_shares(context.model, torch.tensor([[0.0, -9]]).repeat(40, 1), ["anger", "fear"], evens=True)
    assert (
        "100% of the target are predicted anger, 50% at first: the predictions have collapsed"
        in capsys.readouterr().out
    )


def test_clup_says_how_many_clusters_it_can_have(make_context, listener, tmp_path):
    with pytest.raises(UserInputError, match=r"5 clusters of 56 images for \d classes"):
        run(make_context("clup", layers=({"clup": {"clusters": 5}},)), tmp_path / "run", listener())


def test_a_subjects_offset_is_that_of_the_formula_and_the_head_stays(make_context, listener, tmp_path):
    import fercore

    context = make_context("personalise", layers=({"personalise": {"frames": "all", "prior_frames": 8}},))
    head = {name: tensor.clone() for name, tensor in context.model.heads.state_dict().items()}
    clock = Progress("adapt", "", 0, 0, 1)
    plain = context.evaluator.predict(context.model, context.domains.adaptation, clock)
    run(context, tmp_path / "run", listener())
    model = fercore.load(tmp_path / "run")
    state = model._model.state_dict()
    assert all(state[f"heads.{name}"].equal(tensor) for name, tensor in head.items())
    seen = context.initial.features()["main"]
    neutral = context.domains.classes.index("neutral")
    layer = context.model.heads["main"]
    faces = seen[layer(seen).argmax(1) == neutral]
    offset = state["parts.personalise/offsets.offset_main"]
    if len(faces):
        n = len(context.domains.adaptation)
        literal = n / (n + 8) * (plain.features["main"].mean(0) - faces.mean(0).numpy())
        assert np.allclose(offset, literal, atol=1e-5)
    test = context.domains.test
    before = context.initial and fercore.load(context.initial.folder)
    images = list(test.read_many(range(len(test))))
    moved = torch.from_numpy(before.features(images)["main"]) - offset
    assert np.allclose(layer(moved).softmax(1).detach(), model.predict(images).probs, atol=1e-5)


@pytest.mark.parametrize("preset", ["demo", "small"])
def test_one_frame_of_a_subject_is_enough_in_every_quick_preset(preset, tmp_path):
    import fercore

    given = {"target": "synthfer:wild?n=2&seed=2", "init": tiny_model(), "preset": preset, "device": "cpu"}
    done = fercore.train("personalise", **given, set={"report.tensorboard": False}, out=tmp_path / "run")
    assert done.result.target.n_adaptation == 1
    metrics = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert {row["personalise/frames"] for row in metrics if "personalise/frames" in row} == {1.0}


def test_statistics_are_blended_by_channel():
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(3).eval()
    images = torch.randn(8, 3, 5, 5) * 2 + 1
    blend_statistics(layer, 0.1, lambda: [layer(part) for part in images.split(3)])
    flat = images.transpose(0, 1).flatten(1)
    assert torch.allclose(layer.running_mean, 0.1 * flat.mean(1), atol=1e-6)
    assert torch.allclose(layer.running_var, 0.9 + 0.1 * flat.var(1, unbiased=False), atol=1e-5)
