"""Learning curves: the full method, the plain CNN, the gaze without contrast, and with its returns shuffled.

python benchmarks/learning.py clutter [--seeds 1 2 3] [--methods ...] [--jobs 2] [--runs FOLDER]

Runs a setting once per method and seed, ``--jobs`` at a time, one thread each. A run that is complete is not run again,
so an interrupted benchmark goes on where it was. Writes to benchmarks/results/SETTING: curves.csv (every evaluation of
every run), curves.png, and README.md with the table, the command and the versions.
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
from scipy.stats import bootstrap, trim_mean

SETTINGS = {
    "clutter": ["experiment=demo", "total_frames=80_000"],
    "pullcube": ["experiment=sac_maniskill", "task=PullCube-v1", "total_frames=80_000", "evaluation.episodes=32"],
    "pushcube": ["experiment=sac_maniskill", "task=PushCube-v1", "total_frames=100_000", "evaluation.episodes=32"],
}
METHODS = {
    "full": [],
    "plain CNN": ["gaze=none", "contrast=none"],
    "gaze without contrast": ["contrast=none"],
    "shuffled returns": ["miner=shuffled_returns"],
}
COLORS = dict(zip(METHODS, ("tab:blue", "tab:gray", "tab:orange", "tab:red"), strict=True))
KEPT = ("frames", "return", "success_at_end", "success_once", "success_time", "gaze_distance")
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=list(METHODS))
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    parser.add_argument("--runs", type=Path, default=Path("runs/learning"))
    arguments = parser.parse_args()
    # Seed by seed, so that an unfinished benchmark compares the methods on equal seeds.
    jobs = [(method, seed) for seed in arguments.seeds for method in arguments.methods]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        folders = list(pool.map(lambda job: train(arguments.setting, *job, arguments.runs), jobs))
    rows = [
        {"method": method, "seed": seed, **{key: row.get(key) for key in KEPT}}
        for (method, seed), folder in zip(jobs, folders, strict=True)
        for row in read(folder / "evaluation.csv")
    ]
    results = RESULTS / arguments.setting
    results.mkdir(parents=True, exist_ok=True)
    with (results / "curves.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    curves = {method: curve([row for row in rows if row["method"] == method]) for method in arguments.methods}
    plot(curves, results / "curves.png")
    text = report(curves, arguments)
    (results / "README.md").write_text(text)
    print(text)


def train(setting: str, method: str, seed: int, runs: Path) -> Path:
    """One run; its folder."""
    folder = runs / setting / f"{method.replace(' ', '-')}-seed{seed}"
    if (folder / "learning_curve.png").exists():  # the last thing a run writes
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    gaze_train = Path(sys.executable).parent / "gaze-train"
    command = [gaze_train, *SETTINGS[setting], *METHODS[method], f"seed={seed}", "threads=1", f"run_dir={folder}"]
    subprocess.run([*command, "evaluation.video_episodes=0"], check=True, stdout=subprocess.DEVNULL)
    return folder


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def curve(rows: list[dict]) -> dict[str, np.ndarray]:
    """Every evaluation of a method: ``frames`` [E], and what was measured [E, seeds], NaN where it was not."""
    frames = sorted({int(row["frames"]) for row in rows})
    seeds = sorted({row["seed"] for row in rows})
    at = {(int(row["frames"]), row["seed"]): row for row in rows}
    measured = {
        key: np.array([[float(at[frame, seed][key] or "nan") for seed in seeds] for frame in frames])
        for key in KEPT[1:]
    }
    return {"frames": np.array(frames), **measured}


def interquartile(values: np.ndarray) -> tuple[float, float, float]:
    """Mean of the middle half of the seeds (of up to three seeds: the mean), and its 95 % bootstrap interval."""
    center = float(trim_mean(values, 0.25))
    if len(values) < 2 or np.ptp(values) == 0:
        return center, center, center
    generator = np.random.default_rng(0)
    interval = bootstrap((values,), lambda x, axis: trim_mean(x, 0.25, axis=axis), method="percentile", rng=generator)
    return center, *interval.confidence_interval


def plot(curves: dict[str, dict], path: Path) -> None:
    panels = {"success_at_end": "success at the end", "return": "return", "gaze_distance": "gaze: distance to target"}
    shown = {
        key: title for key, title in panels.items() if not all(np.isnan(one[key]).all() for one in curves.values())
    }
    figure = Figure(figsize=(4 * len(shown), 3.2), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        for method, one in curves.items():
            if not np.isnan(one[key]).all():
                center, low, high = np.array([interquartile(values) for values in one[key]]).T
                axes.plot(one["frames"] / 1000, center, color=COLORS[method], label=method, linewidth=2)
                axes.fill_between(one["frames"] / 1000, low, high, color=COLORS[method], alpha=0.15, linewidth=0)
        axes.set(title=title, xlabel="thousand frames")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def frames_to(one: dict[str, np.ndarray], level: float) -> str:
    """Frames until the return of each seed first reaches a level; median over the seeds, and how many reached it."""
    reached = one["return"] >= level
    first = [one["frames"][column.argmax()] if column.any() else np.inf for column in reached.T]
    middle = np.median(first)
    count = f"{np.isfinite(first).sum()} of {len(first)}"
    return f"{middle / 1000:.0f}k ({count})" if np.isfinite(middle) else f"- ({count})"


def report(curves: dict[str, dict], arguments: argparse.Namespace) -> str:
    frames = max(int(one["frames"][-1]) for one in curves.values())
    best = max(interquartile(values)[0] for one in curves.values() for values in one["return"])
    lines = [
        f"# Learning: {arguments.setting}" + " (a pilot of one seed)" * (len(arguments.seeds) == 1),
        "",
        f"Final evaluation after {frames:,} frames: episodes on fixed seeds, actions without noise. Each number is one "
        f"seed ({', '.join(map(str, arguments.seeds))}), then their interquartile mean and its 95 % bootstrap interval."
        " So few seeds show whether a method works, not which of two close ones is better.",
        "",
        f"Frames until half and 80 % of the best return ({best:.1f}) are first reached: medians over the seeds.",
        "",
        "| method | success at the end | return | gaze: distance to target | frames to half | to 80 % |",
        "|---|---|---|---|---|---|",
    ]
    for method, one in curves.items():
        cells = []
        for key, digits in (("success_at_end", 2), ("return", 1), ("gaze_distance", 2)):
            values = one[key][-1]
            if np.isnan(values).any():
                cells.append("-")
                continue
            center, low, high = (f"{value:.{digits}f}" for value in interquartile(values))
            cells.append(f"{', '.join(f'{value:.{digits}f}' for value in values)}: **{center}** [{low}, {high}]")
        lines.append(f"| {method} | {' | '.join(cells)} | {frames_to(one, best / 2)} | {frames_to(one, 0.8 * best)} |")
    packages = ", ".join(f"{name} {version(name)}" for name in ("gaze_torchrl", "torch", "torchrl", "tensordict"))
    options = ["--seeds", *map(str, arguments.seeds), "--methods", *(f'"{method}"' for method in arguments.methods)]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    lines += [
        "",
        "![curves](curves.png)",
        "",
        f"- Command: `python benchmarks/learning.py {' '.join([arguments.setting, *options])}`",
        f"- Each run: `gaze-train {' '.join(SETTINGS[arguments.setting])} threads=1`, and the method's overrides: "
        + "; ".join(f"{method}: `{' '.join(METHODS[method]) or 'none'}`" for method in curves),
        f"- Versions: Python {platform.python_version()}, {packages}, commit {commit.stdout.strip()}",
        f"- Machine: {platform.machine()}, {platform.system()}, no GPU, one thread per run",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
