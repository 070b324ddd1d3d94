"""Columns that are nearly known: no table loses its labels, persons or parts without a word."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from reading import counts, error_of, read

from fercore.au.files import read_au_file
from fercore.cli import app
from fercore.config import DataSettings
from fercore.data.domains.report import mismatch_lines
from fercore.data.formats.reading.columns import MANIFEST, meaning
from fercore.data.spec import parse_spec
from fercore.datasets.convert import convert
from fercore.datasets.prepare.boxes import read_boxes
from fercore.errors import UserInputError
from tests.loading import load_domains

ROW = {"path": "0.png", "label": "fear", "domain": "web", "split": "test", "subject": "P1", "sequence": "q"}


@pytest.fixture
def table(tmp_path: Path, image: Callable) -> Callable[..., str]:
    image(tmp_path / "0.png", 1)

    def write(row: dict[str, str], form: str = "manifest") -> str:
        (tmp_path / "m.csv").write_text(f"{','.join(row)}\n{','.join(row.values())}\n")
        return f"{form}:{tmp_path}/m.csv"

    return write


def renamed(column: str, name: str, value: str | None = None) -> dict[str, str]:
    return {name if key == column else key: value or cell if key == column else cell for key, cell in ROW.items()}


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("label", "emotion"), ("label", "Labels"), ("label", "lable"), ("label", "Expression"), ("label", "classId"),
        ("label", "image_label"), ("subject", "subject_id"), ("subject", "Person"), ("subject", "subjct"),
        ("split", "Usage"), ("split", "splits"), ("split", "set"), ("split", "is_test"),
        ("domain", "dataset"), ("domain", "Domian"), ("sequence", "video_id"),
        ("sequence", "seq"), ("path", "image"), ("path", "filename"), ("path", "imagePath"), ("path", "files"),
    ],
)  # fmt: skip
def test_a_column_of_nearly_a_known_name(table: Callable, tmp_path: Path, column: str, name: str):
    assert error_of(table(renamed(column, name))) == (
        f"no column {column!r}, and {name!r} looks like it ({tmp_path}/m.csv, line 1); "
        "give it that name, or remove what is meant otherwise"
    )
    # Beside the known one it is a further column.
    whole = read(table({**ROW, name: "x"}))
    assert (counts(whole), whole.subjects, whole.split, whole.sequences) == ({"fear": 1}, ("P1",), ("test",), ("q",))


@pytest.mark.parametrize(
    ("column", "value"), [("label", "Happy"), ("label", "03_fear"), ("split", "PublicTest"), ("path", "a/b.JPEG")]
)
def test_a_column_known_by_what_it_holds(table: Callable, column: str, value: str):
    assert error_of(table(renamed(column, "x", value))).startswith(f"no column {column!r}, and 'x' looks like it (")


def test_every_such_column_is_named_at_once(table: Callable):
    row = renamed("label", "emotion")
    row["person"] = row.pop("subject")
    text = error_of(table(row))
    assert text.startswith("no column 'label', and 'emotion' looks like it; no column 'subject', and 'person' looks")


def test_expressions_as_columns(table: Callable, tmp_path: Path):
    text = error_of(table({"path": "0.png", "anger": "0", "Fear": "1"}))
    assert text == (
        f"columns named like expressions, 'anger', 'Fear', and no column 'label' ({tmp_path}/m.csv, line 1); "
        "write the expression of each row in a column 'label'"
    )


def test_a_table_without_header_and_one_with_a_column_twice(table: Callable):
    assert "the first line names no column, but the image '0.png' (" in error_of(table({"0.png": "1.png", "fear": "x"}))
    spec = table(ROW)
    file = Path(spec.partition(":")[2])
    file.write_text("path,label,Label\n0.png,fear,anger\n")
    assert error_of(spec).startswith("two columns 'label' (")


@pytest.mark.parametrize(
    "name", ["user.id", "age", "score", "confidence", "width", "image_height", "note", "", "table"]
)
def test_other_columns_are_named_and_not_read(table: Callable, name: str):
    assert meaning(name, MANIFEST) in ("", "path")
    assert counts(read(table({**ROW, name: "3"}))) == {"fear": 1}


def test_nvie_knows_a_column_more(table: Callable, tmp_path: Path):
    row = {**ROW, "domain": "visible", "times": "3"}
    assert "no column 'time', and 'times' looks like it (" in error_of(table(row, "nvie"))
    assert "no column 'domain', and 'spectrum' looks" in error_of(table(renamed("domain", "spectrum"), "nvie"))


def test_columns_that_are_not_read_are_told_once_by_every_command(
    table: Callable, tmp_path: Path, tree: Callable, capsys: pytest.CaptureFixture[str]
):
    spec, line = table({**ROW, "age": "3", "note": "x", "split": "train"}), "columns not read: 'age', 'note'"
    (tree("f", {".": 1}) / "0.png").rename(tmp_path / "1.png")
    with (tmp_path / "m.csv").open("a") as file:
        file.write("1.png,anger,web,train,P2,q,3,x\n")
    app(["data", "check", spec], standalone_mode=False)
    assert capsys.readouterr().out.count(line) == 1
    assert convert(parse_spec(spec), tmp_path / "out", copy=True).notes == (line,)
    tree("t", {"fear": 2, "anger": 2})
    found = load_domains(DataSettings(sources=(spec,), target=f"folder:{tmp_path}/t", size=16), seed=0)
    assert mismatch_lines(found.report).count(f"m: {line}") == 1


def test_tables_of_other_tools(tmp_path: Path):
    (tmp_path / "f.csv").write_text(
        "input,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight,face_score\n0.png,1,2,3,4,0.1"
    )
    with pytest.raises(UserInputError, match="no column 'facescore', and 'face_score' looks like it"):
        read_boxes(tmp_path / "f.csv", ["0.png"])
    (tmp_path / "a.csv").write_text("path,sucess,AU01\n0.png,0,1\n")
    with pytest.raises(UserInputError, match="no column 'success', and 'sucess' looks like it"):
        read_au_file(tmp_path / "a.csv", 0.5)
