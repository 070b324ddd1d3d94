"""Which samples a step draws, as a pure function of the step's number: nothing to remember, nothing to go wrong."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from dataclasses import dataclass
from itertools import islice
from operator import index

import numpy as np

from fercore.config import StreamSettings
from fercore.data.noise import key, permutation, uniforms


class PoolOrder:
    """Draws `batch` samples a step from one pool; reshuffles when a full batch is no longer left.

    Args:
        members: int64[n] positions in the side's table.
        batch: samples a step; where it is more than n, every step goes through the pool again and again.
        purpose: what the random numbers belong to, (seed, side, pool).
    """

    def __init__(self, members: np.ndarray, batch: int, purpose: tuple[object, ...]) -> None:
        self.members, self.batch, self.purpose = members, batch, purpose
        self.steps = max(1, len(members) // batch)
        self._kept: tuple[int, np.ndarray] = (-1, members)

    def take(self, step: int) -> np.ndarray:
        """Return int64[batch] positions for a step."""
        cycle, k = divmod(step, self.steps)
        if self._kept[0] != cycle:
            self._kept = (cycle, self._shuffled(cycle))
        drawn: np.ndarray = self.members[self._kept[1][k * self.batch : (k + 1) * self.batch]]
        return drawn

    def _shuffled(self, cycle: int) -> np.ndarray:
        n = len(self.members)
        if self.batch <= n:
            return permutation(n, *self.purpose, cycle)
        # The pool is smaller than the batch: whole permutations
        # on end, so that counts of samples differ by one at most.
        return np.concatenate([permutation(n, *self.purpose, cycle, again) for again in range(-(-self.batch // n))])


class ClassOrder:
    """Draws from one pool with equal probability for each class, each class without replacement inside its cycle.

    Classes come in blocks: every K draws hold each of the pool's K classes once, in random order.

    Args:
        members, batch, purpose: as for `PoolOrder`.
        labels: int64[n] labels of the members.
    """

    def __init__(self, members: np.ndarray, labels: np.ndarray, batch: int, purpose: tuple[object, ...]) -> None:
        self.batch, self.purpose = batch, purpose
        self.steps = max(1, len(members) // batch)
        self.classes = [members[labels == label] for label in np.unique(labels)]
        self._stream = key(*purpose, "classes")
        # The last permutation only, as a cache: it follows from the cycle's number, and is no state to save.
        self._kept: dict[int, tuple[int, np.ndarray]] = {}

    def take(self, step: int) -> np.ndarray:
        """Return int64[batch] positions for a step."""
        draws = np.arange(step * self.batch, (step + 1) * self.batch)
        blocks, inside = np.divmod(draws, len(self.classes))
        # Sorting a block's uniform numbers gives a random order of the classes, for every draw by itself.
        chosen = np.argsort(uniforms(self._stream, blocks, len(self.classes)), axis=1)[np.arange(self.batch), inside]
        return np.array([self._member(int(c), int(n)) for c, n in zip(chosen, blocks, strict=True)], dtype=np.int64)

    def _member(self, c: int, draw: int) -> int:
        members = self.classes[c]
        cycle, k = divmod(draw, len(members))
        if c not in self._kept or self._kept[c][0] != cycle:
            self._kept[c] = (cycle, permutation(len(members), *self.purpose, c, cycle))
        return int(members[self._kept[c][1][k]])


class SideOrder:
    """The orders of a side's pools, one after another in a batch.

    Args:
        pools: one for each domain, or one for all; none for a side without samples.
        domain: int64[n] domain of each of the side's samples; a batch is sorted by it.
        beside: number of a pool that may be far smaller than the others, so that `steps` does not go by it.
    """

    def __init__(
        self, pools: Iterable[PoolOrder | ClassOrder], domain: np.ndarray, *, beside: int | None = None
    ) -> None:
        self.pools, self.domain = tuple(pools), domain
        self.batch = sum(pool.batch for pool in self.pools)
        counted = [pool for number, pool in enumerate(self.pools) if number != beside] or self.pools
        self.steps = min((pool.steps for pool in counted), default=1)

    def take(self, step: int) -> np.ndarray:
        """Return int64[batch] positions for a step, sorted by domain."""
        drawn = np.concatenate([np.zeros(0, dtype=np.int64), *(pool.take(step) for pool in self.pools)])
        # Stable: inside a domain samples stay in the order drawn.
        return drawn[np.argsort(self.domain[drawn], kind="stable")]


class GivenOrder:
    """Indices a sampler gave, cut into batches; a tail shorter than a batch is dropped, and the end leads to the start.

    Args:
        indices: int64[m], m >= batch.
        batch: samples a step.
        start: the step its first batch belongs to.
    """

    def __init__(self, indices: np.ndarray, batch: int, start: int) -> None:
        self.indices, self.batch, self.start = indices, batch, start
        self.steps = len(indices) // batch

    def take(self, step: int) -> np.ndarray:
        """Return int64[batch] positions for a step, in the sampler's order."""
        k = (step - self.start) % self.steps
        return self.indices[k * self.batch : (k + 1) * self.batch]


class StreamOrder:
    """One pass over a side in a given order, cut into batches; the last may be smaller, and nothing comes twice.

    Args:
        order: int64[n] positions in the side's table. batch: samples a step. start: the step of its first batch.
    """

    def __init__(self, order: np.ndarray, batch: int, start: int) -> None:
        self.order, self.batch, self.start = order, batch, start
        self.steps = -(-len(order) // batch)

    def take(self, step: int) -> np.ndarray:
        """Return int64[b] positions for a step, b at most `batch`."""
        # Workers draw ahead of the end: what they draw there nobody takes.
        k = (step - self.start) % self.steps
        return self.order[k * self.batch : (k + 1) * self.batch]


def stream_order(labels: np.ndarray, rows: np.ndarray, how: StreamSettings, seed: int) -> np.ndarray:
    """Return int64[n], the order in which a stream's samples come.

    "correlated" is the sequence of RoTTA (Yuan et al., CVPR 2023) and, with other numbers, of NOTE (Gong et al., 2022):
    there are as many slots of time as classes; each class divides its samples among them by shares from a Dirichlet
    distribution, and inside a slot the classes come one after the other.

    Args:
        labels: int64[n], -1 = unknown, which is a class of its own here; read for "correlated" alone.
        rows: int64[n], where each sample stands in its dataset. how: the order. seed: the run's.
    """
    if how.order == "ordered":
        return np.argsort(rows, kind="stable")
    shuffled = permutation(len(labels), seed, "stream")
    if how.order == "shuffled":
        return shuffled
    generator = np.random.Generator(np.random.Philox(key=key(seed, "stream", "slots")))
    classes = np.unique(labels)
    slots: list[list[np.ndarray]] = [[] for _ in classes]
    for label in classes:
        members = shuffled[labels[shuffled] == label]
        shares = generator.dirichlet([how.dirichlet] * len(slots))
        cuts = (np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
        for slot, part in zip(slots, np.split(members, cuts), strict=True):
            slot.append(part)
    runs = [slot[k] for slot in slots for k in generator.permutation(len(slot))]
    return np.concatenate(runs)


def drawn_from(sampler: Iterable[int], n: int, batch: int, start: int, most: int) -> GivenOrder:
    """Run through a sampler once and keep its order.

    Args:
        sampler: yields indices into the side's table; one without end is cut off after `most`.
        n: samples in the table. batch: samples a step. start: the step the order begins at.
        most: indices taken from a sampler without a length.

    Raises:
        ValueError: if it yields fewer indices than a batch, or one outside the table.
        TypeError: if it yields what is no whole number.
    """
    limit = len(sampler) if isinstance(sampler, Sized) else most
    indices = np.fromiter((index(i) for i in islice(iter(sampler), limit)), dtype=np.int64)
    if len(indices) < batch:
        raise ValueError(f"sampler gave {len(indices)} indices, a batch needs {batch}")
    if indices.min() < 0 or indices.max() >= n:
        wrong = indices[(indices < 0) | (indices >= n)][0]
        raise ValueError(f"sampler gave index {wrong} for a side of {n} samples")
    return GivenOrder(indices, batch, start)


@dataclass(frozen=True)
class Share:
    """Which of several processes this is. Every process draws the whole batch, and alike, and takes its part of it.

    Attributes:
        rank: 0-based number of the process. world: processes.
    """

    rank: int = 0
    world: int = 1

    def of(self, order: SideOrder | GivenOrder | StreamOrder) -> Part:
        """Return this process's part of an order.

        A built-in batch is sorted by domain: every world-th place has samples of all. What a sampler put together stays
        together: its batches are cut into blocks.
        """
        places = np.arange(order.batch)
        if isinstance(order, GivenOrder):
            return Part(order, np.array_split(places, self.world)[self.rank])
        return Part(order, places[self.rank :: self.world])


ALONE = Share()


@dataclass(frozen=True)
class Part:
    """The same places of every batch of an order.

    Attributes:
        order: of the whole batch. places: int64[b] in 0..batch-1, rising.
    """

    order: SideOrder | GivenOrder | StreamOrder
    places: np.ndarray

    def take(self, step: int) -> np.ndarray:
        """Return int64[b] positions for a step."""
        drawn = self.order.take(step)
        kept: np.ndarray = drawn[self.places[self.places < len(drawn)]]
        return kept

    def draws(self, step: int) -> np.ndarray:
        """Return int64[b], numbers of the draws: they grow with step and place, so that no two share random numbers."""
        return step * self.order.batch + self.places[: len(self.take(step))]
