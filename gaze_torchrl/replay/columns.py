"""What `TripletReplay` reads of the data that a buffer is extended with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

__all__ = ["COLUMNS", "read_columns", "without_padding"]

COLUMNS: dict[str, NestedKey] = {
    "features": "features",
    "proprio": "proprio",
    "trajectory": ("collector", "traj_ids"),
    "reward": ("next", "reward"),
    "done": ("next", "done"),
    "terminated": ("next", "terminated"),
    "next_value": ("next", "state_value"),
    "success": ("next", "success"),
}
"""Columns by the keys under which TorchRL and our environments write them."""

_OPTIONAL = ("next_value", "success")

_MASK = ("collector", "mask")  # of a collector with split_trajs=True

_WRITTEN_BY = {
    "features": "let the collector's policy keep the encoder's output (selected_out_keys).",
    "proprio": "ProprioKeys, JointKeys and ResidualNormalize read it; set columns={'proprio': ...} for another one.",
    "trajectory": "TorchRL's collectors write it; set columns={'trajectory': ...} for another one.",
    "reward": "environments write it; set columns={'reward': ...} for another one.",
    "done": "environments write it; set columns={'done': ...} for another one.",
    "terminated": "environments write it; set columns={'terminated': ...} for another one.",
}


def without_padding(tensordict: TensorDictBase) -> TensorDictBase:
    """The steps [n] that were made, where a collector with ``split_trajs=True`` has padded its episodes.

    Args:
        tensordict: rollouts [*, T]; without a mask they stay as they are.
    """
    mask = tensordict.get(_MASK, None)
    return tensordict if mask is None else tensordict[mask]


def read_columns(tensordict: TensorDictBase, keys: Mapping[str, NestedKey]) -> dict[str, Tensor]:
    """The columns of a batch by name, and checked.

    Args:
        tensordict: rollouts or steps [*], with features [*, C, h, w].
        keys: where each column is, ``features`` and ``reward`` among them.

    Returns:
        Those that are there: ``next_value`` and ``success`` may not be.

    Raises:
        KeyError: if another one is missing; the message says who writes it.
        ValueError: if a reward or the proprioception is not finite, or all features are zero.
    """
    columns = {name: tensordict.get(key, None) for name, key in keys.items()}
    columns = {name: column for name, column in columns.items() if name not in _OPTIONAL or column is not None}
    for name, column in columns.items():
        if column is None:
            raise KeyError(f"TripletReplay found no {keys[name]!r} in the data: {_WRITTEN_BY[name]}")
    if "proprio" in columns and not torch.isfinite(columns["proprio"]).all():
        raise ValueError("The proprioception is not finite (NaN or infinite): check the environment's.")
    if not torch.isfinite(columns["reward"]).all():
        raise ValueError("A reward is not finite (NaN or infinite): check the environment's reward.")
    if not columns["features"].any():
        raise ValueError(
            "All features of a batch are zero. A collector with init_random_frames acts without the policy, which "
            "would write them: set init_random_frames=None, since an untrained policy explores as well. If the policy "
            "did act, all units of its encoder are dead: lower loss.learning_rate."
        )
    return columns
