"""Finding plugins by entry point: listing reads metadata only, loading imports only what was named."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fercore.config import build_config
from fercore.config.presets import preset_settings
from fercore.errors import UserInputError, did_you_mean

GROUP = "fercore.plugins"
COMMANDS = "fercore.commands"
"""Group of entry points NAME = "module:register_commands": commands of `fercore NAME`."""


REPORTS = "fercore.reports"
"""Group of entry points NAME = "module:report": a function from `FinishedRun` to the contents of NAME.json."""


@dataclass(frozen=True)
class PluginInfo:
    """An installed plugin, as its distribution's metadata tells it (nothing is imported).

    Attributes:
        name: what --plugin takes; target: "module:Class"; distribution, version, summary: of its package.
    """

    name: str
    target: str
    distribution: str
    version: str
    summary: str


def installed_plugins(
    paths: Iterable[importlib.metadata.EntryPoint] | None = None, *, group: str = GROUP
) -> dict[str, PluginInfo]:
    """Return every installed plugin by name, or what else packages offer in a group, without importing any.

    Raises:
        UserInputError: if two distributions offer one name; names both. If a name is no identifier: settings stand
            under it, and folders are called by it.
    """
    by_name: dict[str, PluginInfo] = {}
    for point in importlib.metadata.entry_points(group=group) if paths is None else paths:
        info = _describe(point)
        # A name stands in settings, in folders and on the command line: it must be a word in all of them.
        if not (point.name.isascii() and point.name.isidentifier()):
            what = f"package {info.distribution} calls a plugin {point.name!r}, which is no identifier"
            raise UserInputError(what, fix="uninstall it, or have it name letters, digits and _ alone")
        other = by_name.get(point.name)
        # The same one twice is an editable install beside a copy of itself.
        if other and other.target != info.target:
            both = f"{other.distribution} and {info.distribution}"
            raise UserInputError(f"two packages offer plugin {point.name!r}: {both}", fix="uninstall one of them")
        by_name[point.name] = info
    return dict(sorted(by_name.items()))


def _describe(point: importlib.metadata.EntryPoint) -> PluginInfo:
    if point.dist is None:
        return PluginInfo(point.name, point.value, "unknown", "0", "")
    metadata = point.dist.metadata  # read from its file each time it is asked for
    return PluginInfo(point.name, point.value, metadata["Name"], metadata["Version"], metadata["Summary"] or "")


def find_plugin(name: str, available: dict[str, PluginInfo]) -> PluginInfo:
    """Return one plugin's metadata.

    Raises:
        UserInputError: if nothing of that name is installed; names the nearest.
    """
    if name not in available:
        fix = did_you_mean(name, available)
        raise UserInputError(f"unknown plugin {name!r}", where="--plugin", fix=fix)
    return available[name]


def split_names(text: str) -> tuple[str, ...]:
    """Read "METHOD[+ADDON...]", as --plugin and the rows of a comparison take it."""
    return tuple(name.strip() for name in text.split("+"))


def check_early(names: Sequence[str], layers: Sequence[Mapping[str, Any]], *, preset: str, row: str = "") -> None:
    """Refuse unknown plugins and wrong settings of the core before anything heavy is imported.

    A plugin's own table is checked once the plugin is loaded.

    Args:
        names: plugin names. layers: nested settings; later ones win. preset: what is laid under them.
        row: the row of a comparison they belong to, for messages.

    Raises:
        UserInputError: for no plugin, an unknown one, or an unknown or mistyped setting.
    """
    try:
        if not names:
            raise UserInputError("no plugin named", where="--plugin", fix="add a method, e.g. --plugin source_only")
        available = installed_plugins()
        for name in names:
            find_plugin(name, available)
        build_config([preset_settings(preset), *layers], names)
    except UserInputError as error:
        if not row:
            raise
        raise UserInputError(f"{row}: {error.what}", where=error.where, fix=error.fix) from error


def load_class(info: PluginInfo) -> type:
    """Import a plugin's class.

    Raises:
        UserInputError: if the import fails, or what it names is no class; says which package and why.
    """
    loaded = load_entry(info)
    if not isinstance(loaded, type):
        raise UserInputError(f"plugin {info.name!r}: {info.target} is not a class", where=info.distribution)
    return loaded


def load_entry(info: PluginInfo) -> Any:
    """Import what an entry point names.

    Raises:
        UserInputError: if the import fails; says which package and why.
    """
    point = importlib.metadata.EntryPoint(info.name, info.target, GROUP)
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        where = f"{info.distribution} {info.version}"
        what = f"plugin {info.name!r} does not import: {type(error).__name__}: {error}"
        raise UserInputError(what, where=where, fix="repair or reinstall that package") from error
