"""The plugin manager: one typed method per hook, so that nobody calls the untyped `hook.x(...)`.

What plugins get passes `fercore.hooks.guard`, what they answer passes `fercore.hooks.answers`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pluggy
from torch import Tensor
from torch.utils.data import Sampler

from fercore.errors import UserInputError
from fercore.hooks import guard, specs
from fercore.hooks.answers import Call, check_answer
from fercore.hooks.checks import BUILTIN, HOOKS, HookError, check_class, check_owners, expect, expect_or_none, flatten
from fercore.hooks.markers import PROJECT
from fercore.hooks.plugin import Plugin
from fercore.models.model import Model
from fercore.records.plan import Closure, Reset, RunResult, Stage, StepLoss, StepReport, ViewRequest
from fercore.records.step import (
    Batch,
    DomainBatch,
    Encoded,
    EncodedDataset,
    Forward,
    LossTerm,
    Progress,
    PseudoLabels,
    Purpose,
    Side,
)

if TYPE_CHECKING:
    from fercore.config import RunConfig
    from fercore.records.task import TaskInfo


@dataclass(frozen=True)
class Link:
    """One implementation in a hook's chain: who, and whether it wraps, owns or is the built-in default."""

    plugin: str
    kind: str


RAISED = "raised by"


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
        self._versions, self._builtin = dict(versions), tuple(builtin)
        self.names = tuple(plugin.name for plugin in plugins)
        self._classes: int | None = None
        self._call_now = Call("", {}, None, self.names)
        self._answered: dict[str, str] = {}
        for item in builtin:
            self._manager.register(item, name=f"{BUILTIN}{type(item).__name__}")
        for plugin in plugins:
            check_class(type(plugin), plugin.name)
            self._register(plugin)
        # After all are registered: owners are counted over the whole run.
        check_owners(self._manager)
        for hook in HOOKS:
            for impl in self._impls(hook):
                self._watch(hook, impl)

    def _register(self, plugin: Plugin) -> None:
        try:
            self._manager.register(plugin, name=plugin.name)
        except (pluggy.PluginValidationError, ValueError) as error:
            raise UserInputError(f"plugin {plugin.name!r} cannot be registered: {error}") from None

    def chain(self) -> dict[str, list[Link]]:
        """Return, for every hook, its implementations in the order in which they are entered."""
        return {hook: [self._link(impl) for impl in reversed(self._impls(hook))] for hook in HOOKS}

    def owner(self, hook: str) -> str | None:
        """Return the plugin that implements a first-result hook; None = a built-in default does."""
        return next((impl.plugin_name for impl in self._impls(hook) if self._link(impl).kind == "implements"), None)

    def alone(self) -> Plugins:
        """Return the hooks of the network as it was given, without those of the run's plugins."""
        others = Plugins(self._builtin, (), {})
        others._classes = self._classes
        return others

    def expect_classes(self, number: int) -> None:
        """Check answers for so many classes from now on."""
        self._classes = number

    def _impls(self, hook: str) -> list[pluggy.HookImpl]:
        return list(getattr(self._manager.hook, hook).get_hookimpls())

    @staticmethod
    def _link(impl: pluggy.HookImpl) -> Link:
        builtin = impl.plugin_name.startswith(BUILTIN)
        return Link(impl.plugin_name, "wraps" if impl.wrapper else "default" if builtin else "implements")

    def _watch(self, hook: str, impl: pluggy.HookImpl) -> None:
        """Check what this implementation answers before any other sees it, so that the right plugin is named."""
        inner, name = impl.function, impl.plugin_name

        def own(*arguments: Any) -> Any:
            with self._blame(hook, name):
                value = inner(*arguments)
                check_answer(value, self._call_now)
            if value is not None:
                self._answered[hook] = name
            return value

        def wrapper(*arguments: Any) -> Generator[None, Any, Any]:
            with self._blame(hook, name):
                turns: Any = inner(*arguments)
                _begin(turns)
            try:
                given = yield
            except BaseException as error:
                # An error of an inner plugin goes through the wrapper's own `try`, as if it had called the hook itself.
                given, resume = None, partial(turns.throw, error)
            else:
                resume = partial(turns.send, given)
            with self._blame(hook, name):
                value = _finish(turns, resume)
                check_answer(value, self._call_now, given=given, wraps=True)
            # A wrapper that hands on what it was given answers for nothing.
            if value is not given and value is not None:
                self._answered[hook] = name
            return value

        # Pluggy calls what stands here; registering a wrapped function would lose the arguments that it names.
        object.__setattr__(impl, "function", wrapper if impl.wrapper else own)

    @contextmanager
    def _blame(self, hook: str, name: str) -> Iterator[None]:
        """Name the plugin whose code runs in an error that leaves it, unless a plugin further inside is named."""
        try:
            yield
        except SystemExit as error:
            raise self._named(HookError(f"called sys.exit({error.code!r}), which ends no run"), hook, name) from error
        except HookError as error:
            if getattr(error, "named", False):
                raise
            raise self._named(error, hook, name) from error.__cause__
        except Exception as error:
            # The innermost plugin is the one at fault; the wrappers around it only let it through.
            if not any(note.startswith(RAISED) for note in getattr(error, "__notes__", ())):
                error.add_note(f"{RAISED} {self._who(hook, name)}")
            raise

    def _named(self, error: HookError, hook: str, name: str) -> HookError:
        named = HookError(f"{self._who(hook, name)}: {error}")
        named.named = True
        return named

    def _who(self, hook: str, name: str) -> str:
        """Return "plugin 'x' (dist 1.0) in hook 'y'"; what the defaults compute comes from the network's builder."""
        maker = self._answered.get("build_model") if name.startswith(BUILTIN) else None
        if maker is not None:
            return f"the network of {self._who('build_model', maker)}, run by hook {hook!r},"
        return f"plugin {name!r} ({self._versions.get(name, 'built in')}) in hook {hook!r}"

    @contextmanager
    def blaming(self, hook: str) -> Iterator[None]:
        """Name the plugin that answered a hook in errors of what it returned, e.g. a sampler that is run through."""
        with self._blame(hook, self._answered.get(hook, f"{BUILTIN}Defaults")):
            yield

    def _call(self, hook: str, **arguments: Any) -> Any:
        arguments = {name: guard.shown(value) for name, value in arguments.items()}
        outer, self._call_now = self._call_now, Call(hook, arguments, self._classes, self.names)
        try:
            return getattr(self._manager.hook, hook)(**arguments)
        finally:
            self._call_now = outer  # refresh encodes a whole side, which calls hooks inside a hook

    def build_model(self, config: RunConfig, num_classes: int, task: TaskInfo) -> Model:
        """Build the network; see `fercore.hooks.specs.build_model`."""
        self._classes = num_classes
        model = self._call("build_model", config=config, num_classes=num_classes, task=task)
        if model is None:
            raise HookError(f"no plugin of {', '.join(self.names)} builds a network: a method implements 'build_model'")
        return expect(model, Model, "build_model")

    def request_views(self, config: RunConfig) -> tuple[ViewRequest, ...]:
        """Return every requested view once, in order of first request.

        Raises:
            HookError: on an unknown side or transform, or if two plugins disagree on a view's transform.
        """
        views: dict[tuple[str, str], ViewRequest] = {}
        answers = reversed(self._call("request_views", config=config))  # pluggy asks the last registered first
        for request in flatten(answers, ViewRequest, "request_views"):
            known = views.setdefault((request.side, request.name), request)
            if known.transform != request.transform:
                raise HookError(f"hook 'request_views': {known} and {request} disagree on the transform")
            views[request.side, request.name] = replace(known, stages=_together(known.stages, request.stages))
        return tuple(views.values())

    def plan(
        self, config: RunConfig, model: Model, datasets: Mapping[Side, object], task: TaskInfo
    ) -> tuple[Stage, ...]:
        """Return the stages of training."""
        stages = self._call("plan", config=config, model=model, datasets=datasets, task=task)
        return tuple(flatten([stages], Stage, "plan"))

    def build_sampler(
        self, config: RunConfig, model: Model, dataset: object, side: Side, clock: Progress
    ) -> Sampler[int] | None:
        """Return a plugin's sampler for the epoch, or None for the built-in order."""
        sampler = self._call("build_sampler", config=config, model=model, dataset=dataset, side=side, clock=clock)
        return expect_or_none(sampler, Sampler, "build_sampler")

    def refresh(
        self, model: Model, clock: Progress, encode_dataset: Callable[[Side], EncodedDataset], task: TaskInfo
    ) -> dict[str, float]:
        """Let plugins renew their epoch state; returns their numbers for the log."""
        with guard.encoding(encode_dataset):
            arguments = {"model": model, "clock": clock, "encode_dataset": guard.encode_dataset, "task": task}
            results = self._call("refresh", **arguments)
        metrics: dict[str, float] = {}
        for result in results:
            metrics.update({str(name): float(value) for name, value in expect(result, dict, "refresh").items()})
        return metrics

    def encode(
        self, model: Model, batch: DomainBatch, view: str, clock: Progress, side: Side | None, purpose: Purpose
    ) -> Encoded:
        """Run one view of one side through the network; `side` is None for samples of both."""
        encoded = self._call("encode", model=model, batch=batch, view=view, clock=clock, side=side, purpose=purpose)
        return expect(encoded, Encoded, "encode")

    def pseudo_label(self, model: Model, batch: Batch, encoded: Forward, clock: Progress) -> PseudoLabels | None:
        """Return the method's pseudo labels for the target samples, detached, or None."""
        answer = self._call("pseudo_label", model=model, batch=batch, encoded=encoded, clock=clock)
        pseudo = expect_or_none(answer, PseudoLabels, "pseudo_label")
        return None if pseudo is None else pseudo.detach()

    def align(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> list[LossTerm]:
        """Return the checked alignment terms of all plugins."""
        return self._terms("align", model=model, batch=batch, encoded=encoded, pseudo=pseudo, clock=clock)

    def loss(
        self, model: Model, batch: Batch, encoded: Forward, pseudo: PseudoLabels | None, clock: Progress
    ) -> list[LossTerm]:
        """Return the checked other terms of all plugins."""
        return self._terms("loss", model=model, batch=batch, encoded=encoded, pseudo=pseudo, clock=clock)

    def _terms(self, hook: str, **arguments: Any) -> list[LossTerm]:
        return flatten(self._call(hook, **arguments), LossTerm, hook)

    def backward(self, model: Model, closure: Closure, clock: Progress) -> StepLoss:
        """Leave the step's gradient in the parameters; returns the terms that it is of."""
        with guard.stepping(closure):
            answer = self._call("backward", model=model, closure=guard.closure, clock=clock)
        return expect(answer, StepLoss, "backward")

    def predict(self, model: Model, encoded: Encoded) -> Tensor:
        """Return class probabilities float[B,K]."""
        return expect(self._call("predict", model=model, encoded=encoded), Tensor, "predict")

    def after_step(self, model: Model, report: StepReport, clock: Progress) -> tuple[Reset, ...]:
        """Tell plugins that a phase of a step is done; returns the resets that they ask for."""
        return tuple(self._call("after_step", model=model, report=report, clock=clock))

    def after_run(self, result: RunResult) -> None:
        """Tell plugins that the run is done; the result must be that of `guard.open_result`."""
        self._call("after_run", result=result)


def _together(one: tuple[str, ...] | None, other: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the stages that either names; None = all."""
    return None if one is None or other is None else tuple(dict.fromkeys((*one, *other)))


def _begin(turns: Generator[None, Any, Any]) -> None:
    """Run a wrapper up to its yield."""
    try:
        next(turns)
    except StopIteration:
        raise HookError("a wrapper must yield once, this one never does") from None


def _finish(turns: Generator[None, Any, Any], resume: Callable[[], Any]) -> Any:
    """Run a wrapper from its yield to its end and return its answer."""
    try:
        resume()
    except StopIteration as end:
        return end.value
    turns.close()
    raise HookError("a wrapper must yield once, this one yields again")
