"""What the settings of a search may be: as its file says, within the settings' own bounds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from pydantic import BaseModel

from fercore.config import RunConfig, nested
from fercore.config.catalogue import allowed_values
from fercore.errors import UserInputError, did_you_mean
from fercore.experiments.cells import Cell
from fercore.experiments.search_file import ORACLE, Dimension, SearchFile
from fercore.hooks.assemble import ResolvedRun, assemble

SMALLEST = 1e-12
"""Least number that a logarithmic range takes from a setting's own bound."""


@dataclass(frozen=True)
class Axis:
    """A setting that is searched: values, or a range.

    Attributes:
        low, high: ends, both in it. whole: whether whole numbers alone are in it.
    """

    name: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    whole: bool = False

    def suggest(self, trial: Any) -> Any:
        """Return the value that a trial of Optuna draws, or has drawn before."""
        if self.values:
            return trial.suggest_categorical(self.name, self.values)
        if self.whole:
            low, high, step = round(self.low), round(self.high), round(self.step or 1)
            return trial.suggest_int(self.name, low, high, step=step, log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)

    def points(self) -> list[Any]:
        """Return every value it has.

        Raises:
            UserInputError: for a range without step, which has no end of them.
        """
        if self.values:
            return list(self.values)
        step = self.step or (1.0 if self.whole else None)
        if step is None or self.log:
            what, fix = f"{self.name} is a range without steps", 'give values or step, or sampler = "random"'
            raise UserInputError(f"no grid: {what}", where="search.space", fix=fix)
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        numbers = [self.low + number * step for number in range(count)]
        return [round(number) if self.whole else number for number in numbers]


def grid_of(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """Return every combination of the axes' values.

    Raises:
        UserInputError: as `Axis.points`.
    """
    return [
        dict(zip((axis.name for axis in axes), point, strict=True))
        for point in product(*(axis.points() for axis in axes))
    ]


@dataclass(frozen=True)
class Plan:
    """What a search needs to know of its row before the first trial.

    Attributes:
        axes: in the file's order. layer: settings that every trial has, so that its score is logged.
    """

    axes: tuple[Axis, ...]
    layer: dict[str, Any]


def plan_search(cell: Cell, search: SearchFile) -> Plan:
    """Look at the row that is searched: its settings' bounds, and what makes its runs log the score.

    Args:
        cell: of the row, as it is without the search. search: what is tried.

    Raises:
        UserInputError: for a setting that the row does not have, a value that it does not take, an end that neither
            the file nor the setting gives, and a score that one run alone cannot have.
    """
    resolved = assemble(cell.entry.plugins, cell.layers, preset=cell.preset)
    fields = _fields(resolved)
    axes = tuple(_axis(name, dimension, fields) for name, dimension in search.space.items())
    for axis in axes:
        for value in axis.values or (axis.low, axis.high):
            _try(cell, axis, value)
    return Plan(axes, _logging(resolved.config, search))


def _try(cell: Cell, axis: Axis, value: Any) -> None:
    """Refuse a value that the row's settings do not take by themselves."""
    value = round(value) if axis.whole and not axis.values else value
    try:
        assemble(cell.entry.plugins, [*cell.layers, nested(axis.name, value)], preset=cell.preset)
    except UserInputError as error:
        what = f"{axis.name} = {value!r} cannot be tried: {error.what}"
        raise UserInputError(what, where="search.space", fix=error.fix) from None


def _logging(config: RunConfig, search: SearchFile) -> dict[str, Any]:
    """Return settings that make a run log the score: at its end, and on the way where trials may be cut."""
    from fercore.evaluation.selection import is_pooled, needs_source

    steps, train = config.train.steps, config.train
    parts = 5 if search.pruner != "none" else 1
    layer: dict[str, Any] = {"train": {"eval_every": train.eval_every or max(1, steps // parts)}}
    if search.objective == ORACLE:
        return layer
    if is_pooled(search.objective):
        what = f"score {search.objective!r} compares models with each other; a trial is scored by itself"
        raise UserInputError(what, where="search.objective", fix="name another, such as information_maximisation")
    if needs_source(search.objective) and not config.data.source_validation:
        what = f"score {search.objective!r} needs source that is held out"
        raise UserInputError(what, where="search.objective", fix="give data.source_validation = 0.1 under [settings]")
    known = config.select.scores
    if search.objective not in known:
        layer["select"] = {"scores": [*known, search.objective]}
    return layer


def _fields(resolved: ResolvedRun) -> dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Return dotted name -> JSON schema of every setting of a run, and the definitions that it refers to."""
    found = dict(_walk(RunConfig, ""))
    for info, plugin in zip(resolved.infos, resolved.plugins, strict=True):
        found |= _walk(type(plugin).Settings, f"{info.name}.")
    return found


def _walk(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, tuple[Mapping[str, Any], Mapping[str, Any]]]]:
    schema = section.model_json_schema(mode="serialization")
    definitions = schema.get("$defs", {})
    for attribute, info in section.model_fields.items():
        key, kind = info.alias or attribute, info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _walk(kind, f"{prefix}{key}.")
        elif f"{prefix}{key}" != "plugins":
            yield f"{prefix}{key}", (schema["properties"][key], definitions)


def _axis(name: str, dimension: Dimension, fields: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Axis:
    if name not in fields:
        raise UserInputError(f"unknown setting {name!r}", where="search.space", fix=did_you_mean(name, sorted(fields)))
    field, definitions = fields[name]
    if dimension.values is not None:
        return Axis(name, dimension.values)
    number = _number(field, definitions)
    ranged = (dimension.low, dimension.high, dimension.step) != (None, None, None) or dimension.log
    values = _values(field, definitions)
    allowed = allowed_values(field, definitions)
    if number is None or (values and not ranged):
        if ranged or not values:
            what = f"{name} is {allowed}, which has no {'range' if values else 'bounds of its own'}"
            raise UserInputError(what, where="search.space", fix=f'give "{name}" = [VALUE, VALUE, ...]')
        return Axis(name, values)
    whole = number.get("type") == "integer"
    low = _end(name, dimension.low, number, "low", allowed, log=dimension.log)
    high = _end(name, dimension.high, number, "high", allowed)
    if not low < high:
        raise UserInputError(f"{name}: low {low:g} is not below high {high:g} ({allowed})", where="search.space")
    return Axis(name, (), low, high, dimension.log, dimension.step, whole)


def _end(
    name: str, given: float | None, number: Mapping[str, Any], end: str, allowed: str, *, log: bool = False
) -> float:
    """Return an end of a range: the one given, else the setting's own bound."""
    if given is not None:
        return given
    own, beyond, inwards = ("minimum", "exclusiveMinimum", 1) if end == "low" else ("maximum", "exclusiveMaximum", -1)
    bound = number.get(own)
    if bound is None and beyond in number:
        open_, whole = float(number[beyond]), number["type"] == "integer"
        bound = open_ + inwards if whole else math.nextafter(open_, inwards * math.inf)
    # A logarithm has no use for 0, nor for the number next to it.
    if bound is None or (log and bound < SMALLEST):
        what = f"{name} ({allowed}) has no bound of its own at the {end} end"
        raise UserInputError(what, where="search.space", fix=f"give {end}")
    return float(bound)


def _resolved(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    return definitions[field["$ref"].rpartition("/")[2]] if "$ref" in field else field


def _number(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the part of a schema that is a number, if there is one."""
    options = [_resolved(option, definitions) for option in _resolved(field, definitions).get("anyOf", [field])]
    return next((option for option in options if option.get("type") in ("integer", "number")), None)


def _values(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the values that a schema lists."""
    values: list[Any] = []
    for option in _resolved(field, definitions).get("anyOf", [field]):
        kind = _resolved(option, definitions)
        values += kind["enum"] if "enum" in kind else [kind["const"]] if "const" in kind else []
        values += [False, True] if kind.get("type") == "boolean" else []
    return tuple(values)
