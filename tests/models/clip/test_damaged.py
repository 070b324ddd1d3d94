"""Files that are damaged or made to do harm: nothing of them runs, and each is one clear line."""

import logging
import pickle
import struct
import zipfile

import pytest
import torch

from fercore.errors import UserInputError
from fercore.models import hub
from fercore.models.clip import ClipSettings, load_clip


def refused(pretrained, model="tiny"):
    with pytest.raises(UserInputError) as error:
        load_clip(ClipSettings(model=model, pretrained=str(pretrained)), seed=0)
    assert "\n" not in str(error.value)
    return str(error.value)


# Archives, whose pickles are written by hand: torch itself writes no bad ones

MODULE = b"c__torch__\nM\n)\x81"


def whole(number):
    return b"J" + struct.pack("<i", number)


def text(word):
    return b"X" + struct.pack("<I", len(word)) + word


def view(size, stride, offset):
    storage = b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu") + whole(1) + b"tQ"
    shape = b"".join(b"(" + b"".join(map(whole, values)) + b"t" for values in (size, stride))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + whole(offset) + shape + b"\x89NtR"


ARCHIVES = {
    "no data": None,
    "past the end": view((10,), (1,), 0),
    "before the start": view((1,), (1,), -5),
    "more than any memory": view((2**31 - 1, 2**31 - 1), (0, 0), 0),
    "a module in itself": MODULE + b"q\x00}" + text(b"a") + b"h\x00sb",
    "attributes that are none": MODULE + b"K\x01b",
    "no attributes": MODULE,
    "a call of a name": b"ctorch\nFloatStorage\n)R",
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_damaged_archives(tmp_path, name):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as parts:
        parts.writestr("a/constants.pkl", b"")
        parts.writestr("a/data/0", bytes(4))
        if ARCHIVES[name] is not None:
            parts.writestr("a/data.pkl", b"\x80\x02" + ARCHIVES[name] + b".")
    assert "cannot read TorchScript archive" in refused(path)


# Torch files


class Harm:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return exec, (f"open({str(self.mark)!r}, 'w')",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickled_code_never_runs(tmp_path):
    mark = tmp_path / "ran"
    for name in ("a.pt", "a.bin", "a.pth", "a.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(Harm(mark)))
        assert "cannot read weights" in refused(tmp_path / name)
    torch.save({"state_dict": {"visual.proj": Harm(mark)}}, tmp_path / "b.pt")
    assert "cannot read weights" in refused(tmp_path / "b.pt")
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("values", "words"),
    [
        (torch.full((96, 64), torch.nan), "visual.proj holds values that are not finite"),
        (torch.zeros(96, 64, dtype=torch.complex64), "visual.proj is no dense tensor of real numbers"),
        (torch.zeros(96, 64).to_sparse(), "visual.proj is no dense tensor of real numbers"),
        (torch.zeros(96, 64, device="meta"), "visual.proj is no dense tensor of real numbers"),
    ],
)
def test_numbers_that_are_no_weights(tmp_path, small, values, words):
    torch.save({**small.network.state_dict(), "visual.proj": values}, tmp_path / "w.pt")
    assert f"weights do not fit: {words} (" in refused(tmp_path / "w.pt")


def test_names_that_are_no_text(tmp_path):
    torch.save({1: torch.zeros(1)}, tmp_path / "w.pt")
    assert "and 108 more" in refused(tmp_path / "w.pt")


# Tags


def test_a_folder_does_not_hide_a_tag(tmp_path, monkeypatch):
    (tmp_path / "openai").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "no file and no tag of CLIP model 'tiny'" in refused("openai")


def test_without_a_network_nothing_is_tried_again_and_again(tmp_path, monkeypatch, caplog):
    from huggingface_hub import constants

    def unknown(*_, **__):
        raise OSError("name or service not known")

    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(hub.socket, "getaddrinfo", unknown)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits for a network that is not there"))
    with caplog.at_level(logging.WARNING):
        line = refused("openai", "RN50")
    assert "cannot fetch weights 'openai' of 'RN50'" in line
    assert not caplog.records
    assert constants.HF_HUB_OFFLINE is False
    assert logging.getLogger("huggingface_hub").level != logging.ERROR
