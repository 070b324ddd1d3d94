"""Files given for weights that hold none: each is named in our own words, with what to do, and nothing of it runs."""

from __future__ import annotations

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fercore.errors import UserInputError
from fercore.models.clip import ClipSettings, load_clip
from fercore.models.foreign import pickled_names
from fercore.models.weights import read_weights


class Meter:
    pass


STATE = nn.Linear(2, 3).state_dict()


def torch_file(content, **how):
    return lambda path: torch.save(content, path, **how)


def raw(content):
    return lambda path: path.write_bytes(content)


def damaged(path):
    torch.save(nn.Linear(40, 40).state_dict(), path)
    path.write_bytes(path.read_bytes()[:-3000])


def script(path):
    torch.jit.script(nn.Linear(2, 3)).save(str(path))


def archive(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("weights.pth", b"x")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 46\n"
ONNX = b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\x80"
FILES = {
    "page.pth": (raw(b"\n<!DOCTYPE html><html>404</html>"), "is an HTML page.*download the weights again"),
    "page.safetensors": (raw(b"<html>"), "is an HTML page"),
    "pointer.pth": (raw(POINTER), "is a pointer of Git LFS.*git lfs pull"),
    "pointer.safetensors": (raw(POINTER), "is a pointer of Git LFS"),
    "a.onnx": (raw(b"\x08\x07"), "is an ONNX model"),
    "a.pth": (raw(ONNX), "is an ONNX model.*take the PyTorch or safetensors version"),
    "keras.pth": (raw(b"\x89HDF\r\n\x1a\n"), "is an HDF5 file"),
    "packed.pth": (raw(b"\x1f\x8b\x08\0"), "is a gzip archive.*unpack it"),
    "tar.pth": (raw(bytes(257) + b"ustar" + bytes(250)), "is a tar archive"),
    "zip.pth": (archive, "is a zip archive without weights"),
    "empty.pth": (raw(b""), "is empty.*again, whole"),
    "text.pth": (raw(b"no weights at all"), "holds neither safetensors nor what torch.save writes"),
    "whole.pth": (
        torch_file(nn.Sequential(nn.Linear(2, 3))),
        r"is a whole pickled network \(torch.nn.modules.container.Sequential, .*state_dict\(\), OUT",
    ),
    "whole_old.pth": (
        torch_file(nn.Linear(2, 3), _use_new_zipfile_serialization=False),
        r"is a whole pickled network \(torch.nn.modules.linear.Linear",
    ),
    "numpy.pth": (
        torch_file({"state_dict": STATE, "best": np.float64(0.9)}),
        r"holds NumPy values beside weights \(numpy._?core.multiarray.scalar.*\['state_dict'\], OUT",
    ),
    "meter.pth": (torch_file({"state_dict": STATE, "m": Meter()}), r"holds Python objects beside weights \(.*Meter\)"),
    "short.pth": (damaged, "is no whole torch file.*again, whole"),
    "short.safetensors": (raw(b"\xff\0\0\0\0\0\0\0{"), "is no whole safetensors file"),
    "script.pth": (script, "is a TorchScript program.*torch.jit.load"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore")
def test_each_kind_of_file_is_named(tmp_path, name):
    write, message = FILES[name]
    path = tmp_path / name
    write(path)
    with pytest.raises(UserInputError, match=f"cannot read weights: the file {message}") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)
    if name != "script.pth":  # OpenAI publishes CLIP so
        with pytest.raises(UserInputError, match=f"cannot read weights: the file {message}"):
            load_clip(ClipSettings(model="tiny", pretrained=str(path)), seed=0)


def test_what_is_no_file_is_named(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    folder = rf"weights file is a folder.*give the file in it, e.g. {tmp_path}/model.safetensors"
    os.mkfifo(tmp_path / "pipe.pth")
    for path, message in (
        (tmp_path, folder),
        (tmp_path / "pipe.pth", "weights file is a named pipe, not a file"),
        (tmp_path / "none.pth", "weights file not found"),
        (tmp_path / f"{'x' * 5000}.pth", "weights file not found|File name too long"),
    ):
        with pytest.raises(UserInputError, match=message):
            read_weights(path)
        with pytest.raises(UserInputError, match=message):
            load_clip(ClipSettings(model="tiny", pretrained=str(path)), seed=0)


def test_what_a_file_holds_decides_and_not_its_suffix(tmp_path):
    save_file(STATE, tmp_path / "a.pth")
    torch.save(STATE, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        assert torch.equal(read_weights(tmp_path / name)["weight"], STATE["weight"])


def test_names_in_a_pickle_are_read_without_loading_them():
    two = pickle.dumps(Meter(), protocol=4) + pickle.dumps(np.float64(1), protocol=2)
    names = pickled_names(two + b"\xff\xff")
    assert any(name.endswith(".Meter") for name in names)
    assert any(name.endswith("multiarray.scalar") for name in names)
