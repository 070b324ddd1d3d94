"""`fercore plugins` and `fercore settings`: what is installed, and what can be set. Parse and print, nothing else."""

from __future__ import annotations

from typing import Annotated

import typer

from fercore import api
from fercore.arguments import names_of
from fercore.errors import UserInputError
from fercore.terminal import say

Preset = Annotated[str, typer.Option(help="demo, small or paper: whose values are told.")]


def plugins(
    name: Annotated[str | None, typer.Argument(help="Tell all of this one: needs, settings, presets, hooks.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print the hook chain of the plugins named.")] = False,
    plugin: Annotated[
        list[str], typer.Option("--plugin", "-p", help="METHOD[+ADDON...] for --explain; may be repeated.")
    ] = [],  # noqa: B006
    preset: Preset = "demo",
) -> None:
    """List installed plugins (nothing is imported), tell all of one, or explain how some work together."""
    from fercore.hooks.about import plugin_lines

    if explain and name is not None:
        raise UserInputError("--explain goes with --plugin", where="fercore plugins", fix=f"leave out {name}")
    if explain:
        _say_chain(names_of(plugin) or ["source_only"])
    elif name is not None:
        from fercore.hooks.catalogue import company_of, plugin_page

        for line in plugin_page(name, preset):
            say(line)
        _say_chain(company_of(name))
    else:
        for line in plugin_lines(api.plugins().values()):
            say(line)


def _say_chain(names: list[str]) -> None:
    from fercore.engine.describe import chain_lines
    from fercore.engine.initial_network import plugins_of
    from fercore.hooks.assemble import assemble

    for line in chain_lines(plugins_of(assemble(names, []))):
        say(line)


def settings(
    plugin: Annotated[str | None, typer.Argument(help="METHOD[+ADDON...]; the core's settings if not given.")] = None,
    preset: Preset = "demo",
    search: Annotated[
        str | None, typer.Option(help="Those with this word alone; of every plugin, where none is named.")
    ] = None,
) -> None:
    """List every setting: name, value, what it may be, which layer gave the value, and what it means."""
    from fercore.config.catalogue import setting_lines
    from fercore.hooks import catalogue

    if plugin is not None:
        names = names_of(plugin)
        listed = catalogue.run_settings(names if len(names) > 1 else catalogue.company_of(names[0]), preset)
    else:
        listed = catalogue.core_settings(preset) if search is None else catalogue.all_settings(preset)
    kept = [one for one in listed if search is None or one.matches(search)]
    if not kept:
        fix = "try a shorter word, or leave out --search"
        raise UserInputError(f"no setting has {search!r} in its name or meaning", where="--search", fix=fix)
    for line in setting_lines(kept):
        say(line)
