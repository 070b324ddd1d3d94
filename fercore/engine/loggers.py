"""Logs of a run for other tools: TensorBoard in its folder, Weights & Biases and MLflow where settings ask for them.

All are loggers of Lightning Fabric; those of the last two are in the package pytorch-lightning.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fercore.config import RunConfig
from fercore.documents import parse_json
from fercore.engine.pictures import pictures_of
from fercore.engine.resume import leaves
from fercore.errors import UserInputError
from fercore.files import read_text
from fercore.hooks.guard import shown
from fercore.records.result import SCORES, Result
from fercore.writing import write_json, writing

if TYPE_CHECKING:
    from lightning_fabric.loggers.logger import Logger

IDS: Final = "loggers.json"
"""Name of a remote logger -> its id of the run, so that a resumed run goes on with the same one."""


@dataclass(frozen=True)
class Opening:
    """What a logger is opened with.

    Attributes:
        folder: the run's. project: what the run is listed under. done: batches trained on before.
        run_id: the logger's own id of a run that is resumed.
    """

    folder: Path
    project: str
    done: int
    run_id: str | None


@dataclass(frozen=True)
class Tool:
    """How a tool's logger is used.

    Attributes:
        modules: that it needs. extra: what installs them. remote: values leave the run folder.
        start: opens it. picture: logs uint8[H,W,3] under a name at a step. finish: closes it, "success" or "failed".
        place: the environment variable that must say where it logs to. fix: what to do where it does not start.
    """

    modules: tuple[str, ...]
    extra: str
    remote: bool
    start: Callable[[Opening], Logger]
    picture: Callable[[Any, str, np.ndarray, int], None]
    finish: Callable[[Any, str], None]
    place: str = ""
    fix: str = ""


def _tensorboard(opening: Opening) -> Logger:
    from lightning_fabric.loggers.tensorboard import TensorBoardLogger

    class Board(TensorBoardLogger):
        """TensorBoard's logger whose folder is taken as it is: Fabric's looks for variables in the path."""

        @property
        def log_dir(self) -> str:
            return os.path.join(self.root_dir, "tensorboard")

    # What came after the checkpoint is logged again, and TensorBoard is told to forget it.
    logger = Board(opening.folder, purge_step=opening.done + 1)
    _ = logger.experiment  # opens the file: later Fabric would make a run folder that is gone anew
    return logger


def _wandb(opening: Opening) -> Any:
    from pytorch_lightning.loggers import WandbLogger

    # Its lines would go between those of the run, and it would take the run's own output to its server.
    quiet = {"silent": True, "console": "off"}
    logger: Any = WandbLogger(
        name=opening.folder.name, save_dir=opening.folder, project=opening.project, id=opening.run_id, settings=quiet
    )
    _ = logger.experiment  # starts it
    return logger


def _mlflow(opening: Opening) -> Any:
    from pytorch_lightning.loggers import MLFlowLogger

    server = os.environ["MLFLOW_TRACKING_URI"]
    logger: Any = MLFlowLogger(
        experiment_name=opening.project, run_name=opening.folder.name, tracking_uri=server, run_id=opening.run_id
    )
    _ = logger.experiment  # starts it
    return logger


def _finish_wandb(logger: Any, status: str) -> None:
    logger.finalize(status)
    logger.experiment.finish(exit_code=int(status != "success"))


TOOLS: Final[dict[str, Tool]] = {
    "tensorboard": Tool(
        ("tensorboard",), "fercore", False, _tensorboard,
        lambda logger, name, pixels, step: logger.experiment.add_image(name, pixels, step, dataformats="HWC"),
        lambda logger, status: logger.finalize(status),
    ),
    "wandb": Tool(
        ("pytorch_lightning", "wandb"), "fercore[wandb]", True, _wandb,
        lambda logger, name, pixels, step: logger.log_image(name, [pixels], step), _finish_wandb,
        fix="log in with `wandb login`, or set WANDB_MODE=offline",
    ),
    "mlflow": Tool(
        ("pytorch_lightning", "mlflow"), "fercore[mlflow]", True, _mlflow,
        lambda logger, name, pixels, step: logger.experiment.log_image(logger.run_id, pixels, f"{name}.png"),
        lambda logger, status: logger.finalize(status), "MLFLOW_TRACKING_URI", "see that its server is there",
    ),
}  # fmt: skip


class Loggers:
    """The open logs of a run; none to begin with.

    Args:
        tell: hears lines for people.
    """

    def __init__(self, tell: Callable[[str], None] = lambda line: None) -> None:
        self._tell = tell
        self._open: dict[str, Logger] = {}
        self._folder = Path()

    def start(self, folder: Path, config: RunConfig, done: int) -> None:
        """Open what settings ask for, and tell the remote ones the settings, without places of data.

        Raises:
            UserInputError: if a tool does not start. WriteError: if its files cannot be written.
        """
        self._folder = folder
        ids = read_ids(folder)
        for name in wanted(config):
            opening = Opening(folder, config.report.project, done, ids.get(name))
            if TOOLS[name].remote:
                self._open[name] = logger = _started(name, opening)
                ids[name] = str(logger.version)
                self._guarded(name, lambda logger: logger.log_hyperparams(flat(shown(config))))
            else:
                with writing(folder):
                    self._open[name] = TOOLS[name].start(opening)
        if ids:
            write_json(folder / IDS, ids)

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Log values under "group/name" at a step."""
        named = {f"{group}/{name}": value for name, value in values.items()}
        self._each(lambda logger: logger.log_metrics(named, step))

    def result(self, result: Result, config: RunConfig) -> None:
        """Log what the run came to: its scores beside its settings, and pictures of its predictions."""
        scores, step = numbers_of(result), result.steps
        for name in list(self._open):
            if TOOLS[name].remote:
                self._guarded(name, lambda logger: logger.log_metrics(scores, step))
            else:
                # Beside each other, so that TensorBoard's table of runs can be sorted by a score.
                self._guarded(name, lambda logger: logger.log_hyperparams(flat(config), scores, step))
        if not self._open:
            return
        if find_spec("matplotlib") is None:
            self._tell("no figures in the logs: they need matplotlib (pip install 'fercore[report]')")
            return
        for title, pixels in pictures_of(result.target):
            for name in list(self._open):
                self._guarded(name, partial(_picture, TOOLS[name], title, pixels, step))

    def close(self, status: str) -> None:
        """Close them all; `status` is "success" or "failed"."""
        for name in list(self._open):
            self._guarded(name, partial(_finish, TOOLS[name], status))
        self._open.clear()

    def _each(self, log: Callable[[Logger], None]) -> None:
        for name in list(self._open):
            self._guarded(name, log)

    def _guarded(self, name: str, log: Callable[..., None]) -> None:
        """Log to one tool; a remote one that fails is left out from then on, for training is not to be lost by it."""
        if not TOOLS[name].remote:
            with writing(self._folder):
                log(self._open[name])
            return
        try:
            log(self._open[name])
        except Exception as error:
            self._tell(f"{name} takes no more of this run: {type(error).__name__}: {_first_line(error)}")
            del self._open[name]


@contextmanager
def logging_to(loggers: Loggers) -> Iterator[None]:
    """Close loggers when a run is over, and say whether it came to its end."""
    try:
        yield
    except BaseException:
        loggers.close("failed")
        raise
    loggers.close("success")


def wanted(config: RunConfig) -> list[str]:
    """Return names of the tools that settings ask for."""
    return [*(["tensorboard"] if config.report.tensorboard else []), *dict.fromkeys(config.report.loggers)]


def check_loggers(config: RunConfig) -> None:
    """Make sure, before anything is written, that what the loggers need is installed.

    Raises:
        UserInputError: naming the first package that is not.
    """
    for name in wanted(config):
        tool = TOOLS[name]
        for module in tool.modules:
            if find_spec(module) is None:
                what = f"logging to {name} needs the package {module.replace('_', '-')}"
                raise UserInputError(what, where="report.loggers", fix=f"pip install '{tool.extra}'")
        if tool.place and not os.environ.get(tool.place):
            fix = f"set {tool.place}, such as http://127.0.0.1:5000 or sqlite:///mlflow.db"
            raise UserInputError(f"{name} has no place to log to", where="report.loggers", fix=fix)


def read_ids(folder: Path) -> dict[str, str]:
    """Return what `IDS` in a run folder says; nothing where it is not there.

    Raises:
        UserInputError: if it is not what a run writes.
    """
    path = folder / IDS
    if not path.is_file():
        return {}
    ids = parse_json(read_text(path), where=str(path))
    if not isinstance(ids, dict) or not all(isinstance(value, str) for value in ids.values()):
        fix = "delete it: the run is then logged as a new one"
        raise UserInputError(f"{IDS} is not what a run writes", where=str(path), fix=fix)
    return ids


def _picture(tool: Tool, title: str, pixels: np.ndarray, step: int, logger: Logger) -> None:
    tool.picture(logger, title, pixels, step)


def _finish(tool: Tool, status: str, logger: Logger) -> None:
    tool.finish(logger, status)


def _started(name: str, opening: Opening) -> Logger:
    try:
        return TOOLS[name].start(opening)
    except UserInputError:
        raise
    except Exception as error:
        what = f"{name} does not start: {type(error).__name__}: {_first_line(error)}"
        fix = f"{TOOLS[name].fix}; then go on with: fercore run --resume {opening.folder}"
        raise UserInputError(what, where="report.loggers", fix=fix) from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:200]


def flat(config: RunConfig) -> dict[str, bool | int | float | str]:
    """Return settings by their dotted names, as loggers take them: lists and what is not given as JSON."""
    values = leaves(config.model_dump(mode="json"))
    return {name: value if isinstance(value, bool | int | float | str) else json.dumps(value) for name, value in values}


def numbers_of(result: Result) -> dict[str, float]:
    """Return the numbers that sum a result up; of a target without labels those that need none."""
    target = result.target
    numbers: dict[str, float | None] = {name: target.score(name) for name in SCORES}
    if target.predicted is not None:
        numbers |= {"entropy": target.predicted.entropy, "confidence": target.predicted.confidence}
    if target.reference is not None:
        numbers["agreement"] = target.reference.agreement
    numbers["train_seconds"] = result.train_seconds
    return {f"result/{name}": value for name, value in numbers.items() if value is not None}
