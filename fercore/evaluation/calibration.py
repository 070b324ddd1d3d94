"""How sure a model is, brought in line with how often it is right on held-out source samples, never on the target's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fercore.config import RunConfig
from fercore.data.labels import CANONICAL, canonical_label
from fercore.documents import Shape
from fercore.errors import UserInputError, did_you_mean
from fercore.evaluation.label_shift import estimated_ratio
from fercore.evaluation.metrics import scores_of, sums_of
from fercore.evaluation.selection.arrays import softmax

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
LEAST = 1e-12
"""Below it a probability is no logarithm's argument."""


class Calibration(Shape):
    """What a model's probabilities p become: p^(1/temperature) * ratio, 0 where not predicted, brought to the sum 1.

    Of p = softmax(z) the first is softmax(z / temperature) (Guo et al., ICML 2017, section 4.2); the second moves the
    class prior of the source to another (Saerens et al., Neural Computation 2002, equation 2.4).

    Attributes:
        temperature: 1 = as the network says. ratio: of the priors, by class; None = the source's.
        n: held-out source samples that the temperature was fitted on. ece_before, ece_after: on them; None without.
        predicted: by class, whether it may be predicted of the target; None = all may.
    """

    temperature: Positive
    ratio: list[Positive] | None
    n: Annotated[int, Field(ge=0)]
    ece_before: float | None
    ece_after: float | None
    predicted: list[bool] | None = None

    def apply(self, probs: Tensor, *, of_target: bool = True) -> Tensor:
        """Return float32[B,K] of a method's probabilities f[B,K]; `of_target` = without classes it does not have."""
        scores = probs.float().clamp_min(LEAST).log() / self.temperature
        if self.ratio is not None:
            scores = scores + torch.tensor(self.ratio, device=scores.device).log()
        if self.predicted is not None and of_target:
            scores = scores.masked_fill(~torch.tensor(self.predicted, device=scores.device), -torch.inf)
        return scores.softmax(-1)

    def undone(self, probs: np.ndarray) -> np.ndarray:
        """Return the method's probabilities float64[B,K] of which `apply` made these; 0 for what is not predicted."""
        scores = np.log(np.maximum(probs.astype(np.float64), LEAST))
        if self.ratio is not None:
            scores = scores - np.log(self.ratio)
        return softmax(scores * self.temperature)


PLAIN = Calibration(temperature=1.0, ratio=None, n=0, ece_before=None, ece_after=None)
"""Probabilities as they are."""


def predicted_classes(config: RunConfig) -> tuple[str, ...] | None:
    """Return the classes that the target is known to have, of `predict.classes` or its SPEC; None = nobody says.

    Raises:
        UserInputError: for a name that no expression has.
    """
    names, where, spec = config.predict.classes, "predict.classes", config.data.target
    if names is None and "present" in spec.options:
        names, where = tuple(spec.options["present"].split(",")), spec.where
    return None if names is None else tuple(CANONICAL[canonical_label(name, where=where)] for name in names)


def limited(config: RunConfig, classes: Sequence[str]) -> Calibration | None:
    """Return what leaves out classes that the target does not have; None where all are predicted."""
    names = predicted_classes(config)
    if names is None or set(classes) <= set(names):
        return None
    return PLAIN.model_copy(update={"predicted": [name in names for name in classes]})


def refuse_impossible(config: RunConfig, classes: Sequence[str]) -> None:
    """Make sure, before training, that a run can be calibrated as its settings ask.

    Raises:
        UserInputError: if no source sample is held out, or the prior names no share of each class.
    """
    if config.predict.calibrate and not config.task.validation:
        fix = "hold some out: data.source_validation=0.1"
        what = "a temperature needs source samples that are not trained on"
        raise UserInputError(what, where="predict.calibrate", fix=fix)
    names = predicted_classes(config)
    if names is not None and len(set(names) & set(classes)) < 2:
        what = f"fewer than two classes would be predicted: the run has {', '.join(classes)}"
        raise UserInputError(what, where="predict.classes", fix="name those of the run that the target has")
    prior = config.predict.prior
    if prior == "estimated" and not config.data.source_validation:
        fix = "hold some out: data.source_validation=0.1"
        what = "the target's class shares are estimated beside source samples that are not trained on"
        raise UserInputError(what, where="predict.prior", fix=fix)
    if prior != "source" and not config.data.sources:
        raise UserInputError("no source whose prior could be moved", where="predict.prior", fix="leave it out")
    if isinstance(prior, Mapping):
        for name in prior.keys() ^ set(classes):
            fix = did_you_mean(name, classes) if name in prior else "give a share for every class of the run"
            raise UserInputError(f"class {name!r} is not in both", where="predict.prior", fix=fix)


def fit_temperature(probs: np.ndarray, truth: np.ndarray) -> float:
    """Return the temperature of least negative log-likelihood of float[N,K] probabilities of samples with labels."""
    from scipy.optimize import minimize_scalar

    scores = np.log(np.maximum(probs.astype(np.float64), LEAST))
    rows = np.arange(len(truth))

    def loss(log_temperature: float) -> float:
        z = scores / np.exp(log_temperature)
        z -= z.max(axis=1, keepdims=True)
        return float((np.log(np.exp(z).sum(axis=1)) - z[rows, truth]).mean())

    # Between 1/20 and 20: a few samples that are all right would ask for 0.
    minimum = minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(minimum.x))


def calibration_of(
    config: RunConfig,
    classes: Sequence[str],
    source_prior: np.ndarray,
    held_out: tuple[np.ndarray, np.ndarray] | None,
    target_probs: np.ndarray | None = None,
) -> Calibration | None:
    """Return what the settings ask for; None where probabilities stay as they are.

    Args:
        source_prior: f[K], class shares of the source samples that were trained on.
        held_out: probabilities float[N,K] and labels int64[N] of source samples that were not; None without.
        target_probs: float[N,K] of the adaptation part, for a prior that is estimated.
    """
    asked, prior = config.predict.calibrate and held_out is not None, config.predict.prior
    if not asked and prior == "source":
        return None
    ratio = None
    if prior == "estimated" and held_out is not None and target_probs is not None:
        heat = Calibration(temperature=fit_temperature(*held_out), ratio=None, n=0, ece_before=None, ece_after=None)
        target, source = (heat.apply(torch.from_numpy(probs)).numpy() for probs in (target_probs, held_out[0]))
        ratio = estimated_ratio(target, source).tolist()
    elif prior != "source":
        shares = np.array([prior[name] if isinstance(prior, Mapping) else 1.0 for name in classes])
        ratio = (shares / shares.sum() / np.maximum(source_prior, LEAST)).tolist()
    if not asked or held_out is None:
        return Calibration(temperature=1.0, ratio=ratio, n=0, ece_before=None, ece_after=None)
    probs, truth = held_out
    temperature = fit_temperature(probs, truth)
    alone = Calibration(temperature=temperature, ratio=None, n=len(truth), ece_before=None, ece_after=None)
    after = alone.apply(torch.from_numpy(probs)).numpy()
    before, now = (calibration_error(each, truth) for each in (probs, after))
    return alone.model_copy(update={"ratio": ratio, "ece_before": before, "ece_after": now})


def calibration_error(probs: np.ndarray, truth: np.ndarray) -> float:
    """Return the expected calibration error of float[N,K] probabilities of samples int64[N] with labels."""
    return float(
        scores_of(sums_of(probs, truth, np.zeros(len(truth), dtype=np.int64)).weighted(np.ones((1, 1))))["ece"][0]
    )
