"""What is tried and for how long: a few steps of each method that suits the task say it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fercore.adaptation import ship
from fercore.adaptation.look import Data, task_features
from fercore.adaptation.plan import Plan, lay_out, reserve_of
from fercore.adaptation.portfolio import Row, fitting, portfolio
from fercore.adaptation.race import AS_IT_IS, REFERENCE, Race, entry_of
from fercore.adaptation.state import write_state
from fercore.config.presets import preset_settings
from fercore.runs.folder import RunFolder

PROBING = 0.25
"""Share of the budget within which methods are begun to be timed: on a slow machine the last ones are not tried."""


def plan_of(race: Race, data: Data, methods: Sequence[str], *, trains_source: bool) -> tuple[Plan, dict[str, Row]]:
    """Take a few steps of each method that suits the task, and share out the time; once for a folder.

    Args:
        methods: labels of rows that are wanted; none = all that suit. trains_source: whether a source model is trained.

    Returns:
        the plan, and its rows by label.

    Raises:
        UserInputError: if there is no time for even the reference, or it cannot run.
    """
    every = {row.label: row for row in portfolio()}
    if (plan := race.state.plan) is None:
        race.reserve = reserve_of(race.budget.seconds)
        plan = race.state.plan = _laid_out(race, data, list(every.values()), methods, trains_source=trains_source)
        write_state(race.folder, race.state)
    for line in plan.lines(REFERENCE if data.sources else ""):
        race.tell(line)
    race.reserve = plan.reserve
    return plan, {label: every[label] for label in plan.rows}


def _laid_out(race: Race, data: Data, every: Sequence[Row], methods: Sequence[str], *, trains_source: bool) -> Plan:
    probed, start = (REFERENCE, race.path(f"probe/{REFERENCE}")) if trains_source else (AS_IT_IS, None)
    race.probe(probed, entry_of(probed), start=None, must=True)
    first = RunFolder(race.path(f"probe/{probed}")).result()
    units = bool(_setting(race, "data", "au")) or "au" in data.target.options
    features = task_features(data, first, units=units)
    race.state.features = sorted(features)
    if trains_source:
        race.probe(AS_IT_IS, entry_of(AS_IT_IS), start=start, must=True)
    elif data.sources:
        race.probe(REFERENCE, entry_of(REFERENCE), start=None, must=True)
    rows, left = fitting(every, features, methods)
    total = race.budget.seconds
    race.reserve = (1 - PROBING) * total
    for row in rows:
        if row.label not in race.state.timing and race.budget.spent > PROBING * total:
            left[row.label] = "no time to try it"
        elif race.probe(row.label, row.entry, start=start) is None:
            left[row.label] = race.state.dropped[f"probe/{row.label}"]
    rows = [row for row in rows if row.label in race.state.timing]
    if why := _nothing_to_tell(data, first.target.n_adaptation):
        left.update({row.label: why for row in rows})
        rows = []
    return lay_out(
        [row.label for row in rows], left, race.state.timing,
        first=AS_IT_IS, reference=REFERENCE if data.sources else "", trains_source=trains_source,
        total=race.budget.seconds, spent=race.budget.spent, jobs=race.jobs,
    )  # fmt: skip


def _nothing_to_tell(data: Data, n: int) -> str:
    """Say why nothing could be told of a model adapted to n images of these data; "" if something can be."""
    if not ship.enough(n):
        return "the target is too small to tell whether it helps"
    return "most of the target stands in a source" if 2 * data.copies > n else ""


def _setting(race: Race, section: str, key: str) -> Any:
    """Return the last value that layers of settings give; None if none does."""
    layers = [preset_settings(race.preset), *race.layers]
    return next((layer[section][key] for layer in reversed(layers) if key in layer.get(section, {})), None)
