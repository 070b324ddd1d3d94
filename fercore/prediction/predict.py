"""`fercore predict`: inputs in, a table of answers and a summary out."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from fercore.data.images.codecs import Unusable
from fercore.datasets.prepare.one import PrepareSettings
from fercore.documents import parse_json
from fercore.errors import UserInputError, reason_of
from fercore.evaluation.distances import FeatureSample
from fercore.files import read_text
from fercore.prediction.action_units import ActionUnits, units_for
from fercore.prediction.adapting import Adapting
from fercore.prediction.annotate import Annotator
from fercore.prediction.camera import Camera, window_for
from fercore.prediction.faces import Detected, Finder, Listed, Tracker, Whole, crop_check
from fercore.prediction.inputs import Frame, Inputs, find_inputs, read_frame
from fercore.prediction.predictor import Predictor
from fercore.prediction.smooth import Smoother
from fercore.prediction.stream import Answer, answers
from fercore.prediction.summary import Summary, distance_of
from fercore.prediction.tables import AGAIN, Layout, Row, TableWriter, check_out, layout_of
from fercore.prediction.video import Stride
from fercore.runs.folder import versions
from fercore.stopping import Interrupted, handling
from fercore.terminal import counted
from fercore.writing import write_json

LOOKED_AT = 8
"""Inputs that a detector looks at before pictures are taken for faces."""

Progress: TypeAlias = Callable[[int, int], None]
Tell: TypeAlias = Callable[[str], None]


@dataclass(frozen=True)
class PredictSettings:
    """How a model is let predict.

    Attributes:
        columns: of the table: "fercore", "pyfeat" or "openface3".
        faces: "whole", "detect", or the path of a table of faces; None = whole, and a line if that looks wrong.
        prepare: how faces are found and cut out. stride: which frames of videos are taken.
        flip: whether mirror images are asked, too. workers: threads that decode; 0 = one a core.
        smooth: seconds that answers through a video are averaged over; None = they are not. See `Smoother`.
        au: who says which action units faces show, for models that read them; None = see `units_for`.

    Raises:
        UserInputError: if `smooth` is no time.
    """

    columns: str = "fercore"
    faces: str | None = None
    prepare: PrepareSettings = field(default_factory=PrepareSettings)
    stride: Stride = field(default_factory=Stride)
    flip: bool = False
    workers: int = 0
    smooth: float | None = None
    au: str | None = None

    def __post_init__(self) -> None:
        if self.smooth is not None and not (math.isfinite(self.smooth) and self.smooth > 0):
            raise UserInputError(f"{self.smooth} seconds", where="--smooth", fix="give a number above 0")

    def record(self) -> dict[str, Any]:
        """Return what decides the answers, as JSON values."""
        # As many threads as anybody likes give the same rows: a table goes on with another number of them.
        return {**asdict(self), "prepare": self.prepare.record(), "workers": None, "faces": self.faces or "whole"}


class Artist(Protocol):
    """What is given every picture, once it is answered."""

    def draw(self, frame: Frame, pixels: np.ndarray | None, rows: Sequence[Row]) -> None:
        """Take a picture uint8[H,W,3], where it could be read."""

    def close(self) -> None:
        """Hear that there are no more."""


def predict(
    predictor: Predictor,
    inputs: Sequence[str],
    *,
    camera: int | None = None,
    out: Path | None = None,
    settings: PredictSettings | None = None,
    resume: bool = False,
    annotate: Path | None = None,
    tell: Tell = lambda line: None,
    each: Callable[[Row], None] = lambda row: None,
    progress: Progress | None = None,
) -> Summary:
    """Predict on inputs, and write a row for every face and for every picture without one.

    Args:
        predictor: the model. inputs: see `find_inputs`; none with a camera.
        camera: number of a camera, shown in a window where there is a display, until q or a signal ends it.
        out: a new .csv, .jsonl or .parquet; beside it OUT.json says what it was made of. None = nothing is written.
        resume: go on with a table that was interrupted.
        annotate: a new .mp4 or folder for what was looked at, with the answers drawn on it.
        tell: hears lines for people. each: gets every new row.
        progress: told pictures done and in all.

    Raises:
        UserInputError: for inputs, settings, the model or the table. What was written by then stays, and is readable.
        Interrupted: for a signal; says how to go on.
    """
    how = settings or PredictSettings()
    if isinstance(predictor, Adapting):
        predictor.tell = tell
        _begin_adapting(predictor, how, resume=resume)
    layout = layout_of(how.columns, predictor.classes)
    if out is not None:
        check_out(out, resume=resume)
    elif resume:
        raise UserInputError("nothing to go on with", where="--resume", fix="give the --out of the first time")
    if camera is not None:
        return _live(predictor, Camera(camera), inputs, how, out, layout, annotate or resume, each, tell)
    frames = find_inputs(inputs, stride=how.stride, scaling=predictor.scaling)
    if frames.ignored:
        tell(f"{counted(frames.ignored, 'other file')} in the folders left alone")
    if annotate is not None and resume:
        raise UserInputError("--annotate draws from the start", where="--resume", fix="leave one of them out")
    finder = _finder(how, frames)
    artist = None if annotate is None else Annotator(annotate, frames)
    if how.faces is None and (line := no_crops(frames, how.prepare)):
        tell(line)
    units = units_for(predictor, frames, how.au, tell)
    work = _Work(predictor, frames, finder, how, Summary(predictor.classes), artist, units)
    try:
        _deliver(work, out, layout, resume=resume, each=each, progress=progress)
    finally:
        if artist is not None:
            artist.close()
    return work.summary


def _live(
    predictor: Predictor,
    camera: Camera,
    inputs: Sequence[str],
    how: PredictSettings,
    out: Path | None,
    layout: Layout,
    other: object,
    each: Callable[[Row], None],
    tell: Tell,
) -> Summary:
    """Predict on a camera until it is stopped."""
    if inputs or other or how.faces not in (None, "whole", "detect"):
        fix = "leave out inputs, --resume, --annotate and tables of faces"
        raise UserInputError("a camera goes alone", where="--camera", fix=fix)
    how = replace(how, faces=how.faces or "detect")
    window = window_for(camera)
    if window is None:
        tell("no display, or an OpenCV without windows: lines instead; Ctrl-C ends it")
    finder = Whole() if how.faces == "whole" else Detected(how.prepare)
    frames = Inputs((camera,))
    units = units_for(predictor, frames, how.au, tell)
    work = _Work(predictor, frames, finder, how, Summary(predictor.classes), window, units, live=True)
    try:
        with handling(lambda number, frame: camera.stop()):
            _deliver(work, out, layout, resume=False, each=each, progress=None)
    finally:
        if window is not None:
            window.close()
    return work.summary


def _deliver(
    work: _Work,
    out: Path | None,
    layout: Layout,
    *,
    resume: bool,
    each: Callable[[Row], None],
    progress: Progress | None,
) -> None:
    """Hand on every row, and write the table and what it was made of beside it where that is asked for."""
    if out is None:
        for row in work.rows(progress):
            each(row)
        return
    beside = out.with_name(f"{out.name}.json")
    record = {"schema": 1, **work.record()}
    if resume:
        _refuse_other(beside, record)
    table = TableWriter(out, layout, resume=resume)
    try:
        if resume:
            adapting = work.predictor if isinstance(work.predictor, Adapting) else None
            work.replay(table.rows(), None if adapting is None else adapting.pictures)
        write_json(beside, {**record, "finished": False})
        for rows in work.batches(progress):
            table.write(rows)
            for row in rows:
                each(row)
    except KeyboardInterrupt as stop:
        table.close()
        number = {"number": stop.number} if isinstance(stop, Interrupted) else {}
        pictures = counted(work.summary.frames, "picture")
        text = f"interrupted with {pictures} in {out}; the same command with --resume goes on"
        raise Interrupted(**number, text=text) from None
    except BaseException:
        table.close()
        raise
    table.close()
    write_json(beside, {**record, "finished": True, **work.summary.to_json(), **work.adapted()})
    table.drop_lines()


@dataclass
class _Work:
    """Predicting, from inputs to rows; goes on behind rows that are there."""

    predictor: Predictor
    inputs: Inputs
    finder: Finder
    how: PredictSettings
    summary: Summary
    artist: Artist | None = None
    units: ActionUnits | None = None
    live: bool = False
    done: dict[str, int] = field(default_factory=dict)
    last: str = ""
    clip: _Clip | None = None
    skipped: int = 0

    def record(self) -> dict[str, Any]:
        """Return what the answers come from, as JSON values."""
        model = self.predictor.record
        return {
            "model": {
                "plugins": [plugin.name for plugin in model.plugins],
                "settings_sha256": model.provenance.settings_sha256,
                "seed": model.provenance.seed,
                "classes": list(model.classes),
                "device": str(self.predictor.device.type),
            },
            "settings": self.how.record(),
            **({"adapt": self.predictor.how.record()} if isinstance(self.predictor, Adapting) else {}),
            "versions": versions(),
        }

    def adapted(self) -> dict[str, Any]:
        """Return what became of a model that adapts, as JSON values."""
        return {"adapted": self.predictor.report()} if isinstance(self.predictor, Adapting) else {}

    def replay(self, rows: Iterable[Row], most: int | None = None) -> None:
        """Take rows that are there for done.

        Args:
            most: pictures, from which on they are to be predicted again, without a row; None = all are done.

        Raises:
            UserInputError: if there are fewer.
        """
        there = Summary(self.predictor.classes)
        for row in rows:
            there.add(row)
            if most is not None and there.frames > most:
                continue
            self.summary.add(row)
            self.done[row.input] = -1 if row.number is None else row.number
            if row.input != self.last:
                self.last = row.input
            # The next frame of this video has to meet the same faces, and the same averages, as it would have.
            if row.face is not None and row.box is not None and row.time is not None:
                clip = self._clip(row.input)
                clip.tracker.remember({row.face: row.box}, row.time)
                if clip.smoother is not None:
                    clip.smoother.remember(row.face, row.probs, row.time)

        if most is not None and there.frames < most:
            what = f"the state is {most} pictures on, and the table has {there.frames}"
            raise UserInputError(what, where="--resume", fix="start a new --out with a new --state")
        self.skipped = there.frames - self.summary.frames

    def rows(self, progress: Progress | None) -> Iterator[Row]:
        """Yield rows one by one."""
        for rows in self.batches(progress):
            yield from rows

    def batches(self, progress: Progress | None) -> Iterator[list[Row]]:
        """Yield the rows of the frames that are not done, those of a batch at once."""
        workers = self.how.workers or os.cpu_count() or 1
        frames = self.inputs.frames(self.done, self.last)
        stream = answers(
            self.predictor,
            frames,
            self.finder,
            workers=workers,
            units=self.units,
            flip=self.how.flip,
            keep_pixels=self.artist is not None,
            live=self.live,
        )
        sample = FeatureSample()
        for batch in stream:
            rows: list[Row] = []
            for answer in batch:
                own = self._answered(answer, sample)
                rows += [] if self.skipped else own
                self.skipped = max(0, self.skipped - 1)
            if progress is not None:
                progress(self.summary.frames, max(self.summary.frames, self.inputs.total))
            yield rows
            self._keep(now=False)
        self._keep(now=True)
        self.summary.distance = distance_of(self.predictor, sample)
        # Means over mirror images or time, and answers of a model that has moved, are none that held-out source has.
        if not (self.how.flip or self.how.smooth or isinstance(self.predictor, Adapting)):
            self.summary.estimate_shares(self.predictor)

    def _keep(self, *, now: bool) -> None:
        """Save the state of a model that adapts, now that the rows of its answers are handed on."""
        if isinstance(self.predictor, Adapting):
            self.predictor.save(self.summary.frames, now=now)

    def _answered(self, answer: Answer, sample: FeatureSample) -> list[Row]:
        """Return the rows of a frame, counted and drawn."""
        sample.add(answer.features)
        rows = self._rows_of(answer)
        for row in rows:
            self.summary.add(row)
        if self.artist is not None:
            self.artist.draw(answer.looked.frame, answer.looked.pixels, rows)
        return rows

    def _rows_of(self, answer: Answer) -> list[Row]:
        looked, frame = answer.looked, answer.looked.frame
        if looked.refused:
            return [Row(frame.input, frame.part, frame.number, frame.time, refused=looked.refused)]
        picture = 0.0, 0.0, float(looked.width), float(looked.height)
        boxes = [picture if face is None else face.box for face in looked.faces]
        numbers, shares = list(range(len(boxes))), answer.probs.tolist()
        if frame.number is not None:
            clip, time = self._clip(frame.input), frame.time or 0.0
            numbers = clip.tracker.number(boxes, time)
            if clip.smoother is not None:
                shares = [clip.smoother.smooth(face, p, time) for face, p in zip(numbers, shares, strict=True)]
        classes = self.predictor.classes
        parts = zip(numbers, boxes, looked.faces, shares, strict=True)
        return [
            Row(frame.input, frame.part, frame.number, frame.time, number, box,
                None if face is None else face.score, tuple(probs), classes[probs.index(max(probs))])
            for number, box, face, probs in parts
        ]  # fmt: skip

    def _clip(self, name: str) -> _Clip:
        """Return what is known of a video; of the ones before nothing is kept."""
        if self.clip is None or self.clip.name != name:
            smooth = self.how.smooth
            self.clip = _Clip(name, Tracker(), None if smooth is None else Smoother(smooth))
        return self.clip


@dataclass(frozen=True)
class _Clip:
    """Who is who in a video, and what was said of them."""

    name: str
    tracker: Tracker
    smoother: Smoother | None


def _begin_adapting(predictor: Adapting, how: PredictSettings, *, resume: bool) -> None:
    """Take up the state of a model that adapts, and keep one to go back to.

    Raises:
        UserInputError: for mirror images, or to go on without a state.
    """
    if how.flip:
        raise UserInputError("mirror images are not for a model that adapts", where="--tta", fix="leave it out")
    if resume and predictor.how.state is None:
        what = "a model that adapts goes on from its state, and none was kept"
        raise UserInputError(what, where="--resume", fix="give --state DIR, the first time too")
    predictor.load()
    if not resume:
        predictor.save(0)


def _finder(how: PredictSettings, inputs: Inputs) -> Finder:
    if how.faces in (None, "whole"):
        return Whole()
    if how.faces == "detect":
        return Detected(how.prepare)
    return Listed(how.prepare, Path(str(how.faces)), tuple(inputs.names))


def no_crops(inputs: Inputs, prepare: PrepareSettings) -> str:
    """Return a line if most pictures, as far as a detector looks at them, are no crops of a face; "" if not.

    Where the detector is not installed, nothing is looked at.
    """
    seen = crop_check(_pixels(inputs.spread(LOOKED_AT)), prepare)
    if seen is None or seen.crops:
        return ""
    what = f"in {seen.small} of {counted(seen.found, 'picture')} looked at the face fills less than half of the side"
    return (
        f"{what}, and each is taken for a face as a whole: --faces detect finds them (--faces whole: not asked again)"
    )


def _pixels(frames: Iterable[Frame]) -> Iterator[np.ndarray]:
    """Yield the pixels uint8[H,W,3] of frames that can be read."""
    for frame in frames:
        with suppress(Unusable):
            yield np.asarray(read_frame(frame), dtype=np.uint8)


def _refuse_other(beside: Path, record: dict[str, Any]) -> None:
    """Make sure that a table that goes on was begun with this model and these settings.

    Raises:
        UserInputError: if not, or if what says so cannot be read.
    """
    try:
        begun = parse_json(read_text(beside), where=str(beside))
    except FileNotFoundError:
        raise UserInputError("no table to go on with", where=str(beside), fix="leave --resume out") from None
    except UserInputError:
        raise
    except (OSError, ValueError) as error:
        raise UserInputError(f"cannot be read: {reason_of(error)}", where=str(beside), fix=AGAIN) from None
    for part, wanted in record.items():
        given = begun.get(part) if isinstance(begun, dict) else None
        if given != wanted:
            differing = [name for name in wanted if not isinstance(given, dict) or given.get(name) != wanted[name]] \
                if isinstance(wanted, dict) else [part]  # fmt: skip
            what = f"the table was begun with other {part}: {', '.join(differing)}"
            raise UserInputError(what, where=str(beside), fix=AGAIN)
