"""What plugins are handed of settings, data and results: nothing that refers to a label of the target or to a place.

It is an interface, not a sandbox. A plugin is code in the run's own process, and whoever means to can read the disk,
the collector's lists or the stack; no hook, though, hands over an object that leads there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from fercore.config import DataSettings, RunConfig
from fercore.data.spec import DomainSpec
from fercore.data.table import opaque
from fercore.hooks.checks import HookError
from fercore.records.plan import Closure, RunResult, StepLoss
from fercore.records.step import EncodedDataset, KeepTerm, Side

OPEN_OPTIONS = frozenset(
    "label_count shots fraction label_rule label_by include_labelled transductive domain dataset".split()
)
"""Options of a SPEC that plugins see as they are: how much is labelled, and which of several datasets it is."""
KNOWN_OPTIONS = frozenset({"label_file", "au"})
"""Options that plugins see to be given, and no more."""


def shown(argument: Any) -> Any:
    """Return an argument of a hook as plugins get it."""
    if isinstance(argument, RunConfig):
        # The folder of a reference holds what labels of the target say of it.
        report = argument.report.model_copy(update={"reference": None})
        return argument.model_copy(update={"data": open_data(argument.data), "report": report})
    return argument


def unplaced(spec: DomainSpec) -> DomainSpec:
    """Return a spec without its place: equal for equal ones.

    It keeps the format and `OPEN_OPTIONS`. The path goes, and so does what would make the data again, such as the
    seed of generated faces.
    """
    whole = spec.absolute()
    kept = {name: value for name, value in whole.options.items() if name in OPEN_OPTIONS}
    # That there is one matters to a method; where it lies does not.
    kept |= {name: opaque(value) for name, value in whole.options.items() if name in KNOWN_OPTIONS}
    return DomainSpec.of(whole.format, opaque(repr((whole.path, sorted(whole.options.items())))), kept)


def open_data(data: DataSettings) -> DataSettings:
    """Return settings of data as plugins and strangers get them: SPECs and files without their places."""
    hidden = {
        "sources": tuple(map(unplaced, data.sources)),
        "target": unplaced(data.target),
        "au": None if data.au is None else opaque(data.au),
        "cache_dir": None,
    }
    return data.model_copy(update=hidden)


def open_result(result: RunResult, data: DataSettings) -> RunResult:
    """Return a finished run as plugins get it: result.json with SPECs without their places.

    Args:
        data: the run's.
    """
    record = result.record
    target = record.target.model_copy(update={"spec": unplaced(data.target).text})
    pairs = zip(record.sources, data.sources, strict=True)
    sources = [source.model_copy(update={"spec": unplaced(spec).text}) for source, spec in pairs]
    return RunResult(result.folder, record.model_copy(update={"target": target, "sources": sources}))


Encoder = Callable[[Side], EncodedDataset]
_ENCODER: ContextVar[Encoder] = ContextVar("encoder")


def encode_dataset(side: Side) -> EncodedDataset:
    """Run one whole side through the network; what `refresh` hooks are handed.

    It refers to nothing: who encodes, and with what data, is asked for at the call.

    Raises:
        HookError: outside `refresh`, or in another thread.
    """
    encoder = _ENCODER.get(None)
    if encoder is None:
        raise HookError("encode_dataset works inside `refresh` alone, and in the thread that called it")
    return encoder(side)


_CLOSURE: ContextVar[Closure] = ContextVar("closure")


def closure(keep: KeepTerm | None = None) -> StepLoss:
    """Run a step's forward and backward; what `backward` hooks are handed. As `encode_dataset`, it refers to nothing.

    Raises:
        HookError: outside `backward`, or in another thread.
    """
    own = _CLOSURE.get(None)
    if own is None:
        raise HookError("closure works inside `backward` alone, and in the thread that called it")
    try:
        return own(keep)
    except HookError as error:
        error.named = True  # a fault of the step's terms, not of the hook that asked for them
        raise


@contextmanager
def stepping(own: Closure) -> Iterator[None]:
    """Let `closure` go to `own`."""
    token = _CLOSURE.set(own)
    try:
        yield
    finally:
        _CLOSURE.reset(token)


@contextmanager
def encoding(encoder: Encoder) -> Iterator[None]:
    """Let `encode_dataset` go to `encoder`."""
    token = _ENCODER.set(encoder)
    try:
        yield
    finally:
        _ENCODER.reset(token)
