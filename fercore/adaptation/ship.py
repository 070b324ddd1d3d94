"""Choosing among what was trained, without labels of the target, and making of it what leaves the folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from fercore.adaptation.look import FEWEST
from fercore.decisions.asking import ask
from fercore.decisions.judging import judge
from fercore.decisions.ranking import MEAN_RANK, rank
from fercore.errors import UserInputError
from fercore.evaluation.verdict import Verdict
from fercore.export.targets import export_model
from fercore.reporting.report import write_report
from fercore.runs.folder import MODEL
from fercore.runs.predictions import read_predictions
from fercore.writing import whole_folder

MODEL_NAME, ONNX_NAME, REPORT_NAME, ASK = "model", "model.onnx", "report.html", "ask"
RECORD = "model.json"


@dataclass(frozen=True)
class Choice:
    """Which model is shipped.

    Attributes:
        name: of its run. adapted: whether it is an adapted one. best: the adapted run that label-free scores put
            first; None without one. ranks: run -> mean rank over those scores. verdict: of the best one against the
            model it started from. beyond_training: against the reference. why: in words.
    """

    name: str
    adapted: bool
    best: str | None
    ranks: Mapping[str, float]
    verdict: Verdict | None
    beyond_training: Verdict | None
    why: str


def choose(
    first: str, reference: str, finalists: Sequence[str], path: Callable[[str], Path], labels: Path | None
) -> Choice:
    """Choose the model to ship: the best adapted one if it is believed to help, else the one it started from.

    Args:
        first: run of the model as it is. reference: run that trained on without adapting; "" without one. finalists:
            runs that adapted. path: of a run by its name. labels: CSV of `fercore ask`, as far as it is filled in.

    Raises:
        UserInputError: for labels that cannot be used.
    """
    if not finalists:
        return Choice(first, False, None, {}, None, None, "no method could be trained")
    pool = [first, *([reference] if reference else []), *finalists]
    ranking = rank([path(name) for name in pool])
    by_path = dict(zip(ranking.names, (-ranking.scores[MEAN_RANK]).tolist(), strict=True))
    ranks = {name: by_path[str(path(name))] for name in pool}
    best = min(finalists, key=lambda name: ranks[name])
    verdict, why = _judged(first, best, [name for name in pool if name not in (first, best)], path, labels)
    beyond = _judged(reference, best, [], path, None)[0] if reference else None
    helps = verdict is not None and verdict.verdict == "helped"
    return Choice(best if helps else first, helps, best, ranks, verdict, beyond, why)


def _judged(
    first: str, best: str, others: Sequence[str], path: Callable[[str], Path], labels: Path | None
) -> tuple[Verdict | None, str]:
    """Return the verdict, or None and why there is none; labels, where given, are to be right."""
    try:
        verdict = judge(path(first), path(best), others=[path(name) for name in others], labels=labels)
    except UserInputError as error:  # fewer than 20 images, or the same answers
        if labels is not None:
            raise
        return None, f"no verdict: {error.what}"
    points = f"{100 * verdict.difference:+.1f} points"
    ends = ", ".join(f"{100 * end:+.1f}" for end in verdict.interval)
    by = f"by {verdict.labels_used} labels" if verdict.labels_used else "without a label"
    return verdict, f"{best} against the model it started from: {verdict.verdict}, {points} [{ends}], {by}"


def ask_for(first: str, best: str, path: Callable[[str], Path], folder: Path, n: int) -> Path:
    """Write the page on which the images are labelled that settle which model is better; return the CSV to fill in."""
    out = folder / ASK
    if not out.exists():
        ask([path(first), path(best)], out, n=n)
    return out / "labels.csv"


def copy_model(run: Path, folder: Path) -> Path:
    """Copy the model of a run to `model/`, in the place of one that was chosen before; it appears whole.

    Raises:
        WriteError: if it cannot be written.
    """
    out = folder / MODEL_NAME
    shutil.rmtree(out, ignore_errors=True)
    with whole_folder(out, RECORD) as draft:
        for file in sorted((run / MODEL).iterdir()):
            shutil.copyfile(file, draft / file.name)
    return out


def write_files(run: Path, model: Path, folder: Path, *, faces: bool) -> tuple[dict[str, str], list[str]]:
    """Write ONNX and report, as far as packages are there; return files by what they are, and what was not written.

    Args:
        run: that is reported on. model: folder of the model. faces: whether face images are in the report.
    """
    files, missing = {"model": MODEL_NAME}, []
    for name in (ONNX_NAME, REPORT_NAME):
        (folder / name).unlink(missing_ok=True)  # of a model that was chosen before
    if find_spec("onnxscript") is None or find_spec("onnxruntime") is None:
        missing.append("no ONNX: pip install 'fercore[onnx]', then fercore export")
    else:
        try:
            export_model(model, folder / ONNX_NAME, to="onnx")
            files["onnx"] = ONNX_NAME
        except UserInputError as error:
            missing.append(f"no ONNX: {error.what}")
    if find_spec("matplotlib") is None:
        missing.append("no report: pip install 'fercore[report]', then fercore report")
    else:
        write_report(run, folder / REPORT_NAME, faces=faces)
        files["report"] = REPORT_NAME
    return files, missing


def agreement(first: Path, other: Path) -> float | None:
    """Return the share of images that two runs take for the same class; None where they share none."""
    one, two = read_predictions(first), read_predictions(other)
    mine = dict(zip(one.images, one.probs.argmax(axis=1).tolist(), strict=True))
    same = [
        mine[image] == answer
        for image, answer in zip(two.images, two.probs.argmax(axis=1).tolist(), strict=True)
        if image in mine
    ]
    return float(np.mean(same)) if same and one.classes == two.classes else None


def enough(n: int) -> bool:
    """Return whether a target of n images is large enough for a verdict."""
    return n >= FEWEST
