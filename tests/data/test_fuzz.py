"""Parsers meet arbitrary text: they read it or say in one line what is wrong, and nothing else.

A short run by default; FERCORE_FUZZ_SECONDS=600 goes on for that long with every test, from new seeds.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import layouts

from fercore.config import parse_assignment, read_toml
from fercore.data.domains.domain_set import read_domain
from fercore.data.domains.split import parse_shares, read_split
from fercore.data.formats.ckplus import read_emotion
from fercore.data.images.codecs import Unusable
from fercore.data.images.crops import CropReader
from fercore.data.images.readers import decode
from fercore.data.spec import FORMATS, parse_spec
from fercore.datasets.prepare.boxes import read_boxes
from fercore.datasets.prepare.journal import Journal
from fercore.datasets.protocols import load_protocol
from fercore.errors import UserInputError

SECONDS = float(os.environ.get("FERCORE_FUZZ_SECONDS", "0"))
EXAMPLES = 200 if SECONDS else 40
pytestmark = pytest.mark.timeout(max(300, 2 * SECONDS))


def fuzz(*strategies: st.SearchStrategy) -> Callable:
    """Run a test on examples of the strategies: a few, or for FERCORE_FUZZ_SECONDS."""

    def wrap(test: Callable) -> Callable:
        def run() -> None:
            few = settings(max_examples=EXAMPLES, deadline=None, database=None)
            end, number = time.monotonic() + SECONDS, 0
            while number == 0 or time.monotonic() < end:
                hypothesis.seed(number + int(time.time()) * bool(SECONDS))(few(given(*strategies)(test)))()
                number += 1

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return run

    return wrap


def survives(call: Callable[[], object]) -> None:
    message = "fine"
    try:
        call()
    except (UserInputError, Unusable) as error:
        message = str(error)
    assert message
    assert "\n" not in message


def reads(spec: str) -> None:
    survives(lambda: read_domain(parse_spec(spec)))


def write(folder: str, name: str, content: str | bytes) -> Path:
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return path


def pieces(*some: str) -> st.SearchStrategy[str]:
    """Texts that are put together from the words of a format, and from anything."""
    shared = ["", "../x", '"', "\\", ",", "\n", "é", "\r", "\0", " ", "-1", "nan", "1e999", "99999999999999999999", "#"]
    return st.lists(st.one_of(st.sampled_from([*some, *shared]), st.text(max_size=5)), max_size=30).map("".join)


names = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=12)
anything = st.one_of(st.binary(max_size=60), pieces("anger", "a.png").map(lambda t: t.encode("utf-8", "surrogatepass")))


@pytest.mark.slow
@fuzz(
    st.one_of(
        st.text(max_size=40),
        st.tuples(
            st.sampled_from([*FORMATS, "x"]),
            pieces("?", "=", "&", "seed", "split", "drop", "divide", "class:90/10", "labels", "train"),
        ).map(":".join),
    )
)
def test_specs(text: str):
    survives(lambda: parse_spec(text))


@fuzz(
    pieces(
        "drop=",
        "anger",
        "divide=",
        "class:",
        "subject:",
        "90/10",
        "/",
        "&",
        "labelled=",
        "beyond_labelled=",
        "7",
        "100",
        "label_rule=",
        "adacm",
        "limit=",
        "split=",
        "train",
        "seed=",
    )
)
def test_options_that_reshape(text: str):
    reads(f"synthfer:wild?n=14&{text}")


@fuzz(
    pieces("path", "label", "a.png", "anger", "3", ";", "\t", "image,emotion\n"),
    st.sampled_from(["list", "manifest", "fer2013"]),
    st.booleans(),
)
def test_text_files(text: str, form: str, root: bool):
    with tempfile.TemporaryDirectory() as folder:
        file = write(folder, "f", text)
        reads(f"{form}:{file}" + (f"?root={folder}" if root and form != "fer2013" else ""))


@fuzz(pieces("path", "label", "a.png", "anger", "train"))
def test_manifest_rows(text: str):
    with tempfile.TemporaryDirectory() as folder:
        write(folder, "f", "path,label,split,subject\n" + text)
        reads(f"manifest:{folder}/f")


@fuzz(
    pieces("a.png", "anger", "visible", "thermal", "3", "seq"),
    st.sampled_from(["visible", "thermal", "all"]),
    st.booleans(),
)
def test_nvie_rows(text: str, spectrum: str, paired: bool):
    with tempfile.TemporaryDirectory() as folder:
        write(folder, "a.png", b"x")
        write(folder, "f", "path,label,domain,sequence,time\na.png,fear,visible,q,1\n" + text)
        reads(f"nvie:{folder}/f?spectrum={spectrum}&paired={str(paired).lower()}")


@fuzz(pieces("emotion,pixels,Usage\n", "0,", "1 2", "Training", "PrivateTest"), st.binary(max_size=20))
def test_fer2013_rows(text: str, tail: bytes):
    with tempfile.TemporaryDirectory() as folder:
        write(folder, "f", b"emotion,pixels,Usage\n" + text.encode("utf-8", "surrogatepass") + tail)
        reads(f"fer2013:{folder}/f")


VOTES = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"


@fuzz(pieces("Training,", "a.png,", "0,9,0,0,0,0,0,0,0,1", "PublicTest"), pieces("a.png,", "(0, 0, 48, 48)", "9", ","))
def test_ferplus_rows(votes: str, labels: str):
    with tempfile.TemporaryDirectory() as folder:
        write(folder, "fer2013new.csv", VOTES + votes)
        write(folder, "fer2013.csv", "emotion,pixels,Usage\n0," + " ".join(["1"] * 2304) + ",Training\n")
        reads(f"ferplus:{folder}")
        write(folder, "g/FER2013Train/label.csv", labels)
        reads(f"ferplus:{folder}/g")


@fuzz(pieces("train_1.jpg 5", "test_1.jpg", "7", "\n"), st.sampled_from(["aligned", "original"]))
def test_rafdb_lists(text: str, images: str):
    with tempfile.TemporaryDirectory() as folder:
        write(folder, "EmoLabel/list_patition_label.txt", text)
        write(folder, f"Image/{images}/train_1_aligned.jpg", b"x")
        reads(f"rafdb:{folder}?images={images}")


@fuzz(pieces("a.png 0 1 2 3 4 5 6\n", "a.png", "0 ", "inf "), st.sampled_from(["stratified", "none"]))
def test_expw_lists(text: str, parts: str):
    with tempfile.TemporaryDirectory() as folder:
        write(folder, "image/a.png", b"x")
        write(folder, "label.lst", text)
        reads(f"expw:{folder}?parts={parts}")


@fuzz(pieces("../datasets/a.png 3\n", "..\\", "5", "a.png"), st.sampled_from(["ck", "raf", "oulu"]), st.booleans())
def test_lacmfer_lists(text: str, domain: str, copies: bool):
    with tempfile.TemporaryDirectory() as folder:
        write(folder, "datasets/a.png", b"x")
        for name in ("CK", "RAF", "RAF_test", "Oulu"):
            write(folder, f"data/{name}.txt", text)
        reads(f"lacmfer:{folder}/data?domain={domain}" + ("&duplicates=keep&overlap=keep" if copies else ""))


@pytest.mark.slow
@fuzz(
    pieces("train_00001.jpg 4\n", "m/train.jpg 2 2 20 20 9\n", "train.jpg", " 1 2 3 4"),
    st.sampled_from(["raf", "afe", "fer2013", "expw", "jaffe"]),
)
def test_cdfer_lists(text: str, dataset: str):
    with tempfile.TemporaryDirectory() as folder:
        base = "Asian_Facial_Expression/AsianMovie_0725_0730"
        write(folder, "RAF/basic/EmoLabel/list_patition_label.txt", text)
        write(folder, "RAF/basic/Annotation/boundingbox/train_00001.txt", text)
        for part in ("train", "val"):
            write(folder, f"{base}/list/{part}_list.txt", text)
            write(folder, f"FER2013/list/{part}_list.txt", text)
            write(folder, f"ExpW/list/Landmarks_5/{part}_list_5landmarks.txt", text)
        write(folder, "JAFFE/list/list_putao.txt", text)
        reads(f"cdfer:{folder}?dataset={dataset}")


@fuzz(pieces("a.png", "1,", "2", "NULL", "0.5", "10"))
def test_affectnet_rows(text: str):
    with tempfile.TemporaryDirectory() as folder:
        write(folder, "a.png", b"x")
        write(folder, "training.csv", layouts.AFFECT_HEADER + "a.png,1,1,9,9,,1,0,0\n" + text)
        reads(f"affectnet:{folder}")


NPY = st.sampled_from(
    [b"\x93NUMPY\x01\x00", b"\x93NUMPY\x02\x00v\x00", b"{'descr': '<U1', 'fortran_order': False, 'shape': ()}", b"\n"]
)


@fuzz(st.lists(st.one_of(NPY, st.binary(max_size=20)), max_size=6).map(b"".join))
def test_affectnet_annotations(content: bytes):
    with tempfile.TemporaryDirectory() as folder:
        write(folder, "train_set/images/1.jpg", b"x")
        write(folder, "train_set/annotations/1_exp.npy", content)
        reads(f"affectnet:{folder}")


@fuzz(anything)
def test_ckplus_emotions(content: bytes):
    with tempfile.TemporaryDirectory() as folder:
        write(folder, "S1_emotion.txt", content)
        survives(lambda: read_emotion(Path(folder)))


@pytest.mark.slow
@fuzz(
    st.lists(
        st.one_of(
            names,
            st.sampled_from(
                [
                    "KA.AN1.39.tiff",
                    "anger",
                    "S010_004_00000017.png",
                    "x.png",
                    "VL",
                    "Strong",
                    "P001",
                    "Train",
                    "Val",
                    "cohn-kanade-images",
                    "Emotion",
                    "train",
                    "0",
                    ".png",
                ]
            ),
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(["jaffe", "ckplus", "oulu", "sfew", "affectnet", "folder", "rafdb", "expw", "ferplus", "cdfer"]),
)
def test_file_names_and_trees(parts: list[str], form: str):
    with tempfile.TemporaryDirectory() as folder:
        try:
            for depth in range(len(parts)):
                write(folder, "/".join(["x", *parts[depth:]]) + (".png" if depth % 2 else ""), b"x")
        except OSError:  # a name this file system has no room for, or a file where a folder should be
            return
        reads(f"{form}:{folder}/x" + ("?dataset=ck" if form == "cdfer" else ""))


PROTOCOL = """title = "t"
paper = "p"
target = "synthfer:wild"
transductive = false
classes = ["anger", "fear"]
[sources]
s = "synthfer:studio"
"""


@fuzz(
    pieces("title", "=", '"t"', "[sources]", "classes", '["anger"]', "true", "{root}", "[settings]", "a.b"),
    st.integers(0, 160),
)
def test_protocols_and_settings(text: str, at: int):
    with tempfile.TemporaryDirectory() as folder:
        file = write(folder, "p.toml", PROTOCOL[:at] + text + PROTOCOL[at:])
        survives(lambda: load_protocol(str(file)))
        survives(lambda: read_toml(file))
    survives(lambda: parse_assignment(text))


@fuzz(
    pieces('{"kind": "fercore split", "schema": 1, "parts": {"a": "train"}}', "{", "}", '"', ":", "[", "null"),
    pieces("train=", "0.8", "test=", "inf"),
)
def test_split_files(text: str, shares: str):
    with tempfile.TemporaryDirectory() as folder:
        file = write(folder, "s.json", text)
        survives(lambda: read_split(file))
    survives(lambda: parse_shares(shares))


@fuzz(pieces('{"how": {}}\n', '{"key": "a", "mark": []}\n', "{", "[]\n", "1\n"))
def test_journals(text: str):
    with tempfile.TemporaryDirectory() as folder:
        write(folder, "journal.jsonl", text)
        survives(lambda: Journal(Path(folder), {}).close())


@fuzz(
    pieces(
        "input,FaceRectX,FaceRectY,FaceRectWidth,FaceRectHeight,FaceScore\n",
        "0.png,1,2,3,4,0.9\n",
        "x_0,y_0\n",
        "1,2\n",
    ),
    st.booleans(),
)
def test_boxes_of_other_tools(text: str, openface: bool):
    with tempfile.TemporaryDirectory() as folder:
        file = write(folder, "0.csv", text)
        survives(lambda: read_boxes(Path(folder) if openface else file, ["/data/0.png"]))


MAGIC = st.sampled_from(
    [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM", b"II*\0", b"RIFF\0\0\0\0WEBP", b"P5 9 9 255\n"]
)


@fuzz(st.binary(max_size=60), MAGIC)
def test_image_files(content: bytes, magic: bytes):
    survives(lambda: decode(magic + content))


@fuzz(st.tuples(*[st.integers(-(10**12), 10**12)] * 4), st.floats(0, 1e3), st.integers(1, 9000), st.integers(1, 9000))
def test_face_boxes(box: tuple[int, int, int, int], pad: float, width: int, height: int):
    def place() -> None:
        left, top, right, bottom = CropReader(("x",), (box,), pad).place(0, width, height)
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height

    survives(place)
