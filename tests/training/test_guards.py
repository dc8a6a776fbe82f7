"""What is not finite stops a run, is named, and leaves the networks as they were."""

import math
import warnings

import pytest
import torch
from tensordict import TensorDict
from torchrl.checkpoint import Checkpoint
from torchrl.collectors import Collector

from gaze_torchrl.envs import ClutterEnv
from gaze_torchrl.training.agent import build_agent, build_env
from gaze_torchrl.training.config import compose_config
from gaze_torchrl.training.guards import NonFinite, TripletWatch, check_rollout
from gaze_torchrl.training.loop import build_learner
from tests.training.support import TINY, TINY_SAC, tiny_run


def build(*overrides):
    torch.manual_seed(0)
    config = compose_config([*TINY, "env.horizon=8", "bank.min_steps=32", *overrides])
    env = build_env(config, 8, 0)
    return build_learner(config, build_agent(config, env), env), env


def collect(learner, env):
    collector = Collector(env, learner.policy(), frames_per_batch=128, total_frames=128)
    rollout = next(iter(collector))
    collector.shutdown()
    return rollout


def spoil(monkeypatch, key, value, lanes=8):
    """In its second rollout, one number of what the environment with so many lanes says is not finite."""
    original, count = ClutterEnv._step, []

    def broken(self, tensordict):
        out = original(self, tensordict)
        count.extend([1] * (len(out) == lanes))
        if len(count) > 18 and len(out) == lanes:
            out.set(key, out.get(key).clone()).get(key).flatten()[3] = value
        return out

    monkeypatch.setattr(ClutterEnv, "_step", broken)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("reward", math.nan, r"next/reward of a rollout is nan; .* env\.\* \(env\.reward, env\.reward_mode\)"),
        ("proprio", math.inf, r"(next/)?proprio of a rollout is inf; .* env\.\* \(env\.proprio\)"),
        # The policy answers NaN, which the environment refuses in the middle of the rollout.
        ("proprio", math.nan, r"proprio of a rollout is nan; .* env\.\* \(env\.proprio\)"),
    ],
)
@pytest.mark.parametrize("tiny", [TINY, TINY_SAC], ids=["ppo", "sac"])
def test_what_the_environment_says(tiny, key, value, named, tmp_path, monkeypatch):
    spoil(monkeypatch, key, value)
    with pytest.raises(NonFinite, match=named) as caught:
        tiny_run(tmp_path / "run", *tiny)
    folder = tmp_path / "run" / "failure"
    assert str(folder / "batch") in str(caught.value)
    batch = TensorDict.load_memmap(folder / "batch")
    broken = batch[key] if math.isnan(value) and key == "proprio" else batch["next", key]
    assert batch.shape in ((8, 16), (8,))
    assert not broken.isfinite().all()
    assert batch["pixels"].any()
    config = compose_config(tiny)
    agent = build_agent(config, build_env(config, 2, 0))
    Checkpoint(actor=agent.actor).load(folder / "networks.torchrl")
    assert all(parameter.isfinite().all() for parameter in agent.actor.parameters())
    assert (tmp_path / "run" / "metrics.csv").read_text().count("\n") == 2, "one good rollout"


def test_what_the_environment_says_in_an_evaluation(tmp_path, monkeypatch):
    """Not even then is the best checkpoint sought among numbers that are none."""
    spoil(monkeypatch, "reward", math.nan, lanes=4)
    with pytest.raises(NonFinite, match="next/reward of a rollout is nan"):
        tiny_run(tmp_path / "run")


def test_policy_that_has_diverged():
    learner, env = build()
    with torch.no_grad():
        learner.agent.actor[1].module[0][-1].bias.fill_(math.nan)
    rollout = env.fake_tensordict().expand(8).unsqueeze(-1)
    rollout = learner.policy()(rollout.select("pixels", "proprio").contiguous())
    with pytest.raises(
        NonFinite, match=r"(loc|action|action_log_prob) of a rollout is nan; the policy has diverged: lower loss"
    ):
        check_rollout(rollout, learner.policy().out_keys)


@pytest.mark.parametrize("key", ["privileged", ("truth", "center"), ("next", "state")])
def test_what_the_policy_did_not_write_comes_from_the_environment(key):
    learner, env = build()
    rollout = collect(learner, env).set(key, torch.full((8, 16, 2), math.nan))
    with pytest.raises(NonFinite, match=r"of a rollout is nan; the environment says so: look at env\.\*"):
        check_rollout(rollout, learner.policy().out_keys)


def test_a_loss(monkeypatch):
    learner, env = build("labels=return_to_go")
    rollout = collect(learner, env)
    with torch.no_grad():
        learner.critic.module[-1].bias.fill_(math.inf)
    with pytest.raises(NonFinite, match=r"loss_\w+ is nan: lower loss\.learning_rate") as caught:
        learner.update(rollout)
    assert caught.value.batch.shape == (64,)


@pytest.mark.parametrize(
    ("overrides", "where", "named"),
    [
        (["labels=return_to_go"], lambda one: one.contrast, r"loss_contrast is inf: lower contrast\.coeff"),
        (
            ["contrast=none", "regularizer=gaze", "regularizer.spread=0.1"],
            lambda one: one.loss.auxiliaries[0],
            r"loss_gaze_spread is (inf|nan): lower regularizer\.spread",
        ),
    ],
)
def test_an_auxiliary_loss(overrides, where, named, monkeypatch):
    learner, env = build(*overrides)
    auxiliary = where(learner)
    forward = auxiliary.forward
    key = next(key for key in auxiliary.out_keys if key.startswith("loss_"))
    monkeypatch.setattr(auxiliary, "forward", lambda td: (out := forward(td)).set(key, out[key] * math.inf))
    with pytest.raises(NonFinite, match=named):
        learner.update(collect(learner, env))


def test_a_gradient_of_a_finite_loss_leaves_the_networks_as_before_it():
    """The third gradient is not finite: the parameters are those after two steps, whatever came later."""

    def parameters(fail_at, epochs):
        learner, env = build("contrast=none", f"loss.epochs={epochs}")
        count = []

        def hook(gradient):
            count.append(1)
            return gradient * math.nan if len(count) >= fail_at else gradient

        learner.critic.module[-1].bias.register_hook(hook)
        rollout = collect(learner, env)
        if fail_at <= epochs * 2:
            with pytest.raises(
                NonFinite, match=r"The gradient of loss_critic \(.*\) is not finite: lower loss\.learning"
            ):
                learner.update(rollout)
        else:
            learner.update(rollout)
        return [one.detach().clone() for one in learner.loss.parameters()]

    after_two, failed = parameters(99, epochs=1), parameters(3, epochs=3)
    assert all(map(torch.equal, after_two, failed))


def test_nothing_is_said_of_what_is_finite():
    learner, env = build()
    rollout = collect(learner, env)
    check_rollout(rollout)
    means = learner.update(rollout)
    assert means["grad_norm"] > 0
    assert means["contrast_grad_norm"] > 0


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["labels=return_to_go", "env.horizon=50"], "no label is known, since no episode ends within the bank"),
        (["labels=success"], r"the labels are all alike \(standard deviation 0\)"),
        # Of two labels, none exceeds another by that much.
        (["miner=anchor_relative", "miner.margin=1e6"], "the miner finds no neighbours with different labels"),
    ],
)
def test_triplets_that_run_dry_are_reported_once(overrides, why):
    learner, env = build("env.horizon=8", *overrides)
    rollout = collect(learner, env)
    watch = TripletWatch(patience=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.look(learner.triplets)  # the bank is empty
        learner.update(rollout)
        watch.look(learner.triplets)
    with pytest.warns(UserWarning, match=f"nothing to learn from for 2 rollouts: {why}"):
        watch.look(learner.triplets)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.look(learner.triplets)


def test_triplets_that_are_there_are_not_reported():
    learner, env = build()
    learner.update(collect(learner, env))
    assert learner.statistics()["mined_triplets"] > 0
    watch = TripletWatch(patience=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.look(learner.triplets)
        watch.look(None)


def test_what_has_not_been_mined_yet_is_not_reported():
    """The bank is full enough only in the middle of ``mine_every``."""
    learner, env = build("bank.mine_every=200")
    learner.update(collect(learner, env))
    assert len(learner.triplets.bank) >= learner.triplets.min_steps
    assert len(learner.triplets.mined) == 0
    watch = TripletWatch(patience=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.look(learner.triplets)
    assert watch.dry == 0
