"""Trained models: loaded, asked, scored, reported on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fercore.api.arguments import PathLike, Spec, flips, listed, path_or_none
from fercore.arguments import Assignments
from fercore.config import Device
from fercore.data.spec import as_spec
from fercore.errors import UserInputError

if TYPE_CHECKING:
    from fercore.prediction.evaluation import Evaluation
    from fercore.prediction.predictor import Predictor
    from fercore.prediction.summary import Summary
    from fercore.prediction.tables import Row


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
        how = AdaptSettings(adapt, set, reset_every, path_or_none(state))
        predictor = load_adapting(os.fspath(model), how, device=device, live=camera is not None)
    return run_predict(
        predictor, listed(inputs), camera=camera, out=path_or_none(out), settings=settings, resume=resume,
        annotate=path_or_none(annotate), tell=tell, each=each, progress=progress,
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


def report(path: PathLike, *, out: PathLike | None = None, faces: bool = True) -> Path:
    """Write the report of a finished run, or of a comparison, as one HTML file, and return its path.

    Args:
        path: the folder of one. out: a new .html file; None = report.html there, in the place of an earlier one.
        faces: whether face images are in it, which are personal data.

    Raises:
        UserInputError: if there is nothing to report on, a package is missing, or the file cannot be written.
    """
    from fercore.reporting.report import write_report

    return write_report(Path(path), path_or_none(out), faces=faces)
