"""The run folder: settings, plugins, metrics line by line, checkpoints, and result.json at the end."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w

from fercore.config import RunConfig, build_config, read_toml
from fercore.engine.files import without_none, write_json, write_whole
from fercore.errors import UserInputError
from fercore.hooks.assemble import Company
from fercore.hooks.manager import Plugins

CONFIG, PLUGINS, METRICS, RESULT, DATA = "config.toml", "plugins.json", "metrics.jsonl", "result.json", "data.json"
PACKAGES = ("fercore", "torch", "torchvision", "timm", "numpy", "pluggy")


class RunFolder:
    """A run's folder on disk.

    Args:
        path: the folder; `create` makes it, `reopen` expects it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"

    def refuse_if_taken(self) -> None:
        """Make sure that a new run may be written here.

        Raises:
            UserInputError: if the folder holds a run already, or other files.
        """
        if (self.path / CONFIG).exists():
            fix = "choose another --out, or go on with --resume"
            raise UserInputError("output folder already holds a run", where=str(self.path), fix=fix)
        if self.path.is_file() or (self.path.is_dir() and any(self.path.iterdir())):
            raise UserInputError("output folder is not empty", where=str(self.path), fix="choose another --out")

    def create(self, company: Company, plugins: Plugins, data_report: Mapping[str, Any]) -> None:
        """Write what is known before the first step."""
        try:
            self.checkpoints.mkdir(parents=True)
        except OSError as error:
            raise UserInputError(
                f"cannot write there: {error.strerror}", where=str(self.path), fix="choose another --out"
            ) from None
        settings = without_none(company.config.model_dump(mode="json"))
        write_whole(self.path / CONFIG, tomli_w.dumps(settings))
        chain = {hook: [vars(link) for link in links] for hook, links in plugins.chain().items()}
        infos = [vars(info) for info in company.infos]
        write_json(self.path / PLUGINS, {"plugins": infos, "versions": versions(), "chain": chain})
        write_json(self.path / DATA, data_report)

    def plugin_versions(self) -> dict[str, str]:
        """Return plugin name -> "distribution version" as the run was started."""
        return {p["name"]: f"{p['distribution']} {p['version']}" for p in self._read(PLUGINS)["plugins"]}

    def config_layers(self) -> dict[str, Any]:
        """Return the settings the run was started with.

        Raises:
            UserInputError: if there is no run here.
        """
        if not (self.path / CONFIG).is_file():
            raise UserInputError("no run to resume there", where=str(self.path), fix="give a folder that --out wrote")
        return read_toml(self.path / CONFIG)

    def _read(self, name: str) -> Any:
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserInputError(f"cannot read {name}: {error}", where=str(self.path)) from None

    @property
    def finished(self) -> bool:
        """Whether result.json is there."""
        return (self.path / RESULT).is_file()

    def result(self) -> dict[str, Any]:
        """Return the contents of result.json."""
        record: dict[str, Any] = self._read(RESULT)
        return record

    def log(self, values: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with (self.path / METRICS).open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(values) + "\n")

    def rewind_log(self, step: int) -> None:
        """Drop the lines of metrics.jsonl that came after `step`, and a last line cut short."""
        path = self.path / METRICS
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                kept += [line] if json.loads(line)["done"] <= step else []
            except (ValueError, KeyError):
                continue
        write_whole(path, "".join(line + "\n" for line in kept))

    def finish(self, record: Mapping[str, Any]) -> None:
        """Write result.json, whole."""
        write_json(self.path / RESULT, record)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages results depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def check_resume(folder: RunFolder, company: Company) -> None:
    """Refuse to go on with other plugins or versions than the run was started with.

    Raises:
        UserInputError: naming the plugin and both versions, or the setting that differs.
    """
    started, now = folder.plugin_versions(), company.versions
    if started != now:
        changed = sorted(set(started.items()) ^ set(now.items()))
        raise UserInputError(
            f"the run was started with {_say(started)}, now there is {_say(now)}",
            where=str(folder.path),
            fix=f"install the versions it was started with ({changed[0][0]} differs)",
        )


def _say(plugins: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({package})" for name, package in sorted(plugins.items()))


def stored_config(folder: RunFolder) -> tuple[RunConfig, tuple[str, ...]]:
    """Return the settings and the plugin names of a run folder."""
    layers = folder.config_layers()
    names = tuple(folder.plugin_versions())
    return build_config([layers], names), names
