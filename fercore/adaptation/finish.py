"""The end of an adaptation: which model is shipped, what is written beside it, and the record of what was tried."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fercore.adaptation import ship
from fercore.adaptation.plan import Plan
from fercore.adaptation.race import AS_IT_IS, REFERENCE, Race, Training, entry_of
from fercore.adaptation.rounds import Ran
from fercore.adaptation.state import RECORD, SCHEMA, Fate, Record, Tried
from fercore.files import read_text
from fercore.runs.folder import versions
from fercore.writing import write_json


def finish(race: Race, plan: Plan, ran: Ran, notes: list[str], *, labels: int, faces: bool) -> Record:
    """Choose, calibrate, write what leaves the folder, and say what was done.

    Args:
        notes: on the data. labels: images to ask for where it is unclear; 0 = none. faces: whether face images are in
            the report.

    Raises:
        UserInputError: for labels that cannot be used. WriteError: if a file cannot be written.
    """
    csv = race.folder / ship.ASK / "labels.csv"
    choice = ship.choose(ran.first, ran.reference, ran.finalists, race.path, csv if _filled(csv) else None)
    asks = labels and choice.best is not None and choice.verdict is not None and not choice.verdict.labels_used
    waiting: Path | None = None
    if asks and choice.verdict is not None and choice.verdict.verdict == "unclear" and choice.best is not None:
        waiting = ship.ask_for(ran.first, choice.best, race.path, race.folder, labels)
    race.tell(choice.why)
    run = _calibrated(race, choice.name)
    model = ship.copy_model(run, race.folder)
    files, missing = ship.write_files(race.path(choice.name), model, race.folder, faces=faces)
    for line in missing:
        race.tell(line)
    label = choice.name.rpartition("/")[2]
    if choice.adapted:
        ran.fates[label] = "shipped"
    record = Record(
        schema_version=SCHEMA,
        shipped=label,
        adapted=choice.adapted,
        why=choice.why,
        verdict=None if choice.verdict is None else choice.verdict.to_json(),
        beyond_training=None if choice.beyond_training is None else choice.beyond_training.to_json(),
        tried=list(_tried(race, plan, choice, ran)),
        notes=[*notes, *missing],
        asked=None if waiting is None else str(waiting),
        files=files,
        seed=race.seed,
        n_target=race.results[ran.first].target.n_adaptation,
        seconds=race.budget.spent,
        budget=race.budget.seconds,
        versions=versions(),
    )
    write_json(race.folder / RECORD, record.model_dump(mode="json"))
    return record


def _calibrated(race: Race, name: str) -> Path:
    """Return the run whose model is shipped: calibrated on held-out source, where there is one, without training."""
    if not race.sources:
        return race.path(name)
    more = {"predict": {"calibrate": True}}
    shipped = f"shipped/{name.rpartition('/')[2]}"
    race.run(Training(shipped, entry_of(AS_IT_IS), 1, race.path(name), more=more, must=True))
    return race.path(shipped)


def _tried(race: Race, plan: Plan, choice: ship.Choice, ran: Ran) -> Iterator[Tried]:
    """Yield a row for each that was trained, was to be, or was left out."""
    yield _row(race, AS_IT_IS, ran.first, "reference" if choice.adapted else "shipped", choice)
    if ran.reference:
        yield _row(race, REFERENCE, ran.reference, "reference", choice)
    for label in plan.rows:
        name = next((f"{where}/{label}" for where in ("last", "first") if f"{where}/{label}" in race.results), "")
        yield _row(race, label, name, ran.fates.get(label, "left out"), choice)
    for label, why in plan.left.items():
        yield Tried(label=label, plugins=[], fate="left out", why=why)


def _row(race: Race, label: str, name: str, fate: Fate, choice: ship.Choice) -> Tried:
    why = next((why for run, why in race.state.dropped.items() if run.partition("/")[2] == label), "")
    if not name:
        return Tried(label=label, plugins=[], fate=fate, why=why)
    result = race.results[name]
    trained = result.steps if name != AS_IT_IS else 0  # a pass over the target counts as steps, and trains nothing
    return Tried(
        label=label,
        plugins=list(result.plugins),
        fate=fate,
        why=why,
        mean_rank=choice.ranks.get(name),
        steps=trained,
        planned=result.planned_steps,
        seconds=result.train_seconds,
        agreement=ship.agreement(race.path(AS_IT_IS), race.path(name)),
        accuracy=result.target.accuracy,
        balanced_accuracy=result.target.balanced_accuracy,
    )


def _filled(csv: Path) -> bool:
    """Return whether somebody has put labels into the CSV of images to label."""
    try:
        lines = read_text(csv, "utf-8-sig").splitlines()[1:]
    except OSError:
        return False
    return any(line.rpartition(",")[2].strip(' "') for line in lines)
