"""Class names as people write them: numbered, misspelt, or in another language."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from reading import counts, error_of, read, skipped

from fercore.config import DataSettings
from fercore.data.domains.domain_set import read_domain
from fercore.data.domains.report import mismatch_lines
from fercore.data.domains.skipped import leftover_lines
from fercore.data.labels import CANONICAL, find_label
from fercore.data.spec import parse_spec
from fercore.datasets.check.words import fault_lines
from fercore.errors import UserInputError
from tests.loading import check_texts, load_domains

Tree = Callable[..., Path]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("01_anger", "anger"), ("0 - Neutral", "neutral"), ("3. Fear", "fear"), ("(5) happy", "happiness"),
        ("12-SAD", "sadness"), ("7:surprised", "surprise"),
    ],
)  # fmt: skip
def test_a_number_before_a_name_says_nothing(name: str, label: str):
    assert find_label(name) == CANONICAL.index(label)


@pytest.mark.parametrize("name", ["1", "01", "1_", "1_2", "1_2_anger", "anger_1", "1234_anger", "1anger"])
def test_what_is_no_numbered_name(name: str):
    assert find_label(name) is None


def test_numbered_folders_go_by_their_names_not_by_their_numbers(tree: Tree):
    folders = {"0 - Neutral": 1, "1 - Happy": 2, "2 - Sad": 3, "3 - Surprise": 4, "4 - Fear": 5}
    found = {"neutral": 1, "happiness": 2, "sadness": 3, "surprise": 4, "fear": 5}
    assert counts(read(f"folder:{tree('f', folders)}")) == found


@pytest.fixture
def misspelt(tree: Tree) -> Path:
    return tree("s", {"anger": 4, "sad": 4, "Natural": 4, "suprise": 4})


def test_the_nearest_name_is_told_wherever_a_name_is_unknown(misspelt: Path, tree: Tree):
    spec, other = f"folder:{misspelt}", f"folder:{tree('t', {'anger': 4, 'sad': 4}, 100)}"
    hints = "'Natural' (4; did you mean neutral?), 'suprise' (4; did you mean surprise?)"
    with pytest.raises(UserInputError) as caught:
        load_domains(DataSettings(sources=(spec,), target=other), seed=0)
    assert f"8 with labels nobody knows: {hints}" in str(caught.value)
    assert "?names=FILE.toml" in str(caught.value)
    report = load_domains(DataSettings(sources=(spec,), target=other, max_bad_share=0.9), seed=0).report
    assert f"s: labels nobody knows dropped: {hints}" in mismatch_lines(report)
    assert f"labels nobody knows: {hints}" in fault_lines(check_texts([spec])["domains"][0])
    assert leftover_lines(read_domain(parse_spec(spec))[1])[0].startswith(f"labels nobody knows: {hints}")


def test_a_name_near_none_has_no_hint(tree: Tree):
    assert "labels that are no expressions: 'Wut' (2) (" in error_of(f"folder:{tree('f', {'Wut': 2})}")


GERMAN = '"Freude" = "happiness"\n"Überraschung" = "surprised"\n"unklar" = ""\n1 = "anger"\n'


def test_names_of_ones_own(tree: Tree, tmp_path: Path):
    file = tmp_path / "map.toml"
    file.write_text(GERMAN)
    decomposed = unicodedata.normalize("NFD", "Überraschung")
    root = tree("f", {"freude": 1, decomposed: 2, "unklar": 3, "1": 4, "sad": 5})
    table = read(f"folder:{root}?names={file}")
    assert counts(table) == {"anger": 4, "happiness": 1, "sadness": 5, "surprise": 2}
    assert skipped(f"folder:{root}?names={file}") == {"unklar": 3}


@pytest.mark.parametrize("form", ["list", "manifest", "nvie"])
def test_every_format_whose_labels_people_write_takes_names(tree: Tree, tmp_path: Path, form: str):
    (tmp_path / "map.toml").write_text(GERMAN)
    tree(".", {"faces": 2})
    if form == "list":
        text = "faces/0.png Freude\nfaces/1.png 1\n"
    else:
        text = "path,label,domain\nfaces/0.png,Freude,visible\nfaces/1.png,1,visible\n"
    (tmp_path / "data").write_text(text)
    table = read(f"{form}:{tmp_path}/data?names={tmp_path}/map.toml")
    assert [CANONICAL[label] for label in table.labels] == ["happiness", "anger"]


def test_frames_pair_by_names_of_ones_own(tree: Tree, tmp_path: Path):
    (tmp_path / "map.toml").write_text(GERMAN)
    tree(".", {"faces": 2})
    rows = "faces/0.png,Freude,visible,q\nfaces/1.png,Freude,thermal,q\n"
    (tmp_path / "n.csv").write_text("path,label,domain,sequence\n" + rows)
    assert len(read(f"nvie:{tmp_path}/n.csv?paired=true&names={tmp_path}/map.toml")) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"Freude" = "hapiness"\n', "unknown expression 'hapiness'"),
        ('"Freude" = 3\n', "the meaning of a name is no text"),
        ('[Freude]\nx = "happiness"\n', "the meaning of a name is no text"),
        ("Freude\n", "not valid TOML"),
        ("", "no name in the file"),
        ('"Wut" = "anger"\n"WUT" = "anger"\n', "name 'WUT' stands there twice"),
        ("a = " + "[" * 5000, "values are nested too deep"),
    ],
)
def test_files_of_names_that_cannot_be_used(tree: Tree, tmp_path: Path, text: str, message: str):
    (tmp_path / "map.toml").write_text(text)
    root = tree("f", {"anger": 1})
    found = error_of(f"folder:{root}?names={tmp_path}/map.toml")
    assert found.startswith(message)
    assert f"{tmp_path}/map.toml" in found
