"""Networks that answer as in evaluation while another one trains."""

from __future__ import annotations

from torch import Tensor, nn

from fercore.models import Model
from fercore.plugin import Encoded


class Kept(nn.Module):
    """A network that no phase trains and that stays in evaluation mode."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Kept:
        """Stay in evaluation mode, whatever the mode asked for."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return what the network makes of images f[B,3,H,W]."""
        answer: Tensor = self.network(images)
        return answer


def in_evaluation(model: Model, images: Tensor) -> Encoded:
    """Run a network in evaluation mode, and leave it in the mode it was in."""
    training = model.training
    model.eval()
    encoded: Encoded = model(images)
    model.train(training)
    return encoded
