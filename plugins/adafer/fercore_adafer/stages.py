"""Stages of training: the source alone where asked for, then both domains; or those of a baseline of Table 1."""

from __future__ import annotations

from dataclasses import replace

from fercore.plugin import ParamGroup, RunConfig, Stage, ViewRequest, single_stage
from fercore_adafer.settings import AdaFerSettings

VIEW = "weak"
PRETRAIN, TRAIN, SOURCE, FINETUNE, LOOKUP = "pretrain", "train", "source", "finetune", "lookup"
FINETUNED = ("hard_labels", "soft_labels", "joint")


def stage_names(settings: AdaFerSettings) -> tuple[str, ...]:
    """Return the names of a run's stages, in order."""
    if settings.baseline == "au_lookup":
        return (LOOKUP,)
    if settings.baseline in FINETUNED:
        return SOURCE, FINETUNE
    return (PRETRAIN, TRAIN) if settings.source_pretrain_epochs else (TRAIN,)


def views_of(settings: AdaFerSettings) -> list[ViewRequest]:
    """Return one weakly augmented view of each side, in the stages that train on it."""
    names = stage_names(settings)
    source = tuple(name for name in names if name != FINETUNE)
    target = tuple(name for name in names if name in (TRAIN, FINETUNE))
    views = [ViewRequest("source", VIEW, "weak", source)]
    return [*views, ViewRequest("target", VIEW, "weak", target)] if target else views


def build_stage(name: str, config: RunConfig, settings: AdaFerSettings, margin: str) -> Stage:
    """Return a stage, with its length and the learning rate's course.

    Args:
        name: of the stage. margin: where the learnable margin stands in the model; it takes no weight decay.
    """
    stage = single_stage(config, name)
    if name == LOOKUP:
        return replace(stage, steps=1)
    if name == FINETUNE and settings.finetune_steps:
        return replace(stage, steps=settings.finetune_steps)
    (phase,) = stage.phases
    groups = (*phase.groups, ParamGroup((margin,), weight_decay=0.0))
    optimiser, epochs = phase.optimiser, settings.source_pretrain_epochs if name == PRETRAIN else settings.epochs
    if epochs and name != PRETRAIN:
        # Shares of the stage at which an epoch ends: the rate falls after each.
        milestones = tuple(k / epochs for k in range(1, epochs))
        drop = settings.lr_decay
        optimiser = replace(optimiser, schedule="step", milestones=milestones, drop=drop, max_steps=None)
    if epochs:
        stage = replace(stage, steps=0, epochs=epochs)
    return replace(stage, phases=(replace(phase, groups=groups, optimiser=optimiser),))
