"""What every registered label, normaliser, miner and key keeps, alone and in a `TripletReplay`."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from gaze_torchrl.replay import ClassConsistentMiner, ReturnToGo, TripletReplay
from tests.contract_entries import EVERY_COPY, every
from tests.contract_support import ADAPTERS, bank, build, rollout, steps


@every("labels", "normalize", "miner", "key")
@EVERY_COPY
def test_a_replay_with_it_and_its_copy_go_on_alike(entry, copied):
    parts = {"labels": ReturnToGo(), "normalize": None, "key": None} | {entry.group: build(entry)}
    parts.setdefault("miner", ClassConsistentMiner(metric=getattr(parts["key"], "metric", "cosine")))
    replay = TripletReplay(keys=parts.pop("key"), capacity=96, min_steps=2, num_triplets=8, **parts)
    replay.inv(rollout(8, 6, seed=0))
    assert len(replay.bank) == 48
    twin = copied(replay)
    found, expected = [], []
    for one, samples in ((twin, found), (replay, expected)):
        one.inv(rollout(8, 6, seed=1))
        samples += [one(TensorDict({}, [16])), one(TensorDict({}, [4, 4]))]
    assert expected[0]["triplets", "valid"].sum() == 8
    for a, b in zip(found, expected, strict=True):
        assert (a == b).all()


@every("labels")
@pytest.mark.parametrize("seed", range(5))
def test_labels_are_those_of_the_trajectory_alone(entry, seed):
    label = build(entry, seed)
    td = steps(6)
    value, known = label(td)
    assert value.shape == known.shape == td.batch_size
    assert value.is_floating_point()
    assert known.dtype == torch.bool
    assert value[known].isfinite().all()
    for trajectory in range(6):
        mine = td["trajectory"] == trajectory
        alone, alone_known = label(td[mine])
        assert torch.equal(alone_known, known[mine])
        torch.testing.assert_close(alone[alone_known], value[mine & known])


@every("normalize")
def test_unknown_labels_do_not_count_and_order_is_kept(entry):
    adapter = ADAPTERS["normalize"]
    td = adapter.inputs(None)
    td["proprio"] = torch.ones_like(td["proprio"])  # order is kept among steps in which the agent is in one state
    label, known = td["label"], td["known"]
    label[:4], known[:4] = 1.5, True  # ties
    for junk in (1e6, -torch.inf, torch.nan):
        one, other = build(entry), build(entry)
        for _ in range(2):  # nor do they enter a running state
            spoilt = td.clone().update({"label": torch.where(known, label, junk)})
            found, expected = adapter.call(one, spoilt)["label"], adapter.call(other, td)["label"]
            torch.testing.assert_close(found[known], expected[known])
    ordered = expected[known][label[known].argsort()]
    assert (ordered.diff() >= 0).all()
    assert ordered[-1] > ordered[0]
    assert (expected[:4] == expected[0]).all()


@every("miner")
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 50),
    anchors=st.integers(1, 60),
    levels=st.sampled_from([0, 1, 2, 9]),
)
@settings(deadline=None, max_examples=25)
def test_triplets_are_of_three_known_steps(entry, seed, count, anchors, levels):
    adapter, miner, td = ADAPTERS["miner"], build(entry, anchors=anchors), bank(count, seed)
    td["label"] = (td["label"] * levels).round()  # 0 makes all labels equal
    found = adapter.call(miner, td, seed)
    assert found["valid"].dtype == torch.bool
    triplets = [found[name][found["valid"]] for name in ("anchor", "positive", "negative")]
    for index in triplets:
        assert ((index >= 0) & (index < count)).all()
        assert td["known"][index].all()
    for one, other in itertools.combinations(triplets, 2):
        assert (one != other).all()
    if "anchors" in entry.parameters:
        assert len(found["valid"]) <= anchors


@every("miner")
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_rows_does_not_matter(entry, seed):
    """To the roles that are not drawn at random: those that are equal whatever the generator."""
    td, miner = bank(80, seed), build(entry)
    first, *again = (chosen(miner, td, draw) for draw in range(4))
    assert first
    order = torch.randperm(80)
    permuted = {int(order[a]): order[torch.tensor(roles)].tolist() for a, roles in chosen(miner, td[order], 0).items()}
    for role in range(2):
        mine, *others = ({a: roles[role] for a, roles in one.items()} for one in (first, *again))
        if all(other == mine for other in others):
            assert {a: roles[role] for a, roles in permuted.items()} == mine


def chosen(miner, td, seed):
    """Positive and negative of each anchor."""
    found = ADAPTERS["miner"].call(miner, td, seed)
    triplets = torch.stack([found[name] for name in ("anchor", "positive", "negative")], -1)[found["valid"]].tolist()
    return {anchor: roles for anchor, *roles in triplets}
