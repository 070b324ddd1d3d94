"""AdaFER: Wang, Gu, Peng, Zhang, Sun and Li, "AU-Guided Unsupervised Domain Adaptive Facial Expression Recognition",
2020. Written from the paper; no official code is public. What the paper leaves open is a setting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Sampler

from fercore.losses import masked_cross_entropy, soft_kl, triplet
from fercore.models import Model, PseudoLabelRecord, build_classifier
from fercore.plugin import (
    CODES,
    SCORES,
    Batch,
    DomainBatch,
    Encoded,
    EncodedDataset,
    Forward,
    LossTerm,
    Plugin,
    Progress,
    PseudoLabels,
    Role,
    RunConfig,
    Settings,
    Side,
    SideInfo,
    Stage,
    TaskInfo,
    UserInputError,
    ViewRequest,
    hookimpl,
    refuse_without,
)
from fercore_adafer.batches import Layout, Order, triplets_a_step
from fercore_adafer.epoch import annotate, begin, fresh_epoch, steps_of_a_pass
from fercore_adafer.modules import CodeTable, Margin, State, UnitHead
from fercore_adafer.presets import PRESETS
from fercore_adafer.settings import SCHEMES, AdaFerSettings
from fercore_adafer.stages import FINETUNE, FINETUNED, LOOKUP, TRAIN, VIEW, build_stage, stage_names, views_of

BRANCH = "main"


class AdaFer(Plugin):
    """Adapts from labelled sources to an unlabelled target through action units: pseudo labels and triplets."""

    paper = "AdaFER, 2020"
    training_parts = ("state", "labels_", "margin")
    Settings: ClassVar[type[Settings]] = AdaFerSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
    settings: AdaFerSettings

    def goes_by_length(self) -> str:
        """Nothing does."""
        return ""

    def prediction_extras(self) -> tuple[str, ...]:
        """Two baselines read the action units of what they predict."""
        return {"joint": (SCORES,), "au_lookup": (SCORES, CODES)}.get(self.settings.baseline, ())

    @hookimpl
    def build_model(self, config: RunConfig, num_classes: int, task: TaskInfo) -> Model:
        """Build backbone and linear head, and the parts that the settings ask for."""
        chosen = self.settings
        if chosen.baseline not in ("hard_labels", "soft_labels"):
            refuse_without(config.data, self.name)
        self._check(task)
        model = build_classifier(config.model, num_classes, name=BRANCH)
        self.attach(model, State(num_classes))
        for name in self._recorded():
            self.attach(model, PseudoLabelRecord(num_classes), f"labels_{name}")
        if chosen.gamma.mode == "learnable":
            self.attach(model, Margin(chosen.agt.gamma, chosen.gamma.floor), "margin")
        if chosen.baseline == "au_lookup":
            self.attach(model, CodeTable(num_classes), "codes")
        if chosen.baseline == "joint":
            self.attach(model, UnitHead(num_classes), "units")
        return model

    @hookimpl
    def request_views(self) -> Sequence[ViewRequest]:
        """Ask for one weakly augmented view of each side, in the stages that train on it."""
        return views_of(self.settings)

    @hookimpl
    def plan(self, config: RunConfig, datasets: Mapping[Side, SideInfo], task: TaskInfo) -> Sequence[Stage]:
        """Lay out the stages: source alone where asked for, then both domains; or those of a baseline."""
        margin, stages = f"parts.{self.part_name('margin')}", []
        for name in stage_names(self.settings):
            stage = build_stage(name, config, self.settings, margin)
            # Counted from the codes before anything is mined: the plan stands before the first step.
            if name == TRAIN and self.settings.agt.on and stage.steps_per_epoch is None:
                codes = {side: dataset.extras[CODES] for side, dataset in datasets.items()}
                batch = task.batch.source, task.batch.target
                steps = steps_of_a_pass(codes, batch, self.settings.agt.anchors)
                stage = replace(stage, steps_per_epoch=steps)
            stages.append(stage)
        return stages

    @hookimpl
    def refresh(
        self, model: Model, clock: Progress, encode_dataset: Callable[[Side], EncodedDataset], task: TaskInfo
    ) -> dict[str, float] | None:
        """Learn the domains' action units once; annotate, mine and lay out the epoch's batches."""
        state, metrics = self.part(model, State), {}
        if clock.stage == LOOKUP:
            metrics = self._fit_table(model, encode_dataset)
        elif clock.stage == FINETUNE and not state.annotated:
            metrics = self._predict_target(model, encode_dataset("target"))
        elif clock.stage == TRAIN and (self.settings.aga.on or self.settings.agt.on):
            # Once: action units do not change, and reading both sides takes a pass over them.
            if not state.known:
                begin(state, encode_dataset("source"), encode_dataset("target"))
            metrics = {**annotate(state, self.settings), **fresh_epoch(state, self.settings, task.batch)}
            self._record(model, state)
        return {f"{self.name}/{name}": value for name, value in metrics.items()} or None

    @hookimpl
    def build_sampler(self, model: Model, side: Side, clock: Progress) -> Sampler[int] | None:
        """Draw triplets where the stage trains on them."""
        state = self.part(model, State)
        if clock.stage != TRAIN or not sum(state.shares):
            return None
        return Order(state.order_source if side == "source" else state.order_target)

    @hookimpl
    def encode(self, model: Model, batch: DomainBatch, view: str) -> Encoded:
        """Run the network; baseline #5 adds the action units' logits, baseline #2 answers by code in a branch "au"."""
        alone = model.training and len(batch) == 1
        if alone:  # statistics of one image are none
            model.eval()
        encoded: Encoded = model(batch.images[view])
        if alone:
            model.train()
        if SCORES not in batch.extras:
            return encoded
        if self.settings.baseline == "joint":
            # Logits added, not features joined: the head alone then scores images that have no action units.
            share = self.part(model, UnitHead, "units")(batch.extras[SCORES])
            return Encoded(encoded.features, {**encoded.logits, BRANCH: encoded.logits[BRANCH] + share})
        if self.settings.baseline != "au_lookup":
            return encoded
        table = self.part(model, CodeTable, "codes")
        if not len(table.codes):  # an epoch has to begin before there is one
            return encoded
        nearest = self.settings.aga.unmatched == "nearest"
        shares, _ = table(batch.extras[SCORES], batch.extras[CODES], nearest=nearest)
        return Encoded(encoded.features, {**encoded.logits, "au": shares})

    @hookimpl
    def pseudo_label(self, model: Model, batch: Batch, clock: Progress) -> PseudoLabels | None:
        """Return the target samples' labels: S-hard by the step's own pairs, else T-hard; `probs` is T-soft."""
        state, at = self.part(model, State), batch.target.index
        if clock.stage == FINETUNE:
            return PseudoLabels(state.t_hard[at], torch.ones_like(at, dtype=state.q.dtype), state.q[at])
        if clock.stage != TRAIN or not self.settings.aga.on:
            return None
        labels = state.t_hard[at]
        if "s_hard" in self.settings.aga.schemes:
            labels = state.s_hard[at]
            if self.settings.s_hard.conflict == "pair":
                self._check_pairs(state, batch)
                layout, paired = Layout(*state.shares), batch.source.labels
                anchors, positives, _ = layout.source_anchored()
                # Source anchors: their positives are target samples, which take the anchor's label.
                labels[positives] = paired[anchors]
                anchors, positives, _ = layout.target_anchored()
                # Target anchors take the label of their source positive.
                labels[anchors] = paired[positives]
        return PseudoLabels(labels, state.matched[at].to(state.q.dtype), state.q[at])

    @hookimpl
    def align(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> Sequence[LossTerm]:
        """Return epsilon * L_tri (Eq 4) over the step's triplets, and what keeps a learnable margin up."""
        state = self.part(model, State)
        if clock.stage != TRAIN or not self.settings.agt.on or not sum(state.shares):
            return []
        self._check_pairs(state, batch)
        source, target = (encoded[(side, VIEW)].features[BRANCH] for side in ("source", "target"))
        layout = Layout(*state.shares)
        anchors, positives, negatives = layout.source_anchored()
        forward = source[anchors], target[positives], target[negatives]
        anchors, positives, negatives = layout.target_anchored()
        back = target[anchors], source[positives], source[negatives]
        rows = [torch.cat(pair) for pair in zip(forward, back, strict=True)]
        learns = self.settings.gamma.mode == "learnable"
        margin = self.part(model, Margin, "margin")() if learns else self.settings.agt.gamma
        # Distances of unit vectors are small differences, which half precision does not hold.
        with torch.autocast(source.device.type, enabled=False):
            anchor, positive, negative = (x if x.dtype == torch.float64 else x.float() for x in rows)
            value = triplet(anchor, positive, negative, margin)
        terms = [LossTerm(f"{self.name}/triplet", Role.CONTRASTIVE, value, self.settings.epsilon)]
        if isinstance(margin, Tensor):
            away = (margin - self.settings.agt.gamma).square()
            terms.append(LossTerm(f"{self.name}/margin", Role.REGULARISER, away, self.settings.gamma.pull))
        return terms

    @hookimpl
    def loss(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> Sequence[LossTerm]:
        """Return L_c (Eq 3): cross-entropy of the source, and of the target with its pseudo labels."""
        terms = []
        if ("source", VIEW) in encoded:
            logits = encoded[("source", VIEW)].logits[BRANCH]
            value = F.cross_entropy(logits, batch.source.labels)
            terms.append(LossTerm(f"{self.name}/supervised", Role.SUPERVISED, value))
        if pseudo is None:
            return terms
        logits = encoded[("target", VIEW)].logits[BRANCH]
        if clock.stage == FINETUNE:
            schemes: tuple[str, ...] = ("t_hard",) if self.settings.baseline == "hard_labels" else ("t_soft",)
            beta = 1.0
        else:
            schemes, beta = self.settings.aga.schemes, self.settings.beta
        for scheme in schemes:
            if scheme == "t_soft":
                value = soft_kl(logits, pseudo.probs, pseudo.weight, direction=self.settings.kl)
            else:
                # `pseudo.labels` are those of the first scheme; T-hard beside S-hard is read from the state.
                own = pseudo.labels if scheme == schemes[0] else self.part(model, State).t_hard[batch.target.index]
                value = masked_cross_entropy(logits, own, pseudo.weight)
            terms.append(LossTerm(f"{self.name}/{scheme}", Role.CONSISTENCY, value, beta))
        return terms

    @hookimpl
    def predict(self, encoded: Encoded) -> Tensor:
        """Return the head's class probabilities; of baseline #2, the classes' shares among the code's source images."""
        return encoded.logits["au"] if "au" in encoded.logits else encoded.logits[BRANCH].softmax(dim=1)

    def _check(self, task: TaskInfo) -> None:
        chosen = self.settings
        if chosen.gamma.mode == "learnable" and chosen.gamma.floor >= chosen.agt.gamma:
            what = f"the margin's floor {chosen.gamma.floor:g} is not below its first value {chosen.agt.gamma:g}"
            raise UserInputError(what, where=f"{self.name}.gamma.floor, {self.name}.agt.gamma", fix="lower the floor")
        if chosen.agt.exclude_same_label and not chosen.aga.on:
            fix = f"set {self.name}.aga.on=true or leave the option out"
            what = "negatives can only be held apart by pseudo labels, which are off"
            raise UserInputError(what, where=f"{self.name}.agt.exclude_same_label", fix=fix)
        batch = task.batch.source, task.batch.target
        if chosen.baseline == "none" and chosen.agt.on and not sum(triplets_a_step(*batch, chosen.agt.anchors)):
            fix = "take at least 3 on either side"
            what = f"batches of {batch[0]} source and {batch[1]} target images hold no triplet"
            raise UserInputError(what, where="data.source_batch, data.target_batch", fix=fix)

    def _recorded(self) -> tuple[str, ...]:
        if self.settings.baseline == "au_lookup":
            return ("au_lookup",)
        if self.settings.baseline in FINETUNED:
            return ("predicted",)
        return SCHEMES if self.settings.aga.on else ()

    def _check_pairs(self, state: State, batch: Batch) -> None:
        """Make sure the batch is the one that was laid out; another plugin's sampler would mix the triplets up."""
        layout = Layout(*state.shares)
        s, t = state.source_codes[batch.source.index], state.target_codes[batch.target.index]
        first, second = layout.source_anchored(), layout.target_anchored()
        if not (torch.equal(s[first[0]], t[first[1]]) and torch.equal(t[second[0]], s[second[1]])):
            raise RuntimeError("the batch does not hold the triplets that were mined: its order is another's")

    def _fit_table(self, model: Model, encode_dataset: Callable[[Side], EncodedDataset]) -> dict[str, float]:
        source, target = encode_dataset("source"), encode_dataset("target")
        table = self.part(model, CodeTable, "codes")
        table.fit(source.extras[CODES], source.labels)
        nearest = self.settings.aga.unmatched == "nearest"
        shares, covered = table.look_up_all(target.extras[SCORES], target.extras[CODES], nearest=nearest)
        given = torch.ones_like(covered) if nearest else covered
        self.part(model, PseudoLabelRecord, "labels_au_lookup").write(shares, given)
        return {"coverage": float(covered.float().mean())}

    def _predict_target(self, model: Model, target: EncodedDataset) -> dict[str, float]:
        """Label the target with the source model (baselines #3 to #5)."""
        state, probs = self.part(model, State), target.logits[BRANCH].float().softmax(dim=1)
        state.put("q", probs)
        state.put("t_hard", probs.argmax(dim=1))
        state.put("annotated", torch.tensor(True))
        self.part(model, PseudoLabelRecord, "labels_predicted").write(probs, torch.ones(len(probs)))
        return {"confidence": float(probs.amax(dim=1).mean())}

    def _record(self, model: Model, state: State) -> None:
        if not self.settings.aga.on:
            return
        classes = state.q.shape[1]
        labels = {"t_soft": state.q, "t_hard": F.one_hot(state.t_hard.clamp_min(0), classes).float()}
        # The label of the epoch's own draw; a step that goes by its pairs may have given another.
        labels["s_hard"] = F.one_hot(state.s_hard.clamp_min(0), classes).float()
        for name, probs in labels.items():
            self.part(model, PseudoLabelRecord, f"labels_{name}").write(probs, state.matched)
