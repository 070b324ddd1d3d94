"""The README names every setting, and its ablation rows run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fercore_adafer.settings import SCHEMES, AdaFerSettings

from fercore.config import check_settings, dotted_names, merge, parse_assignment

README = (Path(__file__).parents[3] / "plugins" / "adafer" / "README.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (Table \d, [^|]*?) \| `([^`|]*)` \|$", README, flags=re.M)


@pytest.mark.parametrize("name", dotted_names(AdaFerSettings))
def test_every_setting_is_in_the_table(name):
    assert f"`{name}`" in README


def test_every_scheme_and_term_is_named():
    assert all(f"`{scheme}`" in README for scheme in SCHEMES)
    assert all(f"`adafer/{term}`" in README for term in ("supervised", *SCHEMES, "triplet", "margin"))


def test_the_rows_of_three_tables_are_there():
    assert [row for row, _ in ROWS] == [
        *(f"Table 1, #{k}" for k in (2, 3, 4, 5)),
        *(f"Table 2, {side}" for side in ("source", "target")),
        *(f"Table 3, {which}" for which in ("neither", "AGA", "AGT")),
    ]


@pytest.mark.parametrize(("row", "switches"), ROWS)
def test_rows_are_settings_alone(row, switches):
    values = {}
    for switch in switches.split():
        values = merge(values, parse_assignment(switch))
    chosen = check_settings(AdaFerSettings, values, prefix="adafer")
    if row.startswith("Table 1"):
        assert chosen.baseline != "none"
    elif row.startswith("Table 2"):
        assert chosen.agt.anchors == row.split()[-1]
    else:
        assert (chosen.aga.on, chosen.agt.on) == (row.endswith("AGA"), row.endswith("AGT"))
