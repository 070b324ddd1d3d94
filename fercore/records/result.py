"""What a finished run says of itself: the types that result.json is written from and read into."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, Field

from fercore.documents import Shape

SCHEMA = 1

Score: TypeAlias = Literal["accuracy", "balanced_accuracy", "macro_f1"]
SCORES: dict[Score, str] = {"accuracy": "accuracy", "balanced_accuracy": "balanced", "macro_f1": "macro F1"}
"""Score of a target, as result.json names it -> what tables call it."""

Share = Annotated[float, Field(ge=0, le=1)]
Shares = dict[str, Share | None]


class Labelled(Shape):
    """Labels of the target that were trained on."""

    n: int
    per_class: dict[str, int]


class Predicted(Shape):
    """What can be said of predictions without a label; see `fercore.evaluation.evaluate.without_labels`."""

    n: int
    class_shares: dict[str, Share]
    entropy: float | None
    confidence: Share | None


class Target(Shape):
    """The target and the scores on its test part; None where nothing has a label.

    Attributes:
        n: labelled test images. confusion: rows are the truth. n_adaptation: images adapted to.
        transductive: adapted to the test images. adaptation_filtered_by_label: images left out of adaptation by class.
        scaling: how one-channel images became 8 bits, where the spec has a range.
        predicted: of the test images, with a label or without; None in results of earlier versions.
    """

    spec: str
    labelled: Labelled
    n: int
    classes: list[str]
    accuracy: Share | None
    balanced_accuracy: Share | None
    macro_f1: Share | None
    per_class_recall: Shares
    per_class_f1: Shares
    confusion: list[list[int]] | None
    n_adaptation: int
    transductive: bool
    adaptation_filtered_by_label: int
    test_images_in_sources: int
    scaling: dict[str, Any] | None = None
    predicted: Predicted | None = None

    def score(self, name: str) -> float | None:
        """Return a score by its name in result.json, as `Result.primary_metric` has it."""
        value: float | None = getattr(self, name)
        return value


class Online(Shape):
    """Predictions in a stream, each made before the model adapted to its batch; the `Target` has those after it all.

    Attributes:
        scores: as those of `Target`. order: of the stream. dirichlet: of "correlated", else None.
        order_uses_target_labels: whether the labels put the stream together; no method sees them. batch: images of one.
        resets: reason -> times that weights went back to the initial ones. alarms: what sounded, in words.
        stopped_at: images after which the initial model predicted alone; None = adaptation went on.
    """

    n: int
    classes: list[str]
    accuracy: Share | None
    balanced_accuracy: Share | None
    macro_f1: Share | None
    per_class_recall: Shares
    per_class_f1: Shares
    confusion: list[list[int]] | None
    predicted: Predicted
    order: str
    dirichlet: float | None
    order_uses_target_labels: bool
    batch: int
    resets: dict[str, int]
    alarms: list[str]
    stopped_at: int | None


class Source(Shape):
    """A source, and how many of its images were trained on."""

    spec: str
    n: int
    scaling: dict[str, Any] | None = None


class OracleBest(Shape):
    """The best evaluation on target test labels, which decides nothing."""

    accuracy: Share
    balanced_accuracy: Share
    macro_f1: Share
    epoch: int
    step: int
    uses_target_labels: bool


class Candidate(Shape):
    """A checkpoint that might have been reported; its score by the rule, None where that is not defined."""

    step: int
    score: float | None


class Selection(Shape):
    """Which checkpoint is reported; where a score chose it, at which step, and among which."""

    rule: str
    oracle_best: OracleBest | None
    step: int | None = None
    candidates: list[Candidate] | None = None


class Average(Shape):
    """The moving average of weights that is reported."""

    decay: float
    buffers: str


class LabelQuality(Shape):
    """How good pseudo labels are; see `fercore.evaluation.evaluate.score_labels`."""

    n: int
    labelled: int
    coverage: Share | None
    known: int
    accuracy: Share | None
    balanced_accuracy: Share | None
    probability: float | None
    per_class: dict[str, Shares]
    uses_target_labels: bool


class Parameters(Shape):
    """Numbers of the network's parameters."""

    total: int
    trained: int


class Arithmetic(Shape):
    """How the run was worked out."""

    precision: str
    memory_format: str
    joint_forward: bool
    compile: bool
    fused_optimiser: bool
    deterministic: bool


class Result(Shape):
    """The contents of result.json.

    Attributes:
        primary_metric: the score that summaries give first. ema: None = the last weights themselves are reported.
        online: predictions in a stream, where the run had one.
        steps: batches trained on. skipped_steps: "<stage>/<phase>" -> steps without a gradient, where there are any.
        peak_memory_mb: MiB. threads: of the CPU.
    """

    model_config = ConfigDict(strict=True, extra="ignore", populate_by_name=True)

    schema_: int = Field(alias="schema")
    plugins: list[str]
    seed: int
    device: str
    kernels: dict[str, str]
    target: Target
    sources: list[Source]
    selection: Selection
    primary_metric: Score
    ema: Average | None
    label_split: dict[str, Any] | None
    pseudo_labels: dict[str, LabelQuality]
    online: Online | None = None
    parameters: Parameters
    steps: int
    skipped_steps: dict[str, int] = Field(default_factory=dict)
    train_seconds: float
    seconds_per_step: float
    train_images_per_second: float
    peak_memory_mb: float
    threads: int
    arithmetic: Arithmetic
    preset: str
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the values that result.json holds."""
        return self.model_dump(by_alias=True, exclude_unset=True)
