"""The built wheel, installed elsewhere, works outside the source tree."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmark.support import synthetic
from tests.training.support import TINY

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_wheel_trains_outside_the_tree(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT, check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(pip, check=True)
    # PYTHONPATH comes before the editable install of the source tree.
    environment = {**os.environ, "PYTHONPATH": str(site)}
    where = subprocess.run(
        [sys.executable, "-c", "import gaze_torchrl; print(gaze_torchrl.__file__)"],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(site))
    trained = subprocess.run(
        [site / "bin" / "gaze-train", *TINY, "run_dir=run"],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert trained.returncode == 0, trained.stderr
    assert (elsewhere / "run" / "learning_curve.png").exists()
    assert len((elsewhere / "run" / "metrics.csv").read_text().splitlines()) == 3
    assert str(site) not in (elsewhere / "run" / "config.yaml").read_text()
    viewed = subprocess.run(
        [site / "bin" / "gaze-view", "run"], cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
    )
    assert viewed.returncode == 0, viewed.stderr
    assert viewed.stdout == "run/view.html\n"
    assert (elsewhere / "run" / "view.html").read_text().startswith("<!doctype html>")
    # Its configurations and templates come along, too.
    results = synthetic(elsewhere / "results", {("one", "base"): [[0.1, 0.2]], ("one", "other"): [[0.2, 0.3]]})
    for arguments, code, said in (
        (["report", str(results)], 0, "report.html"),
        (["run", "demo", "frames=1"], 2, "easy/full/seed1 cannot be run"),
    ):
        done = subprocess.run(
            [site / "bin" / "gaze-bench", *arguments],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert said in done.stdout + done.stderr
