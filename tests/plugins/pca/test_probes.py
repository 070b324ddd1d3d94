"""What the reference models compute, in float64 against the formula."""

from __future__ import annotations

import numpy as np
import torch
from fercore_pca.planning import view_of
from fercore_pca.probes import LinearProbe, Temperature, TextHead
from fercore_pca.settings import AugSettings

ROWS, DIM, CLASSES = 5, 8, 3


def drawn():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(ROWS, DIM, generator=generator, dtype=torch.float64) * 4 + 1


def test_a_linear_probe_sees_standardised_features():
    probe, x = LinearProbe(DIM, CLASSES).double(), drawn()
    assert not probe(x, x).any()
    with torch.no_grad():
        probe.head.weight.normal_()
        probe.head.bias.normal_()
    rows = x.numpy()
    centred = rows - rows.mean(1, keepdims=True)
    standard = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    wanted = standard @ probe.head.weight.detach().numpy().T + probe.head.bias.detach().numpy()
    np.testing.assert_allclose(probe(x, x).detach().numpy(), wanted, rtol=1e-10)


def test_a_text_head_starts_as_zero_shot_and_is_blind_to_length():
    x = drawn()
    texts = torch.randn(CLASSES, DIM, dtype=torch.float64)
    head = TextHead(texts, 30.0)
    cosines = (x.numpy() @ texts.numpy().T) / np.outer(
        np.linalg.norm(x.numpy(), axis=1), np.linalg.norm(texts.numpy(), axis=1)
    )
    np.testing.assert_allclose(head(x).detach().numpy(), 30 * cosines, rtol=1e-10)
    torch.testing.assert_close(head(7 * x), head(x))


def test_a_temperature_begins_at_one():
    logits = drawn()
    one = Temperature()
    assert torch.equal(one(logits, logits), logits)
    with torch.no_grad():
        one.log_factor.fill_(1.0)
    torch.testing.assert_close(one(logits, logits), float(np.e) * logits, rtol=1e-6, atol=0)


def test_the_crop_is_the_one_that_is_set():
    crop = view_of("source", AugSettings(area=(0.3, 0.7))).transform
    assert crop.area == (0.3, 0.7)
    assert (crop.jitter_chance, crop.grey_chance, crop.blur_chance) == (0, 0, 0)
    assert view_of("target", AugSettings(kind="weak")).transform == "weak"
    assert view_of("target", AugSettings(kind="none")).transform == "none"
