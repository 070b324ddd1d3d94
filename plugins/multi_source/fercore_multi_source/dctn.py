"""DCTN (Xu et al., CVPR 2018): the head of the source that the target is taken for counts most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fercore.losses import masked_cross_entropy, to_float32
from fercore.models import GroupedDomainHeads, Model
from fercore.plugin import (
    Batch,
    Encoded,
    Forward,
    LossTerm,
    ParamGroup,
    Phase,
    Progress,
    PseudoLabels,
    Role,
    RunConfig,
    Settings,
    Stage,
    TaskInfo,
    hookimpl,
    optimiser_from,
    two_stages,
)
from fercore_multi_source.base import Heads, ManySources, NetworkSettings, own_rows, presets

PRETRAIN, ADAPT = "pretrain", "adapt"
TELL, HIDE, CLASSIFY = "tell", "hide", "classify"


class DctnSettings(NetworkSettings):
    """Settings of dctn."""

    pretrain_share: float = Field(0.5, gt=0, lt=1, description="share of the steps that learn the sources alone")
    p_cutoff: float = Field(0.9, gt=0, le=1, description="least probability of a pseudo label")
    hidden: int = Field(1024, ge=1, description="width of the discriminators' two hidden layers")
    momentum: float = Field(0.9, ge=0, lt=1, description="of the running mean of each source's own perplexity")


class Perplexity(nn.Module):
    """What a source's own samples score, f[N], and which classes it has, bool[N,K]."""

    def __init__(self, task: TaskInfo) -> None:
        super().__init__()
        self.register_buffer("level", torch.zeros(len(task.sources)))
        known = [[source.class_counts.get(name, 0) > 0 for name in task.classes] for source in task.sources]
        self.register_buffer("known", torch.tensor(known))


class DCTN(ManySources):
    """Discriminators of each source say how much its head counts, and the features hide the source told best."""

    paper = "Xu et al., CVPR 2018"
    training_parts = ()
    Settings: ClassVar[type[Settings]] = DctnSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets("dctn")
    settings: DctnSettings

    def goes_by_length(self) -> str:
        """The length of the first stage does."""
        return "pretrain_share"

    def parts(self, width: int, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return a discriminator for each source, and what its own samples score."""
        return {
            "adversary": GroupedDomainHeads(len(task.sources), width, self.settings.hidden),
            "perplexity": Perplexity(task),
        }

    @hookimpl
    def plan(self, config: RunConfig) -> Sequence[Stage]:
        """Lay out the stage of the sources, and that in which discriminators, features and heads take turns."""
        first, second = two_stages(config, (PRETRAIN, ADAPT), self.settings.pretrain_share, who=self.name)
        spec, clip, base = optimiser_from(config), config.optim.clip_grad_norm, config.optim.backbone_multiplier
        network = (ParamGroup(("backbone.",), base), ParamGroup(("branches.",)))
        turns = (
            Phase(TELL, (ParamGroup((f"parts.{self.part_name('adversary')}.",)),), spec, clip),
            Phase(HIDE, network, spec, clip),
            Phase(CLASSIFY, (*network, ParamGroup(("heads.",))), spec, clip),
        )
        pretrain = replace(first, phases=(replace(turns[2], name=PRETRAIN),))
        return [pretrain, replace(second, phases=turns)]

    @hookimpl
    def pseudo_label(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> PseudoLabels | None:
        """Label what the weighted heads are sure of, where heads learn from it."""
        if clock.phase != CLASSIFY:
            return None
        probs = self.predict(model, encoded["target", "weak"])
        top, labels = probs.max(-1)
        return PseudoLabels(labels, (top >= self.settings.p_cutoff).to(probs.dtype), probs)

    @hookimpl
    def loss(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> Sequence[LossTerm]:
        """Return what a phase descends."""
        x, y = (to_float32(encoded[side, "weak"].features["main"]) for side in ("source", "target"))
        with torch.autocast(x.device.type, enabled=False):
            if clock.phase in (PRETRAIN, CLASSIFY):
                terms = [self.supervised(model, x, batch.source)]
                if pseudo is not None and len(y):
                    heads = model.heads["main"]
                    assert isinstance(heads, Heads)
                    every = [masked_cross_entropy(z, pseudo.labels, pseudo.weight) for z in heads.every(y)]
                    terms.append(LossTerm(f"{self.name}/pseudo_labels", Role.CONSISTENCY, torch.stack(every).mean()))
                return terms
            if not len(y):
                return []
            own = own_rows(batch.source)
            here, there = self._told(model, x), self._told(model, y)
            cost = torch.stack([_told_apart(here[rows, n], there[:, n]) for n, rows in own])
            if clock.phase == TELL:
                self._note(model, here, own)
                return [LossTerm(f"{self.name}/tell", Role.ADVERSARIAL, cost.sum())]
            # The source told best is the hardest to hide: it alone moves the features (section 3.2).
            number, rows = own[int(cost.argmin())]
            both = torch.cat([here[rows, number], there[:, number]])
            value = (F.softplus(both) + F.softplus(-both)).mean() / 2
            return [LossTerm(f"{self.name}/hide", Role.ADVERSARIAL, value)]

    @hookimpl
    def predict(self, model: Model, encoded: Encoded) -> Tensor:
        """Average the heads by the perplexity of their sources, each class over the sources that have it (Eq 9)."""
        features, heads = to_float32(encoded.features["main"]), model.heads["main"]
        assert isinstance(heads, Heads)
        state = self.part(model, Perplexity, "perplexity")
        score = F.softplus(self._told(model, features)) + state.get_buffer("level")  # -log(1 - D) + level, f[B,N]
        weight = score.T[:, :, None] * state.get_buffer("known")[:, None, :]
        probs = (weight * to_float32(heads.every(features)).softmax(-1)).sum(0) / weight.sum(0).clamp_min(1e-12)
        return probs / probs.sum(-1, keepdim=True)

    def _told(self, model: Model, features: Tensor) -> Tensor:
        """Return the logits f[B,N] of being of each source."""
        critic = self.part(model, GroupedDomainHeads, "adversary")
        logits: Tensor = critic(features.repeat(1, len(self.part(model, Perplexity, "perplexity").get_buffer("level"))))
        return logits

    def _note(self, model: Model, here: Tensor, own: Sequence[tuple[int, Tensor]]) -> None:
        """Take a batch's own perplexity of each source into its running mean."""
        level = self.part(model, Perplexity, "perplexity").get_buffer("level")
        for number, rows in own:
            score = F.softplus(here.detach()[rows, number]).mean().to(level.dtype)
            level[number] = torch.lerp(score, level[number], self.settings.momentum)


def _told_apart(source: Tensor, target: Tensor) -> Tensor:
    """Return -log D of the source's logits and -log(1 - D) of the target's, their means added."""
    return F.softplus(-source).mean() + F.softplus(target).mean()
