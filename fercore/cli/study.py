"""`fercore study` and `fercore table`: methods on pairs over seeds, and their table. Parse and print."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fercore.cli.cluster import OnAddress, OnCpus, OnExecutor, OnGpus, machines_of
from fercore.errors import UserInputError
from fercore.experiments.study_file import study_names
from fercore.terminal import printable, say

if TYPE_CHECKING:
    from fercore.experiments.executors import Executor
    from fercore.experiments.study import Study
    from fercore.experiments.tables import Spread, StudyTable

Metric = Annotated[
    str | None, typer.Option(help="accuracy, balanced_accuracy or macro_f1; the study's own if not given.")
]


def study(
    study: Annotated[
        str | None, typer.Argument(metavar="STUDY.toml|NAME|DIR", help="Without it the studies that come with fercore.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results, runs/NAME if not given; it goes on.")
    ] = None,
    scale: Annotated[str | None, typer.Option(help="A scale of the study, such as small.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder that holds the protocols' datasets by name.")] = None,
    pair: Annotated[list[str] | None, typer.Option(help="Only this pair; may be repeated.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Only this method and the reference; may be repeated.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Runs at a time, each in its own process; 1, on a cluster all that have room."),
    ] = None,
    executor: OnExecutor = "local",
    address: OnAddress = None,
    num_cpus: OnCpus = 1.0,
    num_gpus: OnGpus = 0.0,
    storage: Annotated[
        str | None, typer.Option(help="URL where the cluster's machines keep runs; without it they share --out.")
    ] = None,
    status: Annotated[
        bool, typer.Option("--status", help="Say what is done and what is missing, train nothing.")
    ] = False,
    cell: Annotated[
        str | None, typer.Option(help='Only this cell of a study\'s folder: "PAIR, METHOD, seed N".')
    ] = None,
    emit: Annotated[
        Literal["slurm"] | None, typer.Option(help="Write an array script of the cells that are left, train nothing.")
    ] = None,
) -> None:
    """Run methods on pairs of domains over seeds, or go on with them; print their table."""
    from fercore import console
    from fercore.experiments.executors import LocalExecutor
    from fercore.experiments.study import STUDY, Study

    if study is None:
        console.print_lines(study_names())
        return
    if (Path(study) / STUDY).is_file():
        if out is not None or scale is not None or data_root is not None or pair or method:
            what = "the folder of a study goes with no option that changes it"
            raise UserInputError(what, where="fercore study", fix="give the study's file to change it")
        opened = Study.read(Path(study))
    else:
        if cell is not None:
            raise UserInputError("--cell goes with a study's folder", where="fercore study", fix="give that folder")
        folder = out or Path("runs") / "-".join(filter(None, [Path(study).stem, scale]))
        opened = Study(study, folder, scale=scale, data_root=data_root, pairs=pair or (), methods=method or ())
    if emit is not None:
        _emit(opened, jobs or 1)
        return
    if status:
        _status(opened, jobs or 1)
        return
    if cell is not None:
        _one_cell(opened, cell)
        return
    machines = machines_of(executor, address, num_cpus, num_gpus)
    if machines is None:
        if storage is not None:
            raise UserInputError("--storage is of a cluster", where="fercore study", fix="add --executor ray")
        _run(opened, jobs or 1, LocalExecutor(jobs or 1))
        return
    from fercore.experiments.ray_executor import on_cluster

    most = jobs if opened.file.search is None else jobs or 1
    with on_cluster(machines, opened.out, storage=storage, most=most) as cluster:
        _run(opened, most or 2, cluster)


def _run(opened: Study, jobs: int, executor: Executor) -> None:
    """Run what is left of a study or search, and print what it comes to."""
    from fercore import console
    from fercore.experiments.study import FRAME
    from fercore.experiments.tables import study_table

    if opened.file.search is not None:
        _search(opened, jobs, executor)
        return
    end = opened.run(jobs=jobs, executor=executor, observe=console.observer_for(jobs))
    _print_text(study_table(opened), "std")
    try:
        opened.write_frame()
    except UserInputError as error:
        console.print_lines([f"no {FRAME}: {error}"])
    console.print_lines(
        [f"written to {opened.out}", f"next: fercore table {shlex.quote(str(opened.out))} --format latex"]
    )
    if not end.complete:
        console.print_lines([*status_lines(opened, jobs)[:1], "the same command tries again what failed"])
        raise typer.Exit(1)


def _emit(opened: Study, jobs: int) -> None:
    import shutil

    from fercore import console
    from fercore.experiments.slurm import submitting, write_scripts

    paths = write_scripts(opened, command=shutil.which("fercore") or "fercore", jobs=jobs)
    console.print_lines([*(f"written to {path}" for path in paths), *(f"next: {line}" for line in submitting(paths))])


def _one_cell(opened: Study, label: str) -> None:
    from fercore import console

    status = opened.run(observe=console.observer_for(1), only=label)
    states = {f"{pair}, {method}, seed {seed}": state for (method, pair, seed), state in status.states.items()}
    console.print_lines([f"{states[label]}: {label}"])
    if states[label] != "finished":
        raise typer.Exit(1)


def _status(opened: Study, jobs: int) -> None:
    from fercore import console
    from fercore.experiments.search_table import search_notes
    from fercore.experiments.search_trials import Trials

    lines = status_lines(opened, jobs) if opened.cells else []
    console.print_lines([*lines, *(search_notes(Trials(opened)) if opened.file.search is not None else [])])


def _search(opened: Study, jobs: int, executor: Executor) -> None:
    from fercore import console
    from fercore.experiments.search import Search
    from fercore.experiments.search_table import BEST, search_notes, trial_rows

    search = Search(opened)
    search.run(jobs=jobs, executor=executor, observe=console.observer_for(jobs))
    console.print_table(f"{search.row}: best trials", *trial_rows(search, most=10))
    console.print_lines([*search_notes(search), f"written to {opened.out}"])
    if search.best is None:
        raise typer.Exit(1)
    plugins = "+".join(opened.cell(search.row, *search.anywhere).cell.entry.plugins)
    best = shlex.quote(str(opened.out / BEST))
    console.print_lines([f"next: fercore run --plugin {plugins} --config {best}"])


def status_lines(study: Study, jobs: int) -> list[str]:
    """Return how far a study is: a line on the whole, and one on every cell that is not finished."""
    now = study.status(jobs=jobs)
    left = "" if now.seconds_left is None or now.complete else f", about {_duration(now.seconds_left)} of training left"
    counts = ", ".join(f"{now.count(state)} {state}" for state in ("finished", "begun", "failed", "missing"))
    lines = [f"{len(now.states)} cells: {counts}{left}"]
    for (method, pair, seed), state in now.states.items():
        if state != "finished":
            reason = now.reasons.get((method, pair, seed))
            lines.append(f"{state}: {pair}, {method}, seed {seed}" + (f": {reason}" if reason else ""))
    return lines


def table(
    folder: Annotated[
        Path, typer.Argument(metavar="STUDY", help="Folder that `fercore study` wrote, finished or not.")
    ],
    format_: Annotated[
        Literal["text", "markdown", "latex", "csv", "html"],
        typer.Option("--format", help="text, markdown, latex, csv or html."),
    ] = "text",
    metric: Metric = None,
    spread: Annotated[
        Literal["std", "interval"], typer.Option(help="Over seeds: sample deviation, or Student's 95 % interval.")
    ] = "std",
    published: Annotated[
        bool, typer.Option("--published", help="Set the numbers of the study's paper beside.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write it here instead of printing it.")] = None,
) -> None:
    """Print the table of a study: means, spread, ranks, paired differences and their significance."""
    from fercore.experiments.study import Study
    from fercore.experiments.tables import FORMATS, study_table

    opened = Study.read(folder)
    if opened.file.search is not None:
        if metric is not None or published:
            what = "a search has one score and no published numbers"
            raise UserInputError(what, where="fercore table", fix="leave --metric and --published out")
        _search_table(opened, format_, out)
        return
    made = study_table(opened, metric=metric, published=published)
    if format_ == "text":
        if out is not None:
            raise UserInputError("text is for the terminal", where="--out", fix="give --format markdown")
        _print_text(made, spread)
        return
    from fercore.reporting.study_page import study_page_html

    formats = {**FORMATS, "html": study_page_html}
    _hand_over(formats[format_](made, spread), out)


def _search_table(opened: Study, format_: str, out: Path | None) -> None:
    from fercore import console
    from fercore.experiments.search_table import search_notes, trial_rows, trials_csv
    from fercore.experiments.search_trials import Trials
    from fercore.reporting.search_page import search_page_html

    search = Trials(opened)
    if format_ == "text" and out is None:
        console.print_table(opened.file.title or search.row, *trial_rows(search))
        console.print_lines(search_notes(search))
    elif format_ in ("csv", "html"):
        _hand_over(trials_csv(search) if format_ == "csv" else search_page_html(search), out)
    else:
        what = f"a search has no table in {format_}"
        raise UserInputError(what, where="--format", fix="give html or csv, or text without --out")


def _hand_over(text: str, out: Path | None) -> None:
    """Print a text or write it."""
    from fercore.writing import refuse_taken, write_text

    if out is None:
        say(text.rstrip("\n"), keep="\n")
    else:
        refuse_taken(out)
        write_text(out, text)
        say(f"written to {out}")


def _print_text(made: StudyTable, spread: Spread) -> None:
    from rich.table import Table
    from rich.text import Text

    from fercore import console
    from fercore.experiments.tables import grid, notes

    head, rows = grid(made, spread)
    styles = {"plain": "", "best": "bold", "second": "underline", "published": "italic"}
    drawn = Table(title=printable(made.title) or None, title_justify="left")
    for number, name in enumerate(head):
        drawn.add_column(printable(name), justify="right" if number else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(printable(cell.text), style=styles[cell.kind]) for cell in row))
    console.console.print(drawn)
    console.print_lines(notes(made, spread))


def _duration(seconds: float) -> str:
    from datetime import timedelta

    return str(timedelta(seconds=round(seconds)))
