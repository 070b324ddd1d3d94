"""What every hook may answer: types, shapes, rows, ranges. One check a hook; the manager adds who answered."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from fercore.data.images.views import TRANSFORMS
from fercore.errors import did_you_mean
from fercore.hooks.checks import FIRST_RESULT, SIDES, HookError
from fercore.models.model import Model
from fercore.records.plan import CropAndColour, ParamGroup, Phase, Reset, Stage, StepLoss, ViewRequest
from fercore.records.step import Encoded, LossTerm, PseudoLabels, Role

MUST_ANSWER = frozenset({"build_model", "plan", "encode", "backward", "predict"})
LISTS = frozenset({"request_views", "align", "loss"})
"""First-result hooks that a run cannot do without."""


@dataclass(frozen=True)
class Call:
    """One call of a hook.

    Attributes:
        hook: its name. arguments: what it was called with. classes: number of classes of the run; None before
            `build_model`. names: plugins of the run.
    """

    hook: str
    arguments: Mapping[str, Any]
    classes: int | None
    names: tuple[str, ...]


def check_answer(value: object, call: Call, *, given: object = None, wraps: bool = False) -> None:
    """Refuse an answer that breaks the hook's contract.

    Args:
        value: what the implementation returned. call: the hook's call.
        given: what a wrapper got from the implementations inside it. wraps: whether it is one.

    Raises:
        HookError: that says what is wrong with the value, not whose it is.
    """
    check = _CHECKS.get(call.hook)
    if check is None:
        return
    if call.hook in FIRST_RESULT:
        if value is not None:
            check(value, call)
        elif wraps and given is not None and call.hook in MUST_ANSWER:
            raise HookError("the wrapper returned None in place of an answer; write `return result` after the yield")
        return
    # A `loss` without `return` would train nothing and say so nowhere: who has no term says [].
    required = call.hook in LISTS
    for answer in _answers(value) if wraps else [value]:
        if answer is not None or required:
            check(answer, call)


def _answers(value: object) -> Sequence[object]:
    if not isinstance(value, list | tuple):
        what = f"got {type(value).__name__}"
        raise HookError(f"a wrapper must return list or tuple, one answer for each plugin inside it, {what}")
    return value


def _kind(value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise HookError(f"must return {kind.__name__}, got {type(value).__name__}")


def _list_of(value: object, kind: type) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        empty = "; return [] for none" if value is None else ""
        raise HookError(f"must return a list of {kind.__name__}, got {type(value).__name__}{empty}")
    for item in value:
        _kind(item, kind)
    return value


def _distinct(what: str, names: Collection[str]) -> None:
    if not names or len(set(names)) < len(names):
        raise HookError(f"must return {what} with distinct names, got {list(names)}")


def _model(value: Any, call: Call) -> None:
    _kind(value, Model)


def _views(value: Any, call: Call) -> None:
    for request in _list_of(value, ViewRequest):
        made = isinstance(request.transform, CropAndColour) or request.transform in TRANSFORMS
        named = isinstance(request.name, str) and request.name != ""
        if request.side not in SIDES or not made or not named:
            if not named:
                raise HookError(f"returned {request}: its name must be some text")
            what, known = ("side", SIDES) if request.side not in SIDES else ("transform", tuple(TRANSFORMS))
            near = did_you_mean(str(getattr(request, what)), known)
            raise HookError(f"returned a view with {what} {getattr(request, what)!r}; {near}")


def _stages(value: Any, call: Call) -> None:
    stages = _list_of(value, Stage)
    _distinct("stages", [stage.name for stage in stages])
    if len(streams := [stage.name for stage in stages if stage.stream]) > 1:
        raise HookError(f"a run has one stream at most, got stages {streams}")
    for stage in stages:
        if not isinstance(stage.steps, int) or not isinstance(stage.phases, list | tuple):
            raise HookError(f"stage {stage.name!r} needs whole steps and a tuple of phases, got {stage}")
        for phase in stage.phases:
            _kind(phase, Phase)
        if stage.phases or not stage.stream:
            _distinct(f"phases of stage {stage.name!r}", [phase.name for phase in stage.phases])
        _check_sharing(stage)


def _check_sharing(stage: Stage) -> None:
    """Refuse a phase that does not run, or shares an optimiser that is none, is another's or comes with rates."""
    owners: set[str] = set()
    for phase in stage.phases:
        if not isinstance(phase.repeats, int) or phase.repeats < 1:
            raise HookError(f"phase {phase.name!r} must have repeats of 1 or more, got {phase.repeats!r}")
        if phase.shares is None:
            owners.add(phase.name)
        elif phase.shares not in owners:
            what = f"shares the optimiser of {phase.shares!r}"
            raise HookError(f"phase {phase.name!r} {what}, which is no earlier phase with one of its own")
        elif any(group != ParamGroup(group.prefixes) for group in phase.groups):
            raise HookError(f"phase {phase.name!r} shares an optimiser: its groups must have prefixes alone")


def _sampler(value: Any, call: Call) -> None:
    _kind(value, Sampler)


def _metrics(value: Any, call: Call) -> None:
    _kind(value, dict)
    for name, number in value.items():
        _check_name("metric", name, call)
        try:
            float(number)
        except (TypeError, ValueError, RuntimeError):
            raise HookError(f"metric {name!r} is no number but {type(number).__name__}") from None


def _check_name(what: str, name: object, call: Call) -> None:
    prefix, slash, rest = name.partition("/") if isinstance(name, str) else ("", "", "")
    if prefix not in call.names or not slash or not rest:
        raise HookError(f"{what} {name!r} must be named '<plugin>/<{what}>' of {call.names}")


def _tensor(
    what: str, tensor: object, *, rows: int | None, columns: int | None = None, ndim: int | None = None
) -> None:
    """Refuse what is no floating tensor of so many rows and columns (None = any)."""
    if not isinstance(tensor, Tensor):
        raise HookError(f"{what} must be a tensor, got {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise HookError(f"{what} must be a float tensor, got {tensor.dtype}")
    shape = tuple(tensor.shape)
    if ndim is not None and len(shape) != ndim:
        raise HookError(f"{what} must have {ndim} dimensions, got shape {shape}")
    if rows is not None and (not shape or shape[0] != rows):
        raise HookError(f"{what} must have one row for each of {rows} samples, got shape {shape}")
    if columns is not None and shape[1] != columns:
        raise HookError(f"{what} must have one column for each of {columns} classes, got shape {shape}")


def _encoded(value: Any, call: Call) -> None:
    _kind(value, Encoded)
    rows = call.arguments["batch"].labels.shape[0]  # a symbol where a graph is traced, which len() would fix
    for part, tensors in (("features", value.features), ("logits", value.logits)):
        if not isinstance(tensors, Mapping) or not tensors:
            raise HookError(f"{part} must be tensors by branch, got {type(tensors).__name__} of nothing")
        for branch, tensor in tensors.items():
            columns, ndim = (call.classes, 2) if part == "logits" else (None, None)
            _tensor(f"{part} of branch {branch!r}", tensor, rows=rows, columns=columns, ndim=ndim)


def _pseudo(value: Any, call: Call) -> None:
    _kind(value, PseudoLabels)
    rows = len(call.arguments["batch"].target)
    _tensor("weight", value.weight, rows=rows, ndim=1)
    _tensor("probs", value.probs, rows=rows, columns=call.classes, ndim=2)
    labels = value.labels
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or tuple(labels.shape) != (rows,):
        got = (labels.dtype, tuple(labels.shape)) if isinstance(labels, Tensor) else type(labels).__name__
        raise HookError(f"labels must be an int64 tensor of {rows} samples, got {got}")
    classes, used = value.probs.shape[1], value.weight > 0
    faults = (
        ("weight must lie in [0, 1]", ~((value.weight >= 0) & (value.weight <= 1))),
        (f"labels must lie in 0..{classes - 1} where the weight is above 0", used & ~_inside(labels, classes)),
        ("probs must be probabilities that sum to 1 where the weight is above 0", used & ~_simplex(value.probs)),
    )
    # One transfer from the device for all three.
    for (what, _), wrong in zip(faults, torch.stack([fault.any() for _, fault in faults]).tolist(), strict=True):
        if wrong:
            raise HookError(what)


def _inside(labels: Tensor, classes: int) -> Tensor:
    return (labels >= 0) & (labels < classes)


def _simplex(probs: Tensor) -> Tensor:
    """Return bool[B]: rows that are probabilities, as exactly as their type can tell."""
    loose = 1e-3 if probs.dtype in (torch.float32, torch.float64) else 2e-2
    values = probs.detach().float()
    low = (values >= -loose).all(dim=1)  # False for NaN
    return low & ((values.sum(dim=1) - 1).abs() <= loose)


def _terms(value: Any, call: Call) -> None:
    terms = _list_of(value, LossTerm)
    for term in terms:
        _check_name("term", term.name, call)
        if not isinstance(term.value, Tensor) or term.value.ndim != 0 or not term.value.is_floating_point():
            got = (
                (term.value.dtype, tuple(term.value.shape))
                if isinstance(term.value, Tensor)
                else type(term.value).__name__
            )
            raise HookError(f"the value of {term.name!r} must be a scalar float tensor, got {got}")
        if not isinstance(term.role, Role):
            raise HookError(f"the role of {term.name!r} must be one of fercore.records.step.Role, got {term.role!r}")
        if not _is_scalar(term.weight):
            raise HookError(f"the weight of {term.name!r} must be a number, got {term.weight!r}")
    if terms:
        _distinct("terms", [term.name for term in terms])


def _step_loss(value: Any, call: Call) -> None:
    _kind(value, StepLoss)


def _reset(value: Any, call: Call) -> None:
    _kind(value, Reset)


def _is_scalar(weight: object) -> bool:
    if isinstance(weight, Tensor):
        return weight.ndim == 0 and weight.is_floating_point()
    return isinstance(weight, int | float) and not isinstance(weight, bool)


def _probabilities(value: Any, call: Call) -> None:
    _kind(value, Tensor)
    rows = next((logits.shape[0] for logits in call.arguments["encoded"].logits.values()), None)
    _tensor("probabilities", value, rows=rows, columns=call.classes, ndim=2)
    if torch.compiler.is_exporting():  # a traced tensor has a shape and no values
        return
    wrong = ~_simplex(value)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        shown = [round(p, 4) for p in value[row].tolist()]
        raise HookError(f"probabilities must be finite, at least 0, and sum to 1 in each row; row {row} is {shown}")


_CHECKS: Mapping[str, Callable[[Any, Call], None]] = {
    "build_model": _model,
    "request_views": _views,
    "plan": _stages,
    "build_sampler": _sampler,
    "refresh": _metrics,
    "encode": _encoded,
    "pseudo_label": _pseudo,
    "align": _terms,
    "loss": _terms,
    "backward": _step_loss,
    "predict": _probabilities,
    "after_step": _reset,
}
