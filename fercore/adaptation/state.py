"""What an adaptation's folder says of it, so that a killed one goes on, and what it says in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from pydantic import Field

from fercore.adaptation.plan import Plan, Timing
from fercore.config import Spec
from fercore.documents import Shape, misfit, parse_json
from fercore.errors import UserInputError, reason_of
from fercore.files import read_text
from fercore.writing import write_json

STATE, RECORD = "adapt.json", "adaptation.json"
SCHEMA = 1

Fate: TypeAlias = Literal["shipped", "finalist", "first round", "reference", "dropped", "left out"]
ShapeT = TypeVar("ShapeT", bound=Shape)


class State(Shape):
    """How far an adaptation is.

    Attributes:
        request: what was asked for, as JSON values; it must be the same to go on. sources, target, copies, notes: of
            the data as `look` left them. features: of the task. timing: label -> what its short run took. plan: once
            there is one. dropped: run -> why it did not end.
    """

    request: dict[str, Any]
    sources: list[Spec] = Field(default_factory=list)
    target: Spec | None = None
    copies: int = 0
    notes: list[str] = Field(default_factory=list)
    features: list[str] = Field(default_factory=list)
    timing: dict[str, Timing] = Field(default_factory=dict)
    plan: Plan | None = None
    dropped: dict[str, str] = Field(default_factory=dict)


class Tried(Shape):
    """A row of the table of everything that was tried.

    Attributes:
        fate: what became of it. why: of a fate that is none of its own doing. mean_rank: over label-free scores, among
            the finalists; 1 is best. steps, seconds: trained. planned: steps that it was to have, where its time was
            over before them. agreement: share of the target that it and the model that
            it started from take for the same class. accuracy, balanced_accuracy: by labels of the target's test part,
            where it has some; they choose nothing.
    """

    label: str
    plugins: list[str]
    fate: Fate
    why: str = ""
    mean_rank: float | None = None
    steps: int = 0
    planned: int | None = None
    seconds: float = 0.0
    agreement: float | None = None
    accuracy: float | None = None
    balanced_accuracy: float | None = None


class Record(Shape):
    """The contents of adaptation.json.

    Attributes:
        shipped: label of the row whose model is in `model/`. adapted: whether it is an adapted one. why: in words.
        verdict: of the best adapted model against the one that it started from, as `fercore verdict --json` prints;
            beyond_training: against the reference, which trained on as long without adapting. None = there is none.
        tried: every row. notes: what is to be known of the data. asked: folder of images to label, if any.
        files: what was written, by what it is. seconds: spent. budget: seconds that were given.
    """

    schema_version: int
    shipped: str
    adapted: bool
    why: str
    verdict: dict[str, Any] | None
    beyond_training: dict[str, Any] | None
    tried: list[Tried]
    notes: list[str]
    asked: str | None
    files: dict[str, str]
    seed: int
    n_target: int
    seconds: float
    budget: float
    versions: dict[str, str]


def read_state(folder: Path) -> State | None:
    """Return what a folder says of an adaptation that was begun in it; None if none was.

    Raises:
        UserInputError: if it cannot be read, or is not what one writes.
    """
    return _read(folder / STATE, State)


def write_state(folder: Path, state: State) -> None:
    """Write it, whole."""
    write_json(folder / STATE, state.model_dump(mode="json"))


def read_record(folder: Path) -> Record | None:
    """Return the result of an adaptation; None if it has none yet.

    Raises:
        UserInputError: as `read_state`.
    """
    return _read(folder / RECORD, Record)


def _read(path: Path, kind: type[ShapeT]) -> ShapeT | None:
    fix = "bring it back as it was, or give another --out"
    try:
        values = parse_json(read_text(path), where=str(path))
    except FileNotFoundError:
        return None
    except UserInputError:
        raise
    except (OSError, ValueError) as error:
        raise UserInputError(f"cannot read {path.name}: {reason_of(error)}", where=str(path), fix=fix) from None
    if fault := misfit(values, kind):
        raise UserInputError(f"{path.name} is damaged: {fault}", where=str(path), fix=fix)
    return kind.model_validate(values)
