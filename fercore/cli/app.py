"""The command line: parse and print, nothing else. Heavy modules are imported by the command that needs them."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from fercore import __version__, api
from fercore.arguments import new_folder, only_longer
from fercore.cli import decide
from fercore.cli.adapt import adapt
from fercore.cli.au import au_app
from fercore.cli.author import plugin_app
from fercore.cli.data import data_app
from fercore.cli.export import export
from fercore.cli.installed import WithPackages
from fercore.cli.mirror import mirrors
from fercore.cli.plugins import plugins, settings
from fercore.cli.predict import evaluate, predict
from fercore.cli.report import report
from fercore.cli.study import study, table
from fercore.cli.weights import weights_app
from fercore.errors import UserInputError
from fercore.files import name_fault
from fercore.processes import LAUNCHED, ProcessLostError, first_here, speaks
from fercore.stopping import Interrupted, handling, interrupt, number_of
from fercore.terminal import guard_streams, lost_output, say
from fercore.writing import write_fault


class _Commands(WithPackages):
    """The commands; an interrupt, which typer would turn into a bare exit code, says what was kept."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            text = stop.text if isinstance(stop, Interrupted) else ""
            if speaks():
                say(f"fercore: {text or 'interrupted'}", error=True)
            sys.exit(128 + number_of(stop))


app = typer.Typer(
    cls=_Commands,
    name="fercore",
    help="Adapt facial-expression classifiers across domains with pluggable methods.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help texts hold brackets that are no markup
    context_settings={"max_content_width": 120},
)

DATA: dict[str, Any] = {
    "source": Annotated[
        list[str] | None, typer.Option(help="FORMAT:PATH[?option=value&...], labelled; may be repeated.")
    ],
    "target": Annotated[
        str | None, typer.Option(help="FORMAT:PATH[?option=value&...]; its labels only score the result.")
    ],
    "protocol": Annotated[str | None, typer.Option(help="A paper's sources and target: see `fercore protocols`.")],
    "data_root": Annotated[Path | None, typer.Option(help="Folder that holds the protocol's datasets by name.")],
    "init": Annotated[
        str | None, typer.Option(help="A trained model to start from: a run folder, its model/, and others.")
    ],
    "pretrain_source": Annotated[
        int | None,
        typer.Option(metavar="STEPS", help="Train a source model first, once for all methods, and start from it."),
    ],
    "preset": Annotated[str | None, typer.Option(help="demo, small or paper.")],
    "config": Annotated[Path | None, typer.Option(help="TOML file of settings.")],
    "set": Annotated[list[str] | None, typer.Option("--set", "-s", help="section.key=value; may be repeated.")],
    "device": Annotated[str | None, typer.Option(help="auto, cpu or cuda.")],
    "out": Annotated[Path | None, typer.Option(help="Folder for the results; a new one under runs/ if not given.")],
}
"""Options of every command that trains."""
RUN: dict[str, Any] = {
    **DATA,
    "plugin": Annotated[
        list[str] | None,
        typer.Option("--plugin", "-p", help="METHOD[+ADDON...]; may be repeated. See `fercore plugins`."),
    ],
    "seed": Annotated[int | None, typer.Option(help="Seed of data split, weights and batches.")],
    "devices": Annotated[int | None, typer.Option(help="Processes on this machine that share the run.")],
    "num_nodes": Annotated[int | None, typer.Option(help="Machines that share the run; see docs/many_machines.md.")],
    "strategy": Annotated[str | None, typer.Option(help="How they share it: auto, ddp or fsdp.")],
    "resume": Annotated[Path | None, typer.Option(help="Resume the run in this folder.")],
    "with_reference": Annotated[
        bool,
        typer.Option("--with-reference", help="Train source_only beside it, and print whether adapting helped."),
    ],
    "verbose": Annotated[bool, typer.Option("--verbose", "-v", help="Print the hook chain too.")],
}
COMPARE: dict[str, Any] = {
    **DATA,
    "method": Annotated[list[str], typer.Argument(help='"[LABEL:]plugin[+plugin] [key=value ...]", one per row.')],
    "seeds": Annotated[str, typer.Option(help="Comma-separated seeds.")],
    "jobs": Annotated[int, typer.Option(min=1, help="Runs at a time, each in its own process.")],
}


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        say(f"fercore {__version__}")
        raise typer.Exit


@app.command()
@mirrors(api.train, RUN)
def run(
    given: dict[str, Any],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build everything, print it, train nothing.")] = False,
) -> None:
    """Train a method, score the adapted model on the target, write a run folder."""
    from fercore import console

    if not dry_run:
        done = api.train(**given, observe=console.ConsoleObserver)
        if not first_here():
            return
        from fercore.runs.folder import MODEL

        console.print_result(done.result)
        if done.reference is not None:
            decide.print_verdict_of(done, done.reference)
        console.print_lines([f"next: fercore predict {shlex.quote(str(done.path / MODEL))} DIR"])
    elif "resume" in given:
        raise only_longer()
    else:
        given.pop("with_reference", None)
        console.print_lines(api.describe(**given, observe=console.ConsoleObserver))


@app.command()
@mirrors(api.compare, COMPARE)
def compare(
    given: dict[str, Any],
    choose: Annotated[
        str | None, typer.Option(help="Also choose a row by this score without target labels, or by 'aggregate'.")
    ] = None,
) -> None:
    """Run several methods over several seeds; print means, deviations and paired differences to the first."""
    from fercore import console

    if choose is not None:
        from fercore.decisions.ranking import check_score

        check_score(choose)

    folder, seeds = given.pop("out", None) or new_folder(["compare"]), given.pop("seeds")
    observe = console.observer_for(given["jobs"])
    comparison = api.compare(**given, seeds=_seeds(seeds), out=folder, observe=observe)
    head, rows = comparison.table()
    console.print_table(f"target {comparison.target}, mean ± std over seeds {seeds}, in points", head, rows)
    from fercore.decisions.judging import judge_rows

    judged = judge_rows(folder, [row.label for row in comparison.rows], comparison.seeds)
    console.print_lines([*judged, f"written to {folder}"])
    if choose is not None:
        decide.print_ranking(api.select([folder], score=choose))


@app.command()
def protocols(
    name: Annotated[str | None, typer.Argument(help="Print this one whole.")] = None,
) -> None:
    """List the papers' protocols: sources, target, parts, classes, metric."""
    from fercore import console
    from fercore.datasets.protocols import describe_protocol, load_protocol, protocol_names

    if name is not None:
        console.print_lines(describe_protocol(name, load_protocol(name)))
        return
    known = {each: load_protocol(each) for each in protocol_names()}
    rows = [
        (
            each,
            one.title,
            "yes" if one.transductive else "no",
            str(len(one.classes)),
            str(one.n_test or "-"),
            one.metrics[0],
        )
        for each, one in known.items()
    ]
    console.print_table("", ("protocol", "what", "transductive", "classes", "test images", "metric"), rows)


@app.command()
def doctor() -> None:
    """Say what this installation can do: versions, devices, kernels."""
    from fercore.engine.describe import doctor_lines

    for line in doctor_lines():
        say(line)


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserInputError(f"cannot read seeds {text!r}", where="--seeds", fix="write --seeds 0,1,2") from None


for command in (
    adapt,
    predict,
    evaluate,
    decide.select,
    decide.verdict,
    decide.ask,
    export,
    report,
    study,
    table,
    plugins,
    settings,
):
    app.command()(command)
for group, name in ((data_app, "data"), (au_app, "au"), (weights_app, "weights"), (plugin_app, "plugin")):
    app.add_typer(group, name=name)


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2."""
    guard_streams()
    if not first_here():
        logging.lastResort = None  # warnings of a run are the first process's to print
    try:
        with handling(interrupt):
            code = typer.main.get_command(app)(standalone_mode=False)  # a Typer called prints errors its own way
    except UserInputError as error:
        _fail(str(error), 2)
    except ProcessLostError as error:
        _fail(str(error), 1, says=error.first and LAUNCHED not in os.environ)
    except OSError as error:
        named = name_fault(error)
        if named is None:
            raise
        _fail(str(named), 2)
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's own usage errors have one
            raise
        message, context = error.format_message(), getattr(error, "ctx", None)
        if context is not None and message == context.get_help():  # a bare `fercore` or `fercore data`
            say(message, keep="\n")
            sys.exit(0)
        _fail(message, 2)
    if fault := lost_output():
        _fail(str(write_fault(fault, Path("standard output"))), 2)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int, *, says: bool | None = None) -> NoReturn:
    if speaks() if says is None else says:
        say(f"fercore: error: {message}", error=True)
    sys.exit(code)
