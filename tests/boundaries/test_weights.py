"""Weights of other hands: whole and damaged files of backbones, CLIPs and action-unit networks; nothing runs."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from damage import CPU, Boundary, any_bytes, campaign, seeds

from fercore.au.network import AUNetwork, load_network, save_network
from fercore.engine.results import peak_memory_mb, reset_peak_memory
from fercore.errors import UserInputError
from fercore.models.clip.files import fit_state, read_state
from fercore.models.weights import fit_weights, read_weights
from fercore.writing import write_sums

LAYER = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def saved(content: object, **how: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)
    return buffer.getvalue()


def script() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(LAYER), buffer)
    return buffer.getvalue()


def unit_network(folder: Path) -> bytes:
    save_network(AUNetwork(["AU01", "AU12"], (2, 3)), folder / "n.safetensors", {})
    return (folder / "n.safetensors").read_bytes()


def backbone(folder: Path) -> None:
    path = next(folder.glob("w.*"))
    fit_weights(read_weights(path), LAYER.state_dict(), where=str(path))


def clip(folder: Path) -> None:
    path = next(folder.glob("w.*"))
    state, metadata = read_state(path)
    assert all(isinstance(value, str) for value in metadata.values())
    fit_state(state, LAYER, where=str(path))


STATE = LAYER.state_dict()
WRAPPED = {"state_dict": STATE, "epoch": 3}
BOUNDARIES = {
    "torch": lambda _: Boundary({"w.pth": saved(WRAPPED)}, backbone, any_bytes),
    "old torch": lambda _: Boundary(
        {"w.pth": saved(WRAPPED, _use_new_zipfile_serialization=False)}, backbone, any_bytes
    ),
    "safetensors": lambda _: Boundary({"w.safetensors": save(STATE)}, backbone, any_bytes),
    "clip safetensors": lambda _: Boundary({"w.safetensors": save(STATE, {"model": "tiny"})}, clip, any_bytes),
    "clip torch": lambda _: Boundary({"w.pt": saved(WRAPPED)}, clip, any_bytes),
    "script": lambda _: Boundary({"w.pt": script()}, clip, any_bytes),
    "unit network": lambda folder: Boundary(
        {"n.safetensors": unit_network(folder)}, lambda f: load_network(f / "n.safetensors"), any_bytes
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("number", seeds())
@pytest.mark.parametrize("name", BOUNDARIES)
@pytest.mark.filterwarnings("ignore")
def test_any_bytes(tmp_path, name, number):
    campaign(BOUNDARIES[name](tmp_path), tmp_path, number)


def pickled(call: bytes) -> bytes:
    """Return a pickle of {"w": what a call gives}."""
    return b"\x80\x02}X\x01\x00\x00\x00w" + call + b"s."


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ\x00\x00\x00\x04tQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\x00J\x00\x00\x00\x04\x85K\x01\x85\x89NtR"
ROOM = b"c__builtin__\nbytearray\nJ\x00\x00\x00\x60\x85R"


def archive(path: Path, call: bytes, *more: str) -> Path:
    """Write a torch archive of 256 KiB whose tensor is 256 MiB of packed zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in {"version": b"3", "byteorder": b"little", **dict.fromkeys(more, b"")}.items():
            file.writestr(f"a/{name}", content, zipfile.ZIP_STORED)
        file.writestr("a/data.pkl", pickled(call), zipfile.ZIP_STORED)
        if call is TENSOR:
            with file.open("a/data/0", "w") as zeros:
                for _ in range(1 << 4):
                    zeros.write(bytes(1 << 24))
    return path


def plain(path: Path, call: bytes) -> Path:
    path.write_bytes(pickled(call))
    return path


@pytest.mark.slow
def test_no_file_takes_far_more_memory_than_it_is_long(tmp_path):
    packed = archive(tmp_path / "w.pth", TENSOR)
    files = {
        packed: "packed zip archive",
        archive(tmp_path / "s.pt", TENSOR, "constants.pkl"): "cannot read TorchScript archive: it is packed",
        archive(tmp_path / "r.pth", ROOM): r"holds Python objects beside weights \(__builtin__.bytearray\)",
        plain(tmp_path / "old.pth", ROOM): r"holds Python objects beside weights \(__builtin__.bytearray\)",
    }
    reset_peak_memory(CPU)
    before = peak_memory_mb(CPU)
    for path, message in files.items():
        with pytest.raises(UserInputError, match=message):
            read_state(path)
        with pytest.raises(UserInputError, match="cannot read weights: the file "):
            read_weights(path)
    assert peak_memory_mb(CPU) - before < 100


def test_weights_that_are_not_what_the_checksum_beside_them_says_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(save(STATE))
    write_sums(tmp_path, [path.name])
    assert read_weights(path).keys() == STATE.keys()
    wanted, name = (tmp_path / "SHA256SUMS").read_text().split()
    (tmp_path / "SHA256SUMS").write_text(f"{wanted.upper()} *{name}\r\n")
    assert read_weights(path).keys() == STATE.keys()
    path.write_bytes(save(STATE)[:-1] + b"\x01")
    with pytest.raises(UserInputError, match="damaged weights: a.safetensors has other bytes than SHA256SUMS"):
        read_weights(path)
