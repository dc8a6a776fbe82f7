"""Training on a GPU, where there is one: the same losses, no waiting for the device, CUDA graphs, every command."""

import csv
import math
import warnings

import pytest
import torch
from torch._inductor import config as inductor

from gaze_torchrl.training.agent import build_agent, build_env
from gaze_torchrl.training.collecting import build_collector, rollouts
from gaze_torchrl.training.config import compose_config
from gaze_torchrl.training.experiment import resume_run
from gaze_torchrl.training.loop import build_learner
from tests.training.support import TINY, TINY_SAC, command
from tests.training.test_resume import stopped_run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
LOOPS = pytest.mark.parametrize("loop", [TINY, TINY_SAC], ids=["ppo", "sac"])
CUDA = ["device=cuda", "env.horizon=8", "bank.min_steps=32"]  # episodes end soon, so that labels are known


@pytest.fixture(params=[TINY, TINY_SAC], ids=["ppo", "sac"])
def learner(request):
    """What has learnt a little, with triplets."""
    return learnt([*request.param, *CUDA])


def learnt(overrides):
    config = compose_config(overrides)
    env = build_env(config, config.env.num_envs, 0)
    learner = build_learner(config, build_agent(config, env), env)
    collector = build_collector(config, learner.policy(), env, 0)
    batches = rollouts(collector, config.env.num_envs)
    for _ in range(2):
        learner.update(next(batches))
    collector.shutdown()
    return learner


@inductor.patch(fallback_random=True)  # the same noise in SAC's actions
@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_compiled_and_as_cuda_graphs_the_losses_and_gradients_are_the_eager_ones(learner, mode):
    minibatch, found = learner.buffer.sample(), []
    for call in range(5):  # a graph is recorded at the second, and replayed later
        if call == 1:
            learner.loss.compile(mode=mode)
        torch.manual_seed(0)
        torch.compiler.cudagraph_mark_step_begin()
        learner.loss.zero_grad()
        losses = learner.loss(minibatch.clone())
        sum(value for name, value in losses.items() if name.startswith("loss_")).backward()
        gradients = [one.grad.clone() for one in learner.loss.parameters() if one.grad is not None]
        found.append(({name: value.detach().clone() for name, value in losses.items()}, gradients))
    assert found[0][1]
    for losses, gradients in found[1:]:
        torch.testing.assert_close(losses, found[0][0], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(gradients, found[0][1], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("overrides", [[], ["gaze=none", "contrast=none"]], ids=["full method", "plain CNN"])
@LOOPS
def test_a_gradient_step_does_not_wait_for_the_device(loop, overrides):
    learner = learnt([*loop, *CUDA, *overrides])
    minibatch = learner.buffer.sample()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            learner.descent.step(learner.loss(minibatch))
            float(minibatch["action"].sum())  # this waits
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = {one.filename for one in caught if "called a synchronizing" in str(one.message)}
    # TorchRL's own, if not compiled: the PPO loss looks at its entropy in every step, SAC's TanhNormal at its bounds.
    assert {name for name in waits if "/torchrl/" not in name.replace("/gaze_torchrl/", "/")} == {__file__}


@LOOPS
def test_a_run_goes_on_and_every_command_knows_it(loop, tmp_path, monkeypatch):
    overrides = [*loop, *(["loss=sac"] if loop is TINY_SAC else []), "device=cuda"]
    run = resume_run(stopped_run(tmp_path / "run", monkeypatch, *overrides))
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["frames"]) == 1024
    assert math.isfinite(float(rows[-1]["grad_norm"]))
    for name in ("evaluate", "view", "export"):
        done = command(name, str(run))
        assert done.returncode == 0, done.stderr
