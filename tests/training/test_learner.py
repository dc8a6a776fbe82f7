"""The gradient step that every training loop shares."""

import math

import pytest
import torch
from torchrl.collectors import Collector

from gaze_torchrl.training.agent import build_agent, build_env
from gaze_torchrl.training.config import ConfigError, compose_config
from gaze_torchrl.training.learner import add_gradient
from gaze_torchrl.training.loop import build_learner
from tests.training.support import TINY


def build(*overrides):
    config = compose_config([*TINY, *overrides])
    env = build_env(config, 8, 0)
    agent = build_agent(config, env)
    return build_learner(config, agent, env)


@pytest.mark.parametrize("max_norm", [0.1, 100.0])
def test_added_gradient_is_clipped_alone(max_norm):
    x = torch.tensor([3.0, 4.0], requires_grad=True)
    unused = torch.zeros(1, requires_grad=True)
    x.grad = torch.tensor([10.0, 10.0])
    add_gradient((x.square() / 2).sum(), [x, unused], max_norm)  # its gradient is x, of norm 5
    added = x.grad - 10.0
    torch.testing.assert_close(added, torch.tensor([3.0, 4.0]) * min(1.0, max_norm / 5), rtol=1e-4, atol=1e-5)
    assert unused.grad is None


def collect(learner, frames=128):
    env = build_env(learner.config, 8, 0)
    collector = Collector(env, learner.policy(), frames_per_batch=frames, total_frames=frames)
    rollout = next(iter(collector))
    collector.shutdown()
    return rollout


@pytest.mark.parametrize(("contrast", "rl_gradient"), [("none", True), ("triplet", True), ("triplet", False)])
def test_who_trains_the_gaze(contrast, rl_gradient):
    """The RL loss, the contrastive loss, or both; with rl_gradient=false the contrastive loss alone."""
    learner = build(f"contrast={contrast}", f"gaze.rl_gradient={rl_gradient}", "labels=return_to_go", "env.horizon=8")
    learner.update(collect(learner))
    learner.loss.zero_grad()
    losses = learner.loss(learner.buffer.sample())
    gaze = list(learner.agent.gaze.parameters())
    expected = {"loss_objective": rl_gradient, **({} if contrast == "none" else {"loss_contrast": True})}
    for name, moves in expected.items():
        gradients = torch.autograd.grad(losses[name], gaze, retain_graph=True, allow_unused=True)
        assert any(one is not None and one.abs().sum() > 0 for one in gradients) == moves, name


@pytest.mark.parametrize("augment", ["random_shift", "color_jitter", "random_conv", "overlay"])
def test_augmentation_changes_what_the_loss_sees_and_not_what_is_stored(augment):
    learner = build(f"augment={augment}", "contrast=none")
    rollout = collect(learner)
    learner.update(rollout)
    stored, sample = learner.buffer.storage[:], learner.buffer.sample()
    torch.testing.assert_close(stored["pixels"], rollout["pixels"].flatten(0, 1))
    assert sample["pixels"].dtype is torch.uint8
    changed = (sample["pixels"][:, None] != stored["pixels"][None]).flatten(2).any(-1).all(-1)
    assert changed.float().mean() > 0.8  # a shift by nothing is possible


@pytest.mark.parametrize("gaze", ["none", "global_pool", "fixed_center"])
def test_a_gaze_that_cannot_learn_needs_no_contrast(gaze):
    with pytest.raises(ConfigError, match=r"nothing to train.*contrast=none"):
        build(f"gaze={gaze}", "env.image_size=64")


def test_a_loss_that_is_not_finite_stops_the_run_by_name():
    learner = build("labels=return_to_go")
    rollout = collect(learner)
    with torch.no_grad():
        learner.critic.module[-1].bias.fill_(math.inf)
    with pytest.raises(FloatingPointError, match=r"loss_\w+ is (nan|inf): lower loss\.learning_rate"):
        learner.update(rollout)


def test_momentum_encoder_follows():
    learner = build("contrast=curl", "contrast.tau=0.5")
    target = learner.contrast.target_query_network_params
    before = target.clone()
    with torch.no_grad():
        learner.agent.trunk.encoder.module.layers[0].weight.add_(1)
    for updater in learner.updaters:
        updater.step()
    moved = [(a != b).any() for a, b in zip(before.values(True, True), target.values(True, True), strict=True)]
    assert any(moved)


def test_unknown_loop():
    with pytest.raises(ConfigError, match=r"loss\.loop must be one of \['ppo', 'sac'\], got 'dqn'"):
        build("loss.loop=dqn")
