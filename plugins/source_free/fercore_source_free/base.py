"""What the methods share: the trained model as it is, one view of the target, and which weights move."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fercore.losses import to_float32
from fercore.models import Model
from fercore.plugin import (
    Encoded,
    EncodedDataset,
    ParamGroup,
    Phase,
    Plugin,
    Progress,
    RunConfig,
    Settings,
    Side,
    Stage,
    TaskInfo,
    UserInputError,
    ViewRequest,
    hookimpl,
    optimiser_from,
    say,
)

VIEW, ADAPT = "weak", "adapt"
TARGET: tuple[Side, str] = ("target", VIEW)
COLLAPSED = 0.95
"""Share of predictions of one class above which a model tells nothing apart any more."""


class TrainedSettings(Settings):
    """Settings of every method."""

    epochs: int | None = Field(None, ge=1, description="passes over the target; None = train.steps")


class HeadSettings(TrainedSettings):
    """Settings of methods whose head may stay as it is."""

    head: Literal["frozen", "trained"] = Field("frozen", description="whether the classifier stays as it is loaded")


class TrainedModel(Plugin):
    """Adapts a trained model, the network being its own, to the target alone."""

    needs_source = False
    training_parts: ClassVar[tuple[str, ...]] = ("state", "record", "outset")
    Settings: ClassVar[type[Settings]] = TrainedSettings
    settings: Any

    def goes_by_length(self) -> str:
        """Nothing does but the optimiser's schedule."""
        return ""

    @hookimpl(wrapper=True)
    def build_model(self, config: RunConfig, task: TaskInfo) -> Generator[None, Model, Model]:
        """Keep beside the trained network what the method has of its own."""
        model = yield
        weights = [*model.backbone.parameters(), *model.branches.parameters()]
        if self.freezes_head(ADAPT) and not weights:
            what = f"{self.name} trains all but the head, and nothing else in this network can be trained"
            fix = f"take lame, t3a or no_adaptation, or train the head alone: --set {self.name}.head=trained"
            raise UserInputError(what, where="--init", fix=fix)
        self.attach(model, Outset(), "outset")
        for name, module in self.parts(model, task).items():
            self.attach(model, module, name)
        return model

    @hookimpl
    def request_views(self) -> Sequence[ViewRequest]:
        """Ask for one weakly augmented view of the target."""
        return [ViewRequest("target", VIEW, "weak")]

    @hookimpl
    def plan(self, config: RunConfig) -> Sequence[Stage]:
        """Train what the method trains in one stage."""
        return [self.stage(config, ADAPT, self.settings.epochs, self.groups(config, ADAPT))]

    @hookimpl(wrapper=True)
    def encode(self, model: Model, clock: Progress) -> Generator[None, Encoded, Encoded]:
        """Leave a frozen head in evaluation mode: no dropout in front of what does not learn."""
        if self.freezes_head(clock.stage):
            model.heads.eval()
        return (yield)

    @hookimpl
    def refresh(
        self, model: Model, clock: Progress, encode_dataset: Callable[[Side], EncodedDataset], task: TaskInfo
    ) -> dict[str, float]:
        """Watch the predictions of the whole target, and renew what the method keeps of it."""
        encoded = encode_dataset("target")
        log_probs = log_probs_of(encoded)
        numbers = self.watch_shares(model, log_probs, task.classes, evens=self.evens)
        return {**numbers, **self.renew(model, encoded, log_probs, clock)}

    @property
    def evens(self) -> bool:
        """Whether the method pushes towards equal classes."""
        return False

    def renew(self, model: Model, encoded: EncodedDataset, log_probs: Tensor, clock: Progress) -> dict[str, float]:
        """Renew what holds for an epoch, of features and log-probabilities f[N,K]; returns numbers for the log."""
        return {}

    def freezes_head(self, stage: str) -> bool:
        """Say whether the head stays as it is in a stage."""
        return getattr(self.settings, "head", "trained") == "frozen"

    def stage(self, config: RunConfig, name: str, epochs: int | None, groups: Sequence[ParamGroup]) -> Stage:
        """Return a stage of so many passes, or of `train.steps`, that trains groups of weights."""
        phase = Phase("main", tuple(groups), optimiser_from(config), config.optim.clip_grad_norm)
        steps = 0 if epochs else config.train.steps
        return Stage(name, steps, (phase,), config.train.steps_per_epoch, epochs=epochs)

    def groups(self, config: RunConfig, stage: str) -> list[ParamGroup]:
        """Return the weights that move in a stage: all but a frozen head, the backbone at its own rate."""
        rest = () if self.freezes_head(stage) else ("heads.",)
        return [
            ParamGroup(("backbone.",), config.optim.backbone_multiplier),
            ParamGroup(("branches.", "parts.", *rest)),
        ]

    def parts(self, model: Model, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return the modules that the method has beside the network, by name."""
        return {}

    def watch_shares(self, model: Model, log_probs: Tensor, classes: Sequence[str], *, evens: bool) -> dict[str, float]:
        """Note the largest share of a predicted class; say so where one has taken nearly all.

        Args:
            log_probs: f[N,K] of the whole target. classes: names. evens: whether the method pushes towards equal
                classes, which breaks a target that has one.

        Raises:
            UserInputError: at the outset, for such a method where the model calls nearly all images one class.
        """
        share = torch.bincount(log_probs.argmax(1), minlength=log_probs.shape[1]) / max(1, len(log_probs))
        largest, name = float(share.max()), classes[int(share.argmax())]
        outset = self.part(model, Outset, "outset")
        if outset.unset:
            outset.share.fill_(largest)
            if largest > COLLAPSED and evens:
                what = f"the model calls {largest:.0%} of the target {name}, and {self.name} spreads classes evenly"
                fix = f"take --plugin personalise for frames of one class, or --set {self.name}.diversity=0"
                raise UserInputError(what, where="--target", fix=fix)
        elif largest > COLLAPSED >= float(outset.share):
            say(f"{self.name}: {largest:.0%} of the target are predicted {name}, {float(outset.share):.0%} at first: "
                "the predictions have collapsed; the model given is the better one")  # fmt: skip
        return {f"{self.name}/largest_share": largest}


class Outset(nn.Module):
    """The largest share of a predicted class before anything was trained; below 0 = not known yet."""

    share: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("share", torch.tensor(-1.0))

    @property
    def unset(self) -> bool:
        """Whether it is not known yet."""
        return bool(self.share < 0)


def features_of(encoded: Encoded | EncodedDataset) -> Tensor:
    """Return features f32[B,D] of all branches side by side."""
    return torch.cat([to_float32(each).flatten(1) for each in encoded.features.values()], 1)


def log_probs_of(encoded: Encoded | EncodedDataset) -> Tensor:
    """Return logarithms f32[B,K] of the mean of the branches' probabilities."""
    each = torch.stack([to_float32(z).log_softmax(1) for z in encoded.logits.values()])
    return each[0] if len(each) == 1 else each.logsumexp(0) - float(torch.tensor(float(len(each))).log())
