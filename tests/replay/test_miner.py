"""Every miner against a search by loops, and what must hold of every triplet."""

import copy
import pickle
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from gaze_torchrl import registry
from gaze_torchrl.replay import (
    AnchorRelativeMiner,
    ClassConsistentMiner,
    NeighborMiner,
    QuantileMiner,
    RandomMiner,
    ShuffledReturnsMiner,
    ThresholdMiner,
    Triplets,
    VisualMiner,
)

RULES = [QuantileMiner, ClassConsistentMiner, ThresholdMiner, AnchorRelativeMiner, VisualMiner]
CHOICES = ["nearest", "hard", "semi_hard"]
EVERYTHING = {"anchors": 100, "pool": 100}
# Off the multiples of 1 / n, where rounding would decide.
OPTIONS = {VisualMiner: {"gap": 0.41}}


def data(seed, n=40, dim=5, episodes=6):
    """Keys, labels, known, episode, step: several episodes of interleaved steps."""
    generator = torch.Generator().manual_seed(seed)
    episode = torch.randint(episodes, (n,), generator=generator)
    step = torch.stack([(episode[:i] == episode[i]).sum() for i in range(n)])
    return (
        torch.randn(n, dim, generator=generator),
        torch.randn(n, generator=generator),
        torch.rand(n, generator=generator) < 0.8,
        episode,
        step,
    )


def quantile(values, q):
    """By linear interpolation between the sorted values."""
    values = sorted(values)
    place = q * (len(values) - 1)
    low = int(place)
    return values[low] + (place - low) * (values[min(low + 1, len(values) - 1)] - values[low])


def roles(miner, labels, known):
    """The steps that take part, and a function (anchor, other) -> (may be positive, may be negative)."""
    labels, usable = labels.tolist(), [i for i in range(len(labels)) if known[i]]
    values = [labels[i] for i in usable]
    if isinstance(miner, QuantileMiner):
        low, high = quantile(values, miner.low), quantile(values, miner.high)
        top = [i for i in usable if labels[i] > high] or [i for i in usable if labels[i] == max(values)]
        bottom = [i for i in usable if labels[i] < low] or [i for i in usable if labels[i] == min(values)]
        part = [] if max(values) == min(values) else top + bottom
        return part, lambda a, i: ((a in top) == (i in top), (a in top) != (i in top))
    if isinstance(miner, AnchorRelativeMiner):
        return usable, lambda a, i: (labels[i] - labels[a] >= miner.margin, labels[a] - labels[i] >= miner.margin)
    if isinstance(miner, VisualMiner):

        def rank(i):
            return sum((v < labels[i]) + 0.5 * (v == labels[i]) for v in values) / len(values)

        return usable, lambda a, i: (abs(rank(a) - rank(i)) >= miner.gap, False)
    split = quantile(values, miner.quantile)
    above = {i for i in usable if labels[i] > split} or {i for i in usable if labels[i] >= split}
    if isinstance(miner, ThresholdMiner):
        return usable, lambda a, i: (i in above, i not in above)
    return usable, lambda a, i: ((a in above) == (i in above), (a in above) != (i in above))


def brute_force(miner, keys, labels, known, episode, step):
    """Triplets {anchor: (positives to choose from, negatives to choose from)}, the chosen ones where not random."""
    part, role = roles(miner, labels, known)
    keys = keys.double() - keys[part].double().mean(0)
    if miner.metric == "euclidean":
        keys = keys / keys[part].std(0, correction=0)
        similar = (-torch.cdist(keys, keys)).tolist()
    else:
        similar = F.normalize(keys, dim=-1)
        similar = (similar @ similar.T).tolist()
    found = {}
    for a in part:
        near = miner.exclude if isinstance(miner.exclude, int) else float("inf")
        others = [i for i in part if i != a and not (episode[i] == episode[a] and abs(int(step[i] - step[a])) < near)]
        nearest = sorted(others, key=lambda i: -similar[a][i])[: miner.neighbors]
        positives = [i for i in nearest if role(a, i)[0]]
        negatives = [i for i in nearest if role(a, i)[1]]
        if miner.choice != "random":
            positives = positives[-1:] if miner.choice == "hard" else positives[:1]
            if miner.choice == "semi_hard" and positives:
                negatives = [i for i in negatives if similar[a][i] < similar[a][positives[0]]]
            negatives = negatives[:1]
        if isinstance(miner, VisualMiner):
            negatives = [i for i in others if i not in nearest]
        if positives and negatives:
            found[a] = (positives, negatives)
    return found


def rows(found: Triplets) -> dict[int, tuple[int, int]]:
    return {int(a): (int(p), int(n)) for a, p, n, v in zip(*found, strict=True) if v}


def check(miner, *given_data, seed=0):
    found = rows(miner(*given_data, torch.Generator().manual_seed(seed)))
    expected = brute_force(miner, *given_data)
    assert found.keys() == expected.keys()
    for anchor, (positive, negative) in found.items():
        assert positive in expected[anchor][0]
        assert negative in expected[anchor][1]
    return found, expected


@pytest.mark.parametrize("exclude", ["episode", 0, 3])
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_equals_brute_force(rule, choice, exclude, metric):
    mined, options = 0, {**EVERYTHING, **OPTIONS.get(rule, {}), "choice": choice, "exclude": exclude, "metric": metric}
    for seed, neighbors in enumerate([1, 3, 8, 20, 100]):
        keys, *others = data(seed)
        mined += len(check(rule(**options, neighbors=neighbors), keys * torch.logspace(-2, 2, 5), *others)[0])
    assert mined > 10


def test_distances_do_not_depend_on_units_and_a_number_that_never_changes_does_not_count():
    keys, *others = data(0)
    miner = QuantileMiner(**EVERYTHING, metric="euclidean")
    expected = miner(keys, *others, torch.Generator().manual_seed(0))
    scaled = torch.cat([keys * torch.logspace(-3, 3, 5) + 7, torch.ones(40, 1)], -1)
    for found, one in zip(miner(scaled, *others, torch.Generator().manual_seed(0)), expected, strict=True):
        assert torch.equal(found, one)


@pytest.mark.parametrize("rule", RULES)
def test_random_choice_takes_each_that_fits(rule):
    miner = rule(**EVERYTHING, **OPTIONS.get(rule, {}), neighbors=8, choice="random")
    taken: dict[int, tuple[set, set]] = {}
    for seed in range(60):
        found, expected = check(miner, *data(1, n=24), seed=seed)
        for anchor, members in found.items():
            for seen, member in zip(taken.setdefault(anchor, (set(), set())), members, strict=True):
                seen.add(member)
    assert taken
    assert taken == {anchor: tuple(map(set, members)) for anchor, members in expected.items()}


@settings(deadline=None, max_examples=100)
@given(
    rule=st.sampled_from([*RULES, ShuffledReturnsMiner]),
    choice=st.sampled_from([*CHOICES, "random"]),
    exclude=st.sampled_from(["episode", 0, 1, 4]),
    seed=st.integers(0, 2**31),
    n=st.integers(1, 50),
    anchors=st.integers(1, 60),
    pool=st.integers(1, 60),
    neighbors=st.integers(1, 60),
    ties=st.booleans(),
)
def test_invariants(rule, choice, exclude, seed, n, anchors, pool, neighbors, ties):
    keys, labels, known, episode, step = data(seed, n=n)
    labels = labels.round() if ties else labels
    miner = rule(min(anchors, pool), pool, neighbors, exclude, choice)
    found = miner(keys, labels, known, episode, step, torch.Generator().manual_seed(seed))
    assert len(found.anchor) <= min(anchors, pool)
    assert all((index[~found.valid] == 0).all() for index in found[:3])
    anchor, positive, negative = (index[found.valid] for index in found[:3])
    assert len(anchor.unique()) == len(anchor)
    for member in (anchor, positive, negative):
        assert known[member].all()
    for a, b in ((anchor, positive), (anchor, negative), (positive, negative)):
        assert (a != b).all()
    for other in (positive, negative):
        same = episode[anchor] == episode[other]
        if exclude == "episode":
            assert not same.any()
        else:
            assert ((step[anchor] - step[other]).abs() >= exclude)[same].all()


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("rule", RULES)
def test_permutation_of_the_bank_permutes_the_triplets(rule, choice):
    miner = rule(**EVERYTHING, neighbors=12, choice=choice)
    given_data = data(0)
    order = torch.randperm(40)
    whole = rows(miner(*given_data))
    permuted = rows(miner(*(column[order] for column in given_data)))
    back = {int(order[a]): (int(order[p]), int(order[n])) for a, (p, n) in permuted.items()}
    if rule is VisualMiner:  # its negatives are random
        whole, back = ({a: p for a, (p, _) in found.items()} for found in (whole, back))
    assert back == whole != {}


@pytest.mark.parametrize("rule", [*RULES, ShuffledReturnsMiner])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_labels_give_no_triplet(rule, value):
    keys, labels, _, episode, step = data(0)
    found = rule()(keys, torch.full_like(labels, value), torch.ones(40, dtype=torch.bool), episode, step)
    assert not found.valid.any()


@pytest.mark.parametrize("rule", [*RULES, ShuffledReturnsMiner, RandomMiner])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_known_labels_give_no_triplet(rule, count):
    keys, labels, _, episode, step = data(0)
    found = rule()(keys, labels, torch.arange(40) < count, episode, step)
    assert not found.valid.any()


@pytest.mark.parametrize("share", [0.05, 0.2, 0.3, 0.5, 0.7, 0.8, 0.95])
@pytest.mark.parametrize("rule", RULES)
def test_success_labels_are_split_whatever_the_rate(rule, share):
    keys, _, known, episode, step = data(0)
    labels = (torch.arange(40) < 40 * share).float()
    assert known[:2].all()  # the only successes at the lowest rate
    # Visual negatives lie outside the neighbours.
    mined, _ = check(
        rule(**EVERYTHING, neighbors=20 if rule is VisualMiner else 40), keys, labels, known, episode, step
    )
    if rule is AnchorRelativeMiner:  # nothing lies beyond either of the two values
        assert not mined
        return
    assert len(mined) > 1
    for anchor, (positive, negative) in mined.items():
        assert labels[positive] != labels[negative] or rule is VisualMiner  # whose negatives are of any label
        assert labels[positive] == 1 if rule is ThresholdMiner else True
        assert labels[positive] != labels[anchor] if rule is VisualMiner else True


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_the_shuffled_control_splits_success_labels_too(share):
    keys, _, known, episode, step = data(0)
    labels = (torch.arange(40) < 40 * share).float()
    for seed in range(5):
        found = ShuffledReturnsMiner(**EVERYTHING, neighbors=40)(
            keys, labels, known, episode, step, torch.Generator().manual_seed(seed)
        )
        assert found.valid.any()


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    values=st.integers(1, 4),
    # Off the multiples of 1 / n, where rounding would decide.
    low=st.sampled_from([0.101, 0.303, 0.497]),
    high=st.sampled_from([0.503, 0.697, 0.899]),
)
def test_quantile_classes_of_few_values(seed, values, low, high):
    keys, _, known, episode, step = data(seed, n=30)
    labels = torch.randint(values, (30,), generator=torch.Generator().manual_seed(seed)).float()
    check(QuantileMiner(**EVERYTHING, neighbors=30, low=low, high=high), keys, labels, known, episode, step)


@pytest.mark.parametrize("rule", RULES)
def test_the_generator_decides(rule):
    given_data = data(0, n=200)
    miner = rule(anchors=10, pool=50)
    first, again, other = (miner(*given_data, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first.anchor, other.anchor)


@pytest.mark.parametrize("rule", RULES)
def test_faiss_finds_the_same(rule):
    pytest.importorskip("faiss")
    for seed, neighbors in enumerate([2, 10, 40]):
        given_data = data(seed, n=80)
        one, two = (
            rule(anchors=50, pool=70, neighbors=neighbors, exclude=3, backend=backend) for backend in ("torch", "faiss")
        )
        found, again = (miner(*given_data, torch.Generator().manual_seed(0)) for miner in (one, two))
        assert found.valid.any()
        assert all(map(torch.equal, found, again))


def test_random_control_draws_every_triple_alike():
    known = torch.tensor([True, True, False, True, True])
    index = torch.arange(5)
    counts: dict[tuple, int] = {}
    generator = torch.Generator().manual_seed(0)
    for _ in range(1500):
        found = RandomMiner()(torch.ones(5, 2), torch.ones(5), known, index, index, generator)
        assert found.valid.all()
        assert sorted(found.anchor.tolist()) == [0, 1, 3, 4]
        for triple in torch.stack(found[:3], -1).tolist():
            counts[tuple(triple)] = counts.get(tuple(triple), 0) + 1
    assert len(counts) == 4 * 3 * 2
    assert all(len(set(triple)) == 3 for triple in counts)
    assert max(counts.values()) < 1.35 * min(counts.values())  # 250 each, five standard deviations
    assert len(RandomMiner(anchors=2)(torch.ones(5, 2), torch.ones(5), known, index, index).anchor) == 2


def test_shuffled_control_deals_the_known_labels_out_anew():
    keys, labels, known, episode, step = data(0)
    seen = {}

    class Spy(ShuffledReturnsMiner):
        def score(self, labels, known):
            seen["labels"] = labels
            return super().score(labels, known)

    Spy(**EVERYTHING)(keys, labels, known, episode, step, torch.Generator().manual_seed(0))
    assert torch.equal(seen["labels"][~known], labels[~known])
    assert torch.equal(seen["labels"][known].sort().values, labels[known].sort().values)
    assert not torch.equal(seen["labels"], labels)


def test_shuffled_control_has_no_outcome_left():
    """The positive's true label tells nothing of the anchor's, unlike under the rule itself."""
    keys, labels, known, episode, step = data(0, n=400, episodes=100)
    agreement = {}
    for rule in (QuantileMiner, ShuffledReturnsMiner):
        found = rule(anchors=400, neighbors=50)(keys, labels, known, episode, step, torch.Generator().manual_seed(0))
        side = labels > labels[known].median()
        anchor, positive = found.anchor[found.valid], found.positive[found.valid]
        agreement[rule] = (side[anchor] == side[positive]).float().mean().item()
    assert agreement[QuantileMiner] == 1
    assert 0.35 < agreement[ShuffledReturnsMiner] < 0.65


@pytest.mark.parametrize("entry", list(registry.entries("miner")), ids=lambda entry: entry.name)
def test_copies_mine_the_same(entry):
    miner = entry.target(**entry.options)
    given_data = data(0)
    expected = miner(*given_data, torch.Generator().manual_seed(0))
    for twin in (copy.deepcopy(miner), pickle.loads(pickle.dumps(miner))):
        assert all(
            a is b is None or torch.equal(a, b)
            for a, b in zip(twin(*given_data, torch.Generator().manual_seed(0)), expected, strict=True)
        )


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: QuantileMiner(anchors=0), r"miner\.anchors must be at least 1, got 0"),
        (lambda: VisualMiner(pool=0), r"miner\.pool must be at least 1, got 0"),
        (lambda: ThresholdMiner(neighbors=0), r"miner\.neighbors must be at least 1, got 0"),
        (lambda: RandomMiner(anchors=0), r"miner\.anchors must be at least 1, got 0"),
        (lambda: QuantileMiner(low=0.8), r"low=0\.8, high=0\.7"),
        (
            lambda: QuantileMiner(exclude="lane"),
            r"miner\.exclude must be 'episode' or a number of steps >= 0, got 'lane'",
        ),
        (lambda: QuantileMiner(exclude=-1), r"miner\.exclude .* got -1"),
        (lambda: QuantileMiner(exclude=True), r"miner\.exclude must be 'episode' or a number of steps .* got True"),
        (lambda: QuantileMiner(anchors=65, pool=64), r"miner\.anchors must be at most miner\.pool = 64, .* got 65"),
        (lambda: QuantileMiner(anchors=float("nan")), r"miner\.anchors must be at least 1, got nan"),
        (lambda: QuantileMiner(choice="easy"), r"miner\.choice must be .* got 'easy'"),
        (lambda: QuantileMiner(backend="annoy"), r"miner\.backend must be 'torch' or 'faiss', got 'annoy'"),
        (lambda: ThresholdMiner(quantile=1.0), r"miner\.quantile must lie between 0 and 1, got 1\.0"),
        (lambda: AnchorRelativeMiner(margin=0.0), r"miner\.margin must be positive, got 0\.0"),
        (lambda: VisualMiner(gap=1.0), r"miner\.gap must lie between 0 and 1, got 1\.0"),
    ],
)
def test_bad_options(build, match):
    with pytest.raises(ValueError, match=match):
        build()


def test_the_family_says_what_a_rule_must_define():
    with pytest.raises(NotImplementedError):
        NeighborMiner()(*data(0))


def test_missing_faiss_is_noticed_before_anything_is_collected(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r'pip install "gaze_torchrl\[faiss\]"'):
        QuantileMiner(backend="faiss")
