"""The network of a method on CLIP: how its parts are built, and how they encode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from fercore.losses import to_float32, unit
from fercore.models import Model, PseudoLabelRecord
from fercore.models.clip import Clip
from fercore.plugin import DomainBatch, Encoded, EncodedDataset, Side
from fercore_pca.alignment import ImageGuidedAlignment
from fercore_pca.banks import DualBanks
from fercore_pca.probes import LinearProbe, Temperature, TextHead
from fercore_pca.prompts import WORDS, Prompts, sets_of_maps
from fercore_pca.scores import aligned_logits, cosine_logits
from fercore_pca.settings import Infer, PcaSettings
from fercore_pca.state import RunState
from fercore_pca.towers import ImageTower, KeptFeatures, Sentences, class_names, scale_of

Part = TypeVar("Part", bound=nn.Module)


def build_network(
    name: str,
    pca_settings: PcaSettings,
    clip: Clip,
    classes: Sequence[str],
    labelled: int | None,
    *,
    include_labelled: bool = False,
) -> Model:
    """Build a model from a loaded CLIP.

    Args:
        name: the plugin's. pca_settings: its settings. classes: the run's classes by name.
        labelled: number of the source domain that is part of the target; None without one.
        include_labelled: whether the samples of that domain are among the unlabelled ones of the target too.
    """
    tower = ImageTower(clip, pca_settings.prompt.pos, trained=pca_settings.probe == "finetune")
    branches = ("cls", "iga") if pca_settings.aligned else ("cls",)
    # The classes are scored with text features, which no head holds: branches and heads only name the outputs.
    features, heads = ({branch: nn.Identity() for branch in branches} for _ in range(2))
    model = Model(tower, features, heads, clip.mean, clip.std)
    state = RunState(labelled, scale_of(clip, pca_settings.logit_scale), include_labelled=include_labelled)
    for part, module in _parts(pca_settings, clip, classes, state).items():
        model.parts[f"{name}/{part}"] = module
    return model


def _parts(pca_settings: PcaSettings, clip: Clip, classes: Sequence[str], state: RunState) -> dict[str, nn.Module]:
    names = class_names(classes, pca_settings.text.words)
    words = WORDS if pca_settings.prompt.init == "words" else ""
    sentences = Sentences(
        clip, names, pca_settings.text.template, pca_settings.prompt.k if pca_settings.prompted else 0, words
    )
    parts: dict[str, nn.Module] = {"sentences": sentences, "state": state, "kept": KeptFeatures()}
    if pca_settings.prompted:
        sides = sets_of_maps(pca_settings.image_encoder == "per_domain_prompts")
        parts["prompts"] = Prompts(clip, pca_settings.prompt, pool=pca_settings.rn.attnpool_prompts, sides=sides)
    if pca_settings.aligned:
        iga, hidden = pca_settings.iga, pca_settings.iga.hidden or max(1, clip.dim // 8)
        parts["alignment"] = ImageGuidedAlignment(clip.dim, hidden, norm=iga.norm, eps=iga.eps, start=iga.start)
        parts["banks"] = DualBanks(clip.dim, len(classes), pca_settings.bank.n, pca_settings.bank.empty)
    if pca_settings.target.mode == "pseudo":
        parts["pseudo"] = PseudoLabelRecord(len(classes))
    if pca_settings.probe == "zero_shot":
        parts["probe"] = Temperature()
    elif pca_settings.probe == "linear_probe":
        parts["probe"] = LinearProbe(clip.dim, len(classes))
    elif pca_settings.probe == "finetune":
        parts["probe"] = TextHead(sentences.hand_crafted(clip.network), state.scale)
    return parts


class Network:
    """The parts of a model, found by name; made again wherever they are needed.

    Args:
        name: the plugin's. pca_settings: its settings. model: what `build_network` made.
    """

    def __init__(self, name: str, pca_settings: PcaSettings, model: Model) -> None:
        self.name, self.pca_settings, self.model = name, pca_settings, model
        tower = model.backbone
        assert isinstance(tower, ImageTower)
        self.tower = tower
        self.sentences = self._need("sentences", Sentences)
        self.state = self._need("state", RunState)
        self.prompts = self._find("prompts", Prompts)
        self.banks = self._find("banks", DualBanks)
        self.record = self._find("pseudo", PseudoLabelRecord)

    def encode(self, batch: DomainBatch, images: Tensor, side: Side) -> Encoded:
        """Encode a view of training."""
        if self.tower.trained or self._shown:
            return self._scored(self._prompted(batch, images, side))
        if self.pca_settings.aug.kind != "none":
            return self._scored(self.tower.encode(images))
        # Neither the tower nor the image ever changes.
        if not self.pca_settings.cache:
            return self._scored(self.tower.one_by_one(images))
        kept = self._need("kept", KeptFeatures)
        return self._scored(kept.get(side, batch.index, images, self.tower.one_by_one))

    def evaluate(self, batch: DomainBatch, images: Tensor, side: Side, *, reading: bool = False) -> Encoded:
        """Encode images as they are.

        Args:
            reading: they are read for an epoch's banks and pseudo labels; for the first with CLIP as it was loaded.
        """
        if reading and not bool(self.state.started) and not self.tower.trained:
            features = to_float32(self._read(batch, images, side))
            texts = self.sentences.hand_crafted(self.tower.network)
            with torch.autocast(images.device.type, enabled=False):
                return Encoded({"cls": features}, {"cls": cosine_logits(features, texts, self.state.scale)})
        if not self.tower.trained and not self._shown:
            return self._scored(self._read(batch, images, side) if reading else self.tower.encode(images))
        return self._scored(self._prompted(batch, images, side))

    def fill(self, read: Mapping[Side, EncodedDataset], *, hand_crafted: bool) -> int:
        """Fill the banks with what was read of both sides; labelled target samples belong to the target's, once.

        Args:
            hand_crafted: whether it was read with CLIP as it was loaded.

        Returns:
            How many classes of how many domains have no feature.
        """
        assert self.banks is not None
        source, target = read["source"], read["target"]
        ours = self.state.of_target(source.domain)
        one, other = source.features["cls"], source.logits["cls"].softmax(-1)
        rule = self.pca_settings.bank.rule
        self.banks.fill("source", one[~ours], other[~ours], source.labels[~ours], rule)
        added = torch.zeros_like(ours) if self.state.include_labelled else ours
        features = torch.cat([target.features["cls"], one[added]])
        probs = torch.cat([target.logits["cls"].softmax(-1), other[added]])
        self.banks.fill("target", features, probs, torch.cat([target.labels, source.labels[added]]), rule)
        with torch.no_grad():
            texts = self.sentences.hand_crafted(self.tower.network) if hand_crafted else self._texts()
        return self.banks.settle(texts)

    @property
    def rule(self) -> Infer:
        """The rule of inference; that of x_v alone as long as images are not aligned."""
        return self.pca_settings.rule if self.banks is not None and bool(self.banks.usable) else "cls"

    @property
    def _shown(self) -> bool:
        """Whether images are encoded with prompts."""
        return self.prompts is not None and self.prompts.visual

    def _read(self, batch: DomainBatch, images: Tensor, side: Side) -> Tensor:
        """Encode images without prompts; those of a side that is read every epoch are encoded once."""
        pca_settings = self.pca_settings
        again = pca_settings.bank.refresh == "epoch" or (side == "target" and pca_settings.target.mode == "pseudo")
        if not again or self._shown or not pca_settings.cache:
            return self.tower.encode(images)
        # The batches of a reading are always the same, so the bits are those of reading again.
        return self._need("kept", KeptFeatures).get(f"{side} read", batch.index, images, self.tower.encode)

    def _prompted(self, batch: DomainBatch, images: Tensor, side: Side) -> Tensor:
        prompts = self.prompts
        if prompts is None or not prompts.visual:
            return self.tower.encode(images)
        if self.pca_settings.image_encoder == "shared":
            return self.tower.encode(images, **prompts.vision(side))
        of_target = torch.full_like(batch.domain, side == "target", dtype=torch.bool)
        if side == "source":
            of_target = self.state.of_target(batch.domain)
        places: dict[Side, Tensor] = {"source": (~of_target).nonzero()[:, 0], "target": of_target.nonzero()[:, 0]}
        parts = [self.tower.encode(images[at], **prompts.vision(of)) for of, at in places.items() if len(at)]
        # Back in the batch's order.
        return torch.cat(parts)[torch.cat([*places.values()]).argsort()]

    def _texts(self) -> Tensor:
        """Return o f[C,d]."""
        if self.prompts is None:
            return self.sentences.hand_crafted(self.tower.network)
        return self.sentences.prompted(self.tower.network, self.prompts.text)

    def _scored(self, encoded: Tensor) -> Encoded:
        features = to_float32(encoded)
        if self.tower.trained:
            with torch.autocast(features.device.type, enabled=False):
                return Encoded({"cls": features}, {"cls": self._need("probe", TextHead)(features)})
        texts = self._texts()
        with torch.autocast(features.device.type, enabled=False):
            logits = cosine_logits(features, texts, self.state.scale)
            probe = self._find("probe", nn.Module)
            if probe is not None:
                logits = probe(features, logits)
            if self.banks is None:
                return Encoded({"cls": features}, {"cls": logits})
            aligned = self._aligned(features)
            iga = self.pca_settings.iga
            second = aligned_logits(aligned, texts, self.state.scale, score=iga.score, beta=iga.beta)
        return Encoded({"cls": features, "iga": aligned}, {"cls": logits, "iga": second})

    def _aligned(self, features: Tensor) -> Tensor:
        """Return x', or x_v where there are no banks to look at."""
        assert self.banks is not None
        if not bool(self.banks.usable):
            return unit(features)
        alignment = self._need("alignment", ImageGuidedAlignment)
        aligned: Tensor = alignment(features, self.banks.centres, self.banks.allowed)
        return aligned

    def _find(self, part: str, kind: type[Part]) -> Part | None:
        return self._need(part, kind) if f"{self.name}/{part}" in self.model.parts else None

    def _need(self, part: str, kind: type[Part]) -> Part:
        module = self.model.parts[f"{self.name}/{part}"]
        assert isinstance(module, kind)
        return module
