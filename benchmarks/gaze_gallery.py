"""What each gaze does on the same frames, as one picture: docs/gazes.png.

    python benchmarks/gaze_gallery.py [--frames 20_480]

Each learns for a minute or two with PPO on clutter's easiest level, from the RL gradient alone and with one seed: the
picture shows what a gaze can point at, not how well it learns.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from matplotlib.figure import Figure

from gaze_torchrl.training.agent import build_agent, build_env
from gaze_torchrl.training.checkpoints import load_agent
from gaze_torchrl.training.config import compose_config
from gaze_torchrl.training.experiment import run_experiment
from gaze_torchrl.training.overlay import draw_gaze

GAZES = {
    "multi_foveal": [],
    "foveal": [],
    "patch": [],
    "mask": [],
    "attention_pool": [],
    "spatial_softmax": ["readout=keypoints"],
    "fixed_center": ["readout=flatten"],
    "global_pool": [],
}
SEED, SHOWN = 7, (1, 2, 5)  # of the environment, and its lanes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=20_480)
    parser.add_argument("--to", type=Path, default=Path(__file__).parents[1] / "docs" / "gazes.png")
    arguments = parser.parse_args()
    figure = Figure(figsize=(2.1 * len(GAZES), 2.1 * len(SHOWN) + 0.3), layout="constrained", dpi=60)
    axes = figure.subplots(len(SHOWN), len(GAZES))
    for column, (name, overrides) in zip(axes.T, GAZES.items(), strict=True):
        column[0].set_title(f"gaze={name}")
        for ax, frame in zip(column, look(name, overrides, arguments.frames), strict=True):
            ax.imshow(frame)
            ax.axis("off")
    figure.savefig(arguments.to)


def look(name: str, overrides: list[str], frames: int) -> list:
    """Train one gaze, and draw it on the shown frames."""
    options = [f"gaze={name}", *overrides, "contrast=none", "task=easy", "env.image_size=48", "threads=1"]
    options += [f"total_frames={frames}", f"evaluation.every={frames}", "evaluation.video_episodes=0"]
    with tempfile.TemporaryDirectory() as folder:
        config = compose_config([*options, f"run_dir={folder}/run"])
        run_experiment(config)
        env = build_env(config, num_envs=8, seed=SEED)
        agent = build_agent(config, env)
        load_agent(Path(folder) / "run", agent)
    with torch.no_grad():
        seen = agent.watched_policy()(env.reset())
    drawn = [draw_gaze(seen["pixels"][lane], seen["gaze"][lane], agent.geometry) for lane in SHOWN]
    return [both[:, both.shape[1] // 2 :] for both in drawn]


if __name__ == "__main__":
    main()
