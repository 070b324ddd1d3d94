"""Codes and joins against brute force on random codes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from fercore.ops import ExtensionRequiredError, dispatch
from fercore.retrieval import code_keys, join_codes, pack_codes
from fercore.retrieval.join import join_reference


def random_scores(n, aus, seed=0):
    return np.random.default_rng(seed).random((n, aus))


@pytest.mark.parametrize("aus", [1, 8, 17, 24, 32, 33, 64, 65, 100])
def test_bits_and_padding(aus):
    scores = random_scores(50, aus)
    scores[0], scores[1, 0] = 0.5, np.nextafter(0.5, 0)
    codes = pack_codes(scores)
    assert codes.dtype == np.uint8
    assert codes.shape == (50, -(-aus // 32) * 4)
    bits = np.unpackbits(codes, axis=1, bitorder="little")
    assert np.array_equal(bits[:, :aus].astype(bool), scores >= 0.5)
    assert not bits[:, aus:].any()
    assert np.array_equal(codes, pack_codes(scores >= 0.5))
    assert np.array_equal(pack_codes(scores, 0.9), pack_codes(scores >= 0.9))


@pytest.mark.parametrize("aus", [3, 17, 40, 64, 65, 130])
def test_keys_are_equal_where_codes_are(aus):
    pool = random_scores(20, aus) > 0.5
    pick = np.random.default_rng(1).integers(0, 20, (2, 60))
    first, second = (pack_codes(pool[p]) for p in pick)
    a, b = code_keys(first, second)
    assert a.dtype == np.uint64
    same = (first[:, None] == second[None]).all(axis=2)
    assert np.array_equal(a[:, None] == b[None], same)
    alone = code_keys(first)
    assert np.array_equal(alone[:, None] == alone[None], (first[:, None] == first[None]).all(axis=2))
    if aus <= 64:
        assert np.array_equal(alone, a)
        assert int(alone[0]) == sum(1 << k for k in range(aus) if pool[pick[0, 0], k])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pack_codes(np.zeros(3)), r"\[N,A\]"),
        (lambda: pack_codes(np.zeros((3, 0))), "A >= 1"),
        (lambda: pack_codes(np.array([["a"]])), "numbers"),
        (lambda: pack_codes(np.array([[0.0], [np.nan]])), "NaN in 1 of 2 rows, the first is row 1"),
        (lambda: code_keys(np.zeros((3, 4))), "uint8"),
        (lambda: code_keys(np.zeros((3, 4), np.uint8), np.zeros((3, 8), np.uint8)), "several widths"),
        (lambda: join_codes(np.zeros(3, np.int64), np.zeros(3, np.uint64)), "source_keys must be uint64"),
        (lambda: join_codes(np.zeros(3, np.uint64), np.zeros((3, 1), np.uint64)), "target_keys must be uint64"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


CASES = [(0, 0, 4), (0, 5, 4), (5, 0, 4), (1, 1, 1), (200, 300, 3), (300, 200, 12), (400, 400, 17), (500, 100, 30),
         (300, 300, 64), (4000, 3000, 20)]  # fmt: skip


def random_keys(n, m, bits, seed=0):
    rng = np.random.default_rng(seed)
    high = np.uint64(2**bits - 1)
    pool = rng.integers(0, high, 150, dtype=np.uint64, endpoint=True)
    return (np.where(rng.random(k) < 0.7, pool[rng.integers(0, 150, k)], rng.integers(0, high, k, dtype=np.uint64,
            endpoint=True)) for k in (n, m))  # fmt: skip


@pytest.mark.parametrize("form", ["compiled", "numpy"])
@pytest.mark.parametrize(("n", "m", "bits"), CASES)
def test_join_equals_brute_force(n, m, bits, form, monkeypatch):
    if form == "numpy":
        monkeypatch.setattr(dispatch, "native", lambda: None)
    source, target = random_keys(n, m, bits)
    join = join_codes(source, target)
    same = source[:, None] == target[None]
    assert np.array_equal(join.source_order, np.argsort(source, kind="stable"))
    assert np.array_equal(join.counts, same.sum(axis=0))
    assert np.array_equal(join.matched, same.any(axis=0))
    for j in range(m):
        assert np.array_equal(join.source_rows(j), np.flatnonzero(same[:, j]))
    for i in range(n):
        assert np.array_equal(join.target_rows(i), np.flatnonzero(same[i]))
    assert np.array_equal(join.codes, np.union1d(source, target))
    for g, code in enumerate(join.codes):
        a, b = join.source_offsets[g : g + 2], join.target_offsets[g : g + 2]
        assert np.array_equal(join.source_order[slice(*a)], np.flatnonzero(source == code))
        assert np.array_equal(join.target_order[slice(*b)], np.flatnonzero(target == code))
    assert np.array_equal(join.codes[join.source_groups], source)
    assert np.array_equal(join.codes[join.target_groups], target)


@pytest.mark.parametrize("bits", [8, 40])
def test_keys_that_share_high_and_low_bits(bits):
    source, target = (np.uint64(3 << 60) | (keys << np.uint64(9)) for keys in random_keys(300, 200, bits))
    join, (order, start, stop) = join_codes(source, target), join_reference(source, target)
    assert np.array_equal(join.source_order, order)
    assert np.array_equal(join.counts, stop - start)
    assert np.array_equal(join.start[join.matched], start[join.matched])
    one = join_codes(source[:1].repeat(5), source[:1].repeat(3))
    assert one.counts.tolist() == [5, 5, 5]


def test_without_the_module_and_with_it_required(monkeypatch):
    keys = np.arange(3, dtype=np.uint64)
    monkeypatch.setattr(dispatch, "_states", {"cpu": dispatch.State(tried=True, loaded=True)})
    monkeypatch.delenv("FERCORE_REQUIRE_EXT", raising=False)
    assert join_codes(keys, keys).counts.tolist() == [1, 1, 1]
    monkeypatch.setenv("FERCORE_REQUIRE_EXT", "1")
    with pytest.raises(ExtensionRequiredError, match="without Python's headers"):
        join_codes(keys, keys)


def test_the_guide_runs():
    text = (Path(__file__).parents[2] / "docs" / "retrieval.md").read_text()
    names: dict = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), names)
    assert names["rows"].shape == (8, 5)
    assert len(names["mined"]) > 400
