"""The miner against a brute-force search, and what must hold of every triplet."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gaze_torchrl.replay import QuantileMiner


def brute_force(keys, labels, known, episode, miner):
    """Triplets {anchor: (positive, negative)} by loops over all pairs."""
    usable = sorted(labels[known].tolist())
    low, high = (torch.quantile(torch.tensor(usable), q).item() for q in (miner.low, miner.high))
    group = {}
    for i in range(len(keys)):
        if known[i] and labels[i] > high:
            group[i] = 1
        elif known[i] and labels[i] < low:
            group[i] = 0
    found = {}
    for a in group:
        others = [i for i in group if i != a and not (miner.other_episodes and episode[i] == episode[a])]
        cosine = {i: torch.cosine_similarity(keys[a], keys[i], dim=0).item() for i in others}
        nearest = sorted(others, key=lambda i: -cosine[i])[: miner.neighbors]
        positive = next((i for i in nearest if group[i] == group[a]), None)
        negative = next((i for i in nearest if group[i] != group[a]), None)
        if positive is not None and negative is not None:
            found[a] = (positive, negative)
    return found


def data(seed, n=40, dim=5, episodes=6):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, dim, generator=generator),
        torch.randn(n, generator=generator),
        torch.rand(n, generator=generator) < 0.8,
        torch.randint(episodes, (n,), generator=generator),
    )


@pytest.mark.parametrize("other_episodes", [True, False])
@pytest.mark.parametrize("neighbors", [1, 3, 8, 100])
@pytest.mark.parametrize("seed", range(5))
def test_equals_brute_force(seed, neighbors, other_episodes):
    miner = QuantileMiner(anchors=100, pool=100, neighbors=neighbors, other_episodes=other_episodes)
    keys, labels, known, episode = data(seed)
    found = miner(keys, labels, known, episode)
    triplets = {int(a): (int(p), int(n)) for a, p, n, v in zip(*found, strict=True) if v}
    assert triplets == brute_force(keys, labels, known, episode, miner)


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 50),
    anchors=st.integers(1, 60),
    pool=st.integers(1, 60),
    neighbors=st.integers(1, 60),
    ties=st.booleans(),
)
def test_invariants(seed, n, anchors, pool, neighbors, ties):
    keys, labels, known, episode = data(seed, n=n)
    labels = labels.round() if ties else labels
    miner = QuantileMiner(anchors, pool, neighbors)
    anchor, positive, negative, valid = miner(keys, labels, known, episode, torch.Generator().manual_seed(seed))
    assert len(anchor) <= min(anchors, pool)
    assert len(anchor.unique()) == len(anchor) or not valid.all()
    anchor, positive, negative = anchor[valid], positive[valid], negative[valid]
    for member in (anchor, positive, negative):
        assert known[member].all()
    assert (anchor != positive).all()
    assert (episode[anchor] != episode[positive]).all()
    assert (episode[anchor] != episode[negative]).all()
    if len(anchor):
        low, high = torch.quantile(labels[known], torch.tensor([0.3, 0.7]))
        is_high = labels > high
        assert (is_high | (labels < low))[torch.cat([anchor, positive, negative])].all()
        assert (is_high[anchor] == is_high[positive]).all()
        assert (is_high[anchor] != is_high[negative]).all()


def test_permutation_of_the_bank_permutes_the_triplets():
    miner = QuantileMiner(anchors=100, pool=100)
    keys, labels, known, episode = data(0)
    order = torch.randperm(len(keys))
    whole = miner(keys, labels, known, episode)
    permuted = miner(keys[order], labels[order], known[order], episode[order])

    def triples(found, name):
        return {
            tuple(name(int(i)) for i in row)
            for row, v in zip(torch.stack(found[:3], -1), found.valid, strict=False)
            if v
        }

    assert triples(whole, lambda i: i) == triples(permuted, lambda i: int(order[i]))


@pytest.mark.parametrize(
    "labels", [torch.ones(20), torch.zeros(20), torch.cat([torch.zeros(19), torch.ones(1)])], ids=["1", "0", "one high"]
)
def test_labels_without_spread_give_no_triplet(labels):
    found = QuantileMiner()(torch.randn(20, 3), labels, torch.ones(20, dtype=torch.bool), torch.arange(20))
    assert not found.valid.any()


def test_nothing_known_gives_no_triplet():
    found = QuantileMiner()(torch.randn(20, 3), torch.randn(20), torch.zeros(20, dtype=torch.bool), torch.arange(20))
    assert len(found.valid) == 0


def test_the_generator_decides():
    keys, labels, known, episode = data(0, n=200)
    miner = QuantileMiner(anchors=10, pool=50)
    first, again, other = (
        miner(keys, labels, known, episode, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.anchor, again.anchor)
    assert not torch.equal(first.anchor, other.anchor)


@pytest.mark.parametrize("name", ["anchors", "pool", "neighbors"])
def test_bad_counts(name):
    with pytest.raises(ValueError, match=rf"miner\.{name} must be at least 1, got 0"):
        QuantileMiner(**{name: 0})


def test_bad_quantiles():
    with pytest.raises(ValueError, match=r"low=0\.8, high=0\.7"):
        QuantileMiner(low=0.8)
