"""The Python interface: what `fercore.NAME` gives. Heavy modules are imported by the call that needs them.

The arguments of `train` and `compare` are those of `fercore run` and `fercore compare`, which call them.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from fercore.arguments import Assignments, Request, assigned, names_of, new_folder, only_longer, reopen, request_of
from fercore.config import Device, RunConfig, Strategy
from fercore.data.spec import DomainSpec, as_spec, folder_or_spec
from fercore.engine.observer import Observer
from fercore.errors import UserInputError
from fercore.experiments import comparison
from fercore.experiments.cells import parse_entry
from fercore.experiments.comparison import Comparison
from fercore.hooks.discovery import PluginInfo, check_early, installed_plugins
from fercore.processes import first_here, speaks, started
from fercore.records.result import Result
from fercore.terminal import counted

if TYPE_CHECKING:
    from fercore.adaptation.adapt import Adaptation
    from fercore.adaptation.look import Faces
    from fercore.decisions.judging import Asked, Sampling
    from fercore.decisions.ranking import Ranking
    from fercore.engine.setup import RunContext
    from fercore.evaluation.verdict import Verdict
    from fercore.experiments.search import Search
    from fercore.experiments.study import Study
    from fercore.hooks.assemble import ResolvedRun
    from fercore.prediction.evaluation import Evaluation
    from fercore.prediction.predictor import Predictions, Predictor
    from fercore.prediction.summary import Summary
    from fercore.prediction.tables import Row

__all__ = [
    "Adaptation",
    "Comparison",
    "Predictions",
    "Predictor",
    "Result",
    "Run",
    "Search",
    "Study",
    "UserInputError",
    "adapt",
    "ask",
    "compare",
    "describe",
    "evaluate",
    "load",
    "open_run",
    "plan",
    "plugins",
    "predict",
    "report",
    "select",
    "train",
    "verdict",
]

PathLike: TypeAlias = str | os.PathLike[str]
Spec: TypeAlias = DomainSpec | str
"""FORMAT:PATH[?option=value&...], as text or parsed."""
T = TypeVar("T", str, Spec)
Observe: TypeAlias = Callable[[str], Observer]
"""Makes what hears of a run from the run's label; for `compare` it must be importable."""


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


def silent(label: str) -> Observer:
    """Return what hears of a run and says nothing."""
    return Observer()


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
    with _starting():
        asked = _ask(plugin, set, resume, observe, given, with_reference=with_reference)
        if asked.alone_among_many:
            return _train_together(plugin, set, resume, observe, given, asked)
        prepared = _prepare(asked)
        from fercore.engine.describe import describe as lines_of

        context = prepared.context
        steps = sum(stage.steps for stage in context.stages)
        header = f"preset {context.config.preset} | {counted(steps, 'step')} | out {prepared.folder}"
        for line in [*lines_of(context, chain=verbose), *_protocol_lines(context), header]:
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
    with _starting():
        asked = _ask(plugin, set, None, observe, given, train_source=False)
        if asked.alone_among_many:
            asked = replace(asked, resolved=_with_devices(asked.resolved, 1, 1))
        context = _prepare(asked).context
        from fercore.engine.describe import describe as lines_of

        return [*lines_of(context, complexity=True, chain=verbose), *_protocol_lines(context)]


def open_run(path: PathLike) -> Run:
    """Open the folder of a run, finished or not.

    Raises:
        UserInputError: if it holds none.
    """
    from fercore.runs.folder import RunFolder

    if not RunFolder(Path(path)).begun:
        raise UserInputError("no run in this folder", where=str(path), fix="give a folder that a run wrote")
    return Run(Path(path))


def load(path: PathLike, *, device: Device = "auto") -> Predictor:
    """Load the model of a finished run, ready to predict; no dataset is loaded.

    Args:
        path: a run folder, or the `model/` in it. device: "auto" takes CUDA where it is usable.

    Raises:
        UserInputError: if there is no model, it is damaged or of a newer fercore, a plugin of it is missing or has
            another version, or the device is not there.
    """
    from fercore.prediction.predictor import load_predictor

    return load_predictor(path, device=device)


def predict(
    model: PathLike,
    inputs: str | Sequence[str] = (),
    *,
    camera: int | None = None,
    out: PathLike | None = None,
    columns: str = "fercore",
    faces: str | None = None,
    detector: str = "mtcnn",
    weights: PathLike | None = None,
    au: PathLike | None = None,
    every: int = 1,
    fps: float | None = None,
    tta: str | None = None,
    smooth: float | None = None,
    annotate: PathLike | None = None,
    resume: bool = False,
    adapt: str | None = None,
    set: Assignments = (),
    reset_every: int | None = None,
    state: PathLike | None = None,
    device: Device = "auto",
    workers: int = 0,
    tell: Callable[[str], None] = lambda line: None,
    each: Callable[[Row], None] = lambda row: None,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Predict on images, folders, patterns, datasets and videos, in constant memory; `fercore predict` calls it.

    Args:
        model: a run folder, or a `model/`. inputs: paths, patterns, FORMAT:PATH, or "-" for paths on standard input.
        camera: number of a camera instead of inputs, until q in its window or a signal ends it.
        out: a new .csv, .jsonl or .parquet in `columns` ("fercore", "pyfeat" or "openface3"); None = `each` alone.
        faces: "whole", "detect", or a table of faces by py-feat or OpenFace; None = whole, and a line if that looks
            wrong. detector, weights: which finds them.
        au: for models that read action units: a CSV or folder, a .safetensors network or an installed detector.
        every, fps: which frames of videos are taken. tta: "flip" asks mirror images, too.
        smooth: seconds that answers through a video are averaged over.
        annotate: a new .mp4 or folder for what was looked at, with boxes and classes drawn on it.
        resume: continues `out`.
        adapt: name of a test-time method by which the model adapts after each batch; set: settings of it, as for
            `train`; reset_every: images after which it is the initial model again; state: folder that its state is kept
            in and taken up from.
        device: as for `load`. workers: threads that decode; 0 = one a core.
        tell: hears lines for people. each: gets every row. progress: told pictures done and in all.

    Raises:
        UserInputError: for wrong input; what was written by then stays.
        Interrupted: for a signal; says how to go on.
    """
    from fercore.datasets.prepare.one import PrepareSettings
    from fercore.prediction.adapting import AdaptSettings, load_adapting
    from fercore.prediction.predict import PredictSettings
    from fercore.prediction.predict import predict as run_predict
    from fercore.prediction.video import Stride

    prepare = PrepareSettings(detector=detector, weights=None if weights is None else os.fspath(weights))
    units = None if au is None else os.fspath(au)
    settings = PredictSettings(columns, faces, prepare, Stride(every, fps), flips(tta), workers, smooth, units)
    if adapt is None and (set or reset_every is not None or state is not None):
        where = "--set, --reset-every, --state"
        raise UserInputError("settings of a model that adapts", where=where, fix="give --adapt")
    if adapt is None:
        predictor = load(model, device=device)
    else:
        how = AdaptSettings(adapt, set, reset_every, _path(state))
        predictor = load_adapting(os.fspath(model), how, device=device, live=camera is not None)
    return run_predict(
        predictor, _listed(inputs), camera=camera, out=_path(out), settings=settings, resume=resume,
        annotate=_path(annotate), tell=tell, each=each, progress=progress,
    )  # fmt: skip


def evaluate(
    models: PathLike | Sequence[PathLike],
    spec: Spec,
    *,
    tta: str | None = None,
    au: PathLike | None = None,
    device: Device = "auto",
    workers: int = 0,
    seed: int = 0,
    replicates: int = 2000,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score models on a labelled dataset, with bootstrap intervals, by subject where all subjects are known.

    Args:
        models: run folders, or `model/` folders; differences are taken to the first. spec: the dataset.
        tta: "flip" asks mirror images, too. au: as for `predict`, or `?au=` in the spec. device: as for `load`.
        workers: threads that decode; 0 = one a core.
        seed, replicates: of the bootstrap. progress: told images done and in all.

    Raises:
        UserInputError: for a model or spec that cannot be used, or no label that the models know.
    """
    from fercore.prediction.evaluation import evaluate as run_evaluate

    paths = [models] if isinstance(models, str | os.PathLike) else list(models)
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        raise UserInputError("the same model twice", where=", ".join(map(str, paths)), fix="name each of them once")
    loaded = {os.fspath(path): load(path, device=device) for path in paths}
    return run_evaluate(
        loaded, as_spec(spec), flip=flips(tta), au=None if au is None else os.fspath(au), workers=workers, seed=seed,
        replicates=replicates, progress=progress,
    )  # fmt: skip


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
    entries = [parse_entry(text) for text in _listed(method)]
    request = request_of(
        source=_listed(source), target=target, protocol=protocol, data_root=_path(data_root), init=_text(init),
        preset=preset, config=_path(config), assignments=set, device=device,
    )  # fmt: skip
    observe("compare").message(f"preset {request.preset}: {request.why}")
    for entry in entries:
        # Every row before the first is trained, by names and settings alone.
        check_early(entry.plugins, [*request.layers, entry.settings], preset=request.preset, row=entry.label)
    folder = _path(out) or new_folder(["compare"])
    return comparison.compare(
        entries, seeds, request.layers, preset=request.preset, out=folder, observe=observe, jobs=jobs,
        pretrain_source=pretrain_source,
    )  # fmt: skip


def adapt(
    target: Spec,
    *,
    source: Spec | Sequence[Spec] = (),
    init: PathLike | None = None,
    budget: str = "30m",
    method: Sequence[str] = (),
    preset: str | None = None,
    config: PathLike | None = None,
    set: Assignments = (),
    seed: int = 0,
    device: Device | None = None,
    out: PathLike | None = None,
    faces: Faces = "auto",
    ask: int = 0,
    report_faces: bool = True,
    tell: Callable[[str], None] = lambda line: None,
    observe: Observe = silent,
) -> Adaptation:
    """Adapt to a target inside a time, and ship a model: an adapted one only where it is believed to be better.

    A source model is trained where none is given, then methods of a portfolio that suit the data, each from that model;
    label-free scores choose, the verdict decides, held-out source calibrates. Called again with the same folder it goes
    on where it stopped.

    Args:
        target: folder of images, or a SPEC; its labels, where it has some, only score. source: labelled SPECs.
        init: a trained model instead of a source, or beside it. budget: "30m", "90s" or "1.5h", all included.
        method: labels of rows of the portfolio; none = those that suit the data. preset: small if not given.
        config, set, device: as for `train`. seed: of all runs. out: the folder; None = a new one under runs/.
        faces: auto = cut faces out where images are no crops; whole; detect.
        ask: images to label where it is unclear; 0 = none. With their labels the same call settles it.
        report_faces: whether face images are in the report.
        tell: hears lines for people. observe: makes what hears of a run from its label; importable.

    Raises:
        UserInputError: for wrong input, no time for even the reference, or a folder of another adaptation.
        Interrupted: for a signal; says how to go on.
    """
    from fercore.adaptation.adapt import Adaptation
    from fercore.adaptation.state import read_record

    given = {"preset": preset, "config": config, "assignments": set, "device": device, "init": init}
    options: dict[str, Any] = {"method": method, "faces": faces, "ask": ask, "report_faces": report_faces}
    folder = _path(out) or new_folder(["adapt"])
    _adapt(target, source, budget, seed, folder, given, options, tell, observe, only_plan=False)
    record = read_record(folder)
    assert record is not None
    return Adaptation(folder, record)


def plan(
    target: Spec,
    *,
    source: Spec | Sequence[Spec] = (),
    init: PathLike | None = None,
    budget: str = "30m",
    method: Sequence[str] = (),
    preset: str | None = None,
    config: PathLike | None = None,
    set: Assignments = (),
    seed: int = 0,
    device: Device | None = None,
    out: PathLike | None = None,
    faces: Faces = "auto",
    tell: Callable[[str], None] = lambda line: None,
    observe: Observe = silent,
) -> Path:
    """Look at the data, take a few steps of each method, tell the plan, and stop; `adapt` goes on from there.

    Returns:
        the folder.

    Raises:
        UserInputError, Interrupted: as `adapt`.
    """
    given = {"preset": preset, "config": config, "assignments": set, "device": device, "init": init}
    options: dict[str, Any] = {"method": method, "faces": faces, "ask": 0, "report_faces": True}
    folder = _path(out) or new_folder(["adapt"])
    _adapt(target, source, budget, seed, folder, given, options, tell, observe, only_plan=True)
    return folder


def _adapt(
    target: Spec,
    source: Spec | Sequence[Spec],
    budget: str,
    seed: int,
    folder: Path,
    given: Mapping[str, Any],
    options: Mapping[str, Any],
    tell: Callable[[str], None],
    observe: Observe,
    *,
    only_plan: bool,
) -> None:
    from fercore.adaptation import adapt as adaptation
    from fercore.adaptation.budget import seconds_of

    def request(sources: Sequence[DomainSpec], ready: DomainSpec) -> Request:
        named = {**given, "config": _path(given["config"]), "init": _text(given["init"])}
        return request_of(**{**named, "preset": given["preset"] or "small"}, source=sources, target=ready)

    sources = tuple(folder_or_spec(each) for each in _listed(source))
    if not sources and given["init"] is None:
        fix = "give --source SPEC (labelled faces), --init MODEL (a trained model), or both"
        raise UserInputError("nothing to adapt: neither a source nor a model", where="fercore adapt", fix=fix)
    settings = {key: str(value) for key, value in given.items() if value and key not in ("init", "assignments")}
    settings |= {f"--set {name}": str(value) for name, value in assigned(given["assignments"])}
    asked = adaptation.Asked(
        sources, folder_or_spec(target), _text(given["init"]), seconds_of(budget), seed, tuple(options["method"]),
        options["faces"], options["ask"], options["report_faces"], settings,
    )  # fmt: skip
    adaptation.adapt(asked, folder, request, observe, tell, only_plan=only_plan)


def report(path: PathLike, *, out: PathLike | None = None, faces: bool = True) -> Path:
    """Write the report of a finished run, or of a comparison, as one HTML file, and return its path.

    Args:
        path: the folder of one. out: a new .html file; None = report.html there, in the place of an earlier one.
        faces: whether face images are in it, which are personal data.

    Raises:
        UserInputError: if there is nothing to report on, a package is missing, or the file cannot be written.
    """
    from fercore.reporting.report import write_report

    return write_report(Path(path), _path(out), faces=faces)


def select(
    paths: PathLike | Sequence[PathLike],
    *,
    score: str | None = None,
    oracle: bool = False,
    labels: Sequence[PathLike] = (),
) -> Ranking:
    """Rank runs, the checkpoints of one, or the rows of a comparison, without target labels: `fercore select`.

    Args:
        paths: folders. score: ranks them; None = the mean rank of several. oracle: also say what target labels say.
        labels: CSVs of `fercore ask`, which then rank them in place of a score.

    Raises:
        UserInputError: for wrong input.
    """
    from fercore.decisions import ranking

    one = isinstance(paths, str | os.PathLike)
    listed: Sequence[PathLike] = [paths] if one else paths  # type: ignore[list-item,assignment]
    if labels:
        if score or oracle:
            raise UserInputError("labels go with no score", where="select", fix="leave score and oracle out")
        return ranking.rank_by_labels([Path(path) for path in listed], [Path(each) for each in labels])
    return ranking.rank([Path(path) for path in listed], score=score, oracle=oracle)


def ask(
    models: Sequence[PathLike],
    *,
    out: PathLike,
    n: int = 30,
    target: Spec | None = None,
    seed: int = 0,
    sampling: Sampling | None = None,
    labels: Sequence[PathLike] = (),
    device: Device = "auto",
) -> Asked:
    """Draw the images whose labels settle which model is better, and write a page to label them on.

    Args:
        models: run folders, the reference first. out: a new folder. n: images. target: as in `verdict`.
        seed: of the drawing. sampling: "equal" or "consensus"; None = equal chances for two models, which a verdict
            needs, and consensus-driven for more. labels: CSVs of earlier rounds. device: auto, cpu or cuda.

    Raises:
        UserInputError: for wrong input, or a folder that is taken.
    """
    from fercore.decisions import asking

    return asking.ask(
        [Path(path) for path in models], Path(out), n=n, target=_spec(target), seed=seed, sampling=sampling,
        labels=[Path(each) for each in labels], device=device,
    )  # fmt: skip


def verdict(
    reference: PathLike,
    adapted: PathLike,
    *,
    target: Spec | None = None,
    others: Sequence[PathLike] = (),
    labels: PathLike | None = None,
    device: Device = "auto",
) -> Verdict:
    """Say whether adapting helped, hurt, or is unclear, without target labels or with the few that were asked for.

    Args:
        reference, adapted: run folders. target: SPEC to predict; None = what the runs recorded of theirs.
        others: further runs whose word is heard. labels: the CSV of `fercore ask`. device: auto, cpu or cuda.

    Raises:
        UserInputError: for wrong input.
    """
    from fercore.decisions.judging import judge

    paths = [Path(path) for path in (reference, adapted, *others)]
    return judge(paths[0], paths[1], target=_spec(target), others=paths[2:], labels=_path(labels), device=device)


def plugins() -> dict[str, PluginInfo]:
    """Return every installed plugin by name, with its package and version; none is imported.

    Raises:
        UserInputError: if two packages offer one name, or a name is no identifier.
    """
    return installed_plugins()


@dataclass(frozen=True)
class _Asked:
    """What arguments ask for: settings and plugins, where it is written, and who hears of it."""

    resolved: ResolvedRun
    folder: Path
    observer: Observer
    layers: Sequence[Mapping[str, Any]]
    resumes: bool

    @property
    def alone_among_many(self) -> bool:
        """Whether the run is to have several processes, and this one has yet to start them."""
        config = self.resolved.config
        return config.devices * config.num_nodes > 1 and started() is None


@dataclass(frozen=True)
class _Prepared:
    context: RunContext
    folder: Path
    observer: Observer
    layers: Sequence[Mapping[str, Any]] = ()


_SPREAD = ("devices", "num_nodes", "strategy")


def _ask(
    plugin: str | Sequence[str],
    assignments: Assignments,
    resume: PathLike | None,
    observe: Observe,
    given: Mapping[str, Any],
    *,
    with_reference: bool = False,
    train_source: bool = True,
) -> _Asked:
    """Check what is asked for, before anything heavy is imported."""
    names = names_of(plugin)
    layers: list[dict[str, Any]] = []
    if resume is not None:
        others = {name: value for name, value in given.items() if name not in _SPREAD}
        if names or with_reference or any(value or value == 0 for value in others.values()):
            raise only_longer()
        folder, spread = Path(resume), {name: given[name] for name in _SPREAD if given.get(name) is not None}
        known = dict(assignments) if isinstance(assignments, Mapping) else assignments
        both = {**known, **spread} if isinstance(known, dict) else [*known, *(f"{k}={v}" for k, v in spread.items())]
        resolved = reopen(folder, both)
        observer = _heard("+".join(info.name for info in resolved.infos), observe)
    else:
        paths = {name: _path(given[name]) for name in ("data_root", "config")}
        # Where a run is written is no setting of it.
        kept = {name: value for name, value in given.items() if name not in ("out", "pretrain_source")}
        kept["init"] = _text(given["init"])
        request = request_of(**{**kept, **paths, "source": _listed(given["source"])}, assignments=assignments)
        observer = _heard("+".join(names), observe)
        if speaks():  # processes that a call starts leave it to the one that did
            observer.message(f"preset {request.preset}: {request.why}")
        check_early(names, request.layers, preset=request.preset)
        from fercore.hooks.assemble import assemble

        folder, layers = _path(given["out"]) or new_folder(names), request.layers
        if given["pretrain_source"] is not None:
            _refuse_source_model(layers)
            from fercore.experiments.source_model import with_source_model
            from fercore.runs.folder import RunFolder

            RunFolder(folder).refuse_if_taken()
            layers, line = with_source_model(
                layers, names, given["pretrain_source"], preset=request.preset, out=folder, observe=observe,
                train=train_source,
            )  # fmt: skip
            observer.message(line)
        if with_reference:
            from fercore.experiments.reference import reference_of, refuse_reference

            refuse_reference(names, layers)
        named = [{"report": {"reference": str(reference_of(folder))}}] if with_reference else []
        resolved = assemble(names, [*layers, *named], preset=request.preset)
    asked = _Asked(_as_started(resolved), folder, observer, layers, resume is not None)
    if with_reference and (asked.alone_among_many or started() is not None):
        fix = "train source_only by itself, and give it as report.reference"
        raise UserInputError("a reference is trained beside a run of one process", where="--with-reference", fix=fix)
    return asked


def _refuse_source_model(layers: Sequence[Mapping[str, Any]]) -> None:
    """Make sure that one process trains the model to start from, and no several at once.

    Raises:
        UserInputError: for a run of several processes.
    """
    asked = [layer.get(name, 1) != 1 for layer in layers for name in ("devices", "num_nodes")]
    if any(asked) or started() is not None:
        fix = "train source_only by itself, and give it as --init"
        raise UserInputError(
            "a source model is trained before a run of one process", where="--pretrain-source", fix=fix
        )


def _heard(label: str, observe: Observe) -> Observer:
    """Return who hears of a run; of several processes the first one's alone."""
    return observe(label) if first_here() else Observer()


def _as_started(resolved: ResolvedRun) -> ResolvedRun:
    """Return the run with as many processes as a launcher has started, where nobody says how many it should be."""
    here, config = started(), resolved.config
    if here is None or config.devices * config.num_nodes > 1:
        return resolved
    return _with_devices(resolved, here.local_world, here.world // here.local_world)


def _with_devices(resolved: ResolvedRun, devices: int, num_nodes: int) -> ResolvedRun:
    config = resolved.config.model_copy(update={"devices": devices, "num_nodes": num_nodes})
    return replace(resolved, config=config)


def _prepare(asked: _Asked) -> _Prepared:
    """Build what a run needs, or one that goes on."""
    from fercore.engine.setup import build_context
    from fercore.runs.folder import RunFolder

    folder = RunFolder(asked.folder)
    if not asked.resumes and first_here():
        # Before the data are read: a taken folder is told at once.
        folder.refuse_if_taken()
    context = build_context(asked.resolved, label_file=folder.label_file if asked.resumes else None)
    # Each process may have called a new folder otherwise, by its time.
    return _Prepared(context, context.processes.from_first(asked.folder), asked.observer, asked.layers)


def _train_together(
    plugin: str | Sequence[str],
    assignments: Assignments,
    resume: PathLike | None,
    observe: Observe,
    given: Mapping[str, Any],
    asked: _Asked,
) -> Run:
    """Train in processes that this call starts, each of which makes the call again."""
    from fercore.engine.setup import device_here
    from fercore.engine.several import places_here, refuse_many_devices
    from fercore.isolation import group

    config = asked.resolved.config
    refuse_many_devices(config.model_copy(update={"device": device_here(config.device)}))
    if not asked.resumes:
        from fercore.runs.folder import RunFolder

        RunFolder(asked.folder).refuse_if_taken()
        given = {**given, "out": asked.folder}
    call = partial(_train_here, plugin, assignments, resume, observe, dict(given))
    group(call, places_here(config))
    return Run(asked.folder)


def _train_here(
    plugin: str | Sequence[str], assignments: Assignments, resume: PathLike | None, observe: Observe,
    given: dict[str, Any],
) -> None:  # fmt: skip
    if not first_here():
        logging.lastResort = None
    train(plugin, set=assignments, resume=resume, observe=observe, **given)


def flips(tta: str | None) -> bool:
    """Return whether mirror images are asked, too.

    Raises:
        UserInputError: for a word that is not known.
    """
    if tta not in (None, "flip"):
        raise UserInputError(f"unknown value {tta!r}", where="--tta", fix="known: flip")
    return tta == "flip"


def _listed(given: T | Sequence[T]) -> Sequence[T]:
    return [given] if isinstance(given, str | DomainSpec) else given  # type: ignore[list-item, return-value]


def _spec(given: Spec | None) -> DomainSpec | None:
    return None if given is None else as_spec(given)


def _path(given: PathLike | None) -> Path | None:
    return None if given is None else Path(given)


def _text(given: PathLike | None) -> str | None:
    return None if given is None else os.fspath(given)


def _protocol_lines(context: RunContext) -> list[str]:
    """Return a line if the test part has another size than the run's protocol says."""
    if context.config.protocol is None:
        return []
    from fercore.datasets.protocols import load_protocol

    n, said = len(context.domains.test), load_protocol(context.config.protocol).n_test
    return (
        [f"protocol {context.config.protocol}: {counted(n, 'test image')}, not {said}"] if said not in (None, n) else []
    )


@contextmanager
def _starting() -> Iterator[None]:
    """Look for garbage seldom while modules are imported and data is loaded: what they make stays.

    The search would take a sixth of the start. Training has the usual one again, as its garbage may hold tensors.
    """
    before = gc.get_threshold()
    gc.set_threshold(20_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


LAZY = {
    "Adaptation": "fercore.adaptation.adapt",
    "Predictions": "fercore.prediction.predictor",
    "Predictor": "fercore.prediction.predictor",
    "Search": "fercore.experiments.search",
    "Study": "fercore.experiments.study",
}
"""Types whose modules need torch or much else -> where they stand."""


def __getattr__(name: str) -> Any:
    """Import the types of `LAZY` as they are asked for."""
    if name in LAZY:
        return getattr(import_module(LAZY[name]), name)
    raise AttributeError(f"module 'fercore.api' has no attribute {name!r}")
