"""T3A (Iwasawa and Matsuo, NeurIPS 2021): a classifier of class means that confident answers of the stream move."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fercore.losses import log_entropy
from fercore.plugin import DomainBatch, Encoded, Model, Progress, RunConfig, Settings, SizedByData, UserInputError
from fercore_test_time.base import TestTime


class T3ASettings(Settings):
    """Settings of t3a."""

    supports: int = Field(100, ge=1, description="features that each class keeps, the surest ones")


class T3A(TestTime):
    """Compares features with class means of the surest answers so far, the head's rows among them; no gradient."""

    paper = "Iwasawa and Matsuo, NeurIPS 2021"
    Settings: ClassVar[type[Settings]] = T3ASettings
    settings: T3ASettings

    def prepare(self, model: Model, config: RunConfig, num_classes: int) -> None:
        """Make room for supports."""
        for name, head in model.heads.items():
            layer = linear_of(head)
            rows = layer.weight.detach().clone()
            numbers = {"labels": torch.arange(num_classes), "seen": torch.zeros((), dtype=torch.int64)}
            banks = {"features": rows, "entropy": rows.new_zeros(num_classes), **numbers}
            self.attach(model, SizedByData(banks), name)

    def begin(self, model: Model) -> None:
        """Let each row of the head be a support of its class, whatever the head takes it for."""
        for name, head in model.heads.items():
            rows = linear_of(head).weight.detach()
            bank = self.part(model, SizedByData, name)
            bank.put("features", rows)
            bank.put("entropy", log_entropy(linear_of(head)(rows).detach().log_softmax(1)))

    def answer(self, model: Model, batch: DomainBatch, encoded: Encoded, clock: Progress) -> Encoded:
        """Take the batch in, and answer with the class means; the batch itself counts (Algorithm 1)."""
        for name, logits in encoded.logits.items():
            bank, log_p = self.part(model, SizedByData, name), logits.detach().log_softmax(1)
            features = torch.cat([bank.get_buffer("features"), encoded.features[name].detach().flatten(1)])
            labels = torch.cat([bank.get_buffer("labels"), log_p.argmax(1)])
            entropy = torch.cat([bank.get_buffer("entropy"), log_entropy(log_p)])
            bank.get_buffer("seen").add_(len(batch))
            kept = surest(labels, entropy, log_p.shape[1], self.settings.supports)
            for buffer, values in (("features", features), ("labels", labels), ("entropy", entropy)):
                bank.put(buffer, values[kept])
        return self.evaluated(model, encoded)

    def evaluated(self, model: Model, encoded: Encoded) -> Encoded:
        """Answer with the class means as they are."""
        logits = {}
        for name, features in encoded.features.items():
            bank = self.part(model, SizedByData, name)
            rows, labels = bank.get_buffer("features"), bank.get_buffer("labels")
            if not int(bank.get_buffer("seen")):
                return encoded  # nothing has come yet: the head answers
            sums = rows.new_zeros(encoded.logits[name].shape[1], rows.shape[1])
            templates = F.normalize(sums.index_add(0, labels, F.normalize(rows, dim=1)), dim=1)
            logits[name] = features.flatten(1) @ templates.T
        return Encoded(encoded.features, logits)


def linear_of(head: nn.Module) -> nn.Linear:
    """Return the linear layer that a head is but for dropout.

    Raises:
        UserInputError: if it is none.
    """
    layers = [m for m in head.modules() if not list(m.children()) and not isinstance(m, nn.Dropout | nn.Identity)]
    if len(layers) != 1 or not isinstance(layers[0], nn.Linear):
        fix = "take a model whose head is linear, or another method"
        raise UserInputError(f"t3a needs a linear head, and this is {type(head).__name__}", where="--init", fix=fix)
    return layers[0]


def surest(labels: Tensor, entropy: Tensor, num_classes: int, most: int) -> Tensor:
    """Return int64[n], class by class the supports of lowest entropy f[N], at most so many of each."""
    of_class = [(labels == k).nonzero()[:, 0] for k in range(num_classes)]
    return torch.cat([own[entropy[own].sort(stable=True).indices[:most]] for own in of_class])
