"""leaf_eaf: LEAF's three levels around whichever method runs (section 5.5.4, Fig. 7).

The mixtures answer in the place of the method's branches and heads wherever the method calls them, in a step, in an
evaluation or inside a loss of its own; the method's modules, their names and their first weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from fercore.losses import ambiguous_consistency
from fercore.models import Model, restore_bn_stats, swap_bn_stats, without_bn_update
from fercore.plugin import (
    Encoded,
    Forward,
    LossTerm,
    ParamGroup,
    Plugin,
    PseudoLabels,
    Role,
    RunConfig,
    Settings,
    Side,
    Stage,
    UserInputError,
    ViewRequest,
    hookimpl,
)
from fercore_leaf.levels import (
    build_mixture,
    candidates,
    mean_probs,
    scores,
    semantic_level,
    split_views,
    take_imbalance,
)
from fercore_leaf.presets import ADDON_FROM_MODEL, ADDON_PRESETS
from fercore_leaf.settings import LeafEafSettings

WEAK: tuple[Side, str] = ("target", "weak")
STRONG: tuple[Side, str] = ("target", "strong")
Answers: TypeAlias = list[Sequence[LossTerm]]
"""What a collected hook returns: the terms of each plugin."""


class LeafEaf(Plugin):
    """Mixtures of experts on the features and logits of a method, and candidate classes for its consistency."""

    paper = "LEAF, 2024"
    kind: ClassVar[Literal["method", "addon"]] = "addon"
    Settings: ClassVar[type[Settings]] = LeafEafSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = ADDON_PRESETS
    from_model: ClassVar[Mapping[str, Any]] = ADDON_FROM_MODEL
    conflicts: ClassVar[tuple[str, ...]] = ("leaf",)
    settings: LeafEafSettings

    def goes_by_length(self) -> str:
        """Nothing does."""
        return ""

    @hookimpl(wrapper=True)
    def build_model(self, config: RunConfig) -> Generator[None, Model, Model]:
        """Attach a semantic mixture to every branch of the method's network and an instance mixture to every head."""
        model = yield
        # A method need not say how wide its features and logits are; an image that passes shows it.
        tried = _try(model, config)
        for branch, module in _distinct(model.branches):
            level = semantic_level(tried.features[branch].shape[1], self.settings, mixture=self.settings.semantic)
            if len(level):
                self._attach(model, f"semantic/{branch}", level, module)
        for branch, module in _distinct(model.heads):
            if self.settings.instance:
                mixture = build_mixture(tried.logits[branch].shape[1], self.settings)
                self._attach(model, f"instance/{branch}", mixture, module)
        return model

    @hookimpl
    def request_views(self) -> Sequence[ViewRequest]:
        """Ask for a weak and a strong view of the target, unless the method's own consistency stays."""
        if self.settings.consistency == "keep":
            return []
        return [ViewRequest(*WEAK, "weak"), ViewRequest(*STRONG, "strong")]

    @hookimpl(wrapper=True)
    def plan(self) -> Generator[None, Sequence[Stage], Sequence[Stage]]:
        """Train the mixtures in the first phase of every stage whose own phases leave them out."""
        stages = yield
        return [self._with_mixtures(stage) for stage in stages]

    @hookimpl(wrapper=True)
    def encode(self, model: Model, view: str) -> Generator[None, Encoded, Encoded]:
        """Take the strong view's trace out of the batch statistics, where the add-on asked for that view.

        Raises:
            UserInputError: if the method's features and logits do not come from its branches and heads.
        """
        asked = self.settings.consistency != "keep"
        silent = asked and without_bn_update(model, view, self.settings.statistics)
        # Around the whole chain: whichever plugin encodes leaves its trace in copies.
        kept, before = swap_bn_stats(model) if silent else {}, _passes(model)
        try:
            encoded = yield
        finally:
            restore_bn_stats(model, kept)
        if self._levels(model) and _passes(model) == before:
            what = f"{self.name} changes nothing here: this method scores images past its branches and heads"
            raise UserInputError(what, where="--plugin", fix=f"leave {self.name} out, or name another method")
        return encoded

    @hookimpl(wrapper=True)
    def align(self, encoded: Forward, pseudo: PseudoLabels | None) -> Generator[None, Answers, Answers]:
        """Take out the consistency terms that a method counts among those that bring domains together."""
        return self._exchange((yield), encoded, pseudo, "align")

    @hookimpl(wrapper=True)
    def loss(self, model: Model, encoded: Forward, pseudo: PseudoLabels | None) -> Generator[None, Answers, Answers]:
        """Put the ambiguous consistency (Eq 14) in the place of the method's consistency terms."""
        answers = self._exchange((yield), encoded, pseudo, "loss")
        imbalance = take_imbalance(self._levels(model))
        if imbalance is not None:
            weight = self.settings.gate.balance
            answers = [*answers, [LossTerm(f"{self.name}/balance", Role.REGULARISER, imbalance, weight)]]
        return answers

    def _attach(self, model: Model, part: str, level: nn.Module, module: nn.Module) -> None:
        self.attach(model, level, part)
        # A hook, not a wrapper: names of parameters, and so checkpoints
        # and parameter groups, stay as the method has them.
        module.register_forward_hook(Through(level))

    def _levels(self, model: Model) -> list[nn.Module]:
        return [part for name, part in model.parts.items() if name.startswith(self.part_name(""))]

    def _with_mixtures(self, stage: Stage) -> Stage:
        mine = f"parts.{self.part_name('')}"
        prefixes = (prefix for phase in stage.phases for group in phase.groups for prefix in group.prefixes)
        # A prefix that covers the mixtures trains them already: a
        # longer one of our own would take them out of its group.
        if any(mine.startswith(prefix) for prefix in prefixes):
            return stage
        first, *others = stage.phases
        return replace(stage, phases=(replace(first, groups=(*first.groups, ParamGroup((mine,)))), *others))

    def _exchange(
        self, answers: Answers, encoded: Forward, pseudo: PseudoLabels | None, hook: Literal["align", "loss"]
    ) -> Answers:
        """Return the answers with consistency terms out and the ambiguous term in, as `consistency` says."""
        mode = self.settings.consistency
        if mode == "keep":
            return answers
        rest: Answers = [[term for term in terms if term.role is not Role.CONSISTENCY] for terms in answers]
        removed = sum(map(len, rest)) < sum(map(len, answers))
        if removed if mode == "where_present" else hook == "loss":
            # Two names: terms of `align` and `loss` are summed up together, and may not share one.
            name = f"{self.name}/consistency" if hook == "loss" else f"{self.name}/consistency_in_align"
            rest.append([LossTerm(name, Role.CONSISTENCY, self._consistency(encoded, pseudo), self.settings.weight)])
        return rest

    def _consistency(self, encoded: Forward, pseudo: PseudoLabels | None) -> Tensor:
        """Return the mean of Eq 14 over samples and branches; each branch chooses its candidates itself."""
        weak, strong = encoded[WEAK].logits, encoded[STRONG].logits
        values = []
        # In a fixed order: sums of floats depend on it. Branches of one view alone have nothing to agree with.
        for branch in sorted(weak.keys() & strong.keys()):
            views = split_views([weak[branch]], strong[branch], self.settings)
            positive = candidates(mean_probs(views["teacher"]), self.settings)
            (student,) = views["student"]
            values.append(ambiguous_consistency(scores(student, self.settings), positive, self.settings.epsilon))
        mean = torch.stack(values).mean(0)
        if self.settings.samples == "trusted" and pseudo is not None:
            mean = mean * pseudo.weight.to(mean.dtype)
        return mean.mean()


class Through:
    """A forward hook that sends a module's answer through another module; a copy of the network gets a copy of both."""

    def __init__(self, level: nn.Module) -> None:
        self.level, self.passes = level, 0

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """Return the other module's answer to a module's output, float[B,D]."""
        answer: Tensor = self.level(output)
        self.passes += 1
        return answer


def _passes(model: Model) -> int:
    """Return how often answers of the network's branches and heads have gone through a level."""
    modules = (module for group in (model.branches, model.heads) for module in group.values())
    hooks = (hook for module in modules for hook in module._forward_hooks.values())
    return sum(hook.passes for hook in hooks if isinstance(hook, Through))


def _distinct(modules: nn.ModuleDict) -> list[tuple[str, nn.Module]]:
    """Return each module once, under its first name: branches may share one."""
    first: dict[int, tuple[str, nn.Module]] = {}
    for name, module in modules.items():
        # Twice attached, a level would be passed twice.
        first.setdefault(id(module), (name, module))
    return list(first.values())


@torch.no_grad()
def _try(model: Model, config: RunConfig) -> Encoded:
    """Encode one black image, to see how wide features and logits are; neither weights nor random numbers change.

    Raises:
        UserInputError: if the method's network does not take images of this size.
    """
    size, training = config.data.size, model.training
    model.eval()
    try:
        tried: Encoded = model(torch.zeros(1, 3, size, size))
    except Exception as error:
        reason = f"{type(error).__name__}: {(str(error) or 'no reason given').splitlines()[0]}"
        what = f"the network of this method does not take {size} px images: {reason}"
        raise UserInputError(what, where="data.size, model.backbone", fix="change one of them") from error
    model.train(training)
    return tried
