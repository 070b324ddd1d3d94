"""The README names every setting of both plugins, and its ablation rows run and do what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fercore_leaf.settings import LeafEafSettings, LeafSettings

from fercore.config import check_settings, dotted_names, merge, parse_assignment
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


def rows_of_table_3():
    table = README.partition("## Ablations by settings alone")[2]
    found = re.findall(r"^\| (w.*|full) \| (`.*`|none) \|$", table, flags=re.M)
    return [(row, text.strip("`").split() if text != "none" else []) for row, text in found]


@pytest.mark.parametrize("name", [name.removesuffix("_") for name in dotted_names(LeafSettings)])
def test_every_setting_is_in_the_table(name):
    assert f"`{name}`" in METHOD


@pytest.mark.parametrize("name", sorted({name.split(".")[0] for name in dotted_names(LeafEafSettings)}))
def test_every_setting_of_the_add_on_is_named(name):
    assert f"`{name}`" in ADDON


@pytest.mark.parametrize(("row", "switches"), rows_of_table_3())
def test_ablation_rows_are_settings_alone(row, switches, scene, step, build):
    values = {}
    for switch in switches:
        values = merge(values, parse_assignment(switch))
    check_settings(LeafSettings, values, prefix="leaf")
    _, model = build(**values)
    mixtures = [module for module in model.modules() if isinstance(module, ExpertMixture)]
    assert (len(mixtures), set(step(scene(), **values))) == TERMS[row]


def test_all_rows_are_there():
    assert [row for row, _ in rows_of_table_3()] == list(TERMS)
