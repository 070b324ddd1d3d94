"""FlexMatch (Zhang et al., NeurIPS 2021, Eqs 5-11): FixMatch with lower thresholds for classes that are learnt less.

Defaults: USB, semilearn/algorithms/flexmatch and config/usb_cv/flexmatch (p_cutoff 0.95, T 0.5, hard labels, warm-up).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from fercore.losses import curriculum_thresholds
from fercore.models import Model, SizedByData
from fercore.plugin import Batch, Forward, RunConfig, Settings, TaskInfo, hookimpl
from fercore_ssl.base import CutoffSettings, ThresholdMethod
from fercore_ssl.presets import COMMON


class FlexMatchSettings(CutoffSettings):
    """Settings of flexmatch."""

    thresh_warmup: bool = Field(True, description="samples not learnt yet hold all thresholds down")


class FlexMatch(ThresholdMethod):
    """A threshold for each class, by how many samples the network was last sure to be of it."""

    paper = "Zhang et al., NeurIPS 2021"
    Settings: ClassVar[type[Settings]] = FlexMatchSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = COMMON
    settings: FlexMatchSettings

    def state(self, num_classes: int) -> nn.Module:
        """Keep the class each unlabelled sample was last sure of, int64[N], -1 = none yet."""
        return SizedByData({"learnt": torch.zeros(0, dtype=torch.int64)})

    @hookimpl
    def build_model(  # type: ignore[override]  # a hook names the arguments it needs, here more than the base's
        self, config: RunConfig, num_classes: int, task: TaskInfo
    ) -> Model:
        """Build the network, with room for each unlabelled sample."""
        model = super().build_model(config, num_classes, task)
        self.part(model, SizedByData).put("learnt", torch.full((task.target.n,), -1))
        return model

    def trusted(self, model: Model, batch: Batch, encoded: Forward, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 where the largest probability reaches its class's threshold; then note what has been learnt."""
        learnt = self.part(model, SizedByData).get_buffer("learnt")
        top, labels = probs.max(-1)
        cutoff = self.settings.p_cutoff
        levels = curriculum_thresholds(learnt, probs.shape[1], cutoff, warmup=self.settings.thresh_warmup)
        # Learnt by the full threshold, trusted by the class's lower one.
        sure = top >= cutoff
        learnt[batch.target.index[sure]] = labels[sure]
        return top >= levels[labels], probs
