"""The verdict on two models: from what their runs recorded, or by running both over a dataset; and with labels."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from fercore.config import Device, Spec
from fercore.data.domains.load import read_chosen
from fercore.data.spec import DomainSpec
from fercore.decisions.recorded import Recorded, aligned, class_amis, read_recorded, result_of
from fercore.documents import Shape, misfit, parse_json, plain_cell
from fercore.errors import UserInputError, did_you_mean, reason_of
from fercore.evaluation.label_shift import SharesByEstimator
from fercore.evaluation.verdict import (
    FEWEST,
    Verdict,
    disagreements,
    expected,
    with_labels,
    without_labels,
    witnesses,
)
from fercore.experiments.cells import folder_of
from fercore.files import read_text
from fercore.prediction.class_shares import class_shares
from fercore.prediction.predictor import load_predictor
from fercore.terminal import counted

NONE_OF_THEM = "none"
"""What a labeller says of an image that shows no class of the models: neither is right."""
ASKED = "ask.json"

Sampling: TypeAlias = Literal["equal", "consensus"]
"""How images to label are taken from those with several answers: with equal chances, which alone is a fair sample of
them, or those that are expected to tell most of which model is the best (`fercore.evaluation.consensus`)."""


class Asked(Shape):
    """Which labels were asked for, and how they were drawn.

    Attributes:
        images: from all disagreements, in the order they are shown. classes: by name. sampling: how they were taken.
        models: the folders, as they were given. target: SPEC, or None for what runs recorded. n, disagreements: images
            in all, and with several answers. seed: of the drawing.
    """

    schema_version: int
    images: list[str]
    classes: list[str]
    models: list[str]
    target: Spec | None
    n: int
    disagreements: int
    seed: int
    sampling: Sampling = "equal"


@dataclass(frozen=True)
class Compared:
    """Models on the same images.

    Attributes:
        images: by name. classes: by name. probs: f[n,K] of each model. features: f[n,D] of each, where models were run.
        class_amis: of each, as runs recorded it of the same images; [] where one did not.
        estimated_shares: of the classes, by the first model that carries what it says of held-out source, where models
            were run.
    """

    images: tuple[str, ...]
    classes: tuple[str, ...]
    probs: list[np.ndarray]
    features: list[np.ndarray]
    class_amis: list[float] = field(default_factory=list)
    estimated_shares: SharesByEstimator | None = None


def compared(models: Sequence[Path], target: DomainSpec | None, device: Device = "auto") -> Compared:
    """Return what models say of the same images.

    Args:
        models: run folders; with a target, `model/` folders too.
        target: SPEC whose images are predicted, all those that its `?split=` names; None = the adaptation part, as the
            runs recorded it. Labels are not looked at.

    Raises:
        UserInputError: for models that cannot be read or compared, or a target that cannot be read.
    """
    if target is None:
        recorded = [read_recorded(path) for path in models]
        images, probs = aligned(recorded)
        return Compared(images, recorded[0].classes, probs, [], class_amis(recorded[:2], images))
    table, _ = read_chosen(target)
    pixels = list(table.read_many(range(len(table))))
    recorded, features, shares = [], [], None
    for path in models:
        predictor = load_predictor(path, device=device)
        outputs = predictor.outputs(pixels)
        recorded.append(Recorded(str(path), table.keys, predictor.classes, outputs.probs))
        features.append(np.concatenate([outputs.features[name] for name in sorted(outputs.features)], axis=1))
        shares = shares or class_shares(predictor, outputs.probs)
    images, probs = aligned(recorded)
    return Compared(images, recorded[0].classes, probs, features, estimated_shares=shares)


def judge(
    reference: Path,
    adapted: Path,
    *,
    target: DomainSpec | None = None,
    others: Sequence[Path] = (),
    labels: Path | None = None,
    device: Device = "auto",
) -> Verdict:
    """Say whether the adapted model is better than the reference.

    Args:
        reference, adapted: as `compared` takes them. target: see there.
        others: further models whose word is heard, such as other seeds and methods.
        labels: CSV of image and label that `fercore ask` asked for.

    Raises:
        UserInputError: for wrong input; see `compared`, `read_labels` and `fercore.evaluation.verdict`.
    """
    comparison = compared([reference, adapted, *others], target, device)
    first, second, *rest = comparison.probs
    features, amis = comparison.features[:2], comparison.class_amis
    if labels is None:
        judged = without_labels(first, second, others=rest, features=features, class_amis=amis)
        return replace(judged, estimated_shares=comparison.estimated_shares)
    asked, given = read_labels(labels, comparison.classes)
    if asked.sampling != "equal":
        what = "these images were chosen to tell several models apart: no fair sample of what two disagree on"
        fix = f"rank the models by them: fercore select RUN... --labels {labels}; or ask anew for these two alone"
        raise UserInputError(what, where=str(labels), fix=fix)
    row = {image: at for at, image in enumerate(comparison.images)}
    if strange := [image for image in asked.images if image not in row]:
        what = f"labels of other images: {strange[0]!r} is none of these"
        raise UserInputError(what, where=str(labels), fix="give the --target that fercore ask had")
    apart = set(disagreements(first, second).tolist())
    planned = [row[image] for image in asked.images if row[image] in apart]
    labelled = [at for at in planned if comparison.images[at] in given]
    if not labelled:
        what = "no label of an image on which these two disagree"
        raise UserInputError(what, where=str(labels), fix="label some of those that fercore ask chose for them")
    names = [*comparison.classes, NONE_OF_THEM]
    truth = np.array([names.index(given[comparison.images[at]]) for at in labelled])
    before = expected(witnesses(first, second, others=rest, features=features, class_amis=amis))
    judged = with_labels(first, second, np.array(labelled), truth, planned=len(planned), before=before)
    return replace(judged, estimated_shares=comparison.estimated_shares)


def read_labels(path: Path, classes: Sequence[str]) -> tuple[Asked, dict[str, str]]:
    """Return what `fercore ask` asked for, and the labels that were given.

    Args:
        path: CSV of image and label; ask.json lies beside it. An empty label is not given yet. classes: of the models.

    Raises:
        UserInputError: for files that are not those, images that were not asked for, two labels of one image, or an
            unknown class.
    """
    asked = read_asked(path.parent / ASKED)
    try:
        rows = list(csv.reader(io.StringIO(read_text(path, "utf-8-sig"), newline="")))
    except FileNotFoundError:
        raise UserInputError("no such file of labels", where=str(path), fix="give --labels FILE.csv") from None
    except (OSError, ValueError, csv.Error) as error:
        raise UserInputError(f"cannot read labels: {reason_of(error)}", where=str(path)) from None
    if not rows or [cell.strip().lower() for cell in rows[0][:2]] != ["image", "label"]:
        raise UserInputError("first line is not image,label", where=f"{path}:1", fix="fill in what fercore ask wrote")
    wanted, given = set(asked.images), dict[str, str]()
    for number, row in enumerate(rows[1:], start=2):
        image, label = (plain_cell(cell).strip() for cell in (*row, "", "")[:2])
        where = f"{path}:{number}"
        if not label:
            continue
        if image not in wanted:
            what = f"label of an image that was not asked for: {image!r}"
            raise UserInputError(what, where=where, fix="labels of one's own choice would bias the answer; remove it")
        name = _class_of(label, classes, where)
        if given.setdefault(image, name) != name:
            what = f"contradicting labels of {image!r}: {given[image]} and {name}"
            raise UserInputError(what, where=where, fix="keep one of the two")
    return asked, given


def known_labels(
    paths: Sequence[Path], images: Sequence[str], classes: Sequence[str]
) -> tuple[list[Asked], dict[int, int]]:
    """Return what was asked for, and the labels of images by number: that of the class, K for none of them.

    Args:
        paths: CSVs as `read_labels` takes them. images, classes: of the models, by name.

    Raises:
        UserInputError: as `read_labels`, and for labels of other images or that contradict those of another file.
    """
    rounds, known = [], dict[int, int]()
    row, names = {image: at for at, image in enumerate(images)}, [*classes, NONE_OF_THEM]
    for path in paths:
        asked, given = read_labels(path, classes)
        rounds.append(asked)
        for image, name in given.items():
            if image not in row:
                what = f"labels of other images: {image!r} is none of these"
                raise UserInputError(what, where=str(path), fix="give the --target that fercore ask had")
            if known.setdefault(row[image], names.index(name)) != names.index(name):
                what = f"contradicting labels of {image!r} in two files"
                raise UserInputError(what, where=", ".join(map(str, paths)), fix="keep one of the two")
    return rounds, known


def _class_of(label: str, classes: Sequence[str], where: str) -> str:
    known = [*classes, NONE_OF_THEM]
    name = label.lower()
    if name not in known:
        raise UserInputError(f"unknown class {label!r}", where=where, fix=did_you_mean(name, known))
    return name


def read_asked(path: Path) -> Asked:
    """Return what an ask.json holds.

    Raises:
        UserInputError: if it is missing or damaged.
    """
    fix = "keep the folder that fercore ask wrote together: how images were drawn stands in it"
    try:
        document = parse_json(read_text(path), where=str(path))
    except FileNotFoundError:
        raise UserInputError(
            f"labels that nobody asked for: no {ASKED} beside them", where=str(path), fix=fix
        ) from None
    except (OSError, ValueError) as error:
        if isinstance(error, UserInputError):
            raise
        raise UserInputError(f"cannot read {ASKED}: {reason_of(error)}", where=str(path), fix=fix) from None
    if fault := misfit(document, Asked):
        raise UserInputError(f"{ASKED} is damaged: {fault}", where=str(path), fix=fix)
    return Asked.model_validate(document)


def judge_rows(out: Path, labels: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """Return a line for each row of a comparison but the first, if that is source_only: what the verdict is by seed.

    Args:
        out: folder of the comparison. labels: of its rows. seeds: of each row.

    Raises:
        UserInputError: if the recorded predictions cannot be read.
    """
    first, *rest = labels
    if any(result_of(folder_of(out, first, seed)).plugins != ["source_only"] for seed in seeds):
        return []
    lines = []
    for label in rest:
        words = []
        for seed in seeds:
            pair = [read_recorded(folder_of(out, name, seed)) for name in (first, label)]
            try:
                images, probs = aligned(pair)
            except UserInputError:  # a row with a target or classes of its own
                words.append("not comparable")
                continue
            if len(images) >= FEWEST and (probs[0].argmax(axis=1) != probs[1].argmax(axis=1)).any():
                words.append(without_labels(probs[0], probs[1], class_amis=class_amis(pair, images)).verdict)
        counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words)) or "the same model"
        lines.append(f"{label}: {counts} against {first}, by seed, without labels of the target")
    return lines


def advice(verdict: Verdict, reference: Path, adapted: Path) -> str:
    """Return what to do now, in a line."""
    if verdict.verdict == "helped":
        return f"take {adapted}"
    command = f"fercore ask {reference} {adapted} --n {verdict.labels_wanted} --out ask"
    more = f"; {counted(verdict.labels_wanted, 'label')} would settle it: {command}" if verdict.labels_wanted else ""
    return f"take the reference, {reference}{more}"


def fairness(reference: Path, adapted: Path) -> list[str]:
    """Return what else than adapting tells two runs apart, a line each; nothing for models without a run folder."""
    try:
        first, second = result_of(reference), result_of(adapted)
    except UserInputError:
        return []
    lines = []
    if first.plugins != ["source_only"]:
        lines.append(f"the reference is {'+'.join(first.plugins)}, not source_only")
    if first.steps != second.steps:
        lines.append(f"the reference was trained for {first.steps} steps, the other for {second.steps}")
    if any(result.target.transductive for result in (first, second)):
        lines.append("transductive: adapted to the test images themselves")
    return lines
