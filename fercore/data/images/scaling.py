"""How one-channel images, infrared ones above all, become 8 bits: a fixed range, or one of each image's own.

range=LO,HI        values from LO (black) to HI (white), the same for the whole dataset; what lies outside is cut off
range=image        each image's own smallest and largest value
range=image:1,99   these percentiles of each image's values

It holds for images of one channel, of 8, 16 or 32 bits or floating point; colour images stay as they are. The grey is
repeated over red, green and blue. An image of one channel and more than 8 bits needs a range: nothing is guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fercore.data.spec import DomainSpec
from fercore.errors import UserInputError

if TYPE_CHECKING:
    from PIL.Image import Image

NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
PAIR = re.compile(rf"({NUMBER}),({NUMBER})")
FIX = "write range=LO,HI (values that become black and white), range=image or range=image:1,99 (percentiles)"
NO_RANGE = "one-channel image of more than 8 bits, and no range to scale it by"
"""Why such an image is unusable as long as the spec has no range."""
LARGEST = "largest value"
"""Entry of an image's `info`: what its file says (PGM) is white."""


class NoScale(Exception):
    """An image cannot be scaled; the message says why in a few words."""


@dataclass(frozen=True)
class Scaling:
    """From values to 8 bits: round(255 * (value - low) / (high - low)), halves up, cut off at 0 and 255.

    Attributes:
        low, high: values that become 0 and 255; percentiles of an image where `per_image`.
        per_image: whether they are percentiles.
    """

    low: float
    high: float
    per_image: bool = False

    def __str__(self) -> str:
        pair = ",".join(np.format_float_positional(end, trim="-") for end in (self.low, self.high))
        return pair if not self.per_image else "image" if (self.low, self.high) == (0, 100) else f"image:{pair}"

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Return uint8 of the shape of `values`; an image of one value becomes black under a range of its own.

        Infinite values are cut off like others, and those that are no numbers become black; neither counts for
        percentiles.

        Args:
            values: any real numbers.

        Raises:
            NoScale: for 8-bit values under a fixed range of deeper ones, or an image without a finite value.
        """
        if values.dtype == np.uint8 and not self.per_image and self.high > 255:
            raise NoScale(f"8-bit image under the range {self}, which is of deeper ones")
        given = values.astype(np.float64)
        if not np.isfinite(given).any():
            raise NoScale("no finite value in it")
        low, high = self._ends(given)
        if high <= low:
            return np.zeros(given.shape, dtype=np.uint8)
        # NaN compares false with everything: it would pass the clip.
        inside = np.clip(np.where(np.isnan(given), low, given), low, high)
        # Halves up by floor(x + 0.5); np.rint would round them to even.
        scaled: np.ndarray = np.floor((inside - low) * 255.0 / (high - low) + 0.5).astype(np.uint8)
        return scaled

    def _ends(self, values: np.ndarray) -> tuple[float, float]:
        if not self.per_image:
            return self.low, self.high
        finite = values[np.isfinite(values)]
        if (self.low, self.high) == (0, 100):
            return float(finite.min()), float(finite.max())
        low, high = np.percentile(finite, (self.low, self.high))
        return float(low), float(high)


def parse_scaling(spec: DomainSpec) -> Scaling | None:
    """Return the scaling a spec's `range` asks for; None without the option.

    Raises:
        UserInputError: if it cannot be read, or its ends are not in order.
    """
    text = spec.options.get("range")
    return None if text is None else read_scaling(text, where=spec.where)


def read_scaling(text: str, *, where: str) -> Scaling:
    """Return the scaling that a text means, as `str` of a scaling writes it.

    Raises:
        UserInputError: if it cannot be read, or its ends are not in order.
    """
    rule, colon, pair = text.lower().rpartition(":")
    per_image = text.lower() == "image" or rule == "image"
    match = PAIR.fullmatch("0,100" if per_image and not colon else pair)
    if match is None or (colon and not per_image):
        raise UserInputError(f"cannot read option range={text!r}", where=where, fix=FIX)
    low, high = float(match[1]) + 0.0, float(match[2]) + 0.0  # -0 is 0
    # Beyond what floating-point images of 32 bits hold.
    if low >= high or high > 3.4e38 or low < -3.4e38:
        raise UserInputError(f"option range={text!r} does not rise", where=where, fix=FIX)
    if per_image and not 0 <= low < high <= 100:
        raise UserInputError(f"option range={text!r}: percentiles lie from 0 to 100", where=where, fix=FIX)
    return Scaling(low, high, per_image)


def is_deep(image: Image) -> bool:
    """Return whether an image has one channel of more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;")


def is_scaled(image: Image) -> bool:
    """Return whether a range says how an image becomes 8 bits: whether it has one channel, or alpha beside it."""
    return image.mode in ("L", "LA") or is_deep(image)


def scaled(image: Image, scaling: Scaling | None) -> Image:
    """Return an image of one channel as 8 bits, and any other as it is.

    Raises:
        NoScale: if it has more than 8 bits and there is no scaling, or as `Scaling.apply`.
    """
    from PIL import Image

    if not is_scaled(image) or (scaling is None and not is_deep(image)):
        return image
    if scaling is None:
        raise NoScale(NO_RANGE)
    grey = image.getchannel("L") if image.mode == "LA" else image
    return Image.fromarray(scaling.apply(_as_stored(np.asarray(grey), image.info.get(LARGEST))))


def _as_stored(values: np.ndarray, largest: int | None) -> np.ndarray:
    """Return the values that a file holds, where PIL has stretched those up to `largest` over all of 8 or 16 bits."""
    full = 255 if values.dtype == np.uint8 else 65535
    if largest is None or largest == full:
        return values
    stored: np.ndarray = np.rint(values * (largest / full)).astype(values.dtype)
    return stored
