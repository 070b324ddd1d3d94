"""The contract of plugins, as a function: `check_plugin("name")` trains it in many ways and compares bits.

A rule is a function of a `Case`, which keeps what rules share: one whole run, and its model.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch

from fercore import api
from fercore.arguments import names_of
from fercore.config.presets import PRESETS
from fercore.engine.initial_network import plugins_of
from fercore.engine.run import run
from fercore.errors import UserInputError, did_you_mean
from fercore.hooks.assemble import assemble
from fercore.hooks.catalogue import company_of
from fercore.ops import dispatch
from fercore.runs import checkpoint
from fercore.testing.tiny import TINY, Listener, layer_of, tiny_context, tiny_model

if TYPE_CHECKING:
    from fercore.engine.setup import RunContext
    from fercore.prediction.predictor import Predictor

KEPT = ("model", "optimisers", "random", "loader")
"""Parts of a checkpoint that are compared."""
REFERENCE_REL = 1e-3
"""Largest relative difference of a loss term in compiled operators (float32, other order of sums) to plain torch."""


class ContractError(AssertionError):
    """A plugin breaks a rule; the message names plugin and rule, and says what to do."""


@dataclass(frozen=True)
class Checked:
    """What was checked.

    Attributes:
        plugin: "METHOD[+ADDON...]" as it ran. seconds: rule -> how long it took. notes: rule -> what there is to say.
    """

    plugin: str
    seconds: Mapping[str, float]
    notes: Mapping[str, str]

    def lines(self) -> list[str]:
        """Return a line for each rule."""
        return [f"{rule:<12} kept, {took:5.1f} s  {self.notes[rule]}" for rule, took in self.seconds.items()]


@dataclass
class Case:
    """A plugin under test.

    Attributes:
        names: of the plugins of the run. layer: settings laid on the tiny ones. folder: where runs go.
    """

    names: list[str]
    layer: dict[str, Any]
    folder: Path
    heard: Listener = field(default_factory=Listener)

    def context(self, **sections: Any) -> RunContext:
        """Build the run's parts anew, with further settings by section."""
        return tiny_context(self.names, [self.layer, self.initial, sections])

    @cached_property
    def initial(self) -> dict[str, Any]:
        """Settings of the trained model to start from, for plugins that build no network: one of `source_only`."""
        resolved = assemble(self.names, [TINY, self.layer])
        plugins = plugins_of(resolved)
        if plugins.owner("build_model") is not None or "init" in self.layer.get("model", {}):
            return {}
        alone = not any(plugin.needs_source for plugin in resolved.plugins)
        return {"model": {"init": str(tiny_model())}, **({"data": {"sources": []}} if alone else {})}

    @cached_property
    def whole(self) -> RunContext:
        """A run that was trained from its first to its last step, in `folder/whole`."""
        context = self.context()
        self.before = [copy.deepcopy(vars(plugin)) for plugin in context.resolved.plugins]
        self.record = run(context, self.folder / "whole", self.heard)
        return context

    def killed_and_resumed(self, name: str, *, other_labels: bool) -> None:
        """Kill a run in `folder/name` and resume it, if asked with other labels of the target from then on."""
        context = self.context()
        last = sum(stage.steps for stage in context.stages)
        # Before its last batch: past a checkpoint and, with the tiny settings, in the second epoch.
        try:
            run(context, self.folder / name, Listener(stop_after=last - 1))
        except KeyboardInterrupt:
            context = with_other_labels(self.context()) if other_labels else self.context()
            run(context, self.folder / name, Listener(), resume=True)
        else:
            self.broken(f"a run of {last} batches cannot be killed before its last", "check `plan`: it needs two")

    def state(self, name: str) -> dict[str, Any]:
        """Return the newest checkpoint of a run."""
        newest = checkpoint.newest(self.folder / name / "checkpoints")
        assert newest is not None
        return dict(checkpoint.load(newest))

    @cached_property
    def model(self) -> Predictor:
        """The whole run's model, as `fercore.load` gives it."""
        _ = self.whole
        return api.load(self.folder / "whole")

    @cached_property
    def evaluated(self) -> np.ndarray:
        """Probabilities [n,K] of the test part, as the evaluation of the whole run had them."""
        context, clock = self.whole, self.model.record.evaluation.clock
        return context.evaluator.predict(context.reported, context.domains.test, clock).probs

    def differing(self, name: str) -> list[str]:
        """Return what of a run's last checkpoint is not, to the bit, that of the whole run."""
        left, right = self.state("whole"), self.state(name)
        return different({key: left[key] for key in KEPT}, {key: right[key] for key in KEPT})

    def broken(self, what: str, fix: str) -> NoReturn:
        """Refuse.

        Raises:
            ContractError: always.
        """
        raise ContractError(f"plugin {'+'.join(self.names)}: {what}; {fix}")


def with_other_labels(context: RunContext) -> RunContext:
    """Return a run's parts with the labels of the target turned on by one class, wherever the evaluator has them."""
    domains = context.domains
    count = len(domains.classes)

    def turned(labels: np.ndarray) -> np.ndarray:
        return np.where(labels >= 0, (labels + 1) % count, labels)

    test, target = (replace(table, labels=turned(table.labels)) for table in (domains.test, domains.target))
    return replace(context, domains=replace(domains, truth=turned(domains.truth), test=test, target=target))


def tensors_of(tree: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors in nested tables and lists, by path."""
    if isinstance(tree, torch.Tensor):
        yield prefix, tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from tensors_of(value, f"{prefix}/{key}")
    elif isinstance(tree, list | tuple):
        for number, value in enumerate(tree):
            yield from tensors_of(value, f"{prefix}/{number}")


def different(left: Any, right: Any) -> list[str]:
    """Return the paths at which two trees of tensors differ in a bit, or that one of them alone has."""
    ours, theirs = dict(tensors_of(left)), dict(tensors_of(right))
    alone = sorted(ours.keys() ^ theirs.keys())
    return alone + [path for path in ours.keys() & theirs.keys() if not torch.equal(ours[path], theirs[path])]


def presets(case: Case) -> str:
    """Every preset gives settings that are accepted."""
    for preset in PRESETS:
        config = assemble(case.names, [case.layer], preset=preset).config
        if config.preset != preset or set(config.plugins) != set(case.names):
            case.broken(f"preset {preset} gives {config.preset} of {set(config.plugins)}", "look at `presets`")
    return ", ".join(PRESETS)


def trains(case: Case) -> str:
    """A whole run has finite terms, weights and scores, and probabilities of the right shape."""
    test, classes = case.whole.domains.test, case.whole.domains.classes
    bad = [name for name, value in tensors_of(case.state("whole")["model"]) if not torch.isfinite(value.float()).all()]
    if bad:
        case.broken(f"weights are not finite after {case.record.steps} steps: {bad[:3]}", "look at its loss terms")
    probs = case.whole.evaluator.predict(
        case.whole.reported, test, api.load(case.folder / "whole").record.evaluation.clock
    ).probs
    if probs.shape != (len(test), len(classes)) or not np.allclose(probs.sum(1), 1, atol=1e-4):
        case.broken(f"predictions have shape {probs.shape} and do not sum to 1", "return float[B,K] from `predict`")
    terms = sorted({name for report in case.heard.reports for name in report.terms})
    return f"{case.record.steps} steps, terms {', '.join(terms) or 'none'}"


def untouched(case: Case) -> str:
    """The plugin object is after a run as it was before it."""
    after = [vars(plugin) for plugin in case.whole.resolved.plugins]
    if after != case.before:
        names = sorted({key for old, new in zip(case.before, after, strict=True) for key in old.keys() ^ new.keys()})
        what = f"the plugin object changed in a run{f': {names}' if names else ''}"
        case.broken(what, "keep what lives past a call in the model: `self.attach` in `build_model`")
    return ""


def resumes(case: Case) -> str:
    """A run that was killed and resumed ends with the bits of one that was not, though target labels were others."""
    _ = case.whole
    case.killed_and_resumed("cut", other_labels=True)
    wrong = case.differing("cut")
    if wrong:
        case.killed_and_resumed("again", other_labels=False)
        if not case.differing("again"):
            what = f"with other labels of the target {wrong[0]} is another: it looks at them"
            case.broken(what, "take what `batch` and `task` hold, and nothing else")
        fix = "keep what lives past a call in buffers of the model, and draw random numbers from torch alone"
        case.broken(f"{len(wrong)} tensors differ after a resume, first {wrong[0]}", fix)
    return "alike to the bit; the target's labels were others from then on"


def loads(case: Case) -> str:
    """`fercore.load` gives the probabilities of the evaluation to the bit, from the model folder alone."""
    evaluated, test = case.evaluated, case.whole.domains.test
    probs = case.model.predict(list(test.read_many(range(len(test)))), extras=test.extras).probs
    if not np.array_equal(probs, evaluated):
        fix = "build the network from settings and `task` alone; name in `training_parts` what evaluation does without"
        case.broken(f"a loaded model differs from the evaluated one by {np.abs(probs - evaluated).max():.1e}", fix)
    return f"{len(test)} images"


def length(case: Case) -> str:
    """A run that is made longer ends with the bits of a longer one, or the plugin says that it cannot be."""
    steps = TINY["train"]["steps"]

    def context(number: int) -> RunContext:
        return case.context(optim={"schedule_steps": steps}, train={"steps": number})

    short, longer = context(steps - 2), context(steps)
    run(short, case.folder / "longer", Listener())
    reasons = [plugin.goes_by_length() for plugin in short.resolved.plugins if plugin.goes_by_length()]
    if len(longer.stages) > 1 or reasons:
        try:
            run(longer, case.folder / "longer", Listener(), resume=True)
        except UserInputError as refused:
            return f"refused: {refused.what}"
        case.broken("it was made longer although it says that it cannot be", "look at `goes_by_length` and `plan`")
    run(longer, case.folder / "longer", Listener(), resume=True)
    _ = case.whole
    wrong = different(case.state("whole")["model"], case.state("longer")["model"])
    if wrong:
        fix = 'return from `goes_by_length` what goes by it, or "" only if nothing reads `clock.progress`'
        case.broken(f"a run made longer differs from a longer run: {wrong[0]}", fix)
    return "to the bit"


def reference(case: Case) -> str:
    """Compiled operators of `fercore.ops` give the terms of the plain-torch reference in the first step."""
    _ = case.whole
    heard = Listener(stop_after=1)
    with dispatch.plain_torch() as used:
        try:
            run(case.context(), case.folder / "reference", heard)
        except KeyboardInterrupt:
            pass
    if not used.calls:
        return "it uses no operator of fercore.ops"
    first = [report for report in case.heard.reports if report.step == 0][: len(heard.reports)]
    for ours, plain in zip(first, heard.reports, strict=True):
        for name, value in plain.terms.items():
            if abs(ours.terms[name] - value) > REFERENCE_REL * max(1.0, abs(value)):
                fix = "look at dtypes and labels that it hands to fercore.ops"
                case.broken(f"{name} is {ours.terms[name]:.6g} compiled and {value:.6g} in plain torch", fix)
    return f"{used.calls} calls in the first step"


def onnx(case: Case) -> str:
    """The model translates to ONNX, and onnxruntime gives its probabilities."""
    from fercore.export.targets import export_model

    _ = case.whole
    exported = export_model(case.folder / "whole", case.folder / "model.onnx", to="onnx")
    return f"{exported.bytes:,} bytes, largest difference {exported.check.difference:.1e}"


RULES: dict[str, Callable[[Case], str]] = {
    rule.__name__: rule for rule in (presets, trains, untouched, resumes, loads, length, reference, onnx)
}
"""Rule -> its check; the docstring of each says what it asks for."""


def check_plugin(
    plugin: str,
    *,
    settings: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    rules: Sequence[str] | None = None,
) -> Checked:
    """Check that an installed plugin keeps the contract: about a minute on one core for a small network.

    Args:
        plugin: its name, or "METHOD+ADDON"; an add-on alone runs beside `source_only`.
        settings: dotted name -> value, laid on `fercore.testing.TINY`.
        folder: an empty folder for the runs, to look into afterwards; None = a temporary one.
        rules: names in `RULES`; None = all.

    Raises:
        ContractError: an AssertionError that names the rule's finding and what to do.
        UserInputError: for an unknown plugin, rule or setting.
    """
    for rule in rules or ():
        if rule not in RULES:
            raise UserInputError(f"unknown rule {rule!r}", where="check_plugin", fix=did_you_mean(rule, RULES))
    names = names_of(plugin)
    seconds, notes = {}, {}
    with ExitStack() as stack:
        home = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fercore-contract-")))
        case = Case(company_of(names[0]) if len(names) == 1 else names, layer_of(settings or {}), home)
        for rule in rules or RULES:
            began = time.perf_counter()
            notes[rule] = RULES[rule](case)
            seconds[rule] = time.perf_counter() - began
    return Checked("+".join(case.names), seconds, notes)
