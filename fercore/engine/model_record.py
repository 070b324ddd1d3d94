"""What stands in `model/`, a finished run's model as data: its record, and how its parts are read.

model.safetensors holds the reported weights, features.safetensors features of some images of the sources,
held_out.safetensors probabilities and labels of source that was held out, if any was, model.json all else, SHA256SUMS
the checksums of all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import ConfigDict, Field
from safetensors.torch import load_file
from torch import Tensor

from fercore.config import Spec
from fercore.documents import Shape, misfit, parse_json
from fercore.errors import UserInputError, reason_of
from fercore.evaluation.calibration import Calibration
from fercore.files import check_sum, read_text, refuse_irregular
from fercore.hooks.plugin import Plugin
from fercore.models import Model
from fercore.models.class_shares import PART
from fercore.models.hub import snapshot
from fercore.models.weights import fault_of
from fercore.records.step import Progress
from fercore.runs.folder import CONFIG, MODEL
from fercore.terminal import counted

WEIGHTS, RECORD, FEATURES = "model.safetensors", "model.json", "features.safetensors"
HELD_OUT = "held_out.safetensors"
SCHEMA: Final = 1
AGAIN = "copy it again, whole, or train again"

Finite = Annotated[float, Field(allow_inf_nan=False)]
Channels = Annotated[list[Finite], Field(min_length=3, max_length=3)]


class PluginVersion(Shape):
    """A plugin of the run, and the distribution that it comes from."""

    name: str
    distribution: str
    version: str


class ImageFormat(Shape):
    """What an image becomes before the network sees it.

    Attributes:
        size: side of the square, pixels. resize: how another shape becomes square. colour: order of the channels.
        mean, std: of pixels scaled to [0, 1], by channel.
        range: how images of one channel become 8 bits, as the target's `?range=` said; None = no rule.
    """

    size: Annotated[int, Field(ge=1)]
    resize: Literal["stretch", "crop"]
    colour: Literal["RGB"]
    mean: Channels
    std: Annotated[list[Annotated[Finite, Field(gt=0)]], Field(min_length=3, max_length=3)]
    range: str | None


class Evaluation(Shape):
    """How the run was evaluated. The same images in the same order and batches give the same bits.

    Attributes:
        batch: images of a batch. The others: where training stood, as `Progress` tells hooks.
    """

    batch: Annotated[int, Field(ge=1)]
    stage: str
    epoch: int
    step: int
    total_steps: int

    @property
    def clock(self) -> Progress:
        """Where training stood."""
        return Progress(self.stage, "", self.epoch, self.step, self.total_steps)


class Domain(Shape):
    """A dataset of the run, and how many of its images were trained on."""

    spec: Spec
    n: int


class Source(Domain):
    """A labelled dataset; `per_class` counts its images by class."""

    per_class: dict[str, int]


class Provenance(Shape):
    """What the weights come from; `settings_sha256` is of all settings and the order of the plugins."""

    sources: list[Source]
    target: Domain
    seed: int
    settings_sha256: str
    averaged: bool


class Shift(Shape):
    """How far the target lies from the sources in the features of the network; no label of the target is in it.

    Attributes:
        target: squared MMD of its adaptation part to the sources. spread: the standard deviation of that.
        n_source, n_target: images that were compared.
    """

    target: Finite
    spread: Finite
    n_source: int
    n_target: int


class RunSettings(Shape):
    """The settings of a run, of which these must be there to be completed."""

    model_config = ConfigDict(strict=True, extra="allow")

    preset: str
    data: dict[str, Any]
    model: dict[str, Any]


class ModelRecord(Shape):
    """The contents of model.json.

    Attributes:
        plugins: in the order of the run. classes: by name, in the order of the network's outputs.
        images, evaluation, provenance: see there.
        settings: the run's, without what stands in `classes`, `images` and `evaluation`.
        versions: of the packages that results depend on. calibration: of the probabilities; None = as they are.
        shift: None where a domain has too few images to say.
        units: action units that stood beside the images, in order.
        initial: of the fercore model that the network was taken over from, whole; None where the plugins built it.
    """

    model_config = ConfigDict(strict=True, extra="ignore", populate_by_name=True)

    schema_: int = Field(SCHEMA, alias="schema")
    plugins: Annotated[list[PluginVersion], Field(min_length=1)]
    classes: Annotated[list[str], Field(min_length=2)]
    images: ImageFormat
    evaluation: Evaluation
    settings: RunSettings
    versions: dict[str, str]
    provenance: Provenance
    calibration: Calibration | None = None
    shift: Shift | None = None
    units: list[str] = Field(default_factory=list)
    initial: ModelRecord | None = None

    def layer(self) -> dict[str, Any]:
        """Return the settings that the network is built with; weights from elsewhere are not looked for."""
        given = self.settings.model_dump()
        images = self.images.model_dump(include={"size", "resize", "mean", "std"})
        data = {**given["data"], **images, "classes": self.classes, "eval_batch": self.evaluation.batch}
        # All weights are in the folder: what they were first loaded from may be gone by now.
        network = {**given["model"], "weights": "none", "init": None}
        return {**given, "data": data, "model": network}


def find_model(path: Path) -> Path:
    """Return the folder that holds the model: of a run folder its `model/`, of hf://owner/name the hub's.

    Raises:
        UserInputError: if there is none; says what is there instead.
    """
    path = snapshot(str(path)) or path
    for folder in (path / MODEL, path):
        if (folder / RECORD).is_file():
            return folder
    if (path / CONFIG).is_file():
        fix = f"a run writes it as it ends: fercore run --resume {path}"
        raise UserInputError("no model in this run folder", where=str(path), fix=fix)
    what = "no model in this folder" if path.is_dir() else "model is no folder" if path.exists() else "model not found"
    raise UserInputError(what, where=str(path), fix=f"give a run folder, or the {MODEL}/ in it")


def read_record(folder: Path) -> ModelRecord:
    """Read model.json.

    Raises:
        UserInputError: if it is damaged, of a newer schema, or not what a run writes.
    """
    path = folder / RECORD
    try:
        check_sum(path)
        record_tree = parse_json(read_text(path), where=str(path))
    except UserInputError:
        raise
    except (OSError, ValueError) as error:
        raise UserInputError(f"cannot read {RECORD}: {reason_of(error)}", where=str(path), fix=AGAIN) from None
    schema = record_tree.get("schema") if isinstance(record_tree, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        what = f"model of schema {schema}, and this fercore reads up to {SCHEMA}"
        raise UserInputError(what, where=str(path), fix="pip install --upgrade fercore")
    if fault := misfit(record_tree, ModelRecord):
        raise UserInputError(f"{RECORD} is damaged: {fault}", where=str(path), fix=AGAIN)
    record = ModelRecord.model_validate(record_tree)
    if len(set(record.classes)) < len(record.classes):
        raise UserInputError(f"{RECORD} is damaged: a class is named twice", where=str(path), fix=AGAIN)
    return record


def read_features(folder: Path) -> dict[str, np.ndarray]:
    """Return branch -> features f[N,D] of some images of the sources; empty where the folder has none.

    Raises:
        UserInputError: if they are damaged.
    """
    return _arrays(folder / FEATURES)


def read_held_out(folder: Path, classes: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the network's own probabilities f32[N,K] and the labels i64[N] of held-out source; None without any.

    Args:
        classes: K.

    Raises:
        UserInputError: if they are damaged.
    """
    path = folder / HELD_OUT
    arrays = _arrays(path)
    if not arrays:
        return None
    probs, labels = (arrays.get(name, np.zeros(0)) for name in ("probs", "labels"))
    fits = probs.shape == (len(labels), classes) and labels.dtype == np.int64 and labels.ndim == 1 and len(labels)
    if not fits or not np.isfinite(probs).all() or labels.min() < 0 or labels.max() >= classes:
        what = f"{HELD_OUT} does not fit {RECORD}: no probabilities of {counted(classes, 'class')} with labels"
        raise UserInputError(what, where=str(path), fix=AGAIN)
    return probs, labels


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file by name; none where there is no file."""
    try:
        refuse_irregular(path)
        check_sum(path)
        return {name: tensor.numpy() for name, tensor in load_file(path).items()}
    except FileNotFoundError:
        return {}
    except Exception as error:  # safetensors has an error of its own, and no base class that says so
        raise UserInputError(f"cannot read {path.name}: {reason_of(error)}", where=str(path), fix=AGAIN) from None


def read_state(model: Model, plugins: Sequence[Plugin], folder: Path) -> None:
    """Give a network the weights of a model folder.

    Args:
        model: as `build_model` made it. plugins: of the run.

    Raises:
        UserInputError: if they are damaged, or not of this network; names the first tensor that does not fit.
    """
    path = folder / WEIGHTS
    try:
        refuse_irregular(path)
        check_sum(path)
        tensors = load_file(path)
    except Exception as error:  # safetensors has an error of its own, and no base class that says so
        raise UserInputError(f"cannot read {WEIGHTS}: {reason_of(error)}", where=str(path), fix=AGAIN) from None
    skipped = training_only(plugins)
    wanted = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(skipped)}
    try:
        # Shapes are compared after loading: modules sized by the data have taken the file's over by then.
        if fault := _unfit(tensors, wanted):
            raise ValueError(fault)
        model.load_state_dict(tensors, strict=False)
        if fault := _unfit(tensors, model.state_dict(), shapes=True):
            raise ValueError(fault)
    except UserInputError:
        raise
    except Exception as error:  # modules that take up their state fail in as many ways as there are modules
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        what = f"{WEIGHTS} does not fit {RECORD}: {lines[len(lines) > 1][:300]}"
        raise UserInputError(what, where=str(path), fix=AGAIN) from None


def _unfit(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, shapes: bool = False) -> str | None:
    """Say what of a file's tensors is no state of a network, but for shapes, which modules may take over."""
    # Names first: a shape can only be compared with a tensor that is there.
    if not shapes and (other := sorted(tensors.keys() ^ wanted.keys())):
        return f"{other[0]} is {'missing in the file' if other[0] in wanted else 'not in the network'}"
    for name, tensor in tensors.items():
        target = wanted[name]
        if tensor.dtype != target.dtype or tensor.ndim != target.ndim:
            kinds = (f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}" for t in (tensor, target))
            return "{} is {} in the file, {} in the network".format(name, *kinds)
        if fault := fault_of(name, tensor, target if shapes else tensor):
            return fault
    return None


def training_only(plugins: Sequence[Plugin]) -> tuple[str, ...]:
    """Return the beginnings of the names of tensors that prediction does without."""
    own = (f"parts.{plugin.name}/{part}" for plugin in plugins for part in plugin.training_parts)
    return (*own, f"parts.{PART}")
