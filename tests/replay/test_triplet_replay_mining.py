"""When the transform mines, by which labels and keys, and what becomes of triplets whose steps are overwritten."""

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from gaze_torchrl.replay import (
    AnchorRelativeMiner,
    EpisodeReturn,
    FullKeys,
    JointKeys,
    ProjectedKeys,
    ProprioKeys,
    QuantileMiner,
    RandomMiner,
    RankNormalize,
    ResidualNormalize,
    ShuffledReturnsMiner,
    Success,
    Triplets,
    ValueTarget,
)
from tests.replay.support import MEMBERS, data, replay, stream


def test_value_target_reads_what_gae_wrote():
    source = data().set(("next", "state_value"), torch.full((64, 1), 5.0))
    source["next", "done"].fill_(False)
    source["next", "terminated"].fill_(False)
    buffer, transform = replay(ValueTarget(0.5, 0.9))
    buffer.extend(source)
    label, known = transform.labelled()
    assert known.all()
    torch.testing.assert_close(label, source["next", "reward"].squeeze(-1) + 2.5)


def test_success_labels_from_the_column():
    source = data()
    source["next", "success"] = torch.rand(64, 1) < 0.3
    buffer, transform = replay(Success())
    buffer.extend(source)
    label, known = transform.labelled()
    assert known.all()
    assert torch.equal(label, source["next", "success"].squeeze(-1).float())
    with pytest.raises(KeyError, match=r"labels=success needs \('next', 'success'\)"):
        replay(Success())[0].extend(data())


@pytest.mark.parametrize("steps", [1, 3, 8])
@pytest.mark.parametrize("mine_every", [1, 7, 16, 40])
def test_mines_when_enough_new_steps_have_come(steps, mine_every):
    minings = []

    class Counting(RandomMiner):
        def __call__(self, *arguments):
            minings.append(transform.bank.written)
            return super().__call__(*arguments)

    _, transform = replay(EpisodeReturn(), Counting(), capacity=64, min_steps=20, mine_every=mine_every)
    expected, last = [], 0
    for batch in range(20):
        transform.inv(stream(steps, length=4, first=steps * batch))
        written = 2 * steps * (batch + 1)
        if min(written, 64) >= 20 and written - last >= mine_every:
            expected.append(written)
            last = written
    assert minings == expected != []


def test_no_triplet_is_served_of_a_step_that_was_overwritten():
    """The ring turns several times between two minings: what is served is what was mined, or nothing."""

    class Any(RandomMiner):
        def __call__(self, *arguments):
            return Triplets(*super().__call__(*arguments))  # of the labels that it was given

    _, transform = replay(EpisodeReturn(), Any(40), capacity=40, mine_every=100, members=["time"], num_triplets=16)
    value = {}
    served = []
    for batch in range(40):
        rows = stream(4, length=4, first=4 * batch)
        transform.inv(rows)
        for lane in (0, 1):
            value.update(
                {t: sum(range(t - t % 4, t - t % 4 + 4)) for t in range(1000 * lane, 1000 * lane + 4 * batch + 4)}
            )
        triplets = transform(TensorDict({}, [16]))["triplets"]
        oldest = 4 * (batch + 1) - 20
        for row in triplets[triplets["valid"]].unbind(0):
            for name in MEMBERS:
                time = int(row[name, "time"])
                assert row[name, "label"] == value[time]
                assert time % 1000 >= oldest
        served.append(int(triplets["valid"].sum()))
    assert {0, 16} == set(served)
    assert served.count(16) > 5


def test_an_episode_whose_beginning_is_overwritten_has_no_known_return():
    _, transform = replay(EpisodeReturn(), capacity=20)
    for batch in range(10):
        transform.inv(stream(3, length=8, lanes=1, first=3 * batch))
        rows = transform.bank.rows
        label, known = transform.labelled()
        now = 3 * (batch + 1)
        for t, is_known, value in zip(rows["reward"].tolist(), known.tolist(), label.tolist(), strict=True):
            begin = int(t) // 8 * 8
            assert is_known == (begin + 8 <= now and begin >= now - 20)
            if is_known:
                assert value == sum(range(begin, begin + 8))
        assert torch.equal(rows["step"].float(), rows["reward"] % 8)


def test_normalised_labels_reach_the_miner_and_the_sample():
    """A margin of ranks: the same triplets whatever the rewards' scale."""
    mined = []
    for scale in (1.0, 1000.0):
        source = data()
        source["next", "reward"].mul_(scale)
        buffer, transform = replay(miner=AnchorRelativeMiner(margin=0.2), normalize=RankNormalize())
        buffer.extend(source)
        triplets = buffer.sample()["triplets"]
        label = torch.stack([triplets[name, "label"] for name in MEMBERS])[:, triplets["valid"]]
        assert (label[1] - label[0] >= 0.2).all()
        assert (label[0] - label[2] >= 0.2).all()
        assert 0 < label.min() < label.max() < 1
        mined.append(transform.mined)
    assert torch.equal(mined[0]["number"], mined[1]["number"])
    torch.testing.assert_close(mined[0]["label"], mined[1]["label"])


@pytest.mark.parametrize("keys", [None, ProprioKeys(2)])
def test_labels_lose_what_the_state_of_the_agent_explains(keys):
    """Rewards that are a bowl over the agent's place and a bit: the bit alone tells positives from negatives."""
    place, bit = torch.rand(8, 8, 2), torch.arange(64).reshape(8, 8, 1) % 2
    source = data(lanes=8).set(("agent", "place"), place)
    source["next", "reward"] = 9 - 5 * place.square().sum(-1, keepdim=True) + bit
    source["next", "done"].fill_(True)
    source["next", "terminated"].fill_(True)
    columns, normalize = {"proprio": ("agent", "place")}, ResidualNormalize(2, ridge=1e-6)
    miner = QuantileMiner(metric=getattr(keys, "metric", "cosine"))
    buffer, transform = replay(miner=miner, keys=keys, normalize=normalize, columns=columns)
    buffer.extend(source)
    number, label = transform.mined["number"], transform.mined["label"]
    assert len(number) > 0
    anchor, positive, negative = (number % 2).unbind(1)
    assert (anchor == positive).all()
    assert (anchor != negative).all()
    buffer, as_they_are = replay(miner=miner, keys=keys, columns=columns)
    buffer.extend(source)
    assert (as_they_are.mined["number"][:, :2] % 2).diff().any(), "the bowl is what the returns tell as they came"
    known = torch.ones(64, dtype=torch.bool)
    expected = normalize(source["next", "reward"].flatten(), known, place.flatten(0, 1))
    torch.testing.assert_close(label, expected[number])
    with pytest.raises(KeyError, match=r"found no \('agent', 'place'\) in the data"):
        replay(normalize=normalize, columns=columns)[0].extend(data())
    with pytest.raises(ValueError, match="The proprioception is not finite"):
        replay(miner=miner, keys=keys, normalize=normalize, columns=columns)[0].extend(
            source.set(("agent", "place"), torch.full_like(place, torch.nan))
        )
    normalize.reads = "success"
    with pytest.raises(ValueError, match="may read 'proprio', ResidualNormalize reads 'success'"):
        replay(normalize=normalize)


@pytest.mark.parametrize("keys", [None, FullKeys(), ProjectedKeys(4, (8, 8), dim=16)])
def test_keys_decide_what_is_compared(keys):
    buffer, transform = replay(keys=keys)
    source = data()
    buffer.extend(source)
    expected = transform.keys(source["features"])
    assert torch.equal(transform.bank.rows["key"], expected)
    assert expected.shape[1] == (64 if keys is None else 256 if isinstance(keys, FullKeys) else 16)


def test_steps_can_be_compared_by_what_the_agent_feels():
    by_distance = QuantileMiner(metric="euclidean")
    buffer, transform = replay(miner=by_distance, keys=ProprioKeys(3), columns={"proprio": ("agent", "joints")})
    source = data(lanes=4).set(("agent", "joints"), torch.rand(4, 16, 3))
    buffer.extend(source)
    assert torch.equal(transform.bank.rows["key"], source["agent", "joints"].flatten(0, 1))
    with pytest.raises(
        KeyError, match=r"found no \('agent', 'joints'\) in the data: ProprioKeys, JointKeys and ResidualNormalize"
    ):
        buffer.extend(data())


def test_steps_can_be_compared_by_both():
    keys = JointKeys(4, (8, 8), 3, dim=8)
    buffer, transform = replay(
        miner=QuantileMiner(metric="euclidean"), keys=keys, columns={"proprio": ("agent", "joints")}
    )
    source = data(lanes=4).set(("agent", "joints"), torch.rand(4, 16, 3))
    buffer.extend(source)
    expected = keys(source["features"].flatten(0, 1), source["agent", "joints"].flatten(0, 1))
    assert torch.equal(transform.bank.rows["key"], expected)


@pytest.mark.parametrize(
    ("keys", "metric", "wanted"), [(None, "euclidean", "cosine"), (ProprioKeys(3), "cosine", "euclidean")]
)
def test_a_miner_that_compares_keys_by_another_metric_is_refused(keys, metric, wanted):
    with pytest.raises(
        ValueError, match=rf"compares by {metric}, .* want {wanted}: QuantileMiner\(metric='{wanted}'\)"
    ):
        replay(keys=keys, miner=QuantileMiner(metric=metric))


def test_keys_that_learn_leave_no_graph_in_the_bank():
    keys = nn.Sequential(nn.Flatten(), nn.Linear(256, 8))
    buffer, transform = replay(keys=keys)
    buffer.extend(data())
    assert not transform.bank.rows["key"].requires_grad


def test_statistics_of_the_last_mining():
    buffer, transform = replay()
    nothing = dict.fromkeys(("mined_triplets", "neighbor_similarity", "known_labels", "label_std"), 0)
    assert transform.statistics() == nothing
    source = data()
    source["next", "done"][:16] = False
    source["next", "terminated"][:16] = False
    buffer.extend(source)
    facts = {name: value.item() for name, value in transform.statistics().items()}
    reward = source["next", "reward"][16:, 0]
    assert facts["mined_triplets"] == len(transform.mined) > 0
    assert facts["known_labels"] == 0.75
    key, capacity = transform.bank.rows["key"].double(), transform.bank.capacity
    key = key - key.mean(0)
    alike = [
        torch.cosine_similarity(key[anchor % capacity], key[other % capacity], 0).item()
        for anchor, *others in transform.mined["number"].tolist()
        for other in others
    ]
    assert facts["neighbor_similarity"] == pytest.approx(sum(alike) / len(alike), rel=1e-4)
    assert facts["label_std"] == pytest.approx(reward.std(correction=0).item(), rel=1e-5)
    source["next", "done"].fill_(False)
    other, transform = replay()
    other.extend(source)
    assert transform.statistics() == nothing


@pytest.mark.parametrize(
    ("miner", "tells"), [(QuantileMiner(), True), (ShuffledReturnsMiner(), False), (RandomMiner(), False)]
)
def test_controls_hand_no_true_return_on(miner, tells):
    """Losses that read labels, such as InfoNCE, see those that the miner went by."""
    buffer, transform = replay(miner=miner)
    buffer.extend(data(steps=256))
    true, known = transform.labelled()
    members, handed = true[transform.bank.row(transform.mined["number"])].flatten(), transform.mined["label"].flatten()
    assert len(handed) > 100
    assert torch.isin(handed, true[known]).all(), "labels of the bank, if of other steps"
    assert (torch.corrcoef(torch.stack([members, handed]))[0, 1] > 0.99).item() == tells
    assert tells or torch.corrcoef(torch.stack([members, handed]))[0, 1].abs() < 0.3
