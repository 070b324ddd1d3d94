"""A trained model that predicts: images in, class probabilities out, without the datasets it was trained on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from fercore.config import Device
from fercore.data.images.codecs import Unusable
from fercore.data.images.readers import decode_image, file_bytes, to_rgb
from fercore.data.images.resize import fitted
from fercore.data.images.scaling import NO_RANGE, NoScale, Scaling, read_scaling
from fercore.data.images.views import plain_views
from fercore.engine import memory_format
from fercore.engine.initial import refuse_other_plugins
from fercore.engine.initial_network import build_recorded, plugins_of
from fercore.engine.model_record import (
    AGAIN,
    RECORD,
    ModelRecord,
    find_model,
    read_features,
    read_held_out,
    read_record,
    read_state,
)
from fercore.engine.setup import device_here
from fercore.errors import UserInputError
from fercore.evaluation.evaluate import Evaluator, evaluation_order
from fercore.hooks.assemble import ResolvedRun, assemble
from fercore.hooks.checks import no_exit
from fercore.hooks.manager import Plugins
from fercore.models import Model
from fercore.prediction.action_units import units_of_images
from fercore.random_state import random_state, restore_random_state
from fercore.records.outputs import Outputs
from fercore.records.step import PLAIN, UNKNOWN_LABEL, DomainBatch, Encoded
from fercore.terminal import counted, without_notices

if TYPE_CHECKING:
    from PIL.Image import Image

    Item: TypeAlias = str | os.PathLike[str] | np.ndarray | Tensor | Image
"""One image: a file; RGB uint8[H,W,3] or one channel [H,W]; a PIL image; a tensor uint8[3,H,W] of RGB, or float[3,S,S]
that `Predictor.transform` has made."""


_Features: TypeAlias = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Predictions:
    """What a model says of images.

    Attributes:
        images: name of each: its path, else its number. classes: by name.
        probs: float32[N,K], rows summing to 1, columns in the order of `classes`.
    """

    images: tuple[str, ...]
    classes: tuple[str, ...]
    probs: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> tuple[str, ...]:
        """The likeliest class of each image."""
        return tuple(self.classes[k] for k in self.probs.argmax(axis=1).tolist())

    @property
    def confidence(self) -> np.ndarray:
        """float32[N], the probability of the likeliest class."""
        highest: np.ndarray = self.probs.max(axis=1)
        return highest

    def to_json(self) -> list[dict[str, Any]]:
        """Return {"image", "prediction", "confidence", "probabilities": {class: share}} of each image."""
        rows = zip(self.images, self.labels, self.confidence.tolist(), self.probs.tolist(), strict=True)
        return [
            {
                "image": image,
                "prediction": label,
                "confidence": highest,
                "probabilities": dict(zip(self.classes, shares, strict=True)),
            }
            for image, label, highest, shares in rows
        ]


class Predictor:
    """A model with all that stands between images and its answers; `load_predictor` makes it.

    Images go through the network in the order and batches of the run's evaluation. On the CPU the images of its test
    part, in its order, get the probabilities of that evaluation to the bit, on the same machine with as many threads;
    in other batches the last digits may differ.

    Args:
        record: contents of model.json. resolved: settings and plugins. plugins: their hooks. model: the network.
        features: branch -> features f[N,D] of some images of the sources; empty where the folder has none.
        held_out: the network's own probabilities f[N,K] and the labels int[N] of held-out source; None without any.

    Attributes:
        device: where the network is. scaling: how images of one channel become 8 bits; None = no rule.
        needed: names of what it reads of every face beside the pixels. units: action units of the run, in order.
        data_settings: the run's.
    """

    def __init__(
        self,
        record: ModelRecord,
        resolved: ResolvedRun,
        plugins: Plugins,
        model: Model,
        features: _Features,
        held_out: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        from lightning_fabric import Fabric

        self.record, self.source_features, self.held_out = record, features, held_out
        config = resolved.config
        # Weights are read into the network as it is built, in float32.
        precision = "32-true" if config.train.precision == "64-true" else config.train.precision
        fabric = Fabric(accelerator=config.device, devices=1, precision=precision)
        self.device = fabric.device
        model.to(fabric.device)
        memory_format.apply(model, "channels_last" if config.train.memory_format == "channels_last" else "contiguous")
        self._model, self._plugins = model.requires_grad_(False).eval(), plugins
        self._evaluator = Evaluator(fabric, plugins, config.data)
        self._evaluator.calibration = record.calibration
        self.needed = tuple(sorted({name for plugin in resolved.plugins for name in plugin.prediction_extras()}))
        self.data_settings, self.units = config.data, tuple(record.units)
        self._views = plain_views(model.mean, model.std)
        given = record.images.range
        self.scaling = None if given is None else read_scaling(given, where=RECORD)

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel that images in [0, 1] are normalised with."""
        return self._model.mean, self._model.std

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the columns of probabilities."""
        return tuple(self.record.classes)

    def transform(self, image: Item) -> Tensor:
        """Return what the network sees of an image, float32[3,S,S]: RGB, resized, normalised.

        Raises:
            UserInputError: if it cannot be read, or is no image.
        """
        if isinstance(image, Tensor) and image.is_floating_point():
            return self._ready(image)
        return self._normalised(self.fit(pixels_of(image, self.scaling))[None])[0]

    def fit(self, pixels: np.ndarray | Image) -> np.ndarray:
        """Return an image uint8[H,W,3], or a PIL image in RGB, in the network's size, uint8[3,S,S]."""
        return np.ascontiguousarray(fitted(pixels, self.record.images.size, self.record.images.resize))

    def answer(
        self, pixels: np.ndarray, *, extras: Mapping[str, np.ndarray] | None = None, flip: bool = False
    ) -> Outputs:
        """Return what the network says of one batch of images.

        Args:
            pixels: uint8[B,3,S,S], B at least 1, as `fit` makes them. extras: name -> [B,...], those `needed`.
            flip: whether probabilities are the mean over each image and its mirror image.
        """
        # Made in the evaluation's order, so that a batch of the test part sums as it did there; handed back in ours.
        order = evaluation_order(len(pixels))
        beside = {name: torch.from_numpy(values[order]) for name, values in (extras or {}).items()}
        batch = _batch(self._normalised(pixels[order]), 0, beside)
        outputs = self._evaluator.predict_batches(self._model, [batch], self.record.evaluation.clock)
        if not flip:
            return outputs
        mirrored = self.answer(np.ascontiguousarray(pixels[..., ::-1]), extras=extras)
        return replace(outputs, probs=(outputs.probs + mirrored.probs) / 2)

    def probabilities(self, images: Tensor, extras: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return class probabilities f[B,K] of images f[B,3,S,S] as `transform` makes them; can be traced.

        Args:
            extras: name -> [B,...], those `needed`.
        """
        batch, clock = _batch(images, 0, extras or {}), self.record.evaluation.clock
        encoded = self._plugins.encode(self._model, batch, PLAIN, clock, "target", "evaluate")
        probs = self._plugins.predict(self._model, Encoded(encoded.features, encoded.logits))
        return probs if self.record.calibration is None else self.record.calibration.apply(probs)

    def modules(self) -> Iterator[nn.Module]:
        """Yield every module of the network."""
        return self._model.modules()

    def refuse_extras(self, *given: str) -> None:
        """Make sure that the model needs nothing but images, and what is named.

        Raises:
            UserInputError: if it does.
        """
        if others := [name for name in self.needed if name not in given]:
            what = f"the model predicts from {', '.join(others)} beside the image"
            fix = "in Python: fercore.load(MODEL).predict(images, extras={...})"
            raise UserInputError(what, where="predict", fix=fix)

    def _normalised(self, pixels: np.ndarray) -> Tensor:
        return self._views.make(pixels, np.zeros(len(pixels), dtype=np.int64))[PLAIN]

    def predict(
        self, images: Item | Iterable[Item], *, extras: Mapping[str, np.ndarray | Tensor] | None = None
    ) -> Predictions:
        """Return class probabilities of one or several images.

        Args:
            images: each as `transform` takes it; arrays and tensors of a further dimension are several.
            extras: what else a method reads of every image, [N,...] by name, such as action units.

        Raises:
            UserInputError: for an image that cannot be read, none at all, or a method that needs other extras.
        """
        items = list(_several(images))
        outputs = self.outputs(items, extras)
        names = (os.fsdecode(item) if isinstance(item, str | os.PathLike) else str(n) for n, item in enumerate(items))
        return Predictions(tuple(names), self.classes, outputs.probs)

    def features(
        self, images: Item | Iterable[Item], *, extras: Mapping[str, np.ndarray | Tensor] | None = None
    ) -> dict[str, np.ndarray]:
        """Return branch name -> features float32[N,D] of images, taken as by `predict`.

        Raises:
            UserInputError: as `predict`.
        """
        return self.outputs(list(_several(images)), extras).features

    def action_units(
        self, images: Item | Iterable[Item], au: str | os.PathLike[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Return which action units images show, as `predict` takes it in `extras`; {} for a model that reads none.

        Args:
            images: as `predict` takes them; only paths are found in a file.
            au: a CSV or folder of such, a .safetensors network, or an installed detector (`docs/au.md`); None = the
                detector that the run's target was read with.

        Raises:
            UserInputError: if nobody is named or at hand, or who is named does not know the model's units or images.
        """

        def fit(item: Item) -> np.ndarray:
            return self.fit(pixels_of(item, self.scaling))

        return units_of_images(self, list(_several(images)), None if au is None else os.fspath(au), fit)

    def outputs(self, items: Sequence[Item], extras: Mapping[str, np.ndarray | Tensor] | None = None) -> Outputs:
        """Return probabilities, features and logits of several images in one pass; labels are unknown.

        Raises:
            UserInputError: as `predict`.
        """
        if not items:
            raise UserInputError("no image to predict", where="predict", fix="give at least one")
        if missing := [name for name in self.needed if name not in (extras or {})]:
            what = f"the model predicts from {', '.join(missing)} beside the image"
            fix = "give one row an image in extras; action_units(images, FILE) returns those of a file or a detector"
            raise UserInputError(what, where="predict", fix=fix)
        beside = {name: torch.as_tensor(values) for name, values in (extras or {}).items()}
        for name, values in beside.items():
            if not values.ndim or len(values) != len(items):
                what = f"extras {name!r} of shape {list(values.shape)} for {counted(len(items), 'image')}"
                raise UserInputError(what, where="predict", fix="give one row an image")
        order = evaluation_order(len(items))
        batches = self._batches([items[i] for i in order.tolist()], {name: v[order] for name, v in beside.items()})
        return self._evaluator.predict_batches(self._model, batches, self.record.evaluation.clock)

    def _batches(self, items: Sequence[Item], extras: Mapping[str, Tensor]) -> Iterator[DomainBatch]:
        size = self.record.evaluation.batch
        for start in range(0, len(items), size):
            part = slice(start, start + size)
            images = torch.stack([self.transform(item) for item in items[part]])
            yield _batch(images, start, {name: values[part] for name, values in extras.items()})

    def _ready(self, image: Tensor) -> Tensor:
        size = self.record.images.size
        if image.shape != (3, size, size):
            fix = f"give what transform returns, float[3,{size},{size}], or pixels as uint8"
            raise UserInputError(f"float tensor of shape {list(image.shape)}", where="predict", fix=fix)
        return image.detach().to("cpu", torch.float32)


def _batch(images: Tensor, start: int, extras: Mapping[str, Tensor]) -> DomainBatch:
    """Return normalised images float32[B,3,S,S] as a batch without labels, numbered from `start`."""
    n = images.shape[0]
    return DomainBatch(
        images={PLAIN: images},
        labels=torch.full((n,), UNKNOWN_LABEL),
        domain=torch.zeros(n, dtype=torch.int64),
        index=torch.arange(start, start + n),
        extras=extras,
        per_domain=(n,),
    )


def _several(images: Any) -> Iterable[Any]:
    """Return the images of what may be one or several."""
    one = isinstance(images, str | os.PathLike) or hasattr(images, "getexif")
    one = one or (isinstance(images, np.ndarray | Tensor) and images.ndim < 4)
    return [images] if one else images


def pixels_of(image: Any, scaling: Scaling | None) -> np.ndarray | Image:
    """Return the pixels of an image as uint8[H,W,3], RGB, or as a PIL image.

    Args:
        image: a path, an array, a PIL image, or a tensor uint8[C,H,W]. scaling: how one channel becomes 8 bits.

    Raises:
        UserInputError: if it cannot be read, or is no image.
    """
    where = os.fsdecode(image) if isinstance(image, str | os.PathLike) else type(image).__name__
    try:
        if isinstance(image, str | os.PathLike):
            return decode_image(file_bytes(where), scaling)
        if hasattr(image, "getexif"):
            return to_rgb(image, scaling)
        if isinstance(image, Tensor):
            image = image.detach().cpu().numpy()
            image = np.moveaxis(image, 0, -1) if image.ndim == 3 else image
        if isinstance(image, np.ndarray):
            return _rgb(image, scaling)
    except (Unusable, NoScale, OSError, ValueError) as error:
        raise UserInputError(f"unusable image: {error}", where=where) from None
    raise UserInputError("no image", where=where, fix="give a path, an array, a PIL image or a tensor")


def _rgb(array: np.ndarray, scaling: Scaling | None) -> np.ndarray:
    """Return an array as uint8[H,W,3].

    Raises:
        NoScale: as `fercore.data.images.scaling.scaled`. ValueError: if it is no image.
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype.kind not in "uif" or 0 in array.shape:
        raise ValueError(f"array of {array.dtype}{list(array.shape)}")
    if array.ndim == 2:
        if scaling is None and array.dtype != np.uint8:
            raise NoScale(NO_RANGE)
        grey = array if scaling is None else scaling.apply(array)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(f"array of {array.dtype}{list(array.shape)}, where uint8[H,W,3] or one channel [H,W] is read")
    return array


@no_exit()
def load_predictor(path: str | os.PathLike[str], *, device: Device = "auto", full_precision: bool = False) -> Predictor:
    """Load the model of a finished run; no dataset is loaded, and no random generator is moved.

    Args:
        path: a run folder, or the `model/` in it. device: "auto" takes CUDA where it is usable.
        full_precision: compute in float32, even where the run was evaluated in less.

    Raises:
        UserInputError: if there is no model, it is damaged or of a newer fercore, a plugin of it is missing or has
            another version, or the device is not there.
    """
    folder = find_model(Path(path))
    record = read_record(folder)
    refuse_other_plugins(record, folder)
    layer = {**record.layer(), "device": device_here(device)}
    if full_precision:
        layer["train"] = {**layer.get("train", {}), "precision": "32-true"}
    state = random_state()
    try:
        resolved = assemble([plugin.name for plugin in record.plugins], [layer], preset=layer.pop("preset"))
        plugins = plugins_of(resolved, record.initial)
        with without_notices():
            model = build_recorded(record, resolved, plugins)
    except UserInputError as error:
        raise UserInputError(f"the model cannot be built: {error.what}", where=str(folder), fix=error.fix) from error
    finally:
        restore_random_state(state)
    read_state(model, resolved.plugins, folder)
    held_out = read_held_out(folder, len(record.classes))
    predictor = Predictor(record, resolved, plugins, model, read_features(folder), held_out)
    _try(predictor, model, folder)
    return predictor


@torch.no_grad()
def _try(predictor: Predictor, model: Model, folder: Path) -> None:
    """Encode one black image: a model whose parts fit each other by their shapes alone is of no use.

    Raises:
        UserInputError: if that fails, or gives numbers that are not finite.
    """
    black = predictor.transform(np.zeros((8, 8, 3), dtype=np.uint8))
    try:
        encoded: Encoded = model(black[None].to(predictor.device))
        if not all(t.isfinite().all() for t in (*encoded.features.values(), *encoded.logits.values())):
            raise ValueError("its numbers are not finite")
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        what = f"the network does not work with these weights and images of {predictor.record.images.size} px"
        raise UserInputError(f"{what}: {reason}", where=str(folder), fix=AGAIN) from error
