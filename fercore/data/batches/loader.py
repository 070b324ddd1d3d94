"""Loaders: paired training batches, and tables in order for evaluation."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fercore.config import DataSettings
from fercore.data.batches.sampling import (
    ALONE,
    ClassOrder,
    GivenOrder,
    Part,
    PoolOrder,
    Share,
    SideOrder,
    StreamOrder,
    drawn_from,
)
from fercore.data.cache.stores import fetch, reserve
from fercore.data.domains.domain_set import DomainSet
from fercore.data.images.views import Views, plain_views
from fercore.data.table import Table, join
from fercore.errors import UserInputError
from fercore.processes import ALONE_HERE, Processes
from fercore.records.plan import ViewRequest
from fercore.records.step import SIDES, Batch, DomainBatch, Side


def side_table(domains: DomainSet, side: Side) -> Table:
    """Return all samples of a side as one table: the joined sources, or the label-blind adaptation part.

    `DomainBatch.index`, and the indices of samplers, are positions in it.
    """
    return join(domains.sources) if side == "source" else domains.adaptation


def eval_batches(
    table: Table,
    settings: DataSettings,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    share: Processes = ALONE_HERE,
) -> Iterator[DomainBatch]:
    """Yield a whole table in order as batches of settings.eval_batch with the one view `PLAIN`.

    Args:
        table: any table; its labels go into the batches as they are.
        settings: image size, batch size, cache.
        mean, std: per channel.
        share: of several processes that take the batches in turns, this one.
    """
    views = plain_views(mean, std)
    reserve([table], settings)
    for start in range(0, len(table), settings.eval_batch)[share.rank :: share.world]:
        at = np.arange(start, min(start + settings.eval_batch, len(table)))
        yield _make(table, at, at, views, settings)


RAW = "raw pixels"
"""Name of the images uint8[B,3,S,S] that views are to be made of on the device."""


def _make(
    table: Table, at: np.ndarray, draws: np.ndarray, views: Views, settings: DataSettings, *, raw: bool = False
) -> DomainBatch:
    images: Mapping[str, Tensor] = {}
    if views.transforms:
        pixels = fetch(table, at, settings)
        images = {RAW: torch.from_numpy(pixels)} if raw else views.make(pixels, draws)
    return DomainBatch(
        images=images,
        labels=torch.from_numpy(table.labels[at]),
        domain=torch.from_numpy(table.domain[at]),
        index=torch.from_numpy(at.copy()),
        extras={name: torch.from_numpy(np.ascontiguousarray(values[at])) for name, values in table.extras.items()},
        per_domain=tuple(np.bincount(table.domain[at]).tolist()),
    )


Drawn = tuple[np.ndarray, np.ndarray]
"""Samples of one side of a step, and the numbers of their draws, from which their augmentation follows."""
Plan = tuple[Drawn, Drawn]
"""The source and target sides of a step."""


@dataclass(frozen=True)
class Whole:
    """What all processes of a run draw in a step.

    Attributes:
        batch: without images. places: side -> of every process, int64[b], where its samples stand in the batch.
    """

    batch: Batch
    places: Mapping[Side, tuple[Tensor, ...]]


@dataclass
class StepDataset(Dataset[Batch | str]):
    """Turns plans into batches, here or in a worker; an unusable image comes back as its message."""

    tables: tuple[Table, Table]
    views: tuple[Views, Views]
    settings: DataSettings
    raw: bool = False
    """Whether batches hold the pixels as they are, under RAW, for views to be made of them later."""

    def __getitem__(self, plan: Plan) -> Batch | str:
        try:
            sides = [
                _make(table, *drawn, views, self.settings, raw=self.raw)
                for table, drawn, views in zip(self.tables, plan, self.views, strict=True)
            ]
        except UserInputError as error:
            # As a value: a DataLoader raises a worker's exception again with its traceback as the message.
            return str(error)
        return Batch(*sides)


class StepLoader:
    """Endless iterator of training batches; two sides that cycle independently.

    Each domain is reshuffled when it no longer holds a full share of a batch. Which samples a step draws, and how they
    are augmented, depends on the seed and the step's number alone: workers and resuming change no bit.

    Args:
        domains: sources and the adaptation part; the test part is never touched.
        views: what to make of each sample.
        settings: batch sizes, sampling, augmentation, workers, cache.
        seed: the run's.
        mean, std: per channel.
        start: number of the first step; a later stage goes on where the one before it stopped.
        device: where views are made under data.augment_on="device"; None = on the CPU, with the batch.
        share: the part of every batch that this process takes; batch sizes are those of all processes together.
        pieces: in which each process takes its part of a batch through the network; each needs two samples.
        stream: the target comes once, in this order, and in batches of any size; None = as a training set.

    Raises:
        UserInputError: if a side that has views has a batch larger than a domain, of less than two samples for one, or
            of less than two for each process.
    """

    def __init__(
        self,
        domains: DomainSet,
        views: Sequence[ViewRequest],
        settings: DataSettings,
        *,
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
        start: int = 0,
        device: torch.device | None = None,
        share: Share = ALONE,
        stream: StreamOrder | None = None,
        pieces: int = 1,
    ) -> None:
        # Target labels end here: no batch of training can hold them.
        tables = (side_table(domains, "source"), side_table(domains, "target").without_labels())
        policy = settings.augment
        made = tuple(Views(views, side, seed=seed, policy=policy, mean=mean, std=std) for side in SIDES)
        names, few = [table.name for table in domains.sources], domains.task.few_shot_domain
        self._tables: dict[Side, Table] = dict(zip(SIDES, tables, strict=True))
        self._settings = settings
        self._built_in: dict[Side, SideOrder | StreamOrder] = {
            "source": source_order(
                tables[0], names, settings, seed, few_shot_domain=few, trains=bool(made[0].transforms)
            ),
            "target": stream or target_order(tables[1], settings, seed, trains=bool(made[1].transforms)),
        }
        self._trained = [side for side, view in zip(SIDES, made, strict=True) if view.transforms]
        for side in self._trained if stream is None else ():
            _refuse_few(self._built_in[side].batch, share, f"data.{side}_batch", pieces)
            _refuse_rest(self._built_in[side].batch, share, f"data.{side}_batch", len(names) if side == "source" else 1)
        self._share = share
        self._no_views = tuple(Views((), side, seed=seed, policy=policy, mean=mean, std=std) for side in SIDES)
        self._given: dict[Side, GivenOrder | None] = dict.fromkeys(SIDES)
        self._device = device if settings.augment_on == "device" else None
        self._dataset = StepDataset(tables, (made[0], made[1]), settings, raw=self._device is not None)
        self._step = start
        self._batches: Iterator[Batch | str] | None = None
        reserve(tables, settings)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass over the side with views that lasts longer; a side lasts as long as its shortest domain.

        A stream lasts as long as the target.
        """
        if isinstance(target := self._built_in["target"], StreamOrder):
            return target.steps
        return max(self._built_in[side].steps for side in self._trained or SIDES)

    def __iter__(self) -> StepLoader:
        return self

    def __next__(self) -> Batch:
        if self._batches is None:
            self._batches = self._start()
        batch = next(self._batches)
        if isinstance(batch, str):
            raise UserInputError(batch)
        if self._device is not None:
            batch = Batch(*(self._viewed(n, side, self._device) for n, side in enumerate((batch.source, batch.target))))
        self._step += 1
        return batch

    def whole(self) -> Whole:
        """Return what all processes drew in the last step, and who has which of it."""
        step, sides, places = self._step - 1, [], {}
        for number, side in enumerate(SIDES):
            order, table = self._order(side), self._tables[side]
            drawn = order.take(step)
            sides.append(_make(table, drawn, drawn, self._no_views[number], self._settings))
            parts = [Share(rank, self._share.world).of(order).places for rank in range(self._share.world)]
            places[side] = tuple(torch.from_numpy(part[part < len(drawn)]) for part in parts)
        return Whole(Batch(*sides), places)

    def _viewed(self, number: int, batch: DomainBatch, device: torch.device) -> DomainBatch:
        """Return a batch of raw pixels on the device, with its views made there."""
        if RAW not in batch.images:
            return batch.to(device)
        pixels = batch.images[RAW]
        if device.type == "cuda":
            pixels = pixels.pin_memory().to(device, non_blocking=True)
        # The same numbers as in StepDataset, which makes the views where the device does not.
        views = self._dataset.views[number].make(pixels, self._part(SIDES[number]).draws(self._step))
        return replace(replace(batch, images={}).to(device), images=views)

    def set_sampler(self, side: Side, sampler: Iterable[int] | None) -> None:
        """Let a sampler choose a side's samples from the next batch on; None = the built-in order.

        The sampler is run through once, now: what it draws from torch's global generator it draws here. If the steps
        outlast it, its order begins again. One without a length is cut off after an epoch.

        Raises:
            ValueError: if it gives fewer indices than a batch, or one outside the side.
        """
        if sampler is None and self._given[side] is None:
            return
        built_in = self._built_in[side]
        n, batch = len(self._tables[side]), built_in.batch
        most = max(n, self.steps_per_epoch * batch)
        self._given[side] = None if sampler is None else drawn_from(sampler, n, batch, self._step, most)
        # Batches that workers have prepared ahead are of the old order: they are dropped and drawn again from `_step`.
        self._batches = None

    def state_dict(self) -> dict[str, Any]:
        """Return where the loader stands: numbers, and the orders that samplers gave as int64 tensors."""
        orders: dict[str, dict[str, Any] | None] = {}
        for side in SIDES:
            given = self._given[side]
            orders[side] = None if given is None else {"start": given.start, "order": torch.from_numpy(given.indices)}
        # Batches handed out, not drawn ahead: workers' lead is no part of the state.
        return {"step": self._step, "sizes": self._sizes(), "orders": orders}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another loader of the same data stood.

        Raises:
            UserInputError: if domains or batches have other sizes.
            Exception: of any kind, if it is not the state of a loader.
        """
        if list(state["sizes"]) != self._sizes():
            what = f"the data has changed: sides and batches of {list(state['sizes'])} then, {self._sizes()} now"
            raise UserInputError(what, where="resume", fix="start a new run")
        for side in SIDES:
            saved = state["orders"][side]
            self._given[side] = None if saved is None else self._restored(side, saved)
        self._step = int(state["step"])
        self._batches = None

    def _restored(self, side: Side, saved: Mapping[str, Any]) -> GivenOrder:
        order: Tensor = torch.as_tensor(saved["order"], dtype=torch.int64)
        n, batch = len(self._tables[side]), self._built_in[side].batch
        if order.ndim != 1 or len(order) < batch or not bool(((order >= 0) & (order < n)).all()):
            raise ValueError(f"the order of the {side} is of other data")
        return GivenOrder(order.numpy().copy(), batch, int(saved["start"]))

    def _sizes(self) -> list[int]:
        return [size for side in SIDES for size in (len(self._tables[side]), self._built_in[side].batch)]

    def _part(self, side: Side) -> Part:
        """Return what this process draws of a side."""
        return self._share.of(self._order(side))

    def _order(self, side: Side) -> SideOrder | GivenOrder | StreamOrder:
        return self._given[side] or self._built_in[side]

    def _start(self) -> Iterator[Batch | str]:
        # The plans do not refer to the loader: in a cycle that only the collector breaks, the queues of the workers are
        # closed before the workers are told to end, and each is waited for in vain for 5 s.
        plans = _plans(self._step, self._part("source"), self._part("target"))
        if not self._settings.workers:
            return map(self._dataset.__getitem__, plans)
        forks = "fork" in multiprocessing.get_all_start_methods()
        loader: DataLoader[Batch | str] = DataLoader(
            self._dataset,
            sampler=_Endless(plans),
            # A plan is a whole batch: the DataLoader collates nothing.
            batch_size=None,
            num_workers=self._settings.workers,
            # Forked workers share the image cache; a generator of its own leaves torch's global one alone.
            multiprocessing_context="fork" if forks else None,
            generator=torch.Generator(),
        )
        return iter(loader)


def _plans(step: int, source: Part, target: Part) -> Iterator[Plan]:
    while True:
        yield (source.take(step), source.draws(step)), (target.take(step), target.draws(step))
        step += 1


@dataclass
class _Endless:
    plans: Iterator[Plan]

    def __iter__(self) -> Iterator[Plan]:
        return self.plans


def source_order(
    table: Table,
    names: Sequence[str],
    settings: DataSettings,
    seed: int,
    *,
    few_shot_domain: int | None = None,
    trains: bool = True,
) -> SideOrder:
    """Return the built-in order of the source side.

    Balanced sources have equal shares, the labelled part of the target (`few_shot_domain`) as well: its
    few images come again, whatever `small_domains` says, and do not decide how long an epoch is.

    Args:
        table: the joined sources. names: of the sources. settings: batch and sampling. seed: the run's.
        few_shot_domain: number of the source that is a labelled part of the target; None without one.
        trains: whether any view of this side is asked for; if not, batches fit, being cut to the domains.

    Raises:
        UserInputError: if a batch does not fit the domains.
    """
    if not names:
        return SideOrder((), table.domain)
    whole = np.arange(len(table))
    few = few_shot_domain if settings.source_sampling == "balanced" and len(names) > 1 else None
    if settings.source_sampling == "proportional":
        pools = [(whole, settings.source_step, "the sources together")]
    else:
        share = settings.source_step // len(names)
        pools = [(whole[table.domain == d], share, f"source {name!r}") for d, name in enumerate(names)]
    orders: list[PoolOrder | ClassOrder] = []
    for number, (members, share, name) in enumerate(pools):
        least = 2 * len(pools)
        repeat = settings.small_domains == "repeat" or number == few
        batch = _fitting(len(members), share, name, "data.source_batch", least=least, trains=trains, repeat=repeat)
        purpose = (seed, "source", number)
        if settings.class_balanced:
            orders.append(ClassOrder(members, table.labels[members], batch, purpose))
        else:
            orders.append(PoolOrder(members, batch, purpose))
    return SideOrder(orders, table.domain, beside=few)


def target_order(table: Table, settings: DataSettings, seed: int, *, trains: bool = True) -> SideOrder:
    """Return the built-in order of the target side; classes are unknown there.

    Args:
        table: the adaptation part. settings, seed, trains: as for `source_order`.

    Raises:
        UserInputError: if the batch does not fit the adaptation part.
    """
    n, name = len(table), f"target {table.name!r}"
    repeat = settings.small_domains == "repeat"
    batch = _fitting(n, settings.target_batch, name, "data.target_batch", least=2, trains=trains, repeat=repeat)
    order = PoolOrder(np.arange(n), batch, (seed, "target", 0))
    return SideOrder([order], table.domain)


def _refuse_few(batch: int, share: Share, setting: str, pieces: int) -> None:
    parts = share.world * pieces
    if batch < 2 * parts:
        among = f"{share.world} processes" if pieces == 1 else f"{parts} pieces"
        what = f"batch too small: {batch} samples a step for {among}, and batch normalisation needs two"
        raise UserInputError(what, where=setting, fix=f"set it to {2 * parts} or more")


def _refuse_rest(batch: int, share: Share, setting: str, domains: int) -> None:
    """Refuse a batch of which some process would take more than another."""
    if batch % share.world:
        # Equal shares of every domain as well, so that the setting is what is drawn.
        whole = math.lcm(share.world, max(1, domains))
        near = sorted({max(whole, batch // whole * whole), (batch // whole + 1) * whole})
        what = f"{batch} samples a step do not divide among {share.world} processes"
        raise UserInputError(what, where=setting, fix=f"let them be {' or '.join(map(str, near))}")


def _fitting(n: int, batch: int, name: str, setting: str, *, least: int, trains: bool, repeat: bool) -> int:
    """Return the samples a step that a pool of n gives; for a side that does not train, as many as it can.

    Args:
        n: samples in the pool. batch: the share of a step. name: of the pool. setting: what sets the batch.
        least: value of the setting that gives each pool two samples. trains: whether the side has views.
        repeat: whether a pool smaller than its share may repeat itself inside a batch.
    """
    if not trains:
        return max(1, min(batch, n))
    if batch < 2:
        what = f"batch too small: fewer than two samples a step from {name}, and batch normalisation needs two"
        raise UserInputError(what, where=setting, fix=f"set it to {least} or more")
    if batch > n and not repeat:
        what = f"batch larger than a domain: {batch} samples a step from {name}, which has {n} for training"
        fix = "lower it, give more images, or set data.small_domains=repeat"
        raise UserInputError(what, where=setting, fix=fix)
    return batch
