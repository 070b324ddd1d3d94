"""Stages and views of a run."""

from __future__ import annotations

from dataclasses import replace

from fercore.models.clip import Clip
from fercore.plugin import (
    CropAndColour,
    ParamGroup,
    Phase,
    RunConfig,
    Side,
    Stage,
    TaskInfo,
    Transform,
    UserInputError,
    ViewRequest,
    optimiser_from,
)
from fercore_pca.settings import AugSettings, CommonSettings, PcaSettings

TRAIN, WARMUP = "train", "warmup"
VIEW = "train"
"""The one view of either side."""


def stages(settings: CommonSettings, config: RunConfig) -> list[Stage]:
    """Return the warm-up, where there is one, and training."""
    # The longest prefix wins: the empty one takes everything else.
    groups = (ParamGroup(("backbone.",), config.optim.backbone_multiplier), ParamGroup(("",)))
    spec, clip = optimiser_from(config), config.optim.clip_grad_norm
    per_epoch, warm = config.train.steps_per_epoch, settings.warmup
    phase = Phase("main", groups, spec, clip)
    before = []
    if warm.epochs:
        slow = replace(phase, optimiser=replace(spec, lr=warm.lr, schedule="constant", warmup_steps=0))
        before.append(Stage(WARMUP, phases=(slow,), steps_per_epoch=per_epoch, epochs=warm.epochs))
    if settings.epochs is None:
        return [*before, Stage(TRAIN, config.train.steps, (phase,), per_epoch)]
    return [*before, Stage(TRAIN, phases=(phase,), steps_per_epoch=per_epoch, epochs=settings.epochs - warm.epochs)]


def view_of(side: Side, aug: AugSettings) -> ViewRequest:
    """Return the view of a side that training sees; the sides draw numbers of their own."""
    crop = CropAndColour(area=aug.area, jitter_chance=0.0, grey_chance=0.0, blur_chance=0.0)
    transforms: dict[str, Transform | CropAndColour] = {"crop": crop, "weak": "weak", "none": "none"}
    return ViewRequest(side, VIEW, transforms[aug.kind])


def labelled_domain(settings: PcaSettings, task: TaskInfo) -> int | None:
    """Return the number of the source domain that is the labelled part of the target; None without one.

    Raises:
        UserInputError: if `target.mode` counts on labelled target samples and there are none, or other than it says.
    """
    number, mode = task.few_shot_domain, settings.target.mode
    if mode not in ("shots", "fraction"):
        return number
    if number is None:
        what = f"no labelled target sample, and target.mode is {mode!r}"
        raise UserInputError(what, where="--target", fix="write --target SPEC?shots=5 or ?fraction=0.1")
    other = "fraction" if mode == "shots" else "shots"
    if task.few_shots == other:
        what = f"target.mode is {mode!r}, and the target has ?{other}="
        raise UserInputError(what, where="--target", fix=f"write ?{mode}=, or leave target.mode out")
    return number


def without_effect(settings: PcaSettings, clip: Clip) -> list[str]:
    """Return the settings of visual prompts that are given and change nothing with this image tower."""
    if not settings.prompted:
        return []
    resnet, pooled = clip.kind == "resnet", settings.rn.attnpool_prompts
    shown = settings.prompt.visual and (pooled or not resnet)
    idle_settings = {
        "rn.attnpool_prompts=true": pooled and not resnet,
        "image_encoder='per_domain_prompts'": settings.image_encoder == "per_domain_prompts" and not shown,
    }
    return [name for name, idle in idle_settings.items() if idle]
