"""The learning curves of a run: one chart for each column of its CSV files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from gaze_torchrl.training.plot import read_columns
from gaze_torchrl.viewing.charts import Chart, chart, number

__all__ = ["Curves", "Headline", "curves", "headlines"]

_TITLES = {
    "return": "Return per episode",
    "success_at_end": "Success at the end",
    "success_once": "Success at any step",
    "success_time": "Share of steps in success",
    "length": "Steps per episode",
    "gaze_distance": "Gaze: distance to target",
    "gaze_distance_agent": "Gaze: distance to the agent",
    "gaze_on_target": "Gaze: attention on target",
    "gaze_entropy": "Gaze: how spread out",
    "gaze_drift": "Gaze: way per step",
    "reward": "Reward per step",
    "loss_objective": "Loss of the policy",
    "loss_critic": "Loss of the critic",
    "loss_entropy": "Loss of the entropy",
    "loss_actor": "Loss of the actor",
    "loss_qvalue": "Loss of the critics",
    "loss_alpha": "Loss of the entropy's weight",
    "alpha": "Weight of the entropy",
    "loss_contrast": "Loss of the contrast",
    "contrast_grad_share": "The contrast's share of the gradient",
    "triplet_accuracy": "Triplets told apart",
    "triplet_valid": "Share of triplets found",
    "mined_triplets": "Triplets mined",
    "neighbor_similarity": "How alike triplets are",
    "known_labels": "Steps of known label",
    "label_std": "Spread of the labels",
    "curl_accuracy": "Views that find each other",
}
# Shares, drawn from 0 to 1 so that their height can be compared.
_SHARES = {
    "success_at_end", "success_once", "success_time", "gaze_entropy", "triplet_accuracy", "triplet_valid",
    "known_labels", "curl_accuracy", "contrast_grad_share",
}  # fmt: skip
_FROM_ZERO = {
    "gaze_distance", "gaze_distance_agent", "gaze_on_target", "gaze_drift", "label_std", "mined_triplets", "length",
}  # fmt: skip
# What is looked at first, in this order; everything else is folded.
_MAIN = {
    "evaluation": ["success_at_end", "return", "gaze_distance", "gaze_on_target", "gaze_entropy", "gaze_drift"],
    "metrics": [
        "reward", "success_at_end", "gaze_distance", "loss_objective", "loss_critic", "loss_actor", "loss_qvalue",
        "loss_contrast", "triplet_accuracy", "mined_triplets", "label_std", "curl_accuracy",
    ],
}  # fmt: skip


@dataclass(frozen=True)
class Curves:
    """The charts of a run, empty where it has not written anything yet.

    Args:
        evaluation, training: what is looked at first.
        more_evaluation, more_training: all other columns.
        evaluations: the evaluations themselves, columns by name.
        frames: that the run has learnt from.
        seconds: that it has taken.
    """

    evaluation: list[Chart]
    training: list[Chart]
    more_evaluation: list[Chart]
    more_training: list[Chart]
    evaluations: dict[str, list[float]]
    frames: int
    seconds: float

    @property
    def rows(self) -> list[tuple[float, ...]]:
        """The evaluations, one by one."""
        return list(zip(*self.evaluations.values(), strict=True))


@dataclass(frozen=True)
class Headline:
    """A number of the last evaluation, and how it began."""

    title: str
    value: str
    before: str


def curves(folder: Path) -> Curves:
    """Lay out the charts of a run.

    Args:
        folder: the run folder; files that are missing are passed over.
    """
    files = {name: folder / f"{name}.csv" for name in ("evaluation", "metrics", "timings")}
    columns = {name: read_columns(file) if file.exists() else {} for name, file in files.items()}
    main: dict[str, list[Chart]] = {}
    more: dict[str, list[Chart]] = {}
    for name, wanted in _MAIN.items():
        here = columns[name]
        frames = here.get("frames", [])
        first = [key for key in wanted if key in here]
        others = [key for key in here if key not in {"frames", *wanted}]
        main[name], more[name] = ([_curve(key, frames, here[key]) for key in keys] for keys in (first, others))
    timings = columns["timings"]
    if timings:
        spent = {"collecting": timings["collect"], "learning": timings["update"]}
        main["metrics"].append(chart("Seconds per rollout", timings["frames"], spent, limits=(0, 0)))
    return Curves(
        main["evaluation"],
        main["metrics"],
        more["evaluation"],
        more["metrics"],
        columns["evaluation"],
        int(max([0, *columns["metrics"].get("frames", [])])),
        sum(sum(values) for key, values in timings.items() if key != "frames"),
    )


def headlines(evaluations: dict[str, list[float]], gazes: bool) -> list[Headline]:
    """The numbers of the last evaluation that a reader looks for first.

    Args:
        evaluations: columns of ``evaluation.csv``.
        gazes: whether those of the gaze say anything.
    """
    wanted = [key for key in _MAIN["evaluation"][:4] if gazes or not key.startswith("gaze")]
    shown = [key for key in wanted if math.isfinite(evaluations.get(key, [math.nan])[-1])]
    frames = evaluations.get("frames", [])
    return [
        Headline(
            _TITLES[key],
            number(evaluations[key][-1]),
            f"{number(evaluations[key][0])} after {number(frames[0])} frames" if len(frames) > 1 else "",
        )
        for key in shown
    ]


def _curve(key: str, frames: list[float], values: list[float]) -> Chart:
    limits = (0, 1) if key in _SHARES else (0, 0) if key in _FROM_ZERO else None
    reference = (0.5, "chance") if key == "triplet_accuracy" else None
    title = _TITLES.get(key, key.replace("_", " "))
    return chart(title, frames, {"": values}, column=key, limits=limits, reference=reference)
