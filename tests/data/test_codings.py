"""Numbers that stand for labels: nothing is read by a coding that nobody has named."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import layouts
from reading import counts, error_of, read, skipped

from fercore.config import DataSettings
from fercore.data.domains.domain_set import read_domain
from fercore.data.domains.load import load_domain
from fercore.data.formats.reading.codes import CODES, USUAL
from fercore.data.labels import CANONICAL
from fercore.data.spec import parse_spec
from fercore.errors import UserInputError

RAFDB = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")


def named(spec: str) -> list[str]:
    return [CANONICAL[label] if label >= 0 else "?" for label in read(spec).labels]


def numbered(root: Path, form: str, numbers: Sequence[object], image: Callable[..., Path]) -> str:
    """Write one image a number and the dataset of some format that lists them; return its spec."""
    for i in range(len(numbers)):
        image(root / f"{i}.png", i)
    rows = [(f"{i}.png", number) for i, number in enumerate(numbers)]
    if form == "list":
        (root / "l").write_text("".join(f"{path} {number}\n" for path, number in rows))
    elif form == "manifest":
        (root / "l").write_text("path,label\n" + "".join(f"{path},{number}\n" for path, number in rows))
    else:
        (root / "l").write_text("path,label,domain\n" + "".join(f"{path},{number},visible\n" for path, number in rows))
    return f"{form}:{root}/l"


@pytest.mark.parametrize("form", ["list", "manifest", "nvie"])
def test_numbers_without_a_coding_are_refused_with_the_codings_that_fit(tmp_path: Path, form: str, image: Callable):
    spec = numbered(tmp_path, form, [1, 2, 3, 4, 5, 6, 7, 7], image)
    text = error_of(spec)
    assert text.startswith("labels are numbers of unknown coding: 1 (1), 2 (1), 3 (1), 4 (1), 5 (1), 6 (1), 7 (2) (")
    proposed = [name for name in USUAL if f" {name} (from " in text]
    assert proposed == ["rafdb", "affectnet", "canonical", "canonical1"]
    assert "; add ?labels= with the one it is: rafdb (from 1: surprise fear disgust" in text
    assert named(f"{spec}?labels=rafdb") == [*RAFDB, "neutral"]
    assert named(f"{spec}?labels=canonical1") == [*CANONICAL[:7], "neutral"]


@pytest.mark.parametrize("form", ["list", "manifest", "nvie"])
def test_numbers_from_zero_are_no_less_a_guess(tmp_path: Path, form: str, image: Callable):
    spec = numbered(tmp_path, form, range(7), image)
    text = error_of(spec)
    assert [name for name in USUAL if f" {name} (from " in text] == ["rafdb0", "fer2013", "affectnet", "canonical"]
    for coding in ("rafdb0", "fer2013", "affectnet", "canonical", "pocan"):
        assert named(f"{spec}?labels={coding}") == [CODES[coding][k] for k in range(7)]


@pytest.mark.parametrize("form", ["list", "manifest"])
def test_numbers_that_no_coding_has(tmp_path: Path, form: str, image: Callable):
    text = error_of(numbered(tmp_path, form, [0, 3, 12], image))
    assert "unknown coding: 0 (1), 3 (1), 12 (1) (" in text
    assert "has them all: write names (anger, disgust" in text


@pytest.mark.parametrize("form", ["list", "manifest", "nvie"])
def test_numbers_as_tables_with_empty_cells_write_them(tmp_path: Path, form: str, image: Callable):
    spec = numbered(tmp_path, form, ["1.0", "6.", "nan", "-1", "-1.0", "7.00", "happy"], image)
    assert "1 (1), 6 (1), 7 (1)" in error_of(spec)
    assert named(f"{spec}?labels=rafdb") == ["surprise", "anger", "?", "?", "?", "neutral", "happiness"]
    _, scan = read_domain(parse_spec(numbered(tmp_path, form, ["1.5", "anger"], image)))
    assert scan.rows.unknown == {"1.5": 1}


def test_only_the_rows_of_the_domain_that_is_read_count(tmp_path: Path, image: Callable):
    image(tmp_path / "0.png", 0)
    (tmp_path / "m.csv").write_text("path,label,domain\n0.png,3,a\n0.png,fear,b\n")
    assert named(f"manifest:{tmp_path}/m.csv?domain=b") == ["fear"]
    assert "3 (1)" in error_of(f"manifest:{tmp_path}/m.csv?domain=a")


def rafdb(root: Path, numbers: Sequence[int]) -> str:
    paint = layouts.Painter(root)
    names = [f"train_{i:05d}" for i in range(len(numbers))]
    for name in names:
        paint(f"Image/aligned/{name}_aligned.jpg")
    lines = [f"{name}.jpg {number}" for name, number in zip(names, numbers, strict=True)]
    paint.text("EmoLabel/list_patition_label.txt", "\n".join(lines))
    return f"rafdb:{root}"


def test_rafdb_that_counts_from_zero(tmp_path: Path):
    spec = rafdb(tmp_path, [0, 1, 2, 3, 4, 5, 6, 0])
    text = error_of(spec)
    assert text.startswith("labels are not the numbers of rafdb: 0 (2), 1 (1), 2 (1), 3 (1), 4 (1), 5 (1), 6 (1) (")
    assert "rafdb0 (from 0: surprise fear disgust happiness sadness anger neutral)" in text
    assert named(f"{spec}?labels=rafdb0") == [*RAFDB, "surprise"]


def test_one_number_that_no_coding_explains_is_a_fault_of_that_sample(tmp_path: Path):
    _, scan = read_domain(parse_spec(rafdb(tmp_path, [1, 7, 9])))
    assert scan.rows.unknown == {"9": 1}


def test_affectnet_that_counts_from_one_is_not_short_of_a_class(tmp_path: Path):
    paint = layouts.Painter(tmp_path)
    for code in range(1, 9):
        paint(f"train/{code}/a.png")
    assert "labels are not the numbers of affectnet: 1 (1), 2 (1)" in error_of(f"affectnet:{tmp_path}")
    assert skipped(f"affectnet:{tmp_path}?labels=affectnet") == {"8": 1}
    assert "contempt" in named(f"affectnet:{tmp_path}?labels=canonical1")


def test_affectnet_with_faces_without_expression_is_its_own(tmp_path: Path):
    paint = layouts.Painter(tmp_path)
    for code in range(11):
        paint(f"train/{code}/a.png")
    assert skipped(f"affectnet:{tmp_path}") == {"8": 1, "9": 1, "10": 1}


@pytest.mark.parametrize("form", ["expw", "lacmfer", "fer2013", "cdfer"])
def test_other_formats_of_fixed_coding(tmp_path: Path, form: str):
    paint = layouts.Painter(tmp_path)
    spec = f"{form}:{tmp_path}?"
    if form == "expw":
        lines = [f"{k}.png 0 2 4 20 22 60 {k}" for k in range(1, 8)]
        paint.text("label.lst", "\n".join(lines))
        for k in range(1, 8):
            paint(f"image/{k}.png")
    elif form == "lacmfer":
        spec = f"{form}:{tmp_path}/data?domain=ck&"
        paint.text("data/CK.txt", "\n".join(f"../datasets/{paint(f'datasets/{k}.png')[9:]} {k}" for k in range(1, 8)))
    elif form == "fer2013":
        pixels = " ".join(["7"] * 2304)
        paint.text("fer2013.csv", "emotion,pixels,Usage\n" + "".join(f"{k}.0,{pixels},Training\n" for k in range(1, 8)))
    else:
        spec = f"{form}:{tmp_path}?dataset=fer2013&"
        for part in ("train", "val"):
            lines = []
            for k in range(1, 8):
                paint(f"FER2013/images/{part}{k}.png")
                paint.text(f"FER2013/annos/landmark_5/{part}{k}.txt", "1 2")
                lines.append(f"{part}{k}.png {k}")
            paint.text(f"FER2013/list/{part}_list.txt", "\n".join(lines))
    assert f"labels are not the numbers of {'fer2013' if form == 'cdfer' else form}: 1 (" in error_of(spec)
    assert set(counts(read(f"{spec}labels=canonical1"))) == set(CANONICAL[:7])


def test_a_stated_coding_that_lacks_numbers_is_answered_with_those_that_have_them(tmp_path: Path, image: Callable):
    spec = numbered(tmp_path, "list", range(7), image) + "?labels=rafdb"
    with pytest.raises(UserInputError) as caught:
        load_domain(parse_spec(spec), DataSettings(size=16), 0)
    text = str(caught.value)
    assert "1 with labels nobody knows: '0' (1)" in text
    assert "all numbers fit ?labels= rafdb0 (from 0: surprise" in text
