"""LA-CMFER: Yang et al., "Learning with Alignments: Tackling the Inter- and Intra-domain Shifts for Cross-multidomain
Facial Expression Recognition", ACM MM 2024. Written from the paper; where the authors' released code
(YYX-future/LA-CMFER) differs, a setting chooses, and `variant = "official"` chooses for all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fercore.losses import (
    domain_adversarial,
    domain_mean,
    mean_absolute,
    mean_squared,
    mutual_consistency,
    ramp,
    symmetric_kl,
    to_float32,
    vote,
    voted_cross_entropy,
)
from fercore.models import Model, build_trunk, divide_backbone, heads_on_backbone
from fercore.plugin import (
    Batch,
    DatasetInfo,
    DomainBatch,
    Encoded,
    Forward,
    LossTerm,
    Plugin,
    Progress,
    PseudoLabels,
    Role,
    RunConfig,
    Settings,
    TaskInfo,
    UserInputError,
    ViewRequest,
    hookimpl,
)
from fercore_la_cmfer.alignment import align_domains
from fercore_la_cmfer.inference import combine
from fercore_la_cmfer.modules import RunState, branch_groups, build_branches, build_discriminator, build_head
from fercore_la_cmfer.presets import FROM_MODEL, PRESETS
from fercore_la_cmfer.settings import LaCmferSettings

log = logging.getLogger(__name__)

VIEW = "weak"
HARD_TARGETS = ("fer2013", "affectnet", "aff")
"""Datasets with alpha 0.4 (section 4.1), as formats and lists of several datasets name them."""
DISTANCES = {"kl": symmetric_kl, "l1": mean_absolute, "mse": mean_squared}


class LaCmfer(Plugin):
    """Adapts from one or several labelled sources to an unlabelled target through a global and a local branch."""

    paper = "LA-CMFER, ACM MM 2024"
    joint_forward = True
    training_parts = ("state", "discriminator_")
    Settings: ClassVar[type[Settings]] = LaCmferSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    from_model: ClassVar[Mapping[str, Any]] = FROM_MODEL
    settings: LaCmferSettings

    def goes_by_length(self) -> str:
        """The strength of the reversed gradient does."""
        return "align.kind=adversarial" if self.settings.align.kind == "adversarial" else ""

    @hookimpl
    def build_model(self, config: RunConfig, num_classes: int, task: TaskInfo) -> Model:
        """Build shared encoder, branches, classifiers, and discriminators where they are asked for."""
        reduction = self.settings.network.reduction
        # The local branch cuts the map into quarters: it must be two cells high and wide.
        if config.data.size < 2 * reduction:
            fix = f"take data.size of at least {2 * reduction}, or a smaller {self.name}.network.reduction"
            raise UserInputError(f"images of {config.data.size} px are too small", where="data.size", fix=fix)
        own = self.settings.network.stages == "backbone"
        new = f"set {self.name}.network.stages=published for new layers, which do not go on from a trained model's"
        divided = divide_backbone(config.model, reduction=reduction, otherwise=new) if own else None
        trunk = divided.trunk if divided else build_trunk(config.model, reduction=reduction)
        branches = build_branches(trunk.channels, self.settings, len(task.sources), divided)
        heads = {name: build_head(b.width, num_classes, config.model.dropout) for name, b in branches.items()}
        copies = {name: branch.width // divided.width for name, branch in branches.items()} if divided else {}
        trained = heads_on_backbone(heads, copies) if divided else {}
        model = Model(trunk.module, branches, heads, trunk.mean, trunk.std, trained)
        alpha, why = resolve_alpha(self.settings, task.target)
        if why:
            log.warning("%s.alpha = %g: %s", self.name, alpha, why)
        self.attach(model, RunState(alpha))
        if self.settings.align.kind == "adversarial":
            for name, branch in branches.items():
                discriminator = build_discriminator(branch.width, self.settings.align.hidden)
                self.attach(model, discriminator, f"discriminator_{name}")
        return model

    @hookimpl
    def request_views(self) -> Sequence[ViewRequest]:
        """Ask for one weakly augmented view of each side."""
        return [ViewRequest("source", VIEW, "weak"), ViewRequest("target", VIEW, "weak")]

    @hookimpl
    def pseudo_label(self, encoded: Forward) -> PseudoLabels | None:
        """Vote on the target's labels (Eq 12); with scheme "separate", take what either branch alone is sure of."""
        if self.settings.pseudo_label.scheme == "none":
            return None
        views = _views(encoded[("target", VIEW)])
        pseudo = vote(views[0], views[-1], self.settings.tau)
        if self.settings.pseudo_label.scheme == "vote":
            return pseudo
        # Every view counts for itself here; `_voting` weighs each by its own certainty again.
        sure = torch.stack([view.amax(-1) > self.settings.tau for view in views]).any(0)
        return PseudoLabels(pseudo.labels, sure.to(pseudo.weight.dtype), pseudo.probs)

    @hookimpl
    def align(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> Sequence[LossTerm]:
        """Return alpha * L_inter (Eq 9) in two terms, or the adversarial term that Table 3 puts in its place."""
        source, target = encoded[("source", VIEW)], encoded[("target", VIEW)]
        if self.settings.align.kind == "none":
            return []
        # Distances are small differences of large numbers, which half precision does not hold.
        with torch.autocast(batch.source.domain.device.type, enabled=False):
            if self.settings.align.kind == "adversarial":
                return [self._adversarial(model, batch.source, source, target, clock)]
            return self._inter_domain(model, batch.source, source, target)

    @hookimpl
    def loss(self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None) -> Sequence[LossTerm]:
        """Return L_sup (Eq 13), beta * L_mcc (Eq 11) and gamma * L_mvv (Eq 12)."""
        source, target = encoded[("source", VIEW)], encoded[("target", VIEW)]
        terms = [LossTerm(f"{self.name}/supervised", Role.SUPERVISED, self._supervised(batch.source, source))]
        pairs = [group.branches for group in branch_groups(target.logits) if len(group.branches) > 1]
        if self.settings.consistency != "none" and pairs:
            values = [self._distance(*(target.logits[branch] for branch in pair)) for pair in pairs]
            value = torch.stack(values).mean()
            terms.append(LossTerm(f"{self.name}/consistency", Role.CONSISTENCY, value, self.settings.beta))
        if pseudo is not None and self.settings.pseudo_label.scheme != "none":
            self.part(model, RunState).add(targets=len(pseudo.weight), voted=(pseudo.weight > 0).sum())
            value = self._voting(target, pseudo)
            terms.append(LossTerm(f"{self.name}/voting", Role.CONSISTENCY, value, self.settings.gamma))
        return terms

    @hookimpl
    def refresh(self, model: Model) -> dict[str, float] | None:
        """Report the last epoch's counts: aligned groups, those left out, target samples seen and voted for."""
        counts = self.part(model, RunState).take()
        return {f"{self.name}/{name}": value for name, value in counts.items()} if any(counts.values()) else None

    @hookimpl
    def predict(self, encoded: Encoded) -> Tensor:
        """Combine the branches by `infer`."""
        return combine(self.settings.infer, encoded.logits)

    def _inter_domain(self, model: Model, batch: DomainBatch, source: Encoded, target: Encoded) -> Sequence[LossTerm]:
        state = self.part(model, RunState)
        aligned = align_domains(source, target, batch, self.settings)
        state.add(groups=aligned.groups, groups_without_reliable=aligned.empty, groups_without_pairs=aligned.unpaired)
        alpha = state.alpha / (aligned.sources if self.settings.inter_reduce == "mean" else 1)
        terms = [LossTerm(f"{self.name}/sample_mmd", Role.ALIGNMENT, aligned.sample, alpha)]
        if self.settings.cid.enabled:
            weight = alpha * self.settings.lambda_
            terms.append(LossTerm(f"{self.name}/cluster_mmd", Role.ALIGNMENT, aligned.cluster, weight))
        return terms

    def _adversarial(
        self, model: Model, batch: DomainBatch, source: Encoded, target: Encoded, clock: Progress
    ) -> LossTerm:
        strength = ramp(clock.progress)
        values = []
        for group in branch_groups(source.features):
            rows = slice(None) if group.source is None else batch.domain == group.source
            for branch in group.branches:
                sides = (to_float32(source.features[branch][rows]), to_float32(target.features[branch]))
                if all(len(side) for side in sides):
                    discriminator = self.part(model, name=f"discriminator_{branch}")
                    values.append(domain_adversarial(discriminator, *sides, strength))
        value = torch.stack(values).sum()
        return LossTerm(f"{self.name}/adversarial", Role.ADVERSARIAL, value, self.part(model, RunState).alpha)

    def _supervised(self, batch: DomainBatch, source: Encoded) -> Tensor:
        values = torch.zeros(len(batch), device=batch.labels.device)
        for group in branch_groups(source.logits):
            # Per-source branches learn from their own source alone: the others' samples have weight 0.
            served = 1.0 if group.source is None else batch.domain == group.source
            for branch in group.branches:
                values = values + served * F.cross_entropy(
                    source.logits[branch], batch.labels, reduction="none", label_smoothing=self.settings.label_smoothing
                )
        # Each source the same, or each sample: with unequal sources the two differ.
        return values.mean() if self.settings.source_batch == "mixed" else domain_mean(values, batch.domain)

    def _distance(self, first: Tensor, second: Tensor) -> Tensor:
        if self.settings.consistency != "mcc":
            return DISTANCES[self.settings.consistency](first, second)
        mcc = self.settings.mcc
        with torch.autocast(first.device.type, enabled=False):
            return mutual_consistency(to_float32(first), to_float32(second), inputs=mcc.input, form=mcc.form)

    def _voting(self, target: Encoded, pseudo: PseudoLabels) -> Tensor:
        groups = branch_groups(target.logits)
        logits = [target.logits[branch] for group in groups for branch in group.branches]
        norm = self.settings.mvv.norm
        if self.settings.pseudo_label.scheme == "vote":
            return voted_cross_entropy(logits, pseudo.labels, pseudo.weight, norm=norm) / len(groups)
        alone = []
        for z in logits:
            probs = z.detach().softmax(-1)
            weight = (probs.amax(-1) > self.settings.tau).to(pseudo.weight.dtype)
            alone.append(voted_cross_entropy([z], probs.argmax(-1), weight, norm=norm))
        return torch.stack(alone).sum() / len(groups)


def _views(target: Encoded) -> list[Tensor]:
    """Return the probabilities f[B,K] of the global and the local view, each the mean over per-source branches."""
    groups = branch_groups(target.logits)
    sides = zip(*(group.branches for group in groups), strict=True)
    return [torch.stack([to_float32(target.logits[b]).softmax(-1) for b in side]).mean(0) for side in sides]


def resolve_alpha(settings: LaCmferSettings, target: DatasetInfo) -> tuple[float, str]:
    """Return alpha, and why it is that where nobody chose it.

    "auto" is 0.4 for FER-2013 and AffectNet as the target and 0.1 for any other (section 4.1). Which dataset a folder
    or a list holds cannot be seen, so what was taken is always said; generated faces are neither.

    Args:
        settings: of the plugin. target: the target's dataset.
    """
    if settings.alpha != "auto":
        return float(settings.alpha), ""
    if target.format == "synthfer":
        return 0.1, ""
    what = f"the target is read as {target.dataset!r}"
    if target.dataset.lower() in HARD_TARGETS:
        return 0.4, f"{what}, and section 4.1 has that for FER-2013 and AffectNet"
    return 0.1, f"{what}; section 4.1 has 0.4 for FER-2013 and AffectNet alone. If it is one of them set alpha=0.4"
