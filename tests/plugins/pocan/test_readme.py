"""The README names every setting, every term, and rows of Table 3 that run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fercore_pocan.settings import PocanSettings

from fercore.config import check_settings, dotted_names, merge, parse_assignment

README = (Path(__file__).parents[3] / "plugins" / "pocan" / "README.md").read_text(encoding="utf-8")
ABLATIONS = README.partition("## Ablations by settings alone")[2]
ROWS = dict(re.findall(r"^\| (DT|w/o \w+|POCAN) \| (`.*`|none) \|$", ABLATIONS, flags=re.M))

LEFT_OUT = {
    "DT": {"stages"},
    "w/o L_in": {"use_in"},
    "w/o L_cross": {"use_cross"},
    "w/o L_ad": {"use_adv"},
    "w/o weights": {"class_weight"},
    "POCAN": set(),
}


@pytest.mark.parametrize("name", dotted_names(PocanSettings))
def test_every_setting_is_in_the_table(name):
    assert f"`{name}`" in README


def test_all_rows_of_table_3_are_there():
    assert ROWS.keys() == LEFT_OUT.keys()


@pytest.mark.parametrize("row", LEFT_OUT)
def test_rows_of_table_3_are_settings_alone(row):
    values = {}
    for switch in [] if ROWS[row] == "none" else ROWS[row].strip("`").split():
        values = merge(values, parse_assignment(switch))
    given = check_settings(PocanSettings, values, prefix="pocan")
    plain = PocanSettings().model_dump()
    assert {key for key, value in given.model_dump().items() if value != plain[key]} == LEFT_OUT[row]


def test_every_term_is_described(step):
    scene = step().scene()
    terms = [*scene.in_domain(), *scene.alignment(), *scene.classification(), *scene.discrimination()]
    assert all(f"`{term.name}`" in README for term in terms)
