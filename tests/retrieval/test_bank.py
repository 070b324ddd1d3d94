"""The feature bank against brute force, its state, and its refusals."""

from __future__ import annotations

import copy

import faiss
import pytest
import torch

from fercore.retrieval import FeatureBank
from fercore.retrieval.approximate import Settings

GPU = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]


def rows(n, dim=12, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, dim, generator=generator)
    labels = torch.randint(-1, classes, (n,), generator=generator)
    return features, labels, torch.rand(n, classes, generator=generator).softmax(1)


def bank_of(n=300, capacity=400, device="cpu", **options):
    bank = FeatureBank(12, capacity, 4, **options).to(device)
    bank.refresh(*(t.to(device) for t in rows(n)))
    return bank


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("metric", ["ip", "l2"])
@pytest.mark.parametrize("count", [0, 1, 2, 8, 10, 11, 60])
@pytest.mark.parametrize("k", [1, 5, 300, 310])
def test_search_equals_brute_force(device, metric, count, k):
    bank, queries = bank_of(metric=metric, device=device), rows(count, seed=1)[0].to(device)
    before = faiss.cvar.distance_compute_blas_threshold
    scores, indices = bank.search(queries, k)
    assert faiss.cvar.distance_compute_blas_threshold == before
    stored = bank.features[:300].double()
    exact = queries.double() @ stored.T if metric == "ip" else torch.cdist(queries.double(), stored) ** 2
    kept, worst = min(k, 300), float("-inf") if metric == "ip" else float("inf")
    torch.testing.assert_close(
        scores[:, :kept].double(), exact.topk(kept, largest=metric == "ip").values, atol=1e-4, rtol=1e-5
    )
    torch.testing.assert_close(exact.gather(1, indices[:, :kept]), scores[:, :kept].double(), atol=1e-4, rtol=1e-5)
    assert (indices[:, kept:] == -1).all()
    assert (scores[:, kept:] == worst).all()
    assert scores.device == indices.device == queries.device


@pytest.mark.parametrize("index", ["ivf", "hnsw"])
@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_approximate_search_says_its_recall(index, metric):
    bank = FeatureBank(12, 2000, 4, metric=metric, index=index)
    bank.refresh(*rows(2000))
    recall = bank.recall(k=5)
    assert 0.5 < recall <= 1
    queries = rows(50, seed=3)[0]
    again = copy.deepcopy(bank)
    first, second = bank.search(queries, 5), again.search(queries, 5)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    bank.update(torch.tensor([7]), 100 * queries[:1], torch.tensor([0]), torch.ones(1, 4))
    if metric == "ip":
        assert bank.search(queries[:1], 1)[1].item() == 7
    else:
        assert bank.search(100 * queries[:1], 1)[1].item() == 7


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_recall_counts_the_other_rows(metric, monkeypatch):
    bank = FeatureBank(12, 300, 4, metric=metric, index="ivf", settings=Settings(probes=2))
    bank.refresh(*rows(300))
    features, k = bank.features.double(), 4
    scores = features @ features.T if metric == "ip" else -(torch.cdist(features, features) ** 2)
    searched = bank.search(features[::2].float(), k + 1)[1]
    shares = []
    for row, found in zip(range(0, 300, 2), searched.tolist(), strict=True):
        others = scores[row].clone()
        others[row] = float("-inf")
        best = set(others.topk(k).indices.tolist())
        shares.append(len(best & set([r for r in found if r != row][:k])) / k)
    assert bank.recall(k=k, sample=150) == pytest.approx(sum(shares) / len(shares))
    assert 0.2 < sum(shares) / len(shares) < 1
    assert bank.recall(k=1000) > 0.2

    def only_itself(queries, _, k):
        own = (queries[:, None] == bank.features).all(dim=2).int().argmax(dim=1)
        return None, torch.cat([own[:, None], torch.full((len(own), k - 1), -1)], dim=1)

    monkeypatch.setattr(bank, "_search", only_itself)
    assert bank.recall(k=k) == 0


@pytest.mark.parametrize("index", ["flat", "ivf", "hnsw"])
@pytest.mark.parametrize("n", [0, 1, 2])
def test_recall_of_tiny_banks(index, n):
    assert bank_of(n, index=index).recall() == 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n", [1, 10, 38, 39, 200])
@pytest.mark.parametrize("lists", [None, 30])
def test_small_banks_print_nothing(n, lists, device, capfd):
    bank = bank_of(n, device=device, index="ivf", settings=Settings(lists=lists, probes=30))
    assert bank.search(rows(n)[0].to(device), 1)[1].shape == (n, 1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("device", DEVICES)
def test_top_per_class_and_centres(device):
    bank = bank_of(60, device=device)
    labels, probs, features = (t[:60].cpu() for t in (bank.labels, bank.probs, bank.features))
    by_label, by_prob = bank.top_per_class(20), bank.top_per_class(5, by="probability")
    centres, empty = bank.centres()
    top_centres, _ = bank.centres(by_label[:, :5])
    assert not empty.any()
    for c in range(4):
        own = [i for i in range(60) if labels[i] == c]
        best = sorted(own, key=lambda i: -probs[i, c])
        assert by_label[c].tolist() == (best + [-1] * 20)[:20]
        assert by_prob[c].tolist() == sorted(range(60), key=lambda i: -probs[i, c])[:5]
        torch.testing.assert_close(centres[c].cpu(), features[own].mean(0))
        torch.testing.assert_close(top_centres[c].cpu(), features[best[:5]].mean(0))


def test_empty_classes_and_an_empty_bank():
    bank = FeatureBank(12, 5, 4)
    features, _, probs = rows(3)
    assert bank.search(features, 2)[1].tolist() == [[-1, -1]] * 3
    assert (bank.top_per_class(2) == -1).all()
    assert bank.centres()[1].all()
    bank.refresh(features, torch.tensor([1, 1, -1]), probs)
    centres, empty = bank.centres()
    assert empty.tolist() == [True, False, True, True]
    assert not centres[empty].any()
    assert bank.top_per_class(2)[0].tolist() == [-1, -1]


def test_state_is_saved_whole_and_refreshed_in_place():
    bank, other = bank_of(), FeatureBank(12, 400, 4)
    address = bank.features.data_ptr()
    other.load_state_dict(bank.state_dict())
    queries = rows(20, seed=1)[0]
    assert all(torch.equal(a, b) for a, b in zip(bank.search(queries, 5), other.search(queries, 5), strict=True))
    assert set(bank.state_dict()) == {"features", "labels", "probs", "filled"}
    bank.refresh(*rows(10, seed=2))
    assert len(bank) == 10
    assert bank.features.data_ptr() == address
    assert not bank.features[10:].any()
    features, labels, probs = rows(3, seed=4)
    bank.update(torch.tensor([2, 5, 2]), features, labels, probs)
    assert torch.equal(bank.features[[2, 5]], features[[2, 1]])
    assert torch.equal(bank.labels[[2, 5]], labels[[2, 1]])
    assert torch.equal(bank.probs[[2, 5]], probs[[2, 1]])


def test_a_half_bank_stores_what_it_checked():
    bank, (features, labels, probs) = FeatureBank(12, 5, 4).half(), rows(5)
    bank.refresh(features.double(), labels.int(), probs)
    bank.update(torch.tensor([3], dtype=torch.int32), features[:1].double(), labels[:1].int(), probs[:1])
    assert torch.equal(bank.features, features[[0, 1, 2, 0, 4]].half())
    assert torch.equal(bank.labels, labels[[0, 1, 2, 0, 4]])
    assert bank.search(features[1:2].half(), 1)[0].dtype == torch.float32


def test_features_are_detached():
    features, labels, probs = rows(5)
    bank = FeatureBank(12, 5, 4)
    bank.refresh(features.requires_grad_(), labels, probs)
    assert not bank.features.requires_grad
    assert not bank.search(features, 1)[0].requires_grad


def changed(position, value):
    return lambda: bank_of().refresh(*[value if i == position else t for i, t in enumerate(rows(3))])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FeatureBank(0, 5, 4), "dim must"),
        (lambda: FeatureBank(3, 5, 4, metric="cosine"), "ip, l2"),
        (lambda: FeatureBank(3, 5, 4, index="tree"), "flat, ivf, hnsw"),
        (lambda: bank_of(300, 200), "holds 200 rows, got 300"),
        (changed(0, torch.zeros(3, 5)), r"features must be \[3, 12\]"),
        (changed(0, torch.full((3, 12), float("nan"))), "features has NaN"),
        (changed(1, torch.tensor([0, 1, 4])), r"-1\.\.3"),
        (changed(1, torch.tensor([True, False, True])), "labels must be integers"),
        (changed(2, torch.full((3, 4), -0.1)), "probs has negative"),
        (changed(2, torch.full((3, 4), float("nan"))), "probs has NaN"),
        (changed(2, torch.zeros(3, 3)), r"probs must be \[3, 4\]"),
        (lambda: bank_of().search(torch.zeros(3, 5), 1), r"queries must be \[Q,12\]"),
        (lambda: bank_of().search(torch.zeros(3, 12), 0), "k must"),
        (lambda: bank_of().search(torch.full((3, 12), float("inf")), 1), "queries has NaN"),
        (lambda: bank_of().search(torch.zeros(3, 12, device="meta"), 1), "queries are on meta"),
        (lambda: bank_of().update(torch.tensor([300]), *rows(1)), r"0\.\.299"),
        (lambda: bank_of().update(torch.tensor([1.0]), *rows(1)), "rows must be int"),
        (lambda: bank_of().update(torch.tensor([True]), *rows(1)), "rows must be int"),
        (lambda: bank_of().half().refresh(1e6 * rows(3)[0], *rows(3)[1:]), "features has NaN or infinite.*float16"),
        (lambda: bank_of().half().update(torch.tensor([1]), 1e6 * rows(1)[0], *rows(1)[1:]), "features has NaN"),
        (lambda: bank_of().search(torch.full((3, 12), 1e300, dtype=torch.float64), 1), "queries has NaN"),
        (lambda: bank_of().recall(k=0), "k must"),
        (lambda: bank_of(index="ivf").recall(sample=0), "sample must"),
        (lambda: bank_of().centres(torch.full((4, 2), 300)), r"-1\.\.299, got 300\.\.300"),
        (lambda: bank_of().centres(torch.full((4, 2), -2)), r"-1\.\.299"),
        (lambda: bank_of().centres(torch.zeros(3, 2, dtype=torch.long)), r"int \[4,n\]"),
        (lambda: bank_of().centres(torch.zeros(4, 2)), r"int \[4,n\]"),
        (lambda: bank_of().top_per_class(0), "n must"),
        (lambda: bank_of().top_per_class(1, by="age"), "by 'label'"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
