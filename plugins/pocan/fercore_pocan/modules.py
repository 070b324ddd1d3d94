"""The network of POCAN (section 4.2) and what a run keeps between steps."""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fercore.losses import adaptive_thresholds, to_float32, unit
from fercore.models import Backbone

log = logging.getLogger(__name__)

NEVER = 2.0
"""A threshold above every confidence; infinity would look like a diverged weight in a checkpoint."""

WARNINGS = {
    "never_predicted": "no target sample is labelled as class number(s) %s: no threshold, no trusted sample for them",
    "none_trusted": "no target sample is trusted: the losses on pseudo labels are left out",
    "all_trusted": "every target sample is trusted: batches have no untrusted part",
    "share_rounds_to_none": "%d of %d target samples are trusted: a batch holds one of them instead of none",
}


class Encoder(nn.Module):
    """f and g: backbone, unit length, two-layer projection head, unit length.

    Args:
        trunk: whole backbone, pooled to f[B,C], or one cut at a stride, with a map f[B,C,h,w].
        grid: cells a side in which a map is averaged.
        hidden: width of the head's inner layer; None = that of its input.
        width: m of the embedding; None = no head, as wide as what the backbone yields.

    Attributes:
        trunk: f. projection: g. width: m.
    """

    def __init__(self, trunk: Backbone, grid: int, hidden: int | None, width: int | None) -> None:
        super().__init__()
        cells = nn.AdaptiveAvgPool2d(grid) if trunk.reduction else nn.Identity()
        inputs = trunk.channels * grid**2
        inner = hidden or inputs
        self.trunk = trunk.module
        self.cells = nn.Sequential(cells, nn.Flatten())
        self.width = width or inputs
        self.projection: nn.Module = nn.Identity()
        if width is not None:
            self.projection = nn.Sequential(
                nn.Linear(inputs, inner), nn.BatchNorm1d(inner), nn.ReLU(), nn.Linear(inner, width, bias=False)
            )

    def forward(self, images: Tensor) -> Tensor:
        """Map f[B,3,H,W] to embeddings f[B,m] of length 1."""
        # In float32: lengths of half-precision vectors are off by more than the losses' temperatures forgive.
        features = unit(to_float32(self.cells(self.trunk(images))))
        return unit(to_float32(self.projection(features)))


class RunState(nn.Module):
    """What a run of pocan keeps: pseudo labels of the whole target, class counts, where it stands.

    Attributes:
        probs: f[N,K] of the target prototypes at the last refresh; trusted: bool[N]; both empty before adaptation.
        thresholds: f[K] of Eq 14, `NEVER` for a class that is not predicted.
        source_counts, target_counts: int64[K], labels and pseudo labels, as Eq 13 counts them.
        adapted: bool, the target prototypes are in use. progress: float64, share of adaptation done as the epoch began.
        warned: bool[4], warnings given so far, in the order of `WARNINGS`.
    """

    probs: Tensor
    trusted: Tensor
    thresholds: Tensor
    source_counts: Tensor
    target_counts: Tensor
    adapted: Tensor
    progress: Tensor
    warned: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("probs", torch.zeros(0, num_classes))
        self.register_buffer("trusted", torch.zeros(0, dtype=torch.bool))
        self.register_buffer("thresholds", torch.full((num_classes,), NEVER))
        self.register_buffer("source_counts", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("target_counts", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("adapted", torch.tensor(False))
        # float64: the ramp is computed by the host's arithmetic, and must resume to the same bits.
        self.register_buffer("progress", torch.tensor(0.0, dtype=torch.float64))
        self.register_buffer("warned", torch.zeros(len(WARNINGS), dtype=torch.bool))

    def relabel(self, probs: Tensor, beta: float, counted: Literal["trusted", "all"] = "trusted") -> None:
        """Take new pseudo labels: thresholds by Eq 14, trusted samples, their counts.

        Args:
            probs: f[N,K] of the target prototypes, in the target's order. beta: strictness.
            counted: pseudo labels that count: of trusted samples, or of all.
        """
        num_classes = probs.shape[1]
        confidence, predicted = probs.max(-1)
        self.thresholds = adaptive_thresholds(confidence, predicted, num_classes, beta).clamp_max(NEVER)
        # Assigned, which replaces the buffers: the number of target samples is first known here.
        self.probs, self.trusted = probs, confidence >= self.thresholds[predicted]
        labels = predicted if counted == "all" else predicted[self.trusted]
        self.target_counts = torch.bincount(labels, minlength=num_classes)
        never = (torch.bincount(predicted, minlength=num_classes) == 0).nonzero().flatten().tolist()
        if never:
            self.warn("never_predicted", ", ".join(map(str, never)))
        if not self.trusted.any():
            self.warn("none_trusted")
        elif self.trusted.all():
            self.warn("all_trusted")

    def warn(self, name: str, *values: object) -> None:
        """Log one of `WARNINGS`, once in a run."""
        place = list(WARNINGS).index(name)
        if not self.warned[place]:
            log.warning(WARNINGS[name], *values)
            self.warned[place] = True

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Make room for the saved number of target samples, then load."""
        for name in ("probs", "trusted"):
            saved = state_dict.get(prefix + name)
            if saved is not None:
                # Torch refuses a buffer of another size, and this one is empty until the target has been labelled.
                setattr(self, name, torch.empty_like(saved, device=self.thresholds.device))
        super()._load_from_state_dict(state_dict, prefix, *args)
