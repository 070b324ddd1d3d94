"""Data of other hands: tables, lists, splits, protocols, names, images, units and caches, whole and damaged."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
import layouts
from damage import Boundary, Harm, any_bytes, any_json, any_text, any_toml, campaign, seeds

from fercore.au import read_au_file
from fercore.config import DataSettings, build_config
from fercore.data.cache import stores as caching
from fercore.data.cache.digests import DigestMemo
from fercore.data.domains.labelled import divide_labels
from fercore.data.domains.load import read_chosen, read_domain
from fercore.data.domains.sealed import sealed
from fercore.data.domains.split import divide, split_record
from fercore.data.images.codecs import DECODERS
from fercore.data.images.readers import decode
from fercore.data.labels import CANONICAL
from fercore.data.spec import parse_spec
from fercore.datasets.prepare.boxes import read_boxes
from fercore.datasets.prepare.journal import Journal
from fercore.datasets.protocols import describe_protocol, load_protocol, protocol_layer

SEVEN = CANONICAL[:7]
N = 14


@cache
def picture(seed: int = 0, form: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


PICTURES = {f"{k}.png": picture(k) for k in range(N)}


def of_text(spec: str, text: str, name: str = "f.csv", harm: Harm = any_text, **more: bytes) -> Boundary:
    """Return the boundary of a text file that a SPEC names; {} is its folder."""
    files = {name: text.encode(), **PICTURES, **more}
    return Boundary(files, lambda folder: read_chosen(parse_spec(spec.format(folder))), harm, tuple(PICTURES), 0.1)


ROWS = "".join(f"{k}.png,{SEVEN[k % 7]},s{k // 4},{('train', 'test')[k % 2]}\n" for k in range(N))
LIST = "".join(f"{k}.png {SEVEN[k % 7]}\n" for k in range(N))
PIXELS = " ".join(["7"] * 2304)
FER = "emotion,pixels,Usage\n" + "".join(f"{k % 7},{PIXELS},Training\n" for k in range(N))
EXPW = "".join(f"{k}.png 0 1 1 11 11 50 {k % 7}\n" for k in range(N))
NVIE = "path,label,domain,sequence,time\n"
NVIE += "".join(f"{k}.png,fear,{('visible', 'thermal')[k % 2]},q{k // 2},1\n" for k in range(N))
AFFECT = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal\n"
AFFECT += "".join(f"{k}.png,1,1,9,9,1.0;2.0,{k % 8},0.1,-0.2\n" for k in range(N))
NAMES = '"Freude" = "happiness"\n"Wut" = "anger"\n"Rest" = ""\n'
PROTOCOL = """title = "t"
paper = "p"
target = "synthfer:wild?n=20"
transductive = false
classes = ["anger", "fear"]
n_test = 10
[sources]
s = "synthfer:studio?n=20"
[settings.data]
size = 48
[methods.source_only]
label_smoothing = 0.1
"""
OPENFACE = "face_id, confidence, success, AU01_r, AU02_r, AU01_c, AU28_c\n0, 0.9, 1, 4.0, 3.5, 0, 1\n"
PYFEAT = "input,FaceScore,AU01,AU02\n" + "".join(f"{k}.png,0.9,0.{k % 10},0.5\n" for k in range(N))
LIBRE = "filename,au_1,au_2,au_1_intensity,au_6_intensity\n" + "".join(f"{k}.png,1,0,0.5,5\n" for k in range(N))
VIDEO = "frame,input,AU01,AU12\n" + "".join(f"{k},clip.mp4,0.5,0.25\n" for k in range(N))
BOXES = "input,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight,FaceScore\n0.png,1,2,3,4,0.9\n"


def protocol(folder: Path) -> None:
    found = load_protocol(f"{folder}/p.toml")
    describe_protocol("p", found)
    build_config([{**protocol_layer(found, folder), "protocol": "p"}], ["source_only"])


@cache
def generated(n: int = 20):
    return read_domain(parse_spec(f"synthfer:wild?n={n}"))[0]


def split(folder: Path) -> None:
    read_chosen(parse_spec(f"synthfer:wild?n=20&split_file={folder}/s.json"))


def labelled(folder: Path) -> None:
    pool = generated()
    spec = parse_spec(f"synthfer:wild?n=20&label_file={folder}/l.json")
    content = {row: f"{row:032x}" for row in pool.rows.tolist()}
    divide_labels(pool, content, CANONICAL, spec, seed=0).report()


def split_files() -> dict[str, bytes]:
    table = generated()
    parts = divide(table, {"train": 0.5, "test": 0.5}, by="class", seed=0)
    return {"s.json": json.dumps(split_record(table, parts, by="class")).encode()}


def labelled_files() -> dict[str, bytes]:
    pool = generated()
    spec = parse_spec("synthfer:wild?n=20&labels=7")
    content = {row: f"{row:032x}" for row in pool.rows.tolist()}
    record = divide_labels(pool, content, CANONICAL[:7], spec, seed=0).record
    return {"l.json": json.dumps(record).encode()}


def resealed(record: dict) -> dict:
    record.pop("sha256", None)
    return sealed(record)


def units(folder: Path) -> None:
    for name in ("openface.csv", "pyfeat.csv", "libre.csv", "video.csv"):
        path = folder / "openface" if name == "openface.csv" else folder / name
        read_au_file(path, 0.5)


def boxes(folder: Path) -> None:
    read_boxes(folder / "b.csv", ["/data/0.png"])


def journal(folder: Path) -> None:
    (folder / "j").mkdir(exist_ok=True)
    (folder / "j" / "journal.jsonl").write_bytes((folder / "journal.jsonl").read_bytes())
    Journal(folder / "j", {}).close()


def images(folder: Path) -> None:
    """Decode the one that is damaged; all whole ones the first time."""
    for path in sorted(folder.glob("*.img")):
        found = decode(path.read_bytes())
        assert found.shape[2] == 3
        assert found.dtype == np.uint8


@cache
def faces(folder: Path):
    """Return a table of image files that stay whole, its reader remembered by the caches."""
    for k in range(N):
        path = folder / "faces" / SEVEN[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(k))
    return read_domain(parse_spec(f"folder:{folder}/faces"))[0]


def cached(folder: Path) -> None:
    """Read images through the disk cache and the memory of digests: whatever is in them, the right ones come out."""
    settings = DataSettings(cache="disk", cache_dir=str(folder / "cache"), size=16)
    table = faces(folder)
    caching._STORES.clear()
    caching.reserve([table], settings)
    found = caching.fetch(table, np.arange(len(table)), settings)
    assert np.array_equal(found, expected(folder))
    reader = table.reader
    memo = DigestMemo(reader, folder / "cache")
    rows = list(range(len(table)))
    told = memo.known(rows)
    assert all(said in ("", right) for said, right in zip(told, digests(folder), strict=True))
    memo.remember(rows, list(digests(folder)), memo.stamps(rows))


@cache
def expected(folder: Path) -> np.ndarray:
    table = faces(folder)
    return caching.fetch(table, np.arange(len(table)), DataSettings(size=16, cache_mb=0))


@cache
def digests(folder: Path) -> tuple[str, ...]:
    reader = faces(folder).reader
    return tuple(reader.digest(row) for row in range(len(reader)))


def cache_files(folder: Path) -> Boundary:
    cached(folder)
    found = {f"cache/{path.name}": path.read_bytes() for path in (folder / "cache").iterdir()}
    return Boundary(found, cached, any_bytes, refused=0)


def layout(make: Callable[[Path], layouts.Painter], spec: str, folder: Path) -> Boundary:
    """Return the boundary of a dataset's own layout: every file of it that is no image is damaged."""
    make(folder)
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    pictures = tuple(name for name in found if Path(name).suffix in (".png", ".jpg", ".jpeg", ".tiff"))
    harm = any_bytes if "npy" in make.__name__ else any_text
    return Boundary(found, lambda folder: read_domain(parse_spec(spec.format(folder))), harm, pictures, refused=0.1)


EXPW_FILES = {"label.lst": EXPW.encode(), **{f"image/{name}": content for name, content in PICTURES.items()}}
NAMES_FILES = {"map.toml": NAMES.encode(), **{f"set/{name}/a.png": picture() for name in ("Freude", "Wut", "Rest")}}
UNITS = {"openface/a.csv": OPENFACE, "pyfeat.csv": PYFEAT, "libre.csv": LIBRE, "video.csv": VIDEO}
JOURNAL = b'{"how": {}}\n{"place": 1, "key": "a", "mark": []}\n'


def reading(spec: str) -> Callable[[Path], object]:
    return lambda folder: read_domain(parse_spec(spec.format(folder)))


BOUNDARIES: dict[str, Boundary | Callable[[Path], Boundary]] = {
    "manifest": of_text("manifest:{}/f.csv", "path,label,subject,split\n" + ROWS),
    "list": of_text("list:{}/f.csv", LIST),
    "fer2013": Boundary({"f": FER.encode()}, reading("fer2013:{}/f"), any_text),
    "nvie": of_text("nvie:{}/f.csv?paired=true", NVIE),
    "affectnet": of_text("affectnet:{}", AFFECT, "training.csv"),
    "affectnet_npy": partial(layout, layouts.affectnet_npy, "affectnet:{}"),
    "ckplus": partial(layout, layouts.ckplus, "ckplus:{}"),
    "lacmfer": partial(layout, layouts.lacmfer, "lacmfer:{}/data?domain=raf"),
    "cdfer": partial(layout, layouts.cdfer, "cdfer:{}?dataset=raf"),
    "expw": Boundary(EXPW_FILES, reading("expw:{}"), any_text, tuple(EXPW_FILES)[1:]),
    "names": Boundary(NAMES_FILES, reading("folder:{0}/set?names={0}/map.toml"), any_toml, tuple(NAMES_FILES)[1:]),
    "protocol": Boundary({"p.toml": PROTOCOL.encode()}, protocol, any_toml),
    "split": Boundary(split_files(), split, any_json(resealed)),
    "labelled": Boundary(labelled_files(), labelled, any_json(resealed)),
    "units": Boundary({name: text.encode() for name, text in UNITS.items()}, units, any_text),
    "boxes": Boundary({"b.csv": BOXES.encode()}, boxes, any_text),
    "journal": Boundary({"journal.jsonl": JOURNAL}, journal, any_text, refused=0),
    "images": Boundary({f"{form}.img": picture(3, form) for form in DECODERS}, images, any_bytes),
    "caches": cache_files,
}


@pytest.mark.slow
@pytest.mark.parametrize("number", seeds())
@pytest.mark.parametrize("name", BOUNDARIES)
def test_any_shape(tmp_path, name, number):
    boundary = BOUNDARIES[name]
    campaign(boundary if isinstance(boundary, Boundary) else boundary(tmp_path), tmp_path, number)
