"""What each term of a step asks of the network: the gradient that it has at the features, and at the backbone's output.

Looked at beside the training: the terms are differentiated once more, each by itself, down to where the features are
and no further, so that no weight's gradient and no random number is touched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn

from fercore.config import RunConfig
from fercore.errors import UserInputError
from fercore.losses import to_float32
from fercore.models import Model
from fercore.records.plan import Stage
from fercore.records.step import LossTerm, Progress, Role, Side

Numbers: TypeAlias = dict[str, dict[str, dict[str, float | None]]]
"""Term -> place, "backbone" or "branches.NAME" -> side -> a number; None where it is not finite."""

BOTH: Final = "both"
"""The side of rows that no one side has."""
WHERE: Final = "report.gradients"


class FeatureGradients:
    """Looks at the gradients of one forward's terms.

    Args:
        model: the network. clock: where training stands.

    Attributes:
        norms: of the weighted terms' gradients, over all rows of a side and its views.
        cosines: between each other term's gradient and that of the supervised terms together; where one of them is 0
            there is none.
    """

    def __init__(self, model: Model, clock: Progress) -> None:
        self.clock = clock
        self.norms: Numbers = {}
        self.cosines: Numbers = {}
        self._model = model
        self._rows: Sequence[tuple[Side, int]] = ()
        self._seen: list[tuple[str, Tensor, Sequence[tuple[Side, int]]]] = []

    @contextmanager
    def encoding(self, rows: Sequence[tuple[Side, int]]) -> Iterator[None]:
        """Remember what backbone and branches return.

        Args:
            rows: the sides whose images they are given, one after the other, and how many images each has.
        """
        places: list[tuple[str, nn.Module]] = [("backbone", self._model.backbone)]
        places += [(f"branches.{name}", branch) for name, branch in self._model.branches.items()]
        self._rows = rows
        handles = [module.register_forward_hook(partial(self._note, name)) for name, module in places]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, place: str, module: nn.Module, given: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad and output.ndim:
            self._seen.append((place, output, self._rows))

    def measure(self, terms: Sequence[LossTerm]) -> None:
        """Find the gradients of a forward's terms."""
        with torch.autocast(self._device, enabled=False):
            found = {term.name: gradients for term in terms if (gradients := self._gradients(term))}
        supervised = [found[term.name] for term in terms if term.role is Role.SUPERVISED and term.name in found]
        wanted = {key: _sum([each[key] for each in supervised if key in each]) for key in self._keys(supervised)}
        for term in terms:
            for (place, side), own in found.get(term.name, {}).items():
                size = _norm(own)
                self.norms.setdefault(term.name, {}).setdefault(place, {})[side] = _finite(size)
                beside = wanted.get((place, side))
                if term.role is Role.SUPERVISED or beside is None:
                    continue
                both = size * _norm(beside)
                if both > 0:
                    dot = sum(float((one.double() * other.double()).sum()) for one, other in _pairs(own, beside))
                    self.cosines.setdefault(term.name, {}).setdefault(place, {})[side] = _finite(dot / both)
        # The graph is the step's: it goes when the step is done with it.
        self._seen.clear()

    def line(self) -> dict[str, Any]:
        """Return what was found as a line of metrics.jsonl has it."""
        clock = self.clock
        where = {"stage": clock.stage, "phase": clock.phase, "epoch": clock.epoch, "step": clock.step}
        return {"kind": "gradients", **where, "repeat": clock.repeat, "norms": self.norms, "cosines": self.cosines}

    def scalars(self) -> dict[str, dict[str, float]]:
        """Return the finite numbers by group, as TensorBoard has them."""
        return {
            f"gradient_{kind}/{self.clock.phase}": {
                f"{term}/{place}/{side}": value
                for term, places in numbers.items()
                for place, sides in places.items()
                for side, value in sides.items()
                if value is not None
            }
            for kind, numbers in (("norms", self.norms), ("cosines", self.cosines))
        }

    @property
    def _device(self) -> str:
        return next(self._model.parameters()).device.type

    @staticmethod
    def _keys(gradients: Sequence[Mapping[tuple[str, str], Any]]) -> list[tuple[str, str]]:
        return list(dict.fromkeys(key for each in gradients for key in each))

    def _gradients(self, term: LossTerm) -> dict[tuple[str, str], list[Tensor | None]]:
        """Return (place, side) -> the term's gradient at each output of that place; None where it has none."""
        value = term.weight * to_float32(term.value)
        if not value.requires_grad or not self._seen:
            return {}
        outputs = [output for _, output, _ in self._seen]
        every = torch.autograd.grad(value, outputs, retain_graph=True, allow_unused=True)
        found: dict[tuple[str, str], list[Tensor | None]] = {}
        for (place, output, rows), gradient in zip(self._seen, every, strict=True):
            for side, part in _sides(len(output), rows):
                found.setdefault((place, side), []).append(None if gradient is None else gradient[part])
        return found


def refuse_gradients(config: RunConfig, stages: Sequence[Stage]) -> None:
    """Refuse to look at gradients where the features are not in one graph with the terms.

    Raises:
        UserInputError: naming what stands in the way.
    """
    train = config.train
    if not config.report.gradients:
        return
    ways = {
        "several processes share each batch": config.devices * config.num_nodes > 1,
        "train.accumulate takes a batch in pieces": train.accumulate > 1,
        "train.compile makes one graph of the network": train.compile,
        "gradients of train.precision=16-mixed are scaled, and may vanish without": train.precision == "16-mixed",
        "a stream's batches are answered as they come": any(stage.stream for stage in stages),
    }
    for why in (why for why, so in ways.items() if so):
        raise UserInputError(f"no gradient at the features to look at: {why}", where=WHERE, fix=f"take {WHERE}=0")


def _sides(length: int, rows: Sequence[tuple[Side, int]]) -> list[tuple[str, slice]]:
    """Return each side's rows of an output."""
    if len(rows) == 1:  # however many rows an image has
        return [(rows[0][0], slice(None))]
    if length != sum(n for _, n in rows):
        return [(BOTH, slice(None))]
    ends = torch.tensor([n for _, n in rows]).cumsum(0).tolist()
    return [(side, slice(end - n, end)) for (side, n), end in zip(rows, ends, strict=True)]


def _pairs(one: Sequence[Tensor | None], other: Sequence[Tensor | None]) -> Iterator[tuple[Tensor, Tensor]]:
    return ((a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None)


def _sum(gradients: Sequence[Sequence[Tensor | None]]) -> list[Tensor | None]:
    columns = ([each for each in column if each is not None] for column in zip(*gradients, strict=True))
    return [torch.stack(column).sum(dim=0) if column else None for column in columns]


def _norm(gradients: Sequence[Tensor | None]) -> float:
    return math.sqrt(sum(float(each.double().square().sum()) for each in gradients if each is not None))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
