from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from fercore.errors import UserInputError
from fercore.synthfer import AU_NAMES, STYLES, SynthFER, contact_sheet, export, write


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_folder_holds_what_the_dataset_says(tmp_path):
    data = SynthFER("wild", n=45, seed=1, size=24)
    write(data, tmp_path / "faces")
    assert sorted(p.name for p in (tmp_path / "faces").iterdir()) == [
        "au.csv", "au_intensity.csv", "images", "manifest.csv",
    ]  # fmt: skip
    manifest = rows(tmp_path / "faces" / "manifest.csv")
    assert list(manifest[0]) == ["path", "label", "domain", "split", "subject", "sequence"]
    assert [row["label"] for row in manifest] == [data.classes[k] for k in data.labels]
    assert [row["subject"] for row in manifest] == data.subjects
    assert {row["domain"] for row in manifest} == {"synthfer-wild"}
    for i, row in enumerate(manifest):
        with Image.open(tmp_path / "faces" / row["path"]) as image:
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), data.render([i])[0])
    assert len(list((tmp_path / "faces" / "images").rglob("*.png"))) == 45


def test_train_and_test_share_no_subject(tmp_path):
    write(SynthFER("studio", n=60, size=16), tmp_path / "faces")
    parts = {"train": set(), "test": set()}
    for row in rows(tmp_path / "faces" / "manifest.csv"):
        parts[row["split"]].add(row["subject"])
    assert parts["train"]
    assert len(parts["test"]) == 3
    assert not parts["train"] & parts["test"]


def test_au_tables_round_trip(tmp_path):
    data = SynthFER("studio", n=10, size=16)
    write(data, tmp_path / "faces")
    for name, expected in (("au.csv", data.au_scores), ("au_intensity.csv", data.au_intensity)):
        table = rows(tmp_path / "faces" / name)
        assert list(table[0]) == ["path", *AU_NAMES]
        values = np.asarray([[float(row[unit]) for unit in AU_NAMES] for row in table])
        np.testing.assert_allclose(values, expected, atol=1e-4)
        assert [row["path"] for row in table] == [row["path"] for row in rows(tmp_path / "faces" / "manifest.csv")]


def test_an_empty_folder_is_taken_and_a_full_one_refused(tmp_path):
    data, out = SynthFER("nir", n=3, size=16), tmp_path / "faces"
    out.mkdir()
    write(data, out)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserInputError, match="not empty"):
        write(data, out)
    with pytest.raises(UserInputError, match="not empty"):
        write(data, out / "manifest.csv")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(export, "_write_tables", fail)
    with pytest.raises(UserInputError, match="cannot write: disk full .*/faces"):
        write(SynthFER("nir", n=3, size=16), tmp_path / "faces")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("style", [STYLES[2], STYLES[3]])
def test_contact_sheet_is_a_small_picture(tmp_path, style):
    contact_sheet(style, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        side = 48 if style == "web" else 64
        assert sheet.size == (8 * side, 7 * side)
    assert (tmp_path / "sheet.png").stat().st_size < 150_000
