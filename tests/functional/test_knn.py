import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gaze_torchrl.functional import knn, neighbor_agreement

F64 = torch.float64
METRICS = ["cosine", "euclidean"]


def similarity_by_loop(a: list[float], b: list[float], metric: str) -> float:
    if metric == "euclidean":
        return -sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    norm = math.hypot(*a) * math.hypot(*b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / norm if norm else 0.0


def check_against_loop(query, pool, k, mask, metric, block) -> None:
    similarity, index = knn(query, pool, k, mask=mask, metric=metric, block=block)
    assert similarity.shape == index.shape == (len(query), k)
    for row in range(len(query)):
        admissible = {
            n: similarity_by_loop(query[row].tolist(), pool[n].tolist(), metric)
            for n in range(len(pool))
            if mask is None or mask[row, n]
        }
        expected = sorted(admissible.values(), reverse=True)[:k]
        found = index[row, : len(expected)].tolist()
        assert similarity[row, : len(expected)].tolist() == pytest.approx(expected, abs=1e-9)
        # Ties come in any order, but each index must be admissible, distinct and as similar as told.
        assert len(set(found)) == len(found)
        assert [admissible[n] for n in found] == pytest.approx(expected, abs=1e-9)
        assert similarity[row, len(expected) :].tolist() == [-math.inf] * (k - len(expected))
        assert index[row, len(expected) :].tolist() == [-1] * (k - len(expected))


@settings(max_examples=200, deadline=None)
@given(
    queries=st.integers(0, 5),
    entries=st.integers(0, 20),
    features=st.integers(1, 4),
    k=st.integers(1, 8),
    block=st.integers(1, 25),
    admissible=st.sampled_from([None, 0.0, 0.2, 0.8]),
    metric=st.sampled_from(METRICS),
    seed=st.integers(0, 2**31),
)
def test_knn_matches_a_loop(queries, entries, features, k, block, admissible, metric, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Small integers: many ties, equal vectors and zero vectors.
    query = torch.randint(-2, 3, (queries, features), generator=generator).to(F64)
    pool = torch.randint(-2, 3, (entries, features), generator=generator).to(F64)
    mask = None if admissible is None else torch.rand(queries, entries, generator=generator) < admissible
    check_against_loop(query, pool, k, mask, metric, block)


@pytest.mark.parametrize("metric", METRICS)
def test_order_of_the_pool_does_not_matter(metric: str) -> None:
    query, pool = torch.randn(10, 6, dtype=F64), torch.randn(200, 6, dtype=F64)
    similarity, index = knn(query, pool, 7, metric=metric)
    order = torch.randperm(200)
    shuffled_similarity, shuffled_index = knn(query, pool[order], 7, metric=metric)
    torch.testing.assert_close(shuffled_similarity, similarity)
    assert torch.equal(order[shuffled_index], index)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("block", [1, 7, 64, 199, 200, 201])
def test_block_does_not_matter(metric: str, block: int) -> None:
    query, pool = torch.randn(10, 6, dtype=F64), torch.randn(200, 6, dtype=F64)
    mask = torch.rand(10, 200) < 0.5
    expected = knn(query, pool, 9, mask=mask, metric=metric)
    found = knn(query, pool, 9, mask=mask, metric=metric, block=block)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("metric", METRICS)
def test_a_query_in_the_pool_finds_itself(metric: str) -> None:
    pool = torch.randn(100, 8)
    similarity, index = knn(pool[:20], pool, 1, metric=metric)
    assert index.squeeze(-1).tolist() == list(range(20))
    best = 1.0 if metric == "cosine" else 0.0
    torch.testing.assert_close(similarity, torch.full((20, 1), best), rtol=0, atol=1e-5)
    if metric == "euclidean":
        assert (similarity <= 0).all()  # rounding must not make a distance negative


def test_float32_distances_survive_a_large_common_component() -> None:
    query, pool = torch.randn(20, 8) + 1000, torch.randn(300, 8) + 1000
    expected = -torch.cdist(query.double(), pool.double()).square()
    similarity, index = knn(query, pool, 5, metric="euclidean")
    torch.testing.assert_close(similarity.double(), expected.topk(5).values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(similarity.double(), expected.gather(1, index), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("metric", METRICS)
def test_masked_entries_may_hold_anything(metric: str) -> None:
    query, pool = torch.randn(4, 3), torch.randn(30, 3)
    mask = torch.ones(4, 30, dtype=torch.bool)
    mask[:, ::3] = False
    expected = knn(query, pool, 5, mask=mask, metric=metric, block=8)
    pool[::6], pool[3::6] = torch.nan, torch.inf
    torch.testing.assert_close(knn(query, pool, 5, mask=mask, metric=metric, block=8), expected)


def test_half_precision_pool_is_compared_in_float32() -> None:
    query, pool = torch.randn(4, 8), torch.randn(50, 8).half()
    torch.testing.assert_close(knn(query, pool, 5), knn(query, pool.float(), 5))
    assert knn(query.half(), pool, 5)[0].dtype == torch.float32


def test_no_gradient_flows() -> None:
    similarity, _ = knn(torch.randn(2, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True), 2)
    assert not similarity.requires_grad


@settings(max_examples=100, deadline=None)
@given(
    queries=st.integers(0, 5),
    entries=st.integers(0, 40),
    k=st.integers(1, 8),
    admissible=st.sampled_from([None, 0.0, 0.05, 0.3, 0.9]),
    metric=st.sampled_from(METRICS),
    ties=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_faiss_is_torch_up_to_ties(queries, entries, k, admissible, metric, ties, seed) -> None:
    pytest.importorskip("faiss")
    generator = torch.Generator().manual_seed(seed)
    query, pool = torch.randn(queries, 6, generator=generator), torch.randn(entries, 6, generator=generator)
    if ties:
        query, pool = query.round(), pool.round()
    mask = None if admissible is None else torch.rand(queries, entries, generator=generator) < admissible
    similarity, index = knn(query, pool, k, mask=mask, metric=metric)
    found, place = knn(query, pool, k, mask=mask, metric=metric, backend="faiss")
    assert found.dtype == similarity.dtype
    torch.testing.assert_close(found, similarity, atol=1e-5, rtol=1e-5)
    assert torch.equal(place < 0, index < 0)
    if not ties:
        assert torch.equal(place, index)
    for row in range(queries):
        used = place[row][place[row] >= 0]
        assert len(used.unique()) == len(used)
        assert mask is None or mask[row, used].all()


def test_faiss_looks_further_for_those_whose_mask_leaves_little() -> None:
    pytest.importorskip("faiss")
    query, pool = torch.randn(6, 4), torch.randn(500, 4)
    mask = torch.rand(6, 500) < torch.tensor([1.0, 0.5, 0.1, 0.02, 0.004, 0.0])[:, None]
    expected = knn(query, pool, 3, mask=mask)
    torch.testing.assert_close(knn(query, pool, 3, mask=mask, backend="faiss"), expected)


def test_missing_faiss_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r'pip install "gaze_torchrl\[faiss\]"'):
        knn(torch.zeros(1, 2), torch.zeros(1, 2), 1, backend="faiss")


def test_agreement_by_sets() -> None:
    a = torch.randn(30, 5)
    b = a + 0.7 * torch.randn(30, 5)

    def nearest(keys, i):
        return set(sorted(set(range(30)) - {i}, key=lambda j: -torch.cosine_similarity(keys[i], keys[j], dim=0))[:4])

    expected = sum(len(nearest(a, i) & nearest(b, i)) for i in range(30)) / (30 * 4)
    assert 0.1 < expected < 0.9
    assert neighbor_agreement(a, b, 4).item() == pytest.approx(expected)
    assert neighbor_agreement(a, 3 * a, 4) == neighbor_agreement(a, b, 29) == 1


def test_agreement_of_unrelated_descriptions_is_chance() -> None:
    assert neighbor_agreement(torch.randn(400, 8), torch.randn(400, 8), 20).item() == pytest.approx(20 / 399, rel=0.2)


def test_errors() -> None:
    query, pool = torch.zeros(2, 3), torch.zeros(5, 3)
    with pytest.raises(ValueError, match=r"query \[Q, D\] and pool \[N, D\], got \[2, 3\], \[5, 4\]"):
        knn(query, torch.zeros(5, 4), 1)
    with pytest.raises(ValueError, match=r"got \[3\], \[5, 3\]"):
        knn(query[0], pool, 1)
    with pytest.raises(ValueError, match=r"mask must be bool \[2, 5\].*got torch.bool \[5\]"):
        knn(query, pool, 1, mask=torch.ones(5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"mask must be bool \[2, 5\].*got torch.float32 \[2, 5\]"):
        knn(query, pool, 1, mask=torch.ones(2, 5))
    with pytest.raises(ValueError, match='metric must be "cosine" or "euclidean", got \'dot\''):
        knn(query, pool, 1, metric="dot")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='backend must be "torch" or "faiss", got \'annoy\''):
        knn(query, pool, 1, backend="annoy")  # type: ignore[arg-type]
    for other, k in ((pool[:4], 1), (pool, 5), (pool, 0)):
        with pytest.raises(ValueError, match=f"equal size and k below it, got 5, {len(other)} and k={k}"):
            neighbor_agreement(pool, other, k)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        knn(query, pool, 0)
    with pytest.raises(ValueError, match="block must be at least 1, got 0"):
        knn(query, pool, 1, block=0)
