"""`fercore evaluate`: how good models are on a labelled dataset, with intervals, side by side."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from fercore.data.domains.domain_set import read_chosen
from fercore.data.labels import CANONICAL
from fercore.data.spec import DomainSpec
from fercore.data.table import Table
from fercore.errors import UserInputError
from fercore.evaluation import metrics
from fercore.files import absolute
from fercore.prediction.action_units import units_for
from fercore.prediction.faces import Whole
from fercore.prediction.inputs import Inputs
from fercore.prediction.predict import Progress
from fercore.prediction.predictor import Predictor
from fercore.prediction.stream import answers
from fercore.runs.folder import versions


@dataclass(frozen=True)
class Evaluation:
    """How good models are on a dataset.

    Attributes:
        spec: the dataset. n: samples that are scored. unit: "subject" or "image". units: how many of them.
        left_out: why samples are not scored, and how many. seed, replicates: of the bootstrap.
        models: name -> {"classes", "scores": {score: {"value", "interval"}}, "per_class", "confusion"}.
        differences: name -> {score: {"value", "interval"}}, each to the first model.
        notes: what a reader has to know beside the numbers.
    """

    spec: str
    n: int
    unit: str
    units: int
    left_out: dict[str, int]
    seed: int
    replicates: int
    models: dict[str, dict[str, Any]]
    differences: dict[str, dict[str, dict[str, Any]]]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as JSON values."""
        return {
            "schema": 1, "spec": self.spec, "n": self.n, "unit": self.unit, "units": self.units,
            "left_out": self.left_out, "bootstrap": {"seed": self.seed, "replicates": self.replicates,
            "level": metrics.LEVEL}, "models": self.models, "differences": self.differences,
            "notes": list(self.notes), "versions": versions(),
        }  # fmt: skip

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Return head and rows of the scores in points, with their intervals."""
        rows = [(name, *(_points(measured["scores"][score]) for score in metrics.MEASURES))
                for name, measured in self.models.items()]  # fmt: skip
        return ("model", *metrics.MEASURES.values()), rows

    def difference_table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Return head and rows of the differences to the first model."""
        rows = [(name, *(_points(difference[score], sign="+") for score in metrics.MEASURES))
                for name, difference in self.differences.items()]  # fmt: skip
        return ("model", *metrics.MEASURES.values()), rows

    def class_table(self, model: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Return head and rows of the classes of a model: scores, and how often each class was taken for which."""
        scored = self.models[model]
        head = ("class", "n", "recall", "precision", "F1", *scored["classes"])
        rows = []
        for name, counts in zip(scored["classes"], scored["confusion"], strict=True):
            scores = scored["per_class"][name]
            shown = (
                "-" if scores[key] is None else f"{100 * scores[key]:.1f}" for key in ("recall", "precision", "f1")
            )
            rows.append((name, str(scores["n"]), *shown, *map(str, counts)))
        return head, rows


def _points(estimate: dict[str, Any], sign: str = "") -> str:
    low, high = estimate["interval"]
    return f"{100 * estimate['value']:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def evaluate(
    models: dict[str, Predictor],
    spec: DomainSpec,
    *,
    flip: bool = False,
    au: str | None = None,
    workers: int = 0,
    seed: int = 0,
    replicates: int = metrics.REPLICATES,
    progress: Progress | None = None,
) -> Evaluation:
    """Score models on the same samples: those with a label that every model knows, and an image that can be read.

    Args:
        models: by name; differences are taken to the first. spec: the dataset.
        flip: as `Predictor.answer`. au: as `PredictSettings`. workers: threads that decode, 0 = one a core.
        seed, replicates: of the bootstrap. progress: told images done and in all.

    Raises:
        UserInputError: for no label in it that the models know, or a model that needs more than images.
    """
    if au is not None and not any(predictor.needed for predictor in models.values()):
        raise UserInputError("no model reads action units", where="--au", fix="leave it out")
    if replicates < 1:
        raise UserInputError(f"{replicates} replicates", where="--replicates", fix="give a whole number from 1 up")
    table, _ = read_chosen(spec)
    left_out: Counter[str] = Counter()
    table = _known(table, models, left_out)
    if not len(table):
        what = "no image with a label that the models know"
        raise UserInputError(what, where=spec.where, fix="give a labelled dataset with classes of theirs")
    probabilities: list[np.ndarray] = []
    readable = np.ones(len(table), dtype=bool)
    for number, predictor in enumerate(models.values()):
        probs = np.full((len(table), len(predictor.classes)), np.nan, dtype=np.float32)
        frames = Inputs((table,))
        action_units = units_for(predictor, frames, au if predictor.needed else None)
        stream = answers(
            predictor, frames, Whole(), workers=workers or os.cpu_count() or 1, units=action_units, flip=flip
        )
        for i, answer in enumerate(chain.from_iterable(stream)):
            if answer.looked.refused:
                readable[i] = False
                left_out[answer.looked.refused.partition(":")[0]] += not number
            else:
                probs[i] = answer.probs[0]
            if progress is not None:
                progress(number * len(table) + i + 1, len(models) * len(table))
        probabilities.append(probs)
    if not readable.any():
        raise UserInputError("no image can be read", where=spec.where, fix="see `fercore data check`")
    units, unit = metrics.number_units([table.subjects[i] for i in np.flatnonzero(readable)])
    sums = []
    for predictor, probs in zip(models.values(), probabilities, strict=True):
        places = np.array([predictor.classes.index(name) if name in predictor.classes else -1 for name in CANONICAL])
        sums.append(metrics.sums_of(probs[readable], places[table.labels[readable]], units))
    values = [metrics.scores_of(one.weighted(np.ones((1, len(one.confusion))))) for one in sums]
    drawn = metrics.bootstrap(sums, replicates=replicates, seed=seed)
    names = list(models)
    return Evaluation(
        spec=spec.text,
        n=int(readable.sum()),
        unit=unit,
        units=len(sums[0].confusion),
        left_out=dict(left_out),
        seed=seed,
        replicates=replicates,
        models={
            name: {
                "classes": list(models[name].classes),
                "scores": {
                    score: {"value": float(values[k][score][0]), "interval": metrics.interval(drawn[k][score])}
                    for score in metrics.MEASURES
                },
                "per_class": metrics.per_class(sums[k].confusion.sum(axis=0), models[name].classes),
                "confusion": sums[k].confusion.sum(axis=0).astype(int).tolist(),
            }
            for k, name in enumerate(names)
        },
        differences={
            name: {
                score: {
                    "value": float(values[k][score][0] - values[0][score][0]),
                    "interval": metrics.interval(drawn[k][score] - drawn[0][score]),
                }
                for score in metrics.MEASURES
            }
            for k, name in enumerate(names)
            if k
        },
        notes=tuple(line for name, predictor in models.items() for line in _seen(name, predictor, spec)),
    )


def _known(table: Table, models: dict[str, Predictor], left_out: Counter[str]) -> Table:
    """Return the samples whose label every model knows; count the others."""
    known = set.intersection(*(set(predictor.classes) for predictor in models.values()))
    labels = [CANONICAL[label] if label >= 0 else "" for label in table.labels.tolist()]
    for name in labels:
        if name not in known:
            left_out[f"class {name}, which not every model knows" if name else "no label"] += 1
    return table.subset([i for i, name in enumerate(labels) if name in known])


def _place(spec: DomainSpec) -> tuple[str, str]:
    """Return where the images of a dataset are; generated ones are others with another seed."""
    return absolute(spec.path), spec.options.get("seed", "0") if spec.generated else ""


def _seen(name: str, predictor: Predictor, spec: DomainSpec) -> list[str]:
    """Return what a reader has to know of a model that has met this dataset before."""
    provenance, here = predictor.record.provenance, _place(spec)
    lines = []
    if any(_place(source.spec) == here for source in provenance.sources):
        lines.append(f"{name} was trained on labels of this dataset: it is tested on what it may have learnt by heart")
    if _place(provenance.target.spec) == here:
        lines.append(f"{name} was adapted to images of this dataset, without their labels")
    return lines
