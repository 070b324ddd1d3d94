"""From checked settings to everything a run needs in memory: data, device, model, hooks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from fercore.config import Device, RunConfig
from fercore.data import DomainSet, StepLoader, load_domains
from fercore.data.batches.sampling import Share, StreamOrder, stream_order
from fercore.data.domains.dataset_info import side_info, task_info
from fercore.data.domains.load import look_for_data
from fercore.datasets.protocols import absolute_protocol
from fercore.engine.allocator import keep_memory
from fercore.engine.average import WeightAverage
from fercore.engine.class_weights import attach_shares
from fercore.engine.gradients import refuse_gradients
from fercore.engine.initial import NEEDED, WHERE, Initial, read_initial
from fercore.engine.initial_network import plugins_of
from fercore.engine.online import refuse_other_forward
from fercore.engine.several import fabric_of, refuse_alone, shards_of
from fercore.engine.step import StepModule
from fercore.engine.trained_heads import take_over
from fercore.errors import UserInputError
from fercore.evaluation.calibration import limited, refuse_impossible
from fercore.evaluation.evaluate import Evaluator
from fercore.evaluation.selection import needs, needs_source
from fercore.hooks.assemble import ResolvedRun
from fercore.hooks.checks import HookError, no_exit
from fercore.hooks.manager import Plugins
from fercore.models import Model, look_for_weights
from fercore.models.memory import checkpoint_blocks
from fercore.models.shards import Shards
from fercore.processes import Processes, started
from fercore.random_state import random_state, restore_random_state, seed_everything
from fercore.records.plan import Stage, ViewRequest
from fercore.records.step import SIDES, Batch
from fercore.records.task import TaskInfo

if TYPE_CHECKING:
    from lightning_fabric import Fabric


LAST = "last"
"""The rule that reports the last checkpoint."""


@dataclass(frozen=True)
class RunContext:
    """A run's parts, built and seeded, before the first step.

    Attributes:
        resolved: settings and plugins. plugins: their hooks. domains: the data. fabric: device and precision.
        model: the network on its device. module: the step with the network in it, as Fabric wraps it. stages,
        views: what the method asked for. evaluator: sees target labels. task: what plugins know of
        the data.
        average: the moving average of the weights, where `train.ema` asks for it.
        initial: the trained model that the run starts from, if any. kept_heads: those of a network that a plugin built
            which took over the model's. shards: how processes divide the network's weights, where they do.
    """

    resolved: ResolvedRun
    plugins: Plugins
    domains: DomainSet
    fabric: Fabric
    model: Model
    module: StepModule
    stages: tuple[Stage, ...]
    views: tuple[ViewRequest, ...]
    evaluator: Evaluator
    task: TaskInfo
    average: WeightAverage | None = None
    initial: Initial | None = None
    kept_heads: tuple[str, ...] = ()
    shards: Shards | None = None

    @property
    def reported(self) -> Model:
        """The network that is evaluated: the average of the weights where there is one, else the one in training.

        Where processes divide its weights it is to be had inside `whole` alone.
        """
        return self.trained if self.average is None else self.average.follow(self.model)

    @property
    def trained(self) -> Model:
        """The network in training, with whole weights; where processes divide them, inside `whole` alone."""
        return self.model if self.shards is None else self.shards.model

    def whole(self) -> AbstractContextManager[None]:
        """Have all weights of `reported` in every process; all processes of the run enter it together."""
        return nullcontext() if self.shards is None else self.shards.whole()

    @property
    def processes(self) -> Processes:
        """The processes of the run."""
        return Processes(self.fabric.global_rank, self.fabric.world_size)

    @property
    def config(self) -> RunConfig:
        """The run's settings."""
        return self.resolved.config

    @property
    def adapts_as_it_is(self) -> bool:
        """Whether the network is the trained model's own, and not one that a plugin builds."""
        return self.initial is not None and self.plugins.owner("build_model") is None

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells the data, and the trained model where there is one, from any other, as JSON values."""
        model = {} if self.initial is None else {"init": self.initial.sha256}
        return {**self.domains.fingerprint(), **model}

    @property
    def joint(self) -> bool:
        """Whether both sides share a forward."""
        return _shares_forward(self.resolved)

    def views_of(self, stage: Stage) -> tuple[ViewRequest, ...]:
        """Return the views that a stage needs."""
        return tuple(view for view in self.views if view.serves(stage.name))

    def check_batches(self) -> None:
        """Make sure that the data fill the batches of every stage.

        Raises:
            UserInputError: naming the first domain that does not.
        """
        for stage in self.stages:
            self.loader(stage)

    def loader(self, stage: Stage | None = None, *, start: int = 0) -> StepLoader:
        """Return a loader with the views and batch sizes of a stage (None = the first), at step `start` of the run."""
        stage = stage or self.stages[0]
        config, views = self.config, self.views_of(stage)
        given = {"source_batch": stage.source_batch, "target_batch": stage.target_batch}
        data = config.data.model_copy(update={name: size for name, size in given.items() if size is not None})
        mean, std = self.model.mean, self.model.std
        share, device = Share(self.processes.rank, self.processes.world), self.fabric.device
        stream = self._stream_order(stage, data.target_batch) if stage.stream else None
        return StepLoader(
            self.domains, views, data, seed=config.seed, mean=mean, std=std, start=start, device=device, share=share,
            stream=stream, pieces=config.train.accumulate,
        )  # fmt: skip

    def first_batch(self) -> Batch:
        """Return the first batch of the first stage, made in this process."""
        data = self.config.data.model_copy(update={"workers": 0})
        resolved = replace(self.resolved, config=self.config.model_copy(update={"data": data}))
        return next(replace(self, resolved=resolved).loader())

    def _stream_order(self, stage: Stage, batch: int) -> StreamOrder:
        before = [each.name for each in self.stages].index(stage.name)
        start = sum(each.steps for each in self.stages[:before])
        return StreamOrder(self.stream, batch, start)

    @property
    def stream(self) -> np.ndarray:
        """int64[n], the order in which the adaptation part comes in a stream; for the evaluator and loaders alone."""
        config, domains = self.config, self.domains
        return stream_order(domains.truth, domains.adaptation.rows, config.stream, config.seed)


def _shares_forward(resolved: ResolvedRun) -> bool:
    """Say whether both sides share a forward; a compiled network would be compiled again for every change of it."""
    train = resolved.config.train
    whole = not train.compile and train.accumulate == 1
    return train.joint_forward and whole and all(p.joint_forward for p in resolved.plugins)


def _step_of(model: Model, plugins: Plugins, resolved: ResolvedRun) -> StepModule:
    pieces = resolved.config.train.accumulate
    return StepModule(model, plugins, joint=_shares_forward(resolved), pieces=pieces)


def build_plugins(resolved: ResolvedRun, initial: Initial | None = None) -> Plugins:
    """Register the built-in defaults and the run's plugins, and what stands in for them of a model that is adapted.

    Raises:
        UserInputError: for a method that builds no network, and no trained model.
    """
    plugins = plugins_of(resolved)
    if plugins.owner("build_model") is not None:
        return plugins
    if initial is None:
        what = f"{'+'.join(plugins.names)} adapts a trained model, and none is given"
        raise UserInputError(what, where=WHERE, fix=NEEDED)
    return plugins_of(resolved, initial.record, initial.folder)


@no_exit()
def build_context(resolved: ResolvedRun, *, label_file: Path | None = None) -> RunContext:
    """Open the data, seed, and build the network.

    Args:
        resolved: settings and plugins.
        label_file: which samples are labelled, as a run that goes on keeps it; None = as the settings say.

    Raises:
        UserInputError: for data, settings or a device that cannot be used; nothing has been written then.
    """
    resolved = resolve_here(resolved)
    config = resolved.config
    initial = None
    if config.model.init is not None:
        given = {"backbone": config.model.backbone, "arguments": config.model.arguments}
        initial = read_initial(config.model.init, **given, target=config.data.target)  # type: ignore[arg-type]
    # Before the data: two owners of a hook are told in a second, not after the images are decoded.
    plugins = build_plugins(resolved, initial)
    fabric = build_fabric(config)
    processes = Processes(fabric.global_rank, fabric.world_size)
    return processes.together(partial(_built, resolved, plugins, initial, fabric, label_file))


def _built(
    resolved: ResolvedRun, plugins: Plugins, initial: Initial | None, fabric: Fabric, label_file: Path | None
) -> RunContext:
    config = resolved.config
    # What costs nothing is asked first: a typo in a path must not wait for a download of weights.
    look_for_data(config.task)
    look_for_weights(config.model)
    domains = load_domains(config.task, config.data, label_file=label_file)
    refuse_impossible(config, domains.classes)
    _check_selection(config, has_units=bool(domains.au_names))
    # After the data, whose loading may draw, and right before the network's weights are drawn.
    seed_everything(config.seed)
    sizes = [len(table) for table in domains.sources], len(domains.adaptation)
    counts = [table.counts(domains.classes) for table in domains.sources]
    task = task_info(config, domains.classes, sizes, counts)
    if initial is not None:
        task = replace(task, source_features=initial.features())
    model = plugins.build_model(_with_classes(config, domains.classes), len(domains.classes), task)
    kept = () if initial is None else take_over(model, plugins, initial, domains, config)
    attach_shares(model, config, task, domains.truth)
    _set_statistics(model, config)
    if config.model.checkpointing:
        shared = fabric.world_size > 1 or config.train.accumulate > 1
        checkpoint_blocks(model, config.model.backbone, shared=shared)
    _try_backbone(model, config)
    refuse_other_forward(resolved.plugins, plugins, model, config.data.size)
    views = plugins.request_views(config)
    stages = plugins.plan(config, model, {side: side_info(domains, side) for side in SIDES}, task)
    _check_views(views, stages, domains.sources)
    if fabric.world_size > 1:
        refuse_alone(config, stages)
    refuse_gradients(config, stages)
    shards = shards_of(config, resolved.plugins, model)
    if config.train.accumulate > 1 and any(stage.stream for stage in stages):
        what = "a stream's batches are answered as they come, whole"
        raise UserInputError(what, where="train.accumulate", fix="leave it out")
    # The step is wrapped, not the network: hooks get the plain model.
    module = cast("StepModule", fabric.setup_module(_step_of(model, plugins, resolved)))
    evaluator = Evaluator(fabric, plugins, config.data)
    evaluator.calibration = limited(config, domains.classes)
    train = config.train
    # Of the network on its device, which wrapping has moved it to.
    average = None if train.ema is None else WeightAverage(model, train.ema, train.ema_buffers)
    if train.compile:
        for network in (model, *([] if average is None else [average.model])):
            network.compile()
        _try_compiled(model, config, fabric)
    context = RunContext(
        resolved, plugins, domains, fabric, model, module, stages, views, evaluator, task, average, initial, kept,
        shards,
    )  # fmt: skip
    # Last: only a loader knows how many steps an epoch of these data and batches has.
    return replace(context, stages=tuple(_counted(context, stage) for stage in stages))


def _check_selection(config: RunConfig, *, has_units: bool) -> None:
    """Make sure that what is to be chosen by can be worked out, before anything is trained.

    Args:
        config: settings. has_units: whether the data has action units.

    Raises:
        UserInputError: for an unknown score, or one whose evidence the run will not have.
    """
    for name in config.select.scores:
        needs(name)
    rule = config.select.rule
    if rule == LAST:
        return
    asked, where = needs(rule), f"select.rule={rule}"
    if not config.train.eval_every:
        fix = "give train.eval_every, steps between candidates"
        raise UserInputError("nothing to choose from", where=where, fix=fix)
    if needs_source(rule) and not config.task.validation:
        fix = "hold some out: data.source_validation=0.1"
        raise UserInputError("that score needs source samples that are not trained on", where=where, fix=fix)
    if "target_au" in asked and not has_units:
        raise UserInputError("that score needs action units", where=where, fix="give data.au")


def _with_classes(config: RunConfig, classes: tuple[str, ...]) -> RunConfig:
    """Return the settings with the run's classes by name, whoever chose them."""
    return config.model_copy(update={"data": config.data.model_copy(update={"classes": classes})})


def _counted(context: RunContext, stage: Stage) -> Stage:
    """Return the stage with its length in steps, where it is given in epochs."""
    if stage.epochs is None:
        return stage
    per_epoch = stage.steps_per_epoch or context.loader(stage).steps_per_epoch
    return replace(stage, steps=stage.epochs * per_epoch, epochs=None, steps_per_epoch=per_epoch)


def resolve_here(resolved: ResolvedRun) -> ResolvedRun:
    """Replace the device "auto" by the one in use, and make paths absolute, so that a run goes on as it began.

    Raises:
        UserInputError: if CUDA is asked for and not there.
    """
    device = device_here(resolved.config.device)
    data, protocol = resolved.config.data.absolute(), resolved.config.protocol
    update = {"device": device, "data": data, "protocol": protocol and absolute_protocol(protocol)}
    return replace(resolved, config=resolved.config.model_copy(update=update))


def device_here(wanted: Device) -> Device:
    """Return the device to use for one that is asked for.

    Raises:
        UserInputError: if CUDA is asked for and not there.
    """
    usable = torch.cuda.is_available()
    if wanted == "cuda" and not usable:
        raise UserInputError("no CUDA device is usable here", where="--device cuda", fix="run with --device cpu")
    return ("cuda" if usable else "cpu") if wanted == "auto" else wanted


def build_fabric(config: RunConfig) -> Fabric:
    """Prepare device, precision, memory, threads and determinism; the device must be resolved."""
    if config.train.allocator == "keep":
        keep_memory()
    if config.train.threads is not None:
        _refuse_many_threads(config.train.threads)
        torch.set_num_threads(config.train.threads)
    elif (here := started()) is not None:
        # Whatever a launcher set: torchrun gives each process one thread, another may give each all.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // here.local_world))
    if config.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic matrix products need on CUDA
    torch.use_deterministic_algorithms(config.train.deterministic, warn_only=True)
    # No result depends on memory that nobody wrote, and filling each new tensor is a pass over it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return fabric_of(config)


def _refuse_many_threads(threads: int) -> None:
    """Refuse more threads than a system may be able to start; it would end the process without a word."""
    cores = os.cpu_count() or 1
    most = max(64, 4 * cores)
    if threads > most:
        what = f"{threads} CPU threads are more than this machine of {cores} cores should start"
        raise UserInputError(what, where="train.threads", fix=f"{most} at most; leave it out for all cores")


@torch.no_grad()
def _try_backbone(model: Model, config: RunConfig) -> None:
    """Refuse a backbone that does not take images of this size, before anything is written."""
    size, training = config.data.size, model.training
    model.eval()
    try:
        # In evaluation mode: batch norm refuses a single image in training.
        model.backbone(torch.zeros(1, 3, size, size))
    except Exception as error:
        reason = f"{type(error).__name__}: {(str(error) or 'no reason given').splitlines()[0]}"
        what = f"backbone {config.model.backbone!r} does not take {size} px images: {reason}"
        raise UserInputError(what, where="model.backbone, data.size", fix="change one of them") from error
    model.train(training)


@torch.no_grad()
def _try_compiled(model: Model, config: RunConfig, fabric: Fabric) -> None:
    """Compile the network for evaluation, so that a machine that cannot says so before anything is written."""
    size, training, random = config.data.size, model.training, random_state()
    model.eval()
    try:
        with fabric.autocast():
            # Two images: a batch of 1 would be compiled as a constant of that size.
            model(torch.zeros(2, 3, size, size, device=fabric.device))
    except Exception as error:
        reason = f"{type(error).__name__}: {(str(error) or 'no reason given').strip().splitlines()[0]}"
        what = f"torch.compile does not work for this network on this machine: {reason}"
        raise UserInputError(what, where="train.compile", fix="take train.compile=false") from error
    finally:
        model.train(training)
        restore_random_state(random)


def _set_statistics(model: Model, config: RunConfig) -> None:
    model.mean = config.data.mean or model.mean
    model.std = config.data.std or model.std


def _check_views(views: Sequence[ViewRequest], stages: Sequence[Stage], sources: Sequence[object]) -> None:
    if sources and not any(view.side == "source" for view in views):
        fix = "name a method that trains, or, for one that needs no source, give --target alone"
        raise UserInputError("no plugin of this run asks for a view of the source", fix=fix)
    if not sources and any(view.side == "source" for view in views):
        raise HookError("hook 'request_views': a view of the source is asked for, and the run has no source")
    names = [stage.name for stage in stages]
    for view in views:
        unknown = set(view.stages or ()) - set(names)
        if unknown:
            raise HookError(f"hook 'request_views': {view} names stages {sorted(unknown)}; the plan has {names}")
    for stage in stages:
        if not any(view.serves(stage.name) for view in views):
            raise HookError(f"no view is asked for in stage {stage.name!r}")
