"""The plugin manager: one typed method per hook, so that nobody calls the untyped `hook.x(...)`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pluggy
import torch
from torch import Tensor
from torch.utils.data import Sampler

from fercore.errors import UserInputError
from fercore.hooks import specs
from fercore.hooks.checks import (
    BUILTIN,
    HOOKS,
    SIDES,
    TRANSFORMS,
    HookError,
    check_class,
    check_owners,
    expect,
    expect_or_none,
    flatten,
)
from fercore.hooks.markers import PROJECT
from fercore.hooks.plugin import Plugin
from fercore.models.model import Model
from fercore.schedule import CropAndColour, RunResult, Stage, StepReport, ViewRequest
from fercore.types import Batch, Clock, DomainBatch, Encoded, EncodedDataset, Forward, LossTerm, PseudoLabels, Side

if TYPE_CHECKING:
    from fercore.config import RunConfig


@dataclass(frozen=True)
class Link:
    """One implementation in a hook's chain: who, and whether it wraps, owns or is the built-in default."""

    plugin: str
    kind: str


class Plugins:
    """The plugins of one run and their hooks.

    Args:
        builtin: default implementations, registered first and marked trylast.
        plugins: the run's plugins in command-line order; of two wrappers the later is the outer one.
        versions: plugin name -> "distribution version", for notes on errors.

    Raises:
        UserInputError: if two plugins own one first-result hook, or a plugin implements a hook wrongly.
    """

    def __init__(self, builtin: Sequence[object], plugins: Sequence[Plugin], versions: Mapping[str, str]) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(specs)
        self._versions = dict(versions)
        self.names = tuple(plugin.name for plugin in plugins)
        for item in builtin:
            self._manager.register(item, name=f"{BUILTIN}{type(item).__name__}")
        for plugin in plugins:
            check_class(type(plugin), plugin.name)
            self._register(plugin)
        check_owners(self._manager)

    def _register(self, plugin: Plugin) -> None:
        try:
            self._manager.register(plugin, name=plugin.name)
        except (pluggy.PluginValidationError, ValueError) as error:
            raise UserInputError(f"plugin {plugin.name!r} cannot be registered: {error}") from None

    def chain(self) -> dict[str, list[Link]]:
        """Return, for every hook, its implementations in the order in which they are entered."""
        return {hook: [self._link(impl) for impl in reversed(self._impls(hook))] for hook in HOOKS}

    def _impls(self, hook: str) -> list[pluggy.HookImpl]:
        return list(getattr(self._manager.hook, hook).get_hookimpls())

    @staticmethod
    def _link(impl: pluggy.HookImpl) -> Link:
        builtin = impl.plugin_name.startswith(BUILTIN)
        return Link(impl.plugin_name, "wraps" if impl.wrapper else "default" if builtin else "implements")

    @contextmanager
    def _blame(self, hook: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            guilty = self._culprit(hook, error)
            if guilty:
                version = self._versions.get(guilty, "built in")
                error.add_note(f"raised by plugin {guilty!r} ({version}) in hook {hook!r}")
            raise

    def _culprit(self, hook: str, error: BaseException) -> str | None:
        owners = {getattr(impl.function, "__code__", None): impl.plugin_name for impl in self._impls(hook)}
        traceback, guilty = error.__traceback__, None
        while traceback is not None:
            guilty = owners.get(traceback.tb_frame.f_code, guilty)
            traceback = traceback.tb_next
        return guilty

    def _call(self, hook: str, **arguments: Any) -> Any:
        with self._blame(hook):
            return getattr(self._manager.hook, hook)(**arguments)

    def build_model(self, config: RunConfig, num_classes: int) -> Model:
        """Build the network; see `fercore.hooks.specs.build_model`."""
        return expect(self._call("build_model", config=config, num_classes=num_classes), Model, "build_model")

    def request_views(self, config: RunConfig) -> tuple[ViewRequest, ...]:
        """Return every requested view once, in order of first request.

        Raises:
            HookError: on an unknown side or transform, or if two plugins disagree on a view's transform.
        """
        views: dict[tuple[str, str], ViewRequest] = {}
        answers = reversed(self._call("request_views", config=config))  # pluggy asks the last registered first
        for request in flatten(answers, ViewRequest, "request_views"):
            made = isinstance(request.transform, CropAndColour) or request.transform in TRANSFORMS
            if request.side not in SIDES or not made:
                raise HookError(f"hook 'request_views' returned {request}: side in {SIDES}, transform in {TRANSFORMS}")
            known = views.setdefault((request.side, request.name), request)
            if known.transform != request.transform:
                raise HookError(f"hook 'request_views': {known} and {request} disagree on the transform")
            views[request.side, request.name] = replace(known, stages=_together(known.stages, request.stages))
        return tuple(views.values())

    def plan(self, config: RunConfig, model: Model) -> tuple[Stage, ...]:
        """Return the stages of training."""
        stages = flatten([self._call("plan", config=config, model=model)], Stage, "plan")
        if not stages or len({stage.name for stage in stages}) < len(stages):
            raise HookError("hook 'plan' must return stages with distinct names")
        return tuple(stages)

    def build_sampler(
        self, config: RunConfig, model: Model, dataset: object, side: Side, clock: Clock
    ) -> Sampler[int] | None:
        """Return a plugin's sampler for the epoch, or None for the built-in order."""
        sampler = self._call("build_sampler", config=config, model=model, dataset=dataset, side=side, clock=clock)
        return expect_or_none(sampler, Sampler, "build_sampler")

    def refresh(self, model: Model, clock: Clock, encode_dataset: Callable[[Side], EncodedDataset]) -> dict[str, float]:
        """Let plugins renew their epoch state; returns their numbers for the log."""
        metrics: dict[str, float] = {}
        for result in self._call("refresh", model=model, clock=clock, encode_dataset=encode_dataset):
            metrics.update({str(name): float(value) for name, value in expect(result, dict, "refresh").items()})
        return metrics

    def encode(self, model: Model, batch: DomainBatch, view: str, clock: Clock) -> Encoded:
        """Run one view of one side through the network."""
        encoded = self._call("encode", model=model, batch=batch, view=view, clock=clock)
        return expect(encoded, Encoded, "encode")

    def pseudo_label(self, model: Model, batch: Batch, encoded: Forward, clock: Clock) -> PseudoLabels | None:
        """Return the method's pseudo labels for the target samples, detached, or None."""
        found = self._call("pseudo_label", model=model, batch=batch, encoded=encoded, clock=clock)
        pseudo = expect_or_none(found, PseudoLabels, "pseudo_label")
        return None if pseudo is None else pseudo.detach()

    def align(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Clock
    ) -> list[LossTerm]:
        """Return the checked alignment terms of all plugins."""
        return self._terms("align", model=model, batch=batch, encoded=encoded, pseudo=pseudo, clock=clock)

    def loss(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Clock
    ) -> list[LossTerm]:
        """Return the checked other terms of all plugins."""
        return self._terms("loss", model=model, batch=batch, encoded=encoded, pseudo=pseudo, clock=clock)

    def _terms(self, hook: str, **arguments: Any) -> list[LossTerm]:
        terms = flatten(self._call(hook, **arguments), LossTerm, hook)
        for term in terms:
            prefix = term.name.partition("/")[0]
            if prefix not in self.names or term.name == prefix:
                raise HookError(f"hook {hook!r}: term {term.name!r} must be named '<plugin>/<term>' of {self.names}")
            if not isinstance(term.value, Tensor) or term.value.ndim != 0 or not term.value.is_floating_point():
                raise HookError(f"hook {hook!r}: the value of {term.name!r} must be a scalar float tensor")
        return terms

    def predict(self, model: Model, encoded: Encoded) -> Tensor:
        """Return class probabilities float[B,K]."""
        probs = expect(self._call("predict", model=model, encoded=encoded), Tensor, "predict")
        if probs.ndim != 2 or not torch.isfinite(probs).all():
            raise HookError("hook 'predict' must return finite probabilities of shape [B,K]")
        return probs

    def after_step(self, model: Model, report: StepReport, clock: Clock) -> None:
        """Tell plugins that a phase of a step is done."""
        self._call("after_step", model=model, report=report, clock=clock)

    def after_run(self, result: RunResult) -> None:
        """Tell plugins that the run is done."""
        self._call("after_run", result=result)


def _together(one: tuple[str, ...] | None, other: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the stages that either names; None = all."""
    return None if one is None or other is None else tuple(dict.fromkeys((*one, *other)))
