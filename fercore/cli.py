"""The command line: parse and print, nothing else. Heavy modules are imported by the command that needs them."""

from __future__ import annotations

import gc
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from fercore import __version__
from fercore.cli_au import au_app
from fercore.cli_clip import clip_app
from fercore.cli_data import data_app
from fercore.errors import UserInputError
from fercore.files import absolute, name_fault
from fercore.hooks.discovery import check_early, installed_plugins, split_names
from fercore.stopping import Interrupted, handling, interrupt, number_of
from fercore.terminal import guard_streams, lost_output, say
from fercore.writing import write_fault

if TYPE_CHECKING:
    from fercore.engine.setup import Workshop
    from fercore.hooks.assemble import Company


class _Commands(TyperGroup):
    """The commands; an interrupt, which typer would turn into a bare exit code, says what was kept."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            text = stop.text if isinstance(stop, Interrupted) else ""
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
app.add_typer(data_app, name="data")
app.add_typer(clip_app, name="clip")
app.add_typer(au_app, name="au")

Plugin = Annotated[
    list[str], typer.Option("--plugin", "-p", help="METHOD[+ADDON...]; may be repeated. See `fercore plugins`.")
]
Source = Annotated[list[str] | None, typer.Option(help="FORMAT:PATH[?option=value&...], labelled; may be repeated.")]
Target = Annotated[str | None, typer.Option(help="FORMAT:PATH[?option=value&...]; its labels only score the result.")]
Protocol = Annotated[str | None, typer.Option(help="A paper's sources and target: see `fercore protocols`.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder that holds the protocol's datasets by name.")]
Preset = Annotated[str | None, typer.Option(help="demo, small or paper.")]
Config = Annotated[Path | None, typer.Option(help="TOML file of settings.")]
Set = Annotated[list[str] | None, typer.Option("--set", "-s", help="section.key=value; may be repeated.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
Out = Annotated[Path | None, typer.Option(help="Folder for the results; a new one under runs/ if not given.")]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        say(f"fercore {__version__}")
        raise typer.Exit


@app.command()
def run(
    plugin: Plugin = [],  # noqa: B006
    source: Source = None,
    target: Target = None,
    protocol: Protocol = None,
    data_root: DataRoot = None,
    preset: Preset = None,
    config: Config = None,
    set_: Set = None,
    seed: Annotated[int | None, typer.Option(help="Seed of data split, weights and batches.")] = None,
    device: Device = None,
    out: Out = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build everything, print it, train nothing.")] = False,
) -> None:
    """Train a method, score the adapted model on the target, write a run folder."""
    names = _names(plugin)
    with _starting():
        if resume is not None:
            others = (plugin, source, target, protocol, data_root, preset, config, device, out, dry_run)
            if any(others) or seed is not None:
                raise _only_longer()
            company = _reopen(resume, set_ or [])
        else:
            layers, chosen = _layers(
                source, target, preset, config, set_, protocol=protocol, data_root=data_root, seed=seed, device=device
            )
            check_early(names, layers, preset=chosen)
            company = _assemble(names, layers, chosen)
        from fercore import console
        from fercore.engine.describe import describe
        from fercore.engine.record import RunFolder
        from fercore.engine.run import run as train
        from fercore.engine.setup import build_workshop

        folder = resume or out or _new_folder(names)
        if not resume:
            RunFolder(folder).refuse_if_taken()
        shop = build_workshop(company, label_file=RunFolder(resume).label_file if resume else None)
        console.print_lines([*describe(shop, complexity=dry_run), *_protocol_lines(shop)])
    if dry_run:
        return
    console.print_lines([f"run folder: {folder}"])
    record = train(shop, folder, console.ConsoleObserver("+".join(shop.plugins.names)), resume=resume is not None)
    console.print_result(record)


@app.command()
def compare(
    method: Annotated[list[str], typer.Argument(help='"[LABEL:]plugin[+plugin] [key=value ...]", one per row.')],
    seeds: Annotated[str, typer.Option(help="Comma-separated seeds.")] = "0,1,2",
    source: Source = None,
    target: Target = None,
    protocol: Protocol = None,
    data_root: DataRoot = None,
    preset: Preset = None,
    config: Config = None,
    set_: Set = None,
    device: Device = None,
    out: Out = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, each in its own process.")] = 1,
) -> None:
    """Run several methods over several seeds; print means, deviations and paired differences to the first."""
    from fercore import compare as comparing
    from fercore import console

    entries = [comparing.parse_entry(text) for text in method]
    layers, chosen = _layers(
        source, target, preset, config, set_, protocol=protocol, data_root=data_root, device=device
    )
    numbers = _seeds(seeds)
    for entry in entries:
        check_early(entry.plugins, [*layers, entry.settings], preset=chosen, row=entry.label)
    folder = out or _new_folder(["compare"])
    summary = comparing.compare(
        entries, numbers, layers, preset=chosen, out=folder, observe=console.observer_for(jobs), jobs=jobs
    )
    head = comparing.table_head(summary["lead"])
    title = f"target {_target_of(summary, layers)}, mean ± std over seeds {seeds}, in points"
    console.print_table(title, head, comparing.table_rows(summary["rows"], summary["lead"]))
    console.print_lines([f"written to {folder}"])


@app.command()
def plugins(
    explain: Annotated[bool, typer.Option("--explain", help="Print the hook chain of the plugins named.")] = False,
    plugin: Plugin = [],  # noqa: B006
) -> None:
    """List installed plugins (nothing is imported), or explain how the named ones work together."""
    from fercore.hooks.about import plugin_lines

    if not explain:
        for line in plugin_lines(installed_plugins().values()):
            say(line)
        return
    from fercore.engine.describe import chain_lines
    from fercore.engine.setup import build_plugins
    from fercore.hooks.assemble import assemble

    names = _names(plugin) or ["source_only"]
    for line in chain_lines(build_plugins(assemble(names, []))):
        say(line)


@app.command()
def protocols(
    name: Annotated[str | None, typer.Argument(help="Print this one whole.")] = None,
) -> None:
    """List the papers' protocols: sources, target, parts, classes, metric."""
    from fercore import console
    from fercore.data.protocols import describe_protocol, load_protocol, protocol_names

    if name is not None:
        console.print_lines(describe_protocol(name, load_protocol(name)))
        return
    found = {each: load_protocol(each) for each in protocol_names()}
    rows = [
        (
            each,
            one.title,
            "yes" if one.transductive else "no",
            str(len(one.classes)),
            str(one.n_test or "-"),
            one.metrics[0],
        )
        for each, one in found.items()
    ]
    console.print_table("", ("protocol", "what", "transductive", "classes", "test images", "metric"), rows)


@app.command()
def doctor() -> None:
    """Say what this installation can do: versions, devices, kernels."""
    with _starting():
        from fercore.engine.describe import doctor_lines

        lines = doctor_lines()
    for line in lines:
        say(line)


@contextmanager
def _starting() -> Iterator[None]:
    """Look for garbage seldom while modules are imported and data is opened: what they make stays.

    The search would take a sixth of the start. Training has the usual one again, as its garbage may hold tensors.
    """
    before = gc.get_threshold()
    gc.set_threshold(20_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _names(plugin: list[str]) -> list[str]:
    return [name for text in plugin for name in split_names(text)]


def _layers(
    source: list[str] | None,
    target: str | None,
    preset: str | None,
    config: Path | None,
    assignments: list[str] | None,
    *,
    protocol: str | None,
    data_root: Path | None,
    **top: Any,
) -> tuple[list[dict[str, Any]], str]:
    from fercore.config import DataSettings, asks_for_labels, check_settings, merge, parse_assignment, read_toml
    from fercore.presets import preset_settings

    layers = _protocol_layers(protocol, data_root, given=bool(source or target))
    layers += [read_toml(config)] if config else []
    flags: dict[str, Any] = {key: value for key, value in top.items() if value is not None}
    data = {key: value for key, value in (("sources", source), ("target", target)) if value}
    if source and not target and any(map(asks_for_labels, source)):
        data["target"] = next(filter(asks_for_labels, source))  # the rest of that dataset
    if len(data) == 1:
        _refuse_half(data)
    layers += [parse_assignment(text) for text in assignments or []] + [merge(flags, {"data": data} if data else {})]
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = merge(merged, layer)
    if isinstance(merged.get("data"), dict):
        check_settings(DataSettings, merged["data"], prefix="data")  # what follows goes by its sources and target
    own = _own_data(merged.get("data"))
    if len(own) == 1 and not any(map(asks_for_labels, map(str, own.get("sources", ())))):
        _refuse_half(own)
    chosen, why = _preset(preset, merged.get("preset"), own=bool(own))
    preset_settings(chosen)
    say(f"preset {chosen}: {why}")
    return [{key: value for key, value in layer.items() if key != "preset"} for layer in layers], chosen


def _preset(flag: str | None, setting: object, *, own: bool) -> tuple[str, str]:
    """Return the preset to take and why, in words.

    Args:
        flag: of the command line. setting: in a settings file or --set. own: whether the data are the user's.
    """
    if flag or setting:
        return str(flag or setting), "as --preset says" if flag else "as the settings say"
    if own:
        return "paper", "the data are your own; --preset small suits images of 48 to 64 px and a laptop"
    return "demo", "the data are synthetic faces"


def _protocol_layers(name: str | None, root: Path | None, *, given: bool) -> list[dict[str, Any]]:
    """Return the settings of the protocol that is named, if any."""
    if name is None:
        if root is not None:
            raise UserInputError("--data-root without --protocol", where="fercore", fix="see `fercore protocols`")
        return []
    if given:
        fix = "leave them out, or write the specs without --protocol"
        raise UserInputError("--protocol goes with neither --source nor --target", where="fercore", fix=fix)
    from fercore.data.protocols import load_protocol, protocol_layer

    return [{**protocol_layer(load_protocol(name), root), "protocol": name}]


def _protocol_lines(shop: Workshop) -> list[str]:
    """Return a line if the test part has another size than the run's protocol says."""
    if shop.config.protocol is None:
        return []
    from fercore.data.protocols import load_protocol

    n, said = len(shop.domains.test), load_protocol(shop.config.protocol).n_test
    return [f"protocol {shop.config.protocol}: {n} test images, not {said}"] if said not in (None, n) else []


def _own_data(data: object) -> dict[str, Any]:
    """Return the settings of sources and target if any of them is data of the user's, not synthetic."""
    given = {key: data[key] for key in ("sources", "target") if data.get(key)} if isinstance(data, dict) else {}
    specs = [str(spec) for value in given.values() for spec in (value if isinstance(value, list) else [value])]
    return given if any(not spec.startswith("synthfer:") for spec in specs) else {}


def _refuse_half(data: dict[str, Any]) -> None:
    missing = "--target" if "sources" in data else "--source"
    raise UserInputError(f"{missing} is missing", where="fercore", fix="give both, or neither for bundled faces")


def _assemble(names: list[str], layers: list[dict[str, Any]], preset: str) -> Company:
    from fercore.hooks.assemble import assemble

    return assemble(names, layers, preset=preset)


def _reopen(path: Path, assignments: Sequence[str] = ()) -> Company:
    """Return the settings and plugins of a run that goes on, with more steps where that is asked for."""
    from fercore.config import merge, parse_assignment
    from fercore.engine.record import RunFolder
    from fercore.engine.resume import check_resume

    given: dict[str, dict[str, Any]] = {"train.steps": {}, "data.cache_dir": {}}
    for text in assignments:
        name = text.partition("=")[0].strip()
        if name not in given:
            raise _only_longer()
        given[name] = merge(given[name], parse_assignment(text))
    more = given["train.steps"]
    folder = RunFolder(path)
    settings = folder.config_layers()
    if folder.finished and not more:
        fix = "its scores are in result.json; --set train.steps=NUMBER trains on"
        raise UserInputError("that run is finished", where=str(path), fix=fix)
    folder.refuse_in_use()
    preset, names = str(settings.pop("preset")), list(folder.plugin_versions())
    company = _assemble(names, [settings], preset)
    _refuse_outside(company, given["data.cache_dir"], path)
    check_resume(folder, company)
    if more:
        steps = company.config.train.steps
        company = _assemble(names, [settings, more], preset)
        if company.config.train.steps <= steps:
            fix = "give a larger number, or --resume alone"
            raise UserInputError(f"the run has {steps} steps", where="--set train.steps", fix=fix)
    return company


def _refuse_outside(company: Company, given: dict[str, Any], path: Path) -> None:
    """Make sure that a run folder, which may be from somebody else, has nothing written outside it unasked.

    Raises:
        UserInputError: if its settings name a cache folder that `given` does not.
    """
    folder, named = company.config.data.cache_dir, given.get("data", {}).get("cache_dir")
    if folder is not None and (named is None or absolute(str(named)) != folder):
        fix = f"if that is wanted: --set {shlex.quote(f'data.cache_dir={folder}')}"
        raise UserInputError(f"the run's settings have a cache in {folder}", where=str(path), fix=fix)


def _only_longer() -> UserInputError:
    fix = "the settings are the run's own; --set train.steps=NUMBER alone may make it longer"
    return UserInputError("--resume goes with no other setting", where="fercore run", fix=fix)


def _new_folder(names: list[str]) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    base = Path("runs") / f"{'+'.join(names)}-{stamp}"
    number, path = 1, base
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserInputError(f"cannot read seeds {text!r}", where="--seeds", fix="write --seeds 0,1,2") from None


def _target_of(summary: dict[str, Any], layers: list[dict[str, Any]]) -> str:
    named = [layer["data"]["target"] for layer in layers if "target" in layer.get("data", {})]
    return named[-1] if named else f"of preset {summary['preset']}"


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2."""
    guard_streams()
    try:
        with handling(interrupt):
            code = typer.main.get_command(app)(standalone_mode=False)  # a Typer called prints errors its own way
    except UserInputError as error:
        _fail(str(error), 2)
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


def _fail(message: str, code: int) -> NoReturn:
    say(f"fercore: error: {message}", error=True)
    sys.exit(code)
