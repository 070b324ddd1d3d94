"""Parsers meet arbitrary text: they read it or say in one line what is wrong, and nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from fercore.data.domains import read_domain
from fercore.data.formats import FORMATS
from fercore.data.readers import Unusable, decode
from fercore.data.spec import parse_spec
from fercore.errors import UserInputError

few = settings(max_examples=60, deadline=None)
cells = st.sampled_from(
    ["path", "label", "a.png", "anger", "3", "", "../x", '"', "\\", ",", "\n", "é", "\r", "\0", " "]
)
pieces = st.lists(st.one_of(cells, st.text(max_size=6)), max_size=30).map("".join)
fer = st.sampled_from(["emotion,pixels,Usage\n", "0,", "1 2", "Training", "\n", ",", "-1", "\xff", "PrivateTest", '"'])


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


@few
@given(st.one_of(st.text(max_size=40), st.tuples(st.sampled_from([*FORMATS, "x"]), pieces).map(":".join)))
def test_specs(text: str):
    survives(lambda: parse_spec(text))


@few
@given(pieces, st.sampled_from(["list", "manifest", "fer2013"]), st.booleans())
def test_text_files(text: str, form: str, root: bool):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "f"
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        reads(f"{form}:{file}" + (f"?root={folder}" if root and form != "fer2013" else ""))


@few
@given(pieces)
def test_manifest_rows(text: str):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "f").write_text("path,label,split,subject\n" + text, encoding="utf-8", errors="surrogatepass")
        reads(f"manifest:{folder}/f")


@few
@given(st.lists(fer, max_size=20).map("".join), st.binary(max_size=20))
def test_fer2013_rows(text: str, tail: bytes):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "f").write_bytes(b"emotion,pixels,Usage\n" + text.encode("latin-1") + tail)
        reads(f"fer2013:{folder}/f")


@few
@given(
    st.binary(max_size=60),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM", b"II*\0"]),
)
def test_image_files(content: bytes, magic: bytes):
    survives(lambda: decode(magic + content))
