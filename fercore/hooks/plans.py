"""The ordinary plan: one stage, one phase, the backbone at its own learning rate; methods may start from it."""

from __future__ import annotations

from fercore.config import RunConfig
from fercore.records.plan import OptimiserSpec, ParamGroup, Phase, Stage


def optimiser_from(config: RunConfig) -> OptimiserSpec:
    """Return the optimiser that `config.optim` describes."""
    optim = config.optim
    return OptimiserSpec(
        name=optim.name,
        lr=optim.lr,
        momentum=optim.momentum,
        nesterov=optim.nesterov,
        weight_decay=optim.weight_decay,
        schedule=optim.schedule,
        gamma=optim.gamma,
        power=optim.power,
        max_steps=optim.schedule_steps,
        warmup_steps=optim.warmup_steps,
    )


def single_stage(config: RunConfig, name: str = "train") -> Stage:
    """Return one stage of `config.train.steps` steps that trains everything in one phase."""
    groups = (ParamGroup(("backbone.",), config.optim.backbone_multiplier), ParamGroup(("",)))
    phase = Phase("main", groups, optimiser_from(config), config.optim.clip_grad_norm)
    return Stage(name, config.train.steps, (phase,), config.train.steps_per_epoch)
