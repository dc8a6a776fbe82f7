"""benchmarks/reference_ppo.py learns what our loop with the plain CNN does: their speeds compare the same work."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torchrl.collectors import Collector

from gaze_torchrl.training.agent import build_agent, build_env
from gaze_torchrl.training.config import compose_config
from gaze_torchrl.training.loop import build_learner
from tests.training.support import TINY

FILE = Path(__file__).parents[2] / "benchmarks" / "reference_ppo.py"
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


@pytest.fixture(scope="module")
def both(reference):
    """Our learner, a rollout [N, T] that it has prepared, and the reference with the learner's numbers."""
    torch.manual_seed(0)
    overrides = ["experiment=ppo_clutter", "gaze=none", "contrast=none", *TINY, "env.image_size=64", "env.horizon=7"]
    config = compose_config([*overrides, "compile=false"])
    env = build_env(config, 8, 0)
    agent = build_agent(config, env)
    learner = build_learner(config, agent, env)
    collector = Collector(env, learner.policy(), frames_per_batch=128, total_frames=128)
    rollout = next(iter(collector))
    learner.prepare(rollout)
    proprio, actions = rollout["proprio"].shape[-1], rollout["action"].shape[-1]
    net = reference.ActorCritic(proprio, actions, config.loss.hidden, config.loss.initial_log_std)
    copy(learner.loss, net)
    yield config.loss, learner, rollout, net
    collector.shutdown()


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
    """After the policy has moved on from the one that acted, so that ratios are clipped."""
    node, learner, rollout, net = both
    with torch.no_grad():
        for mine in ours(learner.loss):
            mine.add_(0.02 * torch.randn_like(mine))
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
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(theirs.grad, gradient, rtol=1e-3, atol=1e-5)


def test_it_learns(reference):
    """The loop itself runs, and every rollout is learnt from."""
    config = compose_config(["experiment=ppo_clutter", *TINY, "env.image_size=64", "env.horizon=7"])
    assert [frames for frames, _ in zip(reference.reference_ppo(config), range(2), strict=False)] == [128, 128]
