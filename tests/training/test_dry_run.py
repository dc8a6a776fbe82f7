"""A dry run does everything and keeps nothing."""

import pytest
from omegaconf import OmegaConf

from gaze_torchrl.training import dry_run as module
from gaze_torchrl.training.config import compose_config
from gaze_torchrl.training.dry_run import dry_run, shortened
from gaze_torchrl.training.explain import ConfigError, config_dir
from gaze_torchrl.training.run_folder import RunFolder
from tests.training.support import command

EXPERIMENTS = sorted(path.stem for path in (config_dir() / "experiment").glob("*.yaml"))
HARD = {
    "n-step sac": ["experiment=sac_clutter", "loss.replay.n_steps=3"],
    "curl": ["contrast=curl", "augment=random_shift"],
    "redq": ["experiment=sac_clutter", "loss=redq"],
    "one lane": ["env.num_envs=1", "collector.frames_per_batch=64", "loss.minibatch=16"],
}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_preset_can_be_shortened(experiment, tmp_path):
    config = compose_config([f"experiment={experiment}"])
    short = shortened(config, tmp_path)
    assert short.total_frames <= 64
    for part in ("encoder", "readout", "gaze", "labels", "miner", "contrast", "key"):
        assert short[part] == config[part]
    assert OmegaConf.is_struct(short)


@pytest.mark.parametrize(("env", "horizon"), [("gym", 4), ("ale", 4), ("dm_control", 4), ("maniskill", 12)])
def test_an_episode_is_four_steps_whatever_is_skipped(env, horizon, tmp_path):
    experiment = ["experiment=sac_maniskill"] if env == "maniskill" else []
    short = shortened(compose_config([f"env={env}", *experiment, "env.frame_skip=3"]), tmp_path)
    assert short.env.horizon == horizon


@pytest.mark.parametrize(
    "overrides", [[f"experiment={one}"] for one in EXPERIMENTS if "clutter" in one] + list(HARD.values())
)
def test_does_everything(overrides, monkeypatch):
    done = []
    for name in ("log", "save_networks", "save_state", "complete"):
        method = getattr(RunFolder, name)
        monkeypatch.setattr(
            RunFolder,
            name,
            lambda self, *rest, method=method, name=name: done.append((name, *rest[:1])) or method(self, *rest),
        )
    triplets = []
    train = module.run_experiment
    monkeypatch.setattr(module, "run_experiment", lambda config: triplets.append(train(config)))
    dry_run(compose_config([*overrides, "env.image_size=32", "threads=1"]))
    kinds = [kind if kind != "log" else rest[0] for kind, *rest in done]
    assert {"metrics", "evaluation", "timings", "save_networks", "save_state", "complete"} == set(kinds)
    assert not triplets[0].exists()


def test_command(tmp_path):
    done = command("train", "dry_run=true", "threads=1", "run_dir=one/two", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Dry run: every part works, with the others." in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_folder_of_the_users_own_stays(tmp_path):
    (tmp_path / "mine").mkdir()
    failed = command("train", "total_frames=1", "run_dir=mine", cwd=tmp_path)
    assert failed.returncode != 0
    assert (tmp_path / "mine").exists()


def test_finds_what_does_not_work():
    with pytest.raises(ConfigError, match=r"gaze.head.min_sigma must be positive"):
        dry_run(compose_config(["gaze.head.min_sigma=0"]))


def test_rollouts_of_several_processes_are_shortened_alike(tmp_path):
    options = ["collector=process", "collector.num_collectors=3", "env.num_envs=12", "collector.frames_per_batch=1536"]
    short = shortened(compose_config(options), tmp_path)
    assert short.env.num_envs % 3 == 0
    assert short.collector.frames_per_batch % short.env.num_envs == 0
