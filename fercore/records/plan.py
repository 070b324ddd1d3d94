"""The records around a step that hold no tensors: stages, phases, view requests, reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from fercore.records.result import Result

Transform: TypeAlias = str
"""Name of an augmentation policy: "none", "weak", "strong", or one that a package adds (`fercore.transforms`)."""


@dataclass(frozen=True)
class CropAndColour:
    """Random crop, colour jitter, grey, blur and flips, as contrastive methods make their views (Chen et al. 2020).

    Attributes:
        area: smallest and largest share of the image's area that is cut out and resized. ratio: of width to height.
        jitter: largest change of brightness, contrast and saturation (shares) and of hue (of a whole turn).
        sigma: smallest and largest blur, in pixels of an image of side 112; scaled with the image.
        jitter_chance, grey_chance, blur_chance, flip_chance, upside_down_chance: how often each is done.

    Raises:
        ValueError: if a range is empty or a chance is none.
    """

    area: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    sigma: tuple[float, float] = (0.1, 2.0)
    jitter_chance: float = 0.8
    grey_chance: float = 0.2
    blur_chance: float = 0.5
    flip_chance: float = 0.5
    upside_down_chance: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area {self.area} must rise inside (0, 1]")
        for name, (low, high) in (("ratio", self.ratio), ("sigma", self.sigma)):
            if not 0 < low <= high:
                raise ValueError(f"{name} {(low, high)} must rise and be above 0")
        if any(not 0 <= part < 1 for part in self.jitter) or self.jitter[3] > 0.5:
            raise ValueError(f"jitter {self.jitter} must lie in [0, 1), its hue in [0, 0.5]")
        chances = (self.jitter_chance, self.grey_chance, self.blur_chance, self.flip_chance, self.upside_down_chance)
        if any(not 0 <= chance <= 1 for chance in chances):
            raise ValueError(f"chances {chances} must lie in [0, 1]")


@dataclass(frozen=True)
class ViewRequest:
    """A method's wish for one augmented view of each sample of a side.

    Attributes:
        side: "source" or "target".
        name: key under DomainBatch.images ("weak", "weak2", "strong", ...); two plugins asking for one name share it.
        transform: which augmentation policy makes it; each name draws its own random numbers.
        stages: names of the stages that need it; None = all. In other stages it is neither made nor encoded.
        batch_statistics: whether encoding it in training moves the running statistics of normalisation layers; of two
            plugins that share a view, one that lets it is enough.
    """

    side: Literal["source", "target"]
    name: str
    transform: Transform | CropAndColour
    stages: tuple[str, ...] | None = None
    batch_statistics: bool = True

    def serves(self, stage: str) -> bool:
        """Say whether a stage needs this view."""
        return self.stages is None or stage in self.stages


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that share a learning rate.

    Attributes:
        prefixes: parameters of the model whose qualified name starts with one of these ("" = every one left over).
        lr_multiplier: factor on the optimiser's learning rate.
        weight_decay: overrides the optimiser's where given.
    """

    prefixes: tuple[str, ...]
    lr_multiplier: float = 1.0
    weight_decay: float | None = None


@dataclass(frozen=True)
class OptimiserSpec:
    """One optimiser and its learning-rate schedule.

    Attributes:
        name: "sgd", "sgdw" (weights shrink by lr * weight_decay, outside the momentum), "adam", "adamw", or one that a
            package adds (`fercore.optimisers`).
        decay_by_rate: false = with "sgdw" weights shrink by weight_decay itself, whatever the rate (TensorFlow Addons).
        lr: base learning rate. momentum, nesterov: SGD only. betas: Adam only.
        schedule: "constant", "inverse_decay" (lr * (1 + gamma * min(1, step/max_steps))^-power), "cosine", "linear",
            "step" (lr * drop for every milestone passed), or one that a package adds.
            Each batch on which the optimiser is in use is one step of it.
        warmup_steps: linear warm-up from 0 before the schedule.
        max_steps: steps after which the schedule stays where it is; None = the phase's steps in its stage.
        milestones: shares of max_steps, for "step". drop: factor at each.
        floor: share of lr at which "cosine" and "linear" end.
        reset_optimizer_state: forget momentum and moments at the start of every epoch.
    """

    name: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    nesterov: bool = True
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    decay_by_rate: bool = True
    schedule: str = "inverse_decay"
    gamma: float = 10.0
    power: float = 0.75
    max_steps: int | None = None
    warmup_steps: int = 0
    milestones: tuple[float, ...] = ()
    drop: float = 0.1
    floor: float = 0.0
    reset_optimizer_state: bool = False

    @property
    def goes_by_length(self) -> bool:
        """Whether the rates of a longer phase are others from its first steps on."""
        return self.schedule != "constant" and self.max_steps is None


@dataclass(frozen=True)
class Phase:
    """One forward, backward and optimiser step over some of the parameters.

    A stage with several phases runs each of them, in order, on every batch, or one an epoch in turns; outside its phase
    a parameter is frozen.

    Attributes:
        name: what hooks see as clock.phase.
        groups: parameters the phase trains; a parameter belongs to the group with its longest matching prefix.
        optimiser: its own optimiser and schedule.
        clip_grad_norm: largest gradient norm; None = unlimited.
        shares: name of an earlier phase of the stage whose optimiser, schedule and moments this phase uses in place of
            an `optimiser` of its own; `groups` then say by prefixes alone which of that phase's parameters it trains.
        repeats: times that the phase is run on each batch, each with forward, backward and optimiser step.
    """

    name: str = "main"
    groups: tuple[ParamGroup, ...] = (ParamGroup(("",)),)
    optimiser: OptimiserSpec = field(default_factory=OptimiserSpec)
    clip_grad_norm: float | None = None
    shares: str | None = None
    repeats: int = 1


@dataclass(frozen=True)
class Stage:
    """A stretch of training with one set of optimisers.

    Attributes:
        name: what hooks see as clock.stage.
        steps: batches in the stage; 0 where `epochs` is given, until the engine has counted the data.
        phases: run in order on every batch.
        steps_per_epoch: batches between two `refresh` calls; None = one pass over the larger side's shortest domain,
            of the sides that the stage has views of.
        epochs: length of the stage in place of `steps`.
        source_batch, target_batch: samples a step in place of `data.source_batch`, `data.target_batch`.
        alternating: "step" runs every phase on every batch; "epoch" runs one phase an epoch, in turns.
        stream: one pass over the target in the order of `stream.order`, every sample once: what the first forward says
            of a batch is recorded before the weights move (`encode` and `predict`), the last batch may be smaller, and
            there may be no phase at all. A run has one such stage at most; its length is `epochs=1`.

    Raises:
        ValueError: unless exactly one of steps and epochs is given, and positive; for a stream, unless epochs is 1.
    """

    name: str
    steps: int = 0
    phases: tuple[Phase, ...] = (Phase(),)
    steps_per_epoch: int | None = None
    epochs: int | None = None
    source_batch: int | None = None
    target_batch: int | None = None
    alternating: Literal["step", "epoch"] = "step"
    stream: bool = False

    @property
    def first_phase(self) -> str:
        """Name of the phase that begins a step; "" in a stream without one."""
        return self.phases[0].name if self.phases else ""

    def __post_init__(self) -> None:
        if (self.steps > 0) == (self.epochs is not None) or (self.epochs is not None and self.epochs < 1):
            raise ValueError(f"stage {self.name!r} needs either steps or epochs, above 0")
        if self.stream and self.epochs not in (None, 1):
            raise ValueError(f"stage {self.name!r} is a stream, which passes once: epochs=1")


@dataclass(frozen=True)
class Reset:
    """What `after_step` answers in a stream to have weights, buffers and optimisers put back as the stream began.

    Attributes:
        reason: in a few words, for the log and the result.
    """

    reason: str


@dataclass(frozen=True)
class StepReport:
    """What one phase of one step did.

    Attributes:
        terms: term name -> weighted value; total: their sum; lr: learning rate of each group; images: samples seen.
        skipped: no term had a gradient, so that the optimiser took no step.
        resets: what plugins asked for after it.
    """

    stage: str
    phase: str
    epoch: int
    step: int
    terms: Mapping[str, float]
    total: float
    lr: Sequence[float]
    images: int
    skipped: bool = False
    resets: tuple[Reset, ...] = ()


@dataclass(frozen=True)
class StepLoss:
    """What one forward and backward of a step came to.

    Attributes:
        terms: term name -> weighted value. has_gradient: whether any of them depends on what the phase trains.
    """

    terms: Mapping[str, float]
    has_gradient: bool


Closure: TypeAlias = Callable[..., StepLoss]
"""What a `backward` hook is handed: `closure(keep=None)`."""


@dataclass(frozen=True)
class RunResult:
    """A finished run, for `after_run` hooks.

    Attributes:
        folder: the run folder. record: what result.json holds; plugins get it with SPECs that have no path.
    """

    folder: str
    record: Result
