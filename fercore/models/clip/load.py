"""A CLIP from open_clip, frozen, with weights from a tag, a local file, or a seed."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import open_clip
import torch
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from torch import Tensor, nn

from fercore.errors import UserInputError, did_you_mean
from fercore.files import open_regular
from fercore.models.clip.configs import clip_config
from fercore.models.clip.fetch import fetch_published
from fercore.models.clip.files import fit_state, is_openai, read_state
from fercore.models.clip.settings import ClipSettings, file_of
from fercore.models.clip.tokens import Tokenizer

log = logging.getLogger(__name__)
Statistics: TypeAlias = tuple[float, float, float]
Kind: TypeAlias = Literal["vit", "resnet"]


@dataclass(frozen=True)
class Clip:
    """A frozen CLIP and what one needs to know of it.

    Attributes:
        network: open_clip's module, in evaluation mode, no parameter with a gradient.
        model: name of its configuration. kind: "vit" or "resnet".
        image_size: side of its images, pixels. mean, std: channel statistics of its images scaled to [0,1].
        vision_width: d_v of a ViT, or width of the map before a ResNet's attention pool.
        vision_layers: blocks of a ViT that prompts may enter; 0 for a ResNet.
        text_width: d_w. text_layers: blocks of the text tower. context_length: L, tokens of a sentence. dim: d.
        identity: model and tag, sha256 of the file, or seed and sha256 of the weights drawn: what `External` compares.
        tokenizer: words to tokens.
    """

    network: nn.Module
    model: str
    kind: Kind
    image_size: int
    mean: Statistics
    std: Statistics
    vision_width: int
    vision_layers: int
    text_width: int
    text_layers: int
    context_length: int
    dim: int
    identity: dict[str, str | int]
    tokenizer: Tokenizer

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Turn N texts into tokens i64[N,L].

        Raises:
            UserInputError: if a text has more tokens than fit.
        """
        return self.tokenizer(texts)


def load_clip(settings: ClipSettings, *, seed: int, where: str = "clip") -> Clip:
    """Build a CLIP and load its weights; no random generator is moved.

    Args:
        settings: model and weights. seed: of the weights where `pretrained` is "none".
        where: what errors call the settings.

    Raises:
        UserInputError: for an unknown model or tag, weights that cannot be fetched, read, or do not fit.
    """
    config = clip_config(settings.model, where=f"{where}.model")
    file = file_of(settings.pretrained)
    with torch.random.fork_rng(devices=[]):
        # Inside fork_rng: weights drawn by the seed alone, and the run's generators stay where they are.
        torch.manual_seed(seed)
        if settings.pretrained == "none":
            network, statistics = _build(config), (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
            identity: dict[str, str | int] = {"seed": seed, "sha256": _weights_hash(network)}
        elif file is not None:
            network, statistics, identity = _from_file(settings.model, config, file, f"{where}.model")
        else:
            network, statistics, identity = _from_tag(
                settings.model, config, settings.pretrained, f"{where}.pretrained"
            )
    network.eval().requires_grad_(False)
    if settings.checkpoint_blocks:
        network.set_grad_checkpointing(True)
    return _describe(network, settings.model, statistics, {"model": settings.model, **identity})


Loaded: TypeAlias = tuple[Any, tuple[Any, Any], dict[str, str | int]]


def _build(config: Mapping[str, Any], *, quick_gelu: bool = False) -> Any:
    arguments = deepcopy(dict(config))
    kind = open_clip.CustomTextCLIP if arguments.pop("custom_text", False) else open_clip.CLIP
    if quick_gelu:
        arguments["quick_gelu"] = True
    return kind(**arguments)


def _from_file(model: str, config: Mapping[str, Any], path: Path, setting: str) -> Loaded:
    state, metadata = read_state(path)
    made_for = metadata.get("model", model)
    if made_for != model:
        fix = f"--set {setting}={made_for}"
        raise UserInputError(f"weights are of CLIP model {made_for!r}, not of {model!r}", where=str(path), fix=fix)
    # The activation stands in no tensor; with the wrong one the network runs and is worse.
    quick = is_openai(state)
    if quick and not config.get("quick_gelu"):
        log.warning("%s holds OpenAI's weights: built with the activation they were trained with (QuickGELU)", path)
    network = _build(config, quick_gelu=quick)
    network.load_state_dict(fit_state(state, network, where=str(path)))
    with open_regular(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return network, (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD), {"sha256": digest}


def _from_tag(model: str, config: Mapping[str, Any], tag: str, setting: str) -> Loaded:
    tags = list_pretrained_tags_by_model(model)
    written, tag = tag, tag.lower().replace("-", "_")  # open_clip takes either spelling
    if tag not in tags:
        fix = did_you_mean(tag, tags) if tags else "it has no published weights; give a file, or 'none'"
        raise UserInputError(f"{written!r} is no file and no tag of CLIP model {model!r}", where=setting, fix=fix)
    published = get_pretrained_cfg(model, tag)
    try:
        path = fetch_published(published)
    except Exception as error:
        what = f"cannot fetch weights {tag!r} of {model!r} ({type(error).__name__})"
        raise UserInputError(what, where=setting, fix=_by_hand(model, config, published)) from None
    network = _build(config, quick_gelu=bool(published.get("quick_gelu")))
    try:
        open_clip.load_checkpoint(network, path)
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise UserInputError(f"weights {tag!r} of {model!r} cannot be read: {reason}", where=str(path)) from None
    statistics = (published.get("mean"), published.get("std"))
    known = (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    return network, (statistics[0] or known[0], statistics[1] or known[1]), {"pretrained": tag}


def _by_hand(model: str, config: Mapping[str, Any], published: Mapping[str, Any]) -> str:
    """Say how to load a tag's weights where there is no network."""
    hub = str(published.get("hf_hub") or "").strip("/")
    source = f"open_clip_model.safetensors of {hub} on the Hugging Face hub" if hub else published.get("url")
    fix = f"on a machine with a network download {source}, then give the file: pretrained=/path/to/file"
    if published.get("quick_gelu") and not config.get("quick_gelu"):
        fix += f", with model={model}-quickgelu, the activation they were trained with"
    return fix


def _describe(network: Any, model: str, statistics: tuple[Any, Any], identity: dict[str, str | int]) -> Clip:
    visual = network.visual
    text = network if hasattr(network, "transformer") else network.text
    resnet = hasattr(visual, "attnpool")
    size = visual.image_size
    return Clip(
        network=network,
        model=model,
        kind="resnet" if resnet else "vit",
        image_size=size if isinstance(size, int) else size[0],
        mean=tuple(statistics[0]),
        std=tuple(statistics[1]),
        vision_width=visual.attnpool.k_proj.in_features if resnet else visual.transformer.width,
        vision_layers=0 if resnet else len(visual.transformer.resblocks),
        text_width=text.transformer.width,
        text_layers=len(text.transformer.resblocks),
        context_length=network.context_length,
        dim=visual.output_dim,
        identity=identity,
        tokenizer=Tokenizer(network.vocab_size, network.context_length),
    )


def _weights_hash(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, tensor in network.state_dict().items():
        digest.update(key.encode())
        digest.update(tensor.contiguous().numpy())
    return digest.hexdigest()
