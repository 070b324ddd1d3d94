"""Weights files with bytes changed, cut or doubled: they are read, or refused in one line, and nothing else happens."""

from __future__ import annotations

import io
import random

import pytest
import torch
from safetensors.torch import save
from torch import nn

from fercore.errors import UserInputError
from fercore.models.weights import fit_weights, read_weights
from fercore.writing import write_sums

LAYER = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def written(**how):
    buffer = io.BytesIO()
    torch.save({"state_dict": LAYER.state_dict(), "epoch": 3}, buffer, **how)
    return buffer.getvalue()


FILES = {
    "a.pth": written(),
    "old.pth": written(_use_new_zipfile_serialization=False),
    "a.safetensors": save(LAYER.state_dict()),
}


def harm(content, dice):
    data = bytearray(content)
    kind = dice.randrange(4)
    if kind == 0:
        return bytes(data[: dice.randrange(len(data))])
    if kind == 1:
        start = dice.randrange(len(data))
        return bytes(data[:start] + data[start : start + dice.randrange(64)] * 2 + data[start:])
    for _ in range(dice.choice((1, 1, 2, 8))):
        data[dice.randrange(len(data))] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
    return bytes(data)


def read_damaged(path, content, seeds):
    messages = []
    for seed in seeds:
        path.write_bytes(harm(content, random.Random(seed)))
        try:
            fit_weights(read_weights(path), LAYER.state_dict(), where=str(path))
        except UserInputError as error:
            messages.append(str(error))
    assert not any("\n" in message for message in messages)
    return len(messages)


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_one_line(tmp_path, name):
    assert read_damaged(tmp_path / name, FILES[name], range(300)) > 30


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", FILES)
def test_damaged_files_for_long(tmp_path, name):
    assert read_damaged(tmp_path / name, FILES[name], range(1000, 21_000)) > 2000


def test_weights_that_are_not_what_the_checksum_beside_them_says_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(FILES[path.name])
    write_sums(tmp_path, [path.name])
    assert read_weights(path).keys() == LAYER.state_dict().keys()
    path.write_bytes(FILES[path.name][:-1] + b"\x01")
    with pytest.raises(UserInputError, match="damaged weights: a.safetensors has other bytes than SHA256SUMS"):
        read_weights(path)
