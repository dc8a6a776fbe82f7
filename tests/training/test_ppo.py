"""The pieces of the PPO loop against their definitions."""

import pytest
import torch

from gaze_torchrl.training.config import compose_config
from tests.training.support import TINY, one_rollout


@pytest.fixture(scope="module")
def collected():
    torch.manual_seed(0)
    config = compose_config([*TINY, "env.horizon=7"])
    agent, learner, rollout = one_rollout(config)
    learner.estimate_advantage(rollout)
    return config, agent, learner, rollout


@pytest.mark.parametrize("key", ["state_value", ("gaze", "mean")])
def test_next_values_and_gazes_are_the_networks_own(collected, key):
    """Where an episode ends inside the rollout, too: of the state it ended in, not of the next episode's."""
    _, agent, learner, rollout = collected
    assert rollout["next", "done"][:, :-1].any()
    with torch.no_grad():
        seen = learner.critic(agent.trunk(rollout["next"].select("pixels", "proprio")))
    torch.testing.assert_close(rollout["next"][key], seen[key])


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
    _, agent, learner, rollout = collected
    parts = {"encoder": agent.trunk.encoder, "gaze": agent.gaze, "actor": agent.actor[1], "critic": learner.critic}
    before = {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}
    losses = learner.update(rollout)
    for name, part in parts.items():
        assert any((a != b).any() for a, b in zip(before[name], part.parameters(), strict=True)), name
    assert {"loss_objective", "loss_critic", "loss_entropy", "loss_contrast"} <= set(losses)
    assert all(abs(value) < 1e6 for value in losses.values())
