"""A benchmark small enough for tests, and the command as a user runs it."""

import csv
import subprocess
import sys
from pathlib import Path

from gaze_torchrl.benchmark.results import RESULTS, SHIFTS, write_table, write_text
from gaze_torchrl.benchmark.spec import Benchmark

SETTING = [
    "task=easy", "env.num_envs=8", "env.image_size=32", "collector.frames_per_batch=128", "loss.minibatch=64",
    "loss.epochs=1", "bank.min_steps=64", "evaluation.every=256", "evaluation.episodes=4", "checkpoint.every=256",
]  # fmt: skip


def yaml(folder: Path, variants: str, frames: int, more: str = "") -> str:
    """Write a benchmark named tiny into a folder; the override that makes it known."""
    (folder / "benchmark").mkdir(exist_ok=True)
    (folder / "benchmark" / "tiny.yaml").write_text(
        f"""# @package _global_
# For tests.
settings:
  easy: [{", ".join(SETTING)}]
variants: {variants}
baseline: plain_cnn
seeds: [1]
frames: {frames}
{more}
"""
    )
    return f"hydra.searchpath=[file://{folder}]"


def bench_command(*arguments: str) -> list[str]:
    code = "import sys; from gaze_torchrl.benchmark.cli import bench; sys.argv[0] = 'gaze-bench'; bench()"
    return [sys.executable, "-c", code, *arguments]


def bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        bench_command(*arguments), cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def without_time(path: Path) -> list[dict[str, str]]:
    """Rows of a table without what differs from machine to machine."""
    return [{key: row[key] for key in row if key not in ("frames_per_second", "wall_seconds")} for row in table(path)]


def synthetic(folder: Path, curves: dict, *, shifts: dict | None = None, **changes) -> Path:
    """A folder of results with known numbers.

    ``curves``: by (setting, variant) a list of seeds, each a list of scores after 1000, 2000, ... frames; the return is
    ten times the score. ``shifts``: by (setting, variant, condition) a score for each seed.
    """
    settings, variants = (list(dict.fromkeys(key[i] for key in curves)) for i in (0, 1))
    spec = {
        "name": "synthetic",
        "settings": {one: [f"task={one}"] for one in settings},
        "variants": {one: [] for one in variants},
        "baseline": "base",
        "pairs": [],
        "seeds": [1],
        "frames": None,
        "score": "success_at_end",
        "threshold": {"metric": "return", "level": "baseline"},
        "suites": [],
        "runs": "runs",
        "results": str(folder),
    }
    rows = []
    for (setting, variant), seeds in curves.items():
        for seed, scores in enumerate(seeds, 1):
            for i, score in enumerate(scores, 1):
                rows.append(
                    {
                        **dict.fromkeys(RESULTS, ""),
                        **{"setting": setting, "variant": variant, "seed": seed, "commit": "abc", "frames": 1000 * i},
                        **{"return": 10 * score, "success_at_end": score, "frames_per_second": 100 * seed},
                        "wall_seconds": 10 * i,
                    }
                    | {"gaze_on_target": 0.02 if variant == "base" else 0.05}
                    | ({} if variant == "base" else {"gaze_distance": 0.1 * seed})
                )
    write_text(folder / "benchmark.yaml", Benchmark(**{**spec, **changes}).yaml())
    write_table(folder / "results.csv", RESULTS, rows)
    if shifts is not None:
        moved = [
            {
                **dict.fromkeys(SHIFTS, ""),
                **{"setting": setting, "variant": variant, "seed": seed, "commit": "abc", "frames": 1000},
                **{"suite": "clutter_levels", "condition": condition, "success_at_end": score},
            }
            for (setting, variant, condition), scores in shifts.items()
            for seed, score in enumerate(scores, 1)
        ]
        write_table(folder / "shifts.csv", SHIFTS, moved)
    return folder
