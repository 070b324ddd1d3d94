"""`fercore adapt`: data and a time in, a model that can be trusted out, with a report and a table of what was tried."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fercore.adaptation import ship
from fercore.adaptation.budget import Budget
from fercore.adaptation.look import Data, Faces, look, target_features, task_features
from fercore.adaptation.plan import Plan, Timing, lay_out
from fercore.adaptation.portfolio import Row, fitting, portfolio
from fercore.adaptation.race import AS_IT_IS, HELD_OUT, PROBE_STEPS, Observe, Race
from fercore.adaptation.state import RECORD, SCHEMA, STATE, Fate, Record, State, Tried, read_state, write_state
from fercore.arguments import Request
from fercore.config.presets import preset_settings
from fercore.data.spec import DomainSpec
from fercore.decisions.ranking import rank
from fercore.errors import UserInputError
from fercore.evaluation.verdict import Verdict
from fercore.experiments.cells import Entry
from fercore.files import read_text
from fercore.prediction.predictor import Predictor, load_predictor
from fercore.runs.folder import versions
from fercore.stopping import Interrupted, number_of
from fercore.writing import is_unused, make_parents, write_json, writing

LOCK = "adapt.lock"
FIRST, REFERENCE, SOURCE_MODEL = AS_IT_IS, "source_only", "source_model"
"""Rows that every adaptation has: the model as it is, training on without adapting, and what both start from."""

MakeRequest = Callable[[Sequence[DomainSpec], DomainSpec], Request]
"""From the data, as they are trained on, to layers of settings and the preset."""


@dataclass(frozen=True)
class Asked:
    """What is asked of an adaptation.

    Attributes:
        sources, target: datasets as they were given. init: a trained model instead of sources, or beside them.
        seconds: to spend. seed: of all runs. methods: labels of the portfolio's rows; none = those that suit.
        faces: see `look`. labels: images to ask for where it is unclear; 0 = none. report_faces: whether face images
            are in the report. settings: what else was given, as JSON values, by which a folder is known again.
    """

    sources: tuple[DomainSpec, ...]
    target: DomainSpec
    init: str | None
    seconds: float
    seed: int
    methods: tuple[str, ...]
    faces: Faces
    labels: int
    report_faces: bool
    settings: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return what must be the same for an adaptation to go on; time and labels may be others."""
        return {
            "sources": [spec.absolute().text for spec in self.sources],
            "target": self.target.absolute().text,
            "init": self.init,
            "seed": self.seed,
            "methods": list(self.methods),
            "faces": self.faces,
            "settings": dict(self.settings),
        }


def adapt(
    asked: Asked, folder: Path, request: MakeRequest, observe: Observe, tell: Callable[[str], None], *, only_plan: bool
) -> Record | None:
    """Adapt inside a budget, and ship a model; called again on the same folder it goes on where it stopped.

    Args:
        asked: what is wanted. folder: new, or one of an adaptation that was asked for the same. request: makes the
            settings. observe: makes what hears of each run; importable. tell: hears lines for people.
        only_plan: lay out the plan, tell it, and train no further; None is returned then.

    Raises:
        UserInputError: for data or settings that cannot be used, or no time for even the reference.
        Interrupted: for a signal; says how to go on.
    """
    make_parents(folder / STATE)
    folder.mkdir(exist_ok=True)
    with _locked(folder):
        state = _open(asked, folder)
        try:
            with Budget(asked.seconds, folder) as budget:
                data = _data(asked, folder, state, tell)
                race = _race(asked, folder, state, data, request(data.sources, data.target), budget, observe, tell)
                plan, rows = _plan(asked, race, data, tell)
                if only_plan:
                    return None
                return _finish(asked, race, data, plan, *_run(race, plan, rows), tell)
        except KeyboardInterrupt as stop:
            again = f"interrupted; the same command with --out {shlex.quote(str(folder))} goes on"
            raise Interrupted(number_of(stop), again) from None


@dataclass(frozen=True)
class Adaptation:
    """What an adaptation came to.

    Attributes:
        path: its folder. record: the contents of adaptation.json.
    """

    path: Path
    record: Record

    @property
    def model(self) -> Predictor:
        """The model that is shipped: an adapted one, or the one that there was."""
        return load_predictor(self.path / ship.MODEL_NAME)

    @property
    def verdict(self) -> Verdict | None:
        """Of the best adapted model against the one that it started from; None where there is none."""
        if self.record.verdict is None:
            return None
        given = {key: value for key, value in self.record.verdict.items() if key != "schema"}
        return Verdict(**{**given, "interval": tuple(given["interval"])})

    @property
    def report(self) -> Path | None:
        """The HTML file; None where its packages are missing."""
        name = self.record.files.get("report")
        return None if name is None else self.path / name

    def table(self) -> tuple[tuple[str, ...], list[list[str]]]:
        """Return head and rows of what was trained, as text; scores by labels choose nothing."""
        rows = [row for row in self.record.tried if row.plugins]
        scored = any(row.accuracy is not None for row in rows)
        head = ("method", "what became of it", "steps", "mean rank", "agrees with the start")
        text = [
            [
                row.label,
                row.fate,
                str(row.steps),
                "–" if row.mean_rank is None else f"{row.mean_rank:.1f}",
                "–" if row.agreement is None else f"{row.agreement:.0%}",
                *([_points(row.accuracy), _points(row.balanced_accuracy)] if scored else []),
            ]
            for row in rows
        ]
        return (*head, *(("accuracy", "balanced") if scored else ())), text

    def not_trained(self) -> list[str]:
        """Return a line on each row of the portfolio that was not trained to its end: what came in the way."""
        return [f"{row.label}: {row.why}" for row in self.record.tried if row.why]


def _points(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / LOCK)
    with writing(folder / LOCK):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            what, fix = "another process is at work in that adaptation", "wait for it, or stop it"
            raise UserInputError(what, where=str(folder), fix=fix) from None
    try:
        yield
    finally:
        lock.release()


def _open(asked: Asked, folder: Path) -> State:
    """Return the state in a folder, a new one where there is none.

    Raises:
        UserInputError: if the folder holds something else, or an adaptation that was asked for something else.
    """
    state, wanted = read_state(folder), asked.to_json()
    # Data that could not be read leave nothing to go on with: they may be named anew.
    if state is not None and state.target is None:
        state = State(request=wanted)
        write_state(folder, state)
    if state is None:
        others = [path.name for path in folder.iterdir() if path.name not in (LOCK, "spent.json")]
        if others and not is_unused(folder):
            raise UserInputError("output folder is not empty", where=str(folder), fix="choose another --out")
        state = State(request=wanted)
        write_state(folder, state)
        return state
    if changed := [key for key, value in wanted.items() if state.request.get(key) != value]:
        what = f"folder holds an adaptation that was asked for otherwise: {', '.join(changed)}"
        raise UserInputError(what, where=str(folder), fix="give the same again, or choose another --out")
    return state


def _data(asked: Asked, folder: Path, state: State, tell: Callable[[str], None]) -> Data:
    """Look at the data, once."""
    if state.target is None:
        data = look(asked.sources, asked.target, folder / "data", asked.faces, tell)
        state.sources, state.target = list(data.sources), data.target
        state.copies, state.notes = data.copies, list(data.notes)
        write_state(folder, state)
    for line in state.notes:
        tell(line)
    assert state.target is not None
    return Data(tuple(state.sources), state.target, state.copies, tuple(state.notes))


def _race(
    asked: Asked,
    folder: Path,
    state: State,
    data: Data,
    request: Request,
    budget: Budget,
    observe: Observe,
    tell: Callable[[str], None],
) -> Race:
    common: dict[str, Any] = {"report": {"tensorboard": False}}
    if data.sources:
        common["data"] = {"class_balanced": True, "source_validation": HELD_OUT}
    tell(f"preset {request.preset}: {request.why}")
    return Race(
        folder, [common, *request.layers], request.preset, asked.seed, bool(data.sources), budget, state, observe, tell
    )


def _plan(asked: Asked, race: Race, data: Data, tell: Callable[[str], None]) -> tuple[Plan, dict[str, Row]]:
    """Take a few steps of each method that suits the task, and share out the time; once for a folder."""
    every = {row.label: row for row in portfolio()}
    trains_source = bool(data.sources) and asked.init is None
    start: Path | None = None
    if trains_source:
        race.probe(REFERENCE, _entry(REFERENCE), start=None, must=True)
        start = race.path(f"probe/{REFERENCE}")
    else:
        race.probe(FIRST, _entry(FIRST), start=None, must=True)
    if (plan := race.state.plan) is None:
        probed = REFERENCE if trains_source else FIRST
        first = race.run(f"probe/{probed}", _entry(probed), PROBE_STEPS, must=True)
        assert first is not None
        units = bool(_setting(race, "data", "au")) or "au" in data.target.options
        features = task_features(data, first, units=units)
        race.state.features = sorted(features)
        if data.sources and not trains_source:
            race.probe(REFERENCE, _entry(REFERENCE), start=None, must=True)
        if trains_source:
            race.probe(FIRST, _entry(FIRST), start=start, must=True)
        rows, left = fitting(list(every.values()), features, asked.methods)
        timing: dict[str, Timing] = dict(race.state.timing)
        for row in rows:
            if (took := race.probe(row.label, row.entry, start=start)) is None:
                left[row.label] = race.state.dropped[f"probe/{row.label}"]
            else:
                timing[row.label] = took
        rows = [row for row in rows if row.label in timing]
        if why := _nothing_to_tell(data, first.target.n_adaptation):
            left.update({row.label: why for row in rows})
            rows = []
        plan = lay_out(
            [row.label for row in rows], left, timing,
            first=FIRST, reference=REFERENCE if data.sources else "", trains_source=trains_source,
            total=asked.seconds, spent=race.budget.spent,
        )  # fmt: skip
        race.state.plan = plan
        write_state(race.folder, race.state)
    for line in plan.lines(REFERENCE if data.sources else ""):
        tell(line)
    race.reserve = plan.reserve
    return plan, {label: every[label] for label in plan.rows}


def _nothing_to_tell(data: Data, n: int) -> str:
    """Say why nothing could be told of a model adapted to n images of these data; "" if something can be."""
    if not ship.enough(n):
        return "the target is too small to tell whether it helps"
    return "most of the target stands in a source" if 2 * data.copies > n else ""


def _run(race: Race, plan: Plan, rows: Mapping[str, Row]) -> tuple[str, str, list[str], dict[str, Fate]]:
    """Train the source model, then the methods in rounds; return the names of the first, reference and last runs.

    The model as it is and the reference come before the methods of a round: whatever the time, there is one to ship.
    """
    start: Path | None = None
    if plan.source_steps:
        race.run(SOURCE_MODEL, _entry(REFERENCE), plan.source_steps, must=True)
        start = race.path(SOURCE_MODEL)
    as_it_is = race.run(FIRST, _entry(FIRST), plan.rounds[-1], start=start, must=True)
    assert as_it_is is not None
    found, words = target_features(as_it_is)
    for line in words:
        race.tell(line)
    fates: dict[str, Fate] = {}
    going = []
    for label, row in rows.items():
        if reason := row.fault({*race.state.features, *found}):
            race.state.dropped.setdefault(f"last/{label}", reason)
            fates[label] = "left out"
        else:
            going.append(label)
    reference, beside = "", {"report": {"reference": str(race.path(FIRST))}}
    if race.sources:
        race.run(f"last/{REFERENCE}", _entry(REFERENCE), plan.rounds[-1], start=start, more=beside, must=True)
        reference = f"last/{REFERENCE}"
    if len(plan.rounds) > 1 and len(going) > plan.finalists:
        going = _first_round(race, plan, rows, going, start, fates)
    finalists = []
    for label in going:
        done = race.run(
            f"last/{label}", rows[label].entry, plan.rounds[-1], start=start, timing=plan.timing[label], more=beside
        )
        fates[label] = "dropped" if done is None else "finalist"
        finalists += [] if done is None else [f"last/{label}"]
    return FIRST, reference, finalists, fates


def _first_round(
    race: Race, plan: Plan, rows: Mapping[str, Row], going: Sequence[str], start: Path | None, fates: dict[str, Fate]
) -> list[str]:
    """Train each method shortly, and return those that label-free scores put first, in the order of the portfolio."""
    ended = []
    for label in going:
        done = race.run(f"first/{label}", rows[label].entry, plan.rounds[0], start=start, timing=plan.timing[label])
        fates[label] = "dropped" if done is None else "first round"
        ended += [] if done is None else [label]
    if len(ended) <= plan.finalists:
        return ended
    order = rank([race.path(f"first/{label}") for label in ended]).names
    by_path = {str(race.path(f"first/{label}")): label for label in ended}
    best = {by_path[name] for name in order[: plan.finalists]}
    return [label for label in ended if label in best]


def _finish(
    asked: Asked,
    race: Race,
    data: Data,
    plan: Plan,
    first: str,
    reference: str,
    finalists: list[str],
    fates: dict[str, Fate],
    tell: Callable[[str], None],
) -> Record:
    """Choose, calibrate, write what leaves the folder, and say what was done."""
    csv = race.folder / ship.ASK / "labels.csv"
    choice = ship.choose(first, reference, finalists, race.path, csv if _filled(csv) else None)
    asks = asked.labels and choice.best is not None and choice.verdict is not None and not choice.verdict.labels_used
    waiting: Path | None = None
    if asks and choice.verdict is not None and choice.verdict.verdict == "unclear" and choice.best is not None:
        waiting = ship.ask_for(first, choice.best, race.path, race.folder, asked.labels)
    tell(choice.why)
    run = _calibrated(race, choice.name)
    model = ship.copy_model(run, race.folder)
    files, missing = ship.write_files(race.path(choice.name), model, race.folder, faces=asked.report_faces)
    for line in missing:
        tell(line)
    label = choice.name.rpartition("/")[2]
    if choice.adapted:
        fates[label] = "shipped"
    record = Record(
        schema_version=SCHEMA,
        shipped=label,
        adapted=choice.adapted,
        why=choice.why,
        verdict=None if choice.verdict is None else choice.verdict.to_json(),
        beyond_training=None if choice.beyond_training is None else choice.beyond_training.to_json(),
        tried=list(_tried(race, plan, choice, reference, fates)),
        notes=[*data.notes, *missing],
        asked=None if waiting is None else str(waiting),
        files=files,
        seed=asked.seed,
        n_target=race.results[first].target.n_adaptation,
        seconds=race.budget.spent,
        budget=asked.seconds,
        versions=versions(),
    )
    write_json(race.folder / RECORD, record.model_dump(mode="json"))
    return record


def _calibrated(race: Race, name: str) -> Path:
    """Return the run whose model is shipped: calibrated on held-out source, where there is one, without training."""
    if not race.sources:
        return race.path(name)
    more = {"predict": {"calibrate": True}}
    race.run(f"shipped/{name.rpartition('/')[2]}", _entry(FIRST), 1, start=race.path(name), more=more, must=True)
    return race.path(f"shipped/{name.rpartition('/')[2]}")


def _tried(race: Race, plan: Plan, choice: ship.Choice, reference: str, fates: Mapping[str, Fate]) -> Iterator[Tried]:
    """Yield a row for each that was trained, was to be, or was left out."""
    yield _row(race, FIRST, FIRST, "reference" if choice.adapted else "shipped", choice)
    if reference:
        yield _row(race, REFERENCE, reference, "reference", choice)
    for label in plan.rows:
        name = next((f"{where}/{label}" for where in ("last", "first") if f"{where}/{label}" in race.results), "")
        yield _row(race, label, name, fates.get(label, "left out"), choice)
    for label, why in plan.left.items():
        yield Tried(label=label, plugins=[], fate="left out", why=why)


def _row(race: Race, label: str, name: str, fate: Fate, choice: ship.Choice) -> Tried:
    why = next((why for run, why in race.state.dropped.items() if run.partition("/")[2] == label), "")
    if not name:
        return Tried(label=label, plugins=[], fate=fate, why=why)
    result = race.results[name]
    trained = result.steps if name != FIRST else 0  # a pass over the target counts as steps, and trains nothing
    return Tried(
        label=label,
        plugins=list(result.plugins),
        fate=fate,
        why=why,
        mean_rank=choice.ranks.get(name),
        steps=trained,
        seconds=result.train_seconds,
        agreement=ship.agreement(race.path(FIRST), race.path(name)),
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


def _entry(name: str) -> Entry:
    return Entry(name, (name,), {})


def _setting(race: Race, section: str, key: str) -> Any:
    """Return the last value that layers of settings give; None if none does."""
    layers = [preset_settings(race.preset), *race.layers]
    return next((layer[section][key] for layer in reversed(layers) if key in layer.get(section, {})), None)
