"""Numbers of one tiny run per algorithm, as they were when they were last looked at: what changes them is noticed.

Run this file as a script to write them anew, and say in the commit why they changed.
"""

import csv
from pathlib import Path

import pytest

from tests.training.support import TINY_SAC, tiny_run

GOLDEN = Path(__file__).parent / "golden"
RUNS = {
    "ppo": [],
    "sac": ["loss=sac"],
    "plain_cnn": ["gaze=none", "contrast=none"],
    "kl_ppo": ["loss=kl_ppo"],
    "a2c": ["loss=a2c"],
    "redq": ["loss=sac", *TINY_SAC, "loss=redq"],
    "crossq": ["loss=sac", *TINY_SAC, "loss=crossq"],
    "discrete_sac": ["loss=sac", *TINY_SAC, "env=ale", "task=Breakout", "loss=discrete_sac", "env.horizon=16"],
}
# Machines round differently, and networks amplify it.
TOLERANCE = {"rel": 0.02, "abs": 1e-5}


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", RUNS)
def test_same_numbers(name, tmp_path):
    if name == "discrete_sac":  # its actions are those of a game
        pytest.importorskip("ale_py")
    folder = tiny_run(tmp_path / "run", *RUNS[name], "evaluation.video_episodes=0")
    for file in ("metrics.csv", "evaluation.csv"):
        found, golden = rows(folder, file), rows(GOLDEN / name, file)
        assert [list(row) for row in found] == [list(row) for row in golden], "columns and their order"
        for row, expected in zip(found, golden, strict=True):
            for key, value in expected.items():
                assert float(row[key]) == pytest.approx(float(value), **TOLERANCE, nan_ok=True), (file, key)


def write() -> None:
    import tempfile

    import torch

    torch.set_num_threads(1)
    for name, overrides in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            run = tiny_run(Path(folder) / "run", *overrides, "evaluation.video_episodes=0")
            (GOLDEN / name).mkdir(parents=True, exist_ok=True)
            for file in ("metrics.csv", "evaluation.csv"):
                (GOLDEN / name / file).write_bytes((run / file).read_bytes())


if __name__ == "__main__":
    write()
