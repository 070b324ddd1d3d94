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


class Agreement(Shape):
    """How a run's predicted classes of the test part agree with those of another run, which needs no label.

    Attributes:
        plugins, seed: of the other run. agreement: share of the `n` images that both take for the same class.
        counts: images; rows are the other's class, columns this run's, in the order of the target's classes.
    """

    plugins: list[str]
    seed: int
    n: int
    agreement: Share | None
    counts: list[list[int]]


class Scores(Shape):
    """How good predictions of one part are; None where nothing has a label.

    Attributes:
        n: labelled images. classes: of the run. confusion: int[K,K], rows are the truth.
        predicted: of all images, with a label or without; None in results of earlier versions.
    """

    n: int
    classes: list[str]
    accuracy: Share | None
    balanced_accuracy: Share | None
    macro_f1: Share | None
    per_class_recall: Shares
    per_class_f1: Shares
    confusion: list[list[int]] | None
    predicted: Predicted | None = None

    def score(self, name: Score) -> float | None:
        """Return a score by its name in result.json, as `Result.primary_metric` has it."""
        value: float | None = getattr(self, name)
        return value


class Scaling(Shape):
    """How one-channel images became 8 bits; see `fercore.data.images.scaling`.

    Attributes:
        range: what the spec asks for. one_channel: images that were scaled. deep: those of them of more than 8 bits.
        colour: images that were left as they are.
    """

    range: str
    one_channel: int
    deep: int
    colour: int


class ShareEstimate(Shape):
    """What share of images a class has, by predictions alone, and the ends of its interval of 95 %."""

    share: Share
    low: Share
    high: Share


class Target(Scores):
    """The target, and the scores on its test part.

    Attributes:
        labelled: labels of it that were trained on. n_adaptation: images adapted to.
        transductive: adapted to the test images. adaptation_filtered_by_label: images left out of adaptation by class.
        test_images_in_sources: images that a source has, with their labels, and the test part too.
        scaling: where the spec has a range. reference: beside the run that `report.reference` names.
        estimated_shares: estimator -> class -> share in the adaptation part, where source is held out.
        predictable: classes that may be predicted, where `predict.classes` or the SPEC says that others are absent.
    """

    spec: str
    labelled: Labelled
    n_adaptation: int
    transductive: bool
    adaptation_filtered_by_label: int
    test_images_in_sources: int
    scaling: Scaling | None = None
    reference: Agreement | None = None
    estimated_shares: dict[str, dict[str, ShareEstimate]] | None = None
    predictable: list[str] | None = None


class OnlineScores(Scores):
    """Predictions in a stream, each made before the model adapted to its batch; the `Target` has those after it all.

    Attributes:
        order: of the stream. dirichlet: of "correlated", else None.
        order_uses_target_labels: whether the labels put the stream together; no method sees them. batch: images of one.
        resets: reason -> times that weights went back to the initial ones. alarms: what sounded, in words.
        stopped_at: images after which the initial model predicted alone; None = adaptation went on.
    """

    order: str
    dirichlet: float | None
    order_uses_target_labels: bool
    batch: int
    resets: dict[str, int]
    alarms: list[str]
    stopped_at: int | None


class InitialScores(Scores):
    """The trained model that a run adapts, before the first step; `sha256` is of its weights."""

    sha256: str


class Source(Shape):
    """A source, and how many of its images were trained on."""

    spec: str
    n: int
    scaling: Scaling | None = None


class OracleBest(Shape):
    """The best evaluation on target test labels, which decides nothing."""

    accuracy: Share
    balanced_accuracy: Share
    macro_f1: Share
    epoch: int
    step: int
    uses_target_labels: bool

    def score(self, name: Score) -> float:
        """Return a score by its name."""
        value: float = getattr(self, name)
        return value


class Candidate(Shape):
    """A checkpoint that might have been reported; its score by the rule, None where that is not defined."""

    step: int
    score: float | None


class ClassWeights(Shape):
    """`align.class_weights`: whose class shares the source's samples were weighed by; None where nobody asked.

    Attributes:
        uses_target_labels: they were counted from labels of the adaptation part.
    """

    rule: str
    target_shares: dict[str, float]
    uses_target_labels: bool


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


class ClassQuality(Shape):
    """How many samples of a class have a pseudo label, and how many of those that are scored are right."""

    coverage: Share | None
    accuracy: Share | None


class LabelQuality(Shape):
    """How good pseudo labels are.

    Attributes:
        n: samples. labelled: those with a pseudo label; coverage: their share. known: labelled samples with a truth.
        probability: mean probability of the true class.
    """

    n: int
    labelled: int
    coverage: Share | None
    known: int
    accuracy: Share | None
    balanced_accuracy: Share | None
    probability: float | None
    per_class: dict[str, ClassQuality]
    uses_target_labels: bool


class LabelCounts(Shape):
    """Samples of each part of a dataset that was divided."""

    model_config = ConfigDict(strict=True, extra="ignore", populate_by_name=True)

    labelled: int
    unlabelled: int
    skipped: int = Field(alias="left out")


class LabelSplit(Shape):
    """How one dataset was divided into labelled and unlabelled samples; see `fercore.data.domains.labelled`.

    Attributes:
        labels: how many were asked for. rule, by, seed: of the drawing. per_class: labels drawn of each class.
        short: labels fewer than the rule gives.
        subjects_of_test: samples that stay unlabelled because the test part shows their subject or sequence.
    """

    labels: int
    rule: str
    by: str
    seed: int
    counts: LabelCounts
    per_class: dict[str, int]
    short: int
    include_labelled: bool
    subjects_of_test: int = 0


class Parameters(Shape):
    """Numbers of the network's parameters."""

    total: int
    trained: int


class Arithmetic(Shape):
    """How the run was worked out.

    Attributes:
        processes: that shared the run, with what they joined (`train.sync`, `train.batch_norm`); not given for one.
    """

    precision: str
    memory_format: str
    joint_forward: bool
    compile: bool
    fused_optimiser: bool
    deterministic: bool
    processes: int = 1
    sync: str = "batch"
    batch_norm: str = "all"


class Result(Shape):
    """The contents of result.json.

    Attributes:
        primary_metric: the score that summaries give first. ema: None = the last weights themselves are reported.
        online: predictions in a stream, where the run had one.
        steps: batches trained on. planned_steps: that it was to have, where whoever watched ended it before.
        skipped_steps: "<stage>/<phase>" -> steps without a gradient, where there are any.
        peak_memory_mb: MiB. threads: of the CPU.
        initial: the trained model that was adapted as it is; None where the method built the network.
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
    label_split: LabelSplit | None
    pseudo_labels: dict[str, LabelQuality]
    class_weights: ClassWeights | None = None
    online: OnlineScores | None = None
    parameters: Parameters
    steps: int
    planned_steps: int | None = None
    skipped_steps: dict[str, int] = Field(default_factory=dict)
    train_seconds: float
    seconds_per_step: float
    train_images_per_second: float
    peak_memory_mb: float
    threads: int
    arithmetic: Arithmetic
    preset: str
    versions: dict[str, str]
    initial: InitialScores | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the values that result.json holds."""
        return self.model_dump(by_alias=True, exclude_unset=True)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of result.json; `fercore` writes what it says and reads a little more."""
    schema = Result.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "result.json of fercore", **schema}
