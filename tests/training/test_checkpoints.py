"""The networks that a run keeps: the newest, the best, and what the states of a run in progress go back to."""

import shutil

import pytest
from torchrl.checkpoint import CheckpointError

from gaze_torchrl.training import loop
from gaze_torchrl.training.experiment import resume_run
from gaze_torchrl.training.explain import ConfigError
from gaze_torchrl.training.run_folder import RunFolder
from tests.training.support import LONG, Stopped, stop_at, stopped_run, tiny_run


def test_networks_of_another_format(tmp_path, monkeypatch):
    from gaze_torchrl.training.experiment import evaluate_run

    monkeypatch.setattr("gaze_torchrl.training.run_folder.FORMAT", 0)
    folder = tiny_run(tmp_path / "run", "evaluation.video_episodes=0")
    with pytest.raises(CheckpointError, match=r"checkpoint-\d+\.torchrl has format 0, written by gaze_torchrl \d"):
        evaluate_run(folder)


def test_what_a_state_goes_back_to_is_there_still(tmp_path, monkeypatch):
    """Later evaluations, one of them better, must not cost the best networks of the state that a run goes back to."""
    returns, evaluate = iter([5, 9, 1, 2, 20, 3, 4]), loop.evaluate
    monkeypatch.setattr(loop, "evaluate", lambda *given: {**evaluate(*given), "return": float(next(returns, 0))})
    often = ["evaluation.every=128", "checkpoint.every=512", "checkpoint.keep_last=1"]
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, 1000)
        with pytest.raises(Stopped):
            tiny_run(folder, *LONG, *often)
    assert kept(folder) == [256, 512, 640, 896], "of the state, and the best and the newest since"
    with monkeypatch.context() as patch:
        stop_at(patch, 600)
        with pytest.raises(Stopped):
            resume_run(folder)
    assert kept(folder) == [256, 512]
    resume_run(folder)
    assert kept(folder) == [256, 1024], "the best and the newest, once there are no states"


def kept(folder):
    return sorted(int(path.stem.rpartition("-")[2]) for path in (folder / "checkpoints").glob("checkpoint-*.torchrl"))


def test_networks_of_a_future_that_is_taken_back_are_gone(tmp_path, monkeypatch):
    """The state is of 512 frames: networks of 640 must not be taken for the newest."""
    folder = stopped_run(tmp_path / "run", monkeypatch)
    networks = folder / "checkpoints"
    shutil.copy(networks / "checkpoint-000000000384.torchrl", networks / "checkpoint-000000000640.torchrl")
    found = []

    def look(self, *arguments):
        found.extend(path.stem for path in networks.glob("checkpoint-*"))
        raise Stopped

    monkeypatch.setattr(RunFolder, "log", look)
    with pytest.raises(Stopped):
        resume_run(folder)
    assert found == ["checkpoint-000000000384"]


def test_best_networks_are_kept_and_judged(tmp_path, monkeypatch):
    """The best evaluation comes first here, and its checkpoint outlives the last two."""
    from gaze_torchrl.training import loop
    from gaze_torchrl.training.experiment import evaluate_run

    returns = iter([5.0, 9.0, 1.0, 2.0, 3.0])
    judge = loop.evaluate
    monkeypatch.setattr(loop, "evaluate", lambda *arguments: {**judge(*arguments), "return": next(returns)})
    folder = tiny_run(tmp_path / "run", *LONG, "evaluation.every=256", "total_frames=1280")
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert kept == [f"checkpoint-{frames:012}.torchrl" for frames in (512, 1024, 1280)]
    assert evaluate_run(folder, best=True)[1]["frames"] == 512
    assert evaluate_run(folder)[1]["frames"] == 1280


def test_best_by_a_metric_that_there_is(tmp_path):
    with pytest.raises(ConfigError, match=r"checkpoint.keep_best must be one of \['return', .* or null, got 'score'"):
        tiny_run(tmp_path / "run", "checkpoint.keep_best=score")
    folder = tiny_run(tmp_path / "run", "checkpoint.keep_best=null")
    from gaze_torchrl.training.experiment import evaluate_run

    with pytest.raises(ConfigError, match=r"checkpoint=best needs a run with checkpoint.keep_best"):
        evaluate_run(folder, best=True)
