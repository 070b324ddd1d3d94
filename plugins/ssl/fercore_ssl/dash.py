"""Dash (Xu et al., ICML 2021, Algorithm 1): pseudo labels whose loss is below a threshold that shrinks.

Defaults: USB, semilearn/algorithms/dash (gamma 1.27, C 1.0001, rho_min 0.05, T 0.5), as shares of the run: 2048 of
204800 steps of warm-up on the labelled samples alone, an update every tenth of 200 epochs. The threshold begins at the
mean loss of the labelled samples after the warm-up, as in the paper; USB takes that of the test set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fercore.losses import shrinking_threshold, to_float32
from fercore.models import Model
from fercore.plugin import (
    Batch,
    EncodedDataset,
    Forward,
    Phase,
    Progress,
    PseudoLabels,
    RunConfig,
    Settings,
    Side,
    Stage,
    ViewRequest,
    hookimpl,
    single_stage,
)
from fercore_ssl.base import TRANSFORMS, SslSettings, ThresholdMethod, logits, tempered
from fercore_ssl.presets import presets

WARM, MAIN = "warm_up", "train"


class DashSettings(SslSettings):
    """Settings of dash."""

    T: float = Field(0.5, gt=0, description="temperature of soft pseudo labels")
    gamma: float = Field(1.27, gt=1, description="factor by which the threshold shrinks")
    C: float = Field(1.0001, gt=1, description="factor on the threshold")
    rho_min: float = Field(0.05, gt=0, description="least threshold; from then on pseudo labels are classes")
    warmup_share: float = Field(0.01, ge=0, lt=1, description="share of the steps on labelled samples alone")
    update_share: float = Field(0.05, gt=0, le=1, description="share of the other steps between two updates")


class Threshold(nn.Module):
    """The threshold on the loss.

    Attributes:
        start: scalar, mean loss of the labelled samples after the warm-up. rho: scalar, the threshold.
    """

    start: Tensor
    rho: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("start", torch.tensor(0.0))
        self.register_buffer("rho", torch.tensor(0.0))


class Dash(ThresholdMethod):
    """A threshold on the loss of the pseudo label."""

    paper = "Xu et al., ICML 2021"
    Settings: ClassVar[type[Settings]] = DashSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("dash", quick={"warmup_share": 0.2})
    settings: DashSettings

    def goes_by_length(self) -> str:
        """The warm-up and the steps between two thresholds do."""
        return "warmup_share and update_share"

    def state(self, num_classes: int) -> nn.Module:
        """Keep the threshold."""
        return Threshold()

    @hookimpl
    def request_views(self) -> Sequence[ViewRequest]:
        """Ask for a weak labelled view, and after the warm-up for both unlabelled ones."""
        unlabelled = [ViewRequest("target", name, TRANSFORMS[name], (MAIN,)) for name in self.views]
        return [ViewRequest("source", "weak", "weak"), *unlabelled]

    @hookimpl
    def plan(self, config: RunConfig) -> Sequence[Stage]:
        """Train on the labelled samples for a share of the steps, then on both."""
        stage = single_stage(config, MAIN)
        # One step at least is left for the main stage.
        warm = min(round(self.settings.warmup_share * stage.steps), stage.steps - 1)
        if warm == 0:
            return [stage]
        phases = tuple(_constant(phase) for phase in stage.phases)
        return [
            dataclasses.replace(stage, name=WARM, steps=warm, phases=phases),
            dataclasses.replace(stage, steps=stage.steps - warm),
        ]

    @hookimpl
    def refresh(
        self, model: Model, clock: Progress, encode_dataset: Callable[[Side], EncodedDataset]
    ) -> dict[str, float] | None:
        """Take the labelled samples' mean loss for the first threshold, after the warm-up."""
        if clock.stage != MAIN or clock.step:
            return None
        data = encode_dataset("source")
        state = self.part(model, Threshold)
        state.start.fill_(F.cross_entropy(to_float32(data.logits["main"]), data.labels))
        return {f"{self.name}/rho": float(state.start)}

    @hookimpl
    def pseudo_label(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> PseudoLabels | None:
        """Label the unlabelled samples by their weak view; trust those whose loss is at most rho."""
        if clock.stage != MAIN:
            return None
        state, chosen = self.part(model, Threshold), self.settings
        # From the step's number, not from the last threshold: a resumed run needs nothing but `start`.
        updates = int(clock.step / max(1.0, chosen.update_share * clock.total_steps))
        rho = shrinking_threshold(float(state.start), updates, base=chosen.gamma, factor=chosen.C)
        state.rho.fill_(max(rho, chosen.rho_min))
        weak = logits(encoded, "target", "weak")
        probs = weak.softmax(-1)
        labels = probs.argmax(-1)
        sharp = (
            F.one_hot(labels, probs.shape[1]).to(probs.dtype) if rho <= chosen.rho_min else tempered(probs, chosen.T)
        )
        loss = F.cross_entropy(weak, sharp, reduction="none")
        return PseudoLabels(labels, (loss <= state.rho).to(probs.dtype), sharp)

    @property
    def hard(self) -> bool:
        """Whether labels are classes: they are one-hot distributions here once the threshold has shrunk."""
        return False


def _constant(phase: Phase) -> Phase:
    """Return the phase with its learning rate as it is throughout: the schedule belongs to the stage after it."""
    return dataclasses.replace(phase, optimiser=dataclasses.replace(phase.optimiser, schedule="constant"))
