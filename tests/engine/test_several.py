"""One run of several processes: the same losses, gradients and files as in one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fercore import open_run, report
from fercore.config import RunConfig
from fercore.engine.agreement import check_same_start
from fercore.engine.several import places_here
from fercore.errors import UserInputError
from fercore.models.parts_of_batch import Rows, drawn_for_rows, seeing, summed_over_rows
from fercore.processes import Processes, Started, missing, started
from fercore.runs import checkpoint
from fercore.testing import tiny_context
from fercore.testing.tiny import TINY
from tests.engine.spread import BATCHES, in_processes, main_in, steps_of

FERCORE = [sys.executable, "-m", "fercore", "run"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "fercore", "run"]


@cache
def in_one(names: str, extra: str = "") -> dict[str, Any]:
    """Return the steps of one process, once for all that are compared with it."""
    return steps_of(names, 1, *LAYERS[extra])


VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
RANDOM_VIT = {**VIT, "drop_path_rate": 0.2, "proj_drop_rate": 0.1}
"""A network without batch normalisation, that drops at random."""
LAYERS: dict[str, list[dict[str, Any]]] = {
    "": [],
    "units": [{"data": {"au": "synthfer"}}],
    "vit": [{"model": {"backbone": "vit_tiny_patch16_224", "backbone_args": {"vit_tiny_patch16_224": RANDOM_VIT}}}],
    "vit balance": [
        {"model": {"backbone": "vit_tiny_patch16_224", "backbone_args": {"vit_tiny_patch16_224": RANDOM_VIT}}},
        {"leaf": {"gate": {"balance": 0.1, "kind": "noisy_topk", "k": 2}, "dropout": 0.3}},
    ],
    "dropout": [{"model": {"dropout": 0.4}}],
    "balance": [{"leaf": {"gate": {"balance": 0.1, "kind": "noisy_topk", "k": 2}, "dropout": 0.3}}],
}
CASES = [
    ("la_cmfer", ""), ("pocan", ""), ("adafer", "units"), ("pca", ""), ("leaf", "balance"), ("source_only", "dropout"),
    ("mixmatch", ""), ("vat", ""), ("fixmatch+leaf_eaf", ""),
]  # fmt: skip
WITHIN = [("leaf", ""), ("fixmatch", ""), ("dann", "dropout")]
"""Whose terms are among those of other cases: for soaks."""


def largest_gap(one: dict[str, Any], other: dict[str, Any], part: str) -> float:
    """Return the largest difference of terms or gradients over all steps."""
    gaps = [0.0]
    for first, second in zip(one[part], other[part], strict=True):
        if part == "terms":
            assert first[0] == second[0]
        named, others = (first[1], second[1]) if part == "terms" else (first, second)
        assert named.keys() == others.keys()
        gaps += [float(np.abs(named[name] - others[name]).max()) for name in named]
    return max(gaps)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("number", [2, pytest.param(4, marks=pytest.mark.soak)])
@pytest.mark.parametrize(
    ("names", "extra"), [*CASES, *(pytest.param(*case, marks=pytest.mark.soak) for case in WITHIN)]
)
def test_processes_come_to_the_terms_and_gradients_of_one(names, extra, number):
    one, many = in_one(names, extra), steps_of(names, number, *LAYERS[extra])
    assert len(one["terms"]) >= 10
    assert any(gradient.any() for step in one["gradients"] for gradient in step.values())
    assert largest_gap(one, many, "terms") < 1e-10
    assert largest_gap(one, many, "gradients") < 1e-10
    # Whatever a method draws by itself it draws alike.
    assert np.array_equal(one["random"], many["random"])


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("number", "pieces"), [(1, 4), (2, 2)])
@pytest.mark.parametrize(("names", "extra"), [("fixmatch", "vit"), ("leaf", "vit balance"), ("pca", "")])
def test_pieces_of_a_batch_come_to_the_terms_and_gradients_of_the_whole(names, extra, number, pieces):
    one = in_one(names, extra)
    many = steps_of(names, number, *LAYERS[extra], {"train": {"accumulate": pieces}})
    assert largest_gap(one, many, "terms") < 1e-10
    assert largest_gap(one, many, "gradients") < 1e-10
    assert np.array_equal(one["random"], many["random"])


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_batch_statistics_of_pieces_are_their_own_and_move_once_each():
    one, many = in_one("fixmatch"), steps_of("fixmatch", 1, {"train": {"accumulate": 2}})
    # Another network output: each piece is normalised by itself.
    assert largest_gap(one, many, "terms") > 1e-6
    counted = next(name for name in one["state"] if name.endswith("num_batches_tracked"))
    # Twice, once for each piece, and not again as it is worked out a second time.
    assert many["state"][counted] == 2 * one["state"][counted] > 0


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_local_losses_are_those_of_each_process_and_differ():
    one = in_one("la_cmfer")
    local = steps_of("la_cmfer", 2, {"train": {"sync": "local"}})
    assert largest_gap(one, local, "terms") > 1e-4
    # The mean of two halves' cross-entropy is that of the whole before any weight has moved; batch statistics agree.
    assert local["terms"][0][1]["la_cmfer/supervised"] == pytest.approx(
        one["terms"][0][1]["la_cmfer/supervised"], abs=1e-12
    )
    assert abs(local["terms"][0][1]["la_cmfer/sample_mmd"] - one["terms"][0][1]["la_cmfer/sample_mmd"]) > 1e-6


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_batch_statistics_of_each_process_are_a_setting():
    one, apart = in_one("fixmatch"), steps_of("fixmatch", 2, {"train": {"batch_norm": "process"}})
    assert abs(apart["terms"][0][1]["fixmatch/cross_entropy"] - one["terms"][0][1]["fixmatch/cross_entropy"]) > 1e-6


def _normalise_in_parts(kind: str) -> float:
    """Compare a network on the rows of two processes with itself on all; return the largest difference."""
    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo")
    generator = torch.Generator().manual_seed(3)
    shape = {"1d": (10, 4), "2d": (10, 4, 3, 3)}[kind]
    x = torch.randn(*shape, generator=generator, dtype=torch.float64) * 3 + 100
    torch.manual_seed(5)
    norm = (nn.BatchNorm1d if kind == "1d" else nn.BatchNorm2d)(4, momentum=0.3).double()
    nn.init.normal_(norm.weight)
    net = nn.Sequential(norm, nn.Dropout(0.3))
    whole = nn.Sequential(type(norm)(4, momentum=0.3).double(), nn.Dropout(0.3))
    whole.load_state_dict(net.state_dict())
    weight = torch.randn(*shape, generator=generator, dtype=torch.float64)
    given = x.clone().requires_grad_(True)
    torch.manual_seed(7)
    y = whole(given)
    (y * weight).sum().backward()
    drawn = torch.get_rng_state()
    # Unequal shares, out of order.
    places = [torch.tensor([0, 9, 3]), torch.tensor([1, 2, 4, 5, 6, 7, 8])][rank]
    own = x[places].requires_grad_(True)
    torch.manual_seed(7)
    with seeing(net, Rows(places, 10, Processes(rank, 2))):
        mine = net(own)
        total = summed_over_rows(mine.detach().sum())
    (mine * weight[places]).sum().backward()
    by_weight = Processes(rank, 2).add(net[0].weight.grad.clone())
    gaps = [mine - y[places], own.grad - given.grad[places], by_weight - whole[0].weight.grad, total - y.detach().sum(),
            net[0].running_mean - whole[0].running_mean, net[0].running_var - whole[0].running_var,
            (drawn != torch.get_rng_state()).double()]  # fmt: skip
    assert "forward" not in vars(net[0])
    torch.distributed.destroy_process_group()
    return max(float(gap.detach().abs().max()) for gap in gaps)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["1d", "2d"])
def test_batch_statistics_and_dropout_are_those_of_all_rows(kind):
    assert in_processes(2, partial(_normalise_in_parts, kind)) < 1e-12


def _begin_with_own_data() -> None:
    rank = int(os.environ["RANK"])
    own = {"data": {"target": f"synthfer:wild?n=112&seed={2 + rank}"}}
    check_same_start(tiny_context(["source_only"], [BATCHES, own, {"devices": 2}]))


def _fail_second() -> None:
    processes = tiny_context(["source_only"], [BATCHES, {"devices": 2}]).processes

    def look() -> None:
        if processes.rank == 1:
            raise UserInputError("cannot read image", where="a.png", fix="repair it")

    processes.together(look)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_processes_with_other_data_do_not_begin():
    with pytest.raises(UserInputError, match=r"process 1 has other data of '\w+' than the first"):
        in_processes(2, _begin_with_own_data)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_what_is_wrong_for_one_process_the_first_one_tells():
    with pytest.raises(UserInputError, match=r"process 1: cannot read image \(a.png\); repair it"):
        in_processes(2, _fail_second)


def test_random_numbers_of_rows_are_those_of_the_batch():
    net, places = nn.Identity(), torch.tensor([5, 0, 2])
    torch.manual_seed(0)
    whole = torch.randn(6, 4)
    torch.manual_seed(0)
    with seeing(net, Rows(places, 6)):
        assert torch.equal(drawn_for_rows(torch.zeros(3, 4), torch.randn_like), whole[places])
    torch.manual_seed(0)
    with seeing(net, Rows(places, 3 * 6)):
        # Two rows a sample, as of patches.
        assert drawn_for_rows(torch.zeros(6, 4), torch.randn_like).shape == (6, 4)
    torch.manual_seed(0)
    assert torch.equal(drawn_for_rows(torch.zeros(6, 4), torch.randn_like), whole)


def test_who_started_a_process():
    assert started({}) is None
    assert started({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}) == Started(1, 4, 2)
    assert started({"RANK": "0", "WORLD_SIZE": "1"}) is None
    slurm = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_NNODES": "2"}
    assert started(slurm) == Started(3, 4, 2)
    assert started({**slurm, "SLURM_JOB_NAME": "bash"}) is None
    with pytest.raises(UserInputError, match="no numbers"):
        started({"RANK": "one", "WORLD_SIZE": "4"})


def test_places_on_several_machines_come_from_the_environment(monkeypatch):
    config = RunConfig(devices=2, num_nodes=2)
    with pytest.raises(UserInputError, match="MASTER_ADDR"):
        places_here(config)
    for name, value in (("MASTER_ADDR", "first"), ("MASTER_PORT", "29400"), ("NODE_RANK", "1")):
        monkeypatch.setenv(name, value)
    named = [(place["RANK"], place["LOCAL_RANK"], place["WORLD_SIZE"]) for place in places_here(config)]
    assert named == [("2", "0", "4"), ("3", "1", "4")]


def settings(folder: Path) -> list[str]:
    """Write the settings of a tiny run, and return the arguments that take them."""
    import tomli_w

    train = {**TINY["train"], "memory_format": "contiguous"}
    layer = {**TINY, "train": train, "data": {**TINY["data"], **BATCHES["data"]}}
    (folder / "run.toml").write_bytes(tomli_w.dumps(layer).encode())
    return ["--plugin", "fixmatch", "--config", str(folder / "run.toml")]


def weights(run: Path) -> bytes:
    """Return the bytes of a finished run's model."""
    return (run / "model" / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_launchers_agree_and_a_run_resumes_with_other_numbers(tmp_path):
    environ, given = main_in(tmp_path), settings(tmp_path)

    def fercore(*words: object, by: list[str] | None = None) -> str:
        command = [*(by or FERCORE), *map(str, words)]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = fercore(*given, "--devices", 2, "--out", tmp_path / "two")
    assert said.count("next: fercore predict") == 1
    said = fercore(*given, "--out", tmp_path / "torchrun", by=TORCHRUN)
    assert said.count("next: fercore predict") == 1
    assert weights(tmp_path / "two") == weights(tmp_path / "torchrun")
    result = open_run(tmp_path / "two").result
    assert (result.arithmetic.processes, result.steps, result.train_images_per_second > 0) == (2, 6, True)
    assert report(tmp_path / "two").is_file()
    for name in ("same", "alone"):
        shutil.copytree(
            tmp_path / "two", tmp_path / name, ignore=shutil.ignore_patterns("result.json", "model", "step_00000006")
        )
    fercore("--resume", tmp_path / "same")
    assert weights(tmp_path / "same") == weights(tmp_path / "two")
    assert "resumed after 3 of 6 steps" in fercore("--resume", tmp_path / "alone", "--devices", 1)
    states = [checkpoint.load(tmp_path / name / "checkpoints" / "step_00000006")["model"] for name in ("two", "alone")]
    assert all(torch.allclose(states[0][name], states[1][name], atol=1e-4) for name in states[0])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("by", "rank", "says"),
    [
        ([*FERCORE, "--devices", "2"], 1, "process 1 of 2 ended without a word, signal 9"),
        (TORCHRUN, 1, "process 1 of 2 has ended"),
        pytest.param(TORCHRUN, 0, "process 0 of 2 has ended", marks=pytest.mark.soak),
    ],
)
def test_a_process_that_dies_ends_the_run_with_a_line_and_a_checkpoint(tmp_path, by, rank, says):
    run, environ = tmp_path / "run", main_in(tmp_path)
    given = [*settings(tmp_path), "--set", "train.steps=25", "--set", "train.checkpoint_every=5"]
    process = subprocess.Popen(
        [*by, *given, "--out", str(run)], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        until = time.monotonic() + 150
        while not (run / "checkpoints" / "step_00000005").exists() and time.monotonic() < until:
            time.sleep(0.05)
        both = _started_by(process.pid) if by is not TORCHRUN else _children(process.pid)
        assert len(both) == 2
        os.kill(both[rank], signal.SIGKILL)
        error = process.communicate(timeout=150)[1]
    finally:
        process.kill()
    lines = [line for line in error.splitlines() if line.startswith("fercore:")]
    assert process.returncode == 1
    assert len(lines) == 1
    assert says in lines[0]
    assert f"resume with: fercore run --resume {run}" in lines[0]
    assert checkpoint.newest(run / "checkpoints") is not None
    words = [["--resume", str(run)], [*given, "--devices", "2", "--out", str(tmp_path / "whole")]]
    for each in words:
        subprocess.run([*FERCORE, *each], env=environ, capture_output=True, timeout=200, check=True)
    assert weights(run) == weights(tmp_path / "whole")


def test_two_processes_know_which_one_has_ended():
    assert missing(Processes(0, 2)) == ([1], True)


def _roll_call() -> tuple[list[int], int]:
    """Have the third of four processes end, and return whom the first one misses and how many say so."""
    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo")
    store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False
    )
    if rank == 2:
        store.set("ended", "1")
        return [], 0
    store.wait(["ended"])
    absent, says = missing(Processes(rank, 4))
    store.add("said", int(says))
    store.add("done", 1)
    while rank == 0 and store.add("done", 0) < 3:  # who has the store ends last
        time.sleep(0.05)
    return absent, store.add("said", 0) if rank == 0 else 0


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_those_that_are_left_find_out_who_has_ended_and_one_says_so():
    assert in_processes(4, _roll_call) == ([2], 1)


def _children(parent: int) -> list[int]:
    """Return the ids of a process's children, oldest first."""
    found = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=False)
    return sorted(map(int, found.stdout.split()))


def _started_by(command: int) -> list[int]:
    """Return the ids of the processes of a run by rank: its command has a server that they are forked from."""
    return [process for child in _children(command) for process in _children(child)]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--devices", "500"], "500 devices asked for"),
        (["--devices", "2", "--strategy", "other"], "strategy = 'other'"),
        (["--devices", "2", "--num-nodes", "2"], "nobody says"),
        (["--devices", "2", "--with-reference"], "beside a run of one process"),
    ],
)
def test_wrong_numbers_of_processes_are_one_line(fercore, tmp_path, words, says):
    code, _, error = fercore("run", *settings(tmp_path), "--out", str(tmp_path / "run"), *words)
    assert code == 2
    assert error.count("fercore: error:") == 1
    assert says in error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["--set", "data.target_batch=15"],
            "15 samples a step do not divide among 2 processes (data.target_batch); let them be 14",
        ),
        (["--set", "train.compile=true"], "train.compile=false"),
    ],
)
def test_what_processes_cannot_share_is_one_line(tmp_path, words, says):
    command = [*FERCORE, *settings(tmp_path), "--out", str(tmp_path / "run"), "--devices", "2", *words]
    done = subprocess.run(command, env=main_in(tmp_path), capture_output=True, text=True, timeout=100, check=False)
    lines = [line for line in done.stderr.splitlines() if line]
    assert done.returncode == 2
    assert len(lines) == 1
    assert says in lines[0]
