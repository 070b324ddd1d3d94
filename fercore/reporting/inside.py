"""What only the data and the networks tell: true classes of the target, faces, features before and after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fercore.errors import UserInputError
from fercore.evaluation.metrics import Sums, number_units, sums_of
from fercore.reporting.collect import RunFiles
from fercore.runs.predictions import AGAIN, as_written
from fercore.terminal import without_notices

if TYPE_CHECKING:
    from fercore.data import Table
    from fercore.engine.setup import RunContext
    from fercore.models import Model
    from fercore.records.step import Progress


@dataclass(frozen=True)
class Features:
    """Some images of both sides in the space of one network's features, all branches side by side.

    Attributes:
        source: float[N,D], N = 0 for a run on the target alone. target: float[M,D].
    """

    source: np.ndarray
    target: np.ndarray


@dataclass(frozen=True, eq=False)
class Inside:
    """A run's data and what its networks make of them.

    Attributes:
        test: the target's test part, with the labels it has. probs: float[N,K] of it, as predictions.csv says.
        source_names: of the sources. unit_shares: domain -> share of its images that show each action unit.
        units: names of the action units. before: the network that training began with. after: the reported one.
        drawn_source, drawn_target: rows of the joined sources and of `test` that the features are of.
        source_labels, source_domain: int64, of `drawn_source`.
    """

    test: Table
    probs: np.ndarray
    source_names: tuple[str, ...]
    source_labels: np.ndarray
    source_domain: np.ndarray
    drawn_target: np.ndarray
    before: Features
    after: Features
    units: tuple[str, ...] = ()
    unit_shares: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def labels(self) -> np.ndarray:
        """int64[N], true classes of the test part; -1 = unknown."""
        return self.test.labels

    def sums(self) -> tuple[Sums, str] | None:
        """Return what scores of the labelled test part are made of, and what its units are; None without labels."""
        known = self.labels >= 0
        if not known.any():
            return None
        units, word = number_units([self.test.subjects[i] for i in np.flatnonzero(known).tolist()])
        return sums_of(self.probs[known], self.labels[known], units), word


def look_inside(run: RunFiles, most: int) -> Inside:
    """Open a run's data, and take some images of both sides through its network before and after training.

    Args:
        run: the run. most: images of each side whose features are worked out.

    Raises:
        UserInputError: if the data or packages are no longer there, or not those of the run.
    """
    from fercore.data import side_table
    from fercore.engine.memory_format import as_recorded
    from fercore.engine.model_record import read_state
    from fercore.engine.resume import check_same_data
    from fercore.engine.setup import build_context
    from fercore.hooks.assemble import assemble
    from fercore.random_state import random_state, restore_random_state
    from fercore.records.step import Progress

    # The preset is given by its name below, and is no setting among others.
    settings = {name: value for name, value in run.settings.items() if name != "preset"}
    # Nothing is trained: where and how fast the network runs is this machine's to choose.
    here = {"device": "auto", "devices": 1, "num_nodes": 1, "train": {"compile": False, "threads": None}}
    names = list(run.folder.plugin_versions())
    # Building a network draws from the generators, and whoever asks for a report may be in the middle of a run.
    state = random_state()
    try:
        resolved = as_recorded(assemble(names, [settings, here], preset=run.config.preset), run.settings)
        _refuse_other_plugins(run, resolved.versions)
        with without_notices():
            context = build_context(resolved, label_file=run.folder.label_file)
        domains = context.domains
        check_same_data(run.folder, context.fingerprint())
        if list(domains.classes) != run.classes:
            raise UserInputError("the classes of the data are not those of the result", where=str(run.path), fix=AGAIN)
        joined, test = side_table(domains, "source"), domains.test
        source, target = (joined.subset(_some(len(joined), most)), _some(len(test), most))
        first = context.stages[0]
        parts = (context, source, test.subset(target))
        # The same seed builds the weights that training began with; reading the model puts the trained ones over them.
        before = _features(context.model, *parts, Progress(first.name, "", 0, 0, first.steps))
        read_state(context.model, context.resolved.plugins, run.folder.model)
        after = _features(context.model, *parts, run.record.evaluation.clock)
    finally:
        restore_random_state(state)
    return Inside(
        test=test,
        probs=_in_order(run, test.keys),
        source_names=tuple(table.name for table in domains.sources),
        source_labels=source.labels,
        source_domain=source.domain,
        drawn_target=target,
        before=before,
        after=after,
        units=domains.au_names,
        unit_shares=_unit_shares(context),
    )


def _refuse_other_plugins(run: RunFiles, here: Mapping[str, str]) -> None:
    """Make sure that the plugins are those of the run; of other packages a digit may differ, and nothing is trained."""
    for name, was in run.folder.plugin_versions().items():
        if here.get(name) != was:
            what = f"the run was made with {name} ({was}), now there is {name} ({here.get(name)})"
            raise UserInputError(what, where=str(run.path), fix=f"pip install {was.replace(' ', '==')}")


def _some(n: int, most: int) -> np.ndarray:
    """Return int64, up to `most` of n rows in order, drawn by a fixed seed."""
    return np.sort(np.random.default_rng(0).permutation(n)[:most])


def _features(model: Model, context: RunContext, source: Table, target: Table, clock: Progress) -> Features:
    def features_of(table: Table) -> np.ndarray:
        branches = context.evaluator.predict(model, table, clock).features
        # By name, so that both sides and both networks have the branches in one order.
        return np.concatenate([branches[name].reshape(len(table), -1) for name in sorted(branches)], axis=1)

    theirs = features_of(target)
    return Features(features_of(source) if len(source) else theirs[:0], theirs)


def _in_order(run: RunFiles, keys: Sequence[str]) -> np.ndarray:
    """Return float[N,K], the probabilities that predictions.csv has of the test part's images."""
    rows = run.predictions.of("test")
    at = {name: number for number, name in enumerate(rows.images)}
    written = [as_written(key) for key in keys]
    if missing := [name for name in written if name not in at]:
        what = f"no prediction of {missing[0]} in its predictions.csv"
        raise UserInputError(what, where=str(run.path), fix=AGAIN)
    probs: np.ndarray = rows.probs[[at[name] for name in written]]
    return probs


def _unit_shares(context: RunContext) -> dict[str, np.ndarray]:
    """Return domain -> float[A], the share of its images that show each action unit; empty without any."""
    from fercore.au import CODES

    domains = context.domains
    if not domains.au_names:
        return {}
    tables = [*((table.name, table) for table in domains.sources), (f"{domains.test.name} (target)", domains.test)]
    return {name: np.asarray(table.extras[CODES]).mean(axis=0) for name, table in tables}
