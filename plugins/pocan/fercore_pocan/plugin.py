"""POCAN: "A Prototype-Oriented Contrastive Adaption Network for Cross-domain Facial Expression Recognition", ACCV 2022.
Written from the paper; where the authors' released code (Winter-is-coming-wow/ACCV2022_POCAN) differs, a setting
chooses, and `variant = "official"` chooses for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler

from fercore.losses import ramp, to_float32
from fercore.models import HeadOnBackbone, Model, build_backbone, build_trunk
from fercore.plugin import (
    SIDES,
    Batch,
    DomainBatch,
    Encoded,
    EncodedDataset,
    Forward,
    LossTerm,
    Plugin,
    Progress,
    PseudoLabels,
    RunConfig,
    Settings,
    Side,
    Stage,
    TaskInfo,
    ViewRequest,
    hookimpl,
)
from fercore_pocan import planning
from fercore_pocan.modules import NEVER, Encoder, RunState
from fercore_pocan.objectives import StepInputs
from fercore_pocan.planning import ADAPT, CLASSIFY, PLAIN, PRETRAIN, PROTOTYPES
from fercore_pocan.presets import FROM_MODEL, PRESETS
from fercore_pocan.sampling import TrustSampler, split_batch
from fercore_pocan.settings import PocanSettings

SOURCE: Side = "source"
TARGET: Side = "target"


class Pocan(Plugin):
    """Pretrains on the source by supervised contrast, then adapts encoder and prototypes in turns."""

    paper = "POCAN, ACCV 2022"
    Settings: ClassVar[type[Settings]] = PocanSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    from_model: ClassVar[Mapping[str, Any]] = FROM_MODEL
    settings: PocanSettings

    def goes_by_length(self) -> str:
        """The ramp lambda_t does."""
        return "its ramp lambda_t"

    @hookimpl
    def build_model(self, config: RunConfig, num_classes: int) -> Model:
        """Build encoder and projection head with two sets of prototypes, M_s and M_t, as heads on the embedding."""
        grid, cut = self.settings.network.grid, self.settings.network.reduction
        trunk = build_backbone(config.model) if cut is None else build_trunk(config.model, reduction=cut)
        bare = self.settings.projection == "none"
        encoder = Encoder(trunk, grid, self.settings.proj_hidden, None if bare else self.settings.proj_dim)
        heads: dict[str, nn.Linear] = {
            name: nn.Linear(encoder.width, num_classes, bias=self.settings.proto.bias) for name in (SOURCE, TARGET)
        }
        # A trained head is a set of prototypes where the embedding is the backbone's own.
        whole = bare and cut is None
        trained = {name: HeadOnBackbone(layer, unit_length=True) for name, layer in heads.items() if whole}
        model = Model(encoder, {name: nn.Identity() for name in heads}, heads, trunk.mean, trunk.std, trained)
        self.attach(model, RunState(num_classes))
        return model

    @hookimpl
    def request_views(self) -> Sequence[ViewRequest]:
        """Ask for the views of every stage; see `planning`."""
        return planning.views(self.settings)

    @hookimpl
    def plan(self, config: RunConfig) -> Sequence[Stage]:
        """Pretrain the encoder, learn the source prototypes, adapt; stages without a length are left out."""
        return planning.stages(self.settings, config)

    @hookimpl
    def refresh(
        self, model: Model, clock: Progress, encode_dataset: Callable[[Side], EncodedDataset], task: TaskInfo
    ) -> dict[str, float] | None:
        """Take the source's class counts; in adaptation start M_t from M_s, and label the target again each epoch."""
        state = self.part(model, RunState)
        if clock.stage == PRETRAIN:
            return None
        # Of every source together: the prototypes are one set for all of them.
        counts = [sum(source.class_counts.get(name, 0) for source in task.sources) for name in task.classes]
        state.source_counts.copy_(torch.tensor(counts))
        if clock.stage == CLASSIFY:
            return None
        if clock.step == 0:
            # Once, at the first step of adaptation: a resumed run comes here with a later step.
            model.heads[TARGET].load_state_dict(model.heads[SOURCE].state_dict())
            state.adapted.fill_(True)
        # Kept for `lambda.granularity = "epoch"`: the ramp then stands still within an epoch.
        state.progress.fill_(clock.progress)
        if clock.epoch % self.settings.refresh_every:
            return None
        logits = encode_dataset("target").logits[TARGET]
        state.relabel(to_float32(logits).softmax(-1), self.settings.beta, self.settings.class_counts)
        known = state.thresholds[state.thresholds < NEVER]
        return {
            f"{self.name}/trusted": float(state.trusted.sum()),
            f"{self.name}/trusted_share": float(state.trusted.float().mean()),
            f"{self.name}/classes_predicted": float(len(known)),
            f"{self.name}/mean_threshold": float(known.mean()) if len(known) else 0.0,
        }

    @hookimpl
    def build_sampler(self, config: RunConfig, model: Model, side: Side, clock: Progress) -> Sampler[int] | None:
        """Draw target batches from trusted and untrusted samples in proportion, in adaptation."""
        if side != "target" or clock.stage != ADAPT:
            return None
        state, batch = self.part(model, RunState), config.data.target_batch
        trusted, samples = int(state.trusted.sum()), len(state.trusted)
        if trusted and split_batch(batch, trusted, samples)[0] > batch * trusted / samples:
            state.warn("share_rounds_to_none", trusted, samples)
        return TrustSampler(state.trusted, batch)

    @hookimpl
    def encode(self, model: Model, batch: DomainBatch, view: str, clock: Progress) -> Encoded:
        """Run the network; in the phase of the prototypes the encoder is fixed, batch statistics included."""
        if clock.phase != PROTOTYPES or not model.training:
            encoded: Encoded = model(batch.images[view])
            return encoded
        # Running statistics, and none that this forward leaves.
        model.eval()
        try:
            fixed: Encoded = model(batch.images[view])
        finally:
            model.train()
        return fixed

    @hookimpl
    def pseudo_label(self, model: Model, batch: Batch, clock: Progress) -> PseudoLabels | None:
        """Return the epoch's labels of the step's target samples, weight 1 where they are trusted (Eq 14)."""
        if clock.stage != ADAPT:
            return None
        state, at = self.part(model, RunState), batch.target.index
        probs = state.probs[at]
        return PseudoLabels(probs.argmax(-1), state.trusted[at].to(probs.dtype), probs)

    @hookimpl
    def align(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> Sequence[LossTerm]:
        """Return L_cross and L_st for the encoder, L_dis for the prototypes (Eqs 8-12)."""
        if clock.stage != ADAPT or pseudo is None:
            return []
        with torch.autocast(batch.source.domain.device.type, enabled=False):
            inputs = self._inputs(model, batch, encoded, pseudo, clock)
            return inputs.discrimination() if clock.phase == PROTOTYPES else inputs.alignment()

    @hookimpl
    def loss(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> Sequence[LossTerm]:
        """Return L_sup or L_sp in the first two stages; L_in, or L_sp and L_tp, in adaptation (Eqs 2-7)."""
        with torch.autocast(batch.source.domain.device.type, enabled=False):
            inputs = self._inputs(model, batch, encoded, pseudo, clock)
            if clock.stage == PRETRAIN:
                return [inputs.contrast_source()]
            if clock.stage == CLASSIFY or pseudo is None:
                return [inputs.source_prototypes()]
            return inputs.classification() if clock.phase == PROTOTYPES else inputs.in_domain()

    @hookimpl
    def predict(self, model: Model, encoded: Encoded) -> Tensor:
        """Classify by the target prototypes, or by the source's before adaptation (the row "DT")."""
        head = TARGET if self.part(model, RunState).adapted else SOURCE
        return to_float32(encoded.logits[head]).softmax(-1)

    def _inputs(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> StepInputs:
        state = self.part(model, RunState)
        names = {PRETRAIN: planning.PRETRAIN_PAIR, CLASSIFY: (PLAIN,)}.get(clock.stage, planning.pair(self.settings))
        sides = {
            side: torch.stack([to_float32(encoded[side, name].features[SOURCE]) for name in names], 1)
            for side in SIDES
            if (side, names[0]) in encoded
        }
        progress = clock.progress if self.settings.lambda_.granularity == "step" else float(state.progress)
        return StepInputs(
            name=self.name,
            settings=self.settings,
            source=sides[SOURCE],
            target=sides.get(TARGET),
            labels=batch.source.labels,
            pseudo=pseudo,
            heads={name: model.heads[name] for name in (SOURCE, TARGET)},
            counts=(state.source_counts, state.target_counts),
            ramp=ramp(progress),
            classifying=clock.stage == CLASSIFY,
        )
