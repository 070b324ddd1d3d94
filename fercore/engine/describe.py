"""What a run is made of, in lines for people: data, network, hook chain, installation."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from fercore import ops
from fercore.data import mismatch_lines
from fercore.engine.initial import Initial
from fercore.engine.setup import RunContext
from fercore.evaluation.evaluate import placed
from fercore.hooks.discovery import installed_plugins
from fercore.hooks.manager import Plugins
from fercore.models import Model
from fercore.models.at_hand import backbone_line
from fercore.models.memory import bytes_of, kept_for_backward
from fercore.ops import dispatch
from fercore.records.plan import ViewRequest
from fercore.records.step import PLAIN, UNKNOWN_LABEL, DomainBatch, Encoded, Progress
from fercore.runs.folder import PACKAGES, installed_version
from fercore.terminal import counted

MOMENTS = {"sgd": 1, "sgdw": 1, "adam": 2, "adamw": 2}
"""Tensors of a parameter's size that an optimiser keeps of it."""
_FEW = 8


def describe(context: RunContext, *, complexity: bool = False, chain: bool = False) -> list[str]:
    """Return lines on data and network of a run that is about to start.

    Args:
        complexity: count multiply-accumulates too, which runs the network once. chain: tell the hook chain too.
    """
    config, domains = context.config, context.domains
    context.check_batches()
    lines = [f"classes: {', '.join(domains.classes)}"]
    few = domains.task.few_shot_domain
    for number, (spec, table) in enumerate(zip(config.data.sources, domains.sources, strict=True)):
        lines.append(
            f"source {spec}: {counted(len(table), 'image')}"
            + (", labelled ones of the target" if number == few else "")
        )
    flag = " (transductive: the same images)" if domains.transductive else ""
    lines.append(f"target {config.data.target}: {len(domains.adaptation)} unlabelled, {len(domains.test)} test{flag}")
    lines += mismatch_lines(domains.report)
    kernels = ", ".join(f"{name} {form}" for name, form in ops.kernels(context.fabric.device).items())
    lines.append(f"device {context.fabric.device}, kernels: {kernels}")
    if context.initial is not None:
        lines.append(initial_line(context, context.initial))
    elif config.preset == "small":
        lines.append(backbone_line(config.model.backbone, config.model.weights))
    lines += network_lines(context, macs=complexity)
    lines += [memory_line(context)] if complexity else []
    return lines + (chain_lines(context.plugins) if chain else [])


def initial_line(context: RunContext, initial: Initial) -> str:
    """Say in a line what is taken over of the trained model that a run starts from."""
    data, size = context.config.data, count(context.model.backbone.parameters())
    head = f"head {len(initial.classes)} classes"
    if not context.adapts_as_it_is:
        kept = ", ".join(context.kept_heads)
        head += f" kept in {kept}" if kept else " not kept, as the method's own is another"
    same = all(list(getattr(context.model, name)) == list(initial.images[name]) for name in ("mean", "std"))
    parts = [
        f"network {size / 1e6:.{1 if size >= 1e6 else 2}f} M",
        head,
        f"{data.size} px",
        f"mean/std of the {'file' if same else 'settings'}",
    ]
    return f"init {initial.where}: {initial.kind}, {', '.join(parts)}"


def network_lines(context: RunContext, *, macs: bool) -> list[str]:
    """Return lines on the network's parameters and, if asked, multiply-accumulates of one image."""
    parameters = list(context.model.parameters())
    total, trained = count(parameters), count(p for p in parameters if p.requires_grad)
    size = context.config.data.size
    lines = [f"network: {total / 1e6:.2f} M parameters ({_amount(trained)} trained), {size} px"]
    if macs:
        lines[0] += f", {count_macs(context) / 1e9:.3f} G MACs per image"
        for name, module in _blocks(context.model):
            lines.append(f"  {name:<28} {count(module.parameters()) / 1e6:8.3f} M")
    return lines


def _amount(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number >= 1e5 else f"{number:,}"


def _blocks(model: Model) -> list[tuple[str, nn.Module]]:
    named: list[tuple[str, nn.Module]] = [("backbone", model.backbone)]
    for group in ("branches", "heads", "parts"):
        modules: nn.ModuleDict = getattr(model, group)
        named += [(f"{group}.{name}", module) for name, module in modules.items()]
    return named


def count(parameters: Iterable[torch.Tensor]) -> int:
    """Return how many numbers the parameters hold."""
    return sum(p.numel() for p in parameters)


@torch.no_grad()
def count_macs(context: RunContext) -> int:
    """Return the multiply-accumulates of encoding one image (convolutions and matrix products)."""
    from torch.utils.flop_counter import FlopCounterMode

    size, device = context.config.data.size, context.fabric.device
    unknown = torch.full((1,), UNKNOWN_LABEL, device=device)
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    batch = DomainBatch({PLAIN: torch.zeros(1, 3, size, size, device=device)}, unknown, zero, zero)
    context.model.eval()
    with FlopCounterMode(display=False) as counter:
        context.plugins.encode(context.model, batch, PLAIN, Progress("describe", "", 0, 0, 1), "target", "evaluate")
    # torch counts a multiplication and an addition as two.
    return int(counter.get_total_flops()) // 2


def memory_line(context: RunContext) -> str:
    """Return a line on the memory that a step of the first stage needs, as far as it can be counted beforehand.

    Activations are those of encoding a few samples of each view, times the samples of a step that pass at once; what
    losses keep, and what the program and the data take by themselves, is not in it.
    """
    stage, model, train = context.stages[0], context.model, context.config.train
    weights = bytes_of([*model.parameters(), *model.buffers()]) * (1 if context.average is None else 2)
    moments = max((MOMENTS.get(phase.optimiser.name, 2) for phase in stage.phases), default=0)
    learnt = bytes_of([p for p in model.parameters() if p.requires_grad]) * (1 + moments if stage.phases else 0)
    batch, clock = context.first_batch(), Progress(stage.name, stage.first_phase, 0, 0, stage.steps)
    model.train()
    activations, few_of = 0.0, _FEW // 2
    for view in context.views_of(stage):
        side = batch.side(view.side)
        many = min(_FEW, len(side))
        if many < _FEW:
            continue
        # The first forward may keep what later ones share, such as the features of a text.
        kept = [
            kept_for_backward(partial(_encode_some, context, side, view, n, clock), model)
            for n in (few_of, few_of, many)
        ]
        each = (kept[2] - kept[1]) / (many - few_of)
        activations += kept[0] + each * (len(side) / train.accumulate - few_of)
    mib = [value / 2**20 for value in (weights, learnt, activations)]
    parts = f"weights {mib[0]:.0f}, gradients and moments {mib[1]:.0f}, activations {mib[2]:.0f}"
    return f"memory of a step: about {sum(mib):.0f} MiB ({parts}), beside the program's own"


def _encode_some(context: RunContext, batch: DomainBatch, view: ViewRequest, n: int, clock: Progress) -> Encoded:
    some = placed(batch.some(torch.arange(n), view.name), context.fabric)
    with context.fabric.autocast():
        return context.plugins.encode(context.model, some, view.name, clock, view.side, "train")


def chain_lines(plugins: Plugins) -> list[str]:
    """Return the hook chain: who is entered first, who wraps, who owns."""
    lines = ["hook chain (outermost first):"]
    for hook, links in plugins.chain().items():
        if links:
            lines.append(f"  {hook:<14} " + " > ".join(f"{link.plugin} {link.kind}" for link in links))
    return lines


def doctor_lines() -> list[str]:
    """Return what this installation can do."""
    lines = [f"python {platform.python_version()} on {platform.platform()}"]
    for name in (*PACKAGES, "numba"):
        lines.append(f"{name:<16} {installed_version(name)}")
    lines.append(f"threads          {torch.get_num_threads()}")
    lines.append(f"CUDA device      {torch.cuda.get_device_name(0) if torch.cuda.is_available() else 'none'}")
    lines += [f"kernel {name:<9} {where}" for name, where in ops.kernels().items()]
    lines += [f"library {name:<8} {_library(library)}" for name, library in dispatch.report().items()]
    lines.append(f"plugins          {', '.join(installed_plugins())}")
    return lines


def _library(library: Mapping[str, Any]) -> str:
    """Return in words what became of a compiled library.

    Args:
        library: what `dispatch.report` says of it.
    """
    if library["library"] is None:
        compiler = library["compiler"]
        text = f"not compiled yet; {compiler} is there for it" if compiler else "not compiled, and no compiler is found"
    else:
        text = f"{'in use' if library['loaded'] else 'not in use'}, compiled {library['built']}: {library['library']}"
    if "built_with" in library:
        text += f"; by {library['built_with']}, runs {library['vector_level']} of {', '.join(library['vector_levels'])}"
    text += f"; for {', '.join(library['archs'])}" if "archs" in library else ""
    return text + (f"; {library['problem'].splitlines()[0]}" if library["problem"] else "")
