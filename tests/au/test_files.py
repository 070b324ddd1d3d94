"""Action-unit files: every format by its header, and every fault as one clear line."""

from __future__ import annotations

import numpy as np
import pytest

from fercore.au import canonical_name, from_scores, read_au_file
from fercore.au.files import Naming
from fercore.au.match import match_frames, match_rows, match_stems
from fercore.errors import UserInputError


@pytest.fixture
def read(tmp_path):
    def make(text, threshold=0.5):
        path = tmp_path / "au.csv"
        path.write_text(text, encoding="utf-8")
        return read_au_file(path, threshold)

    return make


@pytest.mark.parametrize(
    ("text", "name"),
    [("AU1", "AU01"), ("au_12", "AU12"), ("AU01", "AU01"), ("AU 4", "AU04"), ("AU0", None), ("AUX", None)],
)
def test_names_are_canonical(text, name):
    assert canonical_name(text) == name


def test_plain_and_py_feat(read):
    found = read("path,AU12,AU1,emotion\na.png,0.5,0.25,joy\nb.png,0,1,sad\n")
    assert found.images == ("a.png", "b.png")
    assert found.table.names == ("AU01", "AU12")
    assert found.table.scores.tolist() == [[0.25, 0.5], [1.0, 0.0]]
    assert found.table.codes.tolist() == [[0, 1], [1, 0]]
    fex = read("input,FaceScore,AU01,AU02\na.png,0.3,0.1,0.9\na.png,0.8,0.7,0.2\nb.png,0.9,0,0\n")
    assert fex.table.scores[0].tolist() == pytest.approx([0.7, 0.2])  # the surer of two faces


def test_openface_codes_are_taken_as_they_are(read):
    found = read("path, confidence, AU01_r, AU02_r, AU01_c, AU28_c\na.png, 0.9, 4.0, 3.5, 0, 1\n")
    assert found.table.names == ("AU01", "AU02", "AU28")
    assert found.table.scores[0].tolist() == pytest.approx([0.8, 0.7, 1.0])
    assert found.table.codes[0].tolist() == [0, 1, 1]  # AU01: its code says no; AU02 has none; AU28 has no intensity


def test_libreface(read):
    found = read("filename,au_1,au_2,au_1_intensity,au_6_intensity,facial_expression\na.png,1,0,0.5,5,Happiness\n")
    assert found.table.names == ("AU01", "AU02", "AU06")
    assert found.table.scores[0].tolist() == pytest.approx([0.1, 0.0, 1.0])
    assert found.table.codes[0].tolist() == [1, 0, 1]


def test_the_threshold_counts(read):
    assert read("path,AU01\na,0.3\nb,0.29\n", threshold=0.3).table.codes[:, 0].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,AU01\n", "without rows"),
        ("path,emotion\na,joy\n", "no action unit.*OpenFace 2"),
        ("face,AU01\n1,0.5\n", "no column says which image.*path"),
        ("input,frame,AU01\na.mp4,1.5,0.5\n", "frame 1.5 is no number of a frame.*line 2"),
        ("input,frame,AU01\na.mp4,x,0.5\n", "'x' is not a number.*line 2, frame"),
        ("path,AU01\na,1.5\n", "1.5 is outside 0..1.*line 2, AU01"),
        ("path,AU01_r\na,5.1\n", "5.1 is outside 0..5"),
        ("path,AU01\na,-0.1\n", "outside"),
        ("path,AU01\na,x\n", "'x' is not a number.*line 2"),
        ("path,AU01\na,inf\n", "not a finite number"),
        ("path,AU01\na,nan\n", "no row of the file has scores"),
        ("path,success,AU01_r\na,2,0\n", "code 2 is neither 0 nor 1.*line 2, success"),
        ("path,AU01_c\na,0.5\n", "neither 0 nor 1"),
        ("path,AU01\na,0.5\na,0.5\n", "two rows for image 'a'.*line 3"),
        ("path,AU01\na\n", "row with 1 cell under 2 columns.*line 2"),
        ("path,AU01\n\n\na,x\n", "'x' is not a number.*line 4"),
        ("path,AU01\na,0.5\n,0.5\n", "without an image's name.*line 3"),
        ("path,AU01\n./,0.5\n", "without an image's name"),
        ('path,AU01\na,0.5\n"b,0.5\n', "not valid CSV: unexpected end of data.*line 3"),
        (f"path,AU01\n{'a' * 140_000},0.5\n", "not valid CSV: field larger than field limit.*line 2"),
        ("path,AU01,AU12_prob\na,0.5,0.6\n", "'AU12_prob' is nearly an action unit.*AU12_r .0 to 5."),
        ("path,AU01,AU1\na,0.5,0.6\n", "two columns for AU01: 'AU01' and 'AU1'"),
        ("path,AU01_r,AU1_intensity\na,0.5,0.6\n", "two columns for AU01: 'AU01_r' and 'AU1_intensity'"),
        ("path,au_1,AU01_c\na,1,1\n", "two columns for AU01: 'au_1' and 'AU01_c'"),
        ("path,confidence,AU01\na,0.9,0.5\na,0.9,0.6\n", "two rows for image 'a' with the same confidence.*line 3"),
    ],
)
def test_faults(read, text, words):
    with pytest.raises(UserInputError, match=words):
        read(text)


def test_images_without_a_face_are_unknown(read):
    openface = read("path,success,confidence,AU01_r,AU01_c\na,0,0,0,0\nb,1,0.9,5,1\nb,0,0.95,0,0\n")
    assert openface.images == ("a", "b")
    assert openface.table.known.tolist() == [False, True]
    assert openface.table.scores[1].tolist() == [1.0]
    fex = read("input,FaceScore,AU01,AU02\na,,,\nb,NaN,nan,NaN\nc,0.9,0.5,0.1\n")
    assert fex.table.known.tolist() == [False, False, True]
    assert fex.table.codes.tolist() == [[0, 0], [0, 0], [1, 0]]


@pytest.mark.parametrize("cell", ["nan", "NaN", "-nan(ind)", "1.#IND", "-1.#QNAN", "", " ", "NA", "null", "#DIV/0!"])
def test_a_cell_without_a_number_is_a_unit_not_shown(read, cell):
    found = read(f"path,AU01,AU02\na,{cell},0.75\nb,0.5,0.25\n")
    assert found.table.scores.tolist() == [[0.0, 0.75], [0.5, 0.25]]
    assert found.table.codes.tolist() == [[0, 1], [1, 0]]
    assert found.table.known.tolist() == [True, True]
    assert found.blanks.tolist() == [1, 0]


def test_the_other_column_of_a_unit_says_what_a_cell_does_not(read):
    found = read("path,success,confidence,AU01_r,AU01_c\na,1,0.9,nan,1\nb,1,-nan(ind),5,nan\nc,nan,0.9,0,0\n")
    assert found.table.scores[:, 0].tolist() == [1.0, 1.0, 0.0]
    assert found.table.codes[:, 0].tolist() == [1, 1, 0]
    assert found.blanks.tolist() == [1, 1, 0]


def test_a_unit_without_any_number_is_none_of_the_file(read):
    assert read("path,AU01,AU02\na,nan,0.5\nb,,0.5\n").table.names == ("AU02",)


def test_a_folder_of_one_table_an_image(tmp_path):
    for name, rows in {"x/1.b": "0,0.9,2.5,1\n1,0.8,5,0\n", "x/2": "", "3": "0,0.9,nan,0\n"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.csv").write_text("face, confidence, AU01_r, AU01_c\n" + rows)
    found = read_au_file(tmp_path, 0.5)
    assert dict(zip(found.images, found.table.scores[:, 0].tolist(), strict=True)) == {
        "3": 0.0, "x/1.b": 0.5, "x/2": pytest.approx(np.nan, nan_ok=True),
    }  # fmt: skip
    keys = ["/d/x/1.b.jpg", "/d/x/2.jpg", "/d/y/3.png", "/d/y/4.png"]
    images = [found.images[row] if row >= 0 else None for row in match_stems(keys, found.images, "au")]
    assert images == ["x/1.b", "x/2", "3", None]
    with pytest.raises(UserInputError, match=r"row '3' fits two images, '/d/x/3' and '/d/y/3'"):
        match_stems(["/d/x/3.png", "/d/y/3.png"], found.images, "au")
    with pytest.raises(UserInputError, match=r"row '3' fits two images, '/d/3.jpg' and '/d/3.png'"):
        match_stems(["/d/3.jpg", "/d/3.png"], found.images, "au")


def test_faults_of_a_folder(tmp_path):
    with pytest.raises(UserInputError, match=r"no CSV file in the folder.*processed"):
        read_au_file(tmp_path, 0.5)
    (tmp_path / "a.csv").write_text("face,AU01\n0,0.5\n")
    (tmp_path / "b.csv").write_text("face,AU02\n0,0.5\n")
    with pytest.raises(UserInputError, match=r"columns other than those of a.csv.*b.csv"):
        read_au_file(tmp_path, 0.5)
    (tmp_path / "b.csv").write_text("name,age\n0,5\n")
    with pytest.raises(UserInputError, match=r"no action unit in the file.*b.csv"):
        read_au_file(tmp_path, 0.5)


def test_rows_that_are_frames_of_a_video(read, tmp_path):
    fex = read("FaceScore,AU01,input,frame\n0.9,0.25,/v/clip.mp4,0\n0.9,0.5,/v/clip.mp4,1\n0.9,1,/v/clip.mp4,2\n")
    assert (fex.naming, fex.images) == (Naming.FRAMES, ("clip#0", "clip#1", "clip#2"))
    keys = ["/d/anger/002.jpg", "/d/fear/clip_0000.jpg", "/d/clip/1.png", "/d/fear/other.png"]
    assert match_frames(keys, fex.images, "au").tolist() == [2, 0, 1, -1]
    # an image list has a number a row as well, which says nothing
    assert read("AU01,input,frame\n0.25,a.jpg,0\n0.5,b.jpg,1\n").images == ("a.jpg", "b.jpg")
    # OpenFace's table of a clip is named like the clip; a folder holds one a clip
    for clip in ("one", "two"):
        (tmp_path / "clips").mkdir(exist_ok=True)
        (tmp_path / "clips" / f"{clip}.csv").write_text("frame,confidence,AU01_r\n1,0.9,1\n2,0.9,2\n")
    found = read_au_file(tmp_path / "clips", 0.5)
    assert found.images == ("one#1", "one#2", "two#1", "two#2")
    keys = ["/d/two/0001.png", "/d/anger/one-2.png", "/d/anger/2.png"]
    assert match_frames(keys, found.images, "au").tolist() == [2, 1, -1]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["/d/1.png", "/d/2.png", "/d/3.png"], r"image '/d/3.png' is numbered beyond the frames 0 to 2 of 'c'"),
        (["/d/a/1.png", "/d/b/1.png"], r"row 'c#1' fits two images"),
    ],
)
def test_frames_that_may_be_others(keys, words):
    with pytest.raises(UserInputError, match=words):
        match_frames(keys, ["c#0", "c#1", "c#2"], "au.csv")


def test_a_surer_face_settles_a_tie(read):
    found = read("path,confidence,AU01\na,0.5,0.1\na,0.5,0.2\na,0.9,0.3\na,0.5,0.4\n")
    assert found.table.scores[0].tolist() == pytest.approx([0.3])


def test_a_name_may_hold_a_line_break(read):
    assert read('path,AU01\n"a\nb",0.5\nc,0.5\n').images == ("a\nb", "c")


def test_a_missing_file_names_the_formats(tmp_path):
    with pytest.raises(UserInputError, match="not found.*OpenFace 2.*py-feat.*LibreFace.*path,AU01"):
        read_au_file(tmp_path / "none.csv", 0.5)


@pytest.mark.parametrize(
    ("keys", "images", "rows"),
    [
        (["/d/anger/1.png", "/d/joy/1.png"], ["joy/1.png", "anger/1.png"], [1, 0]),
        (["/d/anger/1.png"], ["./anger/1.png"], [0]),
        (["anger/1.png"], ["/elsewhere/anger/1.png"], [0]),
        (["/here/a/1.png", "/here/b/1.png"], ["/there/x/b/1.png", "/there/x/a/1.png"], [1, 0]),
        (["/d/joy/1.png", "/d/anger/2.png"], ["anger/1.png", "anger/2.png"], [-1, 1]),
        (["1.png", "sub/1.png"], ["1.png"], [0, -1]),  # a full name is of that image alone
        (["1.png", "sub/1.png"], ["sub/1.png"], [-1, 0]),
        (["a/1.png", "a/1.png"], ["a/1.png"], [0, 0]),
        (["f.csv#3", "f.csv#4"], ["f.csv#4"], [-1, 0]),
        ([r"c:\d\a\1.png"], ["a/1.png"], [0]),
    ],
)
def test_rows_find_their_images(keys, images, rows):
    assert match_rows(keys, images, "au.csv").tolist() == rows


def test_a_name_that_fits_twice_is_refused():
    with pytest.raises(UserInputError, match="two rows fit"):
        match_rows(["1.png"], ["a/1.png", "b/1.png"], "au.csv")


@pytest.mark.parametrize(
    ("keys", "images"),
    [
        (["/d/anger/0.png", "/d/happiness/0.png"], ["0.png"]),
        (["anger/0.png", "happiness/0.png"], ["0.png", "1.png"]),
        (["anger/0.png", "0.png"], ["/x/anger/0.png"]),
    ],
)
def test_a_row_that_fits_two_images_is_refused(keys, images):
    with pytest.raises(UserInputError, match="row '.*0.png' fits two images, .*more detail"):
        match_rows(keys, images, "au.csv")


@pytest.mark.parametrize("other", ["./a/1.png", r"a\1.png", "a//1.png", " a/./1.png "])
def test_spellings_of_one_name_are_one_image(read, other):
    with pytest.raises(UserInputError, match="two rows for image 'a/1.png'.*line 3"):
        read(f"path,AU01\na/1.png,0.5\n{other},0.6\n")


def test_unknown_rows_are_nan():
    table = from_scores(["AU02", "AU01"], np.array([[0.9, 0.1]]), 0.5)
    taken = table.take(["AU01"], np.array([0, -1]))
    assert taken.scores[0, 0] == pytest.approx(0.1)
    assert np.isnan(taken.scores[1, 0])
    assert taken.known.tolist() == [True, False]
    assert table.scores[0, 0] == pytest.approx(0.1)  # the table itself is left alone
