"""The commands: gaze-train, gaze-eval, gaze-list."""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import shutil
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from gaze_torchrl.registry import load_plugins
from gaze_torchrl.training.config import add_plugins
from gaze_torchrl.training.explain import config_dir, current_names, explain
from gaze_torchrl.training.listing import about, overview
from gaze_torchrl.training.validate import validate

__all__ = ["evaluate", "show", "train"]


def train() -> None:
    """``gaze-train [group=choice] [key=value] ...``: train, evaluate, draw; see configs/train.yaml."""
    _before_torch()
    # Hydra then raises its errors instead of printing them, and ours can say what exists.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        add_plugins()
        sys.argv[1:] = current_names(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="train")(_train)()
    except hydra.errors.HydraException as error:
        _fail(explain(error, sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)


def _train(config: DictConfig) -> None:
    context = HydraConfig.get()
    folder = Path(context.runtime.output_dir)
    try:
        validate(config)
        OmegaConf.set_struct(config, False)
        config.run_dir = str(folder)
        OmegaConf.resolve(config)
        OmegaConf.set_struct(config, True)
        _run(config)
    except (ValueError, FileExistsError, ImportError, FloatingPointError, RuntimeError) as error:
        if not any(folder.iterdir()):  # Hydra made it before anything could be checked
            folder.rmdir()
            if not any(folder.parent.iterdir()):
                folder.parent.rmdir()
        from gaze_torchrl.envs.rendering import RendererNotFound

        if isinstance(error, RuntimeError) and not isinstance(error, RendererNotFound):
            raise  # not one of ours: the traceback is what helps
        _fail(str(error))


def _run(config: DictConfig) -> None:
    # Imported here: torchrl takes seconds, and a mistyped key should not have to wait for it.
    from gaze_torchrl.training.experiment import run_experiment

    logging.getLogger("torchrl").setLevel(logging.WARNING)  # it reports every storage it allocates
    _sum_up(config, run_experiment(config), list(HydraConfig.get().overrides.task))


def _sum_up(config: DictConfig, folder: Path, overrides: list[str]) -> None:
    """What came out, where it lies, and what could be next."""
    with (folder / "evaluation.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    shown = [name for name in ("success_at_end", "return", "gaze_distance") if last.get(name)]
    gazes = not config.gaze._target_.endswith("NoGaze")
    video = ", gaze.gif" if config.evaluation.video_episodes else ""
    where = " (left: what the agent sees, right: where it looks)" if video and gazes else ""
    commands = "" if shutil.which("gaze-eval") else f"{os.path.relpath(Path(sys.argv[0]).parent)}/"
    tips = []
    if suite := {"clutter": "clutter_levels", "maniskill": "maniskill_shift"}.get(config.task.env):
        tips.append(f"{commands}gaze-eval {folder} suite={suite}    # the trained agent where it was not trained")
    if gazes:
        kept = [one for one in overrides if not one.startswith(("gaze", "readout", "contrast", "run_dir="))]
        tips.append(" ".join([f"{commands}gaze-train", *kept, "gaze=none contrast=none    # the plain CNN"]))
    tips.append(f"{commands}gaze-list gaze    # what else can be chosen")
    print(f"""
Last evaluation, at {last["frames"]} frames: {", ".join(f"{name} {float(last[name]):.2f}" for name in shown)}
Made in {folder}:
  config.yaml, metrics.csv, evaluation.csv, timings.csv, checkpoints/, learning_curve.png{video}{where}
Next, try:""")
    print("\n".join(f"  {tip}" for tip in tips))
    print(f"run_dir={folder}")


def evaluate() -> None:
    """``gaze-eval RUN [suite=NAME] [key=value] ...``: evaluate a run's newest checkpoint, once or under every condition
    of a suite; needs nothing but the run folder."""
    parser = argparse.ArgumentParser(prog="gaze-eval", description=evaluate.__doc__)
    parser.add_argument("run", type=Path, help="a run folder, as gaze-train printed it")
    parser.add_argument("overrides", nargs="*", help="such as env.level=shift evaluation.episodes=256, or suite=NAME")
    arguments = parser.parse_args()
    _before_torch()
    from gaze_torchrl.training.experiment import evaluate_run, evaluate_suite

    suites = [one.removeprefix("suite=") for one in arguments.overrides if one.startswith("suite=")]
    overrides = [one for one in arguments.overrides if not one.startswith("suite=")]
    try:
        if suites:
            folder, results = evaluate_suite(arguments.run, suites[-1], overrides)
            print(_table(results))
        else:
            folder, metrics = evaluate_run(arguments.run, overrides)
            print(json.dumps(metrics, indent=2))
    except (ValueError, FileNotFoundError, ImportError, RuntimeError) as error:
        _fail(str(error))
    print(f"evaluation_dir={folder}")


def _table(results: dict[str, dict[str, float]]) -> str:
    """Metrics by condition, as columns of text."""
    names = list(next(iter(results.values())))
    lines = [f"{'':22}" + "".join(f"{name:>16}" for name in names)]
    for condition, metrics in results.items():
        lines.append(f"{condition:22}" + "".join(f"{metrics[name]:16.3f}" for name in names))
    return "\n".join(lines)


def show() -> None:
    """``gaze-list [GROUP|NAME]``: the choices of every group; of one, with their fields; or one, with its shapes."""
    parser = argparse.ArgumentParser(prog="gaze-list", description=show.__doc__)
    parser.add_argument("what", nargs="?", help="a group, such as gaze or miner, or a name, such as foveal")
    arguments = parser.parse_args()
    for name, reason in load_plugins().broken.items():
        print(f"The plug-in {name!r} is broken and was left out: {reason}", file=sys.stderr)
    try:
        print(overview() if arguments.what is None else about(arguments.what))
    except ValueError as error:
        _fail(str(error))


def _before_torch() -> None:
    """Let torch's idle threads sleep: where other programs want the cores, spinning ones cost a factor of six."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
