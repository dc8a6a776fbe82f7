"""Learning on clutter: the full method, the plain CNN, the gaze without contrast, and with its returns shuffled.

python benchmarks/clutter_learning.py [--seeds 1 2 3] [--methods ...] [--jobs 2] [--runs FOLDER] [overrides ...]

Runs the demo's configuration, for longer, once per method and seed, ``--jobs`` at a time, one thread each. A run that
is complete is not run again, so an interrupted benchmark goes on where it was. Writes to
benchmarks/results/clutter_learning/: curves.csv (every evaluation of every run), curves.png, and README.md with the
table, the command and the versions.
"""

import argparse
import csv
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

METHODS = {
    "full": [],
    "plain CNN": ["gaze=none", "contrast=none"],
    "gaze without contrast": ["contrast=none"],
    "shuffled returns": ["miner=shuffled_returns"],
}
KEPT = ("frames", "return", "success_at_end", "success_once", "success_time", "gaze_distance")
RESULTS = Path(__file__).parent / "results" / "clutter_learning"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=list(METHODS))
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    parser.add_argument("--runs", type=Path, default=Path("runs/clutter_learning"))
    parser.add_argument("overrides", nargs="*", help="of every run, such as task=hard")
    arguments = parser.parse_args()
    jobs = [(method, seed) for method in arguments.methods for seed in arguments.seeds]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        folders = list(pool.map(lambda job: train(*job, arguments.runs, arguments.overrides), jobs))
    rows = [
        {"method": method, "seed": seed, **{key: row.get(key) for key in KEPT}}
        for (method, seed), folder in zip(jobs, folders, strict=True)
        for row in read(folder / "evaluation.csv")
    ]
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / "curves.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    plot(rows)
    report(rows, arguments)


def train(method: str, seed: int, runs: Path, overrides: list[str]) -> Path:
    """One run; its folder."""
    folder = runs / "-".join([method.replace(" ", "-"), f"seed{seed}", *overrides])
    if (folder / "learning_curve.png").exists():  # the last thing a run writes
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    gaze_train = Path(sys.executable).parent / "gaze-train"
    command = [gaze_train, "experiment=demo", "total_frames=80_000", f"seed={seed}", "threads=1", f"run_dir={folder}"]
    command += [*METHODS[method], *overrides]
    subprocess.run([*command, "evaluation.video_episodes=0"], check=True, stdout=subprocess.DEVNULL)
    return folder


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def last(rows: list[dict], method: str, key: str) -> list[float]:
    """The final evaluation of each seed."""
    frames = max(int(row["frames"]) for row in rows)
    return [
        float(row[key]) for row in rows if row["method"] == method and int(row["frames"]) == frames and row.get(key)
    ]


def plot(rows: list[dict]) -> None:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = {"success_at_end": "success at the end", "gaze_distance": "gaze: distance to target"}
    for axes, (key, title) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for color, method in zip(("tab:blue", "tab:gray", "tab:orange", "tab:red"), METHODS, strict=True):
            runs: dict[int, list[float]] = {}
            for row in rows:
                if row["method"] == method and row.get(key):
                    runs.setdefault(int(row["frames"]), []).append(float(row[key]))
            if runs:
                frames = np.array(list(runs)) / 1000
                values = np.array(list(runs.values()))
                axes.plot(frames, values, color=color, alpha=0.3, linewidth=0.8)
                axes.plot(frames, values.mean(1), color=color, label=method, linewidth=2)
        axes.set(title=title, xlabel="thousand frames")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(RESULTS / "curves.png", dpi=110)


def report(rows: list[dict], arguments: argparse.Namespace) -> None:
    frames = max(int(row["frames"]) for row in rows)
    lines = [
        "# Learning on clutter",
        "",
        f"Final evaluation after {frames:,} frames: 64 episodes on fixed seeds, actions without noise. Each number "
        f"is one seed ({', '.join(map(str, arguments.seeds))}), then their mean. So few seeds show whether a method "
        "works, not which of two close ones is better.",
        "",
        "| method | success at the end | return | gaze: distance to target |",
        "|---|---|---|---|",
    ]
    for method in arguments.methods:
        cells = []
        for key, digits in (("success_at_end", 2), ("return", 1), ("gaze_distance", 2)):
            values = last(rows, method, key)
            each = ", ".join(f"{value:.{digits}f}" for value in values)
            cells.append(f"{each}: **{np.mean(values):.{digits}f}**" if values else "-")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    packages = ", ".join(f"{name} {version(name)}" for name in ("gaze_torchrl", "torch", "torchrl", "tensordict"))
    options = ["--seeds", *map(str, arguments.seeds), "--methods", *(f'"{method}"' for method in arguments.methods)]
    command = " ".join(["python benchmarks/clutter_learning.py", *options, "--", *arguments.overrides]).removesuffix(
        " --"
    )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    lines += [
        "",
        "![curves](curves.png)",
        "",
        "Thick lines are means over the seeds, thin ones the seeds.",
        "",
        f"- Command: `{command}`",
        f"- Versions: Python {platform.python_version()}, {packages}, commit {commit.stdout.strip()}",
        f"- Machine: {platform.machine()}, {platform.system()}, no GPU, one thread per run",
        "",
    ]
    (RESULTS / "README.md").write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
