"""The ordinary plan: one stage, one phase, the backbone at its own learning rate; methods may start from it."""

from __future__ import annotations

from dataclasses import replace

from fercore.config import RunConfig
from fercore.errors import UserInputError
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


def two_stages(config: RunConfig, names: tuple[str, str], share: float, *, who: str) -> tuple[Stage, Stage]:
    """Return `single_stage` cut in two, which may be given phases of their own.

    Args:
        names: of the stages. share: of the steps that the first one has; either has one step at least.
        who: the method, for messages.

    Raises:
        UserInputError: for a run of one step.
    """
    whole = single_stage(config)
    if whole.steps < 2:
        raise UserInputError(f"{who} has two stages", where="train.steps=1", fix="take at least 2 steps")
    steps = min(max(1, round(whole.steps * share)), whole.steps - 1)
    return replace(whole, name=names[0], steps=steps), replace(whole, name=names[1], steps=whole.steps - steps)
