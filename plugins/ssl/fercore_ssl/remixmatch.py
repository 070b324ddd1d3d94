"""ReMixMatch (Berthelot et al., ICLR 2020, Eqs 1-6): guesses aligned to the labels, strong views, rotations.

Defaults: USB, semilearn/algorithms/remixmatch and config/usb_cv/remixmatch (T 0.5, alpha 0.75, weights 1.5, 0.5, 0.5,
rise over 1/64). As there, the labelled samples' class shares are what is aligned to, and one mixing factor serves all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fercore.losses import sharpen, to_float32
from fercore.models import Model, forward_without_bn_update
from fercore.plugin import Batch, Forward, LossTerm, Progress, PseudoLabels, Role, Settings, TaskInfo, hookimpl
from fercore_ssl.alignment import Alignment
from fercore_ssl.base import SemiSupervised, SslSettings, logits, warm_up
from fercore_ssl.mixmatch import mix
from fercore_ssl.presets import presets


class ReMixMatchSettings(SslSettings):
    """Settings of remixmatch."""

    lambda_u: float = Field(1.5, ge=0, description="weight of the mixed unlabelled images")
    kl_loss_ratio: float = Field(0.5, ge=0, description="weight of the strong view with the guesses")
    rot_loss_ratio: float = Field(0.5, ge=0, description="weight of the rotations")
    T: float = Field(0.5, gt=0, description="temperature of the sharpening")
    ema_p: float = Field(0.999, ge=0, lt=1, description="momentum of the running class distribution")
    mixup_alpha: float = Field(0.75, ge=0, description="of the Beta distribution of MixUp; 0 = no mixing")
    unsup_warm_up: float = Field(1 / 64, ge=0, le=1, description="share of the run over which both weights rise")


class ReMixMatch(SemiSupervised):
    """MixMatch with guesses aligned to the labels' shares, learnt by strong views, and rotations to tell."""

    paper = "Berthelot et al., ICLR 2020"
    Settings: ClassVar[type[Settings]] = ReMixMatchSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("remixmatch", quick={"ema_p": 0.9})
    training_parts: ClassVar[tuple[str, ...]] = ("state", "rotation")
    views: ClassVar[tuple[str, ...]] = ("weak", "strong", "strong2")
    settings: ReMixMatchSettings

    def parts(self, width: int, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return the head that tells rotations, and the distributions, the labels' own wanted."""
        counts = [sum(source.class_counts.get(name, 0) for source in task.sources) for name in task.classes]
        state, shares = Alignment(len(counts)), torch.tensor(counts, dtype=torch.float32)
        state.wanted.copy_((shares > 0).float() if task.batch.class_balanced else shares)
        state.wanted.div_(state.wanted.sum())
        return {"rotation": nn.Linear(width, 4), "state": state}

    @hookimpl
    def pseudo_label(self, model: Model, encoded: Forward) -> PseudoLabels:
        """Guess labels by the weak view, aligned and sharpened (section 3.1); every sample counts."""
        aligned = self.part(model, Alignment).align(logits(encoded, "target", "weak").softmax(-1), self.settings.ema_p)
        probs = sharpen(aligned, self.settings.T)
        return PseudoLabels(probs.argmax(-1), probs.new_ones(len(probs)), probs)

    def terms(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> list[LossTerm]:
        """Return cross-entropies of mixed images, of a strong view, and of its rotations (Eqs 3-6)."""
        assert pseudo is not None
        unlabelled = [batch.target.images[view] for view in ("strong", "strong2", "weak")]
        known = F.one_hot(batch.source.labels, pseudo.probs.shape[1]).to(pseudo.probs.dtype)
        images = torch.cat([batch.source.images["weak"], *unlabelled])
        images, labels = mix(images, torch.cat([known, *[pseudo.probs] * 3]), self.settings.mixup_alpha)
        n = len(batch.source)
        # The mixed labelled images set the batch statistics, as in USB; the others leave them alone.
        mine = to_float32(model(images[:n]).logits["main"])
        others = to_float32(forward_without_bn_update(model, images[n:]).logits["main"])
        rise = warm_up(clock, self.settings.unsup_warm_up)
        anchor = F.cross_entropy(logits(encoded, "target", "strong"), pseudo.probs)
        terms = [
            self._supervised(F.cross_entropy(mine, labels[:n])),
            self._consistency(F.cross_entropy(others, labels[n:]), self.settings.lambda_u * rise),
            LossTerm(f"{self.name}/anchor", Role.CONSISTENCY, anchor, self.settings.kl_loss_ratio * rise),
        ]
        if self.settings.rot_loss_ratio:
            value = self._rotations(model, unlabelled[0])
            terms.append(LossTerm(f"{self.name}/rotation", Role.REGULARISER, value, self.settings.rot_loss_ratio))
        return terms

    def _rotations(self, model: Model, images: Tensor) -> Tensor:
        """Return the cross-entropy of how many quarter turns images f[B,3,H,W] were given."""
        turns = torch.randint(4, (len(images),))
        turned = torch.stack([torch.rot90(image, int(k), (1, 2)) for image, k in zip(images, turns, strict=True)])
        features = to_float32(forward_without_bn_update(model, turned).features["main"])
        return F.cross_entropy(self.part(model, nn.Linear, "rotation")(features), turns.to(images.device))
