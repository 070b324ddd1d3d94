"""`fercore adapt`: data and a time in, a model that can be trusted out, with a report and a table of what was tried."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fercore.adaptation.budget import Budget
from fercore.adaptation.finish import finish
from fercore.adaptation.look import Data, Faces, look
from fercore.adaptation.probe import plan_of
from fercore.adaptation.race import HELD_OUT, Observe, Race
from fercore.adaptation.rounds import run_rounds
from fercore.adaptation.state import STATE, Record, State, read_state, write_state
from fercore.arguments import Request
from fercore.data.spec import DomainSpec
from fercore.errors import UserInputError
from fercore.experiments.executors import Executor, LocalExecutor
from fercore.stopping import Interrupted, number_of
from fercore.writing import is_unused, make_parents, writing

LOCK = "adapt.lock"

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
    asked: Asked,
    folder: Path,
    request: MakeRequest,
    observe: Observe,
    tell: Callable[[str], None],
    *,
    only_plan: bool,
    jobs: int = 1,
    executor: Executor | None = None,
) -> Record | None:
    """Adapt inside a budget, and ship a model; called again on the same folder it goes on where it stopped.

    Args:
        asked: what is wanted. folder: new, or one of an adaptation that was asked for the same. request: makes the
            settings. observe: makes what hears of each run; importable. tell: hears lines for people.
        only_plan: lay out the plan, tell it, and train no further; None is returned then. jobs: methods that train at a
            time. executor: runs them; None = processes of this machine.

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
                settings = request(data.sources, data.target)
                race = _race(asked, folder, state, data, settings, budget, observe, tell, executor, jobs)
                trains_source = bool(data.sources) and asked.init is None
                plan, rows = plan_of(race, data, asked.methods, trains_source=trains_source)
                if only_plan:
                    return None
                ran = run_rounds(race, plan, rows)
                return finish(race, plan, ran, list(data.notes), labels=asked.labels, faces=asked.report_faces)
        except KeyboardInterrupt as stop:
            again = f"interrupted; the same command with --out {shlex.quote(str(folder))} goes on"
            raise Interrupted(number_of(stop), again) from None


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
    executor: Executor | None,
    jobs: int,
) -> Race:
    common: dict[str, Any] = {"report": {"tensorboard": False}}
    if data.sources:
        common["data"] = {"class_balanced": True, "source_validation": HELD_OUT}
    tell(f"preset {request.preset}: {request.why}")
    return Race(
        folder, [common, *request.layers], request.preset, asked.seed, bool(data.sources), budget, state, observe, tell,
        executor or LocalExecutor(jobs), jobs,
    )  # fmt: skip
