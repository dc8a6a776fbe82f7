"""The real thing, short: gaze-train on ManiSkill's RGB frames, with everything a run leaves behind."""

import csv
import math
import os

import imageio.v3 as iio
import pytest

from gaze_torchrl.training.suites import SUITES
from tests.envs.maniskill_support import skip_without_maniskill
from tests.training.support import command

skip_without_maniskill()
pytestmark = [pytest.mark.maniskill, pytest.mark.slow]


def test_missing_renderer_ends_with_one_message_and_leaves_nothing(tmp_path):
    environment = {**os.environ, "VK_ICD_FILENAMES": "/nowhere.json", "VK_DRIVER_FILES": "/nowhere.json"}
    failed = command("train", "env=maniskill", f"run_dir={tmp_path}/run", cwd=tmp_path, env=environment)
    assert failed.returncode == 2
    assert "install Mesa >= 24.3" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "run").exists()


def test_trains_on_pushcube(tmp_path):
    trained = command(
        "train",
        "env=maniskill",
        "task=PushCube-v1",
        "total_frames=2000",
        "threads=1",
        "collector.frames_per_batch=400",
        "loss.minibatch=100",
        "loss.epochs=2",
        "bank.min_steps=400",
        "evaluation.every=2000",
        "evaluation.episodes=2",
        "evaluation.video_episodes=2",
        f"run_dir={tmp_path}/run",
    )
    assert trained.returncode == 0, trained.stderr
    run = tmp_path / "run"
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["frames"]) for row in rows] == [400, 800, 1200, 1600, 2000]
    assert all(math.isfinite(float(row[name])) for row in rows for name in row if name.startswith("loss_"))
    assert float(rows[-1]["triplet_valid"]) > 0
    assert len(list((run / "checkpoints").iterdir())) == 1
    video = iio.imread(run / "gaze.gif")
    assert video.shape[0] == 50
    left, right = video[:, :, : video.shape[2] // 4], video[:, :, video.shape[2] // 4 : video.shape[2] // 2]
    assert (left != right).any(), "the overlay shows"
    assert video.std() > 10, "the pictures are not blank"
    judged = command("evaluate", str(run), "evaluation.episodes=2", "evaluation.seed=5")
    assert judged.returncode == 0, judged.stderr
    assert '"success_once"' in judged.stdout
    suite = command("evaluate", str(run), "suite=maniskill_shift", "evaluation.episodes=1", "env.horizon=2")
    assert suite.returncode == 0, suite.stderr
    with next(run.glob("evaluation-*maniskill_shift*/suite.csv")).open() as file:
        conditions = {row["condition"]: row for row in csv.DictReader(file)}
    assert list(conditions) == list(SUITES["maniskill_shift"])
    looks = {row["gaze_distance"] for row in conditions.values()}
    assert len(looks) > 15, "another look, another gaze"
