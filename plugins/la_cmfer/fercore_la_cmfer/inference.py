"""From branches to class probabilities: the paper's rule, the released code's six, and the per-source vote."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from fercore.losses import to_float32
from fercore_la_cmfer.modules import branch_groups
from fercore_la_cmfer.settings import InferenceRule


def combine(rule: InferenceRule, logits: Mapping[str, Tensor]) -> Tensor:
    """Return probabilities f[B,K], rows summing to 1, whose largest entry is the class the rule decides for.

    Args:
        rule: which of `RULES`; it decides between a global and a local branch. A lone branch speaks for itself, and
            the branches of per-source pairs always vote, each weighted by its largest probability.
        logits: branch name -> f[B,K].
    """
    groups = branch_groups(logits)
    scores = [to_float32(logits[branch]) for group in groups for branch in group.branches]
    if len(groups) > 1:
        return weighted_vote(torch.stack(scores))
    return scores[0].softmax(-1) if len(scores) == 1 else RULES[rule](*scores)


def weighted_vote(scores: Tensor) -> Tensor:
    """Mean of the classifiers' probabilities, weighted by confidence; f[C,B,K] logits -> f[B,K] (Figure 4, DS)."""
    probs = scores.softmax(-1)
    weight = probs.amax(-1, keepdim=True)
    return (weight * probs).sum(0) / weight.sum(0)


def max_prob(z_g: Tensor, z_l: Tensor) -> Tensor:
    """Take the branch with the larger maximum probability (section 3.5, last paragraph)."""
    p_g, p_l = z_g.softmax(-1), z_l.softmax(-1)
    return torch.where(p_l.amax(-1, keepdim=True) > p_g.amax(-1, keepdim=True), p_l, p_g)


def mean_logits(z_g: Tensor, z_l: Tensor) -> Tensor:
    """Softmax of the mean logits (released code, third rule)."""
    return ((z_g + z_l) / 2).softmax(-1)


def max_logit(z_g: Tensor, z_l: Tensor) -> Tensor:
    """Take the branch with the larger raw logit; class 0 where no logit is above 0 (released code, fourth rule)."""
    return _speaking_for(_max_logit_class(z_g, z_l), z_g, z_l)


def majority(z_g: Tensor, z_l: Tensor) -> Tensor:
    """Class most of (global, local, mean) name; the mean's where all differ (released code, fifth rule)."""
    return _speaking_for(_majority_class(z_g, z_l), z_g, z_l)


def hybrid(z_g: Tensor, z_l: Tensor) -> Tensor:
    """`max_logit` where the three agree or all differ, else `majority` (released code, sixth rule)."""
    a, b, c = (z.argmax(-1) for z in _three(z_g, z_l))
    # 1 where exactly two agree: three equal answers give 3, three different ones 0.
    equal = (a == b).int() + (b == c).int() + (a == c).int()
    chosen = torch.where(equal == 1, _majority_class(z_g, z_l), _max_logit_class(z_g, z_l))
    return _speaking_for(chosen, z_g, z_l)


def _three(z_g: Tensor, z_l: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return z_g, z_l, (z_g + z_l) / 2


def _max_logit_class(z_g: Tensor, z_l: Tensor) -> Tensor:
    top, classes = torch.stack(_three(z_g, z_l)).max(-1)
    best, number = top.max(0)
    chosen = classes.gather(0, number.unsqueeze(0)).squeeze(0)
    # The released code starts from a best of 0 and class 0.
    return torch.where(best > 0, chosen, torch.zeros_like(chosen))


def _majority_class(z_g: Tensor, z_l: Tensor) -> Tensor:
    a, b, c = (z.argmax(-1) for z in _three(z_g, z_l))
    return torch.where(a == b, a, c)


def _speaking_for(chosen: Tensor, z_g: Tensor, z_l: Tensor) -> Tensor:
    """Probabilities of the first of (global, local, mean) that names the class; one-hot where none does."""
    result = F.one_hot(chosen, z_g.shape[-1]).to(z_g.dtype)
    # Backwards, so that the first of them that names the class is written last.
    for scores in reversed(_three(z_g, z_l)):
        result = torch.where((scores.argmax(-1) == chosen).unsqueeze(-1), scores.softmax(-1), result)
    return result


RULES: dict[InferenceRule, Callable[[Tensor, Tensor], Tensor]] = {
    "max_prob": max_prob,
    "global": lambda z_g, z_l: z_g.softmax(-1),
    "local": lambda z_g, z_l: z_l.softmax(-1),
    "mean_logits": mean_logits,
    "max_logit": max_logit,
    "majority": majority,
    "hybrid": hybrid,
}
