"""What other tools hear of a run: TensorBoard in its folder, and remote ones that must not cost a run its training."""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fercore.engine.run import run
from fercore.errors import UserInputError

BOARD = {"report": {"tensorboard": True}}


class Remote:
    """A logger of pytorch-lightning that remembers what it is told."""

    made: list[Remote] = []
    fails_at: int | None = None
    refuses: Exception | None = None

    def __init__(self, **given: Any) -> None:
        self.given, self.settings, self.metrics, self.images, self.status = given, {}, [], {}, ""
        self.made.append(self)

    @property
    def experiment(self):
        if self.refuses:
            raise self.refuses
        return self

    @property
    def version(self) -> str:
        return self.given.get("id") or self.given.get("run_id") or "abc123"

    run_id = version

    def log_hyperparams(self, settings):
        self.settings = settings

    def log_metrics(self, values, step):
        if self.fails_at is not None and step >= self.fails_at:
            raise ConnectionError("the server is gone\nand more")
        self.metrics += [(name, step, value) for name, value in values.items()]

    def log_image(self, *given):
        name = next(value for value in given if isinstance(value, str) and value != self.run_id)
        self.images[name] = given

    def finalize(self, status):
        self.status = status

    def finish(self, exit_code):
        self.code = exit_code


@pytest.fixture
def remote(monkeypatch):
    """Have packages in whose place remote loggers stand."""
    own = type("Own", (Remote,), {"made": []})
    for name in ("pytorch_lightning", "pytorch_lightning.loggers", "wandb", "mlflow"):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        module.WandbLogger = module.MLFlowLogger = own
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    return own


@pytest.mark.slow
def test_tensorboard_has_scores_figures_and_settings_beside_scores(make_context, tmp_path, listener, monkeypatch):
    monkeypatch.setenv("ELSEWHERE", str(tmp_path / "elsewhere"))
    home = tmp_path / "$ELSEWHERE"
    result = run(make_context("source_only", layers=(BOARD, {"train": {"steps": 2}})), home, listener())
    assert [path.name for path in tmp_path.iterdir()] == [home.name]
    (events,) = (home / "tensorboard").iterdir()
    board = EventAccumulator(str(events)).Reload()
    assert [event.step for event in board.Scalars("target/accuracy")] == [2]
    assert board.Scalars("result/accuracy")[0].value == pytest.approx(result.target.accuracy)
    assert set(board.Tags()["images"]) == {"confusion", "class_shares"}
    assert board.Images("confusion")[0].width == 600
    told = str(board.SummaryMetadata("_hparams_/session_start_info"))
    for setting in ("optim.lr", "train.steps", "data.target"):
        assert setting in told
    assert "result/accuracy" in str(board.SummaryMetadata("_hparams_/experiment"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_remote_logger_hears_all_but_places_of_data(make_context, tmp_path, listener, remote, name):
    layers = ({"report": {"loggers": [name], "project": "faces"}, "train": {"steps": 3, "checkpoint_every": 2}},)
    with pytest.raises(BaseException, match="interrupted"):
        run(make_context("source_only", layers=layers), tmp_path / "run", listener(stop_after=2))
    assert remote.made[0].status == "failed"
    result = run(make_context("source_only", layers=layers), tmp_path / "run", listener(), resume=True)
    first, again = remote.made
    assert first.given["experiment_name" if name == "mlflow" else "project"] == "faces"
    assert first.given.get("id") is first.given.get("run_id") is None
    assert again.given["run_id" if name == "mlflow" else "id"] == "abc123"
    assert json.loads((tmp_path / "run/loggers.json").read_text()) == {name: "abc123"}
    steps = [step for label, step, _ in again.metrics if label == "loss/main/total"]
    assert steps == [1, 2, 3]
    assert ("result/accuracy", 3, result.target.accuracy) in again.metrics
    assert {label.removesuffix(".png") for label in again.images} == {"confusion", "class_shares"}
    assert again.status == "success"
    assert first.settings["optim.lr"] == result_lr(tmp_path)
    assert "wild" not in str(first.settings["data.target"])


def result_lr(home) -> float:
    import tomllib

    return tomllib.loads((home / "run/config.toml").read_text())["optim"]["lr"]


def test_a_remote_logger_that_fails_costs_no_training(make_context, tmp_path, listener, remote):
    remote.fails_at = 2
    heard = listener()
    layers = ({"report": {"loggers": ["wandb"]}, "train": {"steps": 3}},)
    result = run(make_context("source_only", layers=layers), tmp_path / "run", heard)
    assert result.steps == 3
    assert [text for text in heard.messages if "wandb" in text] == [
        "wandb takes no more of this run: ConnectionError: the server is gone"
    ]


def test_what_is_missing_is_said_before_the_run(make_context, tmp_path, listener, monkeypatch):
    context = make_context("source_only", layers=({"report": {"loggers": ["mlflow"]}},))
    monkeypatch.setattr("fercore.engine.loggers.find_spec", {"pytorch_lightning": "there"}.get)
    with pytest.raises(UserInputError, match=r"needs the package mlflow .*; pip install 'fercore\[mlflow\]'"):
        run(context, tmp_path / "run", listener())
    monkeypatch.setattr("fercore.engine.loggers.find_spec", lambda name: name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserInputError, match="mlflow has no place to log to .*set MLFLOW_TRACKING_URI"):
        run(context, tmp_path / "run", listener())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_logger_that_does_not_start_is_one_line(make_context, tmp_path, listener, remote):
    remote.refuses = RuntimeError("No API key configured.\nUse wandb login")
    context = make_context("source_only", layers=({"report": {"loggers": ["wandb"]}},))
    with pytest.raises(UserInputError, match=r"wandb does not start: RuntimeError: No API key configured\. .*--resume"):
        run(context, tmp_path / "run", listener())
    remote.refuses = None
    assert run(context, tmp_path / "run", listener(), resume=True).steps == 6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_the_packages_themselves_take_a_run(make_context, tmp_path, listener, monkeypatch, name):
    pytest.importorskip("pytorch_lightning")
    pytest.importorskip(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    heard = listener()
    layers = ({"report": {"loggers": [name]}, "train": {"steps": 2}},)
    result = run(make_context("source_only", layers=layers), tmp_path / "run", heard)
    assert [text for text in heard.messages if name in text] == []
    ids = json.loads((tmp_path / "run/loggers.json").read_text())
    if name == "wandb":
        assert list((tmp_path / "run/wandb").glob(f"offline-run-*-{ids[name]}/run-*.wandb"))
        assert list((tmp_path / "run/wandb").glob("offline-run-*/files/media/images/confusion_*.png"))
        return
    from mlflow.tracking import MlflowClient

    logged = MlflowClient().get_run(ids[name])
    assert logged.data.metrics["result/accuracy"] == pytest.approx(result.target.accuracy)
    assert logged.data.params["train.steps"] == "2"
    assert logged.info.status == "FINISHED"
    assert {file.path for file in MlflowClient().list_artifacts(ids[name])} == {"confusion.png", "class_shares.png"}
