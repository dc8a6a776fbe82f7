"""The gradient step that every training loop shares."""

import pytest
import torch
from omegaconf import open_dict
from torch._inductor import config as inductor
from torchrl.collectors import Collector

from gaze_torchrl.training.agent import build_agent, build_env
from gaze_torchrl.training.config import compose_config
from gaze_torchrl.training.descent import clipped_gradient
from gaze_torchrl.training.explain import ConfigError
from gaze_torchrl.training.loop import build_learner
from tests.training.support import TINY, TINY_SAC, one_update

# Episodes end soon, so that labels are known.
QUICK = ["env.horizon=8", "bank.min_steps=32"]


def build(*overrides, tiny=TINY):
    config = compose_config([*tiny, *overrides])
    env = build_env(config, 8, 0)
    agent = build_agent(config, env)
    return build_learner(config, agent, env)


@pytest.mark.parametrize("max_norm", [0.1, 100.0])
def test_gradient_is_clipped_alone(max_norm):
    x = torch.tensor([3.0, 4.0], requires_grad=True)
    unused = torch.zeros(1, requires_grad=True)
    x.grad = torch.tensor([10.0, 10.0])
    # The gradient of this loss is x, of norm 5.
    [(parameter, gradient)], norm, share = clipped_gradient((x.square() / 2).sum(), [x, unused], max_norm)
    clipped = min(5.0, max_norm)
    assert norm.item() == pytest.approx(5)
    assert share.item() == pytest.approx(clipped / (clipped + 200**0.5), rel=1e-4)
    assert parameter is x
    torch.testing.assert_close(gradient, torch.tensor([3.0, 4.0]) * min(1.0, max_norm / 5), rtol=1e-4, atol=1e-5)
    assert x.grad.tolist() == [10, 10]


def test_share_of_a_gradient_that_is_alone_and_of_one_that_is_none():
    x = torch.tensor([3.0, 4.0], requires_grad=True)
    shares = [clipped_gradient(coeff * x.sum(), [x], 1.0)[2].item() for coeff in (0.0, 1.0)]
    assert shares == [0, 1]


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


@pytest.mark.parametrize(("rl_norm", "contrast_norm"), [("null", 100.0), (0.01, 100.0), (0.01, 0.001)])
def test_gradient_is_the_clipped_one_of_the_rl_loss_and_the_clipped_one_of_the_contrast(rl_norm, contrast_norm):
    learner = build(
        f"loss.max_grad_norm={rl_norm}", f"contrast.max_grad_norm={contrast_norm}", "labels=return_to_go", *QUICK
    )
    learner.update(collect(learner))
    losses = learner.loss(learner.buffer.sample())
    parameters = list(learner.loss.parameters())
    rl = sum(value for name, value in losses.items() if name.startswith("loss_") and name != "loss_contrast")
    expected = [torch.zeros_like(one) for one in parameters]
    for loss, norm in ((rl, rl_norm), (losses["loss_contrast"], contrast_norm)):
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        total = torch.cat([one.flatten() for one in gradients]).norm()
        assert total > 0
        scale = 1.0 if norm == "null" else min(1.0, norm / total.item())
        expected = [one + scale * gradient for one, gradient in zip(expected, gradients, strict=True)]
    learner.descent.step(losses)
    for one, wanted in zip(parameters, expected, strict=True):
        torch.testing.assert_close(
            torch.zeros_like(one) if one.grad is None else one.grad, wanted, rtol=1e-3, atol=1e-6
        )


@pytest.mark.parametrize("coeff", [0.01, 10.0])
@pytest.mark.parametrize("embedding", ["pooled", "glimpse"])
def test_a_contrast_of_its_own_optimizer_takes_its_steps_after_those_of_the_rl_loss(embedding, coeff):
    """Two Adams, one after the other; the size of the second one's steps does not depend on the weight."""
    learner = build(
        "contrast.own_learning_rate=0.003", f"contrast.coeff={coeff}", f"contrast.embedding={embedding}", *QUICK
    )
    rollout = collect(learner)
    learner.prepare(rollout)
    learner.buffer.extend(rollout.reshape(-1))
    parameters, mine = list(learner.loss.parameters()), list(learner.contrast.parameters())
    expected = [one.detach().clone() for one in parameters]
    place = {id(one): index for index, one in enumerate(parameters)}
    rl = torch.optim.Adam(expected, lr=learner.config.loss.learning_rate)
    own = torch.optim.Adam([expected[place[id(one)]] for one in mine], lr=0.003)
    for _ in range(3):
        losses = learner.loss(learner.buffer.sample())
        terms = sum(one for name, one in losses.items() if name.startswith("loss_") and name != "loss_contrast")
        gradients = torch.autograd.grad(terms, parameters, retain_graph=True, allow_unused=True)
        norm = torch.nn.utils.get_total_norm([one for one in gradients if one is not None])
        for one, gradient in zip(expected, gradients, strict=True):
            scale = min(1.0, 0.5 / norm.item())
            one.grad = None if gradient is None else scale * torch.zeros_like(one).add_(gradient)
        contrast = torch.autograd.grad(losses["loss_contrast"], mine, retain_graph=True)
        rl.step()
        scale = min(1.0, 0.5 / torch.nn.utils.get_total_norm(contrast).item())
        for one, gradient in zip(mine, contrast, strict=True):
            expected[place[id(one)]].grad = scale * torch.zeros_like(one).add_(gradient)
        own.step()
        learner.descent.step(losses)
        for one, wanted in zip(parameters, expected, strict=True):
            torch.testing.assert_close(one.detach(), wanted, rtol=1e-4, atol=1e-5)
    assert set(learner.state_dict()) == {"loss", "optimizer", "contrast_optimizer", "buffer"}


def test_a_gradient_laid_out_otherwise_moves_what_it_is_of():
    """That of a convolution may have its channels last where the weight has not; fused Adam on a CPU does not look."""
    learner = build("gaze=mask", "readout=flatten", "gaze.rl_gradient=false", "labels=return_to_go", *QUICK)
    learner.update(collect(learner))
    weight = max(learner.agent.gaze.parameters(), key=lambda one: one.ndim * one.numel())
    assert weight.ndim == 4
    assert weight.shape[-1] > 1
    learner.descent.optimizer.state.clear()
    before, losses = weight.detach().clone(), learner.loss(learner.buffer.sample())
    (gradient,) = torch.autograd.grad(losses["loss_contrast"], [weight], retain_graph=True)
    learner.descent.step(losses)
    large = gradient.abs() > 1e-3 * gradient.abs().max()
    assert large.sum() > 50
    assert torch.equal((weight - before).sign()[large], -gradient.sign()[large]), "Adam's first step is the sign"


def test_neither_optimizer_takes_a_step_that_failed():
    learner = build("contrast.own_learning_rate=0.003", "labels=return_to_go", *QUICK)
    learner.update(collect(learner))
    before = [one.detach().clone() for one in learner.loss.parameters()]
    losses = learner.loss(learner.buffer.sample())
    learner.descent.step(losses.set("loss_contrast", losses["loss_contrast"] * torch.nan))
    for one, was in zip(learner.loss.parameters(), before, strict=True):
        assert torch.equal(one, was)


def test_the_contrast_alone_moves_the_gaze():
    """Without the RL gradient, only as far as its weight goes."""
    moved = {}
    for coeff in (0.0, 0.1):
        torch.manual_seed(0)
        learner = build("gaze.rl_gradient=false", f"contrast.coeff={coeff}", "labels=return_to_go", *QUICK)
        before = [one.detach().clone() for one in learner.agent.gaze.parameters()]
        learner.update(collect(learner))
        after = learner.agent.gaze.parameters()
        moved[coeff] = any((a != b).any() for a, b in zip(before, after, strict=True))
    assert moved == {0.0: False, 0.1: True}


@pytest.mark.parametrize("tiny", [TINY, TINY_SAC], ids=["ppo", "sac"])
@pytest.mark.parametrize("own", ["null", "1e-3"])
def test_pretraining_moves_what_the_contrast_trains_and_nothing_else(tiny, own):
    """Until its frames are over; of runs of before there was the key, nothing waits."""
    pretrain = [
        "contrast.pretrain_frames=256",
        "total_frames=512",
        f"contrast.own_learning_rate={own}",
        "labels=return_to_go",
    ]
    learner = build(*pretrain, *QUICK, tiny=tiny)
    gaze = {id(one) for one in learner.agent.gaze.parameters()}
    named = {name: one for name, one in learner.loss.named_parameters() if one.requires_grad}

    def moved(frames):
        before = {name: one.detach().clone() for name, one in named.items()}
        learner.schedule(frames)
        learner.update(collect(learner))
        return {id(one) in gaze for name, one in named.items() if (one != before[name]).any()}

    assert moved(256) == {True}
    # Adam corrects its first steps: were they taken of a gradient of zero, those after the wait would be too large.
    assert all(id(one) in gaze for one in learner.descent.optimizer.state)
    assert moved(384) == {True, False}
    with open_dict(learner.config):
        del learner.config.contrast["pretrain_frames"]
    learner.schedule(1)
    assert not learner.descent.waits


@pytest.mark.parametrize("contrast", ["triplet", "curl"])
def test_the_contrast_fades_as_configured(contrast):
    """An integer as weight, too: as a buffer of integers it would fall to zero at once."""
    learner = build(f"contrast={contrast}", "contrast.coeff=2", "contrast.anneal_frames=400")
    weights = {}
    for frames in (0, 100, 300, 400, 1000):
        learner.schedule(frames)
        weights[frames] = learner.contrast.coeff.item()
    assert weights == {0: 2.0, 100: 1.5, 300: 0.5, 400: 0.0, 1000: 0.0}


def test_a_contrast_that_does_not_fade_keeps_its_weight():
    """Nor does that of a run that was configured before there was the key."""
    learner = build("contrast.coeff=2")
    learner.schedule(10**9)
    with open_dict(learner.config):
        del learner.config.contrast["anneal_frames"]
    learner.schedule(10**9)
    assert learner.contrast.coeff.item() == 2


REACHES = {
    "contrast.own_learning_rate=0.0321": lambda one: one.descent.contrast_optimizer.param_groups[0]["lr"] == 0.0321,
    "loss.learning_rate=0.0123": lambda one: one.descent.optimizer.param_groups[0]["lr"] == 0.0123,
    "loss.objective.clip_epsilon=0.123": lambda one: abs(one.loss.clip_epsilon.item() - 0.123) < 1e-6,
    "loss.gae.lmbda=0.123": lambda one: abs(float(one.advantage.lmbda) - 0.123) < 1e-6,
    "loss.minibatch=16": lambda one: one.buffer.sample().numel() == 16,
    "loss.initial_log_std=-2.0": lambda one: abs(one.rollout["scale"].mean().item() - 0.1353) < 0.01,
    "loss.hidden=7": lambda one: any(p.shape[0] == 7 for p in one.critic.parameters()),
    "gaze.condition=true": lambda one: one.agent.gaze.film is not None and "proprio" in one.agent.gaze.in_keys,
    "bank.capacity=999": lambda one: one.triplets.bank.capacity == 999,
    "bank.mine_every=777": lambda one: one.triplets.mine_every == 777,
    "bank.min_steps=55": lambda one: one.triplets.min_steps == 55,
    "contrast.num_triplets=5": lambda one: one.buffer.sample()["triplets", "valid"].sum() == 5,
    "contrast.margin=0.5": lambda one: one.contrast.margin == 0.5,
    "key=projected": lambda one: type(one.triplets.keys).__name__ == "ProjectedKeys",
    "normalize=rank": lambda one: type(one.triplets.normalize).__name__ == "RankNormalize",
    "normalize=residual": lambda one: one.triplets.bank.rows["proprio"].shape[-1] == 2,
    "miner.anchors=9": lambda one: one.triplets.miner.anchors == 9,
    "labels.gamma=0.5": lambda one: one.triplets.labels.gamma == 0.5,
    "regularizer=gaze regularizer.spread=0.1": lambda one: "loss_gaze_spread" in one.loss.out_keys,
}


@pytest.mark.parametrize("override", REACHES)
def test_option_reaches_the_part_it_names(override):
    learner = build("labels=return_to_go", *QUICK, *override.split())
    learner.rollout = collect(learner)
    learner.update(learner.rollout)
    assert REACHES[override](learner)


@pytest.mark.parametrize("epochs", [1, 3])
def test_epochs_are_passes_over_the_rollout(epochs):
    learner = build(f"loss.epochs={epochs}", "contrast=none")
    steps = []
    learner.descent.optimizer.register_step_post_hook(lambda *_: steps.append(1))
    learner.update(collect(learner))
    assert len(steps) == epochs * 128 // 64


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


def test_momentum_encoder_follows():
    learner = build("contrast=curl", "contrast.tau=0.5")
    target = learner.contrast.target_query_network_params
    before = target.clone()
    with torch.no_grad():
        learner.agent.trunk.encoder.module.layers[0].weight.add_(1)
    for updater in learner.descent.updaters:
        updater.step()
    moved = [(a != b).any() for a, b in zip(before.values(True, True), target.values(True, True), strict=True)]
    assert any(moved)


def test_unknown_loop():
    with pytest.raises(ConfigError, match=r"loss\.loop must be one of \['ppo', 'sac'\], got 'dqn'"):
        build("loss.loop=dqn")


@pytest.mark.slow
@inductor.patch(fallback_random=True)  # the same noise in SAC's actions
@pytest.mark.parametrize(
    ("loop", "flag"),
    [
        pytest.param(TINY, "true", id="ppo"),
        pytest.param(TINY_SAC, "true", id="sac", marks=pytest.mark.thorough),
        # A CPU has no CUDA graphs: there it shows that the switch leads to the compiler, and breaks nothing.
        pytest.param(TINY, "reduce-overhead", id="ppo, graphs", marks=pytest.mark.thorough),
        pytest.param(TINY_SAC, "reduce-overhead", id="sac, graphs", marks=pytest.mark.thorough),
    ],
)
def test_compiled_learns_what_eager_learns(loop, flag):
    """With torch's own compiler: the same parameters after an update, but for rounding."""
    found = []
    for compiles in ("false", flag):
        torch.manual_seed(0)
        found.append(one_update(compose_config([*loop, *QUICK, f"compile={compiles}"])))
    (_, eager, losses), (_, compiled, its) = found
    assert losses == pytest.approx(its, rel=1e-3, abs=1e-4)
    for one, other in zip(eager, compiled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
