"""What stands among the images of a dataset is read, or named and counted, whatever its suffix."""

from __future__ import annotations

import io
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fercore.config import DataSettings
from fercore.data import parse_spec
from fercore.data.domains.domain_set import read_domain
from fercore.data.domains.report import mismatch_lines
from fercore.data.domains.skipped import leftover_lines
from fercore.data.images import codecs
from fercore.datasets.prepare import PrepareSettings, prepare
from fercore.errors import UserInputError
from tests.loading import check_texts, load_domains

NAMES = {
    "a.JPG": "JPEG", "b.jfif": "JPEG", "c.jpe": "JPEG", "d.gif": "GIF", "e.jp2": "JPEG2000", "f.webp": "WEBP",
    "g.bmp": "BMP", "h.pbm": "PPM", "i.tif": "TIFF", "IMG_0001": "JPEG", "j.dat": "PNG", "k.img": "BMP",
}  # fmt: skip
HEIC = b"\0\0\0\x18ftypheic" + bytes(200)


def picture(form: str, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def mixed(tmp_path: Path, monkeypatch) -> Path:
    """A folder of two classes with images of every kind, and what else people have there."""
    monkeypatch.setattr(codecs, "decoders", lambda: tuple(codecs.DECODERS))
    root = tmp_path / "set"
    for k, label in enumerate(("anger", "fear")):
        (root / label / "deeper").mkdir(parents=True)
        for i, (name, form) in enumerate(NAMES.items()):
            (root / label / name).write_bytes(picture(form, 100 * k + i))
    (root / "anger" / "Thumbs.db").write_bytes(b"x")
    (root / "anger" / ".DS_Store").write_bytes(b"x")
    (root / "README.txt").write_text("beside the classes")
    return root


def spoiled(root: Path) -> Path:
    (root / "anger" / "notes.txt").write_text("P5 of the images are blurred")
    (root / "fear" / "deeper" / "more.csv").write_text("a,b\n")
    (root / "anger" / "x.heic").write_bytes(HEIC)
    (root / "fear" / "phone").write_bytes(HEIC)
    os.mkfifo(root / "anger" / "pipe.png")
    os.mkfifo(root / "fear" / "pipe")
    (root / "fear" / "elsewhere").symlink_to(root / "anger")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "fear" / "s.jpg"))
    return root


def test_every_image_is_read_whatever_its_suffix(mixed: Path):
    table, scan = read_domain(parse_spec(f"folder:{mixed}"))
    assert sorted(Path(key).name for key in table.keys) == sorted([*NAMES, *NAMES])
    assert not scan.rows.skipped
    report = check_texts([f"folder:{mixed}"])
    assert report["faults"] == 0, report


@pytest.mark.timeout(60)
def test_what_is_no_image_is_named_and_counted(mixed: Path):
    table, scan = read_domain(parse_spec(f"folder:{spoiled(mixed)}"))
    assert len(table) == 2 * len(NAMES) + 2
    assert dict(scan.rows.skipped) == {
        f"no image: other content, first {mixed}/anger/notes.txt": 2,
        f"no image: a named pipe, first {mixed}/anger/pipe.png": 2,
        f"no image: a link to a folder, first {mixed}/fear/elsewhere": 1,
        f"no image: a socket, first {mixed}/fear/s.jpg": 1,
    }
    assert f"left out: no image: a named pipe, first {mixed}/anger/pipe.png; files: 2" in leftover_lines(scan)


@pytest.mark.timeout(60)
def test_check_names_what_cannot_be_read_and_what_would_make_it_readable(mixed: Path):
    (domain,) = check_texts([f"folder:{spoiled(mixed)}"])["domains"]
    reasons = {Path(found["path"]).name: found["reason"] for found in domain["unusable"]}
    assert reasons.keys() == {"x.heic", "phone"}
    assert set(reasons.values()) == {"a HEIC image: install fercore[heif] to read it, or save it as PNG or JPEG"}
    assert domain["faults"] == 2
    assert any("named pipe" in reason for reason in domain["skipped"])


@pytest.mark.timeout(60)
def test_a_run_skips_pipes_and_refuses_many_images_it_cannot_read(mixed: Path):
    spec = f"folder:{spoiled(mixed)}"
    settings = {"sources": (spec,), "target": "synthfer:wild?n=28", "size": 16, "source_batch": 4, "target_batch": 4}
    with pytest.raises(UserInputError, match=r"2 of 26 .*HEIC image: install fercore\[heif\]"):
        load_domains(DataSettings(**settings), seed=0)
    domains = load_domains(DataSettings(**settings, max_bad_share=0.1), seed=0)
    assert len(domains.sources[0]) == 2 * len(NAMES)
    lines = "\n".join(mismatch_lines(domains.report))
    assert f"left out: no image: a named pipe, first {mixed}/anger/pipe.png; files: 2" in lines
    assert "2 unusable images skipped" in lines


@pytest.mark.timeout(60)
def test_preparing_refuses_by_name_what_it_cannot_read(mixed: Path, tmp_path: Path):
    boxes = tmp_path / "boxes.csv"
    names = [f"{label}/{name}" for label in ("anger", "fear") for name in NAMES]
    rows = [f"{name},1,1,12,12,0.9" for name in names]
    boxes.write_text("input,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight,FaceScore\n" + "\n".join(rows) + "\n")
    settings = PrepareSettings(size=16, align="box", boxes=str(boxes), min_size=1)
    found = prepare(parse_spec(f"folder:{spoiled(mixed)}"), tmp_path / "out", settings)
    assert (found["images"], found["prepared"], found["refused"]) == (26, 24, 2)
    assert found["reasons"] == {"unusable image": 2}
    assert "HEIC image: install fercore[heif]" in (tmp_path / "out" / "refused.csv").read_text()
    assert any("named pipe" in line for line in found["notes"])


@pytest.mark.timeout(60)
def test_a_list_that_names_pipes_and_folders(tmp_path: Path, image):
    image(tmp_path / "a.png", 0)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "l.txt").write_text("a.png anger\npipe.png anger\nfolder.png fear\ngone.jfif\n")
    table, scan = read_domain(parse_spec(f"list:{tmp_path}/l.txt"))
    assert len(table) == 1
    assert scan.rows.missing == [f"{tmp_path}/gone.jfif"]
    assert dict(scan.rows.skipped) == {
        f"no image: a named pipe, first {tmp_path}/pipe.png": 1,
        f"no image: a folder, first {tmp_path}/folder.png": 1,
    }


def test_loose_images_of_a_target(mixed: Path, tmp_path: Path):
    (tmp_path / "loose").mkdir()
    for name, form in NAMES.items():
        (tmp_path / "loose" / name).write_bytes(picture(form, len(name)))
    (tmp_path / "loose" / "x.txt").write_text("text")
    table, scan = read_domain(parse_spec(f"folder:{tmp_path}/loose"))
    assert len(table) == len(NAMES)
    assert dict(scan.rows.skipped) == {f"no image: other content, first {tmp_path}/loose/x.txt": 1}


@pytest.mark.parametrize(
    ("form", "place"), [("sfew", "Train/Angry"), ("oulu", "VL/Strong/P001/Anger"), ("ckplus", "anger"), ("jaffe", ".")]
)
def test_formats_that_find_images_by_themselves(form: str, place: str, tmp_path: Path):
    names = {"sfew": "a_1.dat", "oulu": "000.dat", "ckplus": "S010_004_00000017.dat", "jaffe": "KA.AN1.39.dat"}
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    (tmp_path / "Val" / "Angry").mkdir(parents=True)
    (tmp_path / place / names[form]).write_bytes(picture("PNG", 1))
    (tmp_path / place / "x.txt").write_text("text")
    table, scan = read_domain(parse_spec(f"{form}:{tmp_path}" + ("?neutral=none" if form == "oulu" else "")))
    assert [Path(key).name for key in table.keys] == [names[form]]
    assert sum(n for reason, n in scan.rows.skipped.items() if "other content" in reason) == 1
