"""Pages of the reference that come from the code: commands, settings, hooks, plugins, and the schema of result.json.

python docs/generate.py        writes them below docs/reference/generated and docs/generated/files
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCHEMA = "result.schema.json"


def write_all(docs: Path) -> None:
    """Write every generated page and file."""
    pages, files = docs / "reference" / "generated", docs / "generated" / "files"
    for folder in (pages, files):
        folder.mkdir(parents=True, exist_ok=True)
    for name, lines in {
        "commands.md": commands(), "settings.md": settings(), "hooks.md": hooks(), "plugins.md": plugins(),
    }.items():  # fmt: skip
        (pages / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (files / SCHEMA).write_text(json.dumps(result_schema(), indent=1) + "\n", encoding="utf-8")


def result_schema() -> dict[str, Any]:
    """Return the JSON Schema of result.json, from the types that it is written from."""
    from fercore.records.result import json_schema

    return json_schema()


def commands() -> Iterator[str]:
    """Yield a section for each command, from its own help."""
    import typer

    from fercore.cli.app import app

    yield "# Commands"
    yield ""
    yield "Written from `--help` of each command. Exit codes: 0 done, 2 the input is wrong (one line says what, where"
    yield "and how to fix it), 1 anything else; 130, 143 and 129 after an interrupt."
    root = typer.main.get_command(app)
    yield from _group(root, typer.Context(root, info_name="fercore"), own=True)


def _group(group: Any, context: Any, *, own: bool) -> Iterator[str]:
    import typer

    # Commands of installed packages are listed by their packages: another machine has others.
    names = list(group.commands) if own else group.list_commands(context)
    for name in names:
        command = group.get_command(context, name)
        inner = typer.Context(command, info_name=name, parent=context)
        if hasattr(command, "commands") or hasattr(command, "list_commands"):
            yield from _group(command, inner, own=True)
            continue
        yield from ("", f"## `{inner.command_path}`", "", _sentence(command.help), "")
        yield from ("```text", f"{inner.command_path} {' '.join(command.collect_usage_pieces(inner))}", "```", "")
        yield from ("| | |", "|---|---|")
        for parameter in command.params:
            record = parameter.get_help_record(inner)
            left, right = record or (parameter.human_readable_name, getattr(parameter, "help", "") or "")
            option = left.replace("|", "\\|")
            yield f"| `{option}` | {_cell(right)} |"


def settings() -> Iterator[str]:
    """Yield tables of the core's settings, as presets leave them."""
    from fercore.config.presets import PRESETS
    from fercore.hooks.catalogue import core_settings

    by_preset = {preset: {one.name: one for one in core_settings(preset)} for preset in PRESETS}
    yield "# Settings"
    yield ""
    yield "Every setting that each run has. `fercore settings PLUGIN` lists them with those of a plugin, and"
    yield "`fercore settings --search WORD` looks for a word in all of them."
    yield "Values are those of each preset; ″ = as under demo."
    section = ""
    for name, one in next(iter(by_preset.values())).items():
        head = name.partition(".")[0] if "." in name else "run"
        if head != section:
            section = head
            yield from ("", f"## {section}", "")
            yield from (f"| setting | {' | '.join(PRESETS)} | allowed | meaning |", "|---|---|---|---|---|---|")
        told = [by_preset[preset][name].value for preset in PRESETS]
        told = [value if number == 0 or value != told[0] else "" for number, value in enumerate(told)]
        values = " | ".join(f"`{_cell(value)}`" if value else "″" for value in told)
        yield f"| `{name}` | {values} | {_cell(one.allowed)} | {_cell(one.meaning)} |"


def hooks() -> Iterator[str]:
    """Yield a section for each hook, from its spec."""
    from fercore.hooks import specs
    from fercore.hooks.checks import FIRST_RESULT, HOOKS

    yield "# Hooks"
    yield ""
    yield "In the order in which a run calls them. An implementation takes any of a hook's arguments, by name and"
    yield "without defaults. *First result*: one plugin answers. *Collected*: all do. [The guide](../../plugins.md)."
    for name in HOOKS:
        spec = getattr(specs, name)
        kind = "first result" if name in FIRST_RESULT else "collected"
        signature = str(inspect.signature(spec)).replace("'", "")
        yield from ("", f"## `{name}`", "", f"*{kind}, since version {spec.fercore_since}*", "")
        yield from ("```text", f"{name}{signature}", "```", "")
        yield from _docstring(inspect.getdoc(spec) or "")


def _docstring(text: str) -> Iterator[str]:
    """Yield a Google docstring as Markdown: its headings bold, what stands below them as a paragraph."""
    for line in text.splitlines():
        if line.rstrip() in ("Args:", "Returns:", "Raises:"):
            yield from ("", f"**{line.strip()[:-1]}**", "")
        else:
            yield line.strip().replace('"<plugin>/<term>"', "`<plugin>/<term>`")


def plugins() -> Iterator[str]:
    """Yield the list of the plugins of this repository, with what each is from."""
    from fercore.hooks.about import about
    from fercore.hooks.discovery import installed_plugins

    yield "# Plugins"
    yield ""
    yield "`fercore plugins NAME` tells all of one: needs, settings with ranges and values, presets, hook chain."
    package = ""
    for info in sorted(installed_plugins().values(), key=lambda one: (one.distribution, one.name)):
        if info.distribution != package:
            package = info.distribution
            yield from ("", f"## {package}", "", info.summary, "")
            yield from ("| plugin | kind | what | paper |", "|---|---|---|---|")
        said = about(info)
        yield f"| `{info.name}` | {said.kind} | {_cell(said.purpose)} | {_cell(said.paper)} |"


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())


def _cell(text: str) -> str:
    return _sentence(text).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    write_all(Path(__file__).parent)
