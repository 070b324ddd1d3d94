"""CLIP's towers as parts of a model: images with or without prompts, class sentences, features kept for reuse."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fercore.losses import to_float32
from fercore.models import External, this_forward
from fercore.models.clip import Clip, Position, context_tokens, encode_images, encode_text

log = logging.getLogger(__name__)


class ImageTower(nn.Module):
    """CLIP's image tower, frozen and in no checkpoint, or its own to be trained.

    Images of another size than the model's are resized to it (bicubic, antialiased).

    Args:
        clip: the loaded model. position: of visual prompts. trained: whether the tower learns.

    Attributes:
        frozen: the whole CLIP, both towers, as `External`; absent where the tower is trained.
        visual: the image tower alone where it is trained.
    """

    def __init__(self, clip: Clip, position: Position, *, trained: bool = False) -> None:
        super().__init__()
        self.size, self.position, self.trained = clip.image_size, position, trained
        if trained:
            network: Any = clip.network
            self.visual = network.visual.requires_grad_(True)
        else:
            self.frozen = External(clip.network, clip.identity)

    @property
    def network(self) -> nn.Module:
        """What has the image tower as `visual`: the frozen CLIP, or this module."""
        return self if self.trained else self.frozen.module

    def forward(self, images: Tensor) -> Tensor:
        """Encode images f[B,3,S,S] without prompts."""
        return self.encode(images)

    def encode(self, images: Tensor, **prompts: Tensor) -> Tensor:
        """Encode images.

        Args:
            images: f[B,3,S,S], normalised.
            prompts: none, or "prompts" f[J,k,d_v], or "pool_prompts" f[k,w], as `encode_images` takes them.

        Returns:
            x_v f[B,d], not normalised.
        """
        if images.shape[-1] != self.size:
            size = (self.size, self.size)
            images = F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)
        if "prompts" in prompts:
            return encode_images(self.network, images, prompts["prompts"], position=self.position)
        return encode_images(self.network, images, pool_prompts=prompts.get("pool_prompts"))

    def one_by_one(self, images: Tensor) -> Tensor:
        """Encode each image by itself, without gradients: the same bits whatever else is in the batch."""
        with torch.no_grad():
            return torch.cat([self.encode(image[None]) for image in images])


class Sentences(nn.Module):
    """The class sentences of a run, and their features as long as nothing that they depend on changes.

    Args:
        clip: the loaded model. names: what the C classes are called. template: the hand-made sentence. k: prompts.
        words: what the prompts start from; those that no prompt takes the place of stay in the sentence.

    Attributes:
        plain: i64[C,L] tokens of the hand-made sentences. context: the same with room for k prompts.
        computed: how often the text tower ran.
    """

    plain: Tensor
    context: Tensor

    def __init__(self, clip: Clip, names: Sequence[str], template: str, k: int, words: str = "") -> None:
        super().__init__()
        self.register_buffer("plain", context_tokens(clip, names, k=0, template=template), persistent=False)
        self.register_buffer(
            "context", context_tokens(clip, names, k=k, template=template, words=words), persistent=False
        )
        self.computed = 0
        # In no buffer: they hold a step's graph.
        self._kept: dict[str, tuple[object, Tensor]] = {}

    def hand_crafted(self, network: nn.Module) -> Tensor:
        """Return the features f[C,d] of the hand-made sentences."""
        with torch.no_grad():
            return self._keep("plain", _precision(self.plain), lambda: encode_text(network, self.plain))

    def prompted(self, network: nn.Module, prompts: nn.Parameter) -> Tensor:
        """Return the features f[C,d] of the sentences with prompts f[J,k,d_w]: o of Eq 6.

        They are computed once for every state of the prompts: once a step, once an evaluation.
        """
        # Whether gradients are recorded is part of it: features without a graph are no use to a step.
        state = (prompts.data_ptr(), prompts._version, torch.is_grad_enabled(), _precision(prompts), this_forward())
        return self._keep("context", state, lambda: encode_text(network, self.context, prompts))

    def forget(self) -> None:
        """Let go of features that depend on prompts: of a step's graph, and of what an optimiser has changed."""
        self._kept.pop("context", None)

    def _keep(self, name: str, state: object, compute: Callable[[], Tensor]) -> Tensor:
        kept = self._kept.get(name)
        if kept is None or kept[0] != state:
            self.computed += 1
            kept = (state, to_float32(compute()))
            self._kept[name] = kept
        return kept[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}  # computed again


def _precision(tensor: Tensor) -> tuple[str, bool, torch.dtype]:
    kind = tensor.device.type
    return str(tensor.device), torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)


class KeptFeatures(nn.Module):
    """Image features of each side that cannot change, each image encoded once; in no checkpoint.

    Args:
        compute: images f[B,...] -> f[B,d], the same for an image whatever the batch.

    Attributes:
        computed: images encoded so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.computed = 0
        self._rows: dict[str, dict[int, Tensor]] = {}

    def get(self, side: str, index: Tensor, images: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the features f[B,d] of a side's images.

        Args:
            side: whose positions they are. index: i64[B]. images: f[B,...]. compute: for those not seen before; the
                same for an image whatever else is in the batch.
        """
        rows, places = self._rows.setdefault(side, {}), index.tolist()
        # Each new place once, though a batch may hold an image twice.
        new = list({place: at for at, place in enumerate(places) if place not in rows}.values())
        if new:
            self.computed += len(new)
            for at, feature in zip(new, compute(images[new]), strict=True):
                rows[places[at]] = feature
        return torch.stack([rows[place] for place in places])


def class_names(classes: Sequence[str] | None, words: Mapping[str, str]) -> list[str]:
    """Return what each class is called before CLIP."""
    return [words.get(name, name) for name in classes or ()]


def scale_of(clip: Clip, logit_scale: str | int) -> float:
    """Return s of Eq 7: that of the trained CLIP, or 1."""
    network: Any = clip.network
    return 1.0 if logit_scale == 1 else math.exp(float(network.logit_scale))
