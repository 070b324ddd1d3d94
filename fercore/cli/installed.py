"""Commands that installed packages bring: `fercore NAME ...`. A package is imported when its command is called."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from fercore.hooks.about import said_of
from fercore.hooks.discovery import COMMANDS, PluginInfo, installed_plugins, load_entry


class WithPackages(TyperGroup):
    """Commands of its own, and those of installed packages under other names."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return every name, its own first."""
        own = super().list_commands(ctx)
        return [*own, *(name for name in installed_plugins(group=COMMANDS) if name not in own)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return one of its own or a package's; None if there is none."""
        own = super().get_command(ctx, cmd_name)
        package = None if own is not None else installed_plugins(group=COMMANDS).get(cmd_name)
        return own if package is None else _PackageCommands(package)


class _PackageCommands(TyperGroup):
    """The commands of one package, which `register_commands` adds to a group once somebody asks for them."""

    def __init__(self, info: PluginInfo) -> None:
        super().__init__(name=info.name, help=said_of(info), no_args_is_help=True, rich_markup_mode=None)
        self._info = info
        self._group: Any = None

    def _registered(self) -> Any:
        if self._group is None:
            group = typer.Typer(name=self._info.name, add_completion=False, rich_markup_mode=None)
            group.callback()(lambda: None)  # one command alone would become the group
            load_entry(self._info)(group)
            self._group = typer.main.get_group(group)
        return self._group

    def list_commands(self, ctx: Any) -> list[str]:
        names: list[str] = self._registered().list_commands(ctx)
        return names

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return self._registered().get_command(ctx, cmd_name)
