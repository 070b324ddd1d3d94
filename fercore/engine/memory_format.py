"""How images lie in memory: channel by channel, or pixel by pixel (channels last).

Which one is faster depends on the network, the batch and the processor, in both directions: a step of the paper network
in float32 takes 1.19 of the time with channels last, one of the demo network 0.71. So the two are timed once for each
network and machine, and the answer is kept; the sums of a convolution are taken in another order, so a run stays with
the format it began with.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from filelock import FileLock
from torch import Tensor

from fercore.engine.setup import RunContext
from fercore.evaluation.evaluate import placed
from fercore.files import read_text
from fercore.hooks.assemble import ResolvedRun
from fercore.models import Model
from fercore.random_state import random_state, restore_random_state
from fercore.records.step import Batch, DomainBatch, Progress
from fercore.writing import WriteError, make_parents, write_json

MemoryFormat: TypeAlias = Literal["contiguous", "channels_last"]
FORMATS: tuple[MemoryFormat, MemoryFormat] = ("contiguous", "channels_last")
_ROUNDS, _SAMPLES = 2, 4


def lay_out(context: RunContext) -> RunContext:
    """Lay out a run's networks in memory as its settings say.

    Returns:
        The run with "auto" replaced by the format in use, so that it is recorded and a resumed run keeps it.
    """
    asked = context.config.train.memory_format
    chosen: MemoryFormat
    if asked != "auto":
        chosen = asked
    else:
        # Of several processes the first one chooses for all.
        chosen = context.processes.from_first(choose(context) if context.processes.first else FORMATS[0])
        context = replace(context, resolved=settled(context.resolved, chosen))
    apply(context.model, chosen)
    if context.average is not None:
        apply(context.average.model, chosen)
    return context


def settled(resolved: ResolvedRun, chosen: MemoryFormat) -> ResolvedRun:
    """Return a run's plugins and settings with "auto" replaced by the format in use."""
    config = resolved.config
    if config.train.memory_format != "auto":
        return resolved
    train = config.train.model_copy(update={"memory_format": chosen})
    return replace(resolved, config=config.model_copy(update={"train": train}))


def as_recorded(resolved: ResolvedRun, settings: Mapping[str, Any]) -> ResolvedRun:
    """Return a run's plugins and settings with "auto" replaced by the format that its recorded settings name."""
    train = settings.get("train")
    chosen = train.get("memory_format") if isinstance(train, Mapping) else None
    return settled(resolved, chosen) if chosen in FORMATS else resolved


def apply(model: Model, chosen: MemoryFormat) -> None:
    """Lay out the weights of the network's convolutions; what they put out follows. Values stay the same.

    What plugins keep in `model.parts` is theirs to lay out.
    """
    form = torch.channels_last if chosen == "channels_last" else torch.contiguous_format
    for part in (model.backbone, model.branches, model.heads):
        part.to(memory_format=form)


def choose(context: RunContext) -> MemoryFormat:
    """Return the faster format for this network on this machine: as remembered, else timed on a few samples.

    The network, its statistics and the random generators are left as they were.
    """
    batch = _few_samples(context)
    path, key = _memory(), _key(context, batch)
    with _alone(path):
        return _chosen(context, batch, path, key)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process at a time choose: of runs that begin together all take the same, where there is a cache."""
    lock = FileLock(f"{path}.lock")
    with contextlib.suppress(WriteError, OSError, NotImplementedError):
        make_parents(path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _chosen(context: RunContext, batch: Batch, path: Path, key: str) -> MemoryFormat:
    known = _remembered(path)
    if known.get(key) in FORMATS:
        return "channels_last" if known[key] == "channels_last" else "contiguous"
    model, random = context.model, random_state()
    # Forwards in training mode leave their trace in batch statistics.
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    seconds = {name: float("inf") for name in FORMATS}
    for number in range(_ROUNDS + 1):
        # In turns, so that a machine that slows down or is busy for a while meets both.
        for name in FORMATS:
            apply(model, name)
            spent = _seconds(context, batch)
            if number:  # the first round of each pays for what is set up once
                # The least of several: whatever else ran meanwhile only adds.
                seconds[name] = min(seconds[name], spent)
    apply(model, "contiguous")
    model.load_state_dict(before)
    model.zero_grad(set_to_none=True)
    restore_random_state(random)
    chosen = min(FORMATS, key=lambda name: seconds[name])
    with contextlib.suppress(WriteError):  # a cache that cannot be written costs the next run a timing, nothing else
        write_json(path, {**known, key: chosen})
    return chosen


def _few_samples(context: RunContext) -> Batch:
    """Return the first samples of each domain of the first batch: more of them would take longer to say the same."""
    batch = context.first_batch()
    return placed(Batch(_first(batch.source), _first(batch.target)), context.fabric)


def _first(batch: DomainBatch) -> DomainBatch:
    """Return the first samples of each domain of one side, which may have none."""
    if not len(batch):
        return batch
    present = sorted(set(batch.domain.tolist()))
    rows = torch.cat([(batch.domain == domain).nonzero().flatten()[:_SAMPLES] for domain in present])

    def pick(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor[rows] for name, tensor in tensors.items()}

    labels, domain, index = batch.labels[rows], batch.domain[rows], batch.index[rows]
    return DomainBatch(pick(batch.images), labels, domain, index, pick(batch.extras))


def _seconds(context: RunContext, batch: Batch) -> float:
    """Time every view's forward and backward pass."""
    fabric, stage = context.fabric, context.stages[0]
    clock = Progress(stage.name, stage.first_phase, 0, 0, stage.steps)
    started = time.perf_counter()
    with fabric.autocast():
        views = context.views_of(stage)
        encoded = [
            context.plugins.encode(context.model, batch.side(view.side), view.name, clock, view.side, "train")
            for view in views
        ]
        outputs = [t for one in encoded for t in (*one.features.values(), *one.logits.values()) if t.requires_grad]
        total = sum((t.float().sum() for t in outputs), torch.zeros((), device=fabric.device))
    if total.requires_grad:
        # Methods keep what no step has changed, such as the features of a text, and with it a part of the graph.
        fabric.backward(total, retain_graph=True)
    if fabric.device.type == "cuda":
        torch.cuda.synchronize(fabric.device)
    return time.perf_counter() - started


def _memory() -> Path:
    base = os.environ.get("FERCORE_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "fercore"
    )
    return Path(base) / "memory_format.json"


def _remembered(path: Path) -> dict[str, str]:
    """Return what is remembered; nothing where the file is missing or damaged, as it can be made again."""
    try:
        answers = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return answers if isinstance(answers, dict) else {}


def _key(context: RunContext, batch: Batch) -> str:
    """Name what the answer depends on."""
    device = context.fabric.device
    shapes = [(name, tuple(p.shape)) for name, p in context.model.named_parameters()]
    images = [tuple(t.shape) for side in (batch.source, batch.target) for t in side.images.values()]
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    threads, precision = torch.get_num_threads(), context.config.train.precision
    facts = (torch.__version__, machine, threads, precision, context.plugins.names, shapes, images)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _processor() -> str:
    """Return the processor's model, where the system says it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
