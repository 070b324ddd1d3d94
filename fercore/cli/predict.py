"""`fercore predict` and `evaluate`: a model's answers on new images. Parse and print, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fercore.terminal import say

if TYPE_CHECKING:
    from fercore.prediction.tables import Row

Model = Annotated[Path, typer.Argument(help="A run folder, or a model/ folder.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto, cpu or cuda.")]


def predict(
    model: Model,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT", help="Images, folders, patterns, videos, FORMAT:PATH, - for paths on stdin."),
    ] = None,
    camera: Annotated[int | None, typer.Option(help="Number of a camera, instead of INPUT.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="New .csv, .jsonl or .parquet; without it lines are printed.")
    ] = None,
    columns: Annotated[str, typer.Option(help="fercore, pyfeat or openface3.")] = "fercore",
    faces: Annotated[
        str | None, typer.Option(help="whole = a picture is a face; detect; or a py-feat CSV or OpenFace folder.")
    ] = None,
    detector: Annotated[str, typer.Option(help="mtcnn, facenet, yunet, retinaface, or an installed one.")] = "mtcnn",
    weights: Annotated[Path | None, typer.Option(help="Weights of a detector that brings none.")] = None,
    every: Annotated[int, typer.Option(help="Of videos, every so many frames one.")] = 1,
    fps: Annotated[float | None, typer.Option(help="Of videos, so many frames a second.")] = None,
    tta: Annotated[str | None, typer.Option(help="flip = the mean over a face and its mirror image.")] = None,
    smooth: Annotated[float | None, typer.Option(help="Of videos, seconds that answers are averaged over.")] = None,
    annotate: Annotated[
        Path | None, typer.Option(help="New .mp4 for one video, or folder: pictures with boxes and classes.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted --out.")] = False,
    device: Device = "auto",
    workers: Annotated[int, typer.Option(min=0, max=256, help="Threads that decode; 0 = one a core.")] = 0,
) -> None:
    """Say which expression images and videos show, with probabilities, as a table."""
    import time

    from fercore import api
    from fercore.cli.data import progress_bar
    from fercore.console import print_lines

    begun = time.perf_counter()
    with progress_bar("predicting", show=out is not None and camera is None) as progress:
        summary = api.predict(
            model, inputs or (), camera=camera, out=out, columns=columns, faces=faces, detector=detector,
            weights=weights, every=every, fps=fps, tta=tta, smooth=smooth, annotate=annotate, resume=resume,
            device=device, workers=workers, tell=lambda line: say(line, error=True),
            each=_print_row if out is None or camera is not None else _silent, progress=progress,
        )  # fmt: skip
    seconds = time.perf_counter() - begun
    if out is not None:
        print_lines([*summary.lines(), f"written to {out} in {seconds:.1f} s, and to {out}.json what it was made of"])
    else:
        for line in summary.lines():
            say(line, error=True)


def evaluate(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL", help="Run folders, or model/ folders; one or more.")],
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="FORMAT:PATH[?option=value&...], labelled.")],
    out: Annotated[Path | None, typer.Option(help="New .json file for all of it.")] = None,
    tta: Annotated[str | None, typer.Option(help="flip = the mean over a face and its mirror image.")] = None,
    device: Device = "auto",
    workers: Annotated[int, typer.Option(min=0, max=256, help="Threads that decode; 0 = one a core.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    replicates: Annotated[int, typer.Option(help="Replicates of the bootstrap.")] = 2000,
) -> None:
    """Score models on a labelled dataset, with 95 % intervals; several side by side with paired differences."""
    from fercore import api
    from fercore.cli.data import progress_bar
    from fercore.console import print_lines, print_table
    from fercore.writing import refuse_taken, write_json

    if out is not None:
        refuse_taken(out, ".json")
    with progress_bar("predicting") as progress:
        evaluation = api.evaluate(
            models, spec, tta=tta, device=device, workers=workers, seed=seed, replicates=replicates, progress=progress
        )
    drawn = f"bootstrap by {evaluation.unit}, {evaluation.units} of them, seed {evaluation.seed}"
    print_table(f"{evaluation.spec}: {evaluation.n} images, points with 95 % intervals ({drawn})", *evaluation.table())
    if evaluation.differences:
        print_table(f"differences to {models[0]}, paired", *evaluation.difference_table())
    for name in evaluation.models:
        print_table(f"{name}: classes, and what each was taken for", *evaluation.class_table(name))
    print_lines([f"left out {n}: {reason}" for reason, n in evaluation.left_out.items()])
    print_lines(evaluation.notes)
    if out is not None:
        write_json(out, evaluation.to_json())
        print_lines([f"written to {out}"])


def _silent(row: Row) -> None:
    pass


def _print_row(row: Row) -> None:
    frame = "" if row.number is None else f" frame {row.number}"
    face = f" face {row.face}" if row.face else ""
    said = row.refused or f"{row.prediction} {max(row.probs):.3f}"
    say(f"{row.input}{frame}{face}: {said}")
