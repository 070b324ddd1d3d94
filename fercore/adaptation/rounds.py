"""The runs of an adaptation, one after another: the source model, the model as it is, the reference, the methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fercore.adaptation.look import target_features
from fercore.adaptation.plan import LEAST_SOURCE, Plan
from fercore.adaptation.portfolio import Row
from fercore.adaptation.race import AS_IT_IS, REFERENCE, SOURCE_MODEL, Race, Training, entry_of
from fercore.adaptation.state import Fate
from fercore.decisions.ranking import rank


@dataclass
class Ran:
    """What was trained.

    Attributes:
        first: run of the model as it is. reference: run that trained on without adapting; "" without one.
        finalists: runs of the last round. fates: label of a row -> what became of it.
    """

    first: str = AS_IT_IS
    reference: str = ""
    finalists: list[str] = field(default_factory=list)
    fates: dict[str, Fate] = field(default_factory=dict)


def run_rounds(race: Race, plan: Plan, rows: Mapping[str, Row]) -> Ran:
    """Train the source model, then the methods in rounds.

    The model as it is and the reference come before the methods of a round: whatever the time, there is one to ship.

    Raises:
        UserInputError, WriteError, KeyboardInterrupt: as `Race.run_each`.
    """
    ran, timing, steps = Ran(), plan.timing, plan.rounds[-1]
    early, late = plan.race_seconds(jobs=race.jobs)
    reference = timing[REFERENCE].seconds(steps) if race.sources else 0.0
    start: Path | None = None
    if plan.source_steps:
        race.ahead = timing[AS_IT_IS].seconds(steps) + reference + early + late
        entry = entry_of(REFERENCE)
        least = min(LEAST_SOURCE, plan.source_steps)  # fewer make no model to ship, nor one to start from
        race.run(Training(SOURCE_MODEL, entry, plan.source_steps, timing=timing[REFERENCE], must=True, least=least))
        start = race.path(SOURCE_MODEL)
    as_it_is = race.run(Training(AS_IT_IS, entry_of(AS_IT_IS), steps, start, must=True))
    assert as_it_is is not None
    found, words = target_features(as_it_is)
    for line in words:
        race.tell(line)
    going = []
    for label, row in rows.items():
        if reason := row.fault({*race.state.features, *found}):
            race.state.dropped.setdefault(f"last/{label}", reason)
            ran.fates[label] = "left out"
        else:
            going.append(label)
    beside = {"report": {"reference": str(race.path(AS_IT_IS))}}
    early, late = plan.race_seconds(going, race.jobs)
    if race.sources:
        race.ahead, ran.reference = early + late, f"last/{REFERENCE}"
        entry = entry_of(REFERENCE)
        race.run(Training(ran.reference, entry, steps, start, timing[REFERENCE], beside, must=True, least=1))
    if len(plan.rounds) > 1 and len(going) > plan.finalists:
        race.ahead = late
        going = _first_round(race, plan, rows, going, start, ran.fates)
    race.ahead = 0.0
    race.run_each(
        [Training(f"last/{label}", rows[label].entry, steps, start, timing[label], beside) for label in going]
    )
    for label in going:
        done = f"last/{label}" in race.results
        ran.fates[label] = "finalist" if done else "dropped"
        ran.finalists += [f"last/{label}"] if done else []
    return ran


def _first_round(
    race: Race, plan: Plan, rows: Mapping[str, Row], going: Sequence[str], start: Path | None, fates: dict[str, Fate]
) -> list[str]:
    """Train each method shortly, and return those that label-free scores put first, in the order of the portfolio."""
    race.run_each(
        [Training(f"first/{label}", rows[label].entry, plan.rounds[0], start, plan.timing[label]) for label in going]
    )
    ended = [label for label in going if f"first/{label}" in race.results]
    fates.update({label: "first round" if label in ended else "dropped" for label in going})
    if len(ended) <= plan.finalists:
        return ended
    order = rank([race.path(f"first/{label}") for label in ended]).names
    by_path = {str(race.path(f"first/{label}")): label for label in ended}
    best = {by_path[name] for name in order[: plan.finalists]}
    return [label for label in ended if label in best]
