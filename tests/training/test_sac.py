"""The pieces of the SAC loop against their definitions, and whole runs of its kin."""

import csv

import pytest
import torch
from torchrl.collectors import Collector
from torchrl.envs.utils import ExplorationType, set_exploration_type

from gaze_torchrl.replay import NStep
from gaze_torchrl.training.agent import build_agent, build_env
from gaze_torchrl.training.config import compose_config
from gaze_torchrl.training.loop import build_learner
from tests.training.support import TINY_SAC, tiny_run


@pytest.fixture(scope="module")
def collected():
    torch.manual_seed(0)
    config = compose_config([*TINY_SAC, "env.horizon=7"])
    env = build_env(config, 8, 0)
    learner = build_learner(config, build_agent(config, env), env)
    collector = Collector(env, learner.policy(), frames_per_batch=128, total_frames=128)
    rollout = next(iter(collector))
    yield learner, rollout
    collector.shutdown()


def test_value_is_the_least_critics_of_the_policys_action(collected):
    learner, rollout = collected
    learner.estimate_value(rollout)
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        seen = learner.agent.actor(rollout["next"].select("pixels", "proprio"))
        inputs = torch.cat([seen["embedding"], seen["action"]], -1)
        values = []
        for index in range(2):
            with learner.loss.qvalue_network_params[index].to_module(learner.critic):
                values.append(learner.critic.module(inputs))
    torch.testing.assert_close(rollout["next", "state_value"], torch.minimum(*values))


CASES = {"value_target": True, "return_to_go": False, "episode_return": False, "success": False}
CASES |= {f"{name} labels.truncation=bootstrap": True for name in ("return_to_go", "episode_return")}


@pytest.mark.parametrize(("labels", "needed"), CASES.items())
def test_values_are_estimated_for_labels_that_need_them(labels, needed, monkeypatch):
    """An estimate embeds every next frame once more, so only where a label bootstraps."""
    config = compose_config([*TINY_SAC, *f"labels={labels}".split(), "env.horizon=8"])
    env = build_env(config, 8, 0)
    learner = build_learner(config, build_agent(config, env), env)
    estimate, estimated = learner.estimate_value, []
    monkeypatch.setattr(learner, "estimate_value", lambda rollout: estimated.append(rollout) or estimate(rollout))
    collector = Collector(env, learner.policy(), frames_per_batch=128, total_frames=128)
    learner.update(next(iter(collector)))
    collector.shutdown()
    assert len(estimated) == needed
    assert learner.statistics()["known_labels"] > 0


def test_update_trains_every_part_and_moves_the_targets(collected):
    learner, rollout = collected
    actor = learner.agent.actor
    parts = {"encoder": actor[0].encoder, "gaze": actor[0].gaze, "actor": actor[1]}
    before = {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}
    targets = learner.loss.target_qvalue_network_params.clone()
    losses = learner.update(rollout.copy())
    for name, part in parts.items():
        assert any((a != b).any() for a, b in zip(before[name], part.parameters(), strict=True)), name
    moved = zip(targets.values(True, True), learner.loss.target_qvalue_network_params.values(True, True), strict=True)
    assert any((a != b).any() for a, b in moved)
    assert {"loss_actor", "loss_qvalue", "loss_alpha", "loss_contrast"} <= set(losses)


def test_discount_and_steps_reach_the_targets():
    config = compose_config([*TINY_SAC, "task.gamma=0.7", "loss.replay.n_steps=3"])
    env = build_env(config, 8, 0)
    learner = build_learner(config, build_agent(config, env), env)
    n_step = next(one for one in learner.buffer.transform if isinstance(one, NStep)).multi_step
    assert (float(n_step.gamma), n_step.n_steps) == (pytest.approx(0.7), 3)
    assert float(learner.loss.value_estimator.gamma) == pytest.approx(0.7)


@pytest.mark.parametrize("loss", ["sac", "redq", "crossq"])
def test_what_comes_n_steps_later_is_discounted_n_times(loss):
    chosen = [f"loss={loss}", "loss.replay.n_steps=3", "task.gamma=0.7", "contrast=none"]
    config = compose_config([*TINY_SAC, *chosen])
    env = build_env(config, 8, 0)
    learner = build_learner(config, build_agent(config, env), env)
    collector = Collector(env, learner.policy(), frames_per_batch=128, total_frames=128)
    learner.buffer.extend(next(iter(collector)).exclude("truth", ("next", "truth")))
    collector.shutdown()
    minibatch, estimator, seen = learner.buffer.sample(), learner.loss.value_estimator, {}
    target = estimator.value_estimate

    def spied(tensordict, next_value=None, **kwargs):
        seen["steps"] = tensordict.get(estimator.tensor_keys.steps_to_next_obs, None)
        result = target(tensordict, next_value=next_value, **kwargs)
        value = tensordict["next", "state_value"] if next_value is None else next_value
        seen["factor"] = (result - tensordict["next", "reward"]).flatten() / value.flatten()
        return result

    estimator.value_estimate = spied
    learner.loss(minibatch)
    steps = minibatch["steps_to_next_obs"]
    assert (steps > 1).any()
    assert seen["steps"].equal(steps)
    assert "td_error" in minibatch  # what a prioritized buffer reads
    factor = torch.where(minibatch["next", "terminated"].flatten(), 0, 0.7 ** steps.flatten())
    torch.testing.assert_close(seen["factor"], factor, atol=1e-3, rtol=1e-3)


def test_the_buffer_holds_no_frames_twice(collected):
    learner, rollout = collected
    learner.buffer.extend(rollout.exclude("truth", ("next", "truth")))
    stored = learner.buffer.storage[:]
    assert not {"pixels", ("next", "pixels"), "features"} & set(stored.keys(True, True))
    sample = learner.buffer.sample()
    assert sample["next", "pixels"].dtype is torch.uint8


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("loss", ["sac", "redq", "crossq"])
def test_whole_run(loss, tmp_path):
    """No terms before the warm-up is over, all of them afterwards."""
    run = tiny_run(tmp_path / "run", "loss=sac", f"loss={loss}", "evaluation.video_episodes=0", "loss.warmup=200")
    first, second = rows(run / "metrics.csv")
    assert first["loss_qvalue"] == "nan"
    assert float(second["loss_qvalue"]) > 0
    assert list(first) == list(second)
    assert float(rows(run / "evaluation.csv")[-1]["length"]) == 20


def test_same_seed_same_metrics(tmp_path):
    one, two = (tiny_run(tmp_path / name, "loss=sac", "evaluation.video_episodes=0") for name in "ab")
    assert (one / "metrics.csv").read_bytes() == (two / "metrics.csv").read_bytes()
    assert (one / "evaluation.csv").read_bytes() == (two / "evaluation.csv").read_bytes()


def test_updates_per_frame_are_kept_over_rollouts(collected):
    learner, rollout = collected
    learner._due, counts = 0.0, []
    learner.descent.descend = lambda minibatches: counts.append(sum(1 for _ in minibatches)) or {}
    for _ in range(4):
        learner.update(rollout.copy())
    del learner.descent.descend
    assert sum(counts) == int(4 * 128 * 0.05)
