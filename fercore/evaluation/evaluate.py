"""The evaluator: the only place that sees target labels. Plugins are handed batches without them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from fercore.config import DataSettings
from fercore.data import Table, eval_batches
from fercore.data.noise import permutation
from fercore.evaluation.calibration import Calibration
from fercore.evaluation.metrics import class_scores
from fercore.hooks.manager import Plugins
from fercore.models import Model
from fercore.processes import Processes
from fercore.random_state import random_state, restore_random_state
from fercore.records.outputs import Outputs
from fercore.records.result import ClassQuality, LabelQuality, Predicted, Scores
from fercore.records.step import PLAIN, Batch, DomainBatch, Encoded, EncodedDataset, Progress, Purpose, Side

if TYPE_CHECKING:
    from lightning_fabric import Fabric


BatchT = TypeVar("BatchT", Batch, DomainBatch)


class Evaluator:
    """Runs tables through the network in evaluation mode.

    Args:
        fabric: device and precision. plugins: for `encode` and `predict`. data: batch size and image size.
    """

    def __init__(self, fabric: Fabric, plugins: Plugins, data: DataSettings) -> None:
        self._fabric, self._plugins, self._data = fabric, plugins, data
        self.calibration: Calibration | None = None

    def encode(self, model: Model, table: Table, clock: Progress, side: Side) -> EncodedDataset:
        """Return the features and logits of a whole side, on the model's device; labels of the target are hidden."""
        shown = table if side == "source" else table.without_labels()
        processes = Processes(self._fabric.global_rank, self._fabric.world_size)
        starts = range(0, len(shown), self._data.eval_batch)
        if len(starts) < 2 * processes.world or not processes.several:
            batches = eval_batches(shown, self._data, mean=model.mean, std=model.std)
            return self.encode_batches(model, batches, clock, side, "refresh")
        # Whole batches in turns: each has the bits that it has where one process goes through all.
        rows = [np.concatenate([_span(start, shown, self._data) for start in starts[r :: processes.world]])
                for r in range(processes.world)]  # fmt: skip
        batches = eval_batches(shown, self._data, mean=model.mean, std=model.std, share=processes)
        own = self.encode_batches(model, batches, clock, side, "refresh")
        return _together(own, shown, rows, processes)

    @torch.no_grad()
    def encode_batches(
        self, model: Model, batches: Iterable[DomainBatch], clock: Progress, side: Side, purpose: Purpose
    ) -> EncodedDataset:
        """Return the features and logits of batches of plain images, at least one, on the model's device."""
        parts: list[Encoded] = []
        kept = []
        with _evaluating(model):
            for batch in batches:
                with self._fabric.autocast():
                    there = placed(batch, self._fabric)
                    parts.append(self._plugins.encode(model, there, PLAIN, clock, side, purpose))
                kept.append(batch)
        return EncodedDataset(
            features=_join([part.features for part in parts]),
            logits=_join([part.logits for part in parts]),
            labels=torch.cat([batch.labels for batch in kept]).to(self._fabric.device),
            domain=torch.cat([batch.domain for batch in kept]).to(self._fabric.device),
            index=torch.cat([batch.index for batch in kept]).to(self._fabric.device),
            extras=_join([batch.to(self._fabric.device).extras for batch in kept]),
        )

    def predict(self, model: Model, table: Table, clock: Progress, side: Side = "target") -> Outputs:
        """Return predictions for a whole table, with the labels the table knows; draws no random number of the run.

        Plugins see the samples in an order of their own: files come sorted by class folder.
        """
        shown = table.subset(evaluation_order(len(table))).without_labels()
        batches = eval_batches(shown, self._data, mean=model.mean, std=model.std)
        return replace(self.predict_batches(model, batches, clock, side), labels=np.asarray(table.labels))

    @torch.no_grad()
    def predict_batches(
        self, model: Model, batches: Iterable[DomainBatch], clock: Progress, side: Side = "target"
    ) -> Outputs:
        """Return predictions for batches whose samples come in `evaluation_order`; no random generator is moved."""
        state = random_state()
        encoded = self.encode_batches(model, batches, clock, side, "evaluate")
        with _evaluating(model):
            probs = self._plugins.predict(model, Encoded(encoded.features, encoded.logits))
            probs = probs if self.calibration is None else self.calibration.apply(probs, of_target=side == "target")
        restore_random_state(state)
        back = np.argsort(evaluation_order(len(probs)))
        return Outputs(
            probs=probs.float().cpu().numpy()[back],
            features={name: tensor.float().cpu().numpy()[back] for name, tensor in encoded.features.items()},
            logits={name: tensor.float().cpu().numpy()[back] for name, tensor in encoded.logits.items()},
            labels=encoded.labels.cpu().numpy()[back],
        )


def placed(batch: BatchT, fabric: Fabric) -> BatchT:
    """Return a batch on the run's device; images are in float64 where the network is.

    Under mixed precision they stay in float32: autocast rounds what the network's layers take, and methods that compute
    with images in their losses have all digits of them.
    """
    there = batch.to(fabric.device)
    if fabric.strategy.precision.precision != "64-true":
        return there
    convert = fabric.strategy.precision.convert_input
    if isinstance(there, Batch):
        sides = (replace(s, images={n: convert(t) for n, t in s.images.items()}) for s in (there.source, there.target))
        return Batch(*sides)
    return replace(there, images={name: convert(t) for name, t in there.images.items()})


def _span(start: int, table: Table, data: DataSettings) -> np.ndarray:
    return np.arange(start, min(start + data.eval_batch, len(table)))


def _together(own: EncodedDataset, table: Table, rows: Sequence[np.ndarray], processes: Processes) -> EncodedDataset:
    """Return a whole side of which each process has encoded some rows.

    Args:
        own: of this process. table: the side. rows: int64[n_r] of every process.
    """
    device, sizes = own.labels.device, [len(each) for each in rows]
    order = torch.from_numpy(np.argsort(np.concatenate(rows))).to(device)

    def joined(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: torch.cat(processes.rows(tensor, sizes))[order] for name, tensor in tensors.items()}

    return EncodedDataset(
        features=joined(own.features),
        logits=joined(own.logits),
        labels=torch.from_numpy(table.labels.copy()).to(device),
        domain=torch.from_numpy(table.domain.copy()).to(device),
        index=torch.arange(len(table), device=device),
        extras={name: torch.from_numpy(np.ascontiguousarray(each)).to(device) for name, each in table.extras.items()},
    )


@contextmanager
def _evaluating(model: Model) -> Iterator[None]:
    """Have the model in evaluation mode, and then as it was."""
    training = model.training
    # Setting the mode of every module takes as long as a few layers: it is left alone where it is set.
    if any(module.training for module in model.modules()):
        model.eval()
    try:
        yield
    finally:
        if training or any(module.training for module in model.modules()):
            model.train(training)


def evaluation_order(n: int) -> np.ndarray:
    """Return int64[n], the order in which predictions of n samples are made."""
    return permutation(n, "evaluation", n)


def _join(parts: Sequence[Any]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def score(predictions: Outputs, classes: Sequence[str]) -> Scores:
    """Return the scores of predictions against the labels that are known.

    Samples without a label are not scored. Classes without a sample are reported as None and left out of balanced
    accuracy and macro F1; without any labelled sample every score and the matrix are None.
    """
    known = predictions.labels >= 0
    truth, guess = predictions.labels[known], predictions.probs[known].argmax(axis=1)
    names = range(len(classes))
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(confusion, (truth, guess), 1)
    support = confusion.sum(axis=1)
    present = [k for k in names if support[k]]
    of_class = class_scores(confusion)
    recall, f1 = ({classes[k]: float(one[k]) if support[k] else None for k in names} for one in of_class)
    some = bool(present)
    return Scores(
        n=len(truth),
        classes=list(classes),
        accuracy=float((truth == guess).mean()) if some else None,
        balanced_accuracy=float(np.mean(of_class[0][present])) if some else None,
        macro_f1=float(np.mean(of_class[1][present])) if some else None,
        per_class_recall=recall,
        per_class_f1=f1,
        confusion=confusion.tolist() if some else None,
        predicted=without_labels(predictions.probs, classes),
    )


def without_labels(probs: np.ndarray, classes: Sequence[str]) -> Predicted:
    """Return what can be said of predictions without a label; None where there is no image.

    Args:
        probs: float[N,K].
    """
    n, k = probs.shape
    logs = np.log(np.maximum(probs, np.finfo(np.float64).tiny), dtype=np.float64)
    shares = np.bincount(probs.argmax(axis=1), minlength=k) / max(1, n)
    return Predicted(
        n=n,
        class_shares=dict(zip(classes, shares.tolist(), strict=True)),
        entropy=float(-(probs * logs).sum(axis=1).mean() / np.log(k)) if n else None,
        confidence=float(probs.max(axis=1).mean()) if n else None,
    )


def score_labels(probs: np.ndarray, weight: np.ndarray, truth: np.ndarray, classes: Sequence[str]) -> LabelQuality:
    """Return how many target samples a method labels, and how well: only the evaluator may compare the two.

    Args:
        probs: float[N,K] pseudo labels. weight: float[N], 0 = none. truth: int64[N], -1 = unknown.

    Returns:
        shares and scores; None where there is nothing to score.
    """
    given, known = weight > 0, truth >= 0
    both = given & known
    right = probs.argmax(axis=1) == truth
    per_class: dict[str, ClassQuality] = {}
    for k, name in enumerate(classes):
        own, scored = truth == k, both & (truth == k)
        per_class[name] = ClassQuality(
            coverage=float(given[own].mean()) if own.any() else None,
            accuracy=float(right[scored].mean()) if scored.any() else None,
        )
    accuracies = [one.accuracy for one in per_class.values() if one.accuracy is not None]
    return LabelQuality(
        n=len(weight),
        labelled=int(given.sum()),
        coverage=float(given.mean()) if len(given) else None,
        known=int(both.sum()),
        accuracy=float(right[both].mean()) if both.any() else None,
        balanced_accuracy=float(np.mean(accuracies)) if accuracies else None,
        probability=float(probs[both, truth[both]].mean()) if both.any() else None,
        per_class=per_class,
        uses_target_labels=True,
    )
