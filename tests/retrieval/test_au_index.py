"""Nearest, radius and equal codes against brute force; labels carried over against literal loops."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from fercore.retrieval import AUIndex, code_keys, join_codes, labels, pack_codes


def random_codes(n, aus=17, seed=0, pool=60):
    rng = np.random.default_rng(seed)
    return pack_codes((rng.random((pool, aus)) < 0.3)[rng.integers(0, pool, n)] ^ (rng.random((n, aus)) < 0.03))


def hamming(a, b):
    return np.unpackbits(a[:, None] ^ b[None], axis=2).sum(axis=2, dtype=np.int64)


@pytest.mark.parametrize("kind", ["flat", "hash"])
@pytest.mark.parametrize(("n", "q", "aus"), [(500, 80, 17), (300, 50, 40), (1, 3, 5), (0, 4, 17), (30, 0, 17)])
def test_search_equals_brute_force(kind, n, q, aus):
    codes, queries = random_codes(n, aus), random_codes(q, aus, seed=1)
    index, truth = AUIndex(codes, index=kind), hamming(random_codes(q, aus, seed=1), codes)
    assert len(index) == n
    for d in (0, 1, np.int64(3), 5, 8 * codes.shape[1], 2**31 - 1, 2**70):
        found = index.radius(queries, d)
        for i in range(q):
            at = slice(*found.offsets[i : i + 2])
            wanted = np.flatnonzero(truth[i] <= d)
            wanted = wanted[np.lexsort((wanted, truth[i][wanted]))]
            assert np.array_equal(found.rows[at], wanted)
            assert np.array_equal(found.distances[at], truth[i][wanted])
    found = index.exact(queries)
    for i in range(q):
        assert np.array_equal(found.rows[slice(*found.offsets[i : i + 2])], np.flatnonzero(truth[i] == 0))
    for k in (1, 4, 40):
        distances, rows = index.nearest(queries, k)
        assert distances.shape == rows.shape == (q, k)
        for i in range(q):
            kept = min(k, n)
            assert np.array_equal(distances[i, :kept], np.sort(truth[i])[:kept])
            assert np.array_equal(truth[i][rows[i, :kept]], distances[i, :kept])
            assert len(set(rows[i, :kept])) == kept
            assert (rows[i, kept:] == -1).all()
            assert (distances[i, kept:] == 8 * codes.shape[1] + 1).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AUIndex(np.zeros((3, 4))), "uint8"),
        (lambda: AUIndex(random_codes(3), index="tree"), "flat, hash"),
        (lambda: AUIndex(random_codes(3), index="hash", hash_bits=33), r"1\.\.32"),
        (lambda: AUIndex(random_codes(3)).nearest(random_codes(3), 0), "k must"),
        (lambda: AUIndex(random_codes(3)).radius(random_codes(3), -1), "distance must"),
        (lambda: AUIndex(random_codes(3)).radius(random_codes(3), 1.5), r"whole number of bits, 0 or more, got 1\.5"),
        (lambda: AUIndex(random_codes(3)).radius(random_codes(3), True), "distance must"),
        (lambda: AUIndex(random_codes(3)).exact(random_codes(3, 60)), "8 bytes"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def sides(n=120, m=90):
    source, target = random_codes(n, seed=3), random_codes(m, seed=4)
    target[:40] = source[:40]
    return source, target, join_codes(*code_keys(source, target))


def matches(source, target, radius, nearest):
    """Return for each target row its source rows, literally."""
    rows = []
    for distances in hamming(target, source):
        limit = max(radius, distances.min()) if nearest else radius
        rows.append(np.flatnonzero(distances <= limit))
    return rows


@pytest.mark.parametrize(("radius", "nearest"), [(None, False), (0, False), (1, False), (2, True), (0, True)])
def test_labels_equal_a_brute_force_join(radius, nearest):
    source, target, join = sides()
    y = np.random.default_rng(5).integers(0, 4, len(source))
    wide = None if radius is None else labels.neighbour_codes(join, source, target, radius=radius, nearest=nearest)
    truth = matches(source, target, radius or 0, nearest)
    q, matched = labels.code_histogram(join, y, 4, neighbours=wide)
    hard, last = labels.majority(q, matched), labels.last_match(join, neighbours=wide)
    assert matched.any()
    assert matched.all() == nearest
    draws = np.stack([labels.random_match(join, seed, neighbours=wide) for seed in range(300)])
    for j, rows in enumerate(truth):
        assert matched[j] == (len(rows) > 0)
        counts = np.bincount(y[rows], minlength=4)
        np.testing.assert_allclose(q[j], counts / max(len(rows), 1), rtol=1e-15)
        assert hard[j] == (counts.argmax() if len(rows) else -1)
        assert last[j] == (rows.max() if len(rows) else -1)
        assert set(draws[:, j]) <= (set(rows) or {-1})
        if 0 < len(rows) <= 20:
            seen = np.array([(draws[:, j] == row).sum() for row in rows])
            assert abs(seen - 300 / len(rows)).max() < 6 * np.sqrt(300 / len(rows))
    assert np.array_equal(labels.random_match(join, 7, neighbours=wide), labels.random_match(join, 7, neighbours=wide))


@pytest.fixture
def searched(monkeypatch):
    """The number of queries of each FAISS search."""
    queries = []
    for name in ("search", "range_search"):
        plain = getattr(faiss.IndexBinaryFlat, name)

        def counted(index, x, *args, plain=plain, **options):
            queries.append(len(x))
            return plain(index, x, *args, **options)

        monkeypatch.setattr(faiss.IndexBinaryFlat, name, counted)
    return queries


def test_equal_codes_are_joined_not_compared(searched):
    numbers = np.random.default_rng(0).permutation(2**20)[:50_010].astype("<u4")
    source = numbers[:50_000].view(np.uint8).reshape(-1, 4)
    target = numbers[10:].view(np.uint8).reshape(-1, 4)
    join = join_codes(*code_keys(source, target))
    wide = labels.neighbour_codes(join, source, target)
    assert not searched
    assert np.array_equal(labels.last_match(join, neighbours=wide), labels.last_match(join))
    near = labels.neighbour_codes(join, source, target, nearest=True)
    assert sum(searched) == 20  # 10 codes without an equal one: how near, then all at that distance
    matched = labels.last_match(join, neighbours=near)
    assert np.array_equal(matched[:-10], np.arange(10, 50_000))
    distances = hamming(target[-10:], source)
    assert np.array_equal(distances[np.arange(10), matched[-10:]], distances.min(axis=1))


def test_ties_go_to_the_smallest_class():
    keys = np.zeros(4, np.uint64)
    q, matched = labels.code_histogram(join_codes(keys, keys[:1]), [2, 1, 1, 2], 3)
    assert labels.majority(q, matched).tolist() == [1]


def test_nothing_matches_and_nothing_there():
    source, target = pack_codes(np.zeros((3, 5))), pack_codes(np.ones((2, 5)))
    join = join_codes(*code_keys(source, target))
    q, matched = labels.code_histogram(join, [0, 1, 1], 2)
    assert not matched.any()
    assert not q.any()
    assert labels.random_match(join, 0).tolist() == [-1, -1]
    empty = join_codes(*code_keys(source[:0], target))
    wide = labels.neighbour_codes(empty, source[:0], target, radius=3, nearest=True)
    assert not labels.code_histogram(empty, np.zeros(0, int), 2, neighbours=wide)[1].any()
    assert labels.random_match(empty, 0, neighbours=wide).tolist() == [-1, -1]
    assert labels.last_match(empty, neighbours=wide).tolist() == [-1, -1]


def test_bad_labels_are_named():
    source, target, join = sides()
    with pytest.raises(ValueError, match=r"source_labels must be int \[120\]"):
        labels.code_histogram(join, np.zeros(3, int), 2)
    with pytest.raises(ValueError, match=r"in 0\.\.1, got -1"):
        labels.code_histogram(join, np.full(120, -1), 2)
    with pytest.raises(ValueError, match="other numbers of rows"):
        labels.neighbour_codes(join, target, source)
    with pytest.raises(ValueError, match="distance must"):
        labels.neighbour_codes(join, source, target, radius=0.0)
    with pytest.raises(ValueError, match=r"q must be \[M,K\]"):
        labels.majority(np.zeros(3), np.zeros(3, bool))
