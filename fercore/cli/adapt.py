"""`fercore adapt`: data and a time in, a model to ship out. Parse and print."""

from __future__ import annotations

import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fercore import api
from fercore.arguments import new_folder
from fercore.cli.cluster import OnAddress, OnCpus, OnExecutor, OnGpus, machines_of
from fercore.cli.mirror import mirrors

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from fercore.adaptation.outcome import Adaptation
    from fercore.experiments.executors import Executor

ADAPT: dict[str, Any] = {
    "target": Annotated[
        str, typer.Option(help="Folder of images, or FORMAT:PATH[?option=value&...]; labels only score the result.")
    ],
    "source": Annotated[
        list[str] | None, typer.Option(help="FORMAT:PATH[?option=value&...], labelled; may be repeated.")
    ],
    "init": Annotated[
        str | None, typer.Option(help="A trained model instead of a source, or beside it: a run, a file, hf://...")
    ],
    "budget": Annotated[str, typer.Option(help="Time for all of it: 30m, 90s, 1.5h.")],
    "method": Annotated[
        list[str] | None, typer.Option(help="Only this row of the portfolio; may be repeated. Without it what suits.")
    ],
    "preset": Annotated[str | None, typer.Option(help="small (if not given), demo or paper.")],
    "config": Annotated[Path | None, typer.Option(help="TOML file of settings.")],
    "set": Annotated[list[str] | None, typer.Option("--set", "-s", help="section.key=value; may be repeated.")],
    "seed": Annotated[int, typer.Option(min=0, help="Seed of all runs.")],
    "device": Annotated[str | None, typer.Option(help="auto, cpu or cuda.")],
    "out": Annotated[
        Path | None, typer.Option(help="Folder for everything, a new one under runs/ if not given; it goes on.")
    ],
    "faces": Annotated[
        Literal["auto", "whole", "detect"],
        typer.Option(help="auto: cut faces out where images are no crops; whole; detect."),
    ],
    "ask": Annotated[int, typer.Option(min=0, help="Images to ask labels of where it is unclear; 0: none.")],
    "jobs": Annotated[int, typer.Option(min=1, help="Methods that train at a time, each in its own process.")],
    "report_faces": Annotated[bool, typer.Option("--faces-in-report/--no-faces", help="Face images in the report.")],
}


@mirrors(api.adapt, ADAPT)
def adapt(
    given: dict[str, Any],
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be done, by short runs, and stop.")] = False,
    executor: OnExecutor = "local",
    address: OnAddress = None,
    num_cpus: OnCpus = 1.0,
    num_gpus: OnGpus = 0.0,
) -> None:
    """Adapt to a folder of faces inside a time, and ship the adapted model only if it is believed to be better."""
    from fercore import console

    folder = given.pop("out", None) or new_folder(["adapt"])
    observe = console.observer_for(given["jobs"])
    heard: dict[str, Any] = {"tell": lambda line: console.print_lines([line]), "observe": observe}
    again = shlex.quote(str(folder))
    machines = machines_of(executor, address, num_cpus, num_gpus)
    if machines is None:
        at_work: AbstractContextManager[Executor | None] = nullcontext()
    else:
        from fercore.experiments.ray_executor import on_cluster

        at_work = on_cluster(machines, folder, most=given["jobs"])
    with at_work as runs:
        if plan:
            given = {name: value for name, value in given.items() if name not in ("ask", "report_faces")}
            api.plan(**given, out=folder, executor=runs, **heard)
            console.print_lines([f"next: the same command without --plan, and with --out {again}"])
            return
        done = api.adapt(**given, out=folder, executor=runs, **heard)
    _print(done, folder)


def _print(done: Adaptation, folder: Path) -> None:
    """Print what was tried, what is shipped and why, and where it is."""
    from fercore import console

    record = done.record
    console.print_table(f"tried on {record.n_target} images of the target, chosen without its labels", *done.table())
    if rest := done.not_trained():
        console.print_lines(["not trained, or not to the end:", *(f"  {line}" for line in rest)])
    kind = "the adapted model" if record.adapted else "the model as it was: adapting is not believed to help"
    lines = [f"shipped: {record.shipped}, {kind}"]
    if record.asked is not None:
        page = shlex.quote(str(Path(record.asked).with_name("page.html")))
        lines.append(f"unclear: label the images of {page} into {record.asked}, and give the same command again")
    written = ", ".join(str(folder / name) for name in record.files.values())
    lines += [f"written: {written}", f"next: fercore predict {shlex.quote(str(folder / record.files['model']))} DIR"]
    console.print_lines(lines)
