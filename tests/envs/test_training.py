"""Every environment by its name: two updates, with continuous and with discrete actions."""

import pytest

from gaze_torchrl.envs.rendering import RendererNotFound
from gaze_torchrl.training.agent import build_agent, build_env
from gaze_torchrl.training.config import compose_config
from gaze_torchrl.training.experiment import run_experiment
from gaze_torchrl.training.explain import ConfigError
from gaze_torchrl.training.loop import build_learner
from tests.training.support import one_update

SMALL = [
    "env.num_envs=2",
    "env.horizon=16",
    "collector.frames_per_batch=32",
    "loss.minibatch=16",
    "bank.min_steps=16",
    "labels=value_target",
]
OFF_POLICY = ["loss.warmup=0", "loss.updates_per_frame=0.1", "loss.replay.capacity=64"]
CASES = {
    "gym": ("gymnasium", ["env=gym", "task=CarRacing-v3"]),
    "ale": ("ale_py", ["env=ale", "task=Pong"]),
    "ale with discrete SAC": ("ale_py", ["env=ale", "task=Breakout", "loss=discrete_sac", *OFF_POLICY]),
    "dm_control": ("dm_control", ["env=dm_control", "task=cartpole-swingup"]),
    "dm_control with SAC on stacked frames": (
        "dm_control",
        ["env=dm_control", "task=cartpole-swingup", "env.frame_stack=3", "env.frame_skip=8", "loss=sac", *OFF_POLICY],
    ),
    "dm_control with SAC": ("dm_control", ["env=dm_control", "task=walker-walk", "loss=sac", *OFF_POLICY]),
}


@pytest.mark.parametrize(("package", "overrides"), CASES.values(), ids=CASES)
def test_two_updates(package, overrides):
    pytest.importorskip(package)
    try:
        before, after, losses = one_update(compose_config([*SMALL, *overrides]), count=2)
    except RendererNotFound as error:
        pytest.skip(str(error))
    assert all(value == value for value in losses.values()), losses
    assert any((a != b).any() for a, b in zip(before, after, strict=True))
    assert losses["triplet_valid"] > 0


def test_success_needs_an_environment_with_a_goal():
    pytest.importorskip("gymnasium")
    config = compose_config([*SMALL, "env=gym", "task=CarRacing-v3", "labels=success"])
    env = build_env(config, 2, 0)
    with pytest.raises(ConfigError, match=r"labels=success .* env=gym has no goal .* labels=return_to_go"):
        build_learner(config, build_agent(config, env), env)


def test_encoder_takes_the_channels_there_are():
    pytest.importorskip("ale_py")
    for overrides, channels in ((["env.frame_stack=4"], 4), (["env.grayscale=false", "env.frame_stack=2"], 6)):
        config = compose_config([*SMALL, "env=ale", *overrides])
        agent = build_agent(config, build_env(config, 2, 0))
        assert agent.trunk.encoder.in_channels == channels


def test_an_augmentation_of_colours_refuses_stacked_frames():
    pytest.importorskip("ale_py")
    config = compose_config([*SMALL, "env=ale", "env.frame_stack=4", "augment=color_jitter"])
    with pytest.raises(ConfigError, match=r"ColorJitter reads .* 3 channels, but env=ale shows 4.* another augment"):
        build_agent(config, build_env(config, 2, 0))


def test_encoder_that_reads_colour_pictures_only():
    pytest.importorskip("ale_py")
    pytest.importorskip("timm")
    config = compose_config([*SMALL, "env=ale", "env.frame_stack=4", "encoder=pretrained", "encoder.library=timm"])
    with pytest.raises(ConfigError, match="PretrainedEncoder reads pictures of 3 channels, but env=ale shows 4"):
        build_agent(config, build_env(config, 2, 0))


def test_run_of_an_environment_that_cannot_be_restored_is_saved(tmp_path):
    pytest.importorskip("dm_control")
    shorter = [*SMALL, "loss.epochs=1", "total_frames=32", "evaluation.episodes=1", "evaluation.video_episodes=0"]
    config = compose_config([*shorter, "env=dm_control", "task=cartpole-swingup", f"run_dir={tmp_path}/run"])
    try:
        folder = run_experiment(config)
    except RendererNotFound as error:
        pytest.skip(str(error))
    assert (folder / "learning_curve.png").exists()
