"""Training the small action-unit network on SynthFER, and how well it finds units in a style it never saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fercore.au.network import SIZE, AUNetwork
from fercore.data.images.views import one_thread, weak
from fercore.data.noise import key, uniforms
from fercore.data.spec import DomainSpec
from fercore.errors import UserInputError, did_you_mean
from fercore.synthfer import AU_NAMES, STYLES, SynthFER

VISIBLE = 1.2
"""Intensity from which a unit counts as present; SynthFER's own scores are 0.5 there."""

SLOPE = 2.0
BATCH = 64


@dataclass(frozen=True)
class AUTraining:
    """How the network is trained.

    Args:
        styles: SynthFER styles it learns from. test_style: another style, for the report. n: images of each style.
        epochs: passes over them. lr: peak learning rate. seed: of faces, weights and batches.
    """

    styles: tuple[str, ...] = ("studio", "posed", "web")
    test_style: str = "wild"
    n: int = 2000
    epochs: int = 12
    lr: float = 3e-3
    seed: int = 0


def train_network(plan: AUTraining, say: Callable[[str], None] = lambda text: None) -> tuple[AUNetwork, dict[str, Any]]:
    """Train on faces of some styles and score on another style, other subjects.

    Args:
        plan: data and lengths. say: hears one line an epoch.

    Returns:
        the network in evaluation mode, and {"train": ..., "test": ..., "f1": {unit: ...}, "mean_f1": ...}.

    Raises:
        UserInputError: for an unknown style, or a test style that is trained on.
    """
    _check(plan)
    images, targets = _pictures([SynthFER(style, n=plan.n, seed=plan.seed, size=SIZE) for style in plan.styles])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        network = AUNetwork(AU_NAMES)
        _fit(network, images, targets, plan, say)
    # Subjects follow from the seed: another one shows others.
    test_faces = SynthFER(plan.test_style, n=max(BATCH, plan.n // 2), seed=plan.seed + 1, size=SIZE)
    f1 = f1_by_unit(network, *_pictures([test_faces]))
    report = {
        "train": [_spec(style, plan.n, plan.seed) for style in plan.styles],
        "test": _spec(plan.test_style, test_faces.n, test_faces.seed),
        "f1": f1,
        "mean_f1": float(np.mean(list(f1.values()))),
    }
    return network, report


def _spec(style: str, n: int, seed: int) -> str:
    return DomainSpec.of("synthfer", style, {"n": str(n), "seed": str(seed)}).text


def _check(plan: AUTraining) -> None:
    for style in (*plan.styles, plan.test_style):
        if style not in STYLES:
            raise UserInputError(f"unknown style {style!r}", where="au train", fix=did_you_mean(style, STYLES))
    if plan.test_style in plan.styles:
        fix = "choose another --test-style"
        raise UserInputError(f"style {plan.test_style!r} is trained on and tested on", where="au train", fix=fix)
    if not plan.styles or plan.n < BATCH or plan.epochs < 1:
        raise UserInputError(f"at least one style, {BATCH} images and one epoch are needed", where="au train")


def _pictures(faces: Sequence[SynthFER]) -> tuple[Tensor, Tensor]:
    """Return uint8[N,3,S,S] and what a perfect detector would say of them, float32[N,17]."""
    images = np.concatenate([data.render(range(len(data))) for data in faces]).transpose(0, 3, 1, 2)
    intensity = np.concatenate([data.au_intensity for data in faces])
    # Soft targets: a unit that is hardly visible is neither present nor absent.
    targets = 1 / (1 + np.exp(-SLOPE * (intensity - VISIBLE)))
    return torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(targets.astype(np.float32))


def _fit(network: AUNetwork, images: Tensor, targets: Tensor, plan: AUTraining, say: Callable[[str], None]) -> None:
    steps = len(images) // BATCH * plan.epochs
    optimiser = torch.optim.AdamW(network.parameters(), lr=plan.lr, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, plan.lr, total_steps=steps)
    network.train()
    for epoch in range(plan.epochs):
        losses = []
        for number, at in enumerate(torch.split(torch.randperm(len(images)), BATCH)):
            # The schedule is made for whole batches.
            if len(at) < BATCH:
                break
            x = _seen(images[at], key("au", plan.seed, epoch), number)
            loss = F.binary_cross_entropy_with_logits(network.logits(x), targets[at])
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        say(f"epoch {epoch + 1} of {plan.epochs}: loss {np.mean(losses):.4f}")
    network.eval()


def _seen(images: Tensor, stream: Any, number: int) -> Tensor:
    """Return the weak "standard" view of uint8[B,3,S,S] as float32 in [0,1]."""
    draws = np.arange(number * BATCH, number * BATCH + len(images))
    with one_thread():
        return weak(images.float() / 255, torch.from_numpy(uniforms(stream, draws, 16)), "standard")


@torch.no_grad()
def f1_by_unit(network: AUNetwork, images: Tensor, targets: Tensor) -> dict[str, float]:
    """Return unit -> F1 of scores >= 0.5 against targets >= 0.5.

    Args:
        images: uint8[N,3,S,S]. targets: float[N,A].
    """
    present = torch.cat([network(part.float() / 255) for part in torch.split(images, 256)]) >= 0.5
    truth = targets >= 0.5
    both, either = (present & truth).sum(0), present.sum(0) + truth.sum(0)
    return {
        name: float(2 * b / e) if e else 1.0
        for name, b, e in zip(network.au_names, both.tolist(), either.tolist(), strict=True)
    }
