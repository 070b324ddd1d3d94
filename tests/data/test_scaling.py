"""One-channel images of 8, 16 and 32 bits: scaling against exact fractions, caches, records, bad ranges."""

from __future__ import annotations

import csv
import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fercore.config import DataSettings
from fercore.data import DomainSet, eval_batches, inspect, mismatch_lines
from fercore.data.cache.files import source_key
from fercore.data.domains.load import read_domain
from fercore.data.images.codecs import Unusable
from fercore.data.images.crops import CropReader
from fercore.data.images.readers import FileReader, decode, kind_of
from fercore.data.images.scaling import NO_RANGE, NoScale, Scaling, parse_scaling
from fercore.data.spec import parse_spec
from fercore.datasets.convert import convert
from fercore.datasets.prepare.faces import Face
from fercore.datasets.prepare.one import PrepareSettings, prepare_one
from fercore.errors import UserInputError
from fercore.records.step import PLAIN
from tests.loading import load_domains

EXPRESSIONS = ("anger", "happiness", "sadness")


def exact(value: int, low: int, high: int) -> int:
    """Round half up in whole numbers: what no floating point can get wrong."""
    inside = min(max(value, low), high)
    return (2 * 255 * (inside - low) + (high - low)) // (2 * (high - low))


def thermal(seed: int, low: int = 7000, high: int = 9000, side: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (side, side), dtype=np.uint16)


def write(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("text", ["0,1", "image", "image:1,99"])
def test_an_image_without_a_finite_value_is_unusable(tmp_path: Path, visible: Path, value: float, text: str):
    for k, name in enumerate(EXPRESSIONS * 4):
        write(tmp_path / "f" / name / f"{k}.tif", np.random.default_rng(k).random((8, 8)).astype(np.float32))
    gone = write(tmp_path / "f" / "anger" / "none.tif", np.full((8, 8), value, dtype=np.float32))
    with pytest.raises(UserInputError, match=f"1 unusable image, first {gone}: .*no finite value in it"):
        loaded(visible, f"folder:{tmp_path}/f?range={text}")
    domains = loaded(visible, f"folder:{tmp_path}/f?range={text}", max_bad_share=0.1)
    assert domains.report["target"]["preflight"]["unusable"] == 1


@pytest.fixture
def infrared(tmp_path: Path) -> Path:
    """Write six 16-bit images of three classes and return their folder."""
    for k, name in enumerate(EXPRESSIONS * 4):
        write(tmp_path / "ir" / name / f"{k}.png", thermal(k))
    return tmp_path / "ir"


def loaded(source: Path, target: str, **settings: object) -> DomainSet:
    return load_domains(DataSettings(sources=(f"folder:{source}",), target=target, size=16, **settings), seed=0)


@pytest.fixture
def visible(tree) -> Path:
    return tree("visible", dict.fromkeys(EXPRESSIONS, 4))


@pytest.mark.parametrize(("low", "high"), [(0, 65535), (0, 255), (1000, 1001), (123, 60123), (0, 510), (7, 8 + 254)])
def test_a_fixed_range_is_exact_for_every_16_bit_value(low: int, high: int):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    found = Scaling(low, high).apply(values).ravel()
    assert found.tolist() == [exact(value, low, high) for value in range(65536)]
    assert found[low] == 0
    assert found[high] == 255
    assert found[0] == 0  # cut off below
    assert found[65535] == 255  # and above


def test_an_image_range_reaches_both_ends():
    values = thermal(1)
    low, high = int(values.min()), int(values.max())
    found = Scaling(0, 100, per_image=True).apply(values)
    assert found.min() == 0
    assert found.max() == 255
    assert found.ravel().tolist() == [exact(v, low, high) for v in values.ravel().tolist()]


def test_percentiles_cut_off_the_tails():
    values = np.arange(101, dtype=np.uint16) * 10  # percentile p is 10 p
    found = Scaling(10, 90, per_image=True).apply(values)
    assert found.tolist() == [exact(10 * p, 100, 900) for p in range(101)]
    hot = values.copy()
    hot[-1] = 60000
    assert (Scaling(10, 90, per_image=True).apply(hot) == found).all()


def test_values_that_are_no_numbers():
    values = np.array([[np.nan, -np.inf, 10.0], [20.0, 30.0, np.inf]], dtype=np.float32)
    for scaling in (Scaling(10, 30), Scaling(0, 100, per_image=True)):
        assert scaling.apply(values).tolist() == [[0, 0, 0], [128, 255, 255]]
    with pytest.raises(NoScale, match="no finite value"):
        Scaling(0, 100, per_image=True).apply(np.full((2, 2), np.nan))
    assert not Scaling(0, 100, per_image=True).apply(np.full((2, 2), 7.0)).any()
    with pytest.raises(NoScale, match="8-bit image under the range 0,1023"):
        Scaling(0, 1023).apply(np.zeros((2, 2), dtype=np.uint8))


def big_endian(path: Path, values: np.ndarray) -> Path:
    """Write an uncompressed big-endian TIFF by hand: PIL itself writes little-endian ones."""
    import struct

    height, width = values.shape
    entries = [
        (256, 4, width), (257, 4, height), (258, 3, 16 << 16), (259, 3, 1 << 16), (262, 3, 1 << 16), (273, 4, 8),
        (277, 3, 1 << 16), (278, 4, height), (279, 4, 2 * width * height),
    ]  # fmt: skip
    pixels = values.astype(">u2").tobytes()
    table = b"".join(struct.pack(">HHII", tag, kind, 1, value) for tag, kind, value in entries)
    path.write_bytes(
        struct.pack(">2sHI", b"MM", 42, 8 + len(pixels)) + pixels + struct.pack(">H", len(entries)) + table + bytes(4)
    )
    return path


@pytest.mark.parametrize("kind", ["png", "tif", "big", "pgm", "int32", "float"])
def test_every_file_of_the_same_values_gives_the_same_pixels(tmp_path: Path, kind: str):
    values = thermal(3, 0, 65536)
    suffix = {"big": "tif", "int32": "tif", "float": "tif"}.get(kind, kind)
    path = tmp_path / f"x.{suffix}"
    if kind == "big":
        big_endian(path, values)
        with Image.open(path) as image:
            assert image.mode == "I;16B"
    else:
        stored = {"int32": np.int32, "float": np.float32}.get(kind, np.uint16)
        write(path, values.astype(stored))
    pixels = decode(path.read_bytes(), Scaling(1000, 60000))
    expected = np.array([exact(v, 1000, 60000) for v in values.ravel().tolist()], dtype=np.uint8).reshape(12, 12)
    assert (pixels == expected[:, :, None]).all()
    with pytest.raises(Unusable, match="no range"):
        decode(path.read_bytes())
    with pytest.raises(Unusable, match="no range"):
        FileReader((str(path),)).digest(0)


@pytest.mark.parametrize("largest", [100, 1023, 4095, 65534, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_a_pgm_file_keeps_its_own_values(largest: int, plain: bool):
    values = np.linspace(0, largest, 144).astype(np.uint16)
    head = f"P{2 if plain else 5}\n12 12\n{largest}\n".encode()
    dtype = ">u2" if largest > 255 else np.uint8
    content = head + (" ".join(map(str, values)).encode() if plain else values.astype(dtype).tobytes())
    low, high = largest // 4, min(largest, 60000)
    expected = [exact(v, low, high) for v in values.tolist()]
    assert decode(content, Scaling(low, high))[:, :, 0].ravel().tolist() == expected
    if largest <= 255:  # without a range white is white, as any viewer shows it
        assert decode(content).max() == 255


def sixteen_bits_with_alpha(values: np.ndarray) -> bytes:
    """Write a PNG of 16-bit grey and alpha by hand: PIL writes none."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape
    rows = np.stack([values, np.full_like(values, 65535)], -1).astype(">u2")
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    head = struct.pack(">IIBBBBB", width, height, 16, 4, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_grey_with_alpha(tmp_path: Path):
    grey = Image.fromarray(np.arange(50, 150, dtype=np.uint8).reshape(10, 10))
    grey.convert("LA").save(tmp_path / "la.png")
    content = (tmp_path / "la.png").read_bytes()
    assert (decode(content)[:, :, 1] == np.asarray(grey)).all()
    assert (decode(content, Scaling(60, 100))[:, :, 1] == Scaling(60, 100).apply(np.asarray(grey))).all()
    assert kind_of(str(tmp_path / "la.png")) == "one_channel"
    deep = sixteen_bits_with_alpha(thermal(1))
    for scaling in (None, Scaling(0, 65535)):
        with pytest.raises(Unusable, match="16 bits with alpha"):
            decode(deep, scaling)


def test_a_turned_infrared_image_is_turned_back(tmp_path: Path):
    values = thermal(4)[:, :6]
    image = Image.fromarray(values)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "x.tif", exif=exif)
    expected = np.rot90(Scaling(7000, 9000).apply(values), -1)
    assert (decode((tmp_path / "x.tif").read_bytes(), Scaling(7000, 9000))[:, :, 0] == expected).all()


def test_grey_of_8_bits_is_scaled_and_colour_is_not(tmp_path: Path, image):
    grey = write(tmp_path / "g.png", np.arange(50, 150, dtype=np.uint8).reshape(10, 10))
    stretched = decode(grey.read_bytes(), Scaling(0, 100, per_image=True))
    assert stretched.min() == 0
    assert stretched.max() == 255
    assert decode(grey.read_bytes()).max() == 149
    colour = image(tmp_path / "c.png", 1).read_bytes()
    assert (decode(colour, Scaling(0, 100, per_image=True)) == decode(colour)).all()


def test_the_same_crop_of_a_scaled_file(tmp_path: Path):
    values = thermal(5)
    path = str(write(tmp_path / "x.png", values))
    reader = CropReader((path,), ((2, 3, 8, 9),), scaling=Scaling(7000, 9000))
    assert (reader.read(0)[:, :, 1] == Scaling(7000, 9000).apply(values)[3:9, 2:8]).all()
    plain = CropReader((path,), ((2, 3, 8, 9),))
    with pytest.raises(Unusable, match="no range"):
        plain.digest(0)
    assert reader.identity(0) != plain.identity(0)


def test_a_deep_image_without_a_range_is_one_line(infrared: Path, visible: Path):
    with pytest.raises(UserInputError) as caught:
        loaded(visible, f"folder:{infrared}")
    text = str(caught.value)
    assert text.startswith(NO_RANGE)
    assert str(infrared) in text
    assert "add ?range=LO,HI" in text
    assert "\n" not in text
    # One such image among many is no less of a guess.
    write(visible / "anger" / "deep.png", thermal(9))
    with pytest.raises(UserInputError, match="no range to scale it by"):
        loaded(visible, f"folder:{infrared}?range=image", max_bad_share=1.0)


def test_what_was_done_stands_in_the_report_and_the_fingerprint(infrared: Path, visible: Path):
    found = {text: loaded(visible, f"folder:{infrared}?range={text}") for text in ("7000,9000", "image", "image:1,99")}
    for text, domains in found.items():
        scaling = domains.report["target"]["scaling"]
        assert scaling == {"range": text, "one_channel": 12, "deep": 12, "colour": 0}
        assert any(
            f"12 one-channel images scaled to 8 bits by range={text}" in s for s in mismatch_lines(domains.report)
        )
        assert "scaling" not in domains.report["sources"][0]
        json.dumps(domains.report)
    fingerprints = [domains.fingerprint()["test"]["sha256"] for domains in found.values()]
    assert len(set(fingerprints)) == 3
    again = loaded(visible, f"folder:{infrared}?range=7000.0,9e3".replace("9e3", "9000"))
    assert again.fingerprint()["test"]["sha256"] == fingerprints[0]


def test_batches_are_the_same_with_any_cache(infrared: Path, visible: Path, tmp_path: Path):
    images = []
    places = {"cache_dir": str(tmp_path / "cache")}
    for text in ("7000,9000", "image"):
        for settings in ({"cache_mb": 0}, {}, {"cache": "disk", **places}, {"cache": "disk", **places}):
            domains = loaded(visible, f"folder:{infrared}?range={text}", **settings)
            data = DataSettings(size=16, **settings)
            batches = eval_batches(domains.test, data, mean=(0, 0, 0), std=(1, 1, 1))
            images.append(next(batches).images[PLAIN].numpy())
    assert all((each == images[0]).all() for each in images[1:4])
    assert all((each == images[4]).all() for each in images[5:])
    assert not (images[0] == images[4]).all()


def test_caches_know_ranges_apart(infrared: Path, tmp_path: Path):
    paths = tuple(map(str, sorted(infrared.rglob("*.png"))))
    scalings = (None, Scaling(0, 65535), Scaling(0, 65534), Scaling(0, 100, per_image=True), Scaling(0, 100))
    readers = [FileReader(paths, scaling=scaling) for scaling in scalings]
    assert len({source_key(reader, 20) for reader in readers}) == len(readers)
    # What was found good with a range is not remembered as good without one.
    assert not inspect(read_domain(parse_spec(f"folder:{infrared}?range=image"))[0], tmp_path).unusable
    assert len(inspect(read_domain(parse_spec(f"folder:{infrared}"))[0], tmp_path).unusable) == len(paths)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5", "cannot read option range='5'"),
        ("1,2,3", "cannot read"),
        ("low,high", "cannot read"),
        ("nan,1", "cannot read"),
        ("0,inf", "cannot read"),
        ("1e3,2e3", "cannot read"),
        ("image:", "cannot read"),
        ("image:5", "cannot read"),
        ("picture", "cannot read"),
        ("fixed:0,255", "cannot read"),
        ("9,9", "does not rise"),
        ("9,3", "does not rise"),
        ("image:99,1", "does not rise"),
        ("image:-1,99", "percentiles lie from 0 to 100"),
        ("image:1,101", "percentiles lie from 0 to 100"),
        (f"0,1{'0' * 40}", "does not rise"),
    ],
)
def test_bad_ranges_are_one_clear_line(text: str, words: str):
    with pytest.raises(UserInputError) as caught:
        parse_scaling(parse_spec(f"folder:x?range={text}"))
    assert words in str(caught.value)
    assert "range=LO,HI" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_good_ranges_are_read():
    read = {
        text: parse_scaling(parse_spec(f"folder:x?range={text}")) for text in ("-10.5,40", "IMAGE", "image:.5,99.5")
    }
    assert list(read.values()) == [
        Scaling(-10.5, 40),
        Scaling(0, 100, per_image=True),
        Scaling(0.5, 99.5, per_image=True),
    ]
    assert [str(scaling) for scaling in read.values()] == ["-10.5,40", "image", "image:0.5,99.5"]
    assert parse_scaling(parse_spec("folder:x")) is None
    for text in ("0,10000000000000000", "0,0.00001", "image:0.00001,99", "-0.25,1000000"):
        assert str(parse_scaling(parse_spec(f"folder:x?range={text}"))) == text  # what reports and `convert` hand on
    assert str(parse_scaling(parse_spec("folder:x?range=-0,+1"))) == "0,1"


def test_a_range_that_has_no_effect_is_refused(infrared: Path, visible: Path):
    with pytest.raises(UserInputError, match="range on a dataset without a one-channel image"):
        loaded(visible, f"folder:{visible}?range=image")
    with pytest.raises(UserInputError, match="range on synthfer, whose pixels are no image files"):
        loaded(visible, "synthfer:nir?n=40&range=image")
    grey = write(infrared / "anger" / "8bit.png", np.zeros((8, 8), dtype=np.uint8))
    with pytest.raises(UserInputError, match="8-bit image under the range 0,65535") as caught:
        loaded(visible, f"folder:{infrared}?range=0,65535")
    assert str(grey) in str(caught.value)


def test_converted_datasets_hand_the_range_on(infrared: Path, tmp_path: Path):
    spec = parse_spec(f"folder:{infrared}?range=7000,9000")
    table, _ = read_domain(spec)
    for copy in (False, True):
        made = parse_spec(convert(spec, tmp_path / f"out{copy}", copy=copy).spec)
        assert made.options["range"] == "7000,9000"
        again, _ = read_domain(made)
        assert all((again.read(i) == table.read(i)).all() for i in range(len(table)))


def test_prepared_images_are_scaled(infrared: Path, tmp_path: Path):
    prepared = FileReader((str(next(infrared.rglob("*.png"))),), scaling=Scaling(7000, 9000))
    face = Face((0.0, 0.0, 12.0, 12.0), 1.0, None)
    settings = PrepareSettings(size=12, align="box", min_size=1)
    record = prepare_one(prepared, 0, tmp_path / "face", settings, None, [face])
    with Image.open(tmp_path / record["file"]) as image:
        assert image.mode == "L"
        assert (np.asarray(image) == prepared.read(0)[:, :, 0]).all()
    plain = FileReader(prepared.paths)
    assert NO_RANGE in prepare_one(plain, 0, tmp_path / "none", settings, None, [face])["refused"]


def manifest(path: Path, rows: list[tuple[str, ...]], columns: str) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([tuple(columns.split(",")), *rows])
    return path


def test_pairs_of_visible_and_deep_infrared_by_manifest(tmp_path: Path, image):
    rows = []
    for k, name in enumerate(EXPRESSIONS * 4):
        person = f"p{k % 4}"
        sequence, time = f"{person}/{name}", str(k)
        image(tmp_path / f"v{k}.png", k)
        write(tmp_path / f"t{k}.tif", thermal(k))
        rows += [
            (f"v{k}.png", name, "visible", person, sequence, time),
            (f"t{k}.tif", name, "thermal", person, sequence, time),
        ]
    write(tmp_path / "alone.tif", thermal(99))
    rows.append(("alone.tif", "anger", "thermal", "p9", "p9/anger", "0"))
    path = manifest(tmp_path / "all.csv", rows, "path,label,domain,subject,sequence,time")
    for source, target in (
        (f"nvie:{path}?paired=true", f"nvie:{path}?spectrum=thermal&paired=true&range=image"),
        (f"manifest:{path}?domain=visible", f"manifest:{path}?domain=thermal&range=7000,9000"),
    ):
        data = DataSettings(sources=(source,), target=target, size=16)
        domains = load_domains(data, seed=0)
        assert len(domains.sources[0]) == 12
        assert domains.report["target"]["division"] == "by subject"
        assert domains.report["target"]["scaling"]["deep"] in (12, 13)
    with pytest.raises(UserInputError, match="no range to scale it by"):
        load_domains(DataSettings(sources=(source,), target=f"nvie:{path}?spectrum=thermal", size=16), seed=0)
    mixed = parse_spec(f"nvie:{path}?spectrum=all&range=7000,9000")
    assert len(read_domain(mixed)[0]) == 25


def test_every_condition_of_oulu_casia(tmp_path: Path, image):
    places = product(("VL", "NI"), ("Strong", "Weak", "Dark"), ("P001", "P002"), ("Anger", "Happiness"), range(4))
    for k, (*folders, frame) in enumerate(places):
        path = tmp_path.joinpath("oulu", *folders, f"{frame:03d}.png")
        write(path, thermal(k)) if "NI" in folders else image(path, k)
    root = tmp_path / "oulu"
    for light in ("Strong", "Weak", "Dark"):
        data = DataSettings(
            sources=(f"oulu:{root}?spectrum=VL&light=Strong&neutral=none",),
            target=f"oulu:{root}?spectrum=NI&light={light}&neutral=none&range=0,16383&shots=1",
            size=16,
        )
        domains = load_domains(data, seed=0)
        assert domains.classes == ("anger", "happiness")
        assert f"NI/{light}" in domains.test.keys[0].replace("\\", "/")
        assert domains.report["target"]["division"] == "by subject"
        assert domains.report["target"]["scaling"] == {"range": "0,16383", "one_channel": 12, "deep": 12, "colour": 0}
        assert domains.report["sources"][1]["scaling"]["range"] == "0,16383"
        assert not set(domains.sources[1].subjects) & set(domains.test.subjects)
