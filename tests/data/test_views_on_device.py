"""Views made where the model is: the same bits on the CPU, no tensor left behind on another device, same batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fercore.config import DataSettings
from fercore.data.batches.loader import StepLoader
from fercore.data.images.views import Views
from fercore.records.plan import CropAndColour, ViewRequest
from tests.loading import load_domains

HALF = (0.5, 0.5, 0.5)
TRANSFORMS = ("none", "weak", "strong", CropAndColour())


def pixels_of(n: int = 24) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(0).integers(0, 256, (n, 3, 24, 24), dtype=np.uint8), np.arange(n) * 7


@pytest.mark.parametrize("policy", ["none", "light", "standard"])
@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
def test_every_tensor_of_a_view_is_made_on_the_pixels_device(transform, policy: str):
    """With `meta` as the default device, a tensor that is made without naming one cannot meet the pixels."""
    pixels, draws = pixels_of()
    views = Views([ViewRequest("source", "v", transform)], "source", seed=1, policy=policy, mean=HALF, std=HALF)
    expected = views.make(pixels, draws)["v"]
    assert torch.equal(views.make(torch.from_numpy(pixels), draws)["v"], expected)
    with torch.device("meta"):
        made = views.make(torch.from_numpy(pixels), draws)["v"]
    assert made.device.type == "cpu"
    assert torch.equal(made, expected)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
def test_a_gpu_makes_the_same_views_but_for_rounding(transform):
    pixels, draws = pixels_of()
    views = Views([ViewRequest("source", "v", transform)], "source", seed=1, policy="standard", mean=HALF, std=HALF)
    ours = views.make(torch.from_numpy(pixels).cuda(), draws)["v"].cpu()
    off = (ours - views.make(pixels, draws)["v"]).abs()
    assert (off > 2e-2).float().mean() < 1e-3


@pytest.mark.slow
def test_batches_are_the_same_wherever_views_are_made(tree):
    source, target = tree("s", {"anger": 14, "fear": 14}), tree("t", {"anger": 10, "fear": 10}, 500)

    def batches(device: torch.device | None, **more):
        data = DataSettings(
            sources=(f"folder:{source}",), target=f"folder:{target}", size=16, source_batch=8, target_batch=4, **more
        )
        views = [ViewRequest(side, name, name) for side in ("source", "target") for name in ("weak", "strong")]
        loader = StepLoader(load_domains(data, seed=1), views, data, seed=1, mean=HALF, std=HALF, device=device)
        state = None
        for number in range(6):
            if number == 3:
                state = loader.state_dict()
            yield next(loader)
        loader.load_state_dict(state)
        yield next(loader)

    cpu = torch.device("cpu")
    for more in ({}, {"workers": 1}):
        there = batches(cpu, augment_on="device", **more)
        for a, b in zip(batches(None), there, strict=True):
            for side in ("source", "target"):
                left, right = getattr(a, side), getattr(b, side)
                assert set(left.images) == set(right.images) == {"weak", "strong"}
                assert torch.equal(left.images["weak"], right.images["weak"])
                assert torch.equal(left.images["strong"], right.images["strong"])
                assert torch.equal(left.labels, right.labels)


@pytest.mark.slow
def test_a_run_ends_at_the_same_weights(make_context, tmp_path: Path, listener, weights_of):
    from fercore.engine.run import run

    ends = []
    for where in ("cpu", "device"):
        context = make_context("source_only", layers=({"data": {"augment_on": where}, "train": {"steps": 2}},))
        run(context, tmp_path / where, listener())
        ends.append(weights_of(tmp_path / where))
    flat = [dict(sorted(end["model"].items())) if "model" in end else end for end in ends]
    assert flat[0].keys() == flat[1].keys()
    tensors = [name for name, value in flat[0].items() if isinstance(value, torch.Tensor)]
    assert tensors
    for name in tensors:
        assert torch.equal(flat[0][name], flat[1][name])
