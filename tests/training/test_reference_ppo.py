"""benchmarks/reference_ppo.py learns what our loop with the plain CNN does: their speeds compare the same work."""

import importlib.util
import itertools
import sys
from pathlib import Path

import pytest
import torch

from gaze_torchrl.training.agent import build_env
from gaze_torchrl.training.config import compose_config
from tests.training.support import TINY, one_rollout

FILE = Path(__file__).parents[2] / "benchmarks" / "reference_ppo.py"
CONFIG = ["experiment=ppo_clutter", "gaze=none", "contrast=none", *TINY, "env.image_size=64", "env.horizon=7"]
COLUMNS = {
    "pixels": "pixels",
    "proprio": "proprio",
    "action": "action",
    "log_prob": "action_log_prob",
    "value": "state_value",
    "reward": ("next", "reward"),
    "done": ("next", "done"),
}


@pytest.fixture(scope="module")
def reference():
    specification = importlib.util.spec_from_file_location("reference_ppo", FILE)
    module = importlib.util.module_from_spec(specification)
    sys.modules["reference_ppo"] = module
    specification.loader.exec_module(module)
    yield module
    del sys.modules["reference_ppo"]


@pytest.fixture
def both(reference):
    """Our learner, a rollout [N, T] that it has prepared, and the reference with the learner's numbers."""
    config = compose_config([*CONFIG, "compile=false"])
    _, learner, rollout = one_rollout(config)
    learner.prepare(rollout)
    proprio, actions = rollout["proprio"].shape[-1], rollout["action"].shape[-1]
    net = reference.ActorCritic(proprio, actions, config.loss.hidden, config.loss.initial_log_std)
    copy(learner.loss, net)
    return config.loss, learner, rollout, net


def ours(loss):
    """The parameters of a loss of ours in the reference's order."""
    named = dict(loss.named_parameters())
    scale = [one for name, one in named.items() if name.endswith("state_independent_scale")]
    of = {part: [one for name, one in named.items() if name.startswith(part)] for part in ("trunk", "actor", "critic")}
    actor = [one for one in of["actor"] if one is not scale[0]]
    return [*scale, *of["trunk"], *actor, *of["critic"]]


def as_theirs(values):
    """The readout of ours reads the map cell by cell, the reference's channel by channel."""
    return [one.unflatten(1, (-1, 32)).mT.flatten(1) if one.shape == (256, 8192) else one for one in values]


@torch.no_grad()
def copy(loss, net):
    for theirs, mine in zip(net.parameters(), as_theirs(ours(loss)), strict=True):
        theirs.copy_(mine)


def columns(rollout):
    """Of a rollout [N, T], what the reference keeps: [T, N]."""
    data = {name: rollout[key].transpose(0, 1) for name, key in COLUMNS.items()}
    return {name: column.squeeze(-1) if column.shape[2:] == (1,) else column for name, column in data.items()}


def test_same_values_and_probabilities(both):
    _, _, rollout, net = both
    data = columns(rollout)
    policy, value = net(rollout["pixels"].flatten(0, 1), rollout["proprio"].flatten(0, 1))
    probability = policy.log_prob(rollout["action"].flatten(0, 1))
    torch.testing.assert_close(value.unflatten(0, (8, -1)).T, data["value"])
    torch.testing.assert_close(probability.unflatten(0, (8, -1)).T, data["log_prob"])


def test_same_advantages(both, reference):
    node, _, rollout, net = both
    data, last = columns(rollout), rollout["next"]
    assert data["done"].any()
    ends = net(last["pixels"].flatten(0, 1), last["proprio"].flatten(0, 1))[1].detach().unflatten(0, (8, -1)).T
    data["reward"] = data["reward"] + node.gae.gamma * data["done"] * ends
    found = reference.advantages(data, ends[-1], node.gae.gamma, node.gae.lmbda)
    torch.testing.assert_close(found.T.unsqueeze(-1), rollout["advantage"], rtol=1e-4, atol=1e-5)


def test_same_gradients(both, reference):
    """After the policy has moved on from the one that acted, so that ratios are clipped; in float64, for a rounding
    that takes one unit over a kink is seen in the gradient."""
    node, learner, rollout, net = both
    learner.loss.double()
    net.double()
    rollout = rollout.apply(lambda entry: entry.double() if entry.is_floating_point() else entry)
    with torch.no_grad():
        for mine in ours(learner.loss):
            mine.add_(0.04 * torch.randn_like(mine))
    copy(learner.loss, net)
    terms = learner.loss(rollout.reshape(-1))
    sum(value for name, value in terms.items() if name.startswith("loss_")).backward()
    batch = {name: column.flatten(0, 1) for name, column in columns(rollout).items()}
    batch["advantage"] = rollout["advantage"].transpose(0, 1).flatten()
    batch["target"] = rollout["value_target"].transpose(0, 1).flatten()
    loss = reference.ppo_loss(net, batch, node)
    loss.backward()
    assert 0.05 < terms["clip_fraction"] < 0.95
    expected = as_theirs([mine.grad for mine in ours(learner.loss)])
    for theirs, gradient in zip(net.parameters(), expected, strict=True):
        assert gradient.abs().max() > 1e-4
        torch.testing.assert_close(theirs.grad, gradient, rtol=1e-6, atol=1e-7 * gradient.abs().max().item())


def test_collected_are_steps_of_the_environment(both, reference):
    """The environment's own, through ends of episodes; last rewards hold the value of the state that they led to."""
    node, _, _, net = both
    env, twin = (build_env(compose_config(CONFIG), 8, 3) for _ in range(2))
    data, seen = reference.collect(net, env, env._reset(None), 16, node.gae.gamma)
    td = twin.reset()
    for t in range(16):
        assert torch.equal(data["pixels"][t], td["pixels"])
        step, td = twin.step_and_maybe_reset(td.set("action", data["action"][t]))
        after, done = step["next"], step["next", "done"].squeeze(-1)
        assert torch.equal(data["done"][t], done)
        value = net(after["pixels"], after["proprio"])[1] * done
        torch.testing.assert_close(data["reward"][t], after["reward"].squeeze(-1) + node.gae.gamma * value)
    assert torch.equal(seen["pixels"], td["pixels"])
    assert data["done"].any()


def test_every_rollout_is_learnt_from(reference, monkeypatch):
    """The parameters of every part move from each gradient step to the next."""
    config, before = compose_config(CONFIG), []

    def loss(net, *rest, original=reference.ppo_loss):
        before.append([parameter.detach().clone() for parameter in net.parameters()])
        return original(net, *rest)

    monkeypatch.setattr(reference, "ppo_loss", loss)
    learning = reference.reference_ppo(config)
    assert [next(learning), next(learning)] == [128, 128]
    assert len(before) == 2 * config.loss.epochs * 128 // config.loss.minibatch
    for earlier, later in itertools.pairwise(before):
        assert all((a != b).any() for a, b in zip(earlier, later, strict=True))
