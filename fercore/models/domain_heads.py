"""Networks that tell domains apart, for adversarial alignment."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fercore.models.layers import RowNorm


class DomainHead(nn.Sequential):
    """Two hidden layers with batch normalisation: float[n,D] -> float[n,1], the logit of being a source sample.

    Args:
        width: D. hidden: of either layer.
    """

    def __init__(self, width: int, hidden: int) -> None:
        layers: list[nn.Module] = []
        for inputs in (width, hidden):
            layers += [nn.Linear(inputs, hidden), RowNorm(hidden), nn.ReLU()]
        super().__init__(*layers, nn.Linear(hidden, 1))


class GroupedDomainHeads(nn.Module):
    """A head of two hidden layers for each of G inputs, as batched products: float[n,G*D] -> float[n,G] logits.

    Args:
        groups: G. width: D. hidden: of either layer of each head.
    """

    def __init__(self, groups: int, width: int, hidden: int) -> None:
        super().__init__()
        sizes = [(width, hidden), (hidden, hidden), (hidden, 1)]
        # Drawn as Linear draws: the stacked weights have the initialisation of separate heads.
        drawn = [[nn.Linear(*size) for _ in range(groups)] for size in sizes]
        stacked = [torch.stack([layer.weight.detach().T for layer in layers]) for layers in drawn]
        self.weights = nn.ParameterList([nn.Parameter(each) for each in stacked])
        self.biases = nn.ParameterList(
            [nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]).unsqueeze(1)) for layers in drawn]
        )

    def forward(self, rows: Tensor) -> Tensor:
        """Return the logits float[n,G] of rows float[n,G*D]."""
        groups, width, _ = self.weights[0].shape
        hidden = rows.view(-1, groups, width).transpose(0, 1)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, torch.relu(hidden) if number else hidden, weight)
        logits: Tensor = hidden.squeeze(2).T
        return logits
