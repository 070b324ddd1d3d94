"""Every check finds a planted fault of its kind, and none where there is none."""

from __future__ import annotations

import json
import shutil
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
import layouts

from fercore.datasets.check.near import near_pairs, thumbnail
from fercore.datasets.check.words import between_lines, count_rows, fault_lines
from fercore.errors import UserInputError
from fercore.synthfer import SynthFER
from tests.loading import check_texts

KINDS = (
    "unknown_labels", "missing_files", "unusable", "duplicates", "near_duplicates", "mislabelled", "leaks",
    "subjects_in_several_parts", "sequences_in_several_parts", "classes_missing_in_a_part",
)  # fmt: skip
REAL = Path(__file__).parents[3] / "shared" / "data" / "raw_faces"


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """A tree of different faces, train and test."""
    faces = SynthFER("wild", n=24, seed=3, size=48).render(range(24))
    for i, image in enumerate(faces):
        part, name = ("train", "test")[i % 2], ("anger", "happiness")[i // 2 % 2]
        folder = tmp_path / "set" / part / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    return tmp_path / "set"


def faults(root: Path) -> dict:
    report = check_texts([f"folder:{root}"])
    json.dumps(report)
    return {kind: report["domains"][0][kind] for kind in KINDS if report["domains"][0][kind]}


def test_a_clean_set_has_no_fault(clean: Path):
    assert faults(clean) == {}
    assert check_texts([f"folder:{clean}"])["faults"] == 0


def huge_png(path: Path, side: int = 40_000) -> None:
    """Write a PNG of side x side black pixels: one bit each, so that the file is small."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, row = zlib.compressobj(9), bytes(1 + side // 8)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


@pytest.mark.slow
def test_unusable_images(clean: Path):
    (clean / "train/anger/zero.jpg").write_bytes(b"")
    (clean / "train/anger/text.jpg").write_text("no image")
    Image.open(clean / "train/anger/0.png").convert("RGB").save(clean / "train/anger/cut.jpg")
    content = (clean / "train/anger/cut.jpg").read_bytes()
    (clean / "train/anger/cut.jpg").write_bytes(content[: len(content) // 2])
    huge_png(clean / "train/anger/huge.png")
    found = faults(clean)
    assert set(found) == {"unusable"}
    reasons = {Path(item["path"]).name: item["reason"] for item in found["unusable"]}
    assert reasons["zero.jpg"] == "empty file"
    assert reasons["text.jpg"] == "not an image"
    assert reasons["cut.jpg"].startswith("truncated")
    assert reasons["huge.png"].startswith("too large")


def test_an_exact_copy(clean: Path):
    shutil.copy(clean / "train/anger/0.png", clean / "train/anger/copy.png")
    found = faults(clean)
    assert set(found) == {"duplicates"}
    assert [Path(path).name for path in found["duplicates"][0]["paths"]] == ["0.png", "copy.png"]


def test_a_wrong_label(clean: Path):
    shutil.copy(clean / "train/anger/0.png", clean / "train/happiness/copy.png")
    found = faults(clean)
    assert set(found) == {"duplicates", "mislabelled"}
    assert found["mislabelled"][0]["labels"] == ["anger", "happiness"]


@pytest.mark.parametrize("change", ["jpeg", "mirror", "brighter", "smaller"])
def test_a_near_duplicate_is_a_leak_between_parts(clean: Path, change: str):
    image = Image.open(clean / "train/anger/0.png").convert("RGB")
    made = {
        "jpeg": image,
        "mirror": ImageOps.mirror(image),
        "brighter": image.point(lambda v: min(255, int(v * 1.1))),
        "smaller": image.resize((40, 40)),
    }[change]
    made.save(clean / "test/anger/copy.jpg", quality=90)
    found = faults(clean)
    assert set(found) == {"near_duplicates", "leaks"}
    assert found["leaks"][0]["parts"] == ["test", "train"]
    assert [Path(path).name for path in found["leaks"][0]["paths"]] == ["copy.jpg", "0.png"]


def test_an_unknown_label_and_a_class_missing_in_a_part(clean: Path):
    (clean / "train/anger").rename(clean / "train/Wut")
    found = faults(clean)
    assert set(found) == {"unknown_labels", "classes_missing_in_a_part"}
    assert found["unknown_labels"] == {"Wut": 6}
    assert found["classes_missing_in_a_part"] == [{"part": "train", "classes": ["anger"]}]


def test_subjects_sequences_and_missing_files(tmp_path: Path):
    paint = layouts.Painter(tmp_path)
    rows = [(paint(f"{k}.png"), "anger", part, subject) for k, (part, subject) in enumerate([
        ("train", "s1"), ("train", "s2"), ("test", "s1"), ("test", "s3")])]  # fmt: skip
    lines = [f"{path},{label},{part},{subject},q" for path, label, part, subject in rows]
    paint.text("m.csv", "path,label,split,subject,sequence\n" + "\n".join([*lines, "gone.png,anger,train,s9,"]) + "\n")
    domain = check_texts([f"manifest:{tmp_path}/m.csv"])["domains"][0]
    assert domain["subjects_in_several_parts"] == [{"name": "s1", "parts": ["test", "train"]}]
    assert domain["sequences_in_several_parts"] == [{"name": "s1/q", "parts": ["test", "train"]}]
    assert domain["missing_files"] == [f"{tmp_path}/gone.png"]
    text = "\n".join(fault_lines(domain))
    assert "subjects in more than one part: 1" in text
    assert "s1 (test, train)" in text


def test_frames_of_one_recording_are_no_near_duplicates(tmp_path: Path):
    paint = layouts.Painter(tmp_path)
    first = Image.open(tmp_path / paint("S005/001/a_1.png"))
    for k in (2, 3):
        first.point(lambda v, k=k: min(255, v + k)).save(tmp_path / f"S005/001/a_{k}.png")
    rows = "".join(f"S005/001/a_{k}.png,anger,S005,{{}}\n" for k in (1, 2, 3))
    paint.text("same.csv", "path,label,subject,sequence\n" + rows.format("q", "q", "q"))
    paint.text("other.csv", "path,label,subject,sequence\n" + rows.format("q", "r", "s"))
    assert check_texts([f"manifest:{tmp_path}/same.csv"])["domains"][0]["near_duplicates"] == []
    assert len(check_texts([f"manifest:{tmp_path}/other.csv"])["domains"][0]["near_duplicates"]) == 3


def test_published_counts(tmp_path: Path):
    layouts.jaffe(tmp_path)
    domain = check_texts([f"jaffe:{tmp_path}"])["domains"][0]
    wrong = {item["class"]: (item["found"], item["published"]) for item in domain["published"]["wrong"]}
    assert wrong == {
        "": (14, 213), "anger": (2, 30), "disgust": (2, 29), "fear": (2, 32), "happiness": (2, 31),
        "sadness": (2, 31), "surprise": (2, 30), "neutral": (2, 30),
    }  # fmt: skip
    header, rows = count_rows(domain)
    assert header == ["class", "all"]
    assert ["disgust", "2 [29]"] in rows
    assert rows[-1] == ["all", "14 [213]"]


def test_pictures_in_two_datasets(clean: Path, tmp_path: Path):
    other = tmp_path / "other" / "anger"
    other.mkdir(parents=True)
    shutil.copy(clean / "test/anger/1.png", other / "exact.png")
    Image.open(clean / "test/happiness/3.png").convert("RGB").save(other / "near.jpg", quality=92)
    layouts.Painter(other)("alone.png")
    report = check_texts([f"folder:{clean}", f"folder:{tmp_path}/other"])
    found = {(Path(item["paths"][0]).name, Path(item["paths"][1]).name): item for item in report["between"]}
    assert set(found) == {("1.png", "exact.png"), ("3.png", "near.jpg")}
    assert found["1.png", "exact.png"]["similarity"] == 1.0
    assert found["3.png", "near.jpg"]["labels"] == ["anger", "happiness"]
    assert report["faults"] == 2
    assert between_lines(report)[0] == "pictures in two datasets: 2"


def test_near_pairs_equal_a_comparison_of_all_pairs():
    faces = SynthFER("wild", n=60, seed=1, size=40).render(range(60))
    rng = np.random.default_rng(0)
    noisy = np.clip(faces[:20].astype(int) + rng.integers(-6, 7, faces[:20].shape), 0, 255).astype(np.uint8)
    flat = np.zeros((3, 40, 40, 3), dtype=np.uint8)
    thumbs = np.stack([thumbnail(image) for image in (*faces, *noisy, *noisy[:5, :, ::-1], *flat)])
    units = thumbs.reshape(len(thumbs), -1).astype(float)
    units -= units.mean(axis=1, keepdims=True)
    mirrored = units.reshape(-1, 32, 32)[:, :, ::-1].reshape(units.shape)
    length = np.linalg.norm(units, axis=1)
    with np.errstate(invalid="ignore"):
        alike = np.maximum(units @ units.T, units @ mirrored.T) / np.outer(length, length)
    expected = {(i, j) for i, j in np.argwhere(alike >= 0.985).tolist() if i < j}
    pairs, values = near_pairs(thumbs, 0.985)
    assert {tuple(pair) for pair in pairs.tolist()} == expected
    assert len(expected) >= 30
    assert values == pytest.approx([alike[i, j] for i, j in pairs], abs=1e-4)


def test_nothing_to_compare():
    empty = near_pairs(np.zeros((0, 32, 32), dtype=np.uint8))
    assert (len(empty[0]), len(empty[1])) == (0, 0)
    assert len(near_pairs(np.zeros((5, 32, 32), dtype=np.uint8))[0]) == 0


def test_similarity_outside_its_range():
    with pytest.raises(UserInputError, match="similarity 0 is not above 0"):
        check_texts(["synthfer:wild?n=4"], similar=0)


@pytest.mark.skipif(not REAL.is_dir(), reason="real images are not here")
def test_the_faults_planted_in_real_photographs():
    domain = check_texts([f"folder:{REAL}"])["domains"][0]
    name = lambda item: {Path(path).name for path in item["paths"]}  # noqa: E731
    assert {Path(item["path"]).name for item in domain["unusable"]} == {
        "zero_bytes.jpg", "truncated.jpg", "not_an_image.jpg", "forty_thousand_pixels.png",
    }  # fmt: skip
    assert domain["unknown_labels"] == {"Wut": 1}
    assert "copy_of_an_anger_image.jpg" in name(domain["mislabelled"][0])
    assert "near_duplicate_of_train.jpg" in name(domain["leaks"][0])
    assert domain["faults"] == 9
