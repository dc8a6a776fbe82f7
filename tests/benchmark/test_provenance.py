"""With what code numbers were made: the commit, what makes it dirty, and where there is none."""

import json
import subprocess
from pathlib import Path

import pytest

from gaze_torchrl import __version__
from gaze_torchrl.benchmark import provenance


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with a package, configurations and results, in place of ours."""
    for name in ("package/benchmark/provenance.py", "package/__init__.py", "configs/a.yaml", "results/results.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one\n")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "package" / "benchmark" / "provenance.py"))
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_and_what_makes_it_dirty(repository):
    git(repository, "init", "-q")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "one")
    head = git(repository, "rev-parse", "--short", "HEAD")
    assert provenance.commit() == head
    (repository / "results" / "results.csv").write_text("two\n")
    assert provenance.commit() == head, "results change nothing that runs"
    (repository / "configs" / "a.yaml").write_text("two\n")
    assert provenance.commit() == f"{head}-dirty"


def test_without_a_repository_it_is_the_version(repository):
    assert provenance.commit() == __version__


def test_another_repository_around_an_installed_package_is_not_its_own(repository):
    git(repository, "init", "-q")
    git(repository, "add", "results")
    git(repository, "commit", "-qm", "one")
    assert provenance.commit() == __version__


def test_each_command_and_environment_is_recorded_once(tmp_path):
    path = tmp_path / "versions.json"
    for command, jobs in (("run demo", 2), ("run demo", 2), ("run demo", 4), ("run demo frames=9", 4)):
        provenance.record(path, f"gaze-bench {command}", jobs)
    found = json.loads(path.read_text())
    assert [one["jobs"] for one in found] == [2, 4, 4]
    assert found[-1]["command"] == "gaze-bench run demo frames=9"
    assert {"commit", "python", "packages", "machine", "cpu", "cores"} <= set(found[0])
    assert "torch" in found[0]["packages"]
