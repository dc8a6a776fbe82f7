"""Actor and critic: what they read and write, where they start, and what they refuse."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictSequential
from torchrl.data import Binary, Bounded, Categorical, MultiCategorical, MultiOneHot, OneHot, Unbounded
from torchrl.envs.utils import ExplorationType, set_exploration_type

from gaze_torchrl.modules import (
    FineCNN,
    FlattenReadout,
    GazeModule,
    NoGaze,
    Trunk,
    gaze_actor,
    qvalue_head,
    value_head,
)


def build(spec, **options):
    readout = FlattenReadout(8, (8, 8), proprio_dim=3, hidden=16)
    actor = gaze_actor(FineCNN((4, 8)), GazeModule(NoGaze(8, (8, 8))), readout, spec, hidden=16, **options)
    return actor, value_head(readout, hidden=16)


def observation(n=5):
    return TensorDict(
        {"pixels": torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8), "proprio": torch.randn(n, 3)}, [n]
    )


def test_critic_reads_what_the_actor_wrote():
    actor, critic = build(Bounded(-1, 1, (2,)))
    td = critic(actor(observation()))
    assert td["action"].shape == (5, 2)
    assert td["action_log_prob"].shape == (5,)
    assert td["state_value"].shape == (5, 1)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 10.0)])
def test_starts_in_the_middle_of_the_action_range(low, high):
    actor, _ = build(Bounded(low, high, (2,)), initial_log_std=-1.0)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        td = actor(observation())
    torch.testing.assert_close(td["action"], torch.full((5, 2), (low + high) / 2), atol=0.1, rtol=0)
    torch.testing.assert_close(td["scale"], torch.full((5, 2), -1.0).exp())


@pytest.mark.parametrize("spec", [OneHot(4), Categorical(4)], ids=["one-hot", "index"])
def test_discrete_actions(spec):
    actor, _ = build(spec)
    td = actor(observation())
    assert spec.is_in(td["action"][0].to(spec.dtype))
    values = qvalue_head(actor[0].readout, spec, hidden=16)(td)["action_value"]
    assert values.shape == (5, 4)


@pytest.mark.parametrize("policy", ["normal", "tanh_normal", "deterministic"])
def test_continuous_policies(policy):
    spec = Bounded(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 5.0]), (2,))
    actor, _ = build(spec, policy=policy)
    td = actor(observation(200))
    assert td["action"].shape == (200, 2)
    assert ("action_log_prob" in td) == (policy != "deterministic")
    if policy != "normal":
        assert spec.is_in(td["action"][0])
        assert ((td["action"] >= spec.space.low) & (td["action"] <= spec.space.high)).all()
    assert qvalue_head(actor[0].readout, spec, hidden=16)(td)["state_action_value"].shape == (200, 1)


def test_trunk_knows_its_parts():
    trunk = build(Bounded(-1, 1, (2,)))[0][0]
    assert isinstance(trunk, Trunk)
    assert (trunk.encoder, trunk.gaze, trunk.readout) == tuple(trunk.module)
    td = trunk(observation())
    assert td["embedding"].shape == (5, trunk.readout.out_features)


@pytest.mark.parametrize("pixels", ["rgb", ("agent", "rgb")])
def test_parts_of_a_trunk_are_plain_sequences(pixels):
    trunk = build(Bounded(-1, 1, (2,)), pixels=pixels)[0][0]
    td = TensorDict({pixels: observation()["pixels"], "proprio": torch.randn(5, 3)}, [5])
    assert trunk[1] is trunk.gaze
    for part in (trunk[:2], trunk.select_subsequence(out_keys=[("gaze", "map")])):
        assert type(part) is TensorDictSequential
        assert list(part.module) == list(trunk.module)[:2]
        assert part.in_keys == [pixels]
        seen = part(td.copy())
        assert "embedding" not in seen
        torch.testing.assert_close(seen["gaze", "map"], trunk(td.copy())["gaze", "map"])


@pytest.mark.parametrize(
    "spec",
    [
        Unbounded((2,)),
        MultiOneHot((2, 3)),
        MultiCategorical((2, 3)),
        Binary(4),
        Bounded(-torch.inf, torch.inf, (2,)),
        Bounded(0.0, torch.inf, (2,)),
        Bounded(torch.nan, 1.0, (2,)),
        Bounded(-1, 1, (2, 3)),
        Bounded(-1.0, 1.0, ()),
        Bounded(-3, 3, (2,), dtype=torch.int64),
        OneHot(4).expand(2, 4),
        Categorical(4, shape=(2,)),
    ],
    ids=[
        *("unbounded", "multi-one-hot", "multi-categorical", "binary", "infinite", "half-infinite", "nan"),
        *("matrix", "scalar", "integers", "batch of one-hot", "batch of categorical"),
    ],
)
def test_actions_without_a_policy_are_refused(spec):
    readout = FlattenReadout(8, (8, 8))
    for make in (build, lambda spec: qvalue_head(readout, spec)):
        with pytest.raises(
            TypeError, match=r"a discrete or a bounded, .*OneHot \[A\], Categorical \[\], or Bounded \[A\]"
        ):
            make(spec)


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="policy must be 'normal', 'tanh_normal' or 'deterministic', got 'beta'"):
        build(Bounded(-1, 1, (2,)), policy="beta")


def test_sizes_must_be_positive():
    with pytest.raises(ValueError, match=r"loss\.hidden must be positive, got 0"):
        value_head(FlattenReadout(8, (8, 8)), hidden=0)
