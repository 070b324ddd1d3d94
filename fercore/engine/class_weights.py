"""`align.class_weights`: source samples weigh by the target's class shares, estimated, or from labels and flagged."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from fercore.config import RunConfig
from fercore.errors import UserInputError
from fercore.losses import class_shares
from fercore.models import ClassShares, Model
from fercore.models.class_shares import PART
from fercore.records.result import ClassWeights
from fercore.records.step import EncodedDataset, Progress, Side
from fercore.records.task import TaskInfo

ORACLE = "oracle"


def attach_shares(model: Model, config: RunConfig, task: TaskInfo, truth: np.ndarray) -> None:
    """Keep the shares in the model, where they are asked for.

    Args:
        truth: int64[n], labels of the adaptation part where they are known, else -1; read for the oracle alone.

    Raises:
        UserInputError: for an oracle without a label.
    """
    rule = config.align.class_weights
    if rule == "none":
        return
    shares = ClassShares(task)
    if rule == ORACLE:
        counts = np.bincount(truth[truth >= 0], minlength=len(task.classes))
        if not counts.sum():
            what, fix = "the target has no labels to take class shares from", "take source_to_estimated"
            raise UserInputError(what, where="align.class_weights=oracle", fix=fix)
        shares.target.copy_(torch.from_numpy(counts / counts.sum()))
    model.parts[PART] = shares


def renew_shares(
    model: Model, config: RunConfig, clock: Progress, encode_dataset: Callable[[Side], EncodedDataset]
) -> dict[str, float]:
    """Estimate the shares anew before each epoch but the first, and return them for the log."""
    if config.align.class_weights != "source_to_estimated" or clock.step == 0:
        return {}
    shares = model.parts[PART]
    assert isinstance(shares, ClassShares)
    outputs = list(encode_dataset("target").logits.values())
    mean = torch.stack([logits.float().softmax(-1) for logits in outputs]).mean(0)
    return {
        f"{PART}_{name}".replace("shares_", "share_"): share
        for name, share in shares.take_in(class_shares(mean, shares.source)).items()
    }


def used_shares(model: Model, config: RunConfig) -> ClassWeights | None:
    """Return what result.json says of them."""
    rule = config.align.class_weights
    if rule == "none":
        return None
    shares = model.parts[PART]
    assert isinstance(shares, ClassShares)
    return ClassWeights(rule=rule, target_shares=shares.by_name(), uses_target_labels=rule == ORACLE)
