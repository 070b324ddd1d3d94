"""A mixture of experts over vectors, all experts and samples at once (LEAF, Zhang et al. 2024, Eqs 2-5, Figure 3)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fercore.models.parts_of_batch import drawn_for_rows, piece_seen, summed_over_rows

ExpertKind: TypeAlias = Literal["linear", "bottleneck", "residual"]
GateKind: TypeAlias = Literal["softplus_topk", "noisy_topk"]
CombineKind: TypeAlias = Literal["linear", "log"]


class Experts(nn.Module):
    """Several small networks of one shape, computed in batched products.

    linear = Linear(d,d); bottleneck = Linear(d,d/2)-ReLU-Linear(d/2,d); residual = bottleneck + x.

    Args:
        dim: width d of input and output; the bottleneck is max(1, d // 2) wide.
        count: how many.
        kind: their structure.
        as_identity: every expert begins with y = x but for the breadth of a random start, so that what follows the
            mixture may be a layer that was trained without it. Not of kind bottleneck, which is narrower than x.

    Raises:
        ValueError: for bottlenecks as identity.
    """

    def __init__(self, dim: int, count: int, kind: ExpertKind, *, as_identity: bool = False) -> None:
        super().__init__()
        self.residual = kind == "residual"
        widths = [dim, dim] if kind == "linear" else [dim, max(1, dim // 2), dim]
        pairs = list(pairwise(widths))
        self.weights = nn.ParameterList(_uniform((count, into, out), into) for into, out in pairs)
        self.biases = nn.ParameterList(_uniform((count, 1, out), into) for into, out in pairs)
        if as_identity:
            self._begin_as_identity(kind, dim)

    @torch.no_grad()
    def _begin_as_identity(self, kind: ExpertKind, dim: int) -> None:
        if kind == "bottleneck":
            raise ValueError("experts of kind bottleneck cannot begin as identity")
        last = self.weights[-1]
        # A tenth of the random start is left: experts that begin equal would stay alike.
        last.mul_(0.1)
        self.biases[-1].zero_()
        if kind == "linear":
            last.add_(torch.eye(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map f[B,d] to every expert's answer f[n,B,d]."""
        y = x
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            y = torch.matmul(y if number == 0 else y.relu(), weight) + bias
        return y + x if self.residual else y


class Gate(nn.Module):
    """Weights of the experts, 0 for all but the top K: softmax(TopK(scores)) (LEAF Eqs 3 and 5).

    softplus_topk: scores = softplus(W x). noisy_topk: scores = W x, and while training plus normal noise times
    softplus(W' x) + 0.01, with W and W' zero at first (the released code; Shazeer et al. 2017).

    Args:
        dim: width d of the input. count: number n of experts. k: how many of them speak; n or more = all.
        kind: which scores.
    """

    FLOOR = 0.01

    def __init__(self, dim: int, count: int, k: int, kind: GateKind) -> None:
        super().__init__()
        self.k, self.kind = min(k, count), kind
        noisy = kind == "noisy_topk"
        self.weight = nn.Parameter(torch.zeros(count, dim)) if noisy else _uniform((count, dim), dim)
        self.noise = nn.Parameter(torch.zeros(count, dim)) if noisy else None

    def forward(self, x: Tensor) -> Tensor:
        """Map f[B,d] to the logarithms of the weights f[B,n], -inf outside the top K; ties go to the lower index."""
        scores = self.scores(x)
        # A stable sort: topk leaves undefined which of equals it takes.
        order = scores.detach().sort(dim=-1, descending=True, stable=True).indices[:, : self.k]
        chosen = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order, True)
        # In logarithms: exactly 0 outside the top K, and "log" needs them so.
        return scores.masked_fill(~chosen, -torch.inf).log_softmax(-1)

    def scores(self, x: Tensor) -> Tensor:
        """Map f[B,d] to scores f[B,n] before the choice."""
        clean = F.linear(x, self.weight)
        if self.noise is None:
            return F.softplus(clean)
        if not self.training:
            return clean
        return clean + drawn_for_rows(clean, torch.randn_like) * (F.softplus(F.linear(x, self.noise)) + self.FLOOR)


class ExpertMixture(nn.Module):
    """A gated sum of experts, y = sum_j g_j(x) E_j(x) with at most K weights above 0 (LEAF Eqs 2-5).

    Every expert is computed on every sample, in one batched product a layer: no loop over experts, no waiting for the
    device, shapes that do not depend on the choice.

    Args:
        dim: width d of input and output.
        num_experts: n. k: experts that speak for a sample; n or more = all. With k = 1 the one weight is exactly 1 and
            the gate receives no gradient.
        expert: structure of the experts, see `Experts`.
        gate: see `Gate`.
        shared: one set of weights for all n experts (the released code).
        combine: "linear", or "log" = log sum_j g_j exp(E_j(x)) (the released code, here without overflow).
        balance: keep, while training, what `take_imbalance` returns.
        as_identity: y = x at first, nearly; see `Experts`.

    Raises:
        ValueError: if dim, num_experts or k is below 1, or as `Experts`.
    """

    def __init__(
        self,
        dim: int,
        num_experts: int,
        k: int,
        expert: ExpertKind,
        *,
        gate: GateKind = "softplus_topk",
        shared: bool = False,
        combine: CombineKind = "linear",
        balance: bool = False,
        as_identity: bool = False,
    ) -> None:
        super().__init__()
        if min(dim, num_experts, k) < 1:
            raise ValueError(f"dim {dim}, num_experts {num_experts} and k {k} must be at least 1")
        self.experts = Experts(dim, 1 if shared else num_experts, expert, as_identity=as_identity)
        self.gate = Gate(dim, num_experts, k, gate)
        self.combine, self.balance = combine, balance
        self._importance: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """Map f[B,d] to f[B,d]."""
        log_gates: Tensor = self.gate(x)
        # Shared weights: one answer stands for all n experts.
        answers: Tensor = self.experts(x).expand(log_gates.shape[-1], -1, -1)
        if self.balance and self.training and torch.is_grad_enabled():
            # The input is a constant here: a method may free the graph behind it before anyone asks for the imbalance.
            self._keep(summed_over_rows(self.gate(x.detach()).exp().sum(0)))
        log_weights = log_gates.transpose(0, 1).unsqueeze(-1)
        if self.combine == "log":
            return (log_weights + answers).logsumexp(0)
        return (log_weights.exp().to(answers.dtype) * answers).sum(0)

    def _keep(self, importance: Tensor) -> None:
        piece = piece_seen()
        if piece:
            self._importance[-1] = self._importance[-1] + importance
        elif piece is not None:
            self._importance.append(importance)

    def take_imbalance(self) -> Tensor | None:
        """Return how unevenly the experts were used since the last call, and forget it.

        Returns:
            Scalar: squared coefficient of variation of the experts' summed weights, mean over the forwards made with
            gradients while training (Shazeer et al. 2017, L_importance); None without such a forward. Its gradient
            reaches the gate alone, not what the mixture was given.
        """
        kept, self._importance = self._importance, []
        if not kept:
            return None
        importance = torch.stack(kept).float()
        variance = importance.var(-1, correction=0)
        return (variance / importance.mean(-1).square().clamp_min(1e-12)).mean()


def _uniform(shape: tuple[int, ...], inputs: int) -> nn.Parameter:
    # As nn.Linear initialises weights and biases.
    bound = 1 / math.sqrt(inputs)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
