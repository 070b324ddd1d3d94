"""Warm-up of a small random CLIP: contrastive training on captions of labelled faces, and what it knows afterwards."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fercore.models.clip import Clip, ClipSettings, context_tokens, encode_images, encode_text, load_clip
from fercore.models.clip.captions import Caption, write_caption
from fercore.models.clip.configs import clip_config
from fercore.plugin import (
    CANONICAL,
    DomainSpec,
    LabelledImages,
    RunConfig,
    UserInputError,
    did_you_mean,
    noise_key,
    parse_spec,
    permutation,
    read_labelled,
    uniforms,
    weak_view,
    write_tensors,
)

KIND = "fercore CLIP 1"
AUGMENT: tuple[str, ...] = get_args(type(RunConfig().data).model_fields["augment"].annotation)
SCALES = (math.log(1 / 0.07), math.log(100))
"""Bounds of the learned logit scale: CLIP's first value, below which early training stays stuck, and its largest."""

Say: TypeAlias = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Warmup:
    """How a CLIP is warmed up.

    Args:
        model: its configuration. data: SPECs of labelled faces with known subjects; generated ones bring action units,
            others may name a provider (?au=).
        steps, batch: length, and images a step. lr: peak learning rate of AdamW. seed: of all draws.
        held_out: share of the subjects that training never sees. augment: what a view does, as data.augment.
    """

    model: str = "tiny"
    data: tuple[DomainSpec, ...] = tuple(
        parse_spec(f"synthfer:{style}?n=2000&seed=70") for style in ("studio", "posed", "web", "wild")
    )
    steps: int = 1200
    batch: int = 64
    lr: float = 2e-3
    seed: int = 0
    held_out: float = 0.2
    augment: str = "none"


@dataclass(frozen=True)
class Faces:
    """Labelled faces in memory: images u8[N,3,S,S], name of each expression, action units each shows."""

    images: Tensor
    labels: tuple[str, ...]
    units: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.labels)


def warm_up(plan: Warmup, say: Say = lambda step, steps, loss: None) -> tuple[Clip, dict[str, Any]]:
    """Train a random CLIP on captions of faces, and score it without training on subjects it never saw.

    Args:
        plan: model, data and lengths. say: hears step, steps and loss after each step.

    Returns:
        the CLIP, frozen again, and {"classes", "train", "held_out" (images), "before", "after" (balanced accuracy of
        zero-shot recognition with the sentences of `context_tokens`, held-out subjects)}.

    Raises:
        UserInputError: for an unknown model, unusable data, or lengths that make no training.
    """
    if plan.steps < 1 or plan.batch < 2 or not 0 < plan.lr < 1e36 or not 0 < plan.held_out < 1:
        what = "at least one step, two images a step, a learning rate above 0, and a share of subjects in (0, 1)"
        raise UserInputError(what, where="clip warmup")
    if plan.augment not in AUGMENT:
        raise UserInputError(
            f"unknown augmentation {plan.augment!r}", where="clip warmup", fix=did_you_mean(plan.augment, AUGMENT)
        )
    clip_config(plan.model, where="clip warmup --model")
    clip = load_clip(ClipSettings(model=plan.model), seed=plan.seed)
    train, test = _read(plan, clip.image_size)
    classes = [name for name in CANONICAL if name in train.labels]
    if len(classes) < 2 or len(train) < plan.batch:
        what = f"{len(train)} images of {len(classes)} classes to train on"
        raise UserInputError(what, where="clip warmup --data", fix=f"give two classes and {plan.batch} images or more")
    before = zero_shot(clip, test, classes)
    # A run that warms up first must draw afterwards what it would have drawn without.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        _fit(clip, train, plan, say)
    after = zero_shot(clip, test, classes)
    counts = {"train": len(train), "held_out": len(test)}
    return clip, {"classes": classes, **counts, "before": before, "after": after}


def save_clip(clip: Clip, path: Path, plan: Warmup, report: dict[str, Any]) -> None:
    """Write a warmed-up CLIP's weights, for `pretrained=FILE`, with what they are as metadata.

    Raises:
        WriteError: if the file cannot be written.
    """
    packages = {name: version(name) for name in ("fercore", "torch", "open_clip_torch")}
    metadata = {"kind": KIND, "model": clip.model, "image_size": str(clip.image_size)}
    settings = {**asdict(plan), "data": list(map(str, plan.data))}
    metadata |= {"plan": json.dumps(settings), "report": json.dumps(report), "versions": json.dumps(packages)}
    write_tensors(path, clip.network.state_dict(), metadata)


@torch.no_grad()
def zero_shot(clip: Clip, faces: Faces, classes: Sequence[str]) -> float:
    """Return the balanced accuracy of the class whose sentence is nearest by cosine, nothing trained."""
    texts = F.normalize(encode_text(clip.network, context_tokens(clip, classes, k=0)), dim=1)
    features = [
        encode_images(clip.network, _prepared(clip, part.float() / 255)) for part in torch.split(faces.images, 256)
    ]
    said = (F.normalize(torch.cat(features), dim=1) @ texts.T).argmax(1)
    truth = torch.tensor([classes.index(label) if label in classes else -1 for label in faces.labels])
    return float(np.mean([(said[truth == c] == c).float().mean().item() for c in sorted(set(truth.tolist()) - {-1})]))


def contrastive_loss(images: Tensor, texts: Tensor, fits: Tensor, scale: Tensor) -> Tensor:
    """Symmetric divergence from "every text that is true of an image is its own" (UniCL, Yang et al. 2022).

    The least is 0, where the texts that fit share all probability equally. Where each image has one text and no other
    fits, this is CLIP's loss (Radford et al. 2021).

    Args:
        images: float[B,d]. texts: float[T,d], each text once. fits: bool[B,T], a text in each row, an image in each
            column. scale: scalar factor of the cosines.
    """
    logits = scale * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    shares = fits.to(logits.dtype)
    from_images = _divergence(shares / shares.sum(1, keepdim=True), logits.log_softmax(1)).sum(1).mean()
    from_texts = _divergence(shares / shares.sum(0, keepdim=True), logits.log_softmax(0)).sum(0).mean()
    return (from_images + from_texts) / 2


def _divergence(wanted: Tensor, log_found: Tensor) -> Tensor:
    return torch.xlogy(wanted, wanted) - wanted * log_found


def _fit(clip: Clip, faces: Faces, plan: Warmup, say: Say) -> None:
    network: Any = clip.network
    network.requires_grad_(True).train()
    # As CLIP is trained: no decay of biases, norms and the scale.
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=plan.lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, plan.lr, total_steps=plan.steps, pct_start=0.1)
    for step in range(plan.steps):
        loss = _step_loss(clip, faces, plan, step)
        if not loss.isfinite():
            raise UserInputError(f"the loss is not finite after {step} steps", where="clip warmup", fix="lower --lr")
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            # Clamped after the step, as CLIP does: its gradient stays whole.
            network.logit_scale.clamp_(*SCALES)
        say(step + 1, plan.steps, loss.item())
    if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
        raise UserInputError("the weights are not finite after the last step", where="clip warmup", fix="lower --lr")
    network.requires_grad_(False).eval()


def _step_loss(clip: Clip, faces: Faces, plan: Warmup, step: int) -> Tensor:
    network: Any = clip.network
    at = _batch(len(faces), plan, step)
    # Numbered over the whole warm-up, as a run numbers its draws: no two views share random numbers.
    draws = np.arange(step * plan.batch, (step + 1) * plan.batch)
    seen = weak_view(faces.images[at].float() / 255, _draws(plan, "view", draws, 16), plan.augment)
    words = _draws(plan, "words", draws, 4).numpy()
    captions = {}
    for i, draw in zip(at.tolist(), words, strict=True):
        caption = write_caption(faces.labels[i], faces.units[i], draw)
        # Equal sentences once: as several columns they would be each other's negatives.
        captions[caption.text] = caption
    texts = encode_text(network, clip.tokenize(list(captions)))
    images = encode_images(network, _prepared(clip, seen))
    return contrastive_loss(images, texts, _fits(faces, at, list(captions.values())), network.logit_scale.exp())


def _fits(faces: Faces, at: np.ndarray, captions: Sequence[Caption]) -> Tensor:
    return torch.tensor([[c.fits(faces.labels[i], faces.units[i]) for c in captions] for i in at.tolist()])


def _batch(n: int, plan: Warmup, step: int) -> np.ndarray:
    """Return int64[batch]: each epoch another order; what does not fill a batch waits for another epoch."""
    per_epoch = n // plan.batch
    epoch, number = divmod(step, per_epoch)
    return permutation(n, "clip", plan.seed, epoch)[number * plan.batch : (number + 1) * plan.batch]


def _draws(plan: Warmup, purpose: str, draws: np.ndarray, count: int) -> Tensor:
    return torch.from_numpy(uniforms(noise_key("clip", plan.seed, purpose), draws, count))


def _prepared(clip: Clip, images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (clip.mean, clip.std))
    return (images - mean) / std


def _read(plan: Warmup, size: int) -> tuple[Faces, Faces]:
    """Return the faces of the subjects to train on, and of the others; held out of one dataset is held out of all."""
    parts = [read_labelled(spec, size=size, held_out=plan.held_out, seed=plan.seed) for spec in plan.data]
    # Generated faces of several styles show the same subjects: who is held out of one would be known from another.
    held = {who for part in parts for who, out in zip(part.subjects, part.held_out, strict=True) if out}
    train, test = [], []
    for part in parts:
        out = np.array([who in held for who in part.subjects], dtype=bool)
        train.append(_some(part, np.flatnonzero(~out)))
        test.append(_some(part, np.flatnonzero(out)))
    return _joined(train), _joined(test)


def _some(faces: LabelledImages, at: np.ndarray) -> Faces:
    chosen = at.tolist()
    return Faces(faces.images[at], tuple(faces.labels[i] for i in chosen), tuple(faces.units[i] for i in chosen))


def _joined(faces: Sequence[Faces]) -> Faces:
    labels = tuple(label for part in faces for label in part.labels)
    return Faces(torch.cat([part.images for part in faces]), labels, tuple(u for part in faces for u in part.units))
