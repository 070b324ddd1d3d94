"""MFSAN (Zhu et al., AAAI 2019): each source meets the target in features of its own, and all predict alike there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fercore.losses import mean_difference, plain_mmd, ramp, to_float32
from fercore.models import Model, build_trunk
from fercore.plugin import (
    Batch,
    DomainBatch,
    Encoded,
    Forward,
    LossTerm,
    ParamGroup,
    Phase,
    Progress,
    Purpose,
    Role,
    RunConfig,
    Settings,
    Side,
    Stage,
    TaskInfo,
    hookimpl,
    single_stage,
)
from fercore_multi_source.base import ManySources, own_rows, presets


class MfsanSettings(Settings):
    """Settings of mfsan."""

    width: int = Field(256, ge=1, description="of each source's features")
    stride: int = Field(32, ge=1, description="of the backbone's map that they are taken from")
    step: Literal["joint", "per_source"] = Field(
        "joint", description="one step a batch of the mean over sources, or one for each source, as released"
    )


class MFSAN(ManySources):
    """Features and a head for each source: kernel distance to the target, and equal predictions there."""

    paper = "Zhu et al., AAAI 2019"
    joint_forward = False
    Settings: ClassVar[type[Settings]] = MfsanSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": presets("mfsan", paper={"mfsan": {"step": "per_source"}})["paper"],
        **{key: {"mfsan": {"width": 64}} for key in ("small", "demo")},
    }
    settings: MfsanSettings

    def goes_by_length(self) -> str:
        """The weight beside the cross-entropy does."""
        return "ramp"

    @hookimpl
    def build_model(self, config: RunConfig, num_classes: int, task: TaskInfo) -> Model:
        """Build a backbone cut before its pooling, and features and head of each source."""
        trunk = build_trunk(config.model, reduction=self.settings.stride)
        names = [f"source{number}" for number in range(len(task.sources))]
        branches = {name: block(trunk.channels, self.settings.width) for name in names}
        dropout = config.model.dropout
        heads = {
            name: nn.Sequential(nn.Dropout(dropout), nn.Linear(self.settings.width, num_classes)) for name in names
        }
        return Model(trunk.module, branches, heads, trunk.mean, trunk.std)

    @hookimpl
    def plan(self, config: RunConfig, task: TaskInfo) -> Sequence[Stage]:
        """Lay out one phase, or one for each source that shares the first one's optimiser."""
        stage = single_stage(config)
        if self.settings.step == "joint":
            return [stage]
        first = replace(stage.phases[0], name="source0")
        everything = (ParamGroup(("",)),)
        names = [f"source{number}" for number in range(1, len(task.sources))]
        others = [Phase(name, everything, clip_grad_norm=first.clip_grad_norm, shares="source0") for name in names]
        return [replace(stage, phases=(first, *others))]

    @hookimpl
    def encode(self, model: Model, batch: DomainBatch, view: str, side: Side, purpose: Purpose) -> Encoded:
        """Run the target through every source's features; a source's images in training through their own."""
        if side == "target" or purpose != "train":
            encoded: Encoded = model(batch.images[view])
            return encoded
        maps = model.backbone(batch.images[view])
        rows: list[tuple[Tensor, Tensor]] = []
        for number, count in enumerate(batch.domain_counts()):
            if count:
                start = sum(len(features) for features, _ in rows)
                own = to_float32(model.branches[f"source{number}"](maps[start : start + count]))
                rows.append((own, to_float32(model.heads[f"source{number}"](own))))
        features, logits = (torch.cat(each) for each in zip(*rows, strict=True))
        return Encoded({"own": features}, {"own": logits})

    @hookimpl
    def align(self, batch: Batch, encoded: Forward, clock: Progress) -> Sequence[LossTerm]:
        """Return the kernel distances and the differences of the predictions (Eqs 2-3), for the sources of a phase."""
        x, target = to_float32(encoded["source", "weak"].features["own"]), encoded["target", "weak"]
        if not len(x) or not len(batch.target):
            return []
        with torch.autocast(x.device.type, enabled=False):
            own = [(f"source{n}", rows) for n, rows in own_rows(batch.source) if clock.phase in ("main", f"source{n}")]
            distances = [plain_mmd(x[rows], to_float32(target.features[name])) for name, rows in own]
            probs = {name: to_float32(z).softmax(-1) for name, z in target.logits.items()}
            mine = {name for name, _ in own}
            pairs = [mean_difference(probs[a], probs[b]) for a, b in combinations(probs, 2) if {a, b} & mine]
        weight = ramp(clock.progress)
        values = {"mmd": distances, "difference": pairs}
        return [
            LossTerm(f"{self.name}/{name}", Role.ALIGNMENT, torch.stack(each).mean(), weight)
            for name, each in values.items()
            if each
        ]

    @hookimpl
    def loss(self, batch: Batch, encoded: Forward, clock: Progress) -> Sequence[LossTerm]:
        """Return the cross-entropy of each source of the phase with its own head, the mean over them."""
        z = encoded["source", "weak"].logits["own"]
        own = [rows for n, rows in own_rows(batch.source) if clock.phase in ("main", f"source{n}")]
        values = [F.cross_entropy(z[rows], batch.source.labels[rows]) for rows in own]
        return [LossTerm(f"{self.name}/cross_entropy", Role.SUPERVISED, torch.stack(values).mean())] if own else []


def block(channels: int, width: int) -> nn.Module:
    """Return a source's own layers: convolutions of 1, 3 and 1, each with batch norm and ReLU, and the mean."""
    layers: list[nn.Module] = []
    for inputs, kernel in ((channels, 1), (width, 3), (width, 1)):
        layers += [nn.Conv2d(inputs, width, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
