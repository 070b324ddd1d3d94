"""A network's file is data from elsewhere: what it claims is checked before anything is built from it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from fercore.au.network import KIND, AUNetwork, load_network, save_network
from fercore.errors import UserInputError

GOOD = {"kind": KIND, "au_names": "AU01,AU12", "widths": "4,4,4,4"}


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "au.safetensors"
    torch.manual_seed(0)
    save_network(AUNetwork(("AU01", "AU12"), (4, 4, 4, 4)), path, {})
    return load_file(path)


def load(path, state, **metadata):
    save_file(state, path, {**GOOD, **metadata})
    return load_network(path)


def test_a_sound_file_is_read(state, tmp_path):
    assert load(tmp_path / "au.safetensors", state).au_names == ("AU01", "AU12")


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"kind": "other"}, "holds no action-unit network"),
        ({"au_names": "AU01,AU01"}, "names a unit twice"),
        ({"au_names": ",".join(f"AU{k:02d}" for k in range(1, 67))}, "more than 64"),
        ({"au_names": "AU01,smile"}, "names no units"),
        ({"au_names": "AU1,AU12"}, "names no units"),
        ({"widths": ""}, "invalid literal"),
        ({"widths": "4,4,4,-4"}, "widths are not 1 to 5 numbers of 1 to 1024"),
        ({"widths": "4,4,4,0"}, "widths are not"),
        ({"widths": "4,4,4,2000000000"}, "widths are not"),
        ({"widths": "1,1,1,1,1,1"}, "widths are not"),
        ({"widths": ",".join("1" * 10_000)}, "widths are not"),
        ({"widths": "4,4,4,1024"}, "other names or shapes"),
        ({"widths": "4,4,4"}, "other names or shapes"),
        ({"au_names": "AU01"}, "other names or shapes"),
    ],
)
def test_metadata_that_lies(state, tmp_path, metadata, words):
    with pytest.raises(UserInputError, match=f"{words}.*fercore au train"):
        load(tmp_path / "au.safetensors", state, **metadata)


@pytest.mark.parametrize("key", ["au_names", "widths"])
def test_metadata_that_is_missing(state, tmp_path, key):
    path = tmp_path / "au.safetensors"
    save_file(state, path, {name: text for name, text in GOOD.items() if name != key})
    with pytest.raises(UserInputError, match=f"cannot read the action-unit network: '{key}'"):
        load_network(path)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda bias: bias * torch.nan, "no finite torch.float32"),
        (lambda bias: bias + torch.inf, "no finite"),
        (lambda bias: bias.double(), "no finite torch.float32"),
        (lambda bias: bias[:1], "other names or shapes"),
        (lambda bias: bias[None], "other names or shapes"),
    ],
)
def test_weights_that_do_not_do(state, tmp_path, edit, words):
    with pytest.raises(UserInputError, match=words):
        load(tmp_path / "au.safetensors", {**state, "head.1.bias": edit(state["head.1.bias"]).contiguous()})


def test_nothing_large_is_built(state, tmp_path, monkeypatch):
    """Widths in range that the tensors belie never allocate a network."""
    devices = []
    build = AUNetwork.__init__

    def watched(self, *arguments):
        build(self, *arguments)
        devices.append(self.head[1].weight.device.type)

    monkeypatch.setattr(AUNetwork, "__init__", watched)
    with pytest.raises(UserInputError, match="other names or shapes"):
        load(tmp_path / "au.safetensors", state, widths="1024,1024,1024,1024,1024")
    assert devices == ["meta"]
