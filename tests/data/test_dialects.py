"""Tables as spreadsheets, pandas and other systems write them: what separates columns, quotes, encodings."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from reading import counts, error_of, read

from fercore.au.files import read_au_file
from fercore.datasets.prepare.boxes import read_boxes

TABLE = 'path,label,subject\nimg/0.png,anger,"Doe, J."\nimg/é.png,fear,P2\n'
DIALECTS = {
    "commas": TABLE,
    "semicolons": TABLE.replace('"Doe, J."', "Doe! J.").replace(",", ";").replace("!", ","),
    "tabs": TABLE.replace('"Doe, J."', "Doe! J.").replace(",", "\t").replace("!", ","),
    "all quoted": '"path";"label";"subject"\n"img/0.png";"anger";"Doe, J."\n"img/é.png";"fear";"P2"\n',
    "blanks and quotes": 'path, label, subject\nimg/0.png, anger, "Doe, J."\nimg/é.png, fear, P2\n',
}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32")


@pytest.fixture
def faces(tmp_path: Path, image: Callable) -> Path:
    for name in ("0", "é"):
        image(tmp_path / f"img/{name}.png", ord(name[0]))
    return tmp_path


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_manifest_of_any_dialect(faces: Path, dialect: str, encoding: str):
    (faces / "m.csv").write_bytes(DIALECTS[dialect].replace("\n", "\r\n").encode(encoding))
    table = read(f"manifest:{faces}/m.csv")
    assert counts(table) == {"anger": 1, "fear": 1}
    assert table.subjects == ("Doe, J.", "P2")
    assert table.keys[1] == f"{faces}/img/é.png"


@pytest.mark.parametrize("mark", [";", "\t"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_tables_of_other_tools_of_any_dialect(tmp_path: Path, mark: str, encoding: str):
    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_bytes(text.replace(",", mark).encode(encoding))
        return tmp_path / name

    units = read_au_file(write("au.csv", "path,AU01,AU02\na/é.png,0.25,1\n"), 0.5)
    assert (units.images, units.table.scores.tolist()) == (("a/é.png",), [[0.25, 1]])
    rectangle = "input,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight,FaceScore\n"
    ((face,),) = read_boxes(write("fex.csv", f"{rectangle}/d/é.png,1,2,3,4,0.5\n"), ["/d/é.png"])
    assert (face.box, face.score) == ((1, 2, 4, 6), 0.5)


@pytest.mark.parametrize("mark", [";", "\t"])
def test_fer2013_and_its_votes_of_any_dialect(tmp_path: Path, mark: str):
    pixels = " ".join(["7"] * 2304)
    (tmp_path / "fer2013.csv").write_text(f"emotion,pixels,Usage\n3,{pixels},Training\n".replace(",", mark))
    assert counts(read(f"fer2013:{tmp_path}")) == {"happiness": 1}
    votes = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
    votes += "Training,a.png,0.0,0.0,9.0,0,1,0,0,0,0,0\n"
    (tmp_path / "fer2013new.csv").write_bytes(votes.replace(",", mark).encode("utf-16"))
    assert counts(read(f"ferplus:{tmp_path}")) == {"surprise": 1}
    (tmp_path / "fer2013.csv").write_text("emotion,pixels,Usage\n", encoding="utf-16")
    assert error_of(f"fer2013:{tmp_path}").startswith("not UTF-8 text: it holds NUL characters (")


@pytest.mark.parametrize("form", ["manifest", "list"])
def test_an_encoding_that_nothing_names_is_no_guess(faces: Path, form: str):
    file = faces / "t"
    file.write_bytes("path,label\nimg/0.png,anger\nimg/é.png,fear\n".encode("cp1252"))
    assert error_of(f"{form}:{file}") == (
        f"not UTF-8 text: byte 0xe9, where Windows-1252 reads 'img/é.png,fear' ({file}, line 3); "
        "save it as UTF-8, as `iconv -f CP1252 -t UTF-8` does if that is right"
    )
    file.write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF")
    assert error_of(f"{form}:{file}") == f"not UTF-8 text: byte 0xff ({file}, line 1); save it as UTF-8"
    file.write_bytes("path,label\n".encode("utf-16-le"))
    assert "holds NUL characters" in error_of(f"{form}:{file}")
    assert "if it is UTF-16, save it with its byte order mark" in error_of(f"{form}:{file}")


def test_what_separates_the_cells_is_named(tmp_path: Path):
    (tmp_path / "m.csv").write_text("path;label\na.png;anger;x\n")
    assert "row with 3 cells under 2 columns" in error_of(f"manifest:{tmp_path}/m.csv")
    assert "; quote cells that hold semicolons" in error_of(f"manifest:{tmp_path}/m.csv")


LISTS = {
    "blanks": "a b.PNG 0\n1.png 2\n",
    "many blanks": "a b.PNG    0\n\n1.png   2  \n",
    "tabs": "a b.PNG\t0\n1.png\t2\n",
    "commas": "a b.PNG,0\n1.png,2\n",
    "commas at the end": "a b.PNG,0,\n1.png,2,\n",
    "semicolons": "a b.PNG; 0\n1.png ;2\n",
    "quotes": '"a b.PNG" 0\n"1.png" 2\n',
    "quotes and commas": '"a b.PNG","0"\n"1.png","2"\n',
    "Windows": ".\\a b.PNG 0\n.\\1.png 2\n",
    "a comment": "# image label\na b.PNG 0\n1.png 2\n",
    "a header": "image label\na b.PNG 0\n1.png 2\n",
    "a header with commas": '"path","emotion"\na b.PNG,0\n1.png,2\n',
    "a header of three": "image_id score emotion\na b.PNG 0.9 0\n1.png 1.0 2\n",
    "three of which one has names": "a b.PNG 7 Angry 0.5\n1.png 3 03_fear 0.9\n",
}


@pytest.mark.parametrize("dialect", LISTS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_list_of_any_dialect(tmp_path: Path, image: Callable, dialect: str, encoding: str):
    for number, name in enumerate(("a b.PNG", "1.png")):
        image(tmp_path / name, number)
    (tmp_path / "l").write_bytes(LISTS[dialect].replace("\n", "\r\n").encode(encoding))
    table = read(f"list:{tmp_path}/l?labels=fer2013")
    assert [key.rpartition("/")[2].removeprefix(".\\") for key in table.keys] == ["a b.PNG", "1.png"]
    assert counts(table) == {"anger": 1, "fear": 1}


def test_paths_without_labels_or_suffixes(tmp_path: Path, image: Callable):
    image(tmp_path / "a, b 1.png", 0)
    image(tmp_path / "x.png", 1).rename(tmp_path / "c;d")
    (tmp_path / "l").write_text('a, b 1.png\n"c;d"\nc;d fear\n')
    assert counts(read(f"list:{tmp_path}/l")) == {"fear": 1}
    assert len(read(f"list:{tmp_path}/l")) == 3


def test_a_third_column_is_no_label(tmp_path: Path, image: Callable):
    for number in range(3):
        image(tmp_path / f"{number}.png", number)
    file = tmp_path / "l"
    file.write_text("0.png 1 1\n1.png 2 10\n2.png 7 4\n")
    assert error_of(f"list:{file}?labels=rafdb") == (
        f"3 columns, and nothing says which of them is the label ({file}, line 1); "
        "add ?column= with its number: 2 (1 2 7) or 3 (1 4 10)"
    )
    assert counts(read(f"list:{file}?labels=rafdb&column=2")) == {"surprise": 1, "fear": 1, "neutral": 1}
    assert counts(read(f"list:{file}?labels=affectnet&column=3")) == {"happiness": 1, "fear": 1}
    file.write_text("0.png fear happy\n1.png fear fear\n")
    assert "add ?column= with its number: 2 (fear) or 3 (fear happy)" in error_of(f"list:{file}")


def test_columns_that_a_list_has_not(tmp_path: Path, image: Callable):
    image(tmp_path / "0.png", 0)
    (tmp_path / "l").write_text("image path label\n0.png fear\n")
    assert error_of(f"list:{tmp_path}/l").startswith("a first line of 3 columns above lines of 2 (")
    (tmp_path / "l").write_text("image label class\n0.png 1 2\n")
    assert "3 columns, and nothing says which of them is the label (" in error_of(f"list:{tmp_path}/l?labels=rafdb")
    assert counts(read(f"list:{tmp_path}/l?labels=rafdb&column=3")) == {"fear": 1}
    assert "no column 4 in lines of 3 (" in error_of(f"list:{tmp_path}/l?column=4")


@pytest.mark.parametrize("header", ["image label split", "user.id,image,emotion"])
def test_a_table_is_no_list(tmp_path: Path, image: Callable, header: str):
    image(tmp_path / "0.png", 0)
    (tmp_path / "l").write_text(f"{header}\n0.png fear train\n")
    text = error_of(f"list:{tmp_path}/l")
    assert text.startswith("a table of more than a path and what is behind it, with the columns ")
    assert text.endswith(f"({tmp_path}/l, line 1); read it as `manifest:`")


@pytest.mark.parametrize("form", ["rafdb", "lacmfer"])
def test_lists_of_datasets_with_a_third_column(tmp_path: Path, image: Callable, form: str):
    if form == "rafdb":
        spec, file = f"rafdb:{tmp_path}", tmp_path / "EmoLabel/list_patition_label.txt"
        image(tmp_path / "Image/aligned/train_1_aligned.jpg", 1)
    else:
        spec, file = f"lacmfer:{tmp_path}/data?domain=ck", tmp_path / "data/CK.txt"
        image(tmp_path / "datasets/train_1.jpg", 1)
    file.parent.mkdir()
    file.write_text(("" if form == "rafdb" else "../datasets/") + "train_1.jpg 3 1\n")
    assert f"3 columns, and nothing says which of them is the label ({file}, line 1)" in error_of(spec)
    found = read(spec + ("?" if form == "rafdb" else "&") + "column=2")
    assert counts(found) == {"disgust" if form == "rafdb" else "happiness": 1}
