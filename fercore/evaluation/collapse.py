"""When adaptation has made predictions worse, as far as that shows without a label: the alarm of a stream.

Some of the images are also shown to the initial model. Over the last `WINDOW` of these (from `LEAST` on):

- few classes: with N = exp(entropy of the shares of the predicted classes), which is K where all K are predicted alike
  and 1 where one class is, the alarm sounds if N of the adapted model is at most `FEW` of the initial model's;
- scattered: in a video neighbours show the same expression. With c = the share of neighbours that are given the same
  class, less the sum of squared class shares, which it would be in a random order, the alarm sounds if c of the initial
  model is at least `STEADY`, so that the stream is correlated, and c of the adapted model at most `SCATTERED` of it.

Both compare models, not truth: where an initial model names classes at random in a stream that shows one class alone, a
model that has learnt to name that one sounds the alarm too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

WINDOW, LEAST = 256, 64
"""Compared images that the rule looks back over, and from which on it says anything."""
FEW, STEADY, SCATTERED = 0.5, 0.15, 0.6


def effective_classes(labels: Tensor, num_classes: int) -> float:
    """Return N = exp(entropy of the shares) of predicted classes int64[n], n at least 1."""
    shares = torch.bincount(labels, minlength=num_classes).double() / len(labels)
    return float(torch.special.entr(shares).sum().exp())


def persistence(labels: Tensor, num_classes: int) -> float:
    """Return how much likelier neighbours in int64[n] have one class than any two, n at least 2."""
    shares = torch.bincount(labels, minlength=num_classes).double() / len(labels)
    return float((labels[1:] == labels[:-1]).double().mean() - shares.square().sum())


class Watch:
    """The last predictions of the initial and the adapted model for the same images, and what they say.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.initial = torch.zeros(0, dtype=torch.int64)
        self.adapted = torch.zeros(0, dtype=torch.int64)

    def add(self, initial: Tensor, adapted: Tensor) -> None:
        """Take in probabilities f[b,K] of either model for the same images, in the order of the stream."""
        self.initial = torch.cat([self.initial, initial.argmax(1).cpu()])[-WINDOW:]
        self.adapted = torch.cat([self.adapted, adapted.argmax(1).cpu()])[-WINDOW:]

    def alarm(self) -> str:
        """Return what is wrong, in words with the numbers; "" = nothing, or too little is known."""
        if len(self.initial) < LEAST:
            return ""
        before, now = (effective_classes(labels, self.num_classes) for labels in (self.initial, self.adapted))
        if now <= FEW * before:
            return f"predictions collapsed to {now:.1f} classes where the initial model gives {before:.1f}"
        before, now = (persistence(labels, self.num_classes) for labels in (self.initial, self.adapted))
        if before >= STEADY and now <= SCATTERED * before:
            return f"predictions of neighbouring images scatter: agreement {now:.2f}, of the initial model {before:.2f}"
        return ""

    def state_dict(self) -> dict[str, Any]:
        """Return what it remembers."""
        return {"initial": self.initial, "adapted": self.adapted}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            Exception: of any kind, if it is not that.
        """
        both = [torch.as_tensor(state[name], dtype=torch.int64) for name in ("initial", "adapted")]
        inside = all(t.ndim == 1 and len(t) <= WINDOW and bool(((t >= 0) & (t < self.num_classes)).all()) for t in both)
        if not inside or len(both[0]) != len(both[1]):
            raise ValueError("predictions that the alarm of a stream compares are damaged")
        self.initial, self.adapted = both
