"""Stages, phases, optimisers and views of a run of pocan."""

from __future__ import annotations

from dataclasses import replace

from fercore.plugin import (
    SIDES,
    CropAndColour,
    OptimiserSpec,
    ParamGroup,
    Phase,
    RunConfig,
    Stage,
    ViewRequest,
    optimiser_from,
)
from fercore_pocan.settings import PocanSettings

PRETRAIN, CLASSIFY, ADAPT = "pretrain", "prototypes", "adapt"
"""Stages: stage 1 of the paper in two stretches (encoder, then source prototypes), and stage 2."""

ENCODER, PROTOTYPES = "encoder", "prototypes"
"""Phases: the two players."""

PRETRAIN_PAIR, PLAIN = ("pretrain", "pretrain2"), "plain"
"""Views: two of the source in pretraining, one un-augmented for the prototypes; see also `pair`."""

FLOOR = 1e-4
"""Share of the learning rate at which cosine schedules end (released code)."""


def pair(settings: PocanSettings) -> tuple[str, str]:
    """Return the names of the two views of both sides in adaptation.

    The names everyone uses for "weak" where the views are that, and only there: two plugins that ask for one name
    share it, and must mean the same.
    """
    return ("weak", "weak2") if settings.aug.kind == "weak" else ("adapt", "adapt2")


def views(settings: PocanSettings) -> list[ViewRequest]:
    """Return every view of every stage that is run."""
    aug, requests = settings.aug, [ViewRequest("source", PLAIN, "none", (CLASSIFY,))]
    upside_down = 0.5 if aug.vflip else 0.0
    wide = CropAndColour(area=aug.pretrain_area, upside_down_chance=upside_down)
    square = CropAndColour(area=aug.adapt_area, ratio=(1.0, 1.0), upside_down_chance=upside_down)
    weak = aug.kind == "weak"
    if settings.stages.pretrain:
        requests += [ViewRequest("source", name, "weak" if weak else wide, (PRETRAIN,)) for name in PRETRAIN_PAIR]
    if settings.stages.adapt:
        names = pair(settings)
        requests += [ViewRequest(side, name, "weak" if weak else square, (ADAPT,)) for side in SIDES for name in names]
    return requests


def stages(settings: PocanSettings, config: RunConfig) -> list[Stage]:
    """Return the stages that have a length."""
    base = replace(optimiser_from(config), floor=FLOOR)
    rates, clip = settings.lr, config.optim.clip_grad_norm
    encoder = (
        ParamGroup(("backbone.trunk.",), config.optim.backbone_multiplier),
        ParamGroup(("backbone.", "branches.", "parts.")),
    )
    # The warm-up and the schedule's own length belong to the first stage.
    later = replace(base, warmup_steps=0, max_steps=None)
    constant = replace(later, lr=rates.adapt, schedule="constant")
    stepped = replace(later, lr=rates.adapt_prototypes, schedule="step", milestones=(rates.drop_at,))
    if settings.proto_lr == "const":
        stepped = replace(later, lr=0.1 * rates.adapt_prototypes, schedule="constant")
    all_stages = [
        # Length 1 stands in until `_long` sets it.
        Stage(PRETRAIN, 1, (Phase(ENCODER, encoder, base, clip),), source_batch=settings.stages.pretrain_batch),
        Stage(
            CLASSIFY,
            1,
            (
                Phase(
                    PROTOTYPES,
                    (ParamGroup(("heads.source.",)),),
                    replace(later, lr=rates.prototypes, schedule="cosine"),
                    clip,
                ),
            ),
            source_batch=settings.stages.prototypes_batch,
        ),
        Stage(
            ADAPT,
            1,
            (
                Phase(ENCODER, encoder, constant, clip),
                Phase(PROTOTYPES, (ParamGroup(("heads.",)),), stepped, clip),
            ),
            alternating="step" if settings.alternate == "batch" else "epoch",
        ),
    ]
    lengths = (settings.stages.pretrain, settings.stages.prototypes, settings.stages.adapt)
    kept = [(stage, length) for stage, length in zip(all_stages, lengths, strict=True) if length]
    return [_released(_long(stage, length, settings, config), settings) for stage, length in kept]


def _long(stage: Stage, length: float, settings: PocanSettings, config: RunConfig) -> Stage:
    per_epoch = config.train.steps_per_epoch
    if settings.stages.unit == "epochs":
        return replace(stage, steps=0, epochs=int(length), steps_per_epoch=per_epoch)
    return replace(stage, steps=max(1, round(length * config.train.steps)), steps_per_epoch=per_epoch)


def _released(stage: Stage, settings: PocanSettings) -> Stage:
    """Give a stage the optimisers of the released code, where they are asked for."""
    if settings.optim == "as_set":
        return stage
    phases = (replace(phase, optimiser=released(phase.optimiser, stage.name, settings)) for phase in stage.phases)
    return replace(stage, phases=tuple(phases))


def released(spec: OptimiserSpec, stage: str, settings: PocanSettings) -> OptimiserSpec:
    """Return the released code's optimiser of a stage: plain SGD for the source prototypes, else SGDW.

    SGDW's weights shrink by the decay itself each step, not by decay times learning rate. Pretraining builds it once,
    adaptation again every epoch.

    Args:
        spec: rate and schedule; its own decay is meant for another optimiser and is not used.
    """
    plain = replace(spec, name="sgd", nesterov=False, weight_decay=0.0)
    if stage == CLASSIFY:
        return plain
    fresh = stage == ADAPT
    return replace(
        plain, name="sgdw", weight_decay=settings.sgdw_decay, decay_by_rate=False, reset_optimizer_state=fresh
    )
