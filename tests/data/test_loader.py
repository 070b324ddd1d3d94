from __future__ import annotations

import dataclasses
import gc
import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import RandomSampler

from fercore.config import DataSettings
from fercore.data import DomainSet, StepLoader, eval_batches, side_table
from fercore.data.batches.sampling import Share
from fercore.data.cache.stores import fetch, fitted
from fercore.errors import UserInputError
from fercore.records.plan import ViewRequest
from fercore.records.step import PLAIN, Batch
from tests.loading import load_domains

LoadedDomain = Callable[..., tuple[DomainSet, DataSettings]]
HALF = (0.5, 0.5, 0.5)
VIEWS = (
    ViewRequest("source", "weak", "weak"),
    ViewRequest("target", "weak", "weak"),
    ViewRequest("target", "weak2", "weak"),
    ViewRequest("target", "strong", "strong"),
    ViewRequest("target", "plain", "none"),
)


def make(domains: DomainSet, data: DataSettings, views: Sequence[ViewRequest] = VIEWS, seed: int = 0) -> StepLoader:
    return StepLoader(domains, views, data, seed=seed, mean=HALF, std=HALF)


def take(loader: StepLoader, n: int) -> list[Batch]:
    return [next(loader) for _ in range(n)]


def same(first: Sequence[Batch], second: Sequence[Batch]) -> bool:
    def tensors(batch: Batch) -> list[torch.Tensor]:
        sides = (batch.source, batch.target)
        return [t for s in sides for t in (s.labels, s.domain, s.index, *s.images.values(), *s.extras.values())]

    pairs = zip(first, second, strict=True)
    return all(torch.equal(x, y) for a, b in pairs for x, y in zip(tensors(a), tensors(b), strict=True))


def test_shape_of_a_batch(loaded: LoadedDomain):
    domains, data = loaded()
    batch = next(make(domains, data))
    assert batch.source.images["weak"].shape == (12, 3, 16, 16)
    assert set(batch.target.images) == {"weak", "weak2", "strong", "plain"}
    assert batch.source.domain.tolist() == [0] * 6 + [1] * 6
    assert batch.target.domain.tolist() == [0] * 6
    assert batch.source.per_domain == batch.source.domain_counts() == (6, 6)
    assert batch.target.per_domain == (6,)
    assert batch.source.images["weak"].dtype == torch.float32
    assert not torch.equal(batch.target.images["weak"], batch.target.images["weak2"])


def test_batches_agree_with_the_side_tables(loaded: LoadedDomain):
    domains, data = loaded()
    batch = next(make(domains, data))
    source, target = side_table(domains, "source"), side_table(domains, "target")
    at = batch.source.index.numpy()
    assert batch.source.labels.tolist() == source.labels[at].tolist()
    assert batch.source.domain.tolist() == source.domain[at].tolist()
    pixels = torch.from_numpy(fetch(target, batch.target.index.numpy(), data)) / 255
    torch.testing.assert_close(batch.target.images["plain"] * 0.5 + 0.5, pixels)


def test_no_target_label_in_any_batch(loaded: LoadedDomain):
    domains, data = loaded()
    assert all(set(batch.target.labels.tolist()) == {-1} for batch in take(make(domains, data), 6))
    assert set(side_table(domains, "target").labels.tolist()) == {-1}
    leaky = dataclasses.replace(domains, adaptation=domains.test)
    assert set(next(make(leaky, data)).target.labels.tolist()) == {-1}


def test_the_seed_decides(loaded: LoadedDomain):
    domains, data = loaded()
    assert same(take(make(domains, data), 7), take(make(domains, data), 7))
    assert not same(take(make(domains, data), 1), take(make(domains, data, seed=1), 1))


@pytest.mark.parametrize("cache_mb", [0, 64])
def test_workers_change_nothing(loaded: LoadedDomain, cache_mb: int):
    domains, data = loaded(cache_mb=cache_mb)
    alone = take(make(domains, data), 6)
    loader = make(domains, data.model_copy(update={"workers": 2}))
    before = torch.get_rng_state()
    helped = take(loader, 4)
    loader.set_sampler("source", RandomSampler(range(42), generator=torch.Generator().manual_seed(1)))
    loader.set_sampler("source", None)
    assert same(alone, helped + take(loader, 2))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("settings", [{}, {"class_balanced": True}, {"source_sampling": "proportional"}])
def test_resume_in_the_middle_of_an_epoch(loaded: LoadedDomain, settings: dict[str, Any]):
    domains, data = loaded(**settings)
    loader = make(domains, data)
    take(loader, 5)
    state = loader.state_dict()
    expected = take(loader, 5)
    fresh = make(domains, data)
    fresh.load_state_dict(state)
    assert same(expected, take(fresh, 5))


def test_resume_with_a_sampler(loaded: LoadedDomain):
    domains, data = loaded()
    loader = make(domains, data)
    take(loader, 2)
    loader.set_sampler("target", RandomSampler(range(15)))
    take(loader, 1)
    state = loader.state_dict()
    expected = take(loader, 4)
    fresh = make(domains, data)
    fresh.load_state_dict(state)
    assert same(expected, take(fresh, 4))


def test_resume_on_other_data_is_refused(loaded: LoadedDomain):
    domains, data = loaded()
    state = make(domains, data).state_dict()
    with pytest.raises(UserInputError, match="the data has changed"):
        make(domains, data.model_copy(update={"target_batch": 5})).load_state_dict(state)


def test_each_cycle_holds_each_sample_once(loaded: LoadedDomain):
    domains, data = loaded(source_batch=6, target_batch=5)
    batches = take(make(domains, data), 6)
    drawn = torch.cat([batch.target.index for batch in batches]).tolist()
    assert sorted(drawn[:15]) == sorted(drawn[15:]) == list(range(15))
    assert drawn[:15] != drawn[15:]
    second = torch.cat([batch.source.index[batch.source.domain == 1] for batch in batches]).tolist()
    assert sorted(second) == list(range(24, 42))


def test_steps_of_an_epoch(loaded: LoadedDomain):
    domains, data = loaded()
    assert make(domains, data).steps_per_epoch == 3
    assert make(domains, data.model_copy(update={"target_batch": 2})).steps_per_epoch == 7


def test_a_side_without_views_does_not_make_epochs_longer(loaded: LoadedDomain):
    domains, data = loaded(target_batch=2)
    requests = [ViewRequest("source", "weak", "weak")]
    loader = StepLoader(domains, requests, data, seed=0, mean=HALF, std=HALF)
    assert loader.steps_per_epoch == 3


def in_parts(
    domains: DomainSet, data: DataSettings, world: int, order: Sequence[int] | None = None
) -> list[list[Batch]]:
    """Return four batches of every process of `world`."""
    found = []
    for rank in range(world):
        loader = StepLoader(domains, VIEWS, data, seed=0, mean=HALF, std=HALF, share=Share(rank, world))
        if order is not None:
            loader.set_sampler("source", order)
        found.append(take(loader, 4))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ordered", [False, True])
def test_processes_divide_the_batch_of_one(loaded: LoadedDomain, workers: int, ordered: bool):
    """Rows of both ranks, augmented images with them, are those of a single process; a sampler's groups stay whole."""
    domains, data = loaded(target_batch=8, workers=workers)
    order = list(range(36)) if ordered else None
    (whole,) = in_parts(domains, data, 1, order)
    for step, parts in enumerate(zip(*in_parts(domains, data, 2, order), strict=True)):
        for side in ("source", "target"):
            one, (a, b) = whole[step].side(side), (part.side(side) for part in parts)
            rows = {int(index): row for row, index in enumerate(one.index)}
            assert len(rows) == len(a) + len(b) == len({*a.index.tolist(), *b.index.tolist()})
            for part in (a, b):
                at = torch.tensor([rows[int(index)] for index in part.index])
                assert torch.equal(part.labels, one.labels[at])
                for name, images in part.images.items():
                    assert torch.equal(images, one.images[name][at])
        source = [part.source for part in parts]
        if ordered:
            first = 12 * (step % 3)
            assert [part.index.tolist() for part in source] == [[*range(k, k + 6)] for k in (first, first + 6)]
        else:
            assert [part.per_domain for part in source] == [(3, 3), (3, 3)]
            assert all(part.domain.tolist() == sorted(part.domain.tolist()) for part in source)


def test_every_process_needs_two_samples(loaded: LoadedDomain):
    domains, data = loaded(target_batch=7)
    with pytest.raises(UserInputError, match="7 samples a step for 4 processes") as caught:
        in_parts(domains, data, 4)
    assert (caught.value.where, caught.value.fix) == ("data.target_batch", "set it to 8 or more")


def test_a_loader_may_start_later(loaded: LoadedDomain):
    domains, data = loaded()
    early = take(make(domains, data), 5)
    late = StepLoader(domains, VIEWS, data, seed=0, mean=HALF, std=HALF, start=3)
    for one, other in zip(early[3:], take(late, 2), strict=True):
        assert torch.equal(one.target.index, other.target.index)
        assert torch.equal(one.source.images["weak"], other.source.images["weak"])


def test_proportional_sampling_draws_by_size(loaded: LoadedDomain):
    domains, data = loaded(source_sampling="proportional", source_batch=14)
    batches = take(make(domains, data), 3)
    assert sum(int((batch.source.domain == 0).sum()) for batch in batches) == 24
    assert all(batch.source.domain.tolist() == sorted(batch.source.domain.tolist()) for batch in batches)


@pytest.mark.parametrize("sampling", ["balanced", "proportional"])
def test_a_batch_may_be_that_of_each_source(loaded: LoadedDomain, sampling: str):
    domains, data = loaded(source_batch=7, source_batch_of="source", source_sampling=sampling)
    assert data.source_step == 14
    batches = take(make(domains, data), 3)
    assert all(len(batch.source) == 14 for batch in batches)
    if sampling == "balanced":
        assert all(torch.bincount(batch.source.domain).tolist() == [7, 7] for batch in batches)
    together = data.model_copy(update={"source_batch_of": "step"})
    assert len(take(make(domains, together), 1)[0].source) == (6 if sampling == "balanced" else 7)


def test_class_balance_inside_each_domain(loaded: LoadedDomain):
    domains, data = loaded(class_balanced=True)
    batches = take(make(domains, data), 60)
    for domain in (0, 1):
        labels = torch.cat([batch.source.labels[batch.source.domain == domain] for batch in batches])
        assert torch.bincount(labels).tolist() == [120, 120, 120]
    index = torch.cat([batch.source.index for batch in batches])
    counts = torch.bincount(index, minlength=42)[:24]
    assert counts[:12].max() - counts[:12].min() <= 1
    assert counts[19:24].max() - counts[19:24].min() <= 1
    batches = take(make(domains, data.model_copy(update={"class_balanced": False})), 60)
    labels = torch.cat([batch.source.labels[batch.source.domain == 0] for batch in batches])
    assert torch.bincount(labels).tolist() == [180, 105, 75]


def test_a_sampler_of_a_plugin(loaded: LoadedDomain):
    domains, data = loaded()
    loader = make(domains, data)
    loader.set_sampler("target", range(14, -1, -1))
    assert [batch.target.index.tolist() for batch in take(loader, 3)] == [
        [14, 13, 12, 11, 10, 9],
        [8, 7, 6, 5, 4, 3],
        [14, 13, 12, 11, 10, 9],
    ]
    with pytest.raises(ValueError, match="sampler gave 3 indices, a batch needs 6"):
        loader.set_sampler("target", range(3))
    with pytest.raises(ValueError, match="sampler gave index 15 for a side of 15 samples"):
        loader.set_sampler("target", range(16))

    def endless():
        while True:
            yield 1

    loader.set_sampler("target", endless())
    assert next(loader).target.index.tolist() == [1] * 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source_batch": 40}, "batch larger than a domain: 20 samples a step from source 'b', which has 18"),
        ({"target_batch": 16}, "batch larger than a domain: 16 samples a step from target 't', which has 15"),
        (
            {"source_batch": 3},
            "batch too small: fewer than two samples a step from source 'a', and batch normalisation needs two "
            "(data.source_batch); set it to 4 or more",
        ),
        ({"source_batch": 1}, "batch too small: fewer than two samples a step from source 'a'"),
        (
            {"source_batch": 1, "source_sampling": "proportional"},
            "batch too small: fewer than two samples a step from the sources together, and batch normalisation needs "
            "two (data.source_batch); set it to 2 or more",
        ),
        ({"target_batch": 1}, "batch too small: fewer than two samples a step from target 't'"),
        (
            {"source_batch": 43, "source_sampling": "proportional"},
            "batch larger than a domain: 43 samples a step from the sources together, which has 42",
        ),
    ],
)
def test_batches_that_do_not_fit(loaded: LoadedDomain, settings: dict[str, Any], message: str):
    domains, data = loaded(**settings)
    with pytest.raises(UserInputError) as caught:
        make(domains, data)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("batch", [1, 16, 1000])
def test_batches_of_a_side_without_views_always_fit(loaded: LoadedDomain, batch: int):
    domains, data = loaded(target_batch=batch)
    loader = make(domains, data, [ViewRequest("source", "weak", "weak")])
    drawn = take(loader, 3)
    assert [(len(b.source), len(b.target), dict(b.target.images)) for b in drawn] == [(12, min(batch, 15), {})] * 3
    domains, data = loaded(source_batch=batch)
    drawn = take(make(domains, data, [ViewRequest("target", "weak", "weak")]), 3)
    assert {len(b.source) for b in drawn} <= {2, 16, 42}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_vanishes_is_named(loaded: LoadedDomain, tmp_path, workers: int):
    domains, data = loaded(workers=workers)
    for path in (tmp_path / "a").rglob("*.png"):
        path.unlink()
    with pytest.raises(UserInputError, match=r"^unusable image: cannot be loaded: No such file .*\.png\)$"):
        next(make(domains, data))


def test_evaluation_batches_are_in_order(loaded: LoadedDomain):
    domains, data = loaded(eval_batch=7)
    batches = list(eval_batches(domains.test, data, mean=HALF, std=HALF))
    assert [len(batch) for batch in batches] == [7, 7, 1]
    assert torch.cat([batch.labels for batch in batches]).tolist() == domains.test.labels.tolist()
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(15))
    assert set(batches[0].images) == {PLAIN}
    joined = side_table(domains, "source")
    domain = torch.cat([batch.domain for batch in eval_batches(joined, data, mean=HALF, std=HALF)])
    assert domain.tolist() == [0] * 24 + [1] * 18


def test_a_small_cache_gives_the_same_pixels(loaded: LoadedDomain):
    domains, data = loaded()
    table = side_table(domains, "source")
    at = np.arange(len(table))
    expected = fetch(table, at, data.model_copy(update={"cache_mb": 0}))
    assert (np.stack([fitted(table.read(i), 16, "stretch") for i in at]) == expected).all()
    loader = make(domains, data)
    take(loader, 6)
    assert (fetch(table, at, data) == expected).all()


def test_extras_travel_with_their_samples():
    sources = ("synthfer:studio?n=28", "synthfer:web?n=28&seed=1")
    data = DataSettings(sources=sources, target="synthfer:wild?n=28&seed=2", size=32, source_batch=8, target_batch=4)
    domains = load_domains(data, seed=0)
    batch = next(make(domains, data))
    table = side_table(domains, "source")
    scores = batch.source.extras["au_scores"].numpy()
    assert (scores == table.extras["au_scores"][batch.source.index.numpy()]).all()
    assert set(batch.target.extras) == {"au_scores"}


def test_workers_end_with_their_loader(loaded: LoadedDomain):
    """No cycle of references: one that only the garbage collector breaks leaves each worker waiting for 5 s."""
    loader = make(*loaded(workers=2))
    next(loader)
    workers = {child.pid for child in multiprocessing.active_children()}
    assert len(workers) >= 2
    gc.disable()
    try:
        del loader
        assert not workers & {child.pid for child in multiprocessing.active_children()}
    finally:
        gc.enable()
