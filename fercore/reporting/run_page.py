"""The report of one run; that of a comparison has the same chapters for each of its rows."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import entropy

from fercore.errors import UserInputError
from fercore.evaluation.metrics import bootstrap, interval
from fercore.records.result import SCORES, Score
from fercore.reporting import faces, figures, measures
from fercore.reporting.blocks import Block, Chapter, Code, Figure, Figures, Note, Page, Table, Tiles
from fercore.reporting.collect import EvaluationLine, RunFiles, StepLine
from fercore.reporting.gradients import gradients
from fercore.reporting.inside import Features, Inside, look_inside
from fercore.terminal import counted


@dataclass(frozen=True, eq=False)
class Other:
    """Another model of the same data, which a run is set beside.

    Attributes:
        name: what it is called. probs: float[N,K] of the run's test part. features: of the same images.
    """

    name: str
    probs: np.ndarray
    features: Features


@dataclass(frozen=True, eq=False)
class View:
    """What is known of a run.

    Attributes:
        inside: what data and networks tell; None = `why` they do not.
        other: a model to set it beside. missing: why the reference is not shown.
        name: of the method. faces: of each kind, 0 = none are shown.
    """

    run: RunFiles
    inside: Inside | None
    why: str
    other: Other | None
    name: str
    faces: int
    missing: str = ""


def view_of(path: Path, points: int, faces: int) -> View:
    """Open a run to be shown.

    Args:
        path: its folder. points: images of each side whose features are worked out. faces: as in `View`.

    Raises:
        UserInputError: if there is no finished run, or something in its folder is not what a run writes.
    """
    run = RunFiles(path)
    try:
        return View(run, look_inside(run, points), "", None, run.name, faces)
    except UserInputError as error:
        return View(run, None, str(error), None, run.name, faces)


def beside(view: View, first: View) -> View:
    """Return a view that is set beside another run, where both are of the same images."""
    if view is first or view.inside is None or first.inside is None:
        return view
    # Runs may have other sources or another split: then images do not pair, and each stands alone.
    pairs = view.inside.test.keys == first.inside.test.keys
    if not pairs or len(view.inside.source_labels) != len(first.inside.source_labels):
        return view
    return replace(view, other=Other(first.name, first.inside.probs, first.inside.after))


def beside_reference(view: View, points: int) -> View:
    """Return a view beside the run that its setting `report.reference` names; where that is gone, with a word on it."""
    named = view.run.config.report.reference
    if named is None or view.inside is None:
        return view
    try:
        reference = view_of(Path(named), points, 0)
    except UserInputError as error:
        return replace(view, missing=str(error))
    if reference.inside is None:
        return replace(view, missing=reference.why)
    paired = beside(view, reference)
    missing = "it has other images" if paired.other is None else ""
    return replace(paired, missing=missing)


CURVES = (
    "Every term of the loss with its weight; the total is their sum. A term that stays flat is not learnt, or weighs "
    "too little beside the others; what jumps from step to step is the draw of the batch."
)


def run_page(view: View) -> Page:
    """Return the page of one run."""
    target = view.run.result.target
    images = counted(target.n_adaptation, "unlabelled image")
    lead = f"Adapted to {target.spec}, {images} of it; seed {view.run.result.seed}."
    chapters = [*chapters_of(view), Chapter("The run", list(about(view.run)))]
    return Page(view.name, lead, [chapter for chapter in chapters if chapter.blocks])


def chapters_of(view: View) -> list[Chapter]:
    """Return the chapters on scores, training, features and faces."""
    gone = [Note(f"Not shown, as it needs data and packages of the run: {view.why}")] if view.inside is None else []
    if view.missing:
        gone.append(Note(f"The reference is not shown beside it: {view.missing}"))
    shown = _faces(view) if view.faces else [Note("Left out, as face images are personal data.")]
    title = "Predictions" if view.run.confusion is None else "Scores"
    return [
        Chapter(title, [*_scores(view), Figures([*_errors(view), *_shares(view)], 2), *_estimated_shares(view)]),
        Chapter("Training", [Figures(list(_curves(view.run)), 4), *gradients(view.run)], CURVES),
        Chapter("Features", [Figures(list(_embeddings(view)), 2), *_distances(view), *gone]),
        Chapter("Faces", [*shown, *(gone if view.faces else [])]),
    ]


def _scores(view: View) -> Iterator[Block]:
    run = view.run
    if run.confusion is None:
        yield _unlabelled(view)
        return
    sums, unit = (view.inside and view.inside.sums()) or (measures.one_by_one(run.confusion), "image")
    drawn = bootstrap([sums])[0]
    ends = {name: "95 %: {:.3f} to {:.3f}".format(*interval(drawn[name])) for name in SCORES}
    names: list[Score] = sorted(SCORES, key=lambda name: name != run.result.primary_metric)
    tiles = [(_title_of(name), f"{run.result.target.score(name):.3f}", ends[name]) for name in names]
    under = f"chance is {1 / len(run.classes):.3f}; intervals: bootstrap of {len(sums.confusion)} {unit}s"
    yield Tiles([*tiles, ("test images", str(run.result.target.n), under)])
    yield from map(Note, _cautions(run))


def _title_of(score: Score) -> str:
    return score.replace("_", " ").replace("f1", "F1")


def _errors(view: View) -> Iterator[Figure]:
    confusion, beside = view.run.confusion, view.run.result.target.reference
    if beside is not None:
        yield figures.changes(view.run.square(beside.counts), view.run.classes, "+".join(beside.plugins))
    if confusion is None:
        yield figures.confidence_histogram(view.run.predictions.of("test").probs.max(axis=1))
        return
    yield figures.confusion_matrix(confusion, view.run.classes)
    yield figures.class_recall(confusion, view.run.classes)
    if view.inside is not None and (summed := view.inside.sums()) is not None:
        yield figures.reliability_diagram(measures.reliability(summed[0]))


def _unlabelled(view: View) -> Tiles:
    probs = view.run.predictions.of("test").probs
    confidence = probs.max(axis=1)
    tiles = [
        ("test images", str(len(probs)), "none has a label, so nothing is scored"),
        (
            "mean entropy",
            f"{entropy(probs, axis=1, base=probs.shape[1]).mean():.3f}",
            "0 = always sure, 1 = knows nothing",
        ),
        ("surer than 0.9", f"{(confidence > 0.9).mean():.1%}", "of the images"),
    ]
    beside = view.run.result.target.reference
    if beside is not None and beside.agreement is not None:
        name = f"same class as {'+'.join(beside.plugins)}"
        tiles.append((name, f"{beside.agreement:.1%}", "of the images; what adaptation left as it was"))
    return Tiles(tiles)


def _cautions(run: RunFiles) -> Iterator[str]:
    """Yield what a reader must know to take the scores for what they are."""
    target = run.result.target
    if target.labelled.n:
        yield f"Trained with {counted(target.labelled.n, 'label')} of the target: not unsupervised."
    if target.transductive:
        yield "Transductive: adapted to the very images that it is tested on, without their labels."
    if target.test_images_in_sources:
        images = counted(target.test_images_in_sources, "labelled source image")
        yield f"{images} in the test part too: the scores are too good."
    if target.adaptation_filtered_by_label:
        n = target.adaptation_filtered_by_label
        yield f"{counted(n, 'image')} left out of adaptation because of the class: this used labels."


def _shares(view: View) -> Iterator[Figure]:
    run = view.run
    counts = np.array(
        [[source.per_class.get(name, 0) for name in run.classes] for source in run.record.provenance.sources],
        dtype=float,
    )
    shares = {"source (labels)": counts.sum(axis=0) / counts.sum()} if counts.size and counts.sum() else {}
    if run.confusion is not None:
        shares["target (labels)"] = run.confusion.sum(axis=1) / run.confusion.sum()
    guess = run.predictions.probs.argmax(axis=1)
    shares["target (predicted)"] = np.bincount(guess, minlength=len(run.classes)) / max(1, len(guess))
    reading = (
        "A class predicted far more often than it is there swallows others. "
        "Where the sides have other shares, plain alignment does harm."
    )
    yield figures.class_shares(shares, run.classes, reading)
    if view.inside is not None and view.inside.units:
        yield figures.unit_shares(view.inside.unit_shares, view.inside.units)


def _estimated_shares(view: View) -> Iterator[Table]:
    estimates = view.run.result.target.estimated_shares or {}
    rows = [
        [
            each,
            *(f"{rows[each].share:.1%} ({rows[each].low:.1%} to {rows[each].high:.1%})" for rows in estimates.values()),
        ]
        for each in view.run.classes
    ]
    if estimates:
        title = "The target's class shares as its predictions and held-out source have them, with intervals of 95 %"
        yield Table(title, ("class", *(name.upper() for name in estimates)), rows)


def _curves(run: RunFiles) -> Iterator[Figure]:
    steps = [line for line in run.lines if isinstance(line, StepLine)]
    several = len({line.stage for line in steps}) > 1
    terms: dict[str, dict[str, list[tuple[int, float]]]] = {}
    rates: dict[str, list[tuple[int, float]]] = {}
    for line in steps:
        phase = f"{line.stage}/{line.phase}" if several else line.phase
        for name, value in {"total": line.total, **line.terms}.items():
            terms.setdefault(name, {}).setdefault(phase, []).append((line.done, value))
        # Groups of parameters with one rate are one line.
        for number, rate in enumerate(dict.fromkeys(line.lr), 1):
            rates.setdefault(phase if number == 1 else f"{phase} {number}", []).append((line.done, rate))
    for name, lines in terms.items():
        # Of one term with the weight 1 the total is that term.
        if name != "total" or len(terms) != 2 or lines not in [terms[other] for other in terms if other != name]:
            yield figures.curve(name, lines)
    if rates:
        yield figures.curve("learning rate", rates)
    evaluations = [line for line in run.lines if isinstance(line, EvaluationLine)]
    if len(evaluations) > 1:
        named = {SCORES[score]: [(line.done, getattr(line, score)) for line in evaluations] for score in SCORES}
        yield figures.curve("target scores", named, "By labels of the test part; nothing was chosen by them.")


def _embeddings(view: View) -> Iterator[Figure]:
    inside = view.inside
    if inside is None:
        return
    classes = view.run.classes
    labels = inside.labels[inside.drawn_target]
    guessed = inside.probs[inside.drawn_target].argmax(axis=1)
    kinds = np.concatenate([inside.source_labels, np.where(labels >= 0, labels, guessed)])
    domain = np.repeat([0, 1], [len(inside.source_labels), len(labels)])
    by = "true class" if (labels >= 0).all() else "class (predicted where nobody labelled it)"
    before = "before training" if view.other is None else f"of {view.other.name}"
    for named, features in ((before, _before(view)), ("after training", inside.after)):
        points = measures.embed(np.concatenate([features.source, features.target]))
        yield figures.embedding(
            f"Features {named}, by class", points, kinds, classes, domain,
            f"Coloured by {by}. Clusters of one colour are classes that the features tell apart. "
            "Distances between far clusters mean nothing in t-SNE.",
        )  # fmt: skip
        if not inside.source_names:
            continue
        yield figures.embedding(
            f"Features {named}, by domain", points, domain, ("source", "target"), domain,
            "The same points. Where the two colours keep apart, the features know the domain; where they mix, "
            "what was learnt on the source may hold for the target.",
        )  # fmt: skip


def _before(view: View) -> Features:
    assert view.inside is not None
    return view.inside.before if view.other is None else view.other.features


def _distances(view: View) -> Iterator[Block]:
    inside = view.inside
    if inside is None or not inside.source_names:
        return
    before, after, rows = _before(view), inside.after, []
    for number, name in enumerate(inside.source_names):
        own = inside.source_domain == number
        if own.sum() > 1:
            sides = [(features.source[own], features.target) for features in (before, after)]
            rows.append(
                [name, *(f"{measure(*side):.3f}" for measure in (measures.mmd, measures.a_distance) for side in sides)]
            )
    start = "before training" if view.other is None else f"of {view.other.name}"
    head = ("source", *(f"{measure} {when}" for measure in ("MMD", "A-distance") for when in (start, "after training")))
    yield Table("Distance of each source to the target in the features", head, rows)
    yield Note(
        "MMD: kernel distance of L2-normalised features, 0 = alike. Proxy A-distance: how well a linear classifier "
        "tells the domains apart, 0 = not at all, 2 = always. Nearer domains help only as far as the classes stay "
        "apart: see the features by class."
    )


def _faces(view: View) -> Iterator[Block]:
    if view.inside is None:
        return
    yield faces.sure_and_unsure(view.inside, view.run.classes, view.faces)
    if view.other is not None:
        names = (view.name, view.other.name)
        yield faces.disagreements(view.inside, view.other.probs, names, view.run.classes, 3 * view.faces)


def about(run: RunFiles) -> Iterator[Block]:
    """Yield what a run is, and how to make it again."""
    result = run.result
    yield Code("Run it again", command(run))
    facts = [
        ["preset", result.preset],
        ["steps", str(result.steps)],
        ["seed", str(result.seed)],
        ["device", result.device],
        ["training", f"{result.train_seconds:.0f} s, {result.seconds_per_step:.3f} s a step"],
        ["largest memory", f"{result.peak_memory_mb:.0f} MiB"],
        ["parameters", f"{result.parameters.trained:,} of {result.parameters.total:,} trained"],
        ["weights", "the last" if result.ema is None else f"their average (decay {result.ema.decay})"],
        *(
            [f"source {number}", f"{source.spec}, {counted(source.n, 'image')}"]
            for number, source in enumerate(result.sources, 1)
        ),
        ["target", f"{result.target.spec}, {counted(result.target.n_adaptation, 'image')}"],
    ]
    yield Table("Facts", ("what", "value"), facts, numbers=False)
    versions = {**result.versions, **run.folder.plugin_versions()}
    yield Table("Versions", ("package", "version"), list(versions.items()), numbers=False, folded=True)
    yield Table("SHA-256", ("what", "digest"), list(run.digests().items()), numbers=False, folded=True)
    settings = run.config.model_dump(mode="json")
    yield Table("Settings", ("setting", "value"), list(_leaves(settings)), numbers=False, folded=True)


def command(run: RunFiles) -> str:
    """Return the command that makes the same run again."""
    words = [word for name in run.result.plugins for word in ("--plugin", name)]
    return shlex.join(["fercore", "run", *words, "--config", str(run.path / "config.toml"), "--out", "runs/again"])


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[Sequence[str]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
