"""Batch normalisation with scales, shifts and statistics of each domain's own (DSBN, Chang et al., CVPR 2019)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class DomainNorm(nn.Module):
    """A batch normalisation for each domain; that of the last domain is in use unless `normalised_as` says otherwise.

    Weights of a plain batch normalisation are taken over for every domain.

    Args:
        norm: what each domain gets a copy of. domains: how many.
    """

    def __init__(self, norm: nn.Module, domains: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([copy.deepcopy(norm) for _ in range(domains)])
        self.domain = domains - 1

    def forward(self, rows: Tensor) -> Tensor:
        """Return the normalised rows; a row that comes alone passes as in evaluation, for it has no variance."""
        norm = self.norms[self.domain]
        alone = norm.training and len(rows) < 2
        if alone:
            norm.eval()
        normalised: Tensor = norm(rows)
        if alone:
            norm.train()
        return normalised

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in [name for name, _ in (*self.norms[0].named_parameters(), *self.norms[0].named_buffers())]:
            plain = state_dict.pop(prefix + name, None)
            if plain is not None:
                for number in range(len(self.norms)):
                    state_dict[f"{prefix}norms.{number}.{name}"] = plain
        super()._load_from_state_dict(state_dict, prefix, *args)


def split_norms(module: nn.Module, domains: int) -> None:
    """Put a `DomainNorm` in the place of every batch normalisation inside a module."""
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, DomainNorm(child, domains))
        else:
            split_norms(child, domains)


@contextmanager
def normalised_as(module: nn.Module, domain: int) -> Iterator[None]:
    """Let every `DomainNorm` inside a module use a domain's own normalisation."""
    norms = [each for each in module.modules() if isinstance(each, DomainNorm)]
    before = [norm.domain for norm in norms]
    for norm in norms:
        norm.domain = domain
    try:
        yield
    finally:
        for norm, number in zip(norms, before, strict=True):
            norm.domain = number
