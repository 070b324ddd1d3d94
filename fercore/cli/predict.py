"""`fercore predict` and `evaluate`: a model's answers on new images. Parse and print, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fercore import api
from fercore.api.arguments import flips
from fercore.cli.cluster import OnAddress, OnCpus, OnExecutor, OnGpus, machines_of
from fercore.cli.mirror import mirrors
from fercore.errors import UserInputError
from fercore.terminal import counted, say

if TYPE_CHECKING:
    from fercore.cluster import Machines
    from fercore.prediction.predict import Progress
    from fercore.prediction.summary import Summary
    from fercore.prediction.tables import Row

OPTIONS: dict[str, Any] = {
    "tta": Annotated[str | None, typer.Option(help="flip = the mean over a face and its mirror image.")],
    "au": Annotated[
        str | None,
        typer.Option(help="Action units, for models that read them: a CSV, folder, network or installed detector."),
    ],
    "device": Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto, cpu or cuda.")],
    "workers": Annotated[int, typer.Option(min=0, max=256, help="Threads that decode; 0 = one a core.")],
}
"""Options of both commands."""
PREDICT: dict[str, Any] = {
    **OPTIONS,
    "model": Annotated[Path, typer.Argument(help="A run folder, or a model/ folder.")],
    "inputs": Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT", help="Images, folders, patterns, videos, FORMAT:PATH, - for paths on stdin."),
    ],
    "camera": Annotated[int | None, typer.Option(help="Number of a camera, instead of INPUT.")],
    "out": Annotated[Path | None, typer.Option(help="New .csv, .jsonl or .parquet; without it lines are printed.")],
    "columns": Annotated[str, typer.Option(help="fercore, pyfeat or openface3.")],
    "faces": Annotated[
        str | None, typer.Option(help="whole = a picture is a face; detect; or a py-feat CSV or OpenFace folder.")
    ],
    "detector": Annotated[str, typer.Option(help="mtcnn, facenet, yunet, retinaface, or an installed one.")],
    "weights": Annotated[Path | None, typer.Option(help="Weights of a detector that brings none.")],
    "every": Annotated[int, typer.Option(help="Of videos, every so many frames one.")],
    "fps": Annotated[float | None, typer.Option(help="Of videos, so many frames a second.")],
    "smooth": Annotated[float | None, typer.Option(help="Of videos, seconds that answers are averaged over.")],
    "annotate": Annotated[
        Path | None, typer.Option(help="New .mp4 for one video, or folder: pictures with boxes and classes.")
    ],
    "resume": Annotated[bool, typer.Option("--resume", help="Resume an interrupted --out.")],
    "adapt": Annotated[str | None, typer.Option(help="Adapt after each batch: tent, rotta, t3a, ...")],
    "set": Annotated[list[str] | None, typer.Option("--set", "-s", help="With --adapt: section.key=value.")],
    "reset_every": Annotated[int | None, typer.Option(min=1, help="With --adapt: images until the initial model.")],
    "state": Annotated[Path | None, typer.Option(help="With --adapt: folder that its state is kept in.")],
}
EVALUATE: dict[str, Any] = {
    **OPTIONS,
    "models": Annotated[
        list[Path], typer.Argument(metavar="MODEL", help="Run folders, or model/ folders; one or more.")
    ],
    "spec": Annotated[str, typer.Argument(metavar="SPEC", help="FORMAT:PATH[?option=value&...], labelled.")],
    "seed": Annotated[int, typer.Option(help="Seed of the bootstrap.")],
    "replicates": Annotated[int, typer.Option(help="Replicates of the bootstrap.")],
}


@mirrors(api.predict, PREDICT)
def predict(
    given: dict[str, Any],
    executor: OnExecutor = "local",
    address: OnAddress = None,
    num_cpus: OnCpus = 1.0,
    num_gpus: OnGpus = 0.0,
) -> None:
    """Say which expression images and videos show, with probabilities, as a table."""
    import time

    from fercore.cli.data import progress_bar
    from fercore.console import print_lines

    out, live = given.get("out"), "camera" in given
    machines = machines_of(executor, address, num_cpus, num_gpus)
    each = _print_row if out is None or live else _silent
    begun = time.perf_counter()
    with progress_bar("predicting", show=out is not None and not live) as progress:
        if machines is None:
            summary = api.predict(**given, tell=lambda line: say(line, error=True), each=each, progress=progress)
        else:
            summary = _on_cluster(given, machines, progress)
    seconds = time.perf_counter() - begun
    if out is not None:
        print_lines([*summary.lines(), f"written to {out} in {seconds:.1f} s, and to {out}.json what it was made of"])
    else:
        for line in summary.lines():
            say(line, error=True)


def _on_cluster(given: dict[str, Any], machines: Machines, progress: Progress | None) -> Summary:
    """Predict in shards; `given` is as for `api.predict`."""
    from fercore.datasets.prepare.one import PrepareSettings
    from fercore.prediction.predict import PredictSettings
    from fercore.prediction.shards import Work, predict_in_shards
    from fercore.prediction.video import Stride

    alone = {"camera", "annotate", "adapt", "set", "reset_every", "state"} & given.keys()
    if alone or "out" not in given:
        what = f"--{sorted(alone)[0].replace('_', '-')} goes with one process" if alone else "shards need a table"
        fix = "leave it out, or leave out --executor ray" if alone else "give --out"
        raise UserInputError(what, where="--executor ray", fix=fix)
    weights = given.get("weights")
    prepare = PrepareSettings(
        detector=given.get("detector", "mtcnn"), weights=None if weights is None else str(weights)
    )
    settings = PredictSettings(
        columns=given.get("columns", "fercore"),
        faces=given.get("faces"),
        prepare=prepare,
        stride=Stride(given.get("every", 1), given.get("fps")),
        flip=flips(given.get("tta")),
        workers=given.get("workers", 0),
        smooth=given.get("smooth"),
        au=given.get("au"),
    )
    work = Work(str(given["model"]), given.get("device", "auto"), settings)
    resume = given.get("resume", False)
    return predict_in_shards(work, given.get("inputs", ()), given["out"], machines, resume=resume, progress=progress)


@mirrors(api.evaluate, EVALUATE)
def evaluate(
    given: dict[str, Any],
    out: Annotated[Path | None, typer.Option(help="New .json file for all of it.")] = None,
) -> None:
    """Score models on a labelled dataset, with 95 % intervals; several side by side with paired differences."""
    from fercore.cli.data import progress_bar
    from fercore.console import print_lines, print_table
    from fercore.writing import refuse_taken, write_json

    if out is not None:
        refuse_taken(out, ".json")
    with progress_bar("predicting") as progress:
        evaluation = api.evaluate(**given, progress=progress)
    drawn = f"bootstrap by {evaluation.unit}, {evaluation.units} of them, seed {evaluation.seed}"
    print_table(
        f"{evaluation.spec}: {counted(evaluation.n, 'image')}, points with 95 % intervals ({drawn})",
        *evaluation.table(),
    )
    if evaluation.differences:
        print_table(f"differences to {given['models'][0]}, paired", *evaluation.difference_table())
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
