"""The README names every setting and every method, and rows of Tables II and III that are settings alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fercore_pca.references import CoOpSettings, MaPLeSettings
from fercore_pca.settings import PcaSettings

from fercore.config import check_settings, dotted_names, merge, parse_assignment

ROOT = Path(__file__).parents[3]
README = (ROOT / "plugins" / "pca" / "README.md").read_text(encoding="utf-8")
PUBLISHED = README.partition("## Published numbers")[2]
ROWS = dict(re.findall(r"^\| (\w+) \|(?: [\d.]+ \|){3} (`.*`|none) \|$", PUBLISHED, flags=re.M))
CHANGED = {
    "neither": {"cpt", "iga"},
    "CPT": {"iga"},
    "IGA": {"cpt"},
    "PCA": set(),
    "1": {"prompt"},
    "2": set(),
    "3": {"prompt"},
    "4": {"prompt"},
    "5": {"prompt"},
}


@pytest.mark.parametrize("name", sorted({*dotted_names(PcaSettings), *dotted_names(CoOpSettings)}))
def test_every_setting_is_in_the_table(name):
    assert f"`{name}`" in README
    assert set(dotted_names(MaPLeSettings)) < set(dotted_names(PcaSettings))


def test_every_method_is_named_here_and_in_the_main_readme():
    points = re.findall(
        r"^(\w+) = \"fercore_pca\.\w+:[A-Z]", (ROOT / "plugins/pca/pyproject.toml").read_text(), flags=re.M
    )
    main = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(points) == 7
    assert all(f"`{name}`" in README and f"`{name}`" in main for name in points)


def test_all_rows_are_there():
    assert ROWS.keys() == CHANGED.keys()


@pytest.mark.parametrize("row", CHANGED)
def test_rows_are_settings_alone(row):
    values = {}
    for switch in [] if ROWS[row] == "none" else ROWS[row].strip("`").split():
        values = merge(values, parse_assignment(switch))
    given = check_settings(PcaSettings, values, prefix="pca_ifer").model_dump()
    plain = PcaSettings().model_dump()
    assert {key for key, value in given.items() if value != plain[key]} == CHANGED[row]
