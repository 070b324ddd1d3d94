"""Feature banks of source and target, and their class centres (section II-C; PDA for what it leaves open)."""

from __future__ import annotations

import logging
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from fercore.losses import unit
from fercore.plugin import Side
from fercore.retrieval import FeatureBank

log = logging.getLogger(__name__)
Rule: TypeAlias = Literal["probability", "prediction"]


def choose(features: Tensor, probs: Tensor, labels: Tensor, n: int, rule: Rule) -> Tensor:
    """Return the rows of a domain that go into its bank.

    Args:
        features: f[M,d]. probs: f[M,C] of CLIP. labels: int64[M], -1 = unknown. n: rows a class.
        rule: "probability" = the n rows of the highest probability of the class; "prediction" = only among the rows
            predicted as the class, and of those with a label only where it says the same (PDA).

    Returns:
        int64[C,n], most probable first, -1 where a class has fewer.
    """
    predicted = probs.argmax(-1)
    # A labelled image that is predicted wrongly is of no class here: PDA keeps it out of its bank.
    told = torch.where((labels < 0) | (labels == predicted), predicted, -1)
    # A bank of all rows, dropped again: its ranking is the one that is wanted.
    whole = FeatureBank(features.shape[1], max(1, len(features)), probs.shape[1]).to(features.device)
    whole.refresh(features, told, probs)
    return whole.top_per_class(n, by="label" if rule == "prediction" else "probability")


class DualBanks(nn.Module):
    """The banks of both domains: detached features of length 1 in float32, all of it buffers.

    Args:
        dim: d. num_classes: C. n: features a class and domain. empty: what a class without a feature gets.

    Attributes:
        source, target: up to C n features, labelled with the class that they stand for.
        centres: f32[2,C,d] of source and target. allowed: bool[2,C], centres that the attention may look at.
        built: bool, whether there are any. usable: bool, whether any class of any bank has a feature.
    """

    centres: Tensor
    allowed: Tensor
    built: Tensor
    usable: Tensor

    def __init__(self, dim: int, num_classes: int, n: int, empty: Literal["text", "mask"]) -> None:
        super().__init__()
        self.n, self.empty = n, empty
        self.source = FeatureBank(dim, num_classes * n, num_classes)
        self.target = FeatureBank(dim, num_classes * n, num_classes)
        self.register_buffer("centres", torch.zeros(2, num_classes, dim))
        self.register_buffer("allowed", torch.zeros(2, num_classes, dtype=torch.bool))
        self.register_buffer("built", torch.tensor(False))
        self.register_buffer("usable", torch.tensor(False))

    @torch.no_grad()
    def fill(self, side: Side, features: Tensor, probs: Tensor, labels: Tensor, rule: Rule) -> None:
        """Replace the bank of one domain; see `choose` for the arguments. A domain without an image empties it."""
        bank = self.source if side == "source" else self.target
        classes = probs.shape[1]
        if not len(features):
            nothing = torch.zeros(0, dtype=torch.int64, device=bank.labels.device)
            bank.refresh(features.reshape(0, bank.features.shape[1]), nothing, probs.reshape(0, classes))
            return
        features = unit(features.float())
        rows = choose(features, probs.float(), labels, self.n, rule)
        stands_for = torch.arange(classes, device=rows.device)[:, None].expand_as(rows)[rows >= 0]
        kept = rows[rows >= 0]
        bank.refresh(features[kept], stands_for, probs[kept].float())

    @torch.no_grad()
    def settle(self, texts: Tensor) -> int:
        """Compute the centres after both banks are filled.

        A class without a feature gets the class's text, or is left out of the attention, as `empty` says. A domain
        whose bank is empty throughout takes over the other's centres; with two such banks nothing is usable.

        Args:
            texts: f[C,d] text features that go with the images', for `empty = "text"`.

        Returns:
            How many classes of how many domains have no feature, in 0..2C.
        """
        sides = [bank.centres() for bank in (self.source, self.target)]
        missing = torch.stack([none for _, none in sides])
        self.built.fill_(True)
        self.usable.copy_(~missing.all())
        absent = int(missing.sum())
        for side, (_, none) in enumerate(sides):
            centres, gone = sides[1 - side] if bool(none.all()) else sides[side]
            if self.empty == "text":
                centres, gone = torch.where(gone[:, None], unit(texts.float()), centres), torch.zeros_like(gone)
            self.centres[side], self.allowed[side] = centres, ~gone
        if not bool(self.usable):
            log.warning("both feature banks are empty for all classes: images are not aligned")
        return absent
