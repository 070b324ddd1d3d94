"""Personalisation from frames of one subject, neutral ones above all: the subject's own neutral face is subtracted.

A simple form of what DSFDA (Sharafi et al. 2025, arXiv 2503.20771) and SFDA-PFT (Sharafi et al., ICLR 2026, arXiv
2508.09202) learn by generating expressions: nothing is trained, and the head stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fercore.losses import to_float32
from fercore.models import Model, SizedByData
from fercore.plugin import (
    Encoded,
    EncodedDataset,
    Forward,
    LossTerm,
    ParamGroup,
    Progress,
    Purpose,
    RunConfig,
    Settings,
    Side,
    Stage,
    TaskInfo,
    UserInputError,
    hookimpl,
    say,
)
from fercore_source_free.base import ADAPT, TrainedModel, log_probs_of

NEUTRAL = "neutral"


class PersonaliseSettings(Settings):
    """Settings of personalise."""

    frames: Literal["all", "predicted"] = Field(
        "all", description="the frames of the target's adaptation part that are neutral: all, or those predicted so"
    )
    prior_frames: float = Field(16.0, ge=0, description="n frames move features by n / (n + this) of the difference")
    reference: Literal["auto", "model", "head"] = Field(
        "auto",
        description="the neutral face of people at large: of images the model was trained on, by the model itself; or "
        "the head's own direction of neutral; auto = the first where the model carries features",
    )
    statistics: float = Field(
        0.0, ge=0, le=0.1, description="share of the frames' own statistics in batch normalisation; more shifts neutral"
    )


class Personalise(TrainedModel):
    """Moves a subject's features so that their neutral face lies where that of people at large does."""

    paper = "after Sharafi et al., arXiv 2503.20771 and 2508.09202"
    training_parts = ("outset", "seen")
    Settings: ClassVar[type[Settings]] = PersonaliseSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # One frame is enough: nothing is trained on the batch, which has to have two for methods that do.
        name: {"train": {"steps": 1}, "data": {"target_batch": 2, "small_domains": "repeat"}}
        for name in ("demo", "small", "paper")
    }
    settings: PersonaliseSettings

    def parts(self, model: Model, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return the offset of each branch, and what it is measured from."""
        if NEUTRAL not in task.classes:
            what = f"the model has no class neutral; it has {', '.join(task.classes)}"
            raise UserInputError(what, where="--init", fix="personalise needs one")
        known = {name: task.source_features.get(name, torch.zeros(0)) for name in model.heads}
        seen = {f"seen_{name}": features.clone() for name, features in known.items()}
        offsets = {f"offset_{name}": torch.zeros(0) for name in model.heads}
        return {"offsets": SizedByData(offsets), "seen": SizedByData(seen)}

    @hookimpl
    def plan(self, config: RunConfig) -> Sequence[Stage]:
        """Go through one step that trains nothing; all is done before it."""
        return [self.stage(config, ADAPT, None, [ParamGroup(("",))])]

    @hookimpl
    def loss(self, encoded: Forward) -> Sequence[LossTerm]:
        """Return nothing: no weight moves."""
        return []

    @hookimpl(wrapper=True)
    def encode(self, model: Model, purpose: Purpose) -> Generator[None, Encoded, Encoded]:  # type: ignore[override]
        """Move features by the offsets, and have the heads read those."""
        model.eval()
        encoded = yield
        offsets = self.part(model, SizedByData, "offsets")
        if purpose != "evaluate" or not offsets.get_buffer(f"offset_{next(iter(encoded.features))}").numel():
            return encoded
        moved = {name: each - offsets.get_buffer(f"offset_{name}").to(each.dtype)
                 for name, each in encoded.features.items()}  # fmt: skip
        return Encoded(moved, {name: model.heads[name](each) for name, each in moved.items()})

    @hookimpl
    def refresh(
        self, model: Model, clock: Progress, encode_dataset: Callable[[Side], EncodedDataset], task: TaskInfo
    ) -> dict[str, float]:
        """Measure the subject's neutral face, once."""
        if clock.step:
            return {}
        if self.settings.statistics:
            blend_statistics(model, self.settings.statistics, lambda: encode_dataset("target"))
        encoded, neutral = encode_dataset("target"), list(task.classes).index(NEUTRAL)
        rows = torch.ones(len(encoded.index), dtype=torch.bool, device=encoded.index.device)
        if self.settings.frames == "predicted":
            rows = log_probs_of(encoded).argmax(1) == neutral
        n = int(rows.sum())
        if not n:
            what, fix = (
                "none of the frames is predicted neutral",
                f"give neutral frames, and --set {self.name}.frames=all",
            )
            raise UserInputError(what, where="--target", fix=fix)
        gamma = n / (n + self.settings.prior_frames)
        offsets, kinds = self.part(model, SizedByData, "offsets"), set()
        for name in encoded.features:
            features = to_float32(encoded.features[name])
            self._refuse_other_heads(model, name, features, to_float32(encoded.logits[name]))
            reference, kind = self._reference(model, name, features, neutral)
            offsets.put(f"offset_{name}", gamma * (features[rows].mean(0) - reference))
            kinds.add(kind)
        say(f"{self.name}: {n} neutral frames, features move by {gamma:.2f} of the difference to {', '.join(kinds)}")
        return {f"{self.name}/frames": float(n), f"{self.name}/share": gamma}

    def _reference(self, model: Model, name: str, features: Tensor, neutral: int) -> tuple[Tensor, str]:
        """Return the neutral face of people at large f[D] in a branch, and where it is from, in words."""
        head = model.heads[name]
        seen = self.part(model, SizedByData, "seen").get_buffer(f"seen_{name}")
        if self.settings.reference != "head" and seen.shape[1:] == features.shape[1:]:
            chosen = to_float32(seen)[head(seen).argmax(1) == neutral]
            if len(chosen):
                return chosen.mean(0), f"{len(chosen)} neutral faces that the model was trained on"
        if self.settings.reference == "model":
            what, fix = "the model carries no features of faces it was trained on", f"take {self.name}.reference=head"
            raise UserInputError(what, where="--init", fix=fix)
        last = head[-1] if isinstance(head, nn.Sequential) else head
        if not isinstance(last, nn.Linear):
            raise UserInputError(f"the model's head is {type(last).__name__}, no linear layer", where="--init")
        # What all classes share says nothing: the direction is that of neutral against the mean class, and as long as
        # the frames' features are along it.
        direction = last.weight.detach()[neutral] - last.weight.detach().mean(0)
        direction = to_float32(direction / direction.norm().clamp_min(1e-12))
        mean = features.mean(0)
        length = features.norm(dim=1).mean()
        return mean + (length - mean @ direction) * direction, "the head's own direction of neutral"

    @staticmethod
    def _refuse_other_heads(model: Model, name: str, features: Tensor, logits: Tensor) -> None:
        """Make sure that predictions are what the heads make of the features, as offsets go through those."""
        read = to_float32(model.heads[name](features))
        if read.shape != logits.shape or not torch.allclose(read, logits, atol=1e-3, rtol=1e-3):
            what = f"the predictions of this model are not those of its head {name!r} on its features"
            raise UserInputError(what, where="--init", fix="personalise does not work for it")


@torch.no_grad()
def blend_statistics(model: nn.Module, share: float, encode: Callable[[], object]) -> None:
    """Move the statistics of batch normalisation towards those of some images: (1 - share) old + share new.

    Args:
        model: changed in place. share: in [0, 1]. encode: runs the images through it, in evaluation mode.
    """
    layers = [
        m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None
    ]
    sums: dict[nn.Module, list[Tensor]] = {}
    with _watched(layers, sums):
        encode()
    for layer, (count, total, squares) in sums.items():
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0)
        for name, value in (("running_mean", mean), ("running_var", variance)):
            kept = layer.get_buffer(name)
            kept.lerp_(value.to(kept.dtype), share)


@contextmanager
def _watched(layers: Sequence[nn.Module], sums: dict[nn.Module, list[Tensor]]) -> Iterator[None]:
    """Sum count, values and squares by channel of what enters layers, in float64."""

    def add(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        values = given[0].detach().double().transpose(0, 1).flatten(1)
        parts = [values.new_tensor(float(values.shape[1])), values.sum(1), values.square().sum(1)]
        old = sums.get(layer)
        sums[layer] = parts if old is None else [a + b for a, b in zip(old, parts, strict=True)]

    handles = [layer.register_forward_pre_hook(add) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
