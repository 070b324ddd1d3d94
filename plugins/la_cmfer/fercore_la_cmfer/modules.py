"""The two branches of LA-CMFER (section 4.1 and supplement; layer list of the released `models/LA-CMFER.py`).

The attention inside the blocks is timm's CBAM, by default as its paper has it; settings of `cbam` make it that of the
library which the released code uses.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import torch
from timm.layers.cbam import CbamModule
from torch import Tensor, nn

from fercore.models import Divided
from fercore_la_cmfer.settings import CbamSettings, LaCmferSettings

_BRANCH = re.compile(r"(?:global|local|fused)(?:_(\d+))?")


class BranchGroup(NamedTuple):
    """Branches that look at the same samples.

    Attributes:
        branches: ("global", "local"), or one name. source: the only source they serve; None = all.
    """

    branches: tuple[str, ...]
    source: int | None


def branch_groups(names: Iterable[str]) -> tuple[BranchGroup, ...]:
    """Group a model's branch names by the source they serve, in order; names of other plugins are left out."""
    by_source: dict[int | None, tuple[str, ...]] = {}
    for name in names:
        match = _BRANCH.fullmatch(name)
        if match:
            source = None if match[1] is None else int(match[1])
            by_source[source] = (*by_source.get(source, ()), name)
    return tuple(BranchGroup(branches, source) for source, branches in by_source.items())


class Attention(CbamModule):
    """CBAM: a gate for each channel, then one for each place.

    Args:
        channels: C. reduction: bottleneck of the channel attention. settings: kernel and norm of the spatial gate, and
            whether the input is added to the output.
    """

    def __init__(self, channels: int, reduction: int, settings: CbamSettings) -> None:
        super().__init__(channels, rd_ratio=1.0 / reduction, spatial_kernel_size=settings.gate)
        # add_module replaces timm's convolution with batch norm under the same name.
        if not settings.gate_norm:
            self.spatial.add_module("conv", nn.Conv2d(2, 1, settings.gate, padding=settings.gate // 2))
        self.residual = settings.residual

    def forward(self, x: Tensor) -> Tensor:
        """Map f[B,C,H,W] to the same shape."""
        gated: Tensor = self.spatial(self.channel(x))
        return gated + x if self.residual else gated


class Block(nn.Module):
    """Residual block of two 3x3 convolutions, with attention before the sum where asked.

    Args:
        inputs, outputs: channels. stride: of the first convolution.
        settings: of the plugin, for the attention; None = no attention.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, settings: LaCmferSettings | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.attention: nn.Module = nn.Identity()
        if settings is not None:
            self.attention = Attention(outputs, settings.network.cbam_reduction, settings.cbam)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map f[B,inputs,H,W] to f[B,outputs,ceil(H/stride),ceil(W/stride)]."""
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.attention(self.bn2(self.conv2(out)))
        return torch.relu(out + self.shortcut(x))


def stack(inputs: int, outputs: int, depth: int, settings: LaCmferSettings | None) -> nn.Sequential:
    """Return `depth` blocks, with attention if its settings are given; the first one halves the map."""
    later = [Block(outputs, outputs, 1, settings) for _ in range(depth - 1)]
    return nn.Sequential(Block(inputs, outputs, 2, settings), *later)


class GlobalBranch(nn.Module):
    """A_G: attention stages over the whole map, then global average pooling.

    Args:
        inputs: channels of the encoder's map.
        settings: widths, depths and attention of the stages.

    Attributes:
        width: D of the features.
    """

    def __init__(self, inputs: int, settings: LaCmferSettings) -> None:
        super().__init__()
        net = settings.network
        widths = (inputs, *net.widths)
        self.stages = nn.Sequential(
            *(stack(a, b, d, settings) for a, b, d in zip(widths, net.widths, net.depths, strict=False))
        )
        self.width = net.widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Map f[B,C,H,W] to features f[B,D]."""
        pooled: Tensor = self.stages(x).mean((2, 3))
        return pooled


class LocalBranch(nn.Module):
    """A_L: the map's four quarters, each through a stack and pooled, then concatenated.

    Args:
        inputs: channels of the encoder's map.
        settings: width, depth and blocks of the stacks, and which quarters share one.

    Attributes:
        width: D of the features, four times the width of a quarter.
    """

    def __init__(self, inputs: int, settings: LaCmferSettings) -> None:
        super().__init__()
        net = settings.network
        attention = settings if settings.local.block == "cbam" else None
        # Quarter -> stack; by column: left quarters share one, right ones the other.
        self.stack_of: tuple[int, ...] = (0, 1, 2, 3) if settings.local.share == "none" else (0, 1, 0, 1)
        self.stacks = nn.ModuleList(
            stack(inputs, net.local_width, net.local_depth, attention) for _ in range(max(self.stack_of) + 1)
        )
        self.width = 4 * net.local_width

    def forward(self, x: Tensor) -> Tensor:
        """Map f[B,C,H,W], H and W at least 2, to features f[B,4*width]."""
        features = [
            self.stacks[number](part).mean((2, 3)) for number, part in zip(self.stack_of, quarters(x), strict=True)
        ]
        return torch.cat(features, 1)


def quarters(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cut f[B,C,H,W] at H//2 and W//2: top left, top right, bottom left, bottom right.

    Raises:
        ValueError: if the map is less than 2 high or wide.
    """
    h, w = x.shape[2] // 2, x.shape[3] // 2
    if not h or not w:
        raise ValueError(f"a map of {x.shape[2]}x{x.shape[3]} cannot be cut into quarters")
    return x[:, :, :h, :w], x[:, :, :h, w:], x[:, :, h:, :w], x[:, :, h:, w:]


class LaterStages(nn.Module):
    """A branch of the backbone's own later stages, whose weights a trained model brings; not in the paper.

    They see the whole map, or its four quarters one after the other, whose features are then concatenated.

    Args:
        later: from a map f[B,C,h,w] to the backbone's pooled features f[B,D]; copied. width: D. quartered: which.

    Attributes:
        width: of the features. copies: of D in it.
    """

    def __init__(self, later: nn.Module, width: int, *, quartered: bool) -> None:
        super().__init__()
        self.stages = copy.deepcopy(later)
        self.copies = 4 if quartered else 1
        self.width = self.copies * width

    def forward(self, x: Tensor) -> Tensor:
        """Map f[B,C,H,W] to features f[B,width]; H and W at least 2 where it is quartered."""
        # One quarter at a time: rows stay as they are, and with them whose batch statistics they count in.
        parts = quarters(x) if self.copies > 1 else (x,)
        return torch.cat([self.stages(part) for part in parts], 1)


View: TypeAlias = GlobalBranch | LocalBranch | LaterStages


class FusedBranch(nn.Module):
    """Global and local features side by side, for one classifier (Figure 4, "DF Design")."""

    def __init__(self, whole: View, parts: View) -> None:
        super().__init__()
        self.views = nn.ModuleList([whole, parts])
        self.width = whole.width + parts.width

    def forward(self, x: Tensor) -> Tensor:
        """Map f[B,C,H,W] to features f[B,Dg+Dl]."""
        return torch.cat([view(x) for view in self.views], 1)


def build_branches(
    inputs: int, settings: LaCmferSettings, num_sources: int, divided: Divided | None = None
) -> dict[str, View | FusedBranch]:
    """Build the branches of an architecture (Figure 4).

    Args:
        inputs: channels of the encoder's map.
        settings: of the plugin.
        num_sources: N; "ds" builds a pair for each.
        divided: the backbone whose later stages they are made of; None = the published layers.
    """

    def whole() -> View:
        return LaterStages(divided.later, divided.width, quartered=False) if divided else GlobalBranch(inputs, settings)

    def parts() -> View:
        return LaterStages(divided.later, divided.width, quartered=True) if divided else LocalBranch(inputs, settings)

    if settings.architecture == "df":
        return {"fused": FusedBranch(whole(), parts())}
    suffixes = [f"_{n}" for n in range(num_sources)] if settings.architecture == "ds" else [""]
    branches: dict[str, View | FusedBranch] = {}
    for suffix in suffixes:
        if settings.architecture != "local":
            branches[f"global{suffix}"] = whole()
        if settings.architecture != "global":
            branches[f"local{suffix}"] = parts()
    return branches


def build_head(width: int, num_classes: int, dropout: float) -> nn.Module:
    """Build a classifier float[B,D] -> float[B,K]."""
    head = nn.Linear(width, num_classes)
    return nn.Sequential(nn.Dropout(dropout), head) if dropout else head


def build_discriminator(width: int, hidden: int) -> nn.Module:
    """Build a domain discriminator float[B,D] -> float[B,1] (Table 3, "Adv variant")."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 1))


class RunState(nn.Module):
    """What a run of la_cmfer keeps: the resolved alpha, and counts of an epoch.

    Attributes:
        alpha: weight of the inter-domain terms.
        counts: int64[5] buffer, in the order of `NAMES`.
    """

    NAMES = ("groups", "groups_without_reliable", "groups_without_pairs", "targets", "voted")

    counts: Tensor

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.register_buffer("counts", torch.zeros(len(self.NAMES), dtype=torch.int64))

    def add(self, **numbers: Tensor | int) -> None:
        """Add to the counts by name, without waiting for the device."""
        for name, number in numbers.items():
            self.counts[self.NAMES.index(name)] += number

    def take(self) -> dict[str, float]:
        """Return the counts since the last call and begin again."""
        values = self.counts.tolist()
        self.counts.zero_()
        return {name: float(value) for name, value in zip(self.NAMES, values, strict=True)}
