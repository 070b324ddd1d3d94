"""Folders as exports name them: every part is read, and what is beside the parts is named and counted."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from reading import error_of, read, skipped

from fercore.config import DataSettings
from fercore.data.domains.report import mismatch_lines
from fercore.data.formats.folder import part_of
from fercore.errors import UserInputError
from tests.loading import check_texts, load_domains

Tree = Callable[..., Path]


@pytest.mark.parametrize(
    ("names", "part"),
    [
        ("train Train TRAINING training_set train-set Train_Images train_class adapt FER2013Train", "train"),
        ("val Valid validation PublicTest val_class valid_set dev FER2013Valid", "val"),
        ("test Testing PrivateTest test_set TestImages test.data FER2013Test", "test"),
    ],
)
def test_known_names_of_parts(names: str, part: str):
    assert {name: part_of(name) for name in names.split()} == dict.fromkeys(names.split(), part)


@pytest.mark.parametrize("name", ["anger", "happy", "images", "set", "", "test2", "contest", "trainer", "0"])
def test_other_names_are_no_parts(name: str):
    assert part_of(name) is None


def test_all_three_parts_of_fer2013_folders(tree: Tree):
    root = tree("f", {"Training/Angry": 3, "Training/Sad": 3, "PublicTest/Angry": 2, "PrivateTest/Sad": 4})
    assert Counter(read(f"folder:{root}").split) == {"train": 6, "val": 2, "test": 4}
    assert skipped(f"folder:{root}") == {}


def test_parts_inside_the_classes(tree: Tree):
    root = tree(
        "f", {"Angry/train": 3, "Angry/test": 2, "Angry/odd": 1, "Angry": 1, "Sad/Training": 3, "Sad/PrivateTest": 4}
    )
    table = read(f"folder:{root}")
    assert Counter(zip(table.labels.tolist(), table.split, strict=True)) == {
        (0, "train"): 3, (0, "test"): 2, (4, "train"): 3, (4, "test"): 4,
    }  # fmt: skip
    assert skipped(f"folder:{root}") == {"folder 'odd' beside the parts": 1, "loose images": 1}


def test_a_folder_beside_parts_is_named_and_counted(tree: Tree):
    root = tree("f", {"train/anger": 2, "test/anger": 2, "holdout/anger": 3, "notes": 0})
    assert len(read(f"folder:{root}")) == 4
    assert skipped(f"folder:{root}") == {"folder 'holdout' beside the parts": 3}


@pytest.mark.parametrize(
    ("form", "counts"),
    [
        ("affectnet", {"train/0": 2, "val/1": 2, "extra/1": 3}),
        ("sfew", {"Train/Angry": 2, "Val/Angry": 2, "Train_Aligned_Faces/Angry": 2, "extra/Sad": 3}),
    ],
)
def test_formats_with_parts_name_what_is_beside_them(tree: Tree, form: str, counts: dict[str, int]):
    root = tree("f", counts)
    assert Counter(read(f"{form}:{root}").split) == {"train": 2, "val": 2}
    assert skipped(f"{form}:{root}") == {"folder 'extra' beside the parts": 3}


def test_a_dataset_one_folder_deeper_is_pointed_at(tree: Tree):
    root = tree("f", {"images/train/anger": 1, "images/test/anger": 1})
    assert f"did you mean 'folder:{root}/images'?" in error_of(f"folder:{root}")


def test_splits_of_a_manifest_have_the_names_of_folders(tree: Tree, tmp_path: Path):
    tree(".", {"anger": 3})
    rows = [f"anger/{i}.png,anger,{split}\n" for i, split in enumerate(("Training", "PublicTest", "PrivateTest"))]
    (tmp_path / "m.csv").write_text("path,label,split\n" + "".join(rows))
    assert read(f"manifest:{tmp_path}/m.csv").split == ("train", "val", "test")


def lines_of(source: Path, target: str) -> list[str]:
    data = DataSettings(sources=(f"folder:{source}",), target=target)
    return mismatch_lines(load_domains(data, seed=0).report)


def test_a_run_says_which_parts_it_does_not_use(tree: Tree):
    source = tree("s", {"train/anger": 4, "train/fear": 4, "test/anger": 2, "other/fear": 3})
    folders = {f"{part}/{name}": 2 for part in ("Training", "PublicTest", "PrivateTest") for name in ("anger", "fear")}
    target = tree("t", folders, 100)
    lines = lines_of(source, f"folder:{target}")
    assert "s: left out: folder 'other' beside the parts; images: 3" in lines
    assert "s: parts that are not used: test 2" in lines
    assert "t: parts that are not used: val 4" in lines
    assert not any(
        "not used" in line for line in lines_of(tree("a", {"anger": 4, "fear": 4}, 50), f"folder:{target}?split=all")
    )


def test_a_folder_beside_parts_is_a_fault(tree: Tree):
    root = tree("s", {"train/anger": 4, "train/fear": 4, "test/anger": 2, "test/fear": 2})
    assert check_texts([f"folder:{root}"])["faults"] == 0
    tree("s", {"other/fear": 3, "Held out/anger": 1}, 50)
    report = check_texts([f"folder:{root}"])
    assert report["faults"] == 2
    assert report["domains"][0]["folders_beside_parts"] == [
        "folder 'Held out' beside the parts", "folder 'other' beside the parts",
    ]  # fmt: skip


def test_rows_without_a_part_among_parts_are_counted(tree: Tree, tmp_path: Path):
    source = tree("s", {"anger": 4, "fear": 4})
    tree("t", {"anger": 3, "fear": 3}, 100)
    splits = {"0": "train", "1": "test", "2": ""}
    rows = [f"t/{name}/{i}.png,{name},{split}\n" for name in ("anger", "fear") for i, split in splits.items()]
    (tmp_path / "m.csv").write_text("path,label,split\n" + "".join(rows))
    assert "m: parts that are not used: without a part 2" in lines_of(source, f"manifest:{tmp_path}/m.csv")


def test_no_advice_ends_in_a_score_on_training_images(tree: Tree):
    source = tree("s", {"anger": 4, "fear": 4})
    target = tree("t", {"Training/anger": 4, "Training/fear": 4, "Held out/anger": 3}, 100)
    with pytest.raises(UserInputError) as caught:
        lines_of(source, f"folder:{target}")
    message = str(caught.value)
    assert "target without a test part; left out: folder 'Held out' beside the parts; images: 3" in message
    assert "split=all" not in message
    assert "transductive" not in message
    assert "PrivateTest" in message
