"""Which image files are read: an allow-list of decoders, by content and whatever a file's name says.

Pillow knows forty formats and takes the one that a file's first bytes ask for; EPS among them starts Ghostscript. So
every image is loaded here, and with these decoders only. HEIC and AVIF need the extra `heif`.
"""

from __future__ import annotations

import importlib
import io
import re
import struct
from functools import cache
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

MAX_SIDE = 8192
MAX_PIXELS = 64_000_000

DECODERS: dict[str, str] = {
    "PNG": "PngImagePlugin", "JPEG": "JpegImagePlugin", "BMP": "BmpImagePlugin", "TIFF": "TiffImagePlugin",
    "WEBP": "WebPImagePlugin", "GIF": "GifImagePlugin", "PPM": "PpmImagePlugin", "JPEG2000": "Jpeg2KImagePlugin",
}  # fmt: skip
"""Pillow's name of each format that is read -> the module that reads it."""

IMAGE_SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .jfif .jif .bmp .tif .tiff .webp .gif .pbm .pgm .ppm .pnm .pfm .jp2 .j2k .j2c .jpc .jpf .jpx"
    " .heic .heif .hif .avif".split()
)
"""Lower-case suffixes of files that are taken for images before they are looked at."""

EXTRA = "install fercore[heif] to read it, or save it as PNG or JPEG"
OTHER = "which is not read; save it as PNG or JPEG"
FOREIGN: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (re.compile(rb".{4}ftyp.{0,60}?(?:avif|avis)", re.S), "an AVIF image", EXTRA),
    (re.compile(rb".{4}ftyp.{0,60}?(?:hei[cxms]|hev[cxms]|mif1|msf1)", re.S), "a HEIC image", EXTRA),
    (re.compile(rb"%!PS|\xc5\xd0\xd3\xc6"), "a PostScript file (EPS)", OTHER),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "a JPEG XL image", OTHER),
    (re.compile(rb"8BPS"), "a Photoshop file", OTHER),
    (re.compile(rb"\s*(?:<\?xml.{0,200})?\s*<svg", re.S), "an SVG drawing", OTHER),
    (re.compile(rb"%PDF"), "a PDF file", OTHER),
    (re.compile(rb"version https://git-lfs"), "a Git-LFS pointer, not the image; fetch it with `git lfs pull`", ""),
    (re.compile(rb"\s*<(?:!doctype )?html", re.I), "a web page, not the image; download it again", ""),
)
"""What else may stand under an image's name: its first bytes, what it is, what can be done."""
PICTURES = 6
"""How many of them, from the first, are pictures."""

# Sizes of the BMP headers in use: "BM" alone begins ordinary text files too.
HEADER_SIZES = (12, 16, 40, 52, 56, 64, 108, 124)
ACCEPTED = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF.{4}WEBP|II[*+]\0|MM\0[*+]|\xff\x4f\xff\x51"
    rb"|\0\0\0\x0cjP  \r\n\x87\n|P[1-6](?:\s|#[^\n]*\n)+[0-9]+\s|P[fF]\s+[0-9]+\s",
    re.S,
)
HEAD = 256
"""Bytes of a file that tell what it is."""


class Unusable(Exception):
    """An image cannot be used; the message says why in a few words ("truncated", "too large: ...")."""


@cache
def decoders() -> tuple[str, ...]:
    """Return Pillow's names of the formats that are read, each with its module loaded and no other."""
    for module in DECODERS.values():
        importlib.import_module(f"PIL.{module}")
    return (*DECODERS, *_extra())


def _extra() -> tuple[str, ...]:
    """Return the formats that the extra `heif` adds, if it is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return ()
    from PIL import features

    register_heif_opener()
    # AVIF is decoded by Pillow itself, where it was built with it.
    if not features.check("avif"):
        return ("HEIF",)
    importlib.import_module("PIL.AvifImagePlugin")
    return "HEIF", "AVIF"


def open_image(source: bytes | BinaryIO) -> ImageFile:
    """Return an image by its content, its header read and its pixels not yet.

    Raises:
        Unusable: if no decoder of the allow-list knows it, or its header claims more than MAX_PIXELS.
    """
    from PIL import Image, UnidentifiedImageError

    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        image = Image.open(file, formats=decoders())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Unusable(f"too large: more than {MAX_PIXELS} pixels") from None
    except UnidentifiedImageError:
        # Decoders have moved on while they tried.
        file.seek(0)
        raise Unusable(described(file.read(HEAD))) from None
    except Exception as error:  # decoders raise whatever they like on broken files
        raise Unusable(failure(error)) from None
    # Before a pixel is decoded: the header alone decides how much memory that would take.
    if max(image.size) > MAX_SIDE or image.size[0] * image.size[1] > MAX_PIXELS:
        raise Unusable(f"too large: {image.size[0]}x{image.size[1]} pixels")
    return image


def failure(error: Exception) -> str:
    """Return what a decoder's error comes to in few words."""
    return f"{'truncated' if 'truncated' in str(error).lower() else 'cannot be decoded'}: {error}"


def described(head: bytes) -> str:
    """Return what a file is that no decoder knows, and what would make it readable; "not an image" if nobody knows."""
    for first_bytes, name, remedy in FOREIGN:
        if first_bytes.match(head):
            return f"{name}: {remedy}" if remedy == EXTRA else f"{name}, {remedy}" if remedy else name
    return "not an image"


def is_picture(head: bytes) -> bool:
    """Return whether a file's first bytes are those of a picture, of a format that is read or of another."""
    if head[:2] == b"BM" and len(head) >= 18 and struct.unpack_from("<I", head, 14)[0] in HEADER_SIZES:
        return True
    return bool(ACCEPTED.match(head)) or any(first_bytes.match(head) for first_bytes, *_ in FOREIGN[:PICTURES])
