from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from fercore.data.domains.domain_set import read_domain
from fercore.data.domains.skipped import leftover_lines
from fercore.data.formats.fer2013 import parse_pixels
from fercore.data.formats.ferplus import vote
from fercore.data.labels import CANONICAL
from fercore.data.spec import parse_spec
from fercore.data.table import Table
from fercore.errors import UserInputError

Image = Callable[..., Path]
HEADER = "emotion,pixels,Usage\n"
VOTE_HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"


def read(spec: str) -> Table:
    return read_domain(parse_spec(spec))[0]


def names(table: Table) -> list[str]:
    return [CANONICAL[label] if label >= 0 else "?" for label in table.labels]


def error_of(spec: str) -> str:
    with pytest.raises(UserInputError) as caught:
        read(spec)
    text = str(caught.value)
    assert "\n" not in text
    return text


def fer_row(emotion: object, value: int, usage: str) -> str:
    return f"{emotion},{' '.join([str(value)] * 2304)},{usage}\n"


def test_folder_by_alias_in_any_case(tree: Callable[..., Path]):
    root = tree("f", {"Angry": 2, "HAPPY": 1, "netural": 1})
    (root / "notes.txt").write_text("x")
    (root / "Angry" / ".hidden.png").write_text("x")
    (root / "Angry" / "README.md").write_text("x")
    table = read(f"folder:{root}")
    assert names(table) == ["anger", "anger", "happiness", "neutral"]
    assert table.read(0).shape == (16, 16, 3)
    assert set(table.split) == {""}


def test_folder_with_parts_and_an_unlabelled_one(tree: Callable[..., Path]):
    root = tree("f", {"adapt": 3, "Test/anger": 1, "Test/fear": 2})
    table = read(f"folder:{root}")
    assert list(table.split) == ["train"] * 3 + ["test"] * 3 or sorted(table.split) == ["test"] * 3 + ["train"] * 3
    assert sorted(names(table)) == ["?", "?", "?", "anger", "fear", "fear"]


def test_a_folder_of_loose_images_is_unlabelled(tree: Callable[..., Path], image: Image):
    root = tree("f", {".": 3})
    assert names(read(f"folder:{root}")) == ["?"] * 3
    image(root / "anger" / "0.png", 9)
    table, scan = read_domain(parse_spec(f"folder:{root}"))
    assert names(table) == ["anger"]
    assert scan.rows.skipped == {"loose images": 3}
    parts = tree("g", {".": 1, "adapt": 2, "test": 4, "test/sad": 1})
    table, scan = read_domain(parse_spec(f"folder:{parts}"))
    assert (names(table), table.split) == (["?", "?", "sadness"], ("train", "train", "test"))
    assert scan.rows.skipped == {"loose images": 5}


def test_folder_with_numbered_classes(tree: Callable[..., Path]):
    root = tree("f", {"train/1": 1, "train/7": 1, "test/4": 1})
    assert sorted(names(read(f"folder:{root}?labels=rafdb"))) == ["happiness", "neutral", "surprise"]
    assert "labels are numbers of unknown coding: 1 (1), 4 (1), 7 (1)" in error_of(f"folder:{root}")


def test_folder_faults(tree: Callable[..., Path], tmp_path: Path):
    root = tree("f", {"anger": 2, "fear": 0})
    assert error_of(f"folder:{root}") == f"empty class folder ({root / 'fear'}); put images there, or remove it"
    assert error_of(f"folder:{tmp_path}/none").startswith(f"path not found: {tmp_path}/none (spec ")
    assert error_of(f"folder:{root}/anger/0.png").startswith("not a folder: ")
    wrong = tree("g", {"angr": 2})
    assert "no usable sample: labels that are no expressions: 'angr' (2; did you mean anger?)" in error_of(
        f"folder:{wrong}"
    )
    assert error_of(f"folder:{wrong}").endswith("or put unlabelled images loose")
    (tmp_path / "h" / "train").mkdir(parents=True)
    assert error_of(f"folder:{tmp_path}/h").startswith(f"empty folder ({tmp_path}/h/train)")


def test_list_with_names_numbers_and_windows_separators(tmp_path: Path, image: Image):
    for i in range(3):
        image(tmp_path / "im ages" / f"{i}.png", i)
    (tmp_path / "l.txt").write_text("# faces\nim ages\\0.png 0\nim ages/1.png happy\n\nim ages/2.png 5\n")
    assert names(read(f"list:{tmp_path}/l.txt?labels=lacmfer")) == ["surprise", "happiness", "anger"]
    assert names(read(f"list:{tmp_path}/l.txt?labels=canonical")) == ["anger", "happiness", "surprise"]
    assert "labels are numbers of unknown coding: 0 (1), 5 (1)" in error_of(f"list:{tmp_path}/l.txt")


@pytest.mark.parametrize("path", ["/etc/passwd.png", "../x.png", "a/../../x.png", "..\\x.png", r"C:\x.png"])
@pytest.mark.parametrize("form", ["list", "manifest"])
def test_a_list_may_not_lead_out_of_its_folder(tmp_path: Path, path: str, form: str):
    file = tmp_path / "in" / "l"
    file.parent.mkdir()
    file.write_text(f"{path} anger\n" if form == "list" else f"path,label\n{path},anger\n")
    line = 1 if form == "list" else 2
    text = error_of(f"{form}:{file}")
    assert "leads out of the dataset's folder" in text
    assert f"{file}, line {line}" in text
    assert "add ?root=FOLDER" in text


def test_root_says_that_a_list_is_trusted(tmp_path: Path, image: Image):
    here = image(tmp_path / "images" / "0.png", 0)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "l.txt").write_text(f"0.png anger\n{here} fear\n../images/0.png sad\n")
    table = read(f"list:{tmp_path}/lists/l.txt?root={tmp_path}/images")
    assert names(table) == ["anger", "fear", "sadness"]


@pytest.mark.parametrize("form", ["list", "manifest", "nvie"])
def test_a_list_of_another_machine_finds_its_files_below_root(tmp_path: Path, image: Image, form: str):
    for i, name in enumerate(("anger", "sad")):
        image(tmp_path / "images" / "aligned" / name / "0.png", i)
    paths = ["/home/u/RAF/aligned/anger/0.png", "D:\\RAF\\aligned\\sad\\0.png", "/home/u/RAF/aligned/fear/0.png"]
    lines = [f"{path} {name}" for path, name in zip(paths, ("anger", "sad", "fear"), strict=True)]
    if form != "list":
        lines = ["path,label,domain", *(line.replace(" ", ",") + ",visible" for line in lines)]
    (tmp_path / "l").write_text("\n".join(lines))
    assert "add ?root=FOLDER with the images' folder" in error_of(f"{form}:{tmp_path}/l")
    for root in ("images", "images/aligned"):
        table, scan = read_domain(parse_spec(f"{form}:{tmp_path}/l?root={tmp_path}/{root}"))
        assert table.keys == tuple(f"{tmp_path}/images/aligned/{name}/0.png" for name in ("anger", "sad"))
        assert scan.rows.missing == [paths[2]]
        assert leftover_lines(scan)[-1] == f"listed paths found by their end: 2, first {paths[0]!r} as {table.keys[0]}"


def test_nobody_is_called_nan(tmp_path: Path, image: Image):
    for i in range(3):
        image(tmp_path / f"{i}.png", i)
    rows = "path,label,split,subject,sequence\n0.png,fear,NaN,nan,null\n1.png,nan,train,P1,q\n2.png,sad,,,\n"
    (tmp_path / "m.csv").write_text(rows)
    table = read(f"manifest:{tmp_path}/m.csv")
    assert (table.subjects, table.split, table.sequences) == (("", "P1", ""), ("", "train", ""), ("", "q", ""))


def test_the_longest_end_of_a_path_is_taken(tmp_path: Path, image: Image):
    image(tmp_path / "a" / "0.png", 0)
    image(tmp_path / "0.png", 1)
    (tmp_path / "l").write_text("/x/a/0.png anger\n")
    assert read(f"list:{tmp_path}/l?root={tmp_path}").keys == (f"{tmp_path}/a/0.png",)


@pytest.mark.parametrize("lines", [("/x/a/0.png anger", "/x/b/0.png sad"), ("0.png anger", "/x/b/0.png sad")])
@pytest.mark.parametrize("turn", [1, -1])
def test_two_paths_are_never_one_file_by_their_ends(tmp_path: Path, image: Image, lines: tuple[str, str], turn: int):
    image(tmp_path / "0.png", 0)
    (tmp_path / "l").write_text("\n".join(lines[::turn]))
    assert f"are both found as {tmp_path}/0.png" in error_of(f"list:{tmp_path}/l?root={tmp_path}")


def test_list_faults(tmp_path: Path, image: Image):
    image(tmp_path / "0.png", 0)
    file = tmp_path / "l.txt"
    file.write_bytes(b"\xff\xfe\x00")
    assert error_of(f"list:{file}") == f"not UTF-16-LE text: byte 0x00 ({file}, line 1); save it as UTF-8"
    file.write_text("")
    assert error_of(f"list:{file}").startswith("no usable sample (")
    file.write_text("gone.png anger\n")
    assert "no usable sample: 1 listed files are missing, the first is" in error_of(f"list:{file}")
    assert "option labels='rafdbb' is unknown" in error_of(f"list:{file}?labels=rafdbb")


def test_a_list_of_paths_alone_is_unlabelled(tmp_path: Path, image: Image):
    for name in ("0.png", "my face.png", "2.PNG", "3.png"):
        image(tmp_path / name, 1)
    (tmp_path / "l.txt").write_text("0.png\nmy face.png\n2.PNG fear\n  3.png  \n")
    table = read(f"list:{tmp_path}/l.txt")
    assert names(table) == ["?", "?", "fear", "?"]
    assert [Path(key).name for key in table.keys] == ["0.png", "my face.png", "2.PNG", "3.png"]


def test_affectnet_codes_without_expression_are_left_out(tmp_path: Path, image: Image):
    image(tmp_path / "0.png", 0)
    (tmp_path / "l.txt").write_text("0.png 1\n0.png 9\n0.png 77\n")
    _, scan = read_domain(parse_spec(f"list:{tmp_path}/l.txt?labels=affectnet"))
    assert scan.rows.skipped == {"9": 1}
    assert scan.rows.unknown == {"77": 1}


def test_manifest_columns(tmp_path: Path, image: Image):
    for i in range(4):
        image(tmp_path / "x" / f"{i}.png", i)
    (tmp_path / "m.csv").write_text(
        "﻿Path,label,domain,split,subject,sequence,age\n"
        'x/0.png,Happy,vis,train,s1,q1,3\n"x/1.png",,vis,val,s2,,4\nx/2.png,Fear,ir,test,s3,,\n\nx/3.png,Wut,ir,,,,\n'
    )
    table = read(f"manifest:{tmp_path}/m.csv")
    assert names(table) == ["happiness", "?", "fear"]
    assert table.split == ("train", "val", "test")
    assert table.subjects == ("s1", "s2", "s3")
    assert table.sequences == ("q1", "", "")
    assert names(read(f"manifest:{tmp_path}/m.csv?domain=ir")) == ["fear"]
    assert "no domain 'irr' in the manifest" in error_of(f"manifest:{tmp_path}/m.csv?domain=irr")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "label\nanger\n",
            "no column 'path' among 'label' ({file}, line 1); the first line must name the columns path",
        ),
        ("path,label\na,anger,x\n", "row with 3 cells under 2 columns ({file}, line 2); quote cells that hold commas"),
        (
            "path,label,split\na,anger,train\nb,anger\n",
            "row with 2 cells under 3 columns ({file}, line 3); "
            "write every cell; an unknown one stays empty between its commas",
        ),
        ("path,split\na,tarin\n", "unknown split 'tarin' ({file}, line 2); did you mean 'train'?"),
        ("path,label\n,anger\n", "empty path ({file}, line 2)"),
        ('path,label\n"a,anger\n', "not valid CSV: unexpected end of data ({file}, line 2)"),
        ("", "no column 'path' ({file}, line 1); the first line must name the columns path"),
        ("path\n", "no usable sample ({file}); write rows path,label,domain,split,subject,sequence"),
    ],
)
def test_manifest_faults(tmp_path: Path, text: str, message: str):
    file = tmp_path / "m.csv"
    file.write_text(text)
    assert error_of(f"manifest:{file}") == message.format(file=file)


def test_fer2013_parts_and_pixels(tmp_path: Path):
    rows = [fer_row(3, 7, "Training"), fer_row(0, 255, "PublicTest"), fer_row(6, 0, "PrivateTest")]
    (tmp_path / "fer2013.csv").write_text(HEADER + "".join(rows))
    table = read(f"fer2013:{tmp_path}")
    assert names(table) == ["happiness", "neutral"]
    assert table.split == ("train", "test")
    assert table.keys == ("fer2013.csv#2", "fer2013.csv#4")
    assert table.read(0).shape == (48, 48, 3)
    assert np.unique(table.read(0)).tolist() == [7]
    assert names(read(f"fer2013:{tmp_path}/fer2013.csv?test=public")) == ["happiness", "anger"]
    assert read(f"fer2013:{tmp_path}/fer2013.csv?test=both").split == ("train", "test", "test")


def test_fer2013_numbers_of_every_length():
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
    text = " ".join(str(value) for value in pixels.ravel()).encode()
    assert (parse_pixels(text, "") == pixels).all()
    assert (parse_pixels(b" " + text.replace(b" ", b"  ") + b" ", "") == pixels).all()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("3,1 2 3,Training\n", "3 pixels instead of 2304 ({file}, line 3)"),
        ("3\n", "row with 1 cell instead of 3 ({file}, line 3)"),
        ("x,1,Training\n", "emotion 'x' is not a number from 0 to 6 ({file}, line 3)"),
        ("3,1,Trainin\n", "unknown usage 'Trainin' ({file}, line 3); known: Training, PublicTest, PrivateTest"),
        (fer_row(1, 256, "Training"), "pixels are not numbers from 0 to 255 ({file}, line 3)"),
        (fer_row(1, -1, "Training"), "pixels are not numbers from 0 to 255 ({file}, line 3)"),
        (fer_row(1, 12345, "Training"), "pixels are not numbers from 0 to 255 ({file}, line 3)"),
    ],
)
def test_fer2013_bad_row_names_its_line(tmp_path: Path, row: str, message: str):
    file = tmp_path / "f.csv"
    file.write_text(HEADER + fer_row(0, 1, "Training") + row)
    assert error_of(f"fer2013:{file}") == message.format(file=file)


def test_fer2013_without_its_header(tmp_path: Path):
    (tmp_path / "f.csv").write_text("a,b\n")
    assert "no column 'emotion'" in error_of(f"fer2013:{tmp_path}/f.csv")
    assert "path not found" in error_of(f"fer2013:{tmp_path}")


@pytest.mark.parametrize(
    ("votes", "majority", "argmax"),
    [
        ((4, 0, 0, 1, 3, 2, 0, 0, 0, 0), None, "neutral"),
        ((6, 0, 0, 1, 3, 1, 0, 0, 0, 0), "neutral", "neutral"),
        ((0, 0, 0, 0, 0, 0, 0, 9, 1, 0), "contempt", "contempt"),
        ((0, 1, 0, 0, 0, 0, 0, 0, 9, 0), None, None),
        ((0, 1, 1, 1, 1, 1, 1, 1, 1, 1), None, "happiness"),
        ((0, 0, 0, 0, 0, 0, 0, 0, 0, 10), None, None),
        ((0,) * 10, None, None),
    ],
)
def test_ferplus_voting(votes: Sequence[int], majority: str | None, argmax: str | None):
    for rule, name in (("majority", majority), ("argmax", argmax)):
        label = vote(list(votes), rule)
        assert (None if label is None else CANONICAL[label]) == name


def test_ferplus_csv_and_folders(tmp_path: Path, image: Image):
    happy, split, none = "0,9,0,0,0,0,0,0,0,1", "5,5,0,0,0,0,0,0,0,0", "0,0,0,0,0,0,0,0,0,10"
    native = [fer_row(0, i, usage) for i, usage in enumerate(["Training", "Training", "PublicTest", "PrivateTest"])]
    (tmp_path / "fer2013.csv").write_text(HEADER + "".join(native))
    voted = [f"Training,a.png,{happy}", f"Training,b.png,{split}", f"PublicTest,,{none}", f"PrivateTest,d.png,{happy}"]
    (tmp_path / "fer2013new.csv").write_text(VOTE_HEADER + "\n".join(voted) + "\n")
    table, scan = read_domain(parse_spec(f"ferplus:{tmp_path}"))
    assert names(table) == ["happiness", "happiness"]
    assert table.split == ("train", "test")
    assert table.read(1)[0, 0, 0] == 3
    assert scan.rows.skipped == {"no majority": 1, "no face": 1}
    assert len(read(f"ferplus:{tmp_path}/fer2013new.csv?rule=argmax")) == 3

    root = tmp_path / "folders"
    for folder in ("FER2013Train", "FER2013Test"):
        image(root / folder / "a.png", 1)
        (root / folder / "label.csv").write_text(f'a.png,"(0, 0, 48, 48)",{happy}\n')
    assert read(f"ferplus:{root}").split == ("train", "test")


def test_ferplus_faults(tmp_path: Path):
    votes = tmp_path / "fer2013new.csv"
    (tmp_path / "fer2013.csv").write_text(HEADER + fer_row(0, 0, "Training"))
    votes.write_text(VOTE_HEADER)
    assert "have different numbers of rows" in error_of(f"ferplus:{tmp_path}")
    votes.write_text(VOTE_HEADER + "PublicTest,a.png,0,9,0,0,0,0,0,0,0,1\n")
    assert "usage 'PublicTest' here, 'training' in line 2 of fer2013.csv" in error_of(f"ferplus:{tmp_path}")
    votes.write_text(VOTE_HEADER + "Training,a.png,0,x,0,0,0,0,0,0,0,1\n")
    assert error_of(f"ferplus:{tmp_path}") == f"votes for happiness are 'x', not a count ({votes}, line 2)"


def test_rafdb(tmp_path: Path, image: Image):
    for name in ("train_00001", "test_0001"):
        image(tmp_path / "basic" / "Image" / "aligned" / f"{name}_aligned.jpg", 1)
    listing = tmp_path / "basic" / "EmoLabel" / "list_patition_label.txt"
    listing.parent.mkdir()
    listing.write_text("train_00001.jpg 1\ntest_0001.jpg 7\ntrain_00002.jpg 5\ntrain_00003.jpg 9\n")
    table, scan = read_domain(parse_spec(f"rafdb:{tmp_path}"))
    assert names(table) == ["surprise", "neutral"]
    assert table.split == ("train", "test")
    assert len(scan.rows.missing) == 1
    assert scan.rows.unknown == {"9": 1}
    assert len(read(f"rafdb:{tmp_path}/basic")) == 2
    assert "path not found" in error_of(f"rafdb:{tmp_path}?images=original")
    listing.write_text("train_00001.jpg\n")
    assert error_of(f"rafdb:{tmp_path}") == (
        f"cannot read 'train_00001.jpg' ({listing}, line 1); a line is \"train_00001.jpg 5\""
    )
    assert "no RAF-DB label list" in error_of(f"rafdb:{tmp_path}/basic/Image")


@pytest.mark.parametrize("inner", ["", "DATASET"])
def test_rafdb_in_class_folders(tmp_path: Path, image: Image, inner: str):
    for code in range(1, 8):
        for part, n in (("train", 2), ("test", 1)):
            for i in range(n):
                image(tmp_path / inner / part / str(code) / f"{part}_{code}{i}_aligned.jpg", code)
    (tmp_path / "train_labels.csv").write_text("image,label\n")
    table = read(f"rafdb:{tmp_path}")
    order = ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]
    assert names(table) == [*order, *(name for name in order for _ in range(2))]
    assert table.split == ("test",) * 7 + ("train",) * 14
    assert "no original images in class folders" in error_of(f"rafdb:{tmp_path}?images=original")
    (tmp_path / inner / "train" / "7").rename(tmp_path / inner / "train" / "0")
    assert "labels are not the numbers of rafdb: 0 (2), 1 (3)" in error_of(f"rafdb:{tmp_path}")


def test_synthfer_options():
    table = read("synthfer:studio?n=14&size=32&classes=happy,anger&seed=5")
    assert sorted(set(names(table))) == ["anger", "happiness"]
    assert table.read(3).shape == (32, 32, 3)
    assert all(table.subjects)
    assert set(table.extras) == {"au_scores", "au_intensity"}
    assert "unknown style 'studioo'" in error_of("synthfer:studioo")
    assert "unknown expression 'hapy'" in error_of("synthfer:studio?classes=hapy")
