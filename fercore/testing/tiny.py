"""A run of seconds on generated faces: settings, its parts, its first batch, and one that is trained."""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fercore.arguments import names_of
from fercore.config import merge, nested
from fercore.engine.initial import with_initial
from fercore.engine.observer import Observer
from fercore.engine.run import run
from fercore.engine.setup import RunContext, build_context
from fercore.hooks.assemble import assemble
from fercore.hooks.checks import check_class
from fercore.hooks.discovery import find_plugin, installed_plugins, load_class

if TYPE_CHECKING:
    from fercore.api import Run
    from fercore.hooks import Plugin
    from fercore.models import Model
    from fercore.records.plan import StepReport
    from fercore.records.result import Score, Scores
    from fercore.records.step import Batch, Encoded, LossTerm, Progress, PseudoLabels, Side

TINY: dict[str, Any] = {
    "seed": 3,
    "device": "cpu",
    "data": {
        "sources": ["synthfer:studio?n=84", "synthfer:web?n=84&seed=1"],
        "target": "synthfer:wild?n=112&seed=2",
        "size": 32,
        "source_batch": 28,
        "target_batch": 14,
        "eval_batch": 64,
        "augment": "light",
    },
    "model": {"backbone": "resnet18", "backbone_args": {"resnet18": {"channels": [8, 8, 8, 8]}}},
    "train": {"steps": 6, "steps_per_epoch": 4, "checkpoint_every": 3, "log_every": 1, "threads": 1},
    "report": {"tensorboard": False},
}
"""Settings: two sources, seven classes, six steps over two epochs, a network of thousands of weights."""


def layer_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by dotted name, as `fercore.train(set=...)` takes them, as a nested layer."""
    layer: dict[str, Any] = {}
    for name, value in settings.items():
        layer = merge(layer, nested(name, value))
    return layer


def tiny_context(names: Sequence[str], layers: Sequence[Mapping[str, Any]] = (), preset: str = "demo") -> RunContext:
    """Build a run of named plugins with the tiny settings and more layers; nothing of it is trained or written.

    Where none of them needs a source there is none, and the run starts from `tiny_model`.

    Raises:
        UserInputError: for whatever is wrong with the plugins or their settings.
    """
    given: list[Mapping[str, Any]] = [TINY, *layers]
    known = installed_plugins()
    if not any(check_class(load_class(find_plugin(name, known)), name).needs_source for name in names):
        alone = {"data": {"sources": []}, "model": {"init": str(tiny_model())}}
        own = {key: value for key, value in TINY.items() if key != "model"}
        given = [*with_initial([own, alone, *map(dict, layers)])]
    return build_context(assemble(names, given, preset=preset))


@cache
def tiny_model() -> Path:
    """Train a model on the tiny settings, once a process, in a folder that goes with the process."""
    folder = tempfile.TemporaryDirectory(prefix="fercore-tiny-")
    atexit.register(folder.cleanup)
    layer = {"train": {"steps": 40, "checkpoint_every": 40}}  # fewer, and it tells no two classes apart
    run(build_context(assemble(["source_only"], [TINY, layer])), Path(folder.name) / "run", Observer())
    return Path(folder.name) / "run" / "model"


class Listener(Observer):
    """Remembers what a run said; may stop it after some batches, as a kill would.

    Attributes:
        messages, reports, scores: of the run so far.
    """

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.messages: list[str] = []
        self.reports: list[StepReport] = []
        self.scores: list[tuple[int, Scores]] = []

    def message(self, text: str) -> None:
        """Remember a line."""
        self.messages.append(text)

    def step(self, report: StepReport, done: int) -> None:
        """Remember a report.

        Raises:
            KeyboardInterrupt: after the batch at which it was told to stop.
        """
        self.reports.append(report)
        if done == self.stop_after:
            raise KeyboardInterrupt

    def evaluated(self, scores: Scores, primary_metric: Score, done: int) -> None:
        """Remember scores."""
        self.scores.append((done, scores))


def tiny_run(plugin: str, folder: Path, settings: Mapping[str, Any] | None = None) -> Run:
    """Train "METHOD[+ADDON...]" with the tiny settings and return the finished run.

    Args:
        plugin: names, as --plugin takes them. folder: where it goes; nothing may stand there.
        settings: dotted name -> value, laid on top.

    Raises:
        UserInputError: for wrong plugins or settings.
    """
    from fercore import api

    run(tiny_context(names_of(plugin), [layer_of(settings or {})]), folder, Observer())
    return api.open_run(folder)


@dataclass(frozen=True)
class TinyStep:
    """The first batch of a run, with all that its hooks get.

    Attributes:
        plugins: the plugin objects, in order. model, batch, encoded, pseudo, clock: what `align` and `loss` get.
        terms: what all of them answered, by name.
    """

    plugins: tuple[Plugin, ...]
    model: Model
    batch: Batch
    encoded: Mapping[tuple[Side, str], Encoded]
    pseudo: PseudoLabels | None
    clock: Progress
    terms: Mapping[str, LossTerm]


def tiny_step(plugin: str, settings: Mapping[str, Any] | None = None) -> TinyStep:
    """Build "METHOD[+ADDON...]" with the tiny settings and take its first batch up to the loss; no weight changes.

    `refresh` is not called: what it fills is as `build_model` left it.

    Raises:
        UserInputError: for wrong plugins or settings. HookError: for a wrong answer of a hook.
    """
    import torch

    from fercore.records.step import Progress

    context = tiny_context(names_of(plugin), [layer_of(settings or {})])
    stage, hooks, model = context.stages[0], context.plugins, context.model
    batch = next(context.loader(stage))
    clock = Progress(stage.name, stage.first_phase, 0, 0, stage.steps)
    encoded = {
        (view.side, view.name): hooks.encode(model, batch.side(view.side), view.name, clock, view.side, "train")
        for view in context.views_of(stage)
    }
    with torch.no_grad():
        pseudo = hooks.pseudo_label(model, batch, encoded, clock)
    answered = hooks.align(model, batch, encoded, pseudo, clock) + hooks.loss(model, batch, encoded, pseudo, clock)
    terms = {term.name: term for term in answered}
    return TinyStep(context.resolved.plugins, model, batch, encoded, pseudo, clock, terms)
