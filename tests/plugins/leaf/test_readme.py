"""The README names every setting of both plugins, and its ablation rows run and do what they say."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from fercore_leaf.settings import LeafEafSettings, LeafSettings

from fercore.config import dotted_names, parse_assignment
from fercore.engine.run import run
from fercore.models import ExpertMixture

README = (Path(__file__).parents[3] / "plugins" / "leaf" / "README.md").read_text(encoding="utf-8")
METHOD, _, ADDON = README.partition("## leaf_eaf")
TERMS = {
    "w/o S-EAF": (1, {"supervised", "consistency"}),
    "w/o I-EAF": (1, {"supervised", "consistency"}),
    "w/o C-EAF": (2, {"supervised"}),
    "w L_CE": (2, {"supervised", "consistency"}),
    "full": (2, {"supervised", "consistency"}),
}
ROWS = re.findall(r"^\| ((?:Table|Fig\.) \d) \| (.+?) \| `--set (leaf\..+?)` \|$", README, flags=re.M)
LABELS_AND_REST = {"data": {"sources": ["synthfer:wild?n=56&seed=8"], "target": "synthfer:wild?n=112&seed=2"}}


def settings_of(text):
    return parse_assignment(text)["leaf"]


@pytest.mark.parametrize("name", [name.removesuffix("_") for name in dotted_names(LeafSettings)])
def test_every_setting_is_in_the_table(name):
    assert f"`{name}`" in METHOD


@pytest.mark.parametrize("name", sorted({name.split(".")[0] for name in dotted_names(LeafEafSettings)}))
def test_every_setting_of_the_add_on_is_named(name):
    assert f"`{name}`" in ADDON


def test_all_rows_are_there():
    found = {table: [row for name, row, _ in ROWS if name == table] for table in ("Table 2", "Table 3", "Fig. 6")}
    assert found["Table 2"] == ["linear", "bottleneck", "residual"]
    assert found["Table 3"] == list(TERMS)
    assert [int(row.split()[0]) for row in found["Fig. 6"]] == list(range(1, 9))


@pytest.mark.slow
@pytest.mark.parametrize(("table", "row", "text"), ROWS, ids=lambda value: value)
def test_a_row_of_the_sweeps_trains(table, row, text, make_context, tmp_path, listener):
    heard = listener()
    layers = (LABELS_AND_REST, {"leaf": {"n_experts": 3}, "train": {"steps": 2}}, parse_assignment(text))
    context = make_context("leaf", layers=layers)
    run(context, tmp_path / "run", heard)
    assert all(math.isfinite(value) for report in heard.reports for value in report.terms.values())
    mixtures = [module for module in context.model.modules() if isinstance(module, ExpertMixture)]
    terms = {name.removeprefix("leaf/") for name in heard.reports[-1].terms}
    if table == "Table 3":
        assert (len(mixtures), terms) == TERMS[row]
    if table == "Table 2":
        assert {(len(m.experts.weights), m.experts.residual) for m in mixtures} == {
            (1 if row == "linear" else 2, row == "residual")
        }
    if table == "Fig. 6":
        assert {len(m.experts.weights[0]) for m in mixtures} == {int(row.split()[0])}
        assert all(m.gate.k == min(2, int(row.split()[0])) for m in mixtures)


def test_cross_entropy_and_the_full_loss_differ(scene, step):
    values = {text: step(scene(), **settings_of(text))["consistency"].value.item() for _, _, text in ROWS[6:8]}
    assert len(set(values.values())) == 2
