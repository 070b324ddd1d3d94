"""The bank of the whole target that neighbourhood methods look samples up in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fercore.losses import unit
from fercore.models import Model, SizedByData
from fercore.plugin import Batch, Encoded, EncodedDataset, Progress, TaskInfo, UserInputError
from fercore_source_free.base import TrainedModel, features_of, log_probs_of


class Banked(TrainedModel):
    """A method with a row of features and probabilities for each target image, the batch's own renewed each step."""

    settings: Any

    def parts(self, model: Model, task: TaskInfo) -> Mapping[str, nn.Module]:
        """Return the bank; its width follows from the network, its length from the target."""
        return {"state": SizedByData({"features": torch.zeros(0, 1), "probs": torch.zeros(0, len(task.classes))})}

    def renew(self, model: Model, encoded: EncodedDataset, log_probs: Tensor, clock: Progress) -> dict[str, float]:
        """Fill the bank before the first step."""
        if clock.step == 0:
            if len(log_probs) < 2:
                what, fix = "a target of one image has no neighbours", "give more images"
                raise UserInputError(what, where="--target", fix=fix)
            bank = self.part(model, SizedByData, "state")
            bank.put("features", unit(features_of(encoded)))
            bank.put("probs", log_probs.exp())
        return {}

    @torch.no_grad()
    def renewed(self, model: Model, batch: Batch, encoded: Encoded) -> tuple[Tensor, Tensor, Tensor]:
        """Write the batch's rows into the bank, and return features f[B,D] of unit length and its two buffers."""
        bank, index = self.part(model, SizedByData, "state"), batch.target.index
        features, probs = bank.get_buffer("features"), bank.get_buffer("probs")
        own = unit(features_of(encoded).detach())
        features[index], probs[index] = own, log_probs_of(encoded).detach().exp()
        return own, features, probs
