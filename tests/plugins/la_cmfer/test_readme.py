"""The README names every setting, its defaults for the official variant, and ablation rows that run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fercore_la_cmfer.inference import RULES
from fercore_la_cmfer.settings import LaCmferSettings

from fercore.config import check_settings, dotted_names, merge, parse_assignment

README = (Path(__file__).parents[3] / "plugins" / "la_cmfer" / "README.md").read_text(encoding="utf-8")


def rows_of_table_2():
    found = re.findall(r"^\| ([A-F]) \| (`.*`|none) \|$", README, flags=re.M)
    return [(row, text.strip("`").split() if text != "none" else []) for row, text in found]


@pytest.mark.parametrize("name", [name.removesuffix("_") for name in dotted_names(LaCmferSettings)])
def test_every_setting_is_in_the_table(name):
    assert f"`{name}`" in README


def test_every_rule_is_named():
    assert all(f"`{rule}`" in README for rule in RULES)


TERMS = {
    "A": {"supervised"},
    "B": {"supervised", "sample_mmd"},
    "C": {"supervised", "sample_mmd"},
    "D": {"supervised", "sample_mmd", "cluster_mmd"},
    "E": {"supervised", "sample_mmd", "cluster_mmd", "consistency"},
    "F": {"supervised", "sample_mmd", "cluster_mmd", "consistency", "voting"},
}


@pytest.mark.parametrize(("row", "switches"), rows_of_table_2())
def test_ablation_rows_are_settings_alone(row, switches, inputs, step):
    values = {}
    for switch in switches:
        values = merge(values, parse_assignment(switch))
    settings = check_settings(LaCmferSettings, values, prefix="la_cmfer")
    assert settings.hardness.enabled == (row != "B")
    assert set(step(inputs(), **values)) == TERMS[row]


def test_all_six_rows_are_there():
    assert [row for row, _ in rows_of_table_2()] == list("ABCDEF")
