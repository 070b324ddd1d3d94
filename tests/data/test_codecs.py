"""Which image files are read: those of the allow-list, by content, and no other decoder is ever asked."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from fercore.data import inspect, parse_spec
from fercore.data.domains.domain_set import read_domain
from fercore.data.images import codecs
from fercore.data.images.codecs import DECODERS, HEAD, Unusable, is_picture
from fercore.data.images.readers import decode, kind_of
from fercore.errors import UserInputError

ROOT = Path(__file__).parents[2]
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
RAMP = np.repeat(np.arange(0, 240, 15, dtype=np.uint8)[:, None, None], 3, axis=2).repeat(16, axis=1)


def encoded(form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RAMP).save(buffer, form, **options)
    return buffer.getvalue()


def reason(content: bytes) -> str:
    with pytest.raises(Unusable) as caught:
        decode(content)
    return str(caught.value)


@pytest.fixture
def only_allowed(monkeypatch):
    """Make every decoder that is not on the list fail the test when it is asked."""
    Image.init()

    def ban(name: str):
        def never(*_: object) -> object:
            pytest.fail(f"the decoder of {name} was asked")

        return never, never

    banned = {name: ban(name) for name in Image.OPEN if name not in DECODERS}
    assert {"EPS", "WMF", "PSD", "ICNS", "FITS"} <= banned.keys()
    monkeypatch.setattr(Image, "OPEN", {**Image.OPEN, **banned})
    monkeypatch.setattr(codecs, "decoders", lambda: tuple(DECODERS))


@pytest.mark.parametrize("form", DECODERS)
def test_a_format_of_the_list_is_read_whatever_its_name(form: str, only_allowed):
    content = encoded(form)
    assert is_picture(content[:HEAD])
    assert np.abs(decode(content).astype(int) - RAMP).max() <= 12
    with pytest.raises(Unusable):
        decode(content[: len(content) // 3])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (EPS, "a PostScript file (EPS), which is not read; save it as PNG or JPEG"),
        (b"\xc5\xd0\xd3\xc6" + bytes(60), "a PostScript file (EPS)"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image: install fercore[heif] to read it"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "an AVIF image: install fercore[heif] to read it"),
        (b"8BPS\0\1", "a Photoshop file"),
        (b"<?xml version='1.0'?>\n<svg xmlns=''/>", "an SVG drawing"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git-LFS pointer, not the image"),
        (b"<!DOCTYPE html><html>", "a web page, not the image"),
        (b"just text", "not an image"),
        *((encoded(form), "not an image") for form in ("TGA", "PCX", "ICO", "SGI", "IM", "DDS", "DIB")),
    ],
)
def test_what_is_not_on_the_list_is_named_and_no_decoder_is_asked(content: bytes, said: str, only_allowed):
    assert reason(content).startswith(said)


def test_postscript_under_the_name_of_a_photograph_starts_nothing(tmp_path: Path, image, monkeypatch, only_allowed):
    import subprocess

    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("a program was started"))
    image(tmp_path / "f" / "anger" / "0.png", 0)
    (tmp_path / "f" / "anger" / "1.jpg").write_bytes(EPS)
    found = inspect(read_domain(parse_spec(f"folder:{tmp_path}/f"))[0])
    assert [(Path(key).name, why.partition(",")[0]) for key, why in found.unusable] == [
        ("1.jpg", "a PostScript file (EPS)")
    ]
    with pytest.raises(UserInputError, match="PostScript"):
        kind_of(str(tmp_path / "f" / "anger" / "1.jpg"))


def test_a_phone_photograph_with_a_second_picture_in_it():
    buffer = io.BytesIO()
    Image.fromarray(RAMP).save(buffer, "MPO", save_all=True, append_images=[Image.fromarray(255 - RAMP)])
    assert np.abs(decode(buffer.getvalue()).astype(int) - RAMP).max() <= 12


def test_text_is_no_picture():
    for head in (b"", b"BM is a text", b"P5 images", b"path,label\n", b"GIF and others", b"RIFF0000WAVE", b"MM-Fi"):
        assert not is_picture(head)


def test_heic_and_avif_with_the_extra():
    pytest.importorskip("pillow_heif")
    assert "HEIF" in codecs.decoders()
    assert np.abs(decode(encoded("HEIF", quality=90)).astype(int) - RAMP).max() <= 12
    if features.check("avif"):
        assert np.abs(decode(encoded("AVIF", quality=90)).astype(int) - RAMP).max() <= 12


def test_avif_without_the_extra(monkeypatch):
    if not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    monkeypatch.setattr(codecs, "decoders", lambda: tuple(DECODERS))
    assert reason(encoded("AVIF")) == "an AVIF image: install fercore[heif] to read it, or save it as PNG or JPEG"


OPENERS = {"open": {"Image"}, "imread": None, "imdecode": None, "read_image": None, "decode_image": None,
           "imreadmulti": None, "VideoCapture": None, "pil_loader": None, "ImageFolder": None}  # fmt: skip


def test_images_are_opened_in_one_place():
    found = set()
    for file in [*ROOT.glob("fercore/**/*.py"), *ROOT.glob("plugins/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in OPENERS:
                owners = OPENERS[node.func.attr]
                if owners is None or (isinstance(node.func.value, ast.Name) and node.func.value.id in owners):
                    found.add(file.relative_to(ROOT).as_posix())
    # A camera is a device by its number: nothing of a file reaches a decoder there.
    assert found == {"fercore/data/images/codecs.py", "fercore/prediction/camera.py"}
