"""gaze-bench run, as a user runs it: killed and run again, with a run that fails, twice at once, on another machine."""

import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from gaze_torchrl.benchmark.runner import _alone, _undisturbed
from tests.benchmark.support import bench, bench_command, table, without_time, yaml
from tests.processes import alive, children_with

VARIANTS = "{full: [], plain_cnn: [gaze=none, contrast=none]}"
SUITES = "suites: [clutter_levels]"
RESULTS, RUNS = Path("benchmarks/results/tiny"), Path("runs/bench/tiny")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A grid of two variants that ran through, the folder it ran in, and the override that makes it known."""
    folder = tmp_path_factory.mktemp("grid")
    search = yaml(folder, VARIANTS, 1024, SUITES)
    done = bench(folder, "run", "tiny", search, "--jobs", "2")
    assert done.returncode == 0, done.stderr
    return folder, search, done


def child_of(pid: int, seconds: float = 120) -> int:
    """The gaze-train that a gaze-bench has started."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := children_with(pid, "import train"):
            return found[0]
        time.sleep(0.05)
    raise TimeoutError("no run was started")


@pytest.mark.slow
def test_every_cell_is_in_the_tables(finished):
    folder, _, done = finished
    rows = table(folder / RESULTS / "results.csv")
    cells = [(row["setting"], row["variant"], row["seed"], row["frames"]) for row in rows]
    assert cells == [("easy", one, "1", str(256 * i)) for one in ("full", "plain_cnn") for i in (1, 2, 3, 4)]
    for row in rows:
        with (folder / RUNS / "easy" / row["variant"] / "seed1" / "evaluation.csv").open() as file:
            assert any(line.startswith(f"{row['frames']},{row['return']},") for line in file)
        assert float(row["frames_per_second"]) > 0
    assert rows[0]["gaze_distance"] != ""
    assert rows[-1]["gaze_distance"] == ""
    shifts = table(folder / RESULTS / "shifts.csv")
    assert [row["condition"] for row in shifts] == ["as trained", "easy", "medium", "hard", "shift"] * 2
    assert shifts[0]["return"] == rows[3]["return"], "as trained is the last evaluation"
    assert {path.name for path in (folder / RESULTS).iterdir()} == {
        *("benchmark.yaml", "results.csv", "shifts.csv", "versions.json")
    }
    assert "2 of 2 runs are in" in done.stdout
    assert "gaze-bench report benchmarks/results/tiny" in done.stdout


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_to_the_same_results(finished, tmp_path):
    through, _, _ = finished
    search = yaml(tmp_path, VARIANTS, 1024, SUITES)
    killed = subprocess.Popen(
        bench_command("run", "tiny", search, "--jobs", "1"), cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    child = child_of(killed.pid)
    try:
        states = tmp_path / RUNS / "easy" / "full" / "seed1" / "state"
        end = time.monotonic() + 120
        while not list(states.glob("checkpoint-*")) and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(child, signal.SIGSTOP)
        assert list(states.glob("checkpoint-*")), "it was in the middle"
    finally:
        killed.kill()
        killed.wait()
    try:
        # The run that is left holds on to its folder.
        second = bench(tmp_path, "run", "tiny", search)
        assert second.returncode == 2
        assert "runs/bench/tiny is in use by another gaze-bench, or by a run that one left behind" in second.stderr
    finally:
        os.kill(child, signal.SIGKILL)
    while alive(child):
        time.sleep(0.05)
    assert not (tmp_path / RESULTS / "results.csv").exists()
    again = bench(tmp_path, "run", "tiny", search, "--jobs", "1")
    assert again.returncode == 0, again.stderr
    log = (tmp_path / RUNS / "easy" / "full" / "seed1.log").read_text()
    assert log.count("run_dir=") == 1, "the first process did not come to its end, the second one did"
    for name in ("results.csv", "shifts.csv"):
        assert without_time(tmp_path / RESULTS / name) == without_time(through / RESULTS / name)


def test_a_signal_waits_until_a_run_that_begins_is_known():
    before, done = signal.signal(signal.SIGTERM, signal.default_int_handler), []

    def begin():
        with _undisturbed():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("entered")

    try:
        with pytest.raises(KeyboardInterrupt):
            begin()
        assert done == ["entered"]
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_asked_to_end_it_ends_its_runs(tmp_path):
    search = yaml(tmp_path, VARIANTS, 100_000)
    asked = subprocess.Popen(bench_command("run", "tiny", search), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    child = child_of(asked.pid)
    asked.terminate()
    _, said = asked.communicate(timeout=60)
    assert asked.returncode == 130
    assert "Stopped. The same command goes on: gaze-bench run tiny" in said
    assert not alive(child)


@pytest.mark.slow
def test_a_finished_cell_is_not_run_again_on_another_machine(finished, tmp_path):
    through, _, _ = finished
    shutil.copytree(through / RESULTS, tmp_path / RESULTS)
    search = yaml(tmp_path, VARIANTS, 1024, SUITES)
    before = {path.name: path.read_bytes() for path in (tmp_path / RESULTS).iterdir()}
    done = bench(tmp_path, "run", "tiny", search)
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / RESULTS).iterdir()} == before
    assert [path.name for path in (tmp_path / RUNS).iterdir()] == [".lock"]


@pytest.mark.slow
def test_who_files_a_finished_run_has_not_made_it(finished):
    """Nor is it known who has, of runs from before it was noted."""
    folder, search, _ = finished
    variants = folder / RUNS / "easy"
    (variants / "full" / "seed1.commit").write_text("older")
    (variants / "plain_cnn" / "seed1.commit").unlink()
    done = bench(folder, "run", "tiny", search, "results=filed_later")
    assert done.returncode == 0, done.stderr
    made_by = {row["variant"]: row["commit"] for row in table(folder / "filed_later" / "results.csv")}
    assert made_by == {"full": "older", "plain_cnn": "unknown"}


def test_results_are_written_by_one_at_a_time(tmp_path):
    with _alone(tmp_path / RESULTS, tmp_path / RESULTS.parent / ".tiny.lock"):
        refused = bench(tmp_path, "run", "tiny", yaml(tmp_path, VARIANTS, 1024), "runs=elsewhere")
    assert refused.returncode == 2
    assert "benchmarks/results/tiny is in use by another gaze-bench" in refused.stderr


@pytest.mark.slow
def test_a_report_is_made_of_a_folder_that_lies_here(finished, tmp_path):
    through, search, _ = finished
    shutil.copytree(through / RESULTS, tmp_path / "tiny")
    done = bench(tmp_path, "report", "tiny")
    assert done.returncode == 0, done.stderr
    command = shlex.join(["gaze-bench", "run", "tiny", search, "--jobs", "2"])
    assert command in (tmp_path / "tiny" / "report.md").read_text(), "overrides and all"


@pytest.mark.slow
def test_a_cell_that_fails_is_named_and_stops_no_other(tmp_path):
    variants = "{broken: [gaze.num_foveae=0], plain_cnn: [gaze=none, contrast=none]}"
    search = yaml(tmp_path, variants, 128)
    done = bench(tmp_path, "run", "tiny", search, "--jobs", "1")
    assert done.returncode == 1
    assert "failed: easy/broken/seed1: gaze.head: gaze.num_foveae must be positive, got 0" in done.stderr
    assert "seed1.log" in done.stderr
    assert "1 of 2 runs are in" in done.stdout
    assert {row["variant"] for row in table(tmp_path / RESULTS / "results.csv")} == {"plain_cnn"}


@pytest.mark.slow
def test_a_run_of_another_configuration_is_not_gone_on_with(finished):
    folder, search, _ = finished
    refused = bench(folder, "run", "tiny", search, "frames=512", "results=elsewhere", "suites=[]")
    assert refused.returncode == 2
    assert "seed1 was begun with another configuration: total_frames was 1024, now it is 512." in refused.stderr
    assert not (folder / "elsewhere").exists()


@pytest.mark.slow
def test_results_of_another_definition_are_not_mixed(finished):
    folder, search, _ = finished
    refused = bench(folder, "run", "tiny", search, "frames=512", "seeds=[9]")
    assert refused.returncode == 2
    assert "was made with frames of easy = 1024, now it is 512" in refused.stderr


@pytest.mark.slow
def test_results_of_another_version_are_not_mixed(tmp_path):
    search = yaml(tmp_path, VARIANTS, 128)
    (tmp_path / RESULTS).mkdir(parents=True)
    (tmp_path / RESULTS / "results.csv").write_text("method,seed,commit,frames,return\n")
    refused = bench(tmp_path, "run", "tiny", search)
    assert refused.returncode == 2
    assert "was written by another version: its columns lack" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "dmo"], "Did you mean 'demo'"),
        (["run", "demo", "--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["run", "demo", "frames=1"], "easy/full/seed1 cannot be run"),
        (["run", "demo", "--jobs", "1", "frames=1"], "easy/full/seed1 cannot be run"),
        (["run", "demo", "--job", "1", "--frames=1"], "unrecognized arguments: --frames=1"),
        (["report", "nothing"], "benchmarks/results/nothing holds no results: gaze-bench run NAME writes"),
    ],
)
def test_mistakes_end_with_one_message(tmp_path, arguments, message):
    done = bench(tmp_path, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "benchmarks").exists()
