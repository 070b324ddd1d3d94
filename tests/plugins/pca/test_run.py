"""Whole runs on tiny synthetic faces: what moves, what is saved, what is kept, pseudo labels, resume, references."""

from __future__ import annotations

import pytest
import torch
from fercore_pca.network import Network
from fercore_pca.scores import infer
from safetensors.torch import save_file

from fercore.engine.describe import describe
from fercore.engine.run import run
from fercore.errors import UserInputError
from fercore.records.step import Batch, DomainBatch, Encoded, EncodedDataset, Progress, PseudoLabels

pytestmark = pytest.mark.slow

BARE = {"data": {"target": "synthfer:wild?n=112&seed=2"}}


def tensors(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items() if name.startswith("parts.")}


def frozen(model):
    return {name: tensor.clone() for name, tensor in model.backbone.frozen.module.state_dict().items()}


def network_of(made):
    return Network("pca_ifer", made.resolved.plugins[0].pca_settings, made.model)


def test_what_is_learnt_moves_and_clip_does_not(context, tmp_path, listener, weights_of):
    made, heard = context(), listener()
    weights = frozen(made.model)
    before = {name: p.detach().clone() for name, p in made.model.named_parameters() if p.requires_grad}
    record = run(made, tmp_path / "run", heard)
    after = dict(made.model.named_parameters())
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert {name.split("/")[1].split(".")[0] for name in before} == {"prompts", "alignment"}
    assert all(torch.equal(weights[name], tensor) for name, tensor in frozen(made.model).items())
    assert [set(report.terms) for report in heard.reports] == [{"pca_ifer/cls", "pca_ifer/iga"}] * 4
    assert record.parameters.trained == sum(p.numel() for p in before.values())
    saved = weights_of(tmp_path / "run")["model"]
    assert not [name for name in saved if "frozen.module" in name]
    assert {"parts.pca_ifer/banks.source.features", "parts.pca_ifer/prompts.text"} <= saved.keys()
    assert sum(t.numel() for t in saved.values() if t.is_floating_point()) < 2 * record.parameters.trained
    assert record.sources[1].n == 7


def test_a_random_clip_says_what_to_run_first_and_a_file_says_nothing(context, tmp_path, caplog):
    made = context()
    (said,) = [record.getMessage() for record in caplog.records if "random weights" in record.getMessage()]
    assert "CLIP model 'tiny'" in said
    assert "`fercore clip warmup --model tiny --out clip.safetensors`" in said
    assert said.endswith("--set pca_ifer.clip.pretrained=clip.safetensors")
    caplog.clear()
    save_file(frozen(made.model), tmp_path / "clip.safetensors")
    context(clip={"model": "tiny", "pretrained": str(tmp_path / "clip.safetensors")})
    assert not [record for record in caplog.records if "random weights" in record.getMessage()]


def test_the_banks_hold_what_they_should(context, tmp_path, listener):
    made = context(bank={"n": 3})
    run(made, tmp_path / "run", listener())
    net = network_of(made)
    assert (len(net.banks.source), len(net.banks.target)) == (21, 21)
    clock = Progress("train", "", 0, 0, 4)
    from fercore.data import side_table

    read = {}
    for side in ("source", "target"):
        net.state.started.fill_(False)  # as before the first epoch, when the banks were filled
        read[side] = made.evaluator.encode(made.model, side_table(made.domains, side), clock, side)
    ours = read["source"].domain == 1
    assert int(ours.sum()) == 7
    pools = {
        "source": read["source"].features["cls"][~ours],
        "target": torch.cat([read["target"].features["cls"], read["source"].features["cls"][ours]]),
    }
    logits = {
        "source": read["source"].logits["cls"][~ours],
        "target": torch.cat([read["target"].logits["cls"], read["source"].logits["cls"][ours]]),
    }
    for number, side in enumerate(("source", "target")):
        top = logits[side].softmax(-1).topk(3, dim=0).indices
        wanted = torch.nn.functional.normalize(pools[side], dim=-1)[top].mean(0)
        torch.testing.assert_close(net.banks.centres[number], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("include_labelled", [True, False])
def test_labelled_target_samples_are_in_the_bank_once(context, tmp_path, listener, include_labelled):
    target = "synthfer:wild?n=112&seed=2&shots=1" + ("&include_labelled=true" if include_labelled else "")
    made = context("pca_ifer", {"data": {"target": target}, "train": {"steps": 1}}, bank={"n": 100})
    run(made, tmp_path / "run", listener())
    bank = network_of(made).banks.target
    assert len(bank) == 7 * 56  # 56 of 112 are the test part
    rows = bank.features[bank.labels == 0]
    apart = (rows @ rows.T - torch.eye(56)).amax()
    assert float(apart) < 1 - 1e-6


ROWS = {
    "IGA alone": ({"cpt": {"on": False}}, {"pca_ifer/iga"}, {"alignment"}),
    "CPT alone": ({"iga": {"on": False}}, {"pca_ifer/cls"}, {"prompts"}),
    "neither": ({"cpt": {"on": False}, "iga": {"on": False}}, {"pca_ifer/cls"}, {"probe"}),
    "k=0": ({"prompt": {"k": 0}}, {"pca_ifer/iga"}, {"alignment"}),
    "per domain": ({"image_encoder": "per_domain_prompts"}, {"pca_ifer/cls", "pca_ifer/iga"}, {"prompts", "alignment"}),
}


@pytest.mark.parametrize("row", ROWS)
def test_rows_of_table_2_learn_what_is_theirs(context, tmp_path, listener, row):
    settings, terms, learnt = ROWS[row]
    made, heard = context(**settings), listener()
    names = {n.split("/")[1].split(".")[0] for n, p in made.model.named_parameters() if p.requires_grad}
    assert names == learnt
    run(made, tmp_path / "run", heard)
    assert {frozenset(report.terms) for report in heard.reports} == {frozenset(terms)}


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({"aug": {"kind": "none"}}, 63),
        ({"bank": {"refresh": "epoch"}}, 112),
        ({"target": {"mode": "pseudo", "threshold": 0.1}}, 49),
    ],
)
def test_kept_features_change_no_bit_of_a_run(context, tmp_path, listener, weights_of, settings, most):
    made = {cache: context(cpt={"on": False}, cache=cache, **settings) for cache in (True, False)}
    found = {}
    for cache, one in made.items():
        result = run(one, tmp_path / str(cache), listener())
        found[cache] = (weights_of(tmp_path / str(cache))["model"], result.target)
    assert found[True][1] == found[False][1]
    assert all(torch.equal(found[False][0][name], tensor) for name, tensor in found[True][0].items())
    kept = made[True].model.parts["pca_ifer/kept"]
    assert 0 < kept.computed <= most
    assert made[False].model.parts["pca_ifer/kept"].computed == 0


@pytest.mark.parametrize(
    ("settings", "layers"),
    [
        ({"bank": {"refresh": "epoch"}, "warmup": {"epochs": 1, "lr": 1e-4}}, ()),
        ({"variant": "maple_pda", "target": {"threshold": 0.1}, "bank": {"refresh": "epoch"}}, (BARE,)),
        ({"cpt": {"on": False}, "aug": {"kind": "none"}}, ()),
    ],
)
def test_a_run_resumes_to_the_bit(context, tmp_path, listener, weights_of, settings, layers):
    whole = run(context("pca_ifer", *layers, **settings), tmp_path / "whole", listener())
    with pytest.raises(KeyboardInterrupt):
        run(context("pca_ifer", *layers, **settings), tmp_path / "cut", listener(stop_after=3))
    again = run(context("pca_ifer", *layers, **settings), tmp_path / "cut", listener(), resume=True)
    assert again.target == whole.target
    one, other = (weights_of(tmp_path / name)["model"] for name in ("whole", "cut"))
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_the_warmup_has_its_own_rate(context, tmp_path, listener):
    made, heard = context(warmup={"epochs": 1, "lr": 1e-4}, epochs=3), listener()
    assert [(stage.name, stage.steps) for stage in made.stages] == [("warmup", 2), ("train", 4)]
    run(made, tmp_path / "run", heard)
    rates = [report.lr[0] for report in heard.reports]
    assert rates[:2] == [1e-4, 1e-4]
    assert rates[2] != 1e-4


def test_pseudo_labels_come_from_zero_shot_and_then_from_the_model(context, method):
    made = context("pca_ifer", BARE, target={"mode": "pseudo", "threshold": 0.3}, infer="weighted")
    plugin, net = made.resolved.plugins[0], network_of(made)
    rows = torch.tensor([[2.0, 0, 0, 0, 0, 0, 0], [0.1, 0, 0, 0, 0, 0, 0]])
    calls = []

    def encode_dataset(side):
        first = not net.state.started
        calls.append((side, first))
        n = torch.arange(2)
        logits = {"cls": rows} if first else {"cls": rows.flip(1), "iga": 3 * rows.flip(1)}
        features = {name: torch.eye(2, 64) for name in logits}
        return EncodedDataset(features, logits, torch.tensor([0, 1]), torch.zeros_like(n), n)

    report = plugin.refresh(made.model, encode_dataset)
    assert calls == [("source", True), ("target", True)]
    torch.testing.assert_close(net.record.probs, rows.softmax(-1))
    assert net.record.weight.tolist() == [1, 0]
    assert report["pca_ifer/pseudo_labelled"] == 1
    plugin.refresh(made.model, encode_dataset)
    assert calls[2:] == [("target", False)]
    later = infer({"cls": rows.flip(1), "iga": 3 * rows.flip(1)}, "weighted", (0.5, 0.5))
    torch.testing.assert_close(net.record.probs, later)


@pytest.mark.parametrize("refresh", ["none", "epoch"])
def test_banks_are_built_once_or_anew(context, refresh):
    made = context(bank={"refresh": refresh, "n": 1})
    plugin, net = made.resolved.plugins[0], network_of(made)
    kept = []

    def encode_dataset(side):
        n = torch.zeros(2, dtype=torch.int64)
        features = torch.eye(64)[[len(kept), len(kept) + 1]]
        logits = {name: torch.eye(2, 7) for name in ("cls", "iga")}
        return EncodedDataset({"cls": features, "iga": features}, logits, n, n, n)

    for _ in range(2):
        plugin.refresh(made.model, encode_dataset)
        kept.append(net.banks.centres.clone())
    assert torch.equal(kept[0], kept[1]) == (refresh == "none")


def test_pseudo_labels_count_by_their_own_sample_and_weight(context):
    made = context("pca_ifer", BARE, target={"mode": "pseudo"})
    plugin, net = made.resolved.plugins[0], network_of(made)
    probs = torch.randn(9, 7, generator=torch.Generator().manual_seed(2)).softmax(-1)
    net.record.write(probs, torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 0, 0]))
    images = torch.zeros(3, 3, 64, 64)
    labels, zeros = torch.tensor([1, 2, 3]), torch.zeros(3, dtype=torch.int64)
    source = DomainBatch({"train": images}, labels, zeros, zeros)
    target = DomainBatch({"train": images}, zeros - 1, zeros, torch.tensor([3, 8, 0]))
    batch = Batch(source, target)
    pseudo = plugin.pseudo_label(made.model, batch)
    assert torch.equal(pseudo.probs, probs[[3, 8, 0]])
    assert torch.equal(pseudo.labels, probs[[3, 8, 0]].argmax(1))
    assert pseudo.weight.tolist() == [1, 0, 1]
    logits = torch.randn(6, 7, generator=torch.Generator().manual_seed(3))
    encoded = {
        (side, "train"): Encoded({"cls": logits[rows]}, {"cls": logits[rows]})
        for side, rows in (("source", slice(0, 3)), ("target", slice(3, 6)))
    }
    (term,) = plugin.loss(made.model, batch, encoded, pseudo)
    counted = [0, 1, 2, 3, 5]
    told = torch.cat([labels, pseudo.labels])[counted]
    torch.testing.assert_close(term.value, torch.nn.functional.cross_entropy(logits[counted], told))


def released_losses(logits, labels, weight, of_target):
    """PDA's training step: the source's mean, and the sum over sure target samples by their number, 0 without one."""
    own = [-float(z.log_softmax(0)[y]) for z, y, t in zip(logits, labels, of_target, strict=True) if not t]
    sure = [
        (float(w), -float(w * z.log_softmax(0)[y]))
        for z, y, w, t in zip(logits, labels, weight, of_target, strict=True)
        if t and w > 0
    ]
    return sum(own) / len(own) + (sum(v for _, v in sure) / sum(w for w, _ in sure) if sure else 0.0)


@pytest.mark.parametrize("mode", ["pseudo", "nothing sure", "shots"])
def test_each_side_has_its_own_mean_where_asked(context, mode):
    target = None if mode == "shots" else "pseudo"
    made = context("pca_ifer", target={"mode": target}, mean="sides", lambda1=1.0, lambda2=1.0)
    plugin, net = made.resolved.plugins[0], network_of(made)
    assert net.state.labelled == 1
    net.banks.usable.fill_(True)
    labels, index = torch.tensor([1, 2, 3, 0]), torch.arange(4)
    domain = torch.tensor([0, 1, 0, 0])
    source = DomainBatch({}, labels, domain, index)
    batch = Batch(source, DomainBatch({}, torch.full((4,), -1), torch.zeros_like(domain), index))
    generator = torch.Generator().manual_seed(3)
    tables = {branch: torch.randn(8, 7, generator=generator, dtype=torch.float64) for branch in ("cls", "iga")}
    encoded = {
        (side, "train"): Encoded({}, {branch: table[rows] for branch, table in tables.items()})
        for side, rows in (("source", slice(0, 4)), ("target", slice(4, 8)))
    }
    guessed, sure = torch.tensor([5, 6, 0, 1]), torch.tensor([1.0, 0, 1, 1] if mode == "pseudo" else [0.0] * 4)
    pseudo = None if mode == "shots" else PseudoLabels(guessed, sure, torch.full((4, 7), 1 / 7))
    (cls,) = plugin.loss(made.model, batch, encoded, pseudo)
    (iga,) = plugin.align(made.model, batch, encoded, pseudo)
    every = 4 if pseudo is None else 8
    told = torch.cat([labels, guessed])[:every]
    weight, ours = torch.cat([torch.ones(4), sure])[:every], torch.cat([domain == 1, torch.ones(4) > 0])[:every]
    for term, branch in ((cls, "cls"), (iga, "iga")):
        wanted = released_losses(tables[branch][:every], told, weight, ours)
        assert term.value.item() == pytest.approx(wanted, rel=1e-12)


def test_pseudo_labels_teach_and_are_scored(context, tmp_path, listener):
    made, heard = context("pca_ifer", BARE, target={"mode": "pseudo", "threshold": 0.1}), listener()
    assert {view.side for view in made.views} == {"source", "target"}
    record = run(made, tmp_path / "run", heard)
    assert record.pseudo_labels["pca_ifer/pseudo"].coverage == 1
    none = context("pca_ifer", BARE, target={"mode": "pseudo", "threshold": 1.0})
    silent = run(none, tmp_path / "none", listener())
    assert silent.pseudo_labels["pca_ifer/pseudo"].coverage == 0
    assert {view.side for view in context().views} == {"source"}


def test_empty_banks_without_prompts_are_refused(context, method):
    made = context(cpt={"on": False}, bank={"rule": "prediction"})
    plugin = made.resolved.plugins[0]

    def encode_dataset(side):
        n = torch.arange(1)
        return EncodedDataset({"cls": torch.ones(1, 64)}, {"cls": torch.eye(1, 7)}, n + 1, torch.zeros_like(n), n)

    with pytest.raises(UserInputError, match="feature bank"):
        plugin.refresh(made.model, encode_dataset)
    one = context(lambda1=0.0, bank={"rule": "prediction"})
    with pytest.raises(UserInputError, match="feature bank"):
        one.resolved.plugins[0].refresh(one.model, encode_dataset)
    other = context(bank={"rule": "prediction"}, infer="iga", iga={"beta": 0.1}, target={"mode": "pseudo"})
    other.resolved.plugins[0].refresh(other.model, encode_dataset)
    net = network_of(other)
    assert (net.rule, net.pca_settings.rule) == ("cls", "iga")


def test_zero_shot_keeps_every_decision(context, tmp_path, listener):
    made = context("clip_zero_shot")
    clock = Progress("train", "", 0, 0, 4)
    before = made.evaluator.predict(made.model, made.domains.test, clock).probs
    record = run(made, tmp_path / "run", listener())
    after = made.evaluator.predict(made.model, made.domains.test, clock).probs
    assert (before.argmax(1) == after.argmax(1)).all()
    assert (before != after).any()
    assert record.parameters.trained == 1


LEARNT = {
    "clip_linear_probe": lambda clip: 7 * (clip.dim + 1),
    "coop": lambda clip: 16 * clip.text_width,
    "maple": lambda clip: 4 * (2 * clip.text_width + (clip.text_width + 1) * clip.vision_width),
    "clip_finetune": lambda clip: 7 * clip.dim + sum(p.numel() for p in clip.network.visual.parameters()),
}


@pytest.mark.parametrize("name", LEARNT)
def test_references_learn_what_is_theirs(context, tmp_path, listener, clip, name):
    made, heard = context(name), listener()
    before = {n: p.detach().clone() for n, p in made.model.named_parameters() if p.requires_grad}
    total = sum(p.numel() for p in before.values())
    assert total == LEARNT[name](clip())
    record = run(made, tmp_path / "run", heard)
    after = dict(made.model.named_parameters())
    still = [n for n in before if torch.equal(before[n], after[n])]
    assert still == []
    assert [set(report.terms) for report in heard.reports] == [{f"{name}/cls"}] * 4
    assert record.parameters.trained == total


def test_bf16_runs(context, tmp_path, listener):
    layer = {"train": {"precision": "bf16-mixed", "steps": 2}}
    record = run(context("pca_ifer", layer), tmp_path / "run", listener())
    assert record.target.accuracy is not None


def test_a_resnet_runs_with_prompts_in_its_pool(context, tmp_path, listener):
    own = {"clip": {"model": "tiny-rn"}, "rn": {"attnpool_prompts": True}}
    made = context("pca_ifer", {"train": {"steps": 2}}, **own)
    record = run(made, tmp_path / "run", listener())
    assert record.target.n > 0


@pytest.mark.parametrize("name", ["pca_ifer", "coop", "clip_finetune"])
def test_the_network_can_be_described(context, name):
    made = context(name)
    lines = describe(made, complexity=True)
    trained = sum(p.numel() for p in made.model.parameters() if p.requires_grad)
    shown = f"{trained / 1e6:.2f} M" if trained >= 1e5 else f"{trained:,}"
    assert any(f"({shown} trained)" in line and "MACs" in line for line in lines)
