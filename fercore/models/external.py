"""Networks whose weights come from elsewhere: frozen, and in no checkpoint but by what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fercore.errors import UserInputError


class External(nn.Module):
    """A frozen network that is built from its settings and never stored.

    Its state is one entry, what it is (`identity`), and loading a state compares it. The tensors themselves stay as
    they were when the model was built.

    Args:
        module: the network; its parameters take no gradient and it stays in evaluation mode.
        identity: what tells it from any other, e.g. {"model": "ViT-B-16", "pretrained": "openai"}, or a file's sha256.
    """

    def __init__(self, module: nn.Module, identity: Mapping[str, str | int]) -> None:
        super().__init__()
        self.module = module.requires_grad_(False)
        self.identity = dict(identity)
        self.train(False)

    def train(self, mode: bool = True) -> External:
        """Stay in evaluation mode, whatever the mode asked for."""
        return super().train(False)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Run the network."""
        return self.module(*inputs, **named)

    def get_extra_state(self) -> Tensor:
        """Return the identity as bytes uint8[n], so that a state holds tensors alone."""
        written = json.dumps(self.identity, sort_keys=True).encode()
        return torch.frombuffer(bytearray(written), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Compare the identity in a saved state with what was loaded here.

        Raises:
            UserInputError: if the state was saved with another network.
        """
        saved = json.loads(bytes(state.cpu().tolist()))
        if saved == self.identity:
            return
        key = next(key for key in [*saved, *self.identity] if saved.get(key) != self.identity.get(key))
        what = f"saved with another frozen network: {key} was {saved.get(key)!r} and is {self.identity.get(key)!r}"
        raise UserInputError(what, fix="give the weights it was trained with, or start a new run")

    def state_dict(self, *args: Any, **named: Any) -> Any:
        """Return the identity alone, under `prefix` and in `destination` where torch gives them."""
        given = named.get("destination")
        destination: dict[str, Any] = {} if given is None else given
        destination[f"{named.get('prefix', '')}_extra_state"] = self.get_extra_state()
        return destination

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load the identity, and the network's tensors from where they are."""
        super()._load_from_state_dict(state_dict, prefix, *args)
        for key, tensor in self.module.state_dict().items():
            # For the modules inside, which torch loads next: each gets
            # the tensor it has, and the strict check misses none.
            state_dict[f"{prefix}module.{key}"] = tensor
