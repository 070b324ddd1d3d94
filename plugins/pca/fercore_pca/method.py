"""The hooks that every method on CLIP shares.

PCA: "Prompt-Based Cross-Modal Feature Alignment for Weakly Supervised IFER", IEEE Signal Processing Letters 2025.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fercore.models import Model
from fercore.models.clip import load_clip
from fercore.plugin import (
    SIDES,
    Batch,
    DomainBatch,
    Encoded,
    EncodedDataset,
    Forward,
    LossTerm,
    Plugin,
    PseudoLabels,
    Purpose,
    Role,
    RunConfig,
    Settings,
    Side,
    Stage,
    StepReport,
    TaskInfo,
    UserInputError,
    ViewRequest,
    hookimpl,
)
from fercore_pca import planning
from fercore_pca.network import Network, build_network
from fercore_pca.scores import infer, label_loss
from fercore_pca.settings import PcaSettings

log = logging.getLogger(__name__)


class ClipMethod(Plugin):
    """Learns little on a frozen CLIP: prompts, alignment with feature banks, or a probe, as the settings say.

    Attributes:
        pca_settings: the settings as PCA has them; those of other methods are special cases of it.
    """

    Settings: ClassVar[type[Settings]] = PcaSettings
    settings: Any
    training_parts = ("state", "pseudo")

    def __init__(self, name: str, settings: Any) -> None:
        super().__init__(name, settings)
        self.pca_settings = self._pca_settings()

    def _pca_settings(self) -> PcaSettings:
        pca_settings: PcaSettings = self.settings
        return pca_settings

    def goes_by_length(self) -> str:
        """Nothing does."""
        return ""

    @hookimpl
    def build_model(self, config: RunConfig, task: TaskInfo) -> Model:
        """Load CLIP and put beside it what the method learns."""
        labelled = planning.labelled_domain(self.pca_settings, task)
        if labelled is None and self.pca_settings.target.mode != "pseudo":
            fix = "add ?shots=5 or ?fraction=0.1 to --target"
            log.warning("no labelled target sample: %s learns from the sources alone (%s)", self.name, fix)
        clip = load_clip(self.pca_settings.clip, seed=config.seed, where=f"{self.name}.clip")
        if self.pca_settings.clip.pretrained == "none":
            log.warning(
                "CLIP model %r has random weights, on which %s learns next to nothing: first run `fercore clip warmup "
                "--model %s --out clip.safetensors` (minutes for a tiny one), then add --set "
                "%s.clip.pretrained=clip.safetensors",
                clip.model, self.name, clip.model, self.name,
            )  # fmt: skip
        for setting in planning.without_effect(self.pca_settings, clip):
            log.warning("%s changes nothing with CLIP model %r: there are no prompts for it", setting, clip.model)
        if clip.image_size != config.data.size:
            log.warning(
                "images of %d px are resized to the %d px of CLIP model %r (data.size)",
                config.data.size, clip.image_size, clip.model,
            )  # fmt: skip
        return build_network(
            self.name, self.pca_settings, clip, task.classes, labelled, include_labelled=task.include_labelled
        )

    @hookimpl
    def request_views(self) -> Sequence[ViewRequest]:
        """Ask for the source, labelled target samples among them; for the target where it gets pseudo labels."""
        sides: tuple[Side, ...] = SIDES if self._pseudo else ("source",)
        return [planning.view_of(side, self.pca_settings.aug) for side in sides]

    @hookimpl
    def plan(self, config: RunConfig) -> Sequence[Stage]:
        """Warm up where that is asked for, then train."""
        return planning.stages(self.pca_settings, config)

    @hookimpl
    def refresh(self, model: Model, encode_dataset: Callable[[Side], EncodedDataset]) -> dict[str, float] | None:
        """Fill the banks before the first epoch from un-prompted CLIP, later by `bank.refresh`; label the target."""
        network = self._network(model)
        # A buffer, so that a resumed run does not fill the banks again from un-prompted CLIP.
        first = not bool(network.state.started)
        banks = network.banks if first or self.pca_settings.bank.refresh == "epoch" else None
        if banks is None and not self._pseudo:
            return None
        read: dict[Side, EncodedDataset] = {}
        sides: tuple[Side, ...] = SIDES if banks is not None else ("target",)
        for side in sides:
            read[side] = encode_dataset(side)
        report = {}
        if banks is not None:
            report[f"{self.name}/classes_without_features"] = float(network.fill(read, hand_crafted=first))
            if not bool(banks.usable) and self.pca_settings.weights[0] == 0:
                fix = "give more images, or bank.rule='probability'"
                what = "no image for any class of either feature bank, and no loss but that of the alignment"
                raise UserInputError(what, fix=fix)
        if self._pseudo:
            report[f"{self.name}/pseudo_labelled"] = self._label(network, read["target"], hand_crafted=first)
        network.state.started.fill_(True)
        return report

    def _label(self, network: Network, target: EncodedDataset, *, hand_crafted: bool) -> float:
        probs = infer(target.logits, "cls" if hand_crafted else network.rule, self.pca_settings.weights)
        sure = probs.amax(-1) >= self.pca_settings.target.threshold
        assert network.record is not None
        network.record.write(probs, sure)
        return float(sure.sum())

    @hookimpl
    def encode(self, model: Model, batch: DomainBatch, view: str, side: Side, purpose: Purpose) -> Encoded:
        """Run CLIP with what is learnt: branch "cls" holds x_v (Eqs 1-7), branch "iga" x' (Eqs 9-11)."""
        network = self._network(model)
        if purpose == "train":
            return network.encode(batch, batch.images[view], side)
        return network.evaluate(batch, batch.images[view], side, reading=purpose == "refresh")

    @hookimpl
    def pseudo_label(self, model: Model, batch: Batch) -> PseudoLabels | None:
        """Return the epoch's pseudo labels, weight 1 where they are sure enough (target.mode = "pseudo")."""
        record = self._network(model).record
        if record is None:
            return None
        probs = record.probs[batch.target.index]
        return PseudoLabels(probs.argmax(-1), record.weight[batch.target.index], probs)

    @hookimpl
    def align(self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None) -> Sequence[LossTerm]:
        """Return L_iga (Eq 12), where images are aligned."""
        banks = self._network(model).banks
        if banks is None or not bool(banks.usable) or self.pca_settings.weights[1] == 0:
            return []
        value = self._cross_entropy(model, "iga", batch, encoded, pseudo)
        return [LossTerm(f"{self.name}/iga", Role.ALIGNMENT, value, self.pca_settings.weights[1])]

    @hookimpl
    def loss(self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None) -> Sequence[LossTerm]:
        """Return L_cls (Eq 8)."""
        if self.pca_settings.weights[0] == 0:
            return []
        value = self._cross_entropy(model, "cls", batch, encoded, pseudo)
        return [LossTerm(f"{self.name}/cls", Role.SUPERVISED, value, self.pca_settings.weights[0])]

    @hookimpl
    def predict(self, model: Model, encoded: Encoded) -> Tensor:
        """Classify by the rule of inference."""
        return infer(encoded.logits, self._network(model).rule, self.pca_settings.weights)

    @hookimpl
    def after_step(self, model: Model, report: StepReport) -> None:
        """Let go of the step's text features: the prompts have changed."""
        self._network(model).sentences.forget()

    @property
    def _pseudo(self) -> bool:
        return self.pca_settings.target.mode == "pseudo"

    def _network(self, model: Model) -> Network:
        return Network(self.name, self.pca_settings, model)

    def _cross_entropy(
        self, model: Model, branch: str, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None
    ) -> Tensor:
        sides: list[Side] = ["source"] if pseudo is None else ["source", "target"]
        logits = torch.cat([encoded[side, planning.VIEW].logits[branch] for side in sides])
        weight = torch.ones_like(batch.source.labels, dtype=logits.dtype)
        if pseudo is None:
            labels = batch.source.labels
        else:
            labels = torch.cat([batch.source.labels, pseudo.labels])
            weight = torch.cat([weight, pseudo.weight.to(logits.dtype)])
        if self.pca_settings.mean == "samples":
            return label_loss(logits, labels, weight)
        ours = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
        # Labelled target samples travel on the source side, and belong to the target's mean.
        ours[: len(batch.source)] = self._network(model).state.of_target(batch.source.domain)
        return label_loss(logits, labels, weight * ~ours) + label_loss(logits, labels, weight * ours)
