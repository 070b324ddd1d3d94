"""A study's file: what is wrong is told with its line and the nearest name."""

from __future__ import annotations

from pathlib import Path

import pytest

from fercore.datasets.published import published_names, published_tables
from fercore.errors import UserInputError
from fercore.experiments.study import Study, narrowed
from fercore.experiments.study_file import line_of, read_study, study_names

GOOD = """\
seeds = [0, 1]
methods = ["source_only", "adapted: la_cmfer train.steps=5"]

[settings.train]
steps = 10

[[pairs]]
name = "a"
source = ["synthfer:studio"]
target = "synthfer:web"

[[pairs]]
name = "b"
source = ["synthfer:posed"]
target = "synthfer:nir"

[scales.small]
seeds = [7]
"""


DATASETS = ("RAF-DB", "FER2013", "FERPlus", "AffectNet", "CK+", "JAFFE", "Oulu-CASIA", "SFEW", "ExpW", "NVIE", "CD-FER")


def write(tmp_path, text):
    path = tmp_path / "study.toml"
    path.write_text(text)
    return str(path)


def test_rows_are_tables_or_as_compare_has_them(tmp_path):
    study = read_study(write(tmp_path, GOOD))
    assert [row.name for row in study.methods] == ["source_only", "adapted"]
    assert study.methods[1].settings == {"train": {"steps": 5}}
    assert study.reference_label == "source_only"
    assert [str(pair.target) for pair in study.pairs] == ["synthfer:web", "synthfer:nir"]
    assert read_study(write(tmp_path, GOOD), scale="small").seeds == (7,)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds =", "seed =", r"unknown key 'seed' \(.*study.toml:1\); did you mean 'seeds'"),
        ('name = "b"', 'nam = "b"', r"unknown key 'pairs.1.nam' \(.*:13\); did you mean 'name'"),
        ("seeds = [0, 1]", "seeds = [0, 0]", "a seed is given twice"),
        ("seeds = [0, 1]", 'seeds = "x"', r"seeds: .*study.toml:1"),
        ('name = "b"', 'name = "a"', "two pairs are called 'a'.*name of its own"),
        ('"adapted: la_cmfer', '"source_only: la_cmfer', "two methods are called 'source_only'"),
        ('source = ["synthfer:posed"]', 'protocol = "x"', r"give source and target, or a protocol .*:12"),
        ('target = "synthfer:nir"', "", "give source and target, or a protocol"),
        ('"synthfer:nir"', '"synthfer"', r"study.toml:15"),
        ('name = "b"', 'name = "b/../c"', "cannot be a folder's name"),
        ("seeds = [0, 1]", 'reference = "la"', "no method is called 'la'"),
        ("seeds = [0, 1]", "seeds = [0, 1", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(old, new, message, tmp_path):
    assert old in GOOD
    with pytest.raises(UserInputError, match=message):
        read_study(write(tmp_path, GOOD.replace(old, new)))


def test_methods_cannot_start_from_each_other(tmp_path):
    rows = '[[methods]]\nmethod = "dan"\nfrom = "cmd"\n[[methods]]\nmethod = "cmd"\nfrom = "dan"\n'
    text = rows + GOOD.replace('methods = ["source_only", "adapted: la_cmfer train.steps=5"]', "").replace(
        "seeds = [0, 1]", ""
    )
    with pytest.raises(UserInputError, match="start from each other"):
        read_study(write(tmp_path, text))
    with pytest.raises(UserInputError, match="no method is called 'dam' .*; did you mean 'dan'"):
        read_study(write(tmp_path, text.replace('from = "dan"', 'from = "dam"')))


def test_files_that_are_none_and_names_that_are_unknown(tmp_path):
    with pytest.raises(UserInputError, match="unknown study 'papr/x'"):
        read_study("papr/x")
    with pytest.raises(UserInputError, match="study file"):
        read_study(str(tmp_path / "none.toml"))
    with pytest.raises(UserInputError, match="no scale 'smal'.*did you mean 'small'"):
        read_study(write(tmp_path, GOOD), scale="smal")


def test_some_pairs_and_methods_keep_the_reference_and_what_a_method_starts_from(tmp_path):
    rows = (
        '[[methods]]\nmethod = "source_only"\n[[methods]]\nmethod = "dan"\n[[methods]]\nmethod = "cmd"\nfrom = "dan"\n'
    )
    text = rows + GOOD[GOOD.index("[settings") :]
    study = read_study(write(tmp_path, text))
    some = narrowed(study, pairs=["b"], methods=["cmd"])
    assert [row.name for row in some.methods] == ["source_only", "dan", "cmd"]
    assert [pair.name for pair in some.pairs] == ["b"]
    assert [row.name for row in narrowed(study, methods=["dan"]).methods] == ["source_only", "dan"]
    with pytest.raises(UserInputError, match="no pair 'c'"):
        narrowed(study, pairs=["c"])


def test_lines_of_keys_in_tables_and_arrays_of_tables():
    text = "a = 1\n[b.c]\nd.e = 2\n[[f]]\nx = 1\n[[f]]\nx = 2\n[f.g]\ny = 3\n"
    assert line_of(text, ["a"]) == 1
    assert line_of(text, ["b", "c", "d", "e"]) == 3
    assert line_of(text, ["f", 1, "x"]) == 7
    assert line_of(text, ["f", 1, "g", "y"]) == 9
    assert line_of(text, ["f", 1, "z"]) == 6
    assert line_of(text, ["none"]) == 0


def test_the_example_of_the_documentation_is_a_study(tmp_path):
    text = (Path(__file__).parents[2] / "docs/studies.md").read_text().split("```toml\n")[1].split("```")[0]
    study = read_study(write(tmp_path, text), scale="small")
    assert [row.name for row in study.methods] == ["source_only", "longer", "dan", "source"]
    assert study.seeds == (0,)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if number else ()) for number, name in enumerate(study_names())]
)
def test_studies_that_come_with_fercore_are_of_known_plugins_settings_and_protocols(name, tmp_path):
    small = Study(name, tmp_path / "out", scale="small")
    assert len(small.file.seeds) * len(small.file.methods) * len(small.file.pairs) <= 30
    for folder in DATASETS:
        (tmp_path / folder).mkdir()
    (tmp_path / "NVIE/nvie.csv").touch()
    whole = Study(name, tmp_path / "out", data_root=tmp_path)
    published = published_tables(whole.file.paper)
    assert {pair.name for pair in whole.file.pairs} == set(published[0].pairs)
    assert any(table.metric == whole.file.primary_metric for table in published)


def test_published_tables_are_what_the_papers_state():
    table = published_tables("la_cmfer/table2")[0]
    assert table.rows["(F) with L_mvv"][table.pairs.index("CK+")] == pytest.approx(0.9048)
    assert published_tables("la_cmfer/table1")[0].rows["LGDSL, single best"][0] is None
    assert all(
        0 < value < 1
        for name in published_names()
        for t in published_tables(name)
        for cells in t.rows.values()
        for value in cells
        if value
    )
    with pytest.raises(UserInputError, match="no published table 'pca/table9'"):
        published_tables("pca/table9")
