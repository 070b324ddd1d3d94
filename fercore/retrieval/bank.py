"""A bank of features in buffers: nearest features, the most confident rows of each class, class centres."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from fercore.retrieval.approximate import ApproximateIndex, Settings
from fercore.retrieval.nearest import Metric, exact_search

Index = Literal["flat", "ivf", "hnsw"]


class FeatureBank(nn.Module):
    """Up to `capacity` features with labels and class probabilities, refreshed or updated in place.

    All state is in buffers: the bank moves with `.to()`, is saved, and resumes to the bit. An approximate index is a
    function of the buffers, built when first searched and again once they changed.

    Args:
        dim: D, width of a feature.
        capacity: rows at most.
        num_classes: K.
        metric: "ip" (inner product) or "l2" (squared Euclidean distance).
        index: "flat" searches exactly; "ivf" and "hnsw" (CPU only) approximately, for large banks: log `recall`.
        settings: of the approximate index, see `fercore.retrieval.approximate.Settings`.

    Raises:
        ValueError: sizes below 1, an unknown metric or index.
    """

    features: Tensor
    """f32 [capacity,D]"""
    labels: Tensor
    """i64 [capacity], -1 = none"""
    probs: Tensor
    """f32 [capacity,K] class probabilities"""
    filled: Tensor
    """i64 scalar: rows in use are 0..filled-1"""

    def __init__(
        self,
        dim: int,
        capacity: int,
        num_classes: int,
        *,
        metric: Metric = "ip",
        index: Index = "flat",
        settings: Settings | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("dim", dim), ("capacity", capacity), ("num_classes", num_classes)):
            if size < 1:
                raise ValueError(f"{name} must be 1 or more, got {size}")
        for name, value, known in (("metric", metric, get_args(Metric)), ("index", index, get_args(Index))):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        self.metric, self.index, self.settings = metric, index, settings or Settings()
        # A plain attribute, in none of the module's registries: it neither moves with the module nor is saved.
        self._approximate: ApproximateIndex | None = None
        self.register_buffer("features", torch.zeros(capacity, dim))
        self.register_buffer("labels", torch.full((capacity,), -1))
        self.register_buffer("probs", torch.zeros(capacity, num_classes))
        self.register_buffer("filled", torch.tensor(0))

    def __len__(self) -> int:
        return int(self.filled)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_approximate": None}  # rebuilt from the buffers

    @torch.no_grad()
    def refresh(self, features: Tensor, labels: Tensor, probs: Tensor) -> None:
        """Replace everything; detached.

        Args:
            features: [n,D], n <= capacity.
            labels: i64 [n] in -1..K-1.
            probs: [n,K].

        Raises:
            ValueError: shapes that do not fit, labels that are no integers or outside the classes, features or
                probabilities that are not finite in the bank's type, negative probabilities.
        """
        if len(features) > len(self.features):
            raise ValueError(f"the bank holds {len(self.features)} rows, got {len(features)}")
        n = len(features)
        features, labels, probs = self._stored(n, features, labels, probs)
        self.features[:n], self.labels[:n], self.probs[:n] = features, labels, probs
        self.features[n:], self.labels[n:], self.probs[n:] = 0, -1, 0
        self.filled.fill_(n)

    @torch.no_grad()
    def update(self, rows: Tensor, features: Tensor, labels: Tensor, probs: Tensor) -> None:
        """Write over some rows in use; of a row named twice the last counts.

        Args:
            rows: i64 [n] in 0..filled-1.
            features: [n,D].
            labels: i64 [n] in -1..K-1.
            probs: [n,K].

        Raises:
            ValueError: as in `refresh`, or rows not in use.
        """
        if rows.ndim != 1 or not _is_integer(rows):
            raise ValueError(f"rows must be int [n], got {rows.dtype} {list(rows.shape)}")
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise ValueError(f"rows must lie in 0..{len(self) - 1}, got {int(rows.min())}..{int(rows.max())}")
        features, labels, probs = self._stored(len(rows), features, labels, probs)
        # Reversed, the first of equals is the last one written;
        # assigning with repeated indices leaves undefined which counts.
        unique, place = np.unique(rows.cpu().numpy()[::-1], return_index=True)
        last = torch.as_tensor(len(rows) - 1 - place, device=features.device)
        at = torch.as_tensor(unique, device=self.features.device)
        self.features[at] = features[last].to(at.device)
        self.labels[at] = labels[last.to(labels.device)].to(at.device)
        self.probs[at] = probs[last.to(probs.device)].to(at.device)

    @torch.no_grad()
    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Find the k nearest rows of each query.

        Args:
            queries: [Q,D], on the bank's device.
            k: at least 1.

        Returns:
            scores f32 [Q,k], best first: inner products or squared distances; indices i64 [Q,k]. Where the bank has
            fewer than k rows (or an approximate index found fewer): index -1, score -inf (inf for "l2").

        Raises:
            ValueError: shapes or devices that do not fit; NaN; k below 1; "hnsw" on a GPU.
        """
        features = self.features
        if queries.ndim != 2 or queries.shape[1] != features.shape[1]:
            raise ValueError(f"queries must be [Q,{features.shape[1]}], got {list(queries.shape)}")
        if queries.device != features.device:
            raise ValueError(f"queries are on {queries.device}, the bank on {features.device}")
        _check_positive(k, "k")
        asked, filled = queries.float().contiguous(), len(self)
        _check_finite(asked, "queries")
        kept, rows = min(k, filled), features[:filled].float()
        if self.index == "flat" and kept == k:
            return exact_search(asked, rows, k, self.metric)
        worst = float("-inf") if self.metric == "ip" else float("inf")
        scores = asked.new_full((len(asked), k), worst)
        indices = torch.full((len(asked), k), -1, device=asked.device)
        if kept and len(asked):
            scores[:, :kept], indices[:, :kept] = self._search(asked, rows, kept)
            # FAISS fills up with -FLT_MAX or FLT_MAX, not with an infinity.
            scores[indices < 0] = worst
        return scores, indices

    @torch.no_grad()
    def recall(self, k: int = 5, sample: int = 256) -> float:
        """Return which share of the exact k nearest other rows the index finds, for rows of the bank as queries.

        A row does not count as its own neighbour. 1 for "flat", and for a bank of fewer than two rows.

        Args:
            k: neighbours asked for, at least 1; all other rows where the bank has fewer.
            sample: queries at least, spread evenly over the bank; all rows where it has fewer.

        Raises:
            ValueError: k or sample below 1.
        """
        _check_positive(k, "k")
        _check_positive(sample, "sample")
        rows = self.features[: len(self)].float()
        if self.index == "flat" or len(rows) < 2:
            return 1.0
        own = torch.arange(0, len(rows), max(1, len(rows) // sample), device=rows.device)
        # One more than k: the row itself comes along, and is taken out again.
        queries, asked = rows[own], min(k + 1, len(rows))
        exact = _without(exact_search(queries, rows, asked, self.metric)[1], own)
        approximate = _without(self._search(queries, rows, asked)[1], own)
        return float((exact[:, :, None] == approximate[:, None]).any(dim=2).float().mean())

    @torch.no_grad()
    def top_per_class(self, n: int, *, by: Literal["label", "probability"] = "label") -> Tensor:
        """Return the n most confident rows of each class, most confident first.

        Args:
            n: rows a class, at least 1.
            by: "label" takes the rows labelled with a class, "probability" all rows; both order by its probability.

        Returns:
            i64 [K,n], padded with -1 where a class has fewer; equal probabilities in order of rows.

        Raises:
            ValueError: n below 1, or an unknown rule.
        """
        if n < 1 or by not in {"label", "probability"}:
            raise ValueError(f"n must be 1 or more and by 'label' or 'probability', got {n} and {by!r}")
        probs, labels = self.probs[: len(self)], self.labels[: len(self)]
        classes = probs.shape[1]
        if by == "label":
            own = labels[:, None] == torch.arange(classes, device=labels.device)
            probs = torch.where(own, probs, float("-inf"))
        # Stable, not topk: equal probabilities come in the order of rows on every device.
        values, rows = torch.sort(probs.T, dim=1, descending=True, stable=True)
        top = torch.full((classes, n), -1, device=labels.device)
        kept = min(n, len(labels))
        top[:, :kept] = torch.where(values[:, :kept] > float("-inf"), rows[:, :kept], -1)
        return top

    @torch.no_grad()
    def centres(self, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the mean feature of each class.

        Args:
            rows: i64 [K,n] from `top_per_class`, -1 for none: the mean over these; None: over all rows with the class's
                label.

        Returns:
            f32 [K,D], zero for a class without rows, and bool [K], which classes have none: the caller fills them.

        Raises:
            ValueError: rows of another shape or type, or not in use.
        """
        features = self.features[: len(self)].float()
        classes = self.probs.shape[1]
        if rows is None:
            chosen = self.labels[: len(self)] == torch.arange(classes, device=features.device)[:, None]
        else:
            self._check_top(rows, len(features))
            # One column more than rows: -1 points there, and it is cut off after the scatter.
            chosen = torch.zeros(classes, len(features) + 1, dtype=torch.bool, device=features.device)
            chosen = chosen.scatter(1, torch.where(rows < 0, len(features), rows.long()), True)[:, :-1]
        counts = chosen.sum(dim=1)
        # Sums of each class as one product with a 0/1 matrix: unlike index_add its order of addition is fixed on a GPU.
        return chosen.float() @ features / counts.clamp(min=1)[:, None], counts == 0

    def _search(self, queries: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
        if self.index == "flat":
            return exact_search(queries, rows, k, self.metric)
        # torch counts in-place changes of a tensor in `_version`; a tensor put in its place has another address.
        state = (self.features.data_ptr(), self.features._version, len(rows), self.features.device)
        if self._approximate is None or self._approximate.state != state:
            self._approximate = ApproximateIndex(rows, self.index, self.metric, self.settings, state)
        return self._approximate.search(queries, k)

    def _stored(self, n: int, features: Tensor, labels: Tensor, probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three checked, in the bank's types."""
        width, classes = self.features.shape[1], self.probs.shape[1]
        for name, tensor, shape in (
            ("features", features, (n, width)),
            ("labels", labels, (n,)),
            ("probs", probs, (n, classes)),
        ):
            if tuple(tensor.shape) != shape:
                raise ValueError(f"{name} must be {list(shape)}, got {list(tensor.shape)}")
        if not _is_integer(labels) or (n and not -1 <= int(labels.min()) <= int(labels.max()) < classes):
            raise ValueError(f"labels must be integers in -1..{classes - 1}")
        features, probs = features.to(self.features.dtype), probs.to(self.probs.dtype)
        _check_finite(features, "features")
        _check_finite(probs, "probs")
        if bool((probs < 0).any()):
            raise ValueError("probs has negative values")
        return features, labels.to(self.labels.dtype), probs

    def _check_top(self, rows: Tensor, filled: int) -> None:
        classes = self.probs.shape[1]
        if rows.ndim != 2 or len(rows) != classes or not _is_integer(rows):
            raise ValueError(f"rows must be int [{classes},n], got {rows.dtype} {list(rows.shape)}")
        if rows.numel() and not -1 <= int(rows.min()) <= int(rows.max()) < filled:
            raise ValueError(f"rows must lie in -1..{filled - 1}, got {int(rows.min())}..{int(rows.max())}")


def _without(indices: Tensor, own: Tensor) -> Tensor:
    """Leave each query's own row out of what it found, the last one where its own is not there."""
    # Stable, on equal-to-own: the others keep their order and the own row goes last.
    place = torch.argsort((indices == own[:, None]).byte(), dim=1, stable=True)
    return indices.gather(1, place)[:, :-1]


def _is_integer(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def _check_positive(number: int, name: str) -> None:
    if number < 1:
        raise ValueError(f"{name} must be 1 or more, got {number}")


def _check_finite(tensor: Tensor, name: str) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} has NaN or infinite values in {tensor.dtype}")
