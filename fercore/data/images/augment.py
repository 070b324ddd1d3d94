"""Augmentations of a whole batch at once, with each sample's own parameters. Images are float[B,3,H,W] in [0, 1].

Formulas are those of torchvision.transforms.v2.functional. Each image comes out the same whatever else is in the batch
and however many threads there are: products and sums stay separate operations, and means are taken in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

ORDERS = torch.tensor([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
"""Orders of brightness (0), contrast (1), saturation (2)."""


def per_sample(values: Tensor) -> Tensor:
    """Return [B] as [B,1,1,1]."""
    return values.view(-1, 1, 1, 1)


def grey(x: Tensor) -> Tensor:
    """Return luma, [B,1,H,W]."""
    return x[:, 0:1] * 0.2989 + x[:, 1:2] * 0.587 + x[:, 2:3] * 0.114


def mean_grey(x: Tensor) -> Tensor:
    """Return each image's mean luma, [B,1,1,1]."""
    return per_sample(row_means(grey(x).flatten(1)))


def row_means(flat: Tensor) -> Tensor:
    """Return the mean of each row of float[B,n], taken in float64 and, on the CPU, in an order of its own: NumPy's."""
    if flat.device.type == "cpu":
        # torch may split a sum among threads, which changes its last bits.
        return torch.from_numpy(flat.numpy().mean(axis=1, dtype="float64")).to(flat.dtype)
    return flat.mean(dim=1, dtype=torch.float64).to(flat.dtype)


def blend(x: Tensor, base: Tensor, factor: Tensor) -> Tensor:
    """Return factor * x + (1 - factor) * base, clamped; factor [B,1,1,1]."""
    return (x * factor).add_(base * (1 - factor)).clamp_(0, 1)


def colour_jitter(x: Tensor, order: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, contrast and saturation, in an order of each sample's own.

    Args:
        x: images. order: int64[B], row of ORDERS. factors: float[B,3] of brightness, contrast, saturation.
    """
    # One loop for all samples: brightness blends with black (no
    # base), contrast with the mean luma, saturation with the luma.
    for kind in ORDERS.to(order.device)[order].unbind(1):
        luma = grey(x)
        flat = row_means(luma.flatten(1))
        base = luma * per_sample(kind == 2) + per_sample(flat * (kind == 1))
        x = blend(x, base, per_sample(factors.gather(1, kind[:, None])))
    return x


def maybe_grey(x: Tensor, chosen: Tensor) -> Tensor:
    """Return the images with those that are chosen (bool[B]) in grey."""
    at = chosen.nonzero().flatten()
    if len(at):
        x = x.clone()
        x[at] = grey(x[at]).expand(-1, 3, -1, -1)
    return x


def turn_hue(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue by a share of the whole circle, float[B]."""
    largest, smallest = x.amax(1), x.amin(1)
    chroma = largest - smallest
    # Both branches of `where` are computed: without it grey pixels divide by zero.
    safe = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    red, green, blue = x.unbind(1)
    hue = torch.where(
        largest == red,
        (green - blue) / safe,
        torch.where(largest == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    hue = torch.where(chroma > 0, hue, torch.zeros_like(hue)) + 6 * turn.view(-1, 1, 1)
    # Each channel falls from the largest to the smallest value as the hue moves away from the channel's own.
    channels = [
        largest - chroma * (2 - (torch.remainder(hue + offset, 6) - 3).abs()).clamp(0, 1) for offset in (0.0, 4.0, 2.0)
    ]
    return torch.stack(channels, 1)


def maybe_blur(x: Tensor, chosen: Tensor, sigma: Tensor) -> Tensor:
    """Return the images with those that are chosen (bool[B]) blurred by a Gaussian of sigma float[B] pixels.

    The kernel reaches a twentieth of the side to each direction; what lies outside mirrors the inside.
    """
    at = chosen.nonzero().flatten()
    if not len(at):
        return x
    reach = max(1, round(x.shape[-1] / 20))
    places = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (places / sigma[at, None]).square())
    kernel = kernel / kernel.sum(1, keepdim=True)
    blurred = x[at]
    for dim, pad in ((2, (0, 0, reach, reach)), (3, (reach, reach, 0, 0))):
        padded = F.pad(blurred, pad, mode="reflect")
        size = x.shape[dim]
        # Taps are added one by one: a grouped convolution may choose another order of addition for another batch.
        parts = (per_sample(kernel[:, k]) * padded.narrow(dim, k, size) for k in range(2 * reach + 1))
        blurred = sum(parts, torch.zeros_like(blurred))
    x = x.clone()
    x[at] = blurred
    return x


def crop(sides: Tensor, place: Tensor, flips: Tensor) -> Tensor:
    """Return float[B,2,3] maps from output to input places that cut a rectangle out and fill the image with it.

    Args:
        sides: float[B,2] width and height as shares of the image's. place: float[B,2] in [0, 1), where in the rest.
        flips: bool[B,2], mirrored left to right and upside down.
    """
    theta = torch.zeros(len(sides), 2, 3, device=sides.device)
    sign = 1 - 2 * flips.to(sides.dtype)
    theta[:, 0, 0], theta[:, 1, 1] = (sides * sign).unbind(1)
    # The centre, in [-1, 1]: a rectangle of width s can move by 1 - s to either side.
    theta[:, :, 2] = (1 - sides) * (2 * place - 1)
    return theta


def inverse_affine(angle: Tensor, shift: Tensor, scale: Tensor, flip: Tensor) -> Tensor:
    """Return float[B,2,3] maps from output to input places for: flip, then scale, turn and shift about the middle.

    Args:
        angle: [B] radians, clockwise. shift: [B,2] as a share of width and height. scale: [B]. flip: bool[B].
    """
    # Coordinates run from -1 to 1, so that a share of the side is twice as long.
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    x0, y0 = (2 * shift).unbind(1)
    sign = 1 - 2 * flip.to(angle.dtype)
    first = torch.stack([cos, sin, -(cos * x0 + sin * y0)], 1) * sign[:, None]
    second = torch.stack([-sin, cos, sin * x0 - cos * y0], 1)
    return torch.stack([first, second], 1)


def warp(x: Tensor, theta: Tensor, outside: str = "zeros") -> Tensor:
    """Sample square images at the places `theta` float[B,2,3] says, bilinearly; outside is black or as the border."""
    size = x.shape[-1]
    # Pixel centres in [-1, 1], as with align_corners=False; F.affine_grid would take its sums in a matrix product.
    axis = (torch.arange(size, dtype=x.dtype, device=x.device) * 2 + 1) / size - 1
    along_x = theta[:, :, 0, None, None] * axis
    along_y = theta[:, :, 1, None, None] * axis[:, None] + theta[:, :, 2, None, None]
    grid = (along_x + along_y).permute(0, 2, 3, 1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode=outside, align_corners=False)


def cutout(x: Tensor, centre: Tensor, side: Tensor) -> Tensor:
    """Fill a square with grey; centre float[B,2] (x, y) and side float[B] as shares of the width.

    As in the released RandAugment a square that reaches beyond the left or upper edge is moved inside, and one beyond
    the right or lower edge is cut.
    """
    axis = (torch.arange(x.shape[-1], dtype=x.dtype, device=x.device) + 0.5) / x.shape[-1]
    first = (centre[:, :, None] - side[:, None, None] / 2).clamp_min(0)
    inside = (axis >= first) & (axis <= first + side[:, None, None])
    hole = inside[:, 1, :, None] & inside[:, 0, None, :]
    return x.masked_fill(hole[:, None], 0.5)


def _matrix(m: Tensor, *entries: tuple[int, int, float]) -> Tensor:
    theta = torch.eye(2, 3, device=m.device).repeat(len(m), 1, 1)
    for row, column, factor in entries:
        theta[:, row, column] = factor * m
    return theta


def _turn(x: Tensor, m: Tensor) -> Tensor:
    zero = torch.zeros_like(m)
    angle = torch.deg2rad(m)
    return warp(x, inverse_affine(angle, torch.stack([zero, zero], 1), zero + 1, zero > 0))


def _auto_contrast(x: Tensor, m: Tensor) -> Tensor:
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    span = high - low
    # An image of one value stays as it is.
    return torch.where(span > 0, (x - low) / span.clamp_min(1e-6), x)


def _equalize(x: Tensor, m: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional  # type: ignore[import-untyped]

    flat: Tensor = functional.equalize((x * 255).round().to(torch.uint8))
    return flat.to(x.dtype) / 255


def _posterize(x: Tensor, m: Tensor) -> Tensor:
    step = per_sample(torch.exp2(8 - m.floor()))
    return ((x * 255).round() / step).floor() * step / 255


def _sharpness(x: Tensor, m: Tensor) -> Tensor:
    smooth = x.clone()
    # Pillow's smoothing kernel [1 1 1; 1 5 1; 1 1 1] / 13: nine
    # times the mean plus four times the middle. Borders stay.
    smooth[:, :, 1:-1, 1:-1] = (F.avg_pool2d(x, 3, 1) * 9 + x[:, :, 1:-1, 1:-1] * 4) / 13
    return blend(x, smooth, per_sample(m))


def _solarize(x: Tensor, m: Tensor) -> Tensor:
    return torch.where(x * 255 >= per_sample(m), 1 - x, x)


Operation: TypeAlias = Callable[[Tensor, Tensor], Tensor]

RAND_OPS: tuple[tuple[str, Operation, float, float], ...] = (
    ("auto_contrast", _auto_contrast, 0, 1),
    ("brightness", lambda x, m: x * per_sample(m), 0.05, 0.95),
    ("colour", lambda x, m: blend(x, grey(x), per_sample(m)), 0.05, 0.95),
    ("contrast", lambda x, m: blend(x, mean_grey(x), per_sample(m)), 0.05, 0.95),
    ("equalize", _equalize, 0, 1),
    ("identity", lambda x, m: x, 0, 1),
    ("posterize", _posterize, 4, 8),
    ("rotate", _turn, -30, 30),
    ("sharpness", _sharpness, 0.05, 0.95),
    # The constant column moves the fixed point from the middle to the corner: x + m * (y + 1).
    ("shear_x", lambda x, m: warp(x, _matrix(m, (0, 1, 1.0), (0, 2, 1.0))), -0.3, 0.3),
    ("shear_y", lambda x, m: warp(x, _matrix(m, (1, 0, 1.0), (1, 2, 1.0))), -0.3, 0.3),
    ("solarize", _solarize, 0, 256),
    ("translate_x", lambda x, m: warp(x, _matrix(m, (0, 2, 2.0))), -0.3, 0.3),
    ("translate_y", lambda x, m: warp(x, _matrix(m, (1, 2, 2.0))), -0.3, 0.3),
)
"""RandAugment's operations: name, function of (images, magnitude[B]), and the range magnitudes are uniform in.

As in the code that FixMatch and Ada-CM release, images turn about the middle and shear about the upper left corner.
"""


def rand_augment(x: Tensor, choice: Tensor, strength: Tensor) -> Tensor:
    """Apply several operations of RAND_OPS to each sample, one after another.

    Args:
        x: images. choice: int64[B,n], which operations. strength: float[B,n] in [0, 1), where in their ranges.
    """
    x = x.clone()
    for place in range(choice.shape[1]):
        for number, (_, operation, low, high) in enumerate(RAND_OPS):
            at = (choice[:, place] == number).nonzero().flatten()
            if len(at):
                x[at] = operation(x[at], low + (high - low) * strength[at, place])
    return x
