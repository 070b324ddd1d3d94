"""Ctrl-C, SIGTERM and SIGHUP: a checkpoint between two batches, the command that goes on, the exit code."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time

import pytest
import tomli_w
import torch

from fercore.engine.observer import Observer
from fercore.engine.run import run
from fercore.runs import checkpoint
from fercore.stopping import Interrupted, StopRequest, handling, interrupt

FERCORE = [sys.executable, "-c", "from fercore.cli import main; main()"]


class Signals(Observer):
    """Raises signals after some batches, and when the last weights are scored."""

    def __init__(self, *numbers, after=4, scored=None):
        self.numbers, self.after, self.scored = numbers, after, scored

    def step(self, report, done):
        if done == self.after:
            for number in self.numbers:
                signal.raise_signal(number)

    def evaluated(self, scores, primary_metric, done):
        if self.scored:
            signal.raise_signal(self.scored)


@pytest.fixture(scope="module")
def whole(make_context, listener, weights_of, tmp_path_factory):
    """What a run that nothing stops is scored, and its weights."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return run(make_context("source_only"), folder, listener()).target, weights_of(folder)["model"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("after", [2, 4, 6])
def test_a_signal_ends_a_run_between_two_batches_with_a_checkpoint(
    make_context, tmp_path, listener, weights_of, number, after, whole
):
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as stop:
        run(make_context("source_only"), tmp_path / "cut run", Signals(number, after=after))
    assert signal.getsignal(number) is before
    assert stop.value.number == number
    folder = f"'{tmp_path}/cut run'"
    assert stop.value.text == f"interrupted after {after} of 6 steps; resume with: fercore run --resume {folder}"
    newest = checkpoint.newest(tmp_path / "cut run/checkpoints")
    assert newest.name == checkpoint.name_of(after)
    assert not (tmp_path / "cut run/result.json").exists()
    resumed = run(make_context("source_only"), tmp_path / "cut run", listener(), resume=True)
    scores, weights = whole
    found = weights_of(tmp_path / "cut run")["model"]
    assert [key for key in weights if not torch.equal(weights[key], found[key])] == []
    assert resumed.target == scores


def test_a_second_signal_ends_a_run_at_once(make_context, tmp_path):
    with pytest.raises(Interrupted, match="after 3 of 6 steps, before the first checkpoint") as stop:
        layers = ({"train": {"checkpoint_every": 5}},)
        run(
            make_context("source_only", layers=layers),
            tmp_path / "run",
            Signals(signal.SIGINT, signal.SIGTERM, after=3),
        )
    assert stop.value.number == signal.SIGTERM
    assert checkpoint.newest(tmp_path / "run/checkpoints") is None


@pytest.mark.slow
def test_a_signal_while_the_weights_are_scored_ends_the_run_at_once(make_context, tmp_path, listener):
    with pytest.raises(Interrupted, match="after 6 of 6 steps; resume with"):
        run(make_context("source_only"), tmp_path / "run", Signals(scored=signal.SIGTERM))
    assert not (tmp_path / "run/result.json").exists()
    record = run(make_context("source_only"), tmp_path / "run", listener(), resume=True)
    assert record.steps == 6


def test_a_signal_before_the_folder_is_there_says_that_nothing_was_written(make_context, tmp_path, monkeypatch):
    context = make_context("source_only")
    monkeypatch.setattr("fercore.engine.results.reset_peak_memory", lambda device: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted, match="nothing was written"):
        run(context, tmp_path / "run", Observer())
    assert list(tmp_path.iterdir()) == []


def test_a_signal_is_heard_where_the_terminal_it_would_be_told_on_is_gone(monkeypatch):
    def gone(handle, content):
        raise OSError(errno.EIO, "Input/output error")

    stop = StopRequest()
    stop.patient = True
    monkeypatch.setattr(os, "write", gone)
    stop.hear(signal.SIGHUP)
    with pytest.raises(Interrupted) as caught:
        stop.obey()
    assert caught.value.number == signal.SIGHUP


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        with handling(interrupt):
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 7), (signal.SIGTERM, -signal.SIGTERM)])
@pytest.mark.parametrize("training", [True, False])
def test_a_forked_process_leaves_ctrl_c_to_the_command_and_dies_of_the_others(number, status, training):
    stop = StopRequest()
    stop.patient = True
    with handling(stop.hear if training else interrupt):
        child = os.fork()
        if not child:
            signal.raise_signal(number)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == status
    assert stop.asked is None


@pytest.fixture
def settings(tmp_path, tiny):
    train = {**tiny["train"], "steps": 400, "checkpoint_every": 200}
    (tmp_path / "run.toml").write_text(tomli_w.dumps({**tiny, "train": train}))
    return ["--preset", "demo", "--config", "run.toml"]


def interrupted(command, folder, number, log, *, group=False):
    """Start a command, send it a signal once `log` is there, and return exit code and what it said."""
    process = subprocess.Popen(
        [*FERCORE, *command],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 200
    while not (folder / log).exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    (os.killpg if group else os.kill)(process.pid, number)
    _, error = process.communicate(timeout=200)
    return process.returncode, error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "workers"), [(signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 0), (signal.SIGHUP, 129, 2)]
)
def test_the_command_line_saves_says_how_to_go_on_and_exits_with_the_signal(tmp_path, settings, number, code, workers):
    command = ["run", "--plugin", "source_only", *settings, "--set", f"data.workers={workers}", "--out", "cut"]
    status, error = interrupted(command, tmp_path, number, "cut/metrics.jsonl", group=number == signal.SIGINT)
    assert status == code, error
    assert error.splitlines()[-1].startswith("fercore: interrupted after ")
    assert error.endswith("of 400 steps; resume with: fercore run --resume cut\n")
    assert "Traceback" not in error
    assert checkpoint.newest(tmp_path / "cut/checkpoints") is not None


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_comparison_stops_with_its_runs_saved_whoever_hears_the_signal(tmp_path, settings, jobs):
    command = ["compare", "a:source_only", "b:source_only optim.lr=0.003", "--seeds", "0", *settings, "--jobs", jobs]
    status, error = interrupted([*command, "--out", "rows"], tmp_path, signal.SIGTERM, "rows/a-s0/metrics.jsonl")
    assert status == 143, error
    assert error.splitlines()[-1] == "fercore: interrupted; the same command with --out rows goes on"
    assert "Traceback" not in error
    newest = checkpoint.newest(tmp_path / "rows/a-s0/checkpoints")
    assert newest is not None
    assert newest.name < checkpoint.name_of(400)
