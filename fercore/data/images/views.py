"""Views: the augmentation policies behind ViewRequest.transform.

- "none": resized only.
- "weak", by data.augment: "none"; "crop" = flip, and half of the time a crop of the image padded by 1/28 of its side
  (8 of 224 pixels), as semi-supervised methods have it; "light" = flip, shift up to 5 %, brightness up to 10 %;
  "standard" = brightness, contrast and saturation up to 20 %, grey with probability 0.2, flip, turn up to 15 degrees,
  shift up to 5 %, scale 0.9 to 1.05, black outside.
- "strong": three operations of RandAugment's fourteen, CutOut up to half the width, then flip and shift up to 5 %, or
  for "crop" its weak view.
- a CropAndColour: crop with both flips, colour jitter with hue, grey, blur, as its numbers say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fercore.data.images import augment
from fercore.data.images.augment import RAND_OPS
from fercore.data.noise import key, uniforms
from fercore.errors import UserInputError
from fercore.ops import dispatch
from fercore.records.plan import CropAndColour, Transform, ViewRequest
from fercore.records.step import PLAIN, Side
from fercore.registry import Registry

CHUNK = 2**20
"""Numbers that are augmented together: few enough to stay in a core's cache."""


class Views:
    """Makes the views of a side's samples.

    A view is a pure function of the seed, the side, the view's name, the number of the draw, and the image.

    Args:
        requests: views of this side; equal ones are made once.
        side: "source" or "target". seed: the run's. policy: data.augment. mean, std: per channel.

    Raises:
        UserInputError: if one name is asked for with two transforms.
    """

    def __init__(
        self,
        requests: Sequence[ViewRequest],
        side: Side,
        *,
        seed: int,
        policy: str,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.transforms: dict[str, Transform | CropAndColour] = {}
        self.policy = policy
        self.mean, self.std = (torch.tensor(list(v), dtype=torch.float32).view(1, 3, 1, 1) for v in (mean, std))
        for request in requests:
            if request.side != side:
                continue
            known = self.transforms.setdefault(request.name, request.transform)
            if known != request.transform:
                what = f"{side} view {request.name!r} is asked for as {known!r} and as {request.transform!r}"
                raise UserInputError(what, where="request_views", fix="give the views different names")
        self.streams = {name: key(seed, side, "view", name) for name in self.transforms}

    def make(self, pixels: np.ndarray | Tensor, draws: np.ndarray) -> Mapping[str, Tensor]:
        """Return view name -> float32[B,3,S,S], normalised, on the device of the pixels.

        Args:
            pixels: uint8[B,3,S,S]. draws: int64[B], number of each draw.
        """
        if not self.transforms:
            return {}
        images = torch.from_numpy(pixels) if isinstance(pixels, np.ndarray) else pixels
        on_cpu = images.device.type == "cpu"
        mean, std = self.mean.to(images.device), self.std.to(images.device)
        made = {name: torch.empty_like(images, dtype=torch.float32) for name in self.transforms}
        # Results do not depend on the chunk: every sample has its own random numbers, and no operation mixes samples.
        chunk = max(1, CHUNK // images[0].numel()) if on_cpu and len(images) else max(1, len(images))
        with one_thread() if on_cpu else nullcontext():
            for start in range(0, len(images), chunk):
                part = slice(start, start + chunk)
                # Shared by views that need floats; not made where the compiled module takes the bytes as they are.
                x = None
                for name, out in made.items():
                    if on_cpu and self.transforms[name] == "weak" and self.policy == "standard":
                        u = torch.from_numpy(uniforms(self.streams[name], draws[part], 16))
                        if fused_standard(images[part], u, mean, std, out[part]):
                            continue
                    x = images[part].to(torch.float32) / 255 if x is None else x
                    torch.sub(self._view(name, x, draws[part]), mean, out=out[part]).div_(std)
        return made

    def _view(self, name: str, x: Tensor, draws: np.ndarray) -> Tensor:
        transform = self.transforms[name]
        if transform == "none":
            return x
        # Drawn on the CPU whatever the device, so that both see
        # the same numbers; sixteen a draw, used by fixed columns.
        u = torch.from_numpy(uniforms(self.streams[name], draws, 16)).to(x.device, non_blocking=True)
        if isinstance(transform, CropAndColour):
            return crop_and_colour(x, u, transform)
        return TRANSFORMS[transform](x, u, self.policy)


def plain_views(mean: Sequence[float], std: Sequence[float]) -> Views:
    """Return what makes the one view `PLAIN` of images: normalised, and else as they are."""
    return Views([ViewRequest("source", PLAIN, "none")], "source", seed=0, policy="none", mean=mean, std=std)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one CPU thread: a view is a hundred small operations, which threads slow down on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def weak(x: Tensor, u: Tensor, policy: str) -> Tensor:
    """Return the weak view.

    Args:
        x: float[B,3,S,S] in [0, 1]. u: float[B,16] uniform random numbers. policy: data.augment.
    """
    if policy == "none":
        return x
    if policy == "crop":
        return flip_and_crop(x, u)
    if policy == "light":
        x = (x * augment.per_sample(0.9 + 0.2 * u[:, 4])).clamp_(0, 1)
        return flip_and_shift(x, u)
    how = standard(u)
    x = augment.maybe_grey(augment.colour_jitter(x, how.order, how.factors), how.grey)
    return augment.warp(x, how.theta)


def weak_view(x: Tensor, u: Tensor, policy: str) -> Tensor:
    """Return `weak` worked out on one CPU thread, as a run does."""
    with one_thread():
        return weak(x, u, policy)


class Standard(NamedTuple):
    """Each sample's parameters of the weak view "standard".

    Attributes:
        order: int64[B], row of `augment.ORDERS`. factors: float[B,3] of brightness, contrast, saturation.
        grey: bool[B]. theta: float[B,2,3], from output to input places.
    """

    order: Tensor
    factors: Tensor
    grey: Tensor
    theta: Tensor


def standard(u: Tensor) -> Standard:
    """Return the parameters that uniform random numbers float[B,16] stand for."""
    angle = (u[:, 8] * 2 - 1) * (15 * math.pi / 180)
    theta = augment.inverse_affine(angle, (u[:, 1:3] - 0.5) * 0.1, 0.9 + 0.15 * u[:, 9], u[:, 0] < 0.5)
    return Standard((u[:, 3] * 6).long(), 0.8 + 0.4 * u[:, 4:7], u[:, 7] < 0.2, theta)


def fused_standard(images: Tensor, u: Tensor, mean: Tensor, std: Tensor, out: Tensor) -> bool:
    """Write the normalised weak view "standard" into `out` with the compiled module, image by image in one pass.

    The torch form makes a dozen passes over the batch. The two agree to rounding.

    Args:
        images: uint8[B,3,S,S] on the CPU. u: float[B,16]. mean, std: of three channels. out: float32[B,3,S,S].

    Returns:
        Whether it was written: False where there is no compiled module, and torch has to do.
    """
    module = dispatch.native()
    if module is None:
        return False
    how = standard(u)
    stages = augment.ORDERS[how.order]
    parameters = (stages, how.factors, how.grey, how.theta, mean.flatten(), std.flatten())
    arrays = [t.contiguous().numpy() for t in (images, *parameters)]
    module.make_views(*arrays, out.numpy())
    return True


def strong(x: Tensor, u: Tensor, policy: str = "standard") -> Tensor:
    """Return the strong view.

    Args:
        x: float[B,3,S,S] in [0, 1]. u: float[B,16] uniform random numbers. policy: of the weak view.
    """
    x = augment.rand_augment(x, (u[:, 3:6] * len(RAND_OPS)).long(), u[:, 6:9])
    x = augment.cutout(x, u[:, 9:11], u[:, 11] / 2)
    return flip_and_crop(x, u) if policy == "crop" else flip_and_shift(x, u)


def crop_and_colour(x: Tensor, u: Tensor, how: CropAndColour) -> Tensor:
    """Return a view for contrastive learning.

    Args:
        x: float[B,3,S,S] in [0, 1]. u: float[B,16] uniform random numbers. how: ranges and chances.
    """
    area = how.area[0] + (how.area[1] - how.area[0]) * u[:, 0]
    low, high = (math.log(ratio) for ratio in how.ratio)
    ratio = torch.exp(low + (high - low) * u[:, 1])
    sides = torch.stack([torch.sqrt(area * ratio), torch.sqrt(area / ratio)], 1).clamp_max(1)
    flips = torch.stack([u[:, 4] < how.flip_chance, u[:, 5] < how.upside_down_chance], 1)
    x = augment.warp(x, augment.crop(sides, u[:, 2:4], flips), "border")
    # Factor 1 and turn 0 leave an image as it is: the whole batch takes one path.
    done = (u[:, 6] < how.jitter_chance).to(u.dtype)
    factors = 1 + (u[:, 8:11] * 2 - 1) * torch.tensor(how.jitter[:3], device=u.device) * done[:, None]
    x = augment.colour_jitter(x, (u[:, 7] * 6).long(), factors)
    x = augment.turn_hue(x, (u[:, 11] * 2 - 1) * how.jitter[3] * done)
    x = augment.maybe_grey(x, u[:, 12] < how.grey_chance)
    # Sigma is given for images of 112 pixels.
    sigma = (how.sigma[0] + (how.sigma[1] - how.sigma[0]) * u[:, 13]) * x.shape[-1] / 112
    return augment.maybe_blur(x, u[:, 14] < how.blur_chance, sigma)


def flip_and_shift(x: Tensor, u: Tensor) -> Tensor:
    """Flip half of the images and shift each by up to 5 % of its side."""
    zero = torch.zeros(len(x), device=x.device)
    return augment.warp(x, augment.inverse_affine(zero, (u[:, 1:3] - 0.5) * 0.1, zero + 1, u[:, 0] < 0.5))


def flip_and_crop(x: Tensor, u: Tensor) -> Tensor:
    """Flip half of the images, and half of them crop out of the image padded with black by 1/28 of its side."""
    zero = torch.zeros(len(x), device=x.device)
    pad = max(1, round(x.shape[-1] / 28))
    # Whole pixels, as a crop of a padded image has them.
    places = ((u[:, 1:3] * (2 * pad + 1)).floor() - pad) / x.shape[-1] * (u[:, 12:13] < 0.5)
    return augment.warp(x, augment.inverse_affine(zero, places, zero + 1, u[:, 0] < 0.5))


TRANSFORMS: Registry[Callable[[Tensor, Tensor, str], Tensor]] = Registry(
    "fercore.transforms", {"none": lambda x, u, policy: x, "weak": weak, "strong": strong}
)
"""Name of a policy -> function from images float[B,3,S,S] in [0, 1], uniform numbers float[B,16] and data.augment."""
