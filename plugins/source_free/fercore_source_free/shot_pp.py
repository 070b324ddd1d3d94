"""SHOT++: "Source Data-Absent Unsupervised Domain Adaptation Through Hypothesis Transfer and Labeling Transfer", Liang
et al., TPAMI 2021; code tim-learn/SHOT-plus, code/uda/image_target.py and image_mixmatch.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Beta
from torch.utils.data import Sampler

from fercore.losses import entropy, sharpen
from fercore.models import Model, PseudoLabelRecord
from fercore.plugin import (
    Batch,
    EncodedDataset,
    Forward,
    LossTerm,
    ParamGroup,
    Progress,
    PseudoLabels,
    Role,
    RunConfig,
    Settings,
    Side,
    Stage,
    TaskInfo,
    UserInputError,
    ViewRequest,
    hookimpl,
    merge,
)
from fercore_source_free.base import ADAPT, TARGET, VIEW, features_of, log_probs_of
from fercore_source_free.presets import presets
from fercore_source_free.shot import SHOT, ShotSettings

ROTATE, MIX, SECOND = "rotation", "mixmatch", "weak2"
ANGLES: Mapping[str, tuple[float, ...]] = {"quarters": (0.0, 90.0, 180.0, 270.0), "slight": (-15.0, 0.0, 15.0)}


class ShotPlusSettings(ShotSettings):
    """Settings of shot_pp."""

    rotation: float = Field(0.0, ge=0, description="weight of telling how an image was turned (the README's: 0.6)")
    angles: Literal["slight", "quarters"] = Field("slight", description="-15, 0, 15 degrees; quarters = as published")
    rotation_share: float = Field(
        0.2, gt=0, lt=1, description="of the steps, for the turn's classifier alone, at first"
    )
    mix_share: float = Field(0.5, ge=0, lt=1, description="of the steps, for the second stage; 0 = none")
    mix_epochs: int = Field(50, ge=1, description="passes of the second stage, where epochs is given")
    mix_head: Literal["fresh", "kept"] = Field("fresh", description="the second stage's classifier at first")
    T: float = Field(0.5, gt=0, description="temperature of the guessed labels")
    alpha: float = Field(0.75, gt=0, description="of the Beta distribution that images are mixed by")
    lambda_u: float = Field(100.0, ge=0, description="weight of the unlabelled term, which it rises to in a line")


class SHOTpp(SHOT):
    """SHOT, images told by how they are turned, and MixMatch with the predictions that are sure as labels."""

    paper = "Liang et al., TPAMI 2021"
    training_parts = ("state", "record", "outset", "rotation")
    Settings: ClassVar[type[Settings]] = ShotPlusSettings
    # Of a fresh classifier nothing comes in some dozen steps: 13 % of generated faces, of 59 % by the model given.
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: merge(layer, {} if name == "paper" else {"shot_pp": {"mix_head": "kept"}})
        for name, layer in presets("shot_pp").items()
    }
    settings: ShotPlusSettings  # type: ignore[assignment]

    def goes_by_length(self) -> str:
        """The weight of MixMatch's term, and the lengths of the stages do."""
        return "lambda_u"

    def parts(self, model: Model, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return what SHOT has, and the classifier of turns."""
        own = dict(super().parts(model, task))
        if self.settings.rotation:
            own["rotation"] = nn.Linear(2 * sum(map(_width, model.heads.values())), len(ANGLES[self.settings.angles]))
        return own

    @hookimpl
    def request_views(self) -> Sequence[ViewRequest]:
        """Ask for a weak view, and a second one to guess labels with."""
        return [ViewRequest("target", VIEW, "weak"), ViewRequest("target", SECOND, "weak", (MIX,))]

    @hookimpl
    def plan(self, config: RunConfig) -> Sequence[Stage]:
        """Train the classifier of turns alone, where it is used; adapt; mix."""
        chosen, steps, stages = self.settings, config.train.steps, []
        turn = ParamGroup((f"parts.{self.part_name('rotation')}",))
        shares = {ROTATE: chosen.rotation_share if chosen.rotation else 0.0, MIX: chosen.mix_share}
        lengths = {name: round(share * steps) for name, share in shares.items()}
        lengths[ADAPT] = steps - sum(lengths.values())
        passes = {ROTATE: 1, ADAPT: chosen.epochs, MIX: chosen.mix_epochs}
        for name in (ROTATE, ADAPT, MIX):
            if not lengths[name]:
                continue
            groups = [turn] if name == ROTATE else self.groups(config, name)
            layer = {"train": config.train.model_copy(update={"steps": lengths[name]})}
            epochs = passes[name] if chosen.epochs else None
            stages.append(self.stage(config.model_copy(update=layer), name, epochs, groups))
        return stages

    def freezes_head(self, stage: str) -> bool:
        """The second stage trains it; the classifier of turns learns with the network as it is."""
        return stage != MIX and super().freezes_head(stage)

    def relabel(self, model: Model, encoded: EncodedDataset, log_probs: Tensor, clock: Progress) -> dict[str, float]:
        """Label as SHOT does; at the start of the second stage, trust the surest predictions of each class."""
        if clock.stage != MIX:
            return super().relabel(model, encoded, log_probs, clock)
        if clock.step:
            return {}
        probs = log_probs.exp()
        trusted = surest(probs)
        labels = F.one_hot(probs.argmax(1), probs.shape[1]).to(probs.dtype)
        self.part(model, PseudoLabelRecord, "record").write(labels, trusted.to(probs.dtype))
        if self.settings.mix_head == "fresh":
            for module in model.heads.modules():
                if isinstance(module, nn.Linear):
                    module.reset_parameters()
        return {f"{self.name}/trusted": float(trusted.float().mean())}

    @hookimpl
    def build_sampler(self, model: Model, side: Side, clock: Progress) -> Sampler[int] | None:
        """Draw trusted and other samples by turns in the second stage."""
        if side != "target" or clock.stage != MIX:
            return None
        trusted = self.part(model, PseudoLabelRecord, "record").weight.cpu() > 0
        return ByTurns(trusted.nonzero().flatten(), (~trusted).nonzero().flatten()) if not trusted.all() else None

    @hookimpl
    def pseudo_label(self, model: Model, batch: Batch, clock: Progress) -> PseudoLabels | None:  # type: ignore[override]
        """Look the batch's labels up."""
        return None if clock.stage == ROTATE else super().pseudo_label(model, batch)

    @hookimpl
    def loss(  # type: ignore[override]
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> Sequence[LossTerm]:
        """Return the terms of the stage."""
        if clock.stage == MIX:
            assert pseudo is not None
            return self._mixed(model, batch, encoded, pseudo, clock)
        terms = [] if clock.stage == ROTATE else list(super().loss(model, encoded, pseudo))
        if self.settings.rotation:
            terms.append(LossTerm(f"{self.name}/rotation", Role.CONSISTENCY, self._turned(model, batch, encoded),
                                  self.settings.rotation))  # fmt: skip
        return terms

    def _turned(self, model: Model, batch: Batch, encoded: Forward) -> Tensor:
        """Return the cross-entropy of telling by which angle each image was turned."""
        angles, images = ANGLES[self.settings.angles], batch.target.images[VIEW]
        drawn = torch.randint(len(angles), (len(images),)).to(images.device)
        turned = features_of(model(turn(images, torch.tensor(angles, device=images.device)[drawn])))
        pair = torch.cat([features_of(encoded[TARGET]).detach(), turned], 1)
        return F.cross_entropy(self.part(model, nn.Linear, "rotation")(pair), drawn)

    def _mixed(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels, clock: Progress
    ) -> list[LossTerm]:
        """Return MixMatch's terms: trusted samples by their labels, the others by what two views say of them."""
        chosen, images = self.settings, batch.target.images
        trusted = pseudo.weight > 0
        first, second = (log_probs_of(encoded["target", name]).detach().exp()[~trusted] for name in (VIEW, SECOND))
        guessed = sharpen((first + second) / 2, chosen.T)
        pictures = torch.cat([images[VIEW][trusted], images[VIEW][~trusted], images[SECOND][~trusted]])
        labels = torch.cat([pseudo.probs[trusted], guessed, guessed])
        drawn = float(Beta(torch.tensor(chosen.alpha), torch.tensor(chosen.alpha)).sample())
        factor, order = max(drawn, 1 - drawn), torch.randperm(len(pictures)).to(pictures.device)
        log_probs = log_probs_of(model(torch.lerp(pictures[order], pictures, factor)))
        labels, n = torch.lerp(labels[order], labels, factor), int(trusted.sum())
        supervised = -(labels[:n] * log_probs[:n]).sum() / max(1, n)
        unlabelled = (log_probs[n:].exp() - labels[n:]).square().sum() / max(1, labels[n:].numel())
        return [
            LossTerm(f"{self.name}/trusted", Role.CONSISTENCY, supervised),
            LossTerm(f"{self.name}/guessed", Role.CONSISTENCY, unlabelled, chosen.lambda_u * clock.progress),
        ]


class ByTurns(Sampler[int]):
    """Endless order that takes from two sets in turns, each shuffled anew when it has been through.

    Args:
        first, second: int64[n], int64[m] positions.
    """

    def __init__(self, first: Tensor, second: Tensor) -> None:
        self.sets = first, second

    def __iter__(self) -> Iterator[int]:
        """Yield positions, drawing from torch's global generator."""
        orders: list[list[int]] = [[], []]
        while True:
            for order, members in zip(orders, self.sets, strict=True):
                if not order:
                    order.extend(members[torch.randperm(len(members))].tolist())
                yield order.pop()


def surest(probs: Tensor) -> Tensor:
    """Return bool[N]: of each predicted class the surest samples, as many as have less than the mean entropy in all.

    At least one of each class.

    Args:
        probs: f[N,K].
    """
    doubt, predicted = entropy(probs), probs.argmax(1)
    share = float((doubt < doubt.mean()).float().mean())
    chosen = torch.zeros_like(predicted, dtype=torch.bool)
    for label in torch.unique(predicted).tolist():
        members = (predicted == label).nonzero().flatten()
        order = members[doubt[members].argsort(stable=True)]
        chosen[order[: max(1, int(share * len(members)))]] = True
    return chosen


def turn(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn images f[B,3,H,W] about their centre by f[B] degrees; what comes in from outside repeats the border."""
    angle = degrees * (math.pi / 180)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    matrix = torch.stack([torch.stack([cosine, -sine, zero], 1), torch.stack([sine, cosine, zero], 1)], 1)
    grid = F.affine_grid(matrix.to(images.dtype), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _width(head: nn.Module) -> int:
    last = head[-1] if isinstance(head, nn.Sequential) else head
    if not isinstance(last, nn.Linear):
        what, fix = f"the model's head is {type(last).__name__}, no linear layer", "leave shot_pp.rotation at 0"
        raise UserInputError(what, where="shot_pp.rotation", fix=fix)
    return last.in_features
