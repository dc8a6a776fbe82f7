"""The pieces of the PPO loop against their definitions."""

import pytest
import torch
from torchrl.collectors import Collector

from gaze_torchrl.training.agent import build_agent, build_env, build_learner
from gaze_torchrl.training.config import compose_config
from gaze_torchrl.training.ppo import add_gradient, estimate_advantage, optimize
from tests.training.support import TINY


@pytest.fixture(scope="module")
def collected():
    torch.manual_seed(0)
    config = compose_config([*TINY, "env.horizon=7"])
    env = build_env(config, 8, 0)
    agent = build_agent(config, env)
    learner = build_learner(config, agent)
    collector = Collector(env, agent.policy("features"), frames_per_batch=128, total_frames=128)
    rollout = next(iter(collector))
    estimate_advantage(rollout, agent, learner)
    yield config, agent, learner, rollout
    collector.shutdown()


def test_next_values_are_the_critics(collected):
    """Where an episode ends inside the rollout, too: the value of the state it ended in, not of the next episode's."""
    _, agent, _, rollout = collected
    assert rollout["next", "done"][:, :-1].any()
    with torch.no_grad():
        value = agent.critic(agent.trunk(rollout["next"].select("pixels", "proprio")))["state_value"]
    torch.testing.assert_close(rollout["next", "state_value"], value)


def test_advantage_is_gae_by_its_recursion(collected):
    config, _, _, rollout = collected
    gamma, lmbda = config.loss.gae.gamma, config.loss.gae.lmbda
    nxt, value = rollout["next"], rollout["state_value"]
    advantage = torch.zeros(8, 1)
    for t in reversed(range(rollout.shape[1])):
        bootstrap = nxt["state_value"][:, t] * ~nxt["terminated"][:, t]
        delta = nxt["reward"][:, t] + gamma * bootstrap - value[:, t]
        advantage = delta + gamma * lmbda * advantage * ~nxt["done"][:, t]
        torch.testing.assert_close(rollout["advantage"][:, t], advantage, rtol=1e-4, atol=1e-5)


def test_update_changes_every_part_and_reports_finite_terms(collected):
    config, agent, learner, rollout = collected
    parts = {"encoder": agent.actor.module[0], "gaze": agent.gaze, "critic": agent.critic}
    before = {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}
    losses = optimize(rollout, learner, config)
    for name, part in parts.items():
        assert any((a != b).any() for a, b in zip(before[name], part.parameters(), strict=True)), name
    assert {"loss_objective", "loss_critic", "loss_entropy", "loss_gaze"} <= set(losses)
    assert all(abs(value) < 1e6 for value in losses.values())


@pytest.mark.parametrize("max_norm", [0.1, 100.0])
def test_added_gradient_is_clipped_alone(max_norm):
    x = torch.tensor([3.0, 4.0], requires_grad=True)
    x.grad = torch.tensor([10.0, 10.0])
    add_gradient((x.square() / 2).sum(), [x], max_norm)  # its gradient is x, of norm 5
    added = x.grad - 10.0
    torch.testing.assert_close(added, torch.tensor([3.0, 4.0]) * min(1.0, max_norm / 5), rtol=1e-4, atol=1e-5)
