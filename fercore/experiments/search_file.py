"""The [search] table of a study's file: what is tried, by whom, and by which score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from pydantic import Field, PositiveFloat, field_validator, model_validator

from fercore.config import Settings

ORACLE: Final = "oracle"
"""Objective that goes by labels of the target's test part; it is flagged wherever it shows."""
FIXED: Final = frozenset({"seed", "preset", "protocol", "device", "data.sources", "data.target", "data.classes"})
"""Settings that say what a score is measured on: trials that differ in them are not comparable."""


class Dimension(Settings):
    """What a setting may be; ends that are not given are the setting's own bounds, and so are values."""

    low: float | None = None
    high: float | None = None
    log: bool = Field(False, description="draw its logarithm evenly")
    step: PositiveFloat | None = Field(None, description="distance of neighbouring values, from low on")
    values: tuple[str | bool | int | float, ...] | None = Field(None, min_length=1, description="instead of ends")

    @model_validator(mode="after")
    def _one_way(self) -> Dimension:
        if self.values is not None and (self.low, self.high, self.step, self.log) != (None, None, None, False):
            raise ValueError("give values, or low and high")
        if self.values is not None and len({(type(value), value) for value in self.values}) < len(self.values):
            raise ValueError("a value is given twice")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError("low must be below high")
        if self.log and self.step is not None:
            raise ValueError("log goes with no step; give one of them")
        if self.log and self.low is not None and self.low <= 0:
            raise ValueError("log needs low above 0")
        return self


class SearchFile(Settings):
    """The keys of [search]."""

    method: str = Field("", description="label of the row whose settings are tried; the last one if not given")
    objective: str = Field(
        min_length=1, description="a score without target labels, higher is better, or oracle, flagged as such"
    )
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    pruner: Literal["median", "none"] = "median"
    startup: int = Field(5, ge=1, description="random trials before tpe models them, and whole ones before any is cut")
    trials: int | None = Field(None, ge=1, description="most trials, each of a run a pair and seed")
    hours: PositiveFloat | None = Field(None, description="after which no new trial begins")
    seed: int = Field(0, ge=0, lt=2**31, description="of the sampler")
    oracle: bool = Field(False, description="also note the target's own score of every trial; it decides nothing")
    space: dict[str, Dimension] = Field(min_length=1, description="setting -> what it may be")

    @field_validator("space", mode="before")
    @classmethod
    def _flat(cls, space: Any) -> Any:
        return dict(_dimensions(space)) if isinstance(space, Mapping) else space

    @model_validator(mode="after")
    def _ends(self) -> SearchFile:
        if self.sampler != "grid" and self.trials is None and self.hours is None:
            raise ValueError("a search without an end; give trials or hours")
        if fixed := next((name for name in self.space if name in FIXED), None):
            raise ValueError(f"{fixed} says what is scored, so trials must have the same; leave it out of space")
        return self


def _dimensions(space: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted name and dimension of a table, however it is nested; a list is one of values."""
    for key, value in space.items():
        name = f"{prefix}{key}"
        if isinstance(value, list | tuple):
            yield name, {"values": value}
        elif isinstance(value, Mapping) and not value.keys() <= Dimension.model_fields.keys():
            if any(isinstance(inner, Mapping | list | tuple) for inner in value.values()):
                yield from _dimensions(value, f"{name}.")
            else:
                yield name, value  # with a key that it does not know, which is told by its name
        else:
            yield name, value
