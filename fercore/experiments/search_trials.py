"""The trials of a search as its folder has them: drawn settings, scores and states, and which one is best."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from fercore.errors import UserInputError, reason_of
from fercore.experiments.search_file import ORACLE, SearchFile
from fercore.experiments.study import Study

JOURNAL, NAME = "search.log", "search"
State: TypeAlias = Literal["complete", "pruned", "failed", "begun"]
STATES: Final[Mapping[str, State]] = {
    "COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "begun", "WAITING": "begun"
}  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """One choice of settings.

    Attributes:
        score: mean over pairs and seeds; of a pruned one the last that it had; None = unknown.
        oracle: the same of the target's own score, which is worked out with labels; None = not asked for.
        seconds: of training. reason: why it failed.
    """

    number: int
    state: State
    settings: Mapping[str, Any]
    score: float | None
    oracle: float | None = None
    seconds: float | None = None
    reason: str = ""


def search_package() -> Any:
    """Return the package that searches.

    Raises:
        UserInputError: if it is not installed.
    """
    try:
        package = importlib.import_module("optuna")
    except ImportError as error:
        what = f"a search needs the package optuna ({error})"
        raise UserInputError(what, where="[search]", fix="pip install 'fercore[search]'") from None
    # Its lines on every trial say again what the observer says.
    package.logging.set_verbosity(package.logging.ERROR)
    return package


class Trials:
    """The trials of a study's [search].

    Args:
        study: a study with one.

    Raises:
        UserInputError: if it has none, Optuna is not installed, or the journal of its folder is damaged.
    """

    def __init__(self, study: Study) -> None:
        if study.file.search is None:
            what, fix = "the study has no [search]", "add one to its file, or run it as it is"
            raise UserInputError(what, where=str(study.out), fix=fix)
        self.study, self.file = study, study.file.search
        self.row, self._optuna = study.file.searched.name, search_package()
        self.path = study.out / JOURNAL

    @property
    def uses_target_labels(self) -> bool:
        """Whether the trials are judged by labels of the target."""
        return self.file.objective == ORACLE

    @property
    def objective(self) -> str:
        """The score in words, flagged where it is no score that one could have without labels."""
        return "oracle (chosen on target test labels)" if self.uses_target_labels else self.file.objective

    @property
    def anywhere(self) -> tuple[str, int]:
        """The first pair and seed."""
        return self.study.file.pairs[0].name, self.study.file.seeds[0]

    @cached_property
    def optuna_study(self) -> Any:
        """The record of all trials, as Optuna has it."""
        return open_journal(self.path, self._optuna, self.file)

    def trials(self) -> list[Trial]:
        """Return every trial in the order they were drawn; none before the first run."""
        if not self.path.is_file():
            return []
        return [self._trial(one) for one in self.optuna_study.get_trials(deepcopy=False) if one.params]

    def _trial(self, frozen: Any) -> Trial:
        state, told = STATES[frozen.state.name], frozen.user_attrs
        score = frozen.value if state in ("complete", "pruned") else None
        return Trial(
            frozen.number, state, frozen.params, score, told.get("oracle"), told.get("seconds"), told.get("reason", "")
        )

    @property
    def best(self) -> Trial | None:
        """The complete trial with the highest score, the first of equals; None = there is none yet."""
        done = [trial for trial in self.trials() if trial.state == "complete" and trial.score is not None]
        return max(done, key=lambda trial: (trial.score, -trial.number), default=None)


def open_journal(path: Path, optuna: Any, file: SearchFile) -> Any:
    """Return the record in a journal, begun if it is not there.

    Raises:
        UserInputError: if it is damaged.
    """
    try:
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
        parts = {"storage": storage, "pruner": _pruner(optuna, file), "sampler": optuna.samplers.RandomSampler()}
        if any(one.study_name == NAME for one in storage.get_all_studies()):
            return optuna.load_study(study_name=NAME, **parts)
        return optuna.create_study(study_name=NAME, direction="maximize", **parts)
    except (ValueError, KeyError, OSError) as error:
        fix = "bring it back as it was, or choose another --out"
        raise UserInputError(f"cannot read the trials: {reason_of(error)}", where=str(path), fix=fix) from None


def _pruner(optuna: Any, file: SearchFile) -> Any:
    if file.pruner == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(n_startup_trials=file.startup)
