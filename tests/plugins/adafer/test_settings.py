"""Settings, presets and the network that they build; a run without action units fails early."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fercore_adafer import modules
from fercore_adafer.modules import CodeTable, UnitHead
from fercore_adafer.settings import AdaFerSettings

from fercore.config import RunConfig, check_settings, merge, parse_assignment
from fercore.data.domains.dataset_info import SideInfo, task_info
from fercore.errors import UserInputError
from fercore.hooks.assemble import assemble
from fercore.records.task import BatchPolicy

SMALL = {
    "data": {"size": 32, "sources": ["folder:a"], "target": "folder:t", "au": "units.csv"},
    "model": {"backbone_args": {"resnet18": {"channels": [8, 8, 8, 8]}}},
}


def read(*switches):
    values = {}
    for switch in switches:
        values = merge(values, parse_assignment(switch))
    return check_settings(AdaFerSettings, values, prefix="adafer")


def config(**data):
    return RunConfig.model_validate({**SMALL, "data": {**SMALL["data"], **data}})


def task(config):
    return task_info(config, (), ([1] * len(config.data.sources), 1))


def test_the_defaults_are_the_papers():
    chosen = read()
    assert (chosen.beta, chosen.epsilon, chosen.agt.gamma, chosen.agt.tau_n) == (1, 1, 0.5, 0.5)
    assert chosen.aga.schemes == ("s_hard", "t_soft")
    assert (chosen.agt.anchors, chosen.agt.sim, chosen.agt.resample, chosen.kl) == ("both", "cosine", "epoch", "q_p")
    assert (chosen.s_hard.conflict, chosen.aga.unmatched, chosen.aga.radius) == ("pair", "drop", 0)
    assert (chosen.gamma.mode, chosen.source_pretrain_epochs, chosen.baseline) == ("fixed", 0, "none")


@pytest.mark.parametrize(("text", "radius"), [("exact", 0), ("hamming<=2", 2), ("hamming <= 10", 10)])
def test_ways_of_matching(text, radius):
    assert read(f"aga.match={text}").aga.radius == radius


@pytest.mark.parametrize(
    ("switch", "words"),
    [
        ("variant=official", "no official code"),
        ("aga.scheme=s_soft", "t_soft"),
        ("aga.scheme=t_soft+t_soft", "several of them"),
        ("aga.scheme=", "several of them"),
        ("aga.match=hamming<=0", "D from 1 up"),
        ("aga.match=near", "exact, or hamming"),
        ("agt.anchors=all", "setting adafer.agt.anchors"),
        ("agt.tau=0.5", "unknown setting 'adafer.agt.tau'.*adafer.agt.tau_n"),
        ("baseline=#3", "setting adafer.baseline"),
        ("beta=-1", "setting adafer.beta"),
    ],
)
def test_wrong_settings_are_one_clear_line(switch, words):
    with pytest.raises(UserInputError, match=words):
        read(switch)


def test_presets():
    paper = assemble(["adafer"], [], preset="paper").config
    assert (paper.data.source_batch, paper.data.target_batch, paper.data.size) == (192, 192, 224)
    assert (paper.optim.name, paper.optim.lr, paper.plugins["adafer"]["epochs"]) == ("adam", 1e-3, 40)
    assert paper.data.au is None
    assert assemble(["adafer"], [], preset="demo").config.data.au == "synthfer"


@pytest.mark.parametrize("baseline", ["none", "au_lookup", "joint"])
def test_without_action_units_it_fails_early_and_names_the_formats(method, baseline):
    plugin = method(baseline=baseline)
    with pytest.raises(UserInputError, match="adafer needs action units.*data.au.*OpenFace 2.*path,AU01"):
        plugin.build_model(config=config(au=None), num_classes=7, task=task(config(au=None)))


def test_what_needs_no_action_units_asks_for_none(method):
    for baseline in ("hard_labels", "soft_labels"):
        method(baseline=baseline).build_model(config=config(au=None), num_classes=7, task=task(config(au=None)))
    spec = {"sources": ["folder:a?au=x.csv"], "target": "folder:t?au=y.csv", "au": None}
    method().build_model(config=config(**spec), num_classes=7, task=task(config(**spec)))


@pytest.mark.parametrize(
    ("settings", "data", "words"),
    [
        ({"gamma": {"mode": "learnable", "floor": 0.5}}, {}, "floor 0.5 is not below its first value 0.5"),
        ({"agt": {"exclude_same_label": True}, "aga": {"on": False}}, {}, "exclude_same_label"),
        ({}, {"target_batch": 2}, "28 source and 2 target images hold no triplet|hold no triplet"),
    ],
)
def test_settings_that_do_not_go_together(method, settings, data, words):
    with pytest.raises(UserInputError, match=words):
        method(**settings).build_model(config=config(**data), num_classes=7, task=task(config(**data)))


def parts(method, **settings):
    return set(method(**settings).build_model(config=config(), num_classes=7, task=task(config())).parts)


def test_parts_follow_the_settings(method):
    labels = {f"adafer/labels_{name}" for name in ("s_hard", "t_hard", "t_soft")}
    assert parts(method) == {"adafer/state", *labels}
    assert parts(method, aga={"on": False}) == {"adafer/state"}
    assert parts(method, gamma={"mode": "learnable"}) == {"adafer/state", "adafer/margin", *labels}
    assert parts(method, baseline="au_lookup") == {"adafer/state", "adafer/codes", "adafer/labels_au_lookup"}
    assert parts(method, baseline="joint") == {"adafer/state", "adafer/units", "adafer/labels_predicted"}


def datasets(source=((1, 0), (0, 1)), target=((1, 0), (0, 1))):
    """What `plan` is told of either side: one image for each code."""
    return {
        side: SideInfo(np.zeros(len(c)), np.zeros(len(c)), ("",) * len(c), {"au_code": np.array(c, np.uint8)})
        for side, c in (("source", source), ("target", target))
    }


def stages(method, train=None, **settings):
    run = RunConfig.model_validate({**SMALL, "train": {"steps": 30, **(train or {})}})
    return [
        (s.name, s.steps, s.epochs) for s in method(**settings).plan(config=run, task=task(run), datasets=datasets())
    ]


def test_stages(method):
    assert stages(method) == [("train", 30, None)]
    assert stages(method, source_pretrain_epochs=5) == [("pretrain", 0, 5), ("train", 30, None)]
    assert stages(method, epochs=40) == [("train", 0, 40)]
    assert stages(method, baseline="au_lookup") == [("lookup", 1, None)]
    assert stages(method, baseline="soft_labels") == [("source", 30, None), ("finetune", 30, None)]
    assert stages(method, baseline="joint", finetune_steps=7) == [("source", 30, None), ("finetune", 7, None)]


def test_an_epoch_is_one_pass_over_the_triplets(method):
    """Anchor by anchor: who has an image of its code and one of another in the other domain; batches of 12 and 12."""
    rng = np.random.default_rng(0)
    source, target = rng.integers(0, 2, (50, 3)), rng.integers(0, 2, (17, 3))
    target[:, 0] = 1  # source images with a 0 there have no partner
    held = {"source": 0, "target": 0}
    for side, own, other in (("source", source, target), ("target", target, source)):
        for code in own:
            same = [bool((code == row).all()) for row in other]
            held[side] += any(same) and not all(same)
    assert 0 < held["source"] < 50
    run = config(source_batch=12, target_batch=12)

    def steps_per_epoch(**settings):
        found = method(**settings).plan(config=run, task=task(run), datasets=datasets(source, target))
        return [stage.steps_per_epoch for stage in found]

    assert steps_per_epoch(epochs=40) == [max(math.ceil(held[side] / 4) for side in held)]
    assert steps_per_epoch(agt={"anchors": "source"}) == [math.ceil(held["source"] / 6)]
    assert steps_per_epoch(agt={"anchors": "target"}) == [math.ceil(held["target"] / 6)]
    assert steps_per_epoch(source_pretrain_epochs=2)[0] is None  # source images alone
    assert steps_per_epoch(agt={"on": False}) == steps_per_epoch(baseline="soft_labels")[:1] == [None]
    alike = datasets([[1, 1]] * 5, [[1, 1]] * 3)
    assert method().plan(config=run, task=task(run), datasets=alike)[0].steps_per_epoch is None
    given = RunConfig.model_validate({"train": {"steps_per_epoch": 7}})
    assert method().plan(config=given, task=task(given), datasets=datasets(source, target))[0].steps_per_epoch == 7


def test_views_are_made_where_they_are_used(method):
    def views(**settings):
        return {(v.side, v.stages) for v in method(**settings).request_views()}

    assert views() == {("source", ("train",)), ("target", ("train",))}
    assert views(source_pretrain_epochs=1) == {("source", ("pretrain", "train")), ("target", ("train",))}
    assert views(baseline="au_lookup") == {("source", ("lookup",))}
    assert views(baseline="hard_labels") == {("source", ("source",)), ("target", ("finetune",))}


def test_the_papers_schedule_drops_after_each_epoch(method):
    from fercore.engine.phases import rate_factor

    run = RunConfig.model_validate({**SMALL, "optim": {"schedule": "constant"}})
    (stage,) = method(epochs=40, lr_decay=0.9).plan(config=run, task=task(run), datasets=datasets())
    factor = rate_factor(stage.phases[0].optimiser, 40 * 63)
    for epoch in (0, 1, 2, 20, 39):
        assert factor(epoch * 63 + 30) == pytest.approx(0.9**epoch)


def test_a_learnable_margin_takes_no_weight_decay(method):
    (stage,) = method(gamma={"mode": "learnable"}).plan(config=config(), task=task(config()), datasets=datasets())
    groups = {group.prefixes: group.weight_decay for group in stage.phases[0].groups}
    assert groups[("parts.adafer/margin",)] == 0


def test_how_samples_are_drawn_follows_the_run():
    one = task(config(source_batch=20, target_batch=10, class_balanced=True)).batch
    assert one == BatchPolicy(20, 10, None, class_balanced=True, domain_balanced=False)
    assert task(config(sources=["folder:a", "folder:b"])).batch.domain_balanced
    alike = config(sources=["folder:a", "folder:b"], source_sampling="proportional")
    assert not task(alike).batch.domain_balanced


def test_the_code_table_is_baseline_2():
    table = CodeTable(3)
    codes = torch.tensor([[1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 1]], dtype=torch.uint8)
    table.fit(codes, torch.tensor([0, 0, 2, 1]))
    asked = torch.tensor([[1, 0, 0], [0, 1, 1], [1, 1, 0], [0, 0, 0], [0, 0, 0]], dtype=torch.uint8)
    scores = asked.float()
    scores[4] = math.nan
    shares, found = table(scores, asked, nearest=False)
    prior = [0.5, 0.25, 0.25]
    expected = [[2 / 3, 0, 1 / 3], [0, 1, 0], prior, prior, prior]
    torch.testing.assert_close(shares, torch.tensor(expected))
    assert found.tolist() == [True, True, False, False, False]
    shares, _ = table(scores, asked, nearest=True)
    # 110 and 000: at distance 1 from 100, at 2 and 2 from 011.
    torch.testing.assert_close(shares[2:4], torch.tensor([[2 / 3, 0, 1 / 3], [2 / 3, 0, 1 / 3]]))
    torch.testing.assert_close(shares[4], torch.tensor(prior))


def test_the_code_table_looks_up_part_by_part(monkeypatch):
    table = CodeTable(3)
    generator = torch.Generator().manual_seed(0)
    held, asked = (torch.randint(0, 2, (n, 6), generator=generator, dtype=torch.uint8) for n in (20, 33))
    table.fit(held, torch.randint(0, 3, (20,), generator=generator))
    whole = table(asked.float(), asked, nearest=True)
    monkeypatch.setattr(modules, "ROWS_AT_ONCE", 4)
    assert all(
        torch.equal(a, b) for a, b in zip(table.look_up_all(asked.float(), asked, nearest=True), whole, strict=True)
    )
    apart = (asked[:, None] != table.codes[None]).sum(2)
    assert torch.equal(whole[1], apart.amin(1) == 0)


def test_equally_near_codes_share():
    table = CodeTable(2)
    table.fit(torch.tensor([[1, 0], [0, 1]], dtype=torch.uint8), torch.tensor([0, 1]))
    shares, _ = table(torch.ones(1, 2), torch.ones(1, 2, dtype=torch.uint8), nearest=True)
    torch.testing.assert_close(shares, torch.tensor([[0.5, 0.5]]))


def test_the_unit_head_is_the_rest_of_a_joint_linear_layer():
    head = UnitHead(3)
    scores = torch.rand(4, 17)
    torch.testing.assert_close(head(scores), scores @ head.linear.weight[:, :17].T)
    scores[0, 0] = math.nan
    assert torch.isfinite(head(scores)).all()
