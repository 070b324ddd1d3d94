"""Readers: where the pixels of a domain come from, row by row."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fercore.data.images.codecs import Unusable, failure, open_image
from fercore.data.images.scaling import LARGEST, NoScale, Scaling, is_deep, is_scaled, scaled
from fercore.errors import UserInputError
from fercore.files import open_regular

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES = 256 * 2**20


class Reader(Protocol):
    """Pixels of a domain. `checked` = made in memory, so that a preflight has nothing to find."""

    @property
    def checked(self) -> bool:
        """Return whether the preflight may skip this reader."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def read(self, row: int) -> np.ndarray:
        """Return uint8[H,W,3], RGB."""

    def read_many(self, rows: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the images of several rows, in order."""

    def digest(self, row: int) -> str:
        """Return a hash of a row's content; raise Unusable if it cannot be used."""


Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels; right and bottom are the first column and row outside."""


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Rows that show image files, or a part of each.

    Args:
        paths: file of each row.
        scaling: how one-channel images become 8 bits; None = those of more than 8 bits cannot be used.
        digests: what the preflight found each row to be, "" = not looked at; () = none. A row that has become another
            since is not read: what is trained on is what was checked, counted and written down.
    """

    paths: tuple[str, ...]
    checked: bool = field(default=False, kw_only=True)
    scaling: Scaling | None = field(default=None, kw_only=True)
    digests: tuple[str, ...] = field(default=(), kw_only=True)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, row: int) -> np.ndarray:
        """Return uint8[H,W,3], RGB, of what the row shows.

        Raises:
            UserInputError: if the file has become unreadable, or another, since it was checked; names it.
        """
        try:
            content = file_bytes(self.paths[row])
            # The bytes just read are hashed, not the file again:
            # nobody can change it between the check and the decoding.
            self._refuse_changed(row, content)
            image = decode(content, self.scaling)
            left, top, right, bottom = self.place(row, image.shape[1], image.shape[0])
        except Unusable as error:
            raise UserInputError(f"unusable image: {error}", where=self.paths[row]) from None
        return image[top:bottom, left:right]

    def read_many(self, rows: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the images of several rows, in order."""
        for row in rows:
            yield self.read(row)

    def digest(self, row: int) -> str:
        """Return a hash of the file and of what is shown of it.

        Raises:
            Unusable: if it does not decode to the last pixel, or nothing of it is shown.
        """
        content = file_bytes(self.paths[row])
        image = with_pixels(content)
        self.place(row, *image.size)
        check_scale(image, self.scaling)
        return content_digest(content, self.part(row))

    def identity(self, row: int) -> str:
        """Return what caches know a row by beside its file; "" for all of it as it is."""
        return self.part(row) + ("" if self.scaling is None else f"range {self.scaling}")

    def part(self, row: int) -> str:
        """Return which part of the file a row shows, as text; "" for all of it."""
        return ""

    def place(self, row: int, width: int, height: int) -> Box:
        """Return where in an image of this size that part is.

        Raises:
            Unusable: if nothing of it lies inside.
        """
        return 0, 0, width, height

    def _refuse_changed(self, row: int, content: bytes) -> None:
        known = self.digests[row] if self.digests else ""
        if known and known != content_digest(content, self.part(row)):
            fix = "bring it back as it was, or start the run again"
            raise UserInputError("image changed since the run looked at it", where=self.paths[row], fix=fix)


class FileReader(ImageFiles):
    """Image files, each shown whole."""


@dataclass(frozen=True, eq=False)
class ArrayReader:
    """Images held as one array, uint8[n,H,W] (grey) or uint8[n,H,W,3]."""

    pixels: np.ndarray
    checked: bool = False

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, row: int) -> np.ndarray:
        """Return uint8[H,W,3], RGB."""
        image = self.pixels[row]
        return np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image

    def read_many(self, rows: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the images of several rows, in order."""
        for row in rows:
            yield self.read(row)

    def digest(self, row: int) -> str:
        """Return a hash of the pixels."""
        return hashlib.blake2b(self.pixels[row].tobytes(), digest_size=16).hexdigest()


def content_digest(content: bytes, part: str = "") -> str:
    """Return what an image is known by: a hash of its file, and of which part of it is shown."""
    content_hash = hashlib.blake2b(content, digest_size=16)
    content_hash.update(part.encode())
    return content_hash.hexdigest()


def file_bytes(path: str) -> bytes:
    """Return a file's contents.

    Raises:
        Unusable: if it is empty, unreadable, no regular file or larger than an image can be.
    """
    try:
        with open_regular(path) as file:
            # Of the open file: the path may lead to another by now.
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise Unusable(f"too large: {size} bytes")
            content = file.read(MAX_BYTES)
    except OSError as error:
        raise Unusable(f"cannot be loaded: {error.strerror or error}") from None
    if not content:
        raise Unusable("empty file")
    return content


def decode(content: bytes, scaling: Scaling | None = None) -> np.ndarray:
    """Return the pixels of an encoded image as uint8[H,W,3]; grey is repeated, one channel scaled to 8 bits.

    Raises:
        Unusable: as `decode_image`.
    """
    return np.asarray(decode_image(content, scaling), dtype=np.uint8)


def decode_image(content: bytes, scaling: Scaling | None = None) -> Image:
    """Return an encoded image as a PIL image in RGB; grey is repeated, one channel scaled to 8 bits.

    Raises:
        Unusable: if the image cannot be decoded to its last pixel, its header claims more than MAX_PIXELS, or it has
            one channel of more than 8 bits and there is no scaling.
    """
    image = with_pixels(content)
    try:
        return to_rgb(image, scaling)
    except NoScale as error:
        raise Unusable(str(error)) from None
    except (OSError, ValueError) as error:
        raise Unusable(f"cannot be converted: {error}") from None


def check_scale(image: Image, scaling: Scaling | None) -> None:
    """Make sure that an image can be scaled, and close it.

    Raises:
        Unusable: if not.
    """
    try:
        scaled(image, scaling)
    except NoScale as error:
        raise Unusable(str(error)) from None
    finally:
        image.close()


def kind_of(path: str) -> str:
    """Return what an image file's header says: "deep" (one channel of more than 8 bits), "one_channel" or "colour".

    Raises:
        UserInputError: if the file has become unreadable since it was checked; names it.
    """
    try:
        with open_regular(path) as file:
            image = open_image(file)
            return "deep" if is_deep(image) else "one_channel" if is_scaled(image) else "colour"
    except (Unusable, OSError) as error:
        raise UserInputError(f"unusable image: {error}", where=path) from None


def with_pixels(content: bytes) -> Image:
    """Return a PIL image whose pixels are loaded, its header having been checked first.

    Raises:
        Unusable: as for `decode`.
    """
    image = open_image(content)
    try:
        # Before `load`, which forgets the layout on disk.
        _note_depth(image)
        image.load()
    except Unusable:
        raise
    except Exception as error:  # decoders raise whatever they like on broken files
        raise Unusable(failure(error)) from None
    return image


def _note_depth(image: Image) -> None:
    """Keep what decoding would hide of an image's depth.

    Raises:
        Unusable: for 16-bit grey with alpha, of which PIL reads 8 bits.
    """
    tiles = getattr(image, "tile", None)  # how the file lies on disk, gone once the pixels are loaded
    layout = tiles[0][3] if tiles else None
    if layout == "LA;16B":
        raise Unusable("grey of 16 bits with alpha, whose lower 8 bits would be lost; save it without alpha")
    # PIL stretches grey PGM values up to maxval over 8 or 16 bits; a fixed range means the file's own values.
    if image.format == "PPM" and isinstance(layout, tuple) and layout[0] == "L":
        image.info[LARGEST] = layout[-1]


def to_rgb(image: Image, scaling: Scaling | None) -> Image:
    """Return a PIL image in RGB, turned as its EXIF says; grey is repeated, one channel scaled to 8 bits.

    Raises:
        NoScale: if it has one channel of more than 8 bits and there is no scaling, or as `Scaling.apply`.
    """
    from PIL import ImageOps

    # exif_transpose copies the image even where nothing is to be turned.
    turned = image.getexif().get(0x0112, 1) != 1
    # Pillow warns where a palette with transparent entries goes to RGB directly.
    if "transparency" in image.info and not is_scaled(image):
        image = image.convert("RGBA")
    image = scaled(ImageOps.exif_transpose(image) if turned else image, scaling)
    return image if image.mode == "RGB" else image.convert("RGB")
