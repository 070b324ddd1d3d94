"""The run folder: settings, plugins, metrics line by line, checkpoints, and result.json at the end."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import tomli_w
from filelock import FileLock, Timeout

from fercore.config import RunConfig, read_toml
from fercore.config.presets import preset_settings
from fercore.documents import Shape, misfit, parse_json, without_none
from fercore.errors import UserInputError, reason_of
from fercore.files import read_text
from fercore.hooks.assemble import ResolvedRun
from fercore.hooks.manager import Plugins
from fercore.records.result import Result
from fercore.writing import append_text, cut, is_unused, make_parents, whole_folder, write_json, write_text, writing

CONFIG, PLUGINS, METRICS, RESULT, DATA = "config.toml", "plugins.json", "metrics.jsonl", "result.json", "data.json"
LABELS, LOCK, MODEL = "labelled.json", "run.lock", "model"
PREDICTIONS, TEST_LABELS, SCORES = "predictions.csv", "test_labels.csv", "scores.json"
PACKAGES = ("fercore", "torch", "torchvision", "timm", "open_clip_torch", "numpy", "pluggy", "faiss-gpu")


class _Plugin(Shape):
    name: str
    distribution: str
    version: str


class _Started(Shape):
    plugins: list[_Plugin]
    versions: dict[str, str]


class _Data(Shape):
    fingerprint: dict[str, Any]


SHAPES: Final[Mapping[str, type[Shape]]] = {PLUGINS: _Started, DATA: _Data, RESULT: Result}
"""What is read of the records of a run folder, which somebody else may have written."""


class RunFolder:
    """A run's folder on disk.

    Args:
        path: the folder; `create` makes it, every other method expects it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints, self.candidates, self.model = path / "checkpoints", path / "candidates", path / MODEL
        self._lock: FileLock | None = None

    def refuse_if_taken(self) -> None:
        """Make sure that a new run may be written here.

        Raises:
            UserInputError: if the folder holds a run already, or other files.
        """
        if (self.path / CONFIG).exists():
            fix = "choose another --out, or continue it with --resume"
            raise UserInputError("output folder already holds a run", where=str(self.path), fix=fix)
        if not is_unused(self.path):
            raise UserInputError("output folder is not empty", where=str(self.path), fix="choose another --out")

    def lock(self, inside: Path | None = None) -> None:
        """Keep every other process from this run until `release`, or the end of this one.

        Args:
            inside: the folder as it is called while it is made; None = by its own name.

        Raises:
            UserInputError: if another process is at work in it. WriteError: if it cannot be locked.
        """
        lock = FileLock((inside or self.path) / LOCK)
        with writing(self.path / LOCK):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                fix = "wait for it, or stop it"
                raise UserInputError("another process is at work in that run", where=str(self.path), fix=fix) from None
        self._lock = lock

    def release(self) -> None:
        """Let other processes resume this run."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def refuse_in_use(self) -> None:
        """Make sure, before long work, that no other process is at work in this run.

        Raises:
            UserInputError: as `lock`.
        """
        self.lock()
        self.release()

    def create(
        self,
        resolved: ResolvedRun,
        plugins: Plugins,
        data_report: Mapping[str, Any],
        label_split: Mapping[str, Any] | None = None,
    ) -> None:
        """Write what is known before the first step; the folder appears whole or not at all, and locked.

        Raises:
            WriteError: if it cannot be written.
        """
        chain = {hook: [vars(link) for link in links] for hook, links in plugins.chain().items()}
        infos = [vars(info) for info in resolved.infos]
        make_parents(self.path)
        with whole_folder(self.path, CONFIG) as draft:
            # Before the folder takes its name: no other process ever
            # sees the run unlocked. The lock moves with its file.
            self.lock(draft)
            (draft / self.checkpoints.name).mkdir()
            self._write_settings(draft, resolved.config)
            write_json(draft / PLUGINS, {"plugins": infos, "versions": versions(), "chain": chain})
            write_json(draft / DATA, data_report)
            if label_split is not None:
                write_json(draft / LABELS, label_split)

    def _refuse_links(self) -> None:
        """Make sure that what is written into the folder stays in it, whoever the folder is from.

        Raises:
            UserInputError: if something in it is a link.
        """
        for path in [*self.path.iterdir(), *self.checkpoints.glob("*"), *self.candidates.glob("*")]:
            if path.is_symlink():
                fix = "a run is written through no link: move what it leads to into its place"
                raise UserInputError(f"{path.name} is a link", where=str(path), fix=fix)

    @staticmethod
    def _write_settings(folder: Path, config: RunConfig) -> None:
        write_text(folder / CONFIG, tomli_w.dumps(without_none(config.model_dump(mode="json"))))

    def plugin_versions(self) -> dict[str, str]:
        """Return plugin name -> "distribution version" as the run was started."""
        return {p["name"]: f"{p['distribution']} {p['version']}" for p in self.started()["plugins"]}

    def started(self) -> dict[str, Any]:
        """Return the contents of plugins.json.

        Raises:
            UserInputError: if it cannot be read or is not what a run writes.
        """
        return self._read(PLUGINS)

    @property
    def label_file(self) -> Path | None:
        """The file that says which samples are labelled, if the run's dataset was divided so."""
        path = self.path / LABELS
        return path if path.is_file() else None

    def data_report(self) -> dict[str, Any]:
        """Return the contents of data.json as the run was started.

        Raises:
            UserInputError: if it cannot be read or is not what a run writes.
        """
        return self._read(DATA)

    def config_layers(self) -> dict[str, Any]:
        """Return the settings the run was started with.

        Raises:
            UserInputError: if there is no run here, they are not what a run writes, or the folder has links in it.
        """
        if not self.begun:
            raise UserInputError("no run to resume there", where=str(self.path), fix="give a folder that --out wrote")
        self._refuse_links()
        settings = read_toml(self.path / CONFIG)
        preset_settings(str(settings.get("preset", "")), where=str(self.path / CONFIG))
        return settings

    def _read(self, name: str) -> dict[str, Any]:
        path, fix = self.path / name, "bring it back as it was, or start the run again"
        try:
            record = parse_json(read_text(path), where=str(path))
        except UserInputError:
            raise
        except (OSError, ValueError) as error:
            raise UserInputError(f"cannot read {name}: {reason_of(error)}", where=str(self.path), fix=fix) from None
        if fault := misfit(record, SHAPES[name]):
            raise UserInputError(f"{name} is damaged: {fault}", where=str(self.path), fix=fix)
        return dict(record)

    @property
    def begun(self) -> bool:
        """Whether there is a run here."""
        return (self.path / CONFIG).is_file()

    @property
    def finished(self) -> bool:
        """Whether result.json is there."""
        return (self.path / RESULT).is_file()

    def result(self) -> Result:
        """Return the contents of result.json.

        Raises:
            UserInputError: if it cannot be read or is not what a run writes.
        """
        return Result.model_validate(self._read(RESULT))

    def log(self, values: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        append_text(self.path / METRICS, json.dumps(values) + "\n")

    def logged(self) -> list[dict[str, Any]]:
        """Return the lines of metrics.jsonl; each has `kind`, and `done`, the batches trained on.

        Raises:
            UserInputError: if it cannot be read or is not what a run writes.
        """
        path = self.path / METRICS
        try:
            lines = [json.loads(line) for line in read_text(path).splitlines()]
            if not all(isinstance(line, dict) and isinstance(line.get("done"), int) for line in lines):
                raise ValueError("a line of it is none that a run writes")
        except UserInputError:
            raise
        except (OSError, ValueError) as error:
            raise UserInputError(f"cannot read {METRICS}: {reason_of(error)}", where=str(path)) from None
        return lines

    def log_size(self) -> int:
        """Return the length of metrics.jsonl in bytes."""
        path = self.path / METRICS
        return path.stat().st_size if path.exists() else 0

    def rewind_log(self, size: int) -> None:
        """Cut metrics.jsonl back to the length it had at a checkpoint."""
        # Lines after the checkpoint describe steps that are taken again.
        if self.log_size() > size:
            cut(self.path / METRICS, size)

    def lengthen(self, config: RunConfig) -> None:
        """Let the settings have more steps; what fewer led to goes first, so that no kill leaves it beside them."""
        (self.path / RESULT).unlink(missing_ok=True)
        shutil.rmtree(self.model, ignore_errors=True)
        self._write_settings(self.path, config)

    def finish(self, record: Result) -> None:
        """Write result.json, whole."""
        write_json(self.path / RESULT, record.to_json())


class ReadFolder(RunFolder):
    """The folder of a run that another process writes: what is there can be read, and nothing is locked or written."""

    def refuse_if_taken(self) -> None:
        """Leave that to the process that writes."""

    def lock(self, inside: Path | None = None) -> None:
        """Leave that to the process that writes."""

    def create(
        self,
        resolved: ResolvedRun,
        plugins: Plugins,
        data_report: Mapping[str, Any],
        label_split: Mapping[str, Any] | None = None,
    ) -> None:
        """Leave that to the process that writes."""

    def log(self, values: Mapping[str, Any]) -> None:
        """Leave that to the process that writes."""

    def rewind_log(self, size: int) -> None:
        """Leave that to the process that writes."""

    def lengthen(self, config: RunConfig) -> None:
        """Leave that to the process that writes."""


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages results depend on."""
    return {"python": platform.python_version(), **{name: installed_version(name) for name in PACKAGES}}


def installed_version(name: str) -> str:
    """Return a distribution's version, or "not installed"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
