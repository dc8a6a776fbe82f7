"""The page of a run: what there is to show, put into the template."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from gaze_torchrl import __version__
from gaze_torchrl.registry import entries
from gaze_torchrl.training.agent import build_env, rebuild_agent
from gaze_torchrl.training.checkpoints import best_metric, load_networks
from gaze_torchrl.training.evaluation import rollout_episodes
from gaze_torchrl.training.experiment import run_config
from gaze_torchrl.training.loop import build_learner
from gaze_torchrl.training.overlay import looks_somewhere
from gaze_torchrl.training.run_folder import is_complete
from gaze_torchrl.viewing.charts import Distribution, distribution
from gaze_torchrl.viewing.curves import Curves, curves, headlines
from gaze_torchrl.viewing.episodes import Episode, show_episodes
from gaze_torchrl.viewing.rendering import template
from gaze_torchrl.viewing.triplets import Inspection, collect, inspect_triplets

__all__ = ["Acting", "view_run"]

_LONGEST = 500  # steps of an episode that are looked at


@dataclass(frozen=True)
class Acting:
    """What the trained agent was seen doing.

    Args:
        frames: that it had learnt from.
        episodes: evaluation episodes to play.
        gazes: whether it looks anywhere in particular.
        inspection: triplets; None for a run without any.
        labels: how their labels are distributed.
    """

    frames: int
    episodes: list[Episode]
    gazes: bool
    inspection: Inspection | None = None
    labels: Distribution | None = None


def view_run(path: Path, overrides: Sequence[str] = (), best: bool = False) -> Path:
    """Make one page of HTML from a run, complete or not, that needs nothing beside itself.

    Args:
        path: a run folder.
        overrides: ``key=value`` changes to its configuration, such as ``env.level=shift``, for what the agent is shown
            doing.
        best: show its best checkpoint (by ``checkpoint.keep_best``) instead of the newest.

    Returns:
        The page, ``view.html`` in the run folder; with overrides, they are part of its name.

    Raises:
        ConfigError: for a key the run's configuration does not have, or an environment that cannot be built here.
        FileNotFoundError: if the path is no run folder.
        CheckpointError: if the checkpoint is refused; nothing is written then.
    """
    config = run_config(path, overrides)
    acting, drawn = _watch(path, config, best), curves(path)
    page = template(Path(__file__).parent / "templates" / "page.html.jinja", {"cosine": _cosine})
    text = page.render(
        title=f"{config.task.env}: {config.task.name}",
        config=config,
        facts=_facts(path, config, drawn),
        changes=[*(["checkpoint=best"] if best else []), *overrides],
        tiles=headlines(drawn.evaluations, acting is None or acting.gazes),
        curves=drawn,
        acting=acting,
        rules=_rules(config),
        yaml=OmegaConf.to_yaml(config),
    )
    names = ["view", *(["best"] if best else []), *(override.replace("/", "_") for override in overrides)]
    written = path / f"{'-'.join(names)}.html"
    written.write_text(text, encoding="utf-8")
    return written


def _watch(path: Path, config: DictConfig, best: bool) -> Acting | None:
    """Let the trained agent act; None if there is no checkpoint yet."""
    best_by = best_metric(config) if best else None
    if not any((path / "checkpoints").glob("checkpoint-*")):
        return None
    torch.set_num_threads(config.threads)
    env = build_env(config, max(1, config.evaluation.video_episodes), config.evaluation.seed)
    try:
        agent = rebuild_agent(config, env)
        learner = build_learner(config, agent, env)
        frames = load_networks(path, learner.networks, best_by)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Some episodes had not ended")  # the page shows how they begin
            steps = rollout_episodes(env, agent.watched_policy(), config.evaluation.seed, _LONGEST)
    finally:
        env.close(raise_if_closed=False)
    episodes = show_episodes(steps, agent.geometry) if config.evaluation.video_episodes else []
    gazes = looks_somewhere(steps)
    if learner.triplets is None:
        return Acting(frames, episodes, gazes)
    inspection = inspect_triplets(learner, collect(config, learner, steps.shape[1]))
    return Acting(frames, episodes, gazes, inspection, distribution(inspection.labels))


def _facts(path: Path, config: DictConfig, drawn: Curves) -> dict[str, str]:
    """What the run is, in a few words each."""
    minutes, seconds = divmod(round(drawn.seconds), 60)
    return {
        "gaze": _choice("gaze", config.gaze)[0],
        "contrast": _choice("contrast", config.contrast)[0],
        "loss": config.loss.objective._target_.rpartition(".")[-1],
        "seed": str(config.seed),
        "frames": f"{drawn.frames:,}" + ("" if is_complete(path) else f" of {config.total_frames:,}, not complete"),
        "time": f"{minutes} min {seconds} s" if minutes else f"{drawn.seconds:.1f} s",
        "gaze_torchrl": __version__,
    }


def _rules(config: DictConfig) -> list[tuple[str, str, str]]:
    """By which rules triplets come about: group, choice and what it does."""
    groups = ("labels", "normalize", "key", "miner", "contrast")
    chosen = {group: _choice(group, config[group]) for group in groups if config[group]._target_ is not None}
    return [(group, name, sentence.replace("`", "")) for group, (name, sentence) in chosen.items()]


def _choice(group: str, node: DictConfig) -> tuple[str, str]:
    """The name under which a component is chosen, and the first sentence about it."""
    if node._target_ is None:
        return "none", ""
    target = get_object(node._target_)
    # One class may have several names: that whose options are most like the run's.
    found = [entry for entry in reversed(list(entries(group))) if entry.target is target]
    if not found:
        return target.__name__, (inspect.getdoc(target) or "").partition("\n")[0]
    best = max(found, key=lambda entry: sum(node.get(key) == value for key, value in entry.node.items()))
    return best.name, best.summary


def _cosine(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # no -0.00
