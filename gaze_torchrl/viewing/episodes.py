"""Evaluation episodes: their frames with the gaze, and what the gaze did from step to step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDictBase

from gaze_torchrl.modules import MapGeometry
from gaze_torchrl.training.evaluation import gaze_density, gaze_distance, gaze_entropy, gaze_on_target
from gaze_torchrl.training.overlay import looks_somewhere
from gaze_torchrl.viewing.charts import Chart, chart, number
from gaze_torchrl.viewing.pictures import Picture, picture

__all__ = ["Episode", "show_episodes"]

_SIDE = 256  # pixels
_MOST = 120  # frames shown per episode: of longer ones every second, third, ...


@dataclass(frozen=True)
class Episode:
    """An episode to play.

    Args:
        frames: pictures of the shown steps.
        steps: their numbers.
        charts: numbers of every step, until the episode ended.
        outcome: how it went, in words.
    """

    frames: list[Picture]
    steps: list[int]
    charts: list[Chart]
    outcome: str


def show_episodes(steps: TensorDictBase, geometry: MapGeometry) -> list[Episode]:
    """Episodes to play, their charts on common axes.

    Args:
        steps: what `rollout_episodes` returned [N, T].
        geometry: from the gaze's coordinates to the image's.

    Returns:
        N episodes.
    """
    gazes = looks_somewhere(steps)
    traces = _traces(steps, geometry, gazes)
    mask, success = steps["mask"], steps.get(("next", "success"), None)
    limits = {
        title: (min(0.0, float(values[mask].min())), float(values[mask].max())) for title, values in traces.items()
    }
    every = -(-steps.shape[1] // _MOST)
    episodes = []
    for lane, running in enumerate(mask):
        length = int(running.sum())
        ended = bool(steps["next", "done"][lane, length - 1])
        earned = number(float(steps["next", "reward"][lane, :length].sum()))
        outcome = f"return {earned} in {'' if ended else 'the first '}{length} steps"
        if ended and success is not None:
            outcome += ", success at the end" if success[lane, length - 1] else ", no success at the end"
        shown = list(range(0, length, every))
        episodes.append(
            Episode(
                frames=[picture(steps[lane, t], geometry, gazes, _SIDE) for t in shown],
                steps=shown,
                charts=[
                    chart(
                        title,
                        list(range(length)),
                        {"": values[lane, :length].tolist()},
                        unit="steps",
                        until=steps.shape[1] - 1,
                        limits=limits[title],
                        marks=2,
                    )
                    for title, values in traces.items()
                ],
                outcome=outcome,
            )
        )
    return episodes


@torch.no_grad()
def _traces(steps: TensorDictBase, geometry: MapGeometry, gazes: bool) -> dict[str, torch.Tensor]:
    """Numbers of each step [N, T] by title."""
    traces = {"Reward": steps["next", "reward"].squeeze(-1)}
    if not gazes:
        return traces
    truth, mean, density = steps.get("truth", None), steps.get(("gaze", "mean"), None), gaze_density(steps["gaze"])
    if truth is None:
        return {**traces, "Gaze: how spread out": gaze_entropy(density)}
    if mean is not None:
        traces["Gaze: distance to target"] = gaze_distance(mean, truth["center"], geometry)
    return {**traces, "Gaze: attention on target": gaze_on_target(density, truth["mask"], geometry)}
