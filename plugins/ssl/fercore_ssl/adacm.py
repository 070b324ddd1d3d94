"""Ada-CM (Li et al., CVPR 2022, Eqs 3-9): a margin for each class from the labelled samples; unsure samples contrast.

Settings of the released code (hangyu94/Ada-CM): dropout 0.5 and scaling to length 1 before the linear head, 0.5 times
the labelled cross-entropy, 0.1 times the contrast with temperature 0.07, threshold 0.8 at first and at least,
0.97 / (1 + e^-n) of the mean confidence after n epochs, Adam 5e-4, weights times 1 - 0.02 lr after each step, batches
of 16 and 16, 20 epochs of 800 steps, weights and batch statistics averaged with 0.999.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fercore.losses import UnitLength, info_nce, labelled_thresholds, to_float32, weighted_cross_entropy
from fercore.models import Model, shrink
from fercore.plugin import (
    Batch,
    EncodedDataset,
    Forward,
    LossTerm,
    Progress,
    PseudoLabels,
    Role,
    Settings,
    Side,
    StepReport,
    hookimpl,
)
from fercore_ssl.base import SemiSupervised, SslSettings, logits
from fercore_ssl.presets import presets


class AdaCMSettings(SslSettings):
    """Settings of adacm."""

    lambda_x: float = Field(0.5, ge=0, description="weight of the labelled term")
    lambda_c: float = Field(0.1, ge=0, description="weight of the contrast of unsure samples")
    tau: float = Field(0.07, gt=0, description="temperature of the contrast")
    floor: float = Field(0.8, gt=0, le=1, description="first and least threshold")
    scale: float = Field(0.97, gt=0, description="share of the mean confidence that counts in the end")
    dropout: float = Field(0.5, ge=0, lt=1, description="of the pooled features")
    feat_norm: bool = Field(True, description="features, dropped out, are scaled to length 1")
    shrink: float = Field(0.02, ge=0, description="weights are multiplied by 1 - shrink * lr after each step")
    shrink_buffers: bool = Field(False, description="batch statistics too, as in the released code")


class Margins(nn.Module):
    """Attributes: levels f[K], the threshold of each class."""

    levels: Tensor

    def __init__(self, num_classes: int, floor: float) -> None:
        super().__init__()
        self.register_buffer("levels", torch.full((num_classes,), floor))


class AdaCM(SemiSupervised):
    """Confident samples learn their class, the others their identity."""

    paper = "Li et al., CVPR 2022"
    Settings: ClassVar[type[Settings]] = AdaCMSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets(
        "adacm",
        paper={"train": {"steps": 16000, "steps_per_epoch": 800, "ema_buffers": "average"}},
        small={"train": {"ema_buffers": "average"}},
        demo={"train": {"ema_buffers": "average"}},
    )
    views: ClassVar[tuple[str, ...]] = ("weak", "weak2", "strong")
    settings: AdaCMSettings

    def branch(self) -> nn.Module:
        """Drop features out and scale them to length 1."""
        parts: list[nn.Module] = [nn.Dropout(self.settings.dropout)] if self.settings.dropout else []
        return nn.Sequential(*parts, *([UnitLength()] if self.settings.feat_norm else []))

    def state(self, num_classes: int) -> nn.Module:
        """Keep the thresholds."""
        return Margins(num_classes, self.settings.floor)

    @hookimpl
    def refresh(
        self, model: Model, clock: Progress, encode_dataset: Callable[[Side], EncodedDataset]
    ) -> dict[str, float] | None:
        """Take the thresholds from the labelled samples after every epoch, by averaged weights if there are any."""
        # Nothing has been learnt yet: every threshold would be the floor, which it is.
        if clock.epoch == 0:
            return None
        # One pass over the labelled samples, plain, in place of running means over augmented batches.
        data, chosen = encode_dataset("source"), self.settings
        probs = to_float32(data.logits["main"]).softmax(-1)
        levels = self.part(model, Margins).levels
        fresh_levels = labelled_thresholds(probs, data.labels, clock.epoch, floor=chosen.floor, scale=chosen.scale)
        levels.copy_(fresh_levels)
        return {f"{self.name}/mean_threshold": float(levels.mean())}

    @hookimpl
    def after_step(self, model: Model, report: StepReport) -> None:
        """Decay the weights by `shrink` times the learning rate."""
        if self.settings.shrink:
            shrink(model, self.settings.shrink * max(report.lr), buffers=self.settings.shrink_buffers)

    @hookimpl
    def pseudo_label(self, model: Model, encoded: Forward) -> PseudoLabels:
        """Label samples by the mean prediction of two weak views; trust those that reach their class's threshold."""
        probs = (logits(encoded, "target", "weak").softmax(-1) + logits(encoded, "target", "weak2").softmax(-1)) / 2
        top, labels = probs.max(-1)
        return PseudoLabels(labels, (top >= self.part(model, Margins).levels[labels]).to(probs.dtype), probs)

    def terms(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> list[LossTerm]:
        """Return cross-entropy with labels and pseudo labels, and the contrast of samples that are not trusted."""
        assert pseudo is not None
        supervised = F.cross_entropy(logits(encoded, "source", "weak"), batch.source.labels)
        value = weighted_cross_entropy(logits(encoded, "target", "strong"), pseudo.labels, pseudo.weight)
        # Where the classes are not trusted, two views of one image still agree on which image it is.
        unsure = pseudo.weight == 0
        one, other = (to_float32(encoded["target", name].features["main"])[unsure] for name in ("weak", "weak2"))
        contrast = info_nce(one, other, self.settings.tau)
        return [
            self._supervised(supervised, self.settings.lambda_x),
            self._consistency(value),
            LossTerm(f"{self.name}/contrast", Role.CONTRASTIVE, contrast, self.settings.lambda_c),
        ]
