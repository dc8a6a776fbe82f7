"""The commands: gaze-train, gaze-eval, gaze-list."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from gaze_torchrl.training.config import config_dir, explain, validate

__all__ = ["evaluate", "show", "train"]


def train() -> None:
    """``gaze-train [group=choice] [key=value] ...``: train, evaluate, draw; see configs/train.yaml."""
    _before_torch()
    # Hydra then raises its errors instead of printing them, and ours can say what exists.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="train")(_train)()
    except hydra.errors.HydraException as error:
        _fail(explain(error, sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)


def _train(config: DictConfig) -> None:
    context = HydraConfig.get()
    folder = Path(context.runtime.output_dir)
    try:
        validate(config, context.overrides.task)
        OmegaConf.set_struct(config, False)
        config.run_dir = str(folder)
        OmegaConf.resolve(config)
        OmegaConf.set_struct(config, True)
        _run(config)
    except (ValueError, FileExistsError, ImportError, FloatingPointError, RuntimeError) as error:
        if not any(folder.iterdir()):  # Hydra made it before anything could be checked
            folder.rmdir()
        from gaze_torchrl.envs.rendering import RendererNotFound

        if isinstance(error, RuntimeError) and not isinstance(error, RendererNotFound):
            raise  # not one of ours: the traceback is what helps
        _fail(str(error))


def _run(config: DictConfig) -> None:
    # Imported here: torchrl takes seconds, and a mistyped key should not have to wait for it.
    from gaze_torchrl.training.experiment import run_experiment

    logging.getLogger("torchrl").setLevel(logging.WARNING)  # it reports every storage it allocates
    folder = run_experiment(config)
    video = ", gaze.gif (left: what the agent sees, right: where it looks)" if config.evaluation.video_episodes else ""
    commands = "" if shutil.which("gaze-eval") else f"{os.path.relpath(Path(sys.argv[0]).parent)}/"
    elsewhere = "env.level=hard" if config.task.env == "clutter" else "evaluation.seed=7"
    print(f"""
Made in {folder}:
  config.yaml, metrics.csv, evaluation.csv, timings.csv, checkpoints/, learning_curve.png{video}
Next, try:
  {commands}gaze-eval {folder} {elsewhere}    # the trained agent where it was not trained
  {commands}gaze-train gaze=none contrast=none    # a plain CNN
  {commands}gaze-list gaze    # what else can be chosen
run_dir={folder}""")


def evaluate() -> None:
    """``gaze-eval RUN [key=value] ...``: evaluate a run's newest checkpoint; needs nothing but the run folder."""
    parser = argparse.ArgumentParser(prog="gaze-eval", description=evaluate.__doc__)
    parser.add_argument("run", type=Path, help="a run folder, as gaze-train printed it")
    parser.add_argument("overrides", nargs="*", help="such as env.level=shift evaluation.episodes=256")
    arguments = parser.parse_args()
    _before_torch()
    from gaze_torchrl.training.experiment import evaluate_run

    try:
        folder, metrics = evaluate_run(arguments.run, arguments.overrides)
    except (ValueError, FileNotFoundError, ImportError, RuntimeError) as error:
        _fail(str(error))
    print(json.dumps(metrics, indent=2))
    print(f"evaluation_dir={folder}")


def show() -> None:
    """``gaze-list [GROUP]``: the choices of every group, or of one with its fields."""
    parser = argparse.ArgumentParser(prog="gaze-list", description=show.__doc__)
    parser.add_argument("group", nargs="?", help="such as gaze, task or loss")
    arguments = parser.parse_args()
    groups = sorted(path.name for path in config_dir().iterdir() if path.is_dir())
    if arguments.group is not None and arguments.group not in groups:
        _fail(f"Unknown group {arguments.group!r}: there are {groups}.")
    chosen = OmegaConf.load(config_dir() / "train.yaml").defaults
    defaults = {group: name for entry in chosen if isinstance(entry, DictConfig) for group, name in entry.items()}
    for group in [arguments.group] if arguments.group else groups:
        print(f"{group}=")
        paths = sorted((config_dir() / group).glob("*.yaml"))
        width = max(len(path.stem) for path in paths)
        for path in paths:
            lines = path.read_text().splitlines()
            comments = [line.removeprefix("# ") for line in lines if line.startswith("# ") and "@package" not in line]
            star = "*" if defaults.get(group) == path.stem else " "
            print(f" {star} {path.stem:{width}} {comments[0]}")
            if arguments.group:
                print(*(f"       {line}" for line in lines if line and not line.startswith("#")), "", sep="\n")
    if not arguments.group:
        print("* is the default. gaze-list GROUP shows the fields of each choice.")


def _before_torch() -> None:
    """Let torch's idle threads sleep: where other programs want the cores, spinning ones cost a factor of six."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
