"""A run that is stopped, in whatever way, and goes on: as if it had not been stopped."""

import builtins
import csv
import json
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import pytest
from omegaconf import OmegaConf
from torchrl.checkpoint import CheckpointError

from gaze_torchrl.training.experiment import resume_run
from gaze_torchrl.training.explain import ConfigError
from gaze_torchrl.training.run_folder import RunFolder
from gaze_torchrl.training.run_state import RunState
from tests.training.support import LONG, TINY, TINY_SAC, Stopped, command, stop_at, stopped_run, tiny_run

CASES = {
    "ppo": [],
    "sac": ["loss=sac"],
    "ppo, everything with a state": [
        "normalize=running_quantile",
        "key=projected",
        "key.dim=8",
        "augment=random_shift",
        "regularizer=gaze",
        "regularizer.spread=0.1",
        "bank.capacity=256",
        "bank.mine_every=200",
    ],
    "sac, everything with a state": [
        "loss=sac",
        "loss.replay.n_steps=3",
        "loss.updates_per_frame=0.03",
        "loss.replay.capacity=300",
        "contrast=curl",
        "contrast.anneal_frames=500",
        "augment=overlay",
    ],
    "an optimizer of the contrast's own": [
        "contrast.own_learning_rate=1e-3",
        "contrast.embedding=glimpse",
        "contrast.pretrain_frames=600",
        "key=joint",
    ],
    "redq": ["loss=sac", *TINY_SAC, "loss=redq"],
    "crossq": ["loss=sac", *TINY_SAC, "loss=crossq"],
}


def results(folder):
    """What equal runs have in common, to the byte: numbers, and the tensors of the last networks."""
    files = {path.name: path.read_bytes() for path in folder.glob("*.csv") if path.name != "timings.csv"}
    with zipfile.ZipFile(max((folder / "checkpoints").glob("checkpoint-*"))) as archive:
        files |= {name: archive.read(name) for name in archive.namelist() if name.endswith(".memmap")}
    return files


def assert_same_results(one, other):
    one, other = results(one), results(other)
    assert one.keys() == other.keys()
    for name, content in one.items():
        assert content == other[name], name


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of PPO."""
    return tiny_run(tmp_path_factory.mktemp("whole") / "run", *LONG)


# The two plain ones are also killed, further below.
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(one, id=name, marks=pytest.mark.thorough if name in ("ppo", "sac") else ())
        for name, one in CASES.items()
    ],
)
def test_goes_on_exactly(overrides, tmp_path, monkeypatch):
    expected = tiny_run(tmp_path / "whole", *overrides, *LONG)
    folder = stopped_run(tmp_path / "run", monkeypatch, *overrides)
    with (folder / "metrics.csv").open() as file:
        assert [row["frames"] for row in csv.DictReader(file)][-1] == "640", "128 frames past the last saved state"
    assert resume_run(folder) == folder
    assert_same_results(folder, expected)
    assert not (folder / "state").exists(), "nothing is left to go on with"


@pytest.mark.slow
@pytest.mark.parametrize("tiny", [TINY, TINY_SAC], ids=["ppo", "sac"])
def test_killed_at_random_moments(tiny, tmp_path):
    """kill -9, twice, whatever the process is doing, and gaze-train resume=RUN."""
    options = [*tiny, *LONG]
    assert command("train", *options, f"run_dir={tmp_path}/whole").returncode == 0
    run, rows = tmp_path / "run", random.Random().sample(range(1, 8), 2)
    begin = "import sys; from gaze_torchrl.cli import train; sys.argv[0] = 'gaze-train'; train()"
    arguments = [*options, f"run_dir={run}"]
    for row in sorted(rows):
        process = subprocess.Popen([sys.executable, "-c", begin, *arguments], stderr=subprocess.PIPE)
        while process.poll() is None and lines(run / "metrics.csv") <= row:
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        arguments = [f"resume={run}"]
    if (run / "state").exists():  # else it was complete before the second kill
        resumed = command("train", f"resume={run}")
        assert resumed.returncode == 0, f"killed after {rows}: {resumed.stderr}"
        assert f"run_dir={run}" in resumed.stdout
    assert_same_results(run, tmp_path / "whole")


def test_a_run_that_ends_where_its_state_is_keeps_what_it_has_learnt(tmp_path, monkeypatch):
    """Its last networks were neither evaluated nor saved when it was stopped."""
    folder = stopped_run(tmp_path / "run", monkeypatch, frames=600)
    saved = max(path.stem for path in (folder / "state").iterdir()).rpartition("-")[2]
    assert resume_run(folder, [f"total_frames={int(saved)}"]) == folder
    with (folder / "evaluation.csv").open() as file:
        assert int([row["frames"] for row in csv.DictReader(file)][-1]) == int(saved)
    assert int(max((folder / "checkpoints").glob("checkpoint-0*")).stem.rpartition("-")[2]) == int(saved)


def lines(path):
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_stopped_before_anything_was_saved(whole, tmp_path, monkeypatch):
    folder = stopped_run(tmp_path / "run", monkeypatch, frames=256)
    assert not (folder / "state").exists()
    resume_run(folder)
    assert_same_results(folder, whole)


def test_networks_of_a_run_without_a_state_are_not_lost(tmp_path, monkeypatch):
    options = [*LONG, "checkpoint.every=100_000", "evaluation.every=128"]
    whole, folder = tiny_run(tmp_path / "whole", *options), tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, 400)
        with pytest.raises(Stopped):
            tiny_run(folder, *options)
    kept = {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}
    rows = (folder / "metrics.csv").read_text()
    assert kept
    with pytest.warns(UserWarning, match=r"ended before its first state was saved .* begins anew; .*abandoned"):
        resume_run(folder)
    assert_same_results(folder, whole)
    assert {path.name: path.read_bytes() for path in (folder / "abandoned").glob("checkpoint*")} == kept
    assert (folder / "abandoned" / "metrics.csv").read_text() == rows


def test_a_run_of_an_older_version_that_measured_less(whole, tmp_path, monkeypatch):
    """It goes on, with the columns that it has."""
    new, load = {"gaze_distance_agent", "contrast_grad_share", "neighbor_similarity"}, RunState.load_state_dict
    folder = stopped_run(tmp_path / "run", monkeypatch)
    expected = shutil.copy(whole / "metrics.csv", tmp_path / "expected.csv")
    for path in (folder / "metrics.csv", expected):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [name for name in rows[0] if name not in new], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)

    def load_older(self, state):
        del state["root"]["truth"]["agent"]
        load(self, state)

    monkeypatch.setattr(RunState, "load_state_dict", load_older)
    resume_run(folder)
    assert (folder / "metrics.csv").read_text() == expected.read_text()


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)


class Evil:
    """Would leave a trace if it were unpickled."""

    def __reduce__(self):
        return exec, ("import builtins; builtins.unpickled = True",)


def poison(path):
    """A pickle in place of the learner's tensors, listed as they were."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(content["manifest.json"])
    manifest["components"]["learner"]["files"] = ["state.pt"]
    content = {name: one for name, one in content.items() if "learner" not in name}
    content["components/0000-learner/state.pt"] = pickle.dumps(Evil())
    content["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, one in content.items():
            archive.writestr(name, one)


SPOILS = pytest.mark.parametrize(
    "spoil", [damage, poison, lambda path: path.write_bytes(b"")], ids=["torn", "evil", "empty"]
)


@SPOILS
def test_refuses_what_is_not_whole_and_takes_an_older_state(spoil, whole, tmp_path, monkeypatch):
    folder = stopped_run(tmp_path / "run", monkeypatch)
    states = sorted((folder / "state").iterdir(), reverse=True)
    assert len(states) == 2
    spoil(states[0])
    with pytest.warns(UserWarning, match="was refused, and an older state is looked for"):
        resume_run(folder)
    assert_same_results(folder, whole)
    assert not hasattr(builtins, "unpickled")


@SPOILS
def test_no_state_is_whole(spoil, tmp_path, monkeypatch):
    """A run that was far is not begun anew, over what it has logged, without being asked."""
    folder = stopped_run(tmp_path / "run", monkeypatch)
    for path in (folder / "state").iterdir():
        spoil(path)
    before = {path.name: path.read_bytes() for path in folder.glob("*.csv")}
    with (
        pytest.warns(UserWarning, match="was refused"),
        pytest.raises(CheckpointError, match=r"has 640 frames, but no whole state to go on with in .*state; nothing"),
    ):
        resume_run(folder)
    shutil.rmtree(folder / "state")
    with pytest.raises(CheckpointError, match="has 640 frames, but no whole state"):
        resume_run(folder)
    assert {path.name: path.read_bytes() for path in folder.glob("*.csv")} == before


def test_rows_that_are_gone(tmp_path, monkeypatch):
    folder = stopped_run(tmp_path / "run", monkeypatch)
    text = (folder / "metrics.csv").read_text().splitlines(keepends=True)
    (folder / "metrics.csv").write_text("".join(row for row in text if not row.startswith("512,")))
    with pytest.raises(CheckpointError, match=r"metrics\.csv has lost its row of 512 frames"):
        resume_run(folder)


def test_one_process_at_a_time(whole, tmp_path, monkeypatch):
    folder = stopped_run(tmp_path / "run", monkeypatch)
    other = RunFolder(folder, OmegaConf.load(folder / "config.yaml"), resume=True)
    other.find_state()
    with pytest.raises(FileExistsError, match="Another process is at work on"):
        resume_run(folder)
    other.close()
    (folder / "notes.csv").write_text("a table,of one's own\n1,2\n")
    leftover = folder / "state" / ".checkpoint-000000000640.stage-1"
    leftover.mkdir()
    (leftover / "half").write_bytes(b"written by a process that was killed")
    (folder / "checkpoints" / ".archive-1").write_bytes(b"likewise")
    resume_run(folder)
    assert not list((folder / "checkpoints").glob(".*"))
    (folder / "notes.csv").unlink()
    assert_same_results(folder, whole)


def test_tensorboard_goes_on_where_the_run_does(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    folder = stopped_run(tmp_path / "run", monkeypatch, "logger=tensorboard")
    resume_run(folder)
    logs = {path.parent for path in folder.rglob("events.out.tfevents.*")}
    read = EventMultiplexer({str(path): str(path) for path in logs}).Reload()
    steps = [
        [one.step for one in read.Scalars(str(path), "metrics/reward")]
        for path in logs
        if "metrics/reward" in EventAccumulator(str(path)).Reload().Tags()["scalars"]
    ]
    assert steps == [[128, 256, 384, 512, 640, 768, 896, 1024]]


def test_state_of_another_format(tmp_path, monkeypatch):
    monkeypatch.setattr("gaze_torchrl.training.run_folder.FORMAT", 0)
    folder = stopped_run(tmp_path / "run", monkeypatch)
    monkeypatch.setattr("gaze_torchrl.training.run_folder.FORMAT", 1)
    before = (folder / "metrics.csv").read_bytes()
    with pytest.raises(
        CheckpointError, match=r"has format 0, written by gaze_torchrl .*, which reads format 1: use the version"
    ):
        resume_run(folder)
    assert (folder / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("method", "limit", "named"),
    [("save_state", 100_000, "The state"), ("save_networks", 1_000, "The checkpoint"), ("log", 10, r"\w+\.csv")],
)
def test_full_disk_leaves_the_last_state(method, limit, named, whole, tmp_path, monkeypatch):
    """A limit on the size of files stands for the disk: writing fails in the middle of it."""
    write = getattr(RunFolder, method)

    def small_disk(self, *arguments):
        full = lines(folder / "metrics.csv") > 6  # 768 frames
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit if full else soft, hard))
        try:
            return write(self, *arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, method, small_disk)
        with pytest.raises(CheckpointError, match=named + r" could not be written to .* gaze-train resume="):
            tiny_run(folder, *LONG)
    assert [path.name for path in sorted((folder / "state").iterdir())][:2] == [
        "checkpoint-000000000256.torchrl",
        "checkpoint-000000000512.torchrl",
    ][-2:], "nothing half written"
    resume_run(folder)
    assert_same_results(folder, whole)


def test_complete_run(whole):
    with pytest.raises(ConfigError, match="is complete, with 1024 frames"):
        resume_run(whole)


def test_what_may_change(tmp_path, monkeypatch):
    folder = stopped_run(tmp_path / "run", monkeypatch)
    for change in ("loss.learning_rate=1", "seed=2", "gaze=none"):
        with pytest.raises(ConfigError, match="A run goes on as it was begun: only total_frames"):
            resume_run(folder, [change])
    with pytest.raises(ConfigError, match="has learnt from 512 frames: total_frames = 256 is behind it"):
        resume_run(folder, ["total_frames=256"])
    resume_run(folder, ["total_frames=1280"])
    with (folder / "metrics.csv").open() as file:
        assert [row["frames"] for row in csv.DictReader(file)][-1] == "1280"
    assert "total_frames: 1280" in (folder / "config.yaml").read_text()


def test_no_run_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no run folder: it has no config\.yaml"):
        resume_run(tmp_path)
    failed = command("train", f"resume={tmp_path}/nowhere")
    assert failed.returncode == 2
    assert "is no run folder" in failed.stderr
    assert "Traceback" not in failed.stderr
