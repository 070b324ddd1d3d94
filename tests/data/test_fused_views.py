"""The compiled form of the weak view "standard" against the torch form, which is torchvision's by other tests."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fercore.data.images import augment, views
from fercore.data.images.views import Views, fused_standard, weak
from fercore.data.noise import key, uniforms
from fercore.ops import dispatch
from fercore.records.plan import ViewRequest

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def inputs(side: int, batch: int = 37):
    """Return faces without hard edges, uint8[B,3,S,S], and uniform numbers float[B,16]."""
    coarse = torch.rand(batch, 3, 5, 5, generator=torch.Generator().manual_seed(side))
    smooth = torch.nn.functional.interpolate(coarse, size=side, mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().to(torch.uint8), torch.from_numpy(uniforms(key(side), np.arange(batch), 16))


@pytest.mark.parametrize("side", [16, 33, 64, 112])
def test_the_fused_view_is_the_torch_view(side):
    pixels, u = inputs(side)
    out = torch.full((len(pixels), 3, side, side), torch.nan)
    assert fused_standard(pixels, u, MEAN, STD, out)
    exact = (weak(pixels.double() / 255, u.double(), "standard") - MEAN) / STD
    torch.testing.assert_close(out.double(), exact, atol=2e-4, rtol=0)


def test_orders_greys_and_flips_all_occur_and_are_followed():
    pixels, u = inputs(32, 400)
    how = views.standard(u)
    assert set(how.order.tolist()) == set(range(6))
    assert 0 < how.grey.sum() < 400
    out = torch.empty(400, 3, 32, 32)
    fused_standard(pixels, u, torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1), out)
    grey = (out - out[:, :1]).abs().amax((1, 2, 3)) < 1e-6
    assert torch.equal(grey, how.grey)


@pytest.mark.parametrize("theta", [[[0, 0, 9.0], [0, 0, 0]], [[1, 0, -9.0], [0, 1, 0]], [[float("nan")] * 3] * 2])
def test_what_lies_outside_is_black(theta):
    pixels = np.full((1, 3, 16, 16), 255, np.uint8)
    out = np.empty((1, 3, 16, 16), np.float32)
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    stages, factors = augment.ORDERS[:1].numpy(), np.ones((1, 3), np.float32)
    dispatch.native().make_views(
        pixels, stages, factors, np.zeros(1, bool), np.array([theta], np.float32), zero, one, out
    )
    assert (out == 0).all()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("stages", np.zeros((1, 2), np.int64)),
        ("stages", np.full((1, 3), 3, np.int64)),
        ("factors", np.zeros((2, 3), np.float32)),
        ("theta", np.zeros((1, 3, 2), np.float32)),
        ("out", np.zeros((1, 3, 8, 9), np.float32)),
        ("pixels", np.zeros((1, 3, 8, 9), np.uint8)),
    ],
)
def test_arrays_of_another_shape_are_refused(name, wrong):
    right = {
        "pixels": np.zeros((1, 3, 8, 8), np.uint8),
        "stages": np.array([[0, 1, 2]]),
        "factors": np.ones((1, 3), np.float32),
        "grey": np.zeros(1, bool),
        "theta": np.zeros((1, 2, 3), np.float32),
        "mean": np.zeros(3, np.float32),
        "std": np.ones(3, np.float32),
        "out": np.zeros((1, 3, 8, 8), np.float32),
    }
    dispatch.native().make_views(**right)
    with pytest.raises(ValueError, match=r"shape|stages|\[B,3,S,S\]"):
        dispatch.native().make_views(**{**right, name: wrong})


def test_without_the_compiled_module_torch_makes_the_view(monkeypatch):
    pixels, _ = inputs(32)
    policy = Views(
        [ViewRequest("source", "weak", "weak")], "source", seed=1, policy="standard", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    made = policy.make(pixels.numpy(), np.arange(len(pixels)))["weak"]
    monkeypatch.setattr(dispatch, "native", lambda: None)
    torch.testing.assert_close(policy.make(pixels.numpy(), np.arange(len(pixels)))["weak"], made, atol=2e-4, rtol=0)


def test_a_view_depends_on_its_own_sample_alone():
    pixels, u = inputs(48)
    whole, part = torch.empty(37, 3, 48, 48), torch.empty(5, 3, 48, 48)
    fused_standard(pixels, u, MEAN, STD, whole)
    fused_standard(pixels[7:12], u[7:12], MEAN, STD, part)
    assert torch.equal(whole[7:12], part)
