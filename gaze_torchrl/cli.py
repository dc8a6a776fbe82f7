"""The commands: gaze-train, gaze-eval, gaze-view, gaze-export, gaze-list; gaze-bench has a file of its own."""

from __future__ import annotations

import argparse
import csv
import json
import logging
import math
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from gaze_torchrl.registry import load_plugins
from gaze_torchrl.training.config import add_plugins
from gaze_torchrl.training.explain import config_dir, current_names, explain, without_choice
from gaze_torchrl.training.listing import about, overview
from gaze_torchrl.training.validate import validate

__all__ = ["Failed", "evaluate", "export", "show", "train", "view"]


class Failed(Exception):
    """A run of a sweep ended with one message; the others go on."""


def train() -> None:
    """``gaze-train [group=choice] [key=value] ...``: train, evaluate, draw; see configs/train.yaml.
    ``gaze-train resume=RUN``: go on with a run that was stopped."""
    _before_torch()
    resumed = [one.removeprefix("resume=") for one in sys.argv[1:] if one.startswith("resume=")]
    # Hydra then raises its errors instead of printing them, and ours can say what exists.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        if resumed:
            _resume(Path(resumed[-1]), [one for one in sys.argv[1:] if not one.startswith("resume=")])
            return
        add_plugins()
        sys.argv[1:] = current_names(sys.argv[1:])
        if said := without_choice(sys.argv[1:]):
            _fail(said)
        standing = _standing()

        def task(config: DictConfig) -> float | None:
            return _train(config, standing)

        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="train")(task)()
    except hydra.errors.HydraException as error:
        _fail(explain(error, sys.argv[1:]))
    except Failed as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _standing() -> set[Path]:
    """Folders on the way to a run_dir that were there before Hydra makes it."""
    given = [Path(one.removeprefix("run_dir=").strip("'\"")) for one in sys.argv[1:] if one.startswith("run_dir=")]
    return {one.resolve() for path in given for one in (path, path.parent) if one.exists()}


def _train(config: DictConfig, standing: set[Path]) -> float | None:
    """One run; what a sweeper such as Optuna's maximizes: the last evaluation's ``checkpoint.keep_best``, or return."""
    context = HydraConfig.get()
    folder = Path(context.runtime.output_dir)
    made = [one for one in (folder, folder.parent) if one.resolve() not in standing]
    with _one_message(folder, made):
        validate(config)
        OmegaConf.set_struct(config, False)
        config.run_dir = str(folder)
        OmegaConf.resolve(config)
        OmegaConf.set_struct(config, True)
        # Imported here: torchrl takes seconds, and a mistyped key should not have to wait for it.
        from gaze_torchrl.training.dry_run import dry_run
        from gaze_torchrl.training.experiment import run_experiment

        _quiet_torchrl()
        if config.dry_run:
            aside = "" if config.logger._target_ is None else " but the logger, which was left out,"
            print(f"Dry run: every part{aside} works, with the others. {dry_run(config):.0f} s; nothing was kept.")
            _remove_if_empty(made)
            return None
        last = _sum_up(run_experiment(config), list(HydraConfig.get().overrides.task))
        return float(last[config.checkpoint.keep_best or "return"])


def _resume(folder: Path, overrides: list[str]) -> None:
    with _one_message(folder, []):
        from gaze_torchrl.training.experiment import resume_run

        _quiet_torchrl()
        _sum_up(resume_run(folder, overrides))


def _has_state(folder: Path) -> bool:
    """Whether a run has saved what it can go on from."""
    return any((folder / "state").glob("checkpoint-*.torchrl"))


@contextmanager
def _one_message(folder: Path, made: list[Path]) -> Iterator[None]:
    """Ends a run that fails with what is wrong and how to go on, or with the traceback of an error that is not ours.

    ``made`` are folders that Hydra made for the run, which go if there is nothing in them.
    """
    try:
        yield
    except KeyboardInterrupt:
        if _has_state(folder):
            print(f"\nStopped. Go on with: gaze-train resume={folder}", file=sys.stderr)
        else:
            print("\nStopped, before a first state was saved (checkpoint.every).", file=sys.stderr)
        sys.exit(130)
    except (ValueError, FileExistsError, FileNotFoundError, ImportError, FloatingPointError, RuntimeError) as error:
        _remove_if_empty(made)
        from torchrl.checkpoint import CheckpointError

        from gaze_torchrl.envs.rendering import RendererNotFound
        from gaze_torchrl.envs.wrapping import WorkerDied

        if isinstance(error, RuntimeError) and not isinstance(error, CheckpointError | RendererNotFound | WorkerDied):
            raise
        resumable = isinstance(error, WorkerDied) and _has_state(folder)
        message = f"{error}" + f" Go on with: gaze-train resume={folder}" * resumable
        if not HydraConfig.initialized() or HydraConfig.get().mode == RunMode.RUN:
            _fail(message)
        print(f"error: {message}", file=sys.stderr)  # now, for Hydra raises it when all runs are done
        raise Failed(message) from error


def _remove_if_empty(folders: list[Path]) -> None:
    """Hydra makes the run folder before anything can be checked."""
    for one in folders:
        if one.exists() and not any(one.iterdir()):
            one.rmdir()


def _quiet_torchrl() -> None:
    logging.getLogger("torchrl").setLevel(logging.WARNING)  # it reports every storage it allocates


def _sum_up(folder: Path, overrides: list[str] | None = None) -> dict[str, str]:
    """Print what came out, where it lies, and what could be next; returns the last evaluation."""
    config = OmegaConf.load(folder / "config.yaml")
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
    if gazes and overrides is not None:
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
    return last


def evaluate() -> None:
    """``gaze-eval RUN [suite=NAME] [checkpoint=best] [key=value] ...``: evaluate a run's newest checkpoint or its best,
    once or under every condition of a suite; needs nothing but the run folder."""
    parser = argparse.ArgumentParser(prog="gaze-eval", description=evaluate.__doc__)
    parser.add_argument("run", type=Path, help="a run folder, as gaze-train printed it")
    parser.add_argument("overrides", nargs="*", help="such as env.level=shift evaluation.episodes=256, or suite=NAME")
    arguments = parser.parse_args()
    _before_torch()
    from gaze_torchrl.training.experiment import evaluate_run, evaluate_suite

    best, overrides = _best(arguments.overrides)
    suites = [one.removeprefix("suite=") for one in arguments.overrides if one.startswith("suite=")]
    overrides = [one for one in overrides if not one.startswith("suite=")]
    try:
        if suites:
            folder, results = evaluate_suite(arguments.run, suites[-1], overrides, best)
            print(_table(results))
        else:
            folder, metrics = evaluate_run(arguments.run, overrides, best)
            print(json.dumps(metrics, indent=2))
    except (ValueError, FileNotFoundError, ImportError, RuntimeError) as error:
        _fail(str(error))
    print(f"evaluation_dir={folder}")


def view() -> None:
    """``gaze-view RUN [checkpoint=best] [key=value] ...``: one page of HTML of a run, complete or not: curves, the
    agent's episodes and triplets with the gaze on them, configuration."""
    parser = argparse.ArgumentParser(prog="gaze-view", description=view.__doc__)
    parser.add_argument("run", type=Path, help="a run folder, as gaze-train printed it")
    parser.add_argument("overrides", nargs="*", help="such as env.level=shift evaluation.video_episodes=8")
    arguments = parser.parse_args()
    _before_torch()
    from gaze_torchrl.viewing.page import view_run

    _quiet_torchrl()
    best, overrides = _best(arguments.overrides)
    try:
        print(view_run(arguments.run, overrides, best))
    except (ValueError, FileNotFoundError, ImportError, RuntimeError) as error:
        _fail(str(error))


def export() -> None:
    """``gaze-export RUN [checkpoint=best] [--to FOLDER]``: the trained policy as weights and as programs of
    torch.export and ONNX, with a model card."""
    parser = argparse.ArgumentParser(prog="gaze-export", description=export.__doc__)
    parser.add_argument("run", type=Path, help="a run folder, as gaze-train printed it")
    parser.add_argument("checkpoint", nargs="?", choices=["checkpoint=best"], help="instead of the newest")
    parser.add_argument("--to", type=Path, help="where to; by default RUN/export")
    arguments = parser.parse_intermixed_args()
    _before_torch()
    from gaze_torchrl.export import export_run

    try:
        print(export_run(arguments.run, arguments.to, best=arguments.checkpoint is not None))
    except (ValueError, FileNotFoundError, ImportError, RuntimeError) as error:
        _fail(str(error))


def _best(overrides: list[str]) -> tuple[bool, list[str]]:
    """Whether the best checkpoint is asked for, and the overrides without that."""
    return "checkpoint=best" in overrides, [one for one in overrides if one != "checkpoint=best"]


def _table(results: dict[str, dict[str, float]]) -> str:
    """Metrics by condition, as columns of text."""
    names = list(next(iter(results.values())))
    lines = [f"{'':22}" + "".join(f"{name:>16}" for name in names)]
    for condition, metrics in results.items():
        lines.append(f"{condition:22}" + "".join(f"{metrics.get(name, math.nan):16.3f}" for name in names))
    return "\n".join(lines)


def show() -> None:
    """``gaze-list [GROUP|NAME|GROUP=NAME|train]``: the choices of every group; of one, with their fields; one, with its
    shapes; or the keys that are in no group."""
    parser = argparse.ArgumentParser(prog="gaze-list", description=show.__doc__)
    parser.add_argument("what", nargs="?", help="a group, such as gaze, or a choice, such as foveal or gaze=foveal")
    arguments = parser.parse_args()
    if hasattr(signal, "SIGPIPE"):  # not on Windows
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # gaze-list | head ends without a word
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
