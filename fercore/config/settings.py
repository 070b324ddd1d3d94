"""RunConfig: every setting of a run, read from presets, a TOML file and --set, strictly and by name."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    PositiveFloat,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from fercore.data.spec import DomainSpec, TaskSpec, absolute_units, as_spec, parse_spec
from fercore.documents import in_words, parse_toml, refuse_deep
from fercore.errors import UserInputError, did_you_mean, reason_of
from fercore.files import absolute, read_text
from fercore.optimisers import OPTIMISERS, SCHEDULES
from fercore.records.result import Score
from fercore.registry import one_of

Device: TypeAlias = Literal["auto", "cpu", "cuda"]
Strategy: TypeAlias = Literal["auto", "ddp", "fsdp"]


def _kinds(annotation: Any) -> set[Any]:
    return {annotation, *get_args(annotation)}


class Settings(BaseModel):
    """Base of every settings section: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_number_is_true(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = _kinds(cls.model_fields[info.field_name or ""].annotation)
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            raise ValueError("input should be a number, not true or false")
        return value


def _spec_of(value: Any) -> DomainSpec:
    if not isinstance(value, str | DomainSpec):
        raise PydanticCustomError("string_type", "Input should be a valid string")
    return as_spec(value)


Spec: TypeAlias = Annotated[DomainSpec, PlainValidator(_spec_of), PlainSerializer(str, return_type=str)]
"""A SPEC in settings: text in files and on the command line, parsed when the settings are built."""


class DataSettings(Settings):
    """What is read, and how batches are drawn from it."""

    sources: tuple[Spec, ...] = Field(
        tuple(
            map(parse_spec, ("synthfer:studio?n=1200", "synthfer:posed?n=1200&seed=1", "synthfer:web?n=1200&seed=2"))
        ),
        description="SPECs of the labelled datasets; the option --source",
    )
    target: Spec = Field(
        parse_spec("synthfer:wild?n=1600&seed=3"), description="SPEC of the dataset to adapt to; the option --target"
    )
    classes: tuple[str, ...] | None = Field(None, description="canonical names; None = those all domains share")
    size: int = Field(64, ge=16, le=1024, description="side of the square input, pixels")
    resize: Literal["stretch", "crop"] = Field("stretch", description="how a non-square image becomes square")
    mean: tuple[float, float, float] | None = Field(None, description="None = what the backbone was trained with")
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = Field(
        None, description="None = what the backbone was trained with"
    )
    source_batch: int = Field(64, ge=1, description="source samples a step: see source_batch_of")
    source_batch_of: Literal["step", "source"] = Field(
        "step", description="step = source_batch counts all source domains together; source = each by itself"
    )
    target_batch: int = Field(64, ge=1, description="target samples a step")
    source_validation: float = Field(
        0.0, ge=0, le=0.5, description="share of each source that is held out from training, for scores that need it"
    )
    small_domains: Literal["refuse", "repeat"] = Field(
        "refuse", description="a domain with fewer images than its share of a batch: an error, or its images come again"
    )
    source_sampling: Literal["balanced", "proportional"] = Field(
        "balanced", description="balanced = equal share of the batch for each source domain; proportional = by size"
    )
    class_balanced: bool = Field(False, description="draw labelled samples with equal probability for each class")
    augment: Literal["none", "light", "standard", "crop"] = Field("standard", description="what a weak view does")
    augment_on: Literal["cpu", "device"] = Field(
        "cpu", description="where views are made: cpu = with the batch, in workers; device = where the model is"
    )
    workers: int = Field(0, ge=0, le=64, description="processes that read and augment images; 0 = the run's own")
    cache_mb: int = Field(1024, ge=0, description="decoded images kept in memory per run; 0 = decode every time")
    cache: Literal["memory", "disk"] = Field("memory", description="disk = keep decoded image files for later runs too")
    cache_dir: str | None = Field(None, description="folder of the disk cache; None = images/ in the user's cache")
    cache_disk_mb: int = Field(20_480, ge=0, description="bytes the disk cache may take, over all data sets")
    max_bad_share: float = Field(0.01, ge=0, le=1, description="share of unusable files above which the run refuses")
    eval_batch: int = Field(64, ge=1, description="samples of one forward in evaluation and prediction")
    au: str | None = Field(
        None, description="action units: 'synthfer', a CSV, a .safetensors network, or a detector's name"
    )
    au_threshold: float = Field(0.5, gt=0, le=1, description="a unit is present from this score on")

    @model_validator(mode="before")
    @classmethod
    def _one_dataset_on_both_sides(cls, values: Any) -> Any:
        """Let a dataset that is divided into labelled and unlabelled samples stand on both sides.

        A source that is divided so is the target, where none is given. A target with a few labels is the last source.
        """
        if not isinstance(values, Mapping):
            return values
        sources, target = values.get("sources", cls.model_fields["sources"].default), values.get("target", "")
        if not isinstance(sources, list | tuple) or not all(
            isinstance(x, str | DomainSpec) for x in (*sources, target)
        ):
            return values  # the fields say what is wrong
        sources = tuple(map(as_spec, sources))
        if "target" not in values:
            divided = [spec for spec in sources if spec.asks_for_labels]
            return {**values, "sources": sources, **({"target": divided[0]} if divided else {})}
        target = as_spec(target)
        if target.asks_for_few or ("label_file" in target.options and target not in sources):
            sources = (*(spec for spec in sources if spec != target), target)
        return {**values, "sources": sources, "target": target}

    @field_validator("cache_dir")
    @classmethod
    def _from_everywhere(cls, value: str | None) -> str | None:
        return absolute(value) if value else value

    @field_serializer("sources")
    def _without_few_shots(self, sources: tuple[DomainSpec, ...]) -> tuple[str, ...]:
        """Leave out what follows from the target, so that a settings file fits another target too."""
        follows = self.target.asks_for_few and len(sources) > 1
        return tuple(spec.text for spec in sources if not (follows and spec == self.target))

    @property
    def own_data(self) -> bool:
        """Whether any of the data are the user's, not generated."""
        return any(not spec.generated for spec in (*self.sources, self.target))

    def task(self, seed: int) -> TaskSpec:
        """Return what a run with these data learns from and adapts to."""
        return TaskSpec(self.sources, self.target, seed, self.classes, self.source_validation)

    def absolute(self) -> DataSettings:
        """Return the settings with every path from the root on, so that a run goes on wherever one stands."""
        update = {
            "sources": tuple(spec.absolute() for spec in self.sources),
            "target": self.target.absolute(),
            "au": self.au and absolute_units(self.au),
        }
        return self.model_copy(update=update)

    @property
    def source_step(self) -> int:
        """Source samples of a step: source_batch, or that of each source; balanced, less what does not divide."""
        sources = max(1, len(self.sources))
        if self.source_batch_of == "source":
            return self.source_batch * sources
        return self.source_batch if self.source_sampling == "proportional" else self.source_batch // sources * sources


class ModelSettings(Settings):
    """The network under the method's own parts."""

    backbone: str = Field("resnet18", description="any timm model name")
    backbone_args: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="backbone name -> keyword arguments for timm.create_model"
    )
    weights: str = Field(
        "none",
        description="'none', 'timm' (hub download), 'package:NAME' (`fercore weights list`), a .safetensors/.pth "
        "file or a run's state.safetensors",
    )
    init: str | None = Field(None, description="the trained model to start from, as --init gives it")
    checkpointing: bool = Field(
        False, description="work a network's blocks out again in the backward pass: less memory, more time"
    )
    freeze: bool = Field(False, description="keep the backbone at its loaded weights")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of features dropped before the classifier")

    @field_validator("weights", "init")
    @classmethod
    def _from_everywhere(cls, value: str | None) -> str | None:
        named = value is None or value in ("", "none", "timm") or value.startswith(("package:", "hf:/"))
        return value if value is None or named else absolute(value)

    @property
    def arguments(self) -> dict[str, Any]:
        """The chosen backbone's keyword arguments."""
        return self.backbone_args.get(self.backbone, {})


class OptimSettings(Settings):
    """Optimiser and schedule of the default plan; methods with a plan of their own start from it."""

    name: str = Field("sgd", description="sgd, adam, adamw, or one that a package adds")
    lr: float = Field(0.01, gt=0, description="learning rate")
    backbone_multiplier: float = Field(1.0, ge=0, description="factor on lr for the backbone")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    nesterov: bool = Field(True, description="Nesterov's form of momentum, of sgd")
    weight_decay: float = Field(1e-4, ge=0, description="factor of the weights' decay; adamw decouples it")
    schedule: str = Field(
        "inverse_decay", description="constant, inverse_decay, cosine, linear, or one that a package adds"
    )
    gamma: float = Field(10.0, ge=0, description="of inverse_decay: (1 + gamma * share done) ^ -power")
    power: float = Field(0.75, ge=0, description="of inverse_decay: see gamma")
    schedule_steps: int | None = Field(None, ge=1, description="length of the schedule; None = the stage's steps")
    warmup_steps: int = Field(0, ge=0, description="steps in which the learning rate rises from 0")
    clip_grad_norm: float | None = Field(None, gt=0, description="largest norm of the gradient; None = any")

    @field_validator("name")
    @classmethod
    def _known_optimiser(cls, value: str) -> str:
        return one_of(value, OPTIMISERS, ("sgd", "adam", "adamw"))

    @field_validator("schedule")
    @classmethod
    def _known_schedule(cls, value: str) -> str:
        return one_of(value, SCHEDULES, ("constant", "inverse_decay", "cosine", "linear"))


class TrainSettings(Settings):
    """Length of training and what is written on the way."""

    steps: int = Field(300, ge=1, le=10**9, description="batches trained on")
    steps_per_epoch: int | None = Field(None, ge=1, description="None = one pass over the side that lasts longer")
    checkpoint_every: int = Field(100, ge=1, description="steps between two checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="newest checkpoints that are kept")
    eval_every: int = Field(0, ge=0, description="steps between two evaluations of the target; 0 = at the end only")
    log_every: int = Field(10, ge=1, description="steps between two lines of metrics.jsonl")
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = Field(
        "32-true", description="arithmetic of the network; losses are in float32, or in float64 with 64-true"
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; None = all, of several processes an equal share")
    sync: Literal["batch", "local"] = Field(
        "batch",
        description="of several processes: losses over all samples of a step, or the mean of each process's own",
    )
    batch_norm: Literal["all", "process"] = Field(
        "all", description="of several processes: batch statistics of all samples of a step, or of each process's own"
    )
    accumulate: int = Field(
        1, ge=1, description="pieces in which a step's samples pass the network, for its memory; its losses see all"
    )
    deterministic: bool = Field(True, description="algorithms that give the same bits each time, where there are any")
    memory_format: Literal["auto", "contiguous", "channels_last"] = Field(
        "auto", description="how images lie in memory; auto = the faster one, timed once for a network and machine"
    )
    joint_forward: bool = Field(True, description="both sides in one forward, where every plugin of the run allows it")
    compile: bool = Field(False, description="torch.compile the network; minutes at the start, then faster steps")
    fused_optimiser: bool = Field(True, description="one pass over the weights a step, where torch has it")
    allocator: Literal["keep", "system"] = Field(
        "keep", description="keep = memory of a step serves the next one (glibc); system = as the C library does"
    )
    ema: float | None = Field(None, gt=0, lt=1, description="decay of a moving average of the weights; it is reported")
    ema_buffers: Literal["copy", "average"] = Field("copy", description="batch statistics beside those weights")


class StreamSettings(Settings):
    """How a target comes to methods that adapt while they predict, and when they give up."""

    order: Literal["shuffled", "ordered", "correlated"] = Field(
        "shuffled",
        description="ordered = as the dataset lists it; correlated = runs of one class, put together by the labels",
    )
    dirichlet: float = Field(0.1, gt=0, description="of correlated: the smaller, the longer the runs of one class")
    reset_every: int | None = Field(None, ge=1, description="images after which weights go back to the initial ones")
    alarm: Literal["stop", "reset", "off"] = Field(
        "stop", description="where predictions collapse: initial model from there on, adapt again, or go on"
    )
    watch_every: int = Field(1, ge=1, description="the alarm compares every so many images with the initial model")


class AlignSettings(Settings):
    """How source samples count where domains are compared."""

    class_weights: Literal["none", "source_to_estimated", "oracle"] = Field(
        "none",
        description="source samples by the target's class shares: estimated from predictions, or from its labels, "
        "flagged as such",
    )


class SelectSettings(Settings):
    """Which checkpoint is reported."""

    rule: str = Field("last", description="last, or the score without target labels whose best checkpoint is reported")
    scores: tuple[str, ...] = Field(
        (
            "source_balanced_accuracy",
            "entropy",
            "information_maximisation",
            "nuclear_norm",
            "snd",
            "class_ami",
            "neighbour_agreement",
            "prior_distance",
            "average_confidence",
            "atc",
        ),
        description="scores without target labels that every evaluation of train.eval_every logs",
    )
    oracle: bool = Field(False, description="also report the best evaluation on target test labels, flagged as such")


class ReportSettings(Settings):
    """What is written beside result.json."""

    features: bool = Field(False, description="features, logits, predictions and labels of the target as .npz")
    distances: bool = Field(
        False, description="distances of classes in the features, and MMD of each source to the target"
    )
    gradients: int = Field(
        0, ge=0, description="steps between looks at each loss term's gradient at the features, for the logs; 0 = none"
    )
    also: tuple[str, ...] = Field((), description="reports of installed packages, by name: NAME.json")
    tensorboard: bool = Field(True, description="a log for TensorBoard: losses, rates, scores, figures, settings")
    loggers: tuple[Literal["wandb", "mlflow"], ...] = Field((), description="Weights & Biases, MLflow: sent there too")
    project: str = Field("fercore", min_length=1, description="project of Weights & Biases, experiment of MLflow")
    primary_metric: Score = Field("accuracy", description="the score that summaries give first and the oracle goes by")
    reference: str | None = Field(
        None, description="a finished run on the same target, such as source_only's, to say how often both agree"
    )

    @field_validator("reference")
    @classmethod
    def _from_everywhere(cls, value: str | None) -> str | None:
        return absolute(value) if value else None


class PredictSettings(Settings):
    """What becomes of the reported model's probabilities; labels of the target take no part."""

    calibrate: bool = Field(False, description="fit a temperature on the source samples of data.source_validation")
    prior: Literal["source", "uniform", "estimated"] | dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = (
        Field(
            "source",
            description="class shares to predict for: the source's, equal ones, the target's by EM, or class -> share",
        )
    )
    classes: tuple[str, ...] | None = Field(
        None, description="names of the classes that the target has; others are not predicted. None = ?present= or all"
    )


class RunConfig(Settings):
    """Every setting of a run. Settings of a plugin stand under its own name in `plugins`."""

    preset: Literal["demo", "small", "paper"] = Field("demo", description="which settings lie under the others")
    seed: int = Field(0, ge=0, lt=2**31, description="of the data's division, the weights and the batches")
    device: Device = Field("auto", description="auto = a GPU where there is one")
    devices: int = Field(1, ge=1, le=4096, description="processes of the run on each machine, each with a device")
    num_nodes: int = Field(1, ge=1, le=4096, description="machines of the run")
    strategy: Strategy = Field(
        "auto",
        description="how they share the run: ddp = each has the whole network; fsdp = a part of its blocks; auto = ddp",
    )
    protocol: str | None = Field(None, description="name of the protocol that chose the data, for the record")
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    optim: OptimSettings = OptimSettings()
    train: TrainSettings = TrainSettings()
    stream: StreamSettings = StreamSettings()
    align: AlignSettings = AlignSettings()
    select: SelectSettings = SelectSettings()
    report: ReportSettings = ReportSettings()
    predict: PredictSettings = PredictSettings()
    plugins: dict[str, dict[str, Any]] = Field(default_factory=dict, description="plugin -> its own settings")

    @property
    def task(self) -> TaskSpec:
        """What the run learns from and adapts to."""
        return self.data.task(self.seed)


SECTIONS: tuple[str, ...] = tuple(name for name in RunConfig.model_fields if name != "plugins")

SettingsT = TypeVar("SettingsT", bound=Settings)


def merge(base: Mapping[str, Any], over: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """Return `base` with the keys of `over` laid on top, tables merged key by key; an empty table empties.

    Args:
        base: settings. over: those that win.
        name: dotted name of the table they stand in, for messages.

    Raises:
        UserInputError: if `base` has a plain value where `over` has a table, which would make it vanish unseen.
    """
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        path = f"{name}.{key}" if name else str(key)
        # A table over a plain value is a mistake that a merge would hide.
        if isinstance(value, Mapping) and old is not None:
            old = _table(path, old)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and value:
            result[key] = merge(old, value, path)
        else:
            result[key] = value
    return result


def parse_assignment(text: str) -> dict[str, Any]:
    """Read one "a.b.c=value" of --set into a nested table; the value is TOML, else a plain string.

    Raises:
        UserInputError: if there is no "=" or an empty key.
    """
    key, equals, raw = text.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise UserInputError(f"cannot read {text!r}", where="--set", fix="write --set section.key=value")
    where = f"--set {key.strip()[:80]}"
    try:
        # TOML knows numbers, booleans, lists and tables; a bare word is none of them and is taken as text.
        value: Any = parse_toml(f"v = {raw}", where=where)["v"]
    except tomllib.TOMLDecodeError:
        value = raw
    return nested(key, value)


def nested(name: str, value: Any) -> dict[str, Any]:
    """Return a value under its dotted name as a nested table.

    Raises:
        UserInputError: if it is nested too deep.
    """
    for part in reversed(name.strip().split(".")):
        value = {part: value}
    refuse_deep(value, where=f"--set {name.strip()[:80]}")
    return dict(value)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a settings file.

    Raises:
        UserInputError: if it is missing or not TOML; names the line.
    """
    try:
        return parse_toml(read_text(path), where=str(path))
    except FileNotFoundError:
        raise UserInputError("settings file not found", where=str(path), fix="check --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserInputError(f"cannot read settings file: {reason_of(error)}", where=str(path)) from None
    except tomllib.TOMLDecodeError as error:
        raise UserInputError(f"not valid TOML: {error}", where=str(path)) from None


def build_config(layers: Iterable[Mapping[str, Any]], plugin_names: Iterable[str]) -> RunConfig:
    """Merge layers of settings, later ones winning, into a checked RunConfig.

    A top-level key that is a plugin's name is that plugin's table; its keys are checked by `check_settings`.

    Raises:
        UserInputError: for an unknown or mistyped setting; names the nearest known one.
    """
    names = tuple(plugin_names)
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = merge(merged, split_plugin_tables(layer, names))
    return check_settings(RunConfig, merged, prefix="")


def split_plugin_tables(layer: Mapping[str, Any], plugin_names: Iterable[str]) -> dict[str, Any]:
    """Move top-level tables named after plugins under "plugins", refusing keys that belong to nobody.

    Tables under "methods" are for plugins that may be in the run or not: what a protocol says for a method.
    """
    names = set(plugin_names)
    core: dict[str, Any] = {}
    tables: dict[str, Any] = dict(_table("plugins", layer.get("plugins", {})))
    for name, table in _table("methods", layer.get("methods", {})).items():
        if name in names:
            tables = merge(tables, {name: _table(f"methods.{name}", table)})
    for key, value in layer.items():
        if key in names:
            tables = merge(tables, {key: _table(key, value)})
        elif key in SECTIONS:
            core[key] = value
        elif key not in ("plugins", "methods"):
            raise UserInputError(f"unknown setting {key!r}", fix=did_you_mean(key, [*SECTIONS, *names]))
    for key in tables:
        if key not in names:
            raise UserInputError(f"settings for plugin {key!r}, which is not in this run", fix=did_you_mean(key, names))
    return {**core, "plugins": tables} if tables else core


def _table(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserInputError(f"setting {name} = {value!r} is no table", fix=f"write {name}.key=value")
    return value


def check_settings(model: type[SettingsT], values: Mapping[str, Any], *, prefix: str) -> SettingsT:
    """Build a settings section from plain values.

    Args:
        model: the section's class.
        values: nested plain values.
        prefix: where the section stands ("la_cmfer"), for messages.

    Raises:
        UserInputError: for the first unknown or mistyped key, by its full dotted name.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise _settings_error(model, error, prefix) from None


def _settings_error(model: type[Settings], error: ValidationError, prefix: str) -> UserInputError:
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    if isinstance(told := first.get("ctx", {}).get("error"), UserInputError):
        return told  # it says where by itself
    path = [str(part) for part in first["loc"]]
    name = ".".join([prefix, *path] if prefix else path)
    if first["type"] == "extra_forbidden":
        known = dotted_names(model)
        suggestion = did_you_mean(name, [f"{prefix}.{key}" if prefix else key for key in known])
        return UserInputError(f"unknown setting {name!r}", where="--set or --config", fix=suggestion)
    message = in_words(first["msg"])
    given = "" if isinstance(first["input"], Mapping) else f" = {first['input']!r}"
    return UserInputError(f"setting {name}{given}: {message}", where="--set or --config")


def dotted_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the full dotted name of every setting of a section, depth first."""
    names: list[str] = []
    for key, info in model.model_fields.items():
        section = next((t for t in (info.annotation, *get_args(info.annotation)) if _is_section(t)), None)
        name = info.alias or key
        names += dotted_names(section, f"{prefix}{name}.") if section else [f"{prefix}{name}"]
    return names


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
