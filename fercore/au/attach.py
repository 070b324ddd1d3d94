"""Action units put beside the samples of a run: the same units in every domain, as extras of each part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fercore.au.files import FORMATS_THAT_DO
from fercore.au.providers import units_of
from fercore.au.table import CODES, MOST, SCORES, AUTable
from fercore.config import DataSettings
from fercore.data.spec import DomainSpec
from fercore.data.table import Table
from fercore.errors import UserInputError
from fercore.records.data import DomainUnits, UnitCounts, UnitsReport

WAYS = (
    "--set data.au=PROVIDER or ?au=PROVIDER in the spec, where PROVIDER is 'synthfer', 'face_mesh' for photographs, "
    f"a .safetensors network of `fercore au train`, an installed detector, or a CSV: {FORMATS_THAT_DO}"
)


@dataclass
class Domain:
    """A domain's parts, by name ("train", "test"); those named in `fixed` lose no sample."""

    spec: DomainSpec
    name: str
    parts: dict[str, Table]
    fixed: tuple[str, ...] = ()


def provider_of(spec: DomainSpec, settings: DataSettings) -> str | None:
    """Return who says which units a domain's images show, or None."""
    return spec.options.get("au", settings.au)


def asked_for(settings: DataSettings) -> bool:
    """Return whether a run's settings name a provider for every domain, reading no file."""
    return all(provider_of(spec, settings) for spec in (*settings.sources, settings.target))


def refuse_without(settings: DataSettings, plugin: str) -> None:
    """Fail early where a method needs action units that nobody provides.

    Raises:
        UserInputError: naming the ways to give them.
    """
    if not asked_for(settings):
        raise UserInputError(f"{plugin} needs action units, and the run names no provider", where="data.au", fix=WAYS)


def add_units(domains: Sequence[Domain], settings: DataSettings) -> tuple[tuple[str, ...], UnitsReport | None]:
    """Give every part of every domain the extras "au" (scores) and "au_code", in place.

    Training samples of which no unit is known are left out; samples of a fixed part stay, with NaN scores.

    Args:
        domains: their parts are replaced. settings: providers, threshold, and the share of images without a row that
            is let pass (`max_bad_share`).

    Returns:
        the units all domains share, in order, and a report; ((), None) if no domain asks for units.

    Raises:
        UserInputError: if only some domains have a provider, no unit is shared, or too many images have no row.
    """
    providers = [provider_of(domain.spec, settings) for domain in domains]
    if not any(providers):
        return (), None
    for domain, provider in zip(domains, providers, strict=True):
        if not provider:
            raise UserInputError("a domain without action units", where=domain.spec.where, fix=WAYS)
    answers = [_read(domain, str(provider), settings) for domain, provider in zip(domains, providers, strict=True)]
    names = _shared(domains, [next(iter(units.values())).names for units, _ in answers])
    rows: list[DomainUnits] = []
    for domain, provider, (units, report) in zip(domains, providers, answers, strict=True):
        skipped = {part: _attach(domain, part, units[part], names) for part in domain.parts}
        rows.append({"name": domain.name, "provider": str(provider), **report, "skipped": skipped})
    every = sorted({name for units, _ in answers for name in next(iter(units.values())).names})
    unshared = [name for name in every if name not in names]
    return names, {"names": list(names), "unshared": unshared, "threshold": settings.au_threshold, "domains": rows}


def _read(domain: Domain, provider: str, settings: DataSettings) -> tuple[dict[str, AUTable], UnitCounts]:
    """Return part -> its units, and counts; each image is looked at once, whatever parts it is in."""
    whole = _whole(list(domain.parts.values()))
    units_read = units_of(provider, whole, settings, domain.spec.where)
    units = units_read.table
    place = f"{provider} for {domain.spec.where}"
    missing = np.flatnonzero(~units.known)
    # A file of another dataset would otherwise leave a run on the few names that fit by chance.
    if len(missing) > settings.max_bad_share * len(whole) or len(missing) == len(whole):
        what = f"{len(missing)} of {len(whole)} images {units_read.missing}, first {whole.keys[missing[0]]}"
        fix = f"at most {settings.max_bad_share:.1%} are let pass (data.max_bad_share), and never all"
        raise UserInputError(what, where=place, fix=fix)
    # `_whole` is sorted by row, so that each part's rows are found in it.
    parts = {part: units.take(units.names, np.searchsorted(whole.rows, t.rows)) for part, t in domain.parts.items()}
    counts: UnitCounts = {
        "units": len(units.names),
        "without_row": len(missing),
        "rows_of_no_image": units_read.unused,
        "cells_without_number": units_read.blanks,
        "codes": len(np.unique(units.codes[units.known], axis=0)),
    }
    return parts, counts


def _whole(tables: Sequence[Table]) -> Table:
    """Return every sample of parts that share a reader once, by row."""

    def column(name: str) -> Any:
        return tuple(value for table in tables for value in getattr(table, name))

    def array(name: str) -> np.ndarray:
        return np.concatenate([getattr(table, name) for table in tables])

    shared = set.intersection(*(set(table.extras) for table in tables))
    together = replace(
        tables[0],
        keys=column("keys"),
        labels=array("labels"),
        subjects=column("subjects"),
        sequences=column("sequences"),
        split=column("split"),
        rows=array("rows"),
        domain=array("domain"),
        extras={name: np.concatenate([table.extras[name] for table in tables]) for name in shared},
    )
    return together.subset(np.unique(together.rows, return_index=True)[1])


def _shared(domains: Sequence[Domain], names: Sequence[Sequence[str]]) -> tuple[str, ...]:
    shared = set.intersection(*map(set, names))
    if not shared:
        lists = [f"{d.name}: {', '.join(own)}" for d, own in zip(domains, names, strict=True)]
        fix = "give providers that tell some of the same units"
        raise UserInputError("no action unit in common", where="; ".join(lists), fix=fix)
    if len(shared) > MOST:
        raise UserInputError(f"{len(shared)} action units, a code holds {MOST}", where="data.au")
    # By name, which is by number: codes of all domains have their bits in one order.
    return tuple(sorted(shared))


def _attach(domain: Domain, part: str, units: AUTable, names: Sequence[str]) -> int:
    """Put the units into a part's extras; return how many samples were left out."""
    table = domain.parts[part]
    kept = units.take(names, np.arange(len(units)))
    extras: Mapping[str, np.ndarray] = {**table.extras, SCORES: kept.scores, CODES: kept.codes}
    table = replace(table, extras=extras)
    # A fixed part keeps its samples, without units: with other test images it would be another test.
    missing = 0 if part in domain.fixed else int((~kept.known).sum())
    domain.parts[part] = table.subset(np.flatnonzero(kept.known)) if missing else table
    return missing
