"""Datasets as papers list them, LA-CMFER and the CD-FER benchmark, and what every format says of a missing path."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import layouts
from reading import error_of, read, rows, same_pixels, skipped

from fercore.data.domains.domain_set import read_domain
from fercore.data.labels import CANONICAL
from fercore.data.spec import parse_spec


def test_lacmfer_lists(tmp_path: Path):
    paint = layouts.lacmfer(tmp_path)
    table = read(f"lacmfer:{tmp_path}/data?domain=ck")
    names = [CANONICAL[label] for label in table.labels]
    assert names == ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]
    assert table.subjects[:2] == ("S000", "S001")
    same_pixels(table, paint)
    oulu = f"lacmfer:{tmp_path}/data?domain=oulu"
    assert (len(read(oulu)), skipped(oulu)) == (2, {"line listed before": 1})
    assert len(read(f"{oulu}&duplicates=keep")) == 3
    raf = f"lacmfer:{tmp_path}/data?domain=raf"
    assert Counter(read(raf).split) == {"train": 4, "test": 2}
    assert skipped(raf) == {"training line that is a test line": 2}
    assert Counter(read(f"{raf}&overlap=keep").split) == {"train": 6, "test": 2}
    (tmp_path / "datasets").rename(tmp_path / "sets")
    assert "listed files are missing" in error_of(raf)
    (tmp_path / "sets").rename(tmp_path / "datasets")
    (tmp_path / "data").rename(tmp_path / "lists")
    assert len(read(f"lacmfer:{tmp_path}/lists?domain=ck&root={tmp_path}/datasets")) == 7
    assert "option domain is missing" in error_of(f"lacmfer:{tmp_path}/lists")
    assert "no list Aff.txt" in error_of(f"lacmfer:{tmp_path}/lists?domain=aff")
    file = paint.text("lists/CK.txt", "only.png\n")
    assert f"line 'only.png' without a label ({file}, line 1)" in error_of(f"lacmfer:{tmp_path}/lists?domain=ck")
    paint.text("lists/CK.txt", "../a/../../../etc/x.png 1\n")
    assert "leads out of the dataset's folder" in error_of(f"lacmfer:{tmp_path}/lists?domain=ck")


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("raf", {("happiness", "train", ""): 1, ("happiness", "test", ""): 1}),
        ("afe", {("anger", "train", ""): 1, ("neutral", "val", ""): 1}),
        ("ck", {("surprise", "train", "S010"): 1, ("surprise", "val", "S010"): 1}),
        ("jaffe", {("anger", "", "KA"): 1}),
        ("sfew", {("anger", "train", ""): 1, ("anger", "val", ""): 1}),
        ("fer2013", {("anger", "train", ""): 1, ("anger", "val", ""): 1}),
        ("expw", {("neutral", "train", ""): 1, ("neutral", "val", ""): 1}),
    ],
)
def test_cdfer_datasets(tmp_path: Path, dataset: str, expected: dict):
    layouts.cdfer(tmp_path)
    assert rows(read(f"cdfer:{tmp_path}?dataset={dataset}")) == expected


def test_cdfer_crops_and_faults(tmp_path: Path):
    paint = layouts.cdfer(tmp_path)
    spec = f"cdfer:{tmp_path}?dataset=raf"
    assert read(spec).read(0).shape == (18, 18, 3)
    assert read(f"{spec}&pad=0").read(0).shape == (16, 16, 3)
    assert skipped(spec) == {"no landmark file": 1}
    assert skipped(f"cdfer:{tmp_path}?dataset=afe") == {}
    assert read_domain(parse_spec(f"cdfer:{tmp_path}?dataset=afe"))[1].rows.unknown == {"8": 2}
    bad = paint.text("RAF/basic/Annotation/boundingbox/train_00001.txt", "4 4 20\n")
    assert error_of(spec) == f"box '4 4 20' is not four numbers ({bad})"
    file = paint.text("FER2013/list/train_list.txt", "x.jpg\n")
    text = error_of(f"cdfer:{tmp_path}?dataset=fer2013")
    assert text.startswith(f"line with 1 words instead of 2 or more ({file}, line 1)")
    file = paint.text("JAFFE/list/list_putao.txt", "KA.AN1.39.tiff 5 0\n")
    text = error_of(f"cdfer:{tmp_path}?dataset=jaffe")
    assert text.startswith(f"line with 3 words instead of 2 ({file}, line 1)")
    assert "option dataset is missing" in error_of(f"cdfer:{tmp_path}")
    (tmp_path / "JAFFE").rename(tmp_path / "else")
    assert "no folder JAFFE" in error_of(f"cdfer:{tmp_path}?dataset=jaffe")
