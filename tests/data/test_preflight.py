from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fercore.data import inspect, parse_spec
from fercore.data.domains.domain_set import read_domain
from fercore.data.images.readers import decode
from fercore.data.images.scaling import Scaling
from fercore.data.table import Table
from fercore.errors import UserInputError


def huge_png(path: Path, side: int) -> None:
    """Write a header that claims side x side pixels, and next to nothing after it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.fixture
def faulty(tree: Callable[..., Path]) -> Table:
    root = tree("f", {"anger": 40, "fear": 40})
    (root / "anger" / "zero.png").write_bytes(b"")
    (root / "anger" / "text.jpg").write_text("not a face")
    content = (root / "anger" / "0.png").read_bytes()
    (root / "anger" / "cut.png").write_bytes(content[: len(content) // 2])
    huge_png(root / "anger" / "bomb.png", 40_000)
    huge_png(root / "anger" / "wide.png", 8_193)
    (root / "anger" / "again.png").write_bytes(content)
    (root / "fear" / "other.png").write_bytes((root / "anger" / "1.png").read_bytes())
    return read_domain(parse_spec(f"folder:{root}"))[0]


def test_every_fault_is_found_and_named(faulty: Table):
    found = inspect(faulty)
    reasons = {Path(key).name: reason for key, reason in found.unusable}
    assert set(reasons) == {"zero.png", "text.jpg", "cut.png", "bomb.png", "wide.png"}
    assert reasons["zero.png"] == "empty file"
    assert reasons["text.jpg"] == "not an image"
    assert reasons["cut.png"].startswith("truncated: ")
    assert reasons["bomb.png"].startswith("too large: ")
    assert reasons["wide.png"] == "too large: 8193x8193 pixels"
    assert [[Path(key).name for key in group] for group in found.duplicates] == [["0.png", "again.png"]]
    assert [[Path(key).name for key in group] for group in found.mislabelled] == [["1.png", "other.png"]]
    assert len(found.usable) == len(faulty) - 5
    assert found.report()["unusable"] == 5


def test_reading_an_unusable_image_names_the_file(faulty: Table):
    with pytest.raises(UserInputError, match=r"unusable image: empty file \(.*zero\.png\)"):
        faulty.read([Path(key).name for key in faulty.keys].index("zero.png"))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "I;16", "F", "CMYK", "LA"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str):
    ramp = np.linspace(0, 255, 64 * 64).reshape(64, 64)
    if mode == "I;16":
        image = Image.fromarray((ramp * 200).astype(np.uint16))
    else:
        image = Image.fromarray(ramp.astype(np.uint8)).convert(mode)
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.tif")
    image.save(path)
    pixels = decode(path.read_bytes(), Scaling(0, 255 * 200) if mode == "I;16" else Scaling(0, 255))
    assert pixels.shape == (64, 64, 3)
    assert pixels.dtype == np.uint8
    assert pixels[-1, -1].min() > 250


def test_orientation_of_a_photograph_is_heeded(tmp_path: Path):
    image = Image.fromarray(np.zeros((8, 16, 3), dtype=np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "x.jpg", exif=exif)
    assert decode((tmp_path / "x.jpg").read_bytes()).shape == (16, 8, 3)


def test_equal_pixels_of_a_csv_are_duplicates(tmp_path: Path):
    row = " ".join(["7"] * 2304)
    (tmp_path / "f.csv").write_text(f"emotion,pixels,Usage\n0,{row},Training\n0,{row},Training\n3,{row},Training\n")
    found = inspect(read_domain(parse_spec(f"fer2013:{tmp_path}/f.csv"))[0])
    assert found.mislabelled == (("f.csv#2", "f.csv#3", "f.csv#4"),)
    assert found.conflicting.tolist() == [0, 1, 2]


def test_a_second_look_decodes_only_what_changed(tmp_path: Path, image, monkeypatch):
    from fercore.data.cache.digests import DigestMemo
    from fercore.data.images import readers

    for i in range(6):
        image(tmp_path / "set" / "anger" / f"{i}.png", i % 5)
    (tmp_path / "set" / "anger" / "bad.png").write_bytes(b"no image")
    memory = tmp_path / "memory"
    memory.mkdir()
    decoded = []
    plain = readers.with_pixels
    monkeypatch.setattr(readers, "with_pixels", lambda content: decoded.append(len(content)) or plain(content))

    def look():
        decoded.clear()
        return inspect(read_domain(parse_spec(f"folder:{tmp_path}/set"))[0], memory)

    first = look()
    assert len(decoded) == 7
    assert look().digests == first.digests
    assert len(decoded) == 1
    assert look().unusable == first.unusable
    image(tmp_path / "set" / "anger" / "2.png", 77)
    changed = look()
    assert len(decoded) == 2
    assert [a == b for a, b in zip(first.digests, changed.digests, strict=True)].count(False) == 1
    (found,) = memory.iterdir()
    content = found.read_bytes()
    for damaged in (content[:-9], content[:40] + b"\0" + content[41:], b""):
        found.write_bytes(damaged)
        assert look().digests == changed.digests
        assert len(decoded) == 7
    assert DigestMemo(read_domain(parse_spec(f"folder:{tmp_path}/set"))[0].reader, memory).path == found


def test_a_cache_in_memory_remembers_the_preflight_too(loaded, tmp_path: Path, image, monkeypatch):
    from fercore.data.images import readers
    from tests.loading import load_domains

    folder = tmp_path / "memory"
    first, settings = loaded(cache="memory", cache_dir=str(folder))
    decoded = []
    plain = readers.with_pixels
    monkeypatch.setattr(readers, "with_pixels", lambda content: decoded.append(1) or plain(content))
    assert load_domains(settings, seed=0).fingerprint() == first.fingerprint()
    assert decoded == []
    image(tmp_path / "a" / "anger" / "2.png", 4321)
    assert load_domains(settings, seed=0).fingerprint() != first.fingerprint()
    assert len(decoded) == 1
    (folder / "old.digests").write_bytes(bytes(2**20))
    os.utime(folder / "old.digests", (0, 0))
    load_domains(settings.model_copy(update={"cache_disk_mb": 1}), seed=0)
    assert len(list(folder.glob("*.digests"))) == 3  # the longest unused goes when there are too many
    shutil.rmtree(folder)
    folder.write_text("a file stands there")
    assert len(load_domains(settings, seed=0).test) == len(first.test)
