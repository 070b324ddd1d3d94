"""When adaptation has made predictions worse, as far as that shows without a label: the alarm of a stream.

Images of the stream are also shown to the initial model. Over the last `WINDOW` of these, from `LEAST` on:

- few classes: with N = exp(entropy of the shares of the predicted classes), which is K where all K are predicted alike
  and 1 where one class is, the alarm sounds if N of the adapted model is at most `FEW` of the initial model's;
- scattered: images that follow one another in a video show the same face, often the same expression. With r = the
  intraclass correlation of predicted classes in runs of `RUN` images (0 in a random order, 1 if a run has one class),
  the alarm sounds if r of the initial model is at least `STEADY`, so that the stream is correlated, and r of the
  adapted model at most `SCATTERED` of that: batch statistics take away what the images of a batch have in common.

Both compare models, not truth: where an initial model names classes at random in a stream that shows one class
alone, a model that has learnt to name that one sounds the alarm too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

WINDOW, LEAST, RUN = 512, 256, 64
"""Compared images that the rule looks back over, from which on it says anything, and of a run."""
FEW, STEADY, SCATTERED = 0.5, 0.02, 0.5


def effective_classes(labels: Tensor, num_classes: int) -> float:
    """Return N = exp(entropy of the shares) of predicted classes int64[n], n at least 1."""
    shares = torch.bincount(labels, minlength=num_classes).double() / len(labels)
    return float(torch.special.entr(shares).sum().exp())


def run_correlation(labels: Tensor, num_classes: int, run: int = RUN) -> float:
    """Return how much likelier two images of a run have one class than any two: 0 = not at all, 1 = always.

    The intraclass correlation of one-hot labels about their mean, over all pairs of a run.

    Args:
        labels: int64[n], n at least `run`; the first n % run are left out. run: images of one.

    Returns:
        0 where all labels are one class.
    """
    whole = labels[len(labels) % run :]
    rows = torch.nn.functional.one_hot(whole, num_classes).double()
    rows = rows - rows.mean(0)
    spread = rows.square().sum()
    if not spread:
        return 0.0
    # The squared sum of a run holds every pair twice, and every image with itself.
    pairs = rows.view(-1, run, num_classes).sum(1).square().sum() - spread
    return float(pairs / ((run - 1) * spread))


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
        before, now = (run_correlation(labels, self.num_classes) for labels in (self.initial, self.adapted))
        # Not the other way round: predictions that change as a model learns differ between runs, too.
        if before >= STEADY and now <= SCATTERED * before:
            told = f"correlation in runs {now:.3f}, of the initial model {before:.3f}"
            return f"predictions scatter in a correlated stream: {told}"
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
