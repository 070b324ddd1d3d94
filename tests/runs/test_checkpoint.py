from __future__ import annotations

import os
import random
import subprocess

import numpy as np
import pytest
import torch

from fercore.errors import UserInputError
from fercore.files import SUMS
from fercore.random_state import random_state, restore_random_state, seed_everything
from fercore.runs import checkpoint

TREE = {
    "weights": {"a.b": torch.randn(3, 2), "half": torch.randn(2).bfloat16()},
    "optimiser": {"state": {0: {"step": torch.tensor(3.0)}, 7: {"buffer": None}}, "groups": [{"lr": 0.1 + 0.2}]},
    "pair": (1, "two", (3.0, None)),
    "array": np.arange(4),
    "nan": float("inf"),
    "flag": True,
}


def same(left, right):
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, np.ndarray):
        return np.array_equal(left, right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return type(left) is type(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return left == right


def test_a_tree_comes_back_to_the_bit(tmp_path):
    checkpoint.save(tmp_path / "step_1", TREE)
    assert same(TREE, checkpoint.load(tmp_path / "step_1"))


def test_shared_memory_is_saved_apart(tmp_path):
    base = torch.arange(6.0)
    checkpoint.save(tmp_path / "step_1", {"a": base, "b": base[:3], "c": base.view(2, 3).T})
    found = checkpoint.load(tmp_path / "step_1")
    assert torch.equal(found["b"], base[:3])
    assert torch.equal(found["c"], base.view(2, 3).T)


def test_an_unknown_kind_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match="cannot save object at /a"):
        checkpoint.save(tmp_path / "step_1", {"a": object()})
    assert not (tmp_path / "step_1").exists()


def flipped(content, at):
    data = bytearray(content)
    data[at] ^= 1 << at % 8
    return bytes(data)


@pytest.mark.parametrize("file", [checkpoint.TENSORS, checkpoint.VALUES, SUMS])
def test_one_bit_anywhere_is_noticed_before_use_and_the_checkpoint_before_is_named(tmp_path, file):
    for step in (1, 2):
        checkpoint.save(tmp_path / checkpoint.name_of(step), {**TREE, "step": step})
    folder = tmp_path / checkpoint.name_of(2)
    whole = (folder / file).read_bytes()
    last = len(whole) - 2  # the line's end may become another
    for at in {*range(0, last, max(1, last // 50)), last}:
        damaged = flipped(whole, at)
        if file == SUMS and damaged.upper() == whole.upper():
            continue  # a digit of a sum may be a capital
        (folder / file).write_bytes(damaged)
        with pytest.raises(UserInputError, match=r"damaged checkpoint: .*; delete .* to resume from step_0*1$"):
            checkpoint.load(folder)
    (folder / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserInputError, match="damaged checkpoint"):
        checkpoint.load(folder)
    (folder / file).write_bytes(whole)
    assert checkpoint.load(folder)["step"] == checkpoint.load_entry(folder, "step") == 2


def test_without_one_before_it_the_run_is_to_be_started_anew(tmp_path):
    folder = tmp_path / checkpoint.name_of(2)
    checkpoint.save(folder, TREE)
    (folder / SUMS).unlink()
    with pytest.raises(UserInputError, match="SHA256SUMS does not list state.*older version.*; start the run again"):
        checkpoint.load(folder)


def test_checksums_are_what_sha256sum_checks(tmp_path):
    checkpoint.save(tmp_path / "step_1", TREE)
    done = subprocess.run(["sha256sum", "--check", SUMS], cwd=tmp_path / "step_1", capture_output=True, check=False)
    assert (done.returncode, done.stdout.count(b"OK")) == (0, 2)


def test_the_newest_complete_one_is_found_and_old_ones_pruned(tmp_path):
    for step in (1, 2, 10):
        checkpoint.save(tmp_path / checkpoint.name_of(step), {"step": step})
    (tmp_path / ".step_00000011.part").mkdir()
    (tmp_path / checkpoint.name_of(12)).mkdir()
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert checkpoint.load(newest)["step"] == 10
    (tmp_path / checkpoint.name_of(12)).rmdir()
    checkpoint.prune(tmp_path, 2)
    assert [path.name for path in sorted(tmp_path.glob("step_*"))] == ["step_00000002", "step_00000010"]
    assert checkpoint.newest(tmp_path / "nowhere") is None


@pytest.mark.timeout(60)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_under_a_checkpoints_name_holds_nothing_up(tmp_path):
    os.mkfifo(tmp_path / "step_00000001")
    with pytest.raises(UserInputError, match="step_00000001"):
        checkpoint.save(tmp_path / "step_00000001", TREE)
    checkpoint.save(tmp_path / "step_00000002", TREE)
    checkpoint.prune(tmp_path, 1)
    assert checkpoint.newest(tmp_path) == tmp_path / "step_00000002"


def test_random_generators_go_back(tmp_path):
    def draw():
        return random.random(), np.random.rand(), float(torch.rand(())), float(torch.randn(()))

    seed_everything(3)
    draw()
    checkpoint.save(tmp_path / "step_1", random_state())
    first = draw()
    restore_random_state(checkpoint.load(tmp_path / "step_1"))
    assert draw() == first
