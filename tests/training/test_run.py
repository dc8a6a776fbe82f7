"""Whole runs: what they leave behind, that they repeat, and what is refused."""

import csv
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import imageio.v3 as iio
import pytest
import torch
from omegaconf import OmegaConf
from torchrl.checkpoint import CheckpointError

from gaze_torchrl.registry import BUILDER_KEYS
from gaze_torchrl.training.agent import build_agent, build_env
from gaze_torchrl.training.checkpoints import load_agent
from gaze_torchrl.training.config import compose_config
from gaze_torchrl.training.experiment import evaluate_run
from gaze_torchrl.training.explain import ConfigError
from tests.training.support import TINY, command, tiny_run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("runs") / "run")


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def everything(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_leaves_what_it_promises(run):
    names = {path.name for path in run.iterdir()}
    promised = {"config.yaml", "metrics.csv", "evaluation.csv", "timings.csv", "checkpoints", "learning_curve.png"}
    assert promised | {"gaze.gif"} == names
    metrics, evaluation = rows(run / "metrics.csv"), rows(run / "evaluation.csv")
    assert [row["frames"] for row in metrics] == ["128", "256"]
    assert float(metrics[-1]["triplet_valid"]) > 0
    assert {"return", "success_at_end", "gaze_distance", "gaze_on_target"} <= set(evaluation[-1])
    assert iio.imread(run / "gaze.gif").shape[0] == 20
    assert len(list((run / "checkpoints").iterdir())) == 2


def test_a_contrast_may_fade_while_it_trains(tmp_path):
    faded = rows(tiny_run(tmp_path / "run", "contrast.anneal_frames=200") / "metrics.csv")
    assert [float(row["loss_contrast"]) > 0 for row in faded] == [True, False]


def test_config_is_resolved_and_builds_the_same_agent(run):
    config = OmegaConf.load(run / "config.yaml")
    assert "${" not in (run / "config.yaml").read_text()
    env = build_env(config, 2, 0)
    agent = build_agent(config, env)
    assert load_agent(run, agent) == 256


@pytest.mark.slow
def test_same_seed_same_metrics(tmp_path):
    """In processes of their own, as a user runs them, on two threads, for longer than one epoch over one rollout."""
    options = [*TINY, "threads=2", "loss.epochs=3", "total_frames=512"]
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        trained = command("train", *options, f"seed={seed}", f"run_dir={tmp_path}/{name}", cwd=tmp_path)
        assert trained.returncode == 0, trained.stderr
    for file in ("metrics.csv", "evaluation.csv"):
        one, again, other = ((tmp_path / name / file).read_bytes() for name in ("one", "again", "other"))
        assert one == again != other


def test_run_that_was_configured_before_there_was_a_key_is_evaluated(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    config = OmegaConf.load(copy / "config.yaml")
    for key in [key for key, default in BUILDER_KEYS["contrast"].items() if default is None]:
        del config.contrast[key]
    OmegaConf.save(config, copy / "config.yaml")
    assert (evaluate_run(copy)[0] / "metrics.json").exists()


def test_evaluation_of_a_run_repeats_its_last_one(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    folder, metrics = evaluate_run(copy)
    last = rows(run / "evaluation.csv")[-1]
    assert {name: float(value) for name, value in last.items()} == pytest.approx(metrics)
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert (folder / "gaze.gif").exists()


def test_evaluation_elsewhere(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    _, here = evaluate_run(copy)
    _, shifted = evaluate_run(copy, ["env.level=shift"])
    assert here["return"] != shifted["return"]
    wrong = {
        "env.levl=shift": "Did you mean 'level'",
        "task=shift": r"env\.level=shift",
        "env.level": "single",
        "gaze.head=mlp": "cannot change a run: its components",
        "+foo=1": r"Unknown key '\+foo'\. The configuration has",
        "env.level=[a": "The run's configuration is",
        "checkpoint=bst": "checkpoint must be best, or left out for the newest, got 'bst'",
    }
    for override, match in wrong.items():
        with pytest.raises(ConfigError, match=match):
            evaluate_run(copy, [override])


@pytest.mark.parametrize("chosen", ["task=shift", "env.level=shift"])
def test_training_on_the_held_out_level_warns_and_evaluating_there_does_not(chosen, run, tmp_path, recwarn):
    evaluate_run(shutil.copytree(run, tmp_path / "copy"), ["env.level=shift"])
    assert not [one for one in recwarn if "held out" in str(one.message)]
    with pytest.warns(UserWarning, match=r"env\.level=shift is held out"):
        tiny_run(tmp_path / "run", chosen, "total_frames=128", "evaluation.video_episodes=0")


def test_run_of_an_older_version_gets_the_defaults_of_newer_keys(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    config = OmegaConf.load(copy / "config.yaml")
    for key in ("dry_run", "compile", "checkpoint"):
        del config[key]
    OmegaConf.save(config, copy / "config.yaml")
    assert evaluate_run(copy)[1] == evaluate_run(run)[1]


def test_plain_cnn_runs(tmp_path):
    folder = tiny_run(tmp_path / "run", "gaze=none", "contrast=none")
    assert "loss_contrast" not in rows(folder / "metrics.csv")[0]
    assert "gaze_distance" not in rows(folder / "evaluation.csv")[0]


def test_tensorboard_gets_every_number(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tiny_run(tmp_path / "run", "logger=tensorboard")
    (file,) = (folder / "tensorboard").glob("*tfevents*")  # the configuration has files of its own below
    board = EventAccumulator(str(file)).Reload()
    for name in ("metrics", "evaluation"):
        for row in rows(folder / f"{name}.csv"):
            for key in set(row) - {"frames"}:
                logged = {event.step: event.value for event in board.Scalars(f"{name}/{key}")}
                assert logged[int(row["frames"])] == pytest.approx(float(row[key]), rel=1e-5, nan_ok=True)


def test_wandb_gets_every_number_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    logged, told, log = {}, {}, wandb.Run.log

    def spy(self, data, *arguments, **options):
        told.update(self.config)
        for key, value in data.items():
            logged.setdefault(key, []).append(value)
        return log(self, data, *arguments, **options)

    monkeypatch.setattr(wandb.Run, "log", spy)
    folder = tiny_run(tmp_path / "run", "logger=wandb")
    assert wandb.run is None, "the run is finished"
    (file,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    assert file.stat().st_size > 1000
    assert told["loss.learning_rate"] == 1e-3
    for name in ("metrics", "evaluation"):
        for key in set(rows(folder / f"{name}.csv")[0]) - {"frames"}:
            wanted = [float(row[key]) for row in rows(folder / f"{name}.csv")]
            assert logged[f"{name}/{key}"] == pytest.approx(wanted, rel=1e-5, nan_ok=True)


def test_mlflow_gets_every_number_of_two_runs(tmp_path):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    folders = [tiny_run(tmp_path / name, "logger=mlflow", f"logger.tracking_uri={uri}") for name in ("one", "two")]
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("gaze_torchrl").experiment_id
    runs = {run.data.params["run_dir"]: run for run in client.search_runs([experiment])}
    for folder in folders:
        run = runs[str(folder)]
        assert run.info.status == "FINISHED"
        assert run.data.params["loss.learning_rate"] == "0.001"
        for key in set(rows(folder / "evaluation.csv")[0]) - {"frames"}:
            history = client.get_metric_history(run.info.run_id, f"evaluation/{key}")
            logged = {one.step: one.value for one in history}
            for row in rows(folder / "evaluation.csv"):
                assert logged[int(row["frames"])] == pytest.approx(float(row[key]), rel=1e-6)


@pytest.mark.parametrize("logger", ["tensorboard", "wandb", "mlflow"])
def test_logger_that_is_not_installed(logger, tmp_path, monkeypatch):
    def missing(*_, **__):
        raise ImportError(f"No module named {logger!r}.")

    monkeypatch.setattr("gaze_torchrl.training.loggers.assemble", missing)
    with pytest.raises(ConfigError, match=rf"'{logger}'. Install it: pip install .gaze_torchrl\[{logger}\]"):
        tiny_run(tmp_path / "run", f"logger={logger}")
    assert not (tmp_path / "run").exists()


def test_a_folder_with_a_run_is_not_touched(run):
    before = everything(run)
    with pytest.raises(FileExistsError, match="holds a run already"):
        tiny_run(run, "logger=tensorboard")
    assert everything(run) == before


@pytest.mark.parametrize("mistake", ["contrast.margin=3", "env.image_size=5", "device=gpu", "+loss.objective.foo=1"])
def test_a_run_that_cannot_start_leaves_nothing_behind(tmp_path, mistake):
    with pytest.raises(ConfigError):
        tiny_run(tmp_path / "run", mistake)
    assert not (tmp_path / "run").exists()


def newest(run):
    return max((run / "checkpoints").iterdir(), key=lambda path: path.name)


def refuse(run, match):
    before = everything(run)
    with pytest.raises(CheckpointError, match=match):
        evaluate_run(run)
    assert everything(run) == before


def test_torn_checkpoint_is_refused(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    path = newest(copy)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refuse(copy, "was refused")


def test_flipped_bytes_are_refused(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    path = newest(copy)
    with zipfile.ZipFile(path) as archive:
        member = max(archive.infolist(), key=lambda info: info.file_size)
    content = bytearray(path.read_bytes())
    start = member.header_offset + 100 + len(member.filename)
    content[start : start + 8] = bytes(255 - byte for byte in content[start : start + 8])
    path.write_bytes(bytes(content))
    refuse(copy, "was refused")


class Malicious:
    """Leaves a mark if it is ever unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("kind", ["torch.save", "pickle", "pickle inside the archive"])
def test_pickles_are_never_loaded(run, tmp_path, kind):
    copy, mark = shutil.copytree(run, tmp_path / "copy"), tmp_path / "executed"
    path = newest(copy)
    if kind == "torch.save":
        torch.save({"actor": Malicious(mark)}, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Malicious(mark)))
    else:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("components/0000-actor/state/other.pickle", pickle.dumps(Malicious(mark)))
    refuse(copy, "was refused")
    assert not mark.exists()


def test_checkpoint_of_another_architecture_is_refused(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    with pytest.raises(CheckpointError, match="was refused"):
        evaluate_run(copy, ["gaze.num_foveae=2"])


def test_no_checkpoint_and_no_run(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(FileNotFoundError, match="No checkpoint"):
        evaluate_run(copy)
    with pytest.raises(FileNotFoundError, match="no run folder"):
        evaluate_run(tmp_path)


@pytest.mark.parametrize("override", ["seed=5", "env.num_envs=16"])
def test_what_an_evaluation_does_not_read_is_refused(run, override):
    with pytest.raises(ConfigError, match=r"would change nothing: .* is the training's\. Set evaluation\."):
        evaluate_run(run, [override])


def test_commands_as_a_user_types_them(tmp_path):
    trained = command("train", *TINY, f"run_dir={tmp_path}/run", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.rstrip().endswith(f"run_dir={tmp_path}/run")
    assert "frame/s" in trained.stderr
    again = command("train", *TINY, f"run_dir={tmp_path}/run", cwd=tmp_path)
    assert again.returncode == 2
    assert "holds a run already" in again.stderr
    judged = command("evaluate", f"{tmp_path}/run", "env.level=shift")
    assert judged.returncode == 0, judged.stderr
    assert '"success_at_end"' in judged.stdout


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["logger=null"], "leaves logger without a choice: leave it out, or see gaze-list logger."),
        (["~contrast"], "contrast=none is the one that does nothing"),
        (["gaze=foveel"], "multi_foveal"),
        (["gaze.num_fovea=1"], "num_foveae"),
        (["task=PushCube-v1"], "env=maniskill"),
    ],
)
def test_mistakes_end_with_one_message(tmp_path, arguments, match):
    failed = command("train", *arguments, cwd=tmp_path)
    assert failed.returncode == 2
    assert match in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not list(tmp_path.rglob("metrics.csv"))


def test_list():
    everything = command("show").stdout
    assert all(f"{group}=" in everything for group in ("env", "task", "gaze", "loss", "experiment"))
    assert "multi_foveal" in everything
    fields = command("show", "gaze").stdout
    assert "num_foveae: " in fields
    assert "# Gaussians per image" in fields
    shapes = command("show", "visual").stdout
    assert "gaze_torchrl.replay.miner_rules.VisualMiner(" in shapes
    assert "keys" in shapes
    unknown = command("show", "gase")
    assert unknown.returncode == 2
    assert "'gase' is neither a group nor a choice" in unknown.stderr


def test_compose_does_not_leave_hydra_behind():
    assert "hydra" not in compose_config()
