"""Encoders of CLIP with prompts in their first layers, around open_clip's own forward passes.

open_clip embeds, pools and projects; only the pass through the blocks (or the attention pool of a ResNet) is run here,
so that prompts can enter. Without prompts the result is open_clip's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Position: TypeAlias = Literal["after_patches", "after_cls"]
Place: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def encode_images(
    network: nn.Module,
    images: Tensor,
    prompts: Tensor | None = None,
    *,
    position: Position = "after_patches",
    pool_prompts: Tensor | None = None,
) -> Tensor:
    """Encode images (PCA, 2025, Eqs 1-3; MaPLe, Khattak et al. 2023).

    Prompts of layer 1 stand beside the embedded patches and pass the layer norm of the input with them; at layers 2..J
    fresh ones take the place of the outputs of those before; after layer J the last are carried on, and dropped before
    the features are pooled.

    Args:
        network: an open_clip model, `Clip.network`.
        images: float[B,3,H,W], normalised with the model's mean and std.
        prompts: float[J,k,d_v] for the first J layers of a ViT.
        position: where the prompts stand: behind the patches, or between the class token and the patches.
        pool_prompts: float[k,w], further tokens in the attention pool of a ResNet of output width w (2048 for RN50).

    Returns:
        float[B,d], not normalised.

    Raises:
        ValueError: for prompts of a wrong shape, more layers than there are, or prompts the tower has no place for.
    """
    visual: Any = network.visual
    if hasattr(visual, "attnpool"):
        if prompts is not None:
            raise ValueError("a ResNet has no layers for prompts; give pool_prompts instead")
        with _running(visual.attnpool, _PromptedPool(visual.attnpool, pool_prompts)):
            return _first(visual(images))
    if pool_prompts is not None:
        raise ValueError("pool_prompts are for the attention pool of a ResNet; this image tower is a ViT")
    if position not in ("after_patches", "after_cls"):
        raise ValueError(f"unknown position {position!r} of visual prompts")
    transformer = visual.transformer
    blocks = _PromptedBlocks(transformer, prompts, _Beside(position))
    # open_clip applies it before the blocks that are replaced here, so the prompts would pass it by.
    blocks.norm_first(visual.ln_pre)
    with _running(transformer, blocks):
        return _first(visual(images))


def encode_text(network: nn.Module, tokens: Tensor, prompts: Tensor | None = None) -> Tensor:
    """Encode sentences (PCA, 2025, Eqs 4-6; MaPLe, Khattak et al. 2023).

    Prompts take the place of positions 1..k: at layer 1 of the word embeddings there (position codes are added to them
    as to words), at layers 2..J of what the layer before put out; after layer J the last are carried on.

    Args:
        network: an open_clip model, `Clip.network`.
        tokens: i64[C,L], see `context_tokens`.
        prompts: float[J,k,d_w] for the first J layers.

    Returns:
        float[C,d], not normalised.

    Raises:
        ValueError: for prompts of a wrong shape, more layers than there are, or more prompts than positions.
    """
    # CLIP holds the text tower itself, CustomTextCLIP under `text`.
    tower: Any = network if hasattr(network, "transformer") else network.text
    transformer, codes = tower.transformer, tower.positional_embedding
    if prompts is not None and prompts.ndim == 3 and prompts.shape[1] > tokens.shape[1] - 2:
        raise ValueError(f"{prompts.shape[1]} prompts do not fit into {tokens.shape[1]} tokens")
    if prompts is not None and prompts.ndim == 3 and len(prompts):
        # At position 1: codes of the words that they stand for. Later layers have them inside already.
        placed = prompts[0] + codes[1 : 1 + prompts.shape[1]].to(prompts.dtype)
        prompts = torch.cat([placed.unsqueeze(0), prompts[1:]])
    with _running(transformer, _PromptedBlocks(transformer, prompts, _replace)):
        encode: Any = network.encode_text
        return _first(encode(tokens))


class _PromptedBlocks:
    """A transformer's pass through its blocks, with fresh prompts before each of the first J."""

    def __init__(self, transformer: Any, prompts: Tensor | None, place: Place) -> None:
        self.transformer, self.prompts, self.place = transformer, prompts, place
        self._check(len(transformer.resblocks), transformer.width)

    def _check(self, layers: int, width: int) -> None:
        if self.prompts is None:
            return
        if self.prompts.ndim != 3 or self.prompts.shape[2] != width:
            raise ValueError(f"prompts are {tuple(self.prompts.shape)}, not (layers, k, {width})")
        if len(self.prompts) > layers:
            raise ValueError(f"prompts for {len(self.prompts)} layers, the tower has {layers}")

    def norm_first(self, norm: Callable[[Tensor], Tensor]) -> None:
        """Pass the prompts of layer 1 through a norm, which takes every token by itself."""
        if self.prompts is not None and len(self.prompts):
            self.prompts = torch.cat([norm(self.prompts[:1]), self.prompts[1:]])

    def __call__(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Map float[N,L,D] to float[N,L,D]; tokens that prompts added are gone again."""
        prompts = () if self.prompts is None else self.prompts
        recompute = self.transformer.grad_checkpointing and torch.is_grad_enabled()
        for number, block in enumerate(self.transformer.resblocks):
            if number < len(prompts):
                x = self.place(x, prompts[number].to(x.dtype))
            x = self._run(block, x, attn_mask, recompute)
        return self.place.strip(x) if isinstance(self.place, _Beside) else x

    def _run(self, block: nn.Module, x: Tensor, attn_mask: Tensor | None, recompute: bool) -> Tensor:
        # Older models' blocks take [L,N,D].
        if not self.transformer.batch_first:
            x = x.transpose(0, 1).contiguous()
        if recompute:
            x = checkpoint(block, x, attn_mask=attn_mask, use_reentrant=False)  # type: ignore[no-untyped-call]
        else:
            x = block(x, attn_mask=attn_mask)
        return x if self.transformer.batch_first else x.transpose(0, 1)


class _Beside:
    """Puts prompts beside the class token and the patches, and takes them away again."""

    def __init__(self, position: Position) -> None:
        self.position, self.tokens = position, 0

    def __call__(self, x: Tensor, prompts: Tensor) -> Tensor:
        """Return [class, patches, prompts] or [class, prompts, patches] float[N,1+M+k,D], older prompts dropped."""
        x = self.strip(x)
        self.tokens = len(prompts)
        fresh = prompts.expand(x.shape[0], -1, -1)
        if self.position == "after_patches":
            return torch.cat([x, fresh], 1)
        return torch.cat([x[:, :1], fresh, x[:, 1:]], 1)

    def strip(self, x: Tensor) -> Tensor:
        """Return the tokens without the prompts."""
        if not self.tokens:
            return x
        if self.position == "after_patches":
            return x[:, : -self.tokens]
        return torch.cat([x[:, :1], x[:, 1 + self.tokens :]], 1)


def _replace(x: Tensor, prompts: Tensor) -> Tensor:
    fresh = prompts.expand(x.shape[0], -1, -1)
    return torch.cat([x[:, :1], fresh, x[:, 1 + len(prompts) :]], 1)


class _PromptedPool:
    """The attention pool of a ResNet with further tokens: the mean token asks, map positions and prompts answer."""

    def __init__(self, pool: Any, prompts: Tensor | None) -> None:
        width = pool.k_proj.in_features
        if prompts is not None and (prompts.ndim != 2 or prompts.shape[1] != width):
            raise ValueError(f"pool_prompts are {tuple(prompts.shape)}, not (k, {width})")
        self.pool, self.prompts = pool, prompts

    def __call__(self, x: Tensor) -> Tensor:
        """Map float[B,w,H,W] to float[B,d]."""
        pool = self.pool
        x = x.flatten(2).permute(2, 0, 1)
        x = torch.cat([x.mean(0, keepdim=True), x])
        x = x + pool.positional_embedding[:, None].to(x.dtype)
        if self.prompts is not None:
            x = torch.cat([x, self.prompts.to(x.dtype)[:, None].expand(-1, x.shape[1], -1)])
        pooled, _ = F.multi_head_attention_forward(
            # One query, the mean token: the other outputs would be thrown away.
            x[:1], x, x, x.shape[-1], pool.num_heads, None,
            torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]), None, None, False, 0.0,
            pool.c_proj.weight, pool.c_proj.bias, training=False, need_weights=False, use_separate_proj_weight=True,
            q_proj_weight=pool.q_proj.weight, k_proj_weight=pool.k_proj.weight, v_proj_weight=pool.v_proj.weight,
        )  # fmt: skip
        return pooled[0]


@contextmanager
def _running(module: nn.Module, forward: Callable[..., Tensor]) -> Iterator[None]:
    """Let a module's calls run another function, and its own again afterwards."""
    # In the instance, which goes before the class: open_clip's own code around the call stays in use.
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        del module.__dict__["forward"]


def _first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the pooled features of a tower that may return its tokens too."""
    return output[0] if isinstance(output, tuple) else output
