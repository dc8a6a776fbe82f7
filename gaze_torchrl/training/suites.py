"""Evaluation suites: named lists of conditions that a trained agent meets, each a few overrides of its run."""

from __future__ import annotations

from gaze_torchrl.envs.clutter_levels import LEVELS
from gaze_torchrl.envs.maniskill_shift import SHIFTS

__all__ = ["SUITES"]

TRAINED = "as trained"

SUITES: dict[str, dict[str, list[str]]] = {
    "clutter_levels": {TRAINED: [], **{level: [f"env.level={level}"] for level in LEVELS}},
    "maniskill_shift": {
        TRAINED: [],
        **{
            f"{kind}-{strength}": [f"env.shift={kind}-{strength}"]
            for kind, strengths in SHIFTS.items()
            for strength in range(1, len(strengths) + 1)
        },
    },
}
"""Overrides of each condition, by suite: ``gaze-eval RUN suite=clutter_levels``. The first is the run as it is."""
