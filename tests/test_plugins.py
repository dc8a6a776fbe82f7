"""Third parties: an installed plug-in, a folder of YAML files, and plug-ins that are broken."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.support import TINY, command

EXAMPLE = Path(__file__).parents[1] / "tutorials" / "my_gaze"
SHORT = [*TINY, "total_frames=128", "evaluation.video_episodes=0"]


def with_path(*folders: Path) -> dict:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The example, built and installed by pip, in a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", str(folder), str(EXAMPLE)], check=True)
    return folder


def broken_plugin(folder: Path, name: str) -> None:
    """A distribution whose module cannot be imported."""
    (folder / f"{name}.py").write_text("raise RuntimeError('half written')\n")
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[gaze_torchrl.plugins]\n{name} = {name}\n")


@pytest.mark.slow
def test_gaze_of_a_plugin_trains_by_its_name(installed, tmp_path):
    """A component with a YAML file and one without; a broken neighbour is reported and does not matter."""
    broken_plugin(tmp_path, "halfway")
    options = ["gaze=stripe", "gaze.sigma=0.2", "labels=step_reward", "labels.scale=2", f"run_dir={tmp_path / 'run'}"]
    run = command("train", *SHORT, *options, env=with_path(installed, tmp_path))
    assert run.returncode == 0, run.stderr
    assert "The plug-in 'halfway' is broken and was left out: halfway: RuntimeError: half written" in run.stderr
    resolved = (tmp_path / "run" / "config.yaml").read_text()
    assert "my_gaze.StripeGaze" in resolved
    assert "sigma: 0.2" in resolved
    assert "scale: 2" in resolved
    again = command("evaluate", str(tmp_path / "run"), env=with_path(installed))
    assert again.returncode == 0, again.stderr


def test_gaze_list_shows_plugins(installed, tmp_path):
    broken_plugin(tmp_path, "halfway")
    listing = command("show", "gaze", env=with_path(installed, tmp_path))
    assert "stripe" in listing.stdout
    assert "foveal" in listing.stdout
    assert "halfway" in listing.stderr
    assert "The reward of the step itself" in command("show", env=with_path(installed)).stdout
    assert "scale: 1.0" in command("show", "step_reward", env=with_path(installed)).stdout


def test_unknown_field_of_a_plugin_is_refused(installed):
    run = command("train", *SHORT, "gaze=stripe", "gaze.zigma=1", env=with_path(installed))
    assert run.returncode == 2
    assert "Unknown key 'gaze.zigma'. Did you mean 'sigma'?" in run.stderr


def test_folder_of_yaml_files(tmp_path):
    """The search path of Hydra: a user's own YAML beside ours."""
    (tmp_path / "mine" / "gaze").mkdir(parents=True)
    (tmp_path / "mine" / "gaze" / "narrow.yaml").write_text(
        "# A narrow fovea.\ndefaults:\n  - foveal\n  - _self_\nhead:\n  min_sigma: 0.05\n"
    )
    run = command(
        "train", *SHORT, f"hydra.searchpath=[file://{tmp_path / 'mine'}]", "gaze=narrow", f"run_dir={tmp_path / 'run'}"
    )
    assert run.returncode == 0, run.stderr
    assert "min_sigma: 0.05" in (tmp_path / "run" / "config.yaml").read_text()
