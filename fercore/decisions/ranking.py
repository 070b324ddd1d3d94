"""Ranks runs, checkpoints of a run or rows of a comparison by scores without target labels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fercore.decisions.judging import ASKED, compared, known_labels, read_asked
from fercore.decisions.recorded import aligned, read_recorded, result_of
from fercore.errors import UserInputError
from fercore.evaluation.consensus import Consensus
from fercore.evaluation.selection import AGGREGATE, VALIDATORS, Evidence, aggregate, needs, ranks, score_pool
from fercore.records.result import SCORES, Score
from fercore.runs.folder import RunFolder

COMPARISON = "compare.json"
SEED = re.compile(r"(.+)-s(\d+)")
MEAN_RANK, CHANCE = "aggregate", "chance_of_best"


@dataclass(frozen=True)
class Ranking:
    """Candidates, best first.

    Attributes:
        by: the score that ranks them. names: of the candidates. scores: name of a score -> value of each; NaN = not
            known. oracle: what labels of the target's test part say of each, where that was asked for.
        transductive: whether the candidates were adapted to the test images themselves.
    """

    by: str
    names: tuple[str, ...]
    scores: Mapping[str, np.ndarray]
    oracle: np.ndarray | None
    transductive: bool

    def to_json(self) -> dict[str, Any]:
        """Return the values that `fercore select --json` prints."""
        rows = []
        for at, name in enumerate(self.names):
            told = {key: float(v[at]) if np.isfinite(v[at]) else None for key, v in self.scores.items()}
            row: dict[str, Any] = {"candidate": name, "scores": told}
            if self.oracle is not None:
                row["oracle"] = {"score": float(self.oracle[at]), "uses_target_labels": True}
            rows.append(row)
        return {"schema": 1, "by": self.by, "transductive": self.transductive, "candidates": rows}

    def table(self) -> tuple[tuple[str, ...], list[list[str]]]:
        """Return head and rows as text."""
        shown = [self.by, *(name for name in AGGREGATE if name in self.scores and name != self.by)]
        head = ["candidate", *("mean rank" if name == MEAN_RANK else name for name in shown)]
        if self.oracle is not None:
            head.append("oracle (uses target labels)")
        rows = []
        for at, name in enumerate(self.names):
            cells = [(-1 if key == MEAN_RANK else 1) * self.scores[key][at] for key in shown]
            row = [name, *("–" if np.isnan(cell) else f"{cell:.3f}" for cell in cells)]
            rows.append(row if self.oracle is None else [*row, f"{100 * self.oracle[at]:.1f}"])
        return tuple(head), rows


@dataclass(frozen=True)
class _Group:
    """Candidates that are scored against each other: names, scores, oracle."""

    names: list[str]
    scores: dict[str, np.ndarray]
    oracle: np.ndarray
    transductive: bool


def check_score(name: str) -> None:
    """Make sure that candidates can be ranked by a score, before anything is trained.

    Raises:
        UserInputError: if nobody knows it.
    """
    if name != MEAN_RANK:
        needs(name)


def rank_by_labels(paths: Sequence[Path], labels: Sequence[Path]) -> Ranking:
    """Rank models by the labels that `fercore ask` asked for: the chance of each to be the best (CODA).

    Args:
        paths: of the models, as `fercore.decisions.judging.compared` takes them. labels: CSVs, one a round.

    Raises:
        UserInputError: for one model, labels of other images, or those files that cannot be read.
    """
    if len(paths) < 2:
        raise UserInputError("one candidate: nothing to rank", where=str(paths[0]), fix="give all that were asked for")
    target = read_asked(labels[0].parent / ASKED).target
    comparison = compared(paths, target)
    known = known_labels(labels, comparison.images, comparison.classes)[1]
    consensus = Consensus(np.stack(comparison.probs))
    for image, label in known.items():
        if label < len(comparison.classes):  # NONE_OF_THEM makes no model right
            consensus.learn(image, label)
    chances = consensus.chances()
    order = np.argsort(-chances, kind="stable")
    transductive = target is None and any(result_of(path).target.transductive for path in paths)
    return Ranking(CHANCE, tuple(str(paths[i]) for i in order), {CHANCE: chances[order]}, None, transductive)


def rank(paths: Sequence[Path], *, score: str | None = None, oracle: bool = False) -> Ranking:
    """Rank the checkpoints of one run, several runs, or the rows of a comparison.

    Args:
        paths: a run folder, several, or a folder that `fercore compare` wrote.
        score: a name of `VALIDATORS`; None or "aggregate" = the mean rank over `AGGREGATE`.
        oracle: whether to say what target labels would have said.

    Raises:
        UserInputError: for one candidate, a score that is not known of them, or folders that are no runs.
    """
    score = None if score == MEAN_RANK else score
    if score is not None:
        check_score(score)
    groups = _groups(paths, score)
    names = list(dict.fromkeys(name for group in groups for name in group.names))
    if len(names) < 2:
        what = "one candidate: nothing to choose from"
        fix = "give several runs, a folder of `fercore compare`, or a run with train.eval_every"
        raise UserInputError(what, where=", ".join(map(str, paths)), fix=fix)
    for group in groups:
        _add_aggregate(group)
    by = score or MEAN_RANK
    known = sorted({name for group in groups for name in group.scores})
    scores = {name: _means(groups, names, {id(g): g.scores.get(name) for g in groups}) for name in known}
    if by not in scores or np.isnan(scores[by]).all():
        fix = "give the runs train.eval_every, so that they log it (data.source_validation for those of the source)"
        raise UserInputError(f"score {by!r} is not known of these candidates", where="select", fix=fix)
    told = _means(groups, names, {id(g): g.oracle for g in groups}) if oracle else None
    if told is not None and np.isnan(told).any():
        raise UserInputError("no oracle: the target has no labels", where="--oracle", fix="leave it out")
    order = np.argsort(ranks(scores[by]), kind="stable")
    return Ranking(
        by,
        tuple(names[i] for i in order),
        {name: values[order] for name, values in scores.items()},
        None if told is None else told[order],
        any(group.transductive for group in groups),
    )


def _means(groups: Sequence[_Group], names: Sequence[str], values: Mapping[int, np.ndarray | None]) -> np.ndarray:
    """Return the mean of a score over the groups (seeds) for each candidate; NaN where one does not know it."""
    values_of: dict[str, list[float]] = {name: [] for name in names}
    for group in groups:
        own = values[id(group)]
        for at, name in enumerate(group.names):
            values_of[name].append(float("nan") if own is None else float(own[at]))
    return np.array([np.mean(values_of[name]) for name in names])


def _add_aggregate(group: _Group) -> None:
    if any(name in group.scores and not np.isnan(group.scores[name]).all() for name in AGGREGATE):
        group.scores[MEAN_RANK] = aggregate(group.scores)


def _groups(paths: Sequence[Path], score: str | None) -> list[_Group]:
    if len(paths) == 1 and RunFolder(paths[0]).begun:
        return [_checkpoints(paths[0])]
    by_seed: dict[str, list[tuple[str, Path]]] = {}
    for path in paths:
        if (path / COMPARISON).is_file():
            for run in sorted(path.iterdir()):
                if (parts := SEED.fullmatch(run.name)) and RunFolder(run).finished:
                    by_seed.setdefault(parts[2], []).append((parts[1], run))
        else:
            by_seed.setdefault("", []).append((str(path), path))
    return [_runs(members, score) for members in by_seed.values()]


def _runs(members: Sequence[tuple[str, Path]], score: str | None) -> _Group:
    """Score runs by their recorded predictions; what needs more is what they logged at their last evaluation."""
    results = [result_of(run) for _, run in members]
    _, probs = aligned([read_recorded(run) for _, run in members])
    evidence = [Evidence(each) for each in probs]
    simple = [name for name in VALIDATORS.builtin if set(needs(name)) == {"target_probs"}]
    scores = {name: score_pool(name, evidence) for name in dict.fromkeys([*simple, *([score] if score else [])])}
    logged = [_last_logged(run) for _, run in members]
    for name in {key for line in logged for key in line} - set(simple):
        scores[name] = np.array([line.get(name, float("nan")) for line in logged])
    oracle = [_score(result.target.score(result.primary_metric)) for result in results]
    names = [name for name, _ in members]
    return _Group(names, scores, np.array(oracle), any(result.target.transductive for result in results))


def _checkpoints(run: Path) -> _Group:
    """Return the evaluations of a run as candidates."""
    lines = RunFolder(run).logged()
    known = {line["done"]: line for line in lines if line.get("kind") == "selection"}
    tested = {line["done"]: line for line in lines if line.get("kind") == "evaluation"}
    names = sorted({key for line in known.values() for key in line} & set(VALIDATORS))
    scores = {name: np.array([_score(line.get(name)) for line in known.values()]) for name in names}
    metric = _primary_metric(run)
    oracle = np.array([_score(tested.get(done, {}).get(metric)) for done in known])
    transductive = RunFolder(run).finished and result_of(run).target.transductive
    return _Group([f"step {done}" for done in known], scores, oracle, transductive)


def _primary_metric(run: Path) -> Score:
    return result_of(run).primary_metric if RunFolder(run).finished else next(iter(SCORES))


def _last_logged(run: Path) -> dict[str, float]:
    """Return the scores that a run logged of the network it ended with."""
    lines = [line for line in RunFolder(run).logged() if line.get("kind") == "selection"]
    chosen = result_of(run).selection.step
    ends = [line for line in lines if chosen is None or line.get("done") == chosen]
    return {key: _score(value) for key, value in ends[-1].items() if key in VALIDATORS} if ends else {}


def _score(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
