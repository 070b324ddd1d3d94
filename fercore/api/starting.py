"""From the arguments of a run to one that is ready to train, in this process or in several."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fercore.api.arguments import Observe, PathLike, listed, path_or_none, text_or_none
from fercore.arguments import Assignments, names_of, new_folder, only_longer, reopen, request_of
from fercore.engine.observer import Observer
from fercore.errors import UserInputError
from fercore.hooks.discovery import check_early
from fercore.processes import first_here, speaks, started
from fercore.terminal import counted

if TYPE_CHECKING:
    from fercore.engine.setup import RunContext
    from fercore.hooks.assemble import ResolvedRun

SPREAD = ("devices", "num_nodes", "strategy")
"""Arguments that a run may be resumed with other values of."""


@dataclass(frozen=True)
class Asked:
    """What arguments ask for: settings and plugins, where it is written, and who hears of it."""

    resolved: ResolvedRun
    folder: Path
    observer: Observer
    layers: Sequence[Mapping[str, Any]]
    resumes: bool

    @property
    def alone_among_many(self) -> bool:
        """Whether the run is to have several processes, and this one has yet to start them."""
        config = self.resolved.config
        return config.devices * config.num_nodes > 1 and started() is None


@dataclass(frozen=True)
class Prepared:
    """A run that is built, where it is written, who hears of it, and the settings that were asked for."""

    context: RunContext
    folder: Path
    observer: Observer
    layers: Sequence[Mapping[str, Any]] = ()


def ask_for(
    plugin: str | Sequence[str],
    assignments: Assignments,
    resume: PathLike | None,
    observe: Observe,
    given: Mapping[str, Any],
    *,
    with_reference: bool = False,
    train_source: bool = True,
) -> Asked:
    """Check what is asked for, before anything heavy is imported."""
    names = names_of(plugin)
    layers: list[dict[str, Any]] = []
    if resume is not None:
        others = {name: value for name, value in given.items() if name not in SPREAD}
        if names or with_reference or any(value or value == 0 for value in others.values()):
            raise only_longer()
        folder, spread = Path(resume), {name: given[name] for name in SPREAD if given.get(name) is not None}
        known = dict(assignments) if isinstance(assignments, Mapping) else assignments
        both = {**known, **spread} if isinstance(known, dict) else [*known, *(f"{k}={v}" for k, v in spread.items())]
        resolved = reopen(folder, both)
        observer = _heard("+".join(info.name for info in resolved.infos), observe)
    else:
        paths = {name: path_or_none(given[name]) for name in ("data_root", "config")}
        # Where a run is written is no setting of it.
        kept = {name: value for name, value in given.items() if name not in ("out", "pretrain_source")}
        kept["init"] = text_or_none(given["init"])
        request = request_of(**{**kept, **paths, "source": listed(given["source"])}, assignments=assignments)
        observer = _heard("+".join(names), observe)
        if speaks():  # processes that a call starts leave it to the one that did
            observer.message(f"preset {request.preset}: {request.why}")
        check_early(names, request.layers, preset=request.preset)
        from fercore.hooks.assemble import assemble

        folder, layers = path_or_none(given["out"]) or new_folder(names), request.layers
        if given["pretrain_source"] is not None:
            _refuse_source_model(layers)
            from fercore.experiments.source_model import with_source_model
            from fercore.runs.folder import RunFolder

            RunFolder(folder).refuse_if_taken()
            layers, line = with_source_model(
                layers, names, given["pretrain_source"], preset=request.preset, out=folder, observe=observe,
                train=train_source,
            )  # fmt: skip
            observer.message(line)
        if with_reference:
            from fercore.experiments.reference import reference_of, refuse_reference

            refuse_reference(names, layers)
        named = [{"report": {"reference": str(reference_of(folder))}}] if with_reference else []
        resolved = assemble(names, [*layers, *named], preset=request.preset)
    asked = Asked(_as_started(resolved), folder, observer, layers, resume is not None)
    if with_reference and (asked.alone_among_many or started() is not None):
        fix = "train source_only by itself, and give it as report.reference"
        raise UserInputError("a reference is trained beside a run of one process", where="--with-reference", fix=fix)
    return asked


def _refuse_source_model(layers: Sequence[Mapping[str, Any]]) -> None:
    """Make sure that one process trains the model to start from, and no several at once.

    Raises:
        UserInputError: for a run of several processes.
    """
    asked = [layer.get(name, 1) != 1 for layer in layers for name in ("devices", "num_nodes")]
    if any(asked) or started() is not None:
        fix = "train source_only by itself, and give it as --init"
        raise UserInputError(
            "a source model is trained before a run of one process", where="--pretrain-source", fix=fix
        )


def _heard(label: str, observe: Observe) -> Observer:
    """Return who hears of a run; of several processes the first one's alone."""
    return observe(label) if first_here() else Observer()


def _as_started(resolved: ResolvedRun) -> ResolvedRun:
    """Return the run with as many processes as a launcher has started, where nobody says how many it should be."""
    here, config = started(), resolved.config
    if here is None or config.devices * config.num_nodes > 1:
        return resolved
    return with_devices(resolved, here.local_world, here.world // here.local_world)


def with_devices(resolved: ResolvedRun, devices: int, num_nodes: int) -> ResolvedRun:
    """Return the run with so many processes on so many machines."""
    config = resolved.config.model_copy(update={"devices": devices, "num_nodes": num_nodes})
    return replace(resolved, config=config)


def prepare(asked: Asked) -> Prepared:
    """Build what a run needs, or one that goes on."""
    from fercore.engine.setup import build_context
    from fercore.runs.folder import RunFolder

    folder = RunFolder(asked.folder)
    if not asked.resumes and first_here():
        # Before the data are read: a taken folder is told at once.
        folder.refuse_if_taken()
    context = build_context(asked.resolved, label_file=folder.label_file if asked.resumes else None)
    # Each process may have called a new folder otherwise, by its time.
    return Prepared(context, context.processes.from_first(asked.folder), asked.observer, asked.layers)


def train_together(
    plugin: str | Sequence[str],
    assignments: Assignments,
    resume: PathLike | None,
    observe: Observe,
    given: Mapping[str, Any],
    asked: Asked,
    train: Callable[..., object],
) -> None:
    """Train in processes that this call starts, each of which makes the call again.

    Args:
        train: `fercore.train`, importable. The others: as it was called with, and what they ask for.
    """
    from fercore.engine.setup import device_here
    from fercore.engine.several import places_here, refuse_many_devices
    from fercore.isolation import group

    config = asked.resolved.config
    refuse_many_devices(config.model_copy(update={"device": device_here(config.device)}))
    if not asked.resumes:
        from fercore.runs.folder import RunFolder

        RunFolder(asked.folder).refuse_if_taken()
        given = {**given, "out": asked.folder}
    call = partial(_train_here, train, plugin, assignments, resume, observe, dict(given))
    group(call, places_here(config))


def _train_here(
    train: Callable[..., object],
    plugin: str | Sequence[str],
    assignments: Assignments,
    resume: PathLike | None,
    observe: Observe,
    given: dict[str, Any],
) -> None:
    if not first_here():
        logging.lastResort = None
    train(plugin, set=assignments, resume=resume, observe=observe, **given)


def protocol_lines(context: RunContext) -> list[str]:
    """Return a line if the test part has another size than the run's protocol says."""
    if context.config.protocol is None:
        return []
    from fercore.datasets.protocols import load_protocol

    n, said = len(context.domains.test), load_protocol(context.config.protocol).n_test
    return (
        [f"protocol {context.config.protocol}: {counted(n, 'test image')}, not {said}"] if said not in (None, n) else []
    )


@contextmanager
def starting() -> Iterator[None]:
    """Look for garbage seldom while modules are imported and data is loaded: what they make stays.

    The search would take a sixth of the start. Training has the usual one again, as its garbage may hold tensors.
    """
    before = gc.get_threshold()
    gc.set_threshold(20_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
