"""Runs: trained, described, opened, compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fercore.api.arguments import Observe, PathLike, Spec, listed, path_or_none, silent, text_or_none
from fercore.api.choosing import verdict
from fercore.api.models import load
from fercore.api.starting import ask_for, prepare, protocol_lines, starting, train_together, with_devices
from fercore.arguments import Assignments, new_folder, request_of
from fercore.config import Device, RunConfig, Strategy
from fercore.errors import UserInputError
from fercore.experiments import comparison
from fercore.experiments.cells import parse_entry
from fercore.experiments.comparison import Comparison
from fercore.hooks.discovery import PluginInfo, check_early, installed_plugins
from fercore.records.result import Result
from fercore.terminal import counted

if TYPE_CHECKING:
    from fercore.evaluation.verdict import Verdict
    from fercore.prediction.predictor import Predictor


@dataclass(frozen=True)
class Run:
    """A run and its folder on disk.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def finished(self) -> bool:
        """Whether it has a result."""
        from fercore.runs.folder import RunFolder

        return RunFolder(self.path).finished

    @property
    def result(self) -> Result:
        """Contents of result.json.

        Raises:
            UserInputError: if it cannot be read, or the run is not finished.
        """
        from fercore.runs.folder import RunFolder

        return RunFolder(self.path).result()

    @property
    def config(self) -> RunConfig:
        """Every setting of the run.

        Raises:
            UserInputError: if they cannot be read.
        """
        from fercore.config import check_settings
        from fercore.runs.folder import RunFolder

        return check_settings(RunConfig, RunFolder(self.path).config_layers(), prefix="")

    @property
    def reference(self) -> Run | None:
        """The run that it is set beside, `report.reference`; None without one."""
        named = self.config.report.reference
        return None if named is None else Run(Path(named))

    def verdict(self) -> Verdict | None:
        """Say whether adapting helped, against its reference; None without one. See `fercore.verdict`."""
        reference = self.reference
        return None if reference is None else verdict(reference.path, self.path)

    def load(self, *, device: Device = "auto") -> Predictor:
        """Load its model; see `fercore.load`."""
        return load(self.path, device=device)


def train(
    plugin: str | Sequence[str] = (),
    *,
    source: Spec | Sequence[Spec] = (),
    target: Spec | None = None,
    protocol: str | None = None,
    data_root: PathLike | None = None,
    init: PathLike | None = None,
    pretrain_source: int | None = None,
    preset: str | None = None,
    config: PathLike | None = None,
    set: Assignments = (),
    seed: int | None = None,
    device: Device | None = None,
    devices: int | None = None,
    num_nodes: int | None = None,
    strategy: Strategy | None = None,
    out: PathLike | None = None,
    resume: PathLike | None = None,
    with_reference: bool = False,
    verbose: bool = False,
    observe: Observe = silent,
) -> Run:
    """Train a method, score the adapted model on the target, and write a run folder.

    Args:
        plugin: METHOD[+ADDON...], or several of them. source, target: FORMAT:PATH[?option=value&...].
        protocol: a paper's sources and target. data_root: the folder that holds its datasets.
        init: a trained model to start from, such as a run folder.
        pretrain_source: steps of source_only on the same data, whose model is the one to start from; it is trained once
            and kept in source_models/ beside `out`, for every method.
        preset: demo, small or paper. config: a TOML file of settings.
        set: settings, "section.key=value" each, or dotted name -> value. seed: of data split, weights and batches.
        device: auto, cpu or cuda. out: the run folder; None = a new one under runs/.
        devices: processes on this machine that share the run, which this call starts and waits for; under torchrun or
            srun it is one of them. num_nodes: machines. strategy: how they share it. See docs/many_machines.md.
        resume: continue the run in this folder. verbose: tell the hook chain too.
        with_reference: first train source_only with the same data, sampling and steps in a process of its own, in a
            folder beside `out` that ends in "-reference"; `report.reference` names it, and `Run.verdict` goes by it.
        observe: makes what hears of progress; with a reference, or several processes, it must be importable.

    Raises:
        UserInputError: for wrong input, or a run that cannot be written; says what, where, and how to fix it.
        Interrupted: for Ctrl-C, SIGTERM or SIGHUP; a run in training has saved a checkpoint then.
        ProcessLostError: if one of several processes ended; says what is kept.
    """
    given: dict[str, Any] = {
        "source": source, "target": target, "protocol": protocol, "data_root": data_root, "init": init,
        "pretrain_source": pretrain_source, "preset": preset,
        "config": config, "seed": seed, "device": device, "out": out,
        "devices": devices, "num_nodes": num_nodes, "strategy": strategy,
    }  # fmt: skip
    with starting():
        asked = ask_for(plugin, set, resume, observe, given, with_reference=with_reference)
        if asked.alone_among_many:
            train_together(plugin, set, resume, observe, given, asked, train)
            return Run(asked.folder)
        prepared = prepare(asked)
        from fercore.engine.describe import describe as lines_of

        context = prepared.context
        steps = sum(stage.steps for stage in context.stages)
        header = f"preset {context.config.preset} | {counted(steps, 'step')} | out {prepared.folder}"
        for line in [*lines_of(context, chain=verbose), *protocol_lines(context), header]:
            prepared.observer.message(line)
        from fercore.engine.run import run
    if with_reference:
        from fercore.experiments.reference import reference_of, train_reference

        train_reference(context.config, prepared.layers, steps, reference_of(prepared.folder), observe)
    run(prepared.context, prepared.folder, prepared.observer, resume=resume is not None)
    return Run(prepared.folder)


def describe(
    plugin: str | Sequence[str] = (),
    *,
    source: Spec | Sequence[Spec] = (),
    target: Spec | None = None,
    protocol: str | None = None,
    data_root: PathLike | None = None,
    init: PathLike | None = None,
    pretrain_source: int | None = None,
    preset: str | None = None,
    config: PathLike | None = None,
    set: Assignments = (),
    seed: int | None = None,
    device: Device | None = None,
    devices: int | None = None,
    num_nodes: int | None = None,
    strategy: Strategy | None = None,
    out: PathLike | None = None,
    verbose: bool = False,
    observe: Observe = silent,
) -> list[str]:
    """Build everything that `train` would, train nothing, and return lines on data, network and plugins.

    Raises:
        UserInputError: as `train`.
    """
    given: dict[str, Any] = {
        "source": source, "target": target, "protocol": protocol, "data_root": data_root, "init": init,
        "pretrain_source": pretrain_source, "preset": preset,
        "config": config, "seed": seed, "device": device, "out": out,
        "devices": devices, "num_nodes": num_nodes, "strategy": strategy,
    }  # fmt: skip
    with starting():
        asked = ask_for(plugin, set, None, observe, given, train_source=False)
        if asked.alone_among_many:
            asked = replace(asked, resolved=with_devices(asked.resolved, 1, 1))
        context = prepare(asked).context
        from fercore.engine.describe import describe as lines_of

        return [*lines_of(context, complexity=True, chain=verbose), *protocol_lines(context)]


def open_run(path: PathLike) -> Run:
    """Open the folder of a run, finished or not.

    Raises:
        UserInputError: if it holds none.
    """
    from fercore.runs.folder import RunFolder

    if not RunFolder(Path(path)).begun:
        raise UserInputError("no run in this folder", where=str(path), fix="give a folder that a run wrote")
    return Run(Path(path))


def compare(
    method: str | Sequence[str],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    source: Spec | Sequence[Spec] = (),
    target: Spec | None = None,
    protocol: str | None = None,
    data_root: PathLike | None = None,
    init: PathLike | None = None,
    pretrain_source: int | None = None,
    preset: str | None = None,
    config: PathLike | None = None,
    set: Assignments = (),
    device: Device | None = None,
    out: PathLike | None = None,
    jobs: int = 1,
    observe: Observe = silent,
) -> Comparison:
    """Run several methods over several seeds, every run in a process of its own.

    Args:
        method: "[LABEL:]plugin[+plugin] [key=value ...]", one a row; differences are taken to the first.
        seeds: the same for every row. out: a folder that is there goes on. jobs: runs at a time.
        pretrain_source: as for `train`; every row of a seed starts from the same source model, itself the last row.
        observe: makes what hears of a run from its label; importable. The others: as for `train`.

    Raises:
        UserInputError: for wrong input, a target without labels, or a folder that holds a run with other settings.
        Interrupted: for a signal; says how to go on.
    """
    entries = [parse_entry(text) for text in listed(method)]
    request = request_of(
        source=listed(source), target=target, protocol=protocol, data_root=path_or_none(data_root),
        init=text_or_none(init), preset=preset, config=path_or_none(config), assignments=set, device=device,
    )  # fmt: skip
    observe("compare").message(f"preset {request.preset}: {request.why}")
    for entry in entries:
        # Every row before the first is trained, by names and settings alone.
        check_early(entry.plugins, [*request.layers, entry.settings], preset=request.preset, row=entry.label)
    folder = path_or_none(out) or new_folder(["compare"])
    return comparison.compare(
        entries, seeds, request.layers, preset=request.preset, out=folder, observe=observe, jobs=jobs,
        pretrain_source=pretrain_source,
    )  # fmt: skip


def plugins() -> dict[str, PluginInfo]:
    """Return every installed plugin by name, with its package and version; none is imported.

    Raises:
        UserInputError: if two packages offer one name, or a name is no identifier.
    """
    return installed_plugins()
