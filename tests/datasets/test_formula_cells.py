"""File names that a spreadsheet would run as formulas: every CSV of ours holds them as text, and reads them back."""

from __future__ import annotations

import csv
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fercore.au.files import read_au_file
from fercore.au.table import AUTable
from fercore.data.domains.domain_set import read_domain
from fercore.data.spec import parse_spec
from fercore.datasets.action_units import detect_to_csv
from fercore.datasets.convert import convert
from fercore.datasets.prepare import PrepareSettings, prepare
from fercore.documents import plain_cell, quoted_cell
from fercore.engine.results import write_predictions

RUN = "=+-@\t\r\n＝＋－＠"
NAMES = ["=HYPERLINK(1)+0.png", "+b.png", "-c.png", "@d.png", "'=e.png", "''=f.png", "'g.png", "h.png", "-1"]


def cells_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return [cell for row in csv.reader(file) for cell in row]


def is_text(cell):
    return not cell or cell[0] not in RUN or cell.lstrip("+-").replace(".", "", 1).isdigit()


@pytest.mark.parametrize("name", [*NAMES, "＝x", "\t=x", "\r=x", "=", "'", "", "+", "-", "a=b", "1e5", "-1.5e-3", "+2"])
def test_a_cell_comes_back_as_it_was(name):
    assert plain_cell(quoted_cell(name)) == name
    assert is_text(quoted_cell(name)) or name in ("-1.5e-3",)


@pytest.fixture
def faces(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    for number, name in enumerate(NAMES[:-1]):
        Image.fromarray(np.full((48, 48), 20 * number, np.uint8)).save(folder / name)
    (folder / "list.txt").write_text("".join(f"{name} anger\n" for name in NAMES[:-1]))
    return folder


def test_a_converted_manifest_has_no_formula_and_is_read_back(tmp_path, faces):
    done = convert(parse_spec(f"list:{faces}/list.txt"), tmp_path / "out", copy=False)
    cells = cells_of(tmp_path / "out/manifest.csv")
    assert all(map(is_text, cells))
    assert "'=HYPERLINK(1)+0.png" in cells
    table, _ = read_domain(parse_spec(done.spec))
    assert sorted(key.rpartition("/")[2] for key in table.keys) == sorted(NAMES[:-1])


def test_prepared_faces_have_no_formula(tmp_path, faces, monkeypatch):
    monkeypatch.chdir(faces)
    settings = PrepareSettings(size=32, boxes=str(tmp_path / "boxes.csv"))
    (tmp_path / "boxes.csv").write_text(
        "input,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight,FaceScore\n"
        + "".join(f"{faces}/{name},4,4,40,40,0.9\n" for name in NAMES[:4])
    )
    report = prepare(parse_spec("list:list.txt"), tmp_path / "out", settings)
    assert (report["prepared"], report["refused"]) == (4, 4)
    for name in ("manifest.csv", "refused.csv"):
        assert all(map(is_text, cells_of(tmp_path / "out" / name)))


def test_predictions_have_no_formula(tmp_path, faces):
    test, _ = read_domain(parse_spec(f"list:{faces}/list.txt"))
    test = dataclasses.replace(test, keys=tuple(key.rpartition("/")[2] for key in test.keys))
    parts = ("test",) * len(test)
    context = SimpleNamespace(domains=SimpleNamespace(classes=("anger", "fear"), target=test, target_parts=parts))
    write_predictions(context, SimpleNamespace(path=tmp_path), np.full((len(test), 2), 0.5))
    cells = cells_of(tmp_path / "predictions.csv")
    assert all(map(is_text, cells))
    assert {plain_cell(cell) for cell in cells} >= set(NAMES[:-1])


def test_action_units_of_such_names_are_read_back(tmp_path, faces, monkeypatch):
    monkeypatch.chdir(faces)
    scores = np.full((len(NAMES) - 1, 1), 0.5, dtype=np.float32)
    found = AUTable(("AU01",), scores, (scores >= 0.5).astype(np.uint8))
    monkeypatch.setattr("fercore.datasets.action_units.find_detector", lambda name: None)
    monkeypatch.setattr("fercore.datasets.action_units.detect", lambda *_: found)
    detect_to_csv(parse_spec("list:list.txt"), "any", tmp_path / "au.csv")
    assert all(map(is_text, cells_of(tmp_path / "au.csv")))
    read = read_au_file(tmp_path / "au.csv", 0.5)
    assert {name.rpartition("/")[2] for name in read.images} == set(NAMES[:-1])
