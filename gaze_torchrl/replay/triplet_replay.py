"""TripletReplay: the replay-buffer transform that labels returns and attaches triplets to samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor
from torch.nn import functional as F
from torchrl.envs import Transform

from gaze_torchrl.replay.bank import FeatureBank
from gaze_torchrl.replay.labels import Label, label_steps
from gaze_torchrl.replay.miner import Triplets

__all__ = ["TripletReplay"]

_HALF_MAX = torch.finfo(torch.float16).max

_COLUMNS: dict[str, NestedKey] = {
    "features": "features",
    "trajectory": ("collector", "traj_ids"),
    "reward": ("next", "reward"),
    "done": ("next", "done"),
    "terminated": ("next", "terminated"),
    "next_value": ("next", "state_value"),
}


class TripletReplay(Transform):
    """Append it to any TorchRL replay buffer: ``buffer.append_transform(TripletReplay(...))``.

    On ``extend`` it copies the features of the new steps into its bank (half precision, detached), labels every step
    of the bank and mines it, once. On ``sample`` it draws from the mined triplets and attaches their feature maps:

    ==========================================  ==================================================================
    ``("triplets", "anchor")``                  features [B, C, h, w]
    ``("triplets", "positive")``, ``"negative"``  the same
    ``("triplets", "valid")``                   [B] bool
    ==========================================  ==================================================================

    The nested tensordict has the sample's batch size, so that it can be sliced, moved and stored with it; triplets
    fill the first ``num_triplets`` rows and the others are zero, not valid. A loop that extends the same data again
    in every epoch, as TorchRL's PPO tutorial does, adds it once. The features are not kept in the buffer itself:
    there they would only go stale.

    Args:
        labels: what a step was worth, such as `ReturnToGo` or `ValueTarget`.
        miner: which steps make triplets, such as `QuantileMiner`.
        capacity: steps in the bank, at least as many as one ``extend`` brings.
        num_triplets: triplets attached to each sample, at most (a sample has no more triplets than rows).
        min_steps: steps the bank must hold before mining starts.
        key_grid: steps are compared by features pooled to key_grid x key_grid cells and centred on the bank's mean;
            with 1 they are compared by what is seen, wherever it is.
        keys: tensordict keys of ``features``, ``trajectory``, ``reward``, ``done``, ``terminated`` and
            ``next_value``, where they differ from TorchRL's.
        seed: of the anchors and of the triplets drawn.

    Raises:
        ValueError: if a number is out of range, or more steps come at once than the bank holds.
        KeyError: if the data lacks a key; the message says who writes it.
        RuntimeError: if a sample is asked for before anything was extended.

    Example:
        >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
        >>> from gaze_torchrl.replay import QuantileMiner, ReturnToGo
        >>> buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(64), batch_size=16)
        >>> _ = buffer.append_transform(TripletReplay(ReturnToGo(0.9), QuantileMiner(), capacity=64, min_steps=2))
        >>> done = torch.ones(64, 1, dtype=torch.bool)
        >>> data = TensorDict({"features": torch.rand(64, 8, 12, 12), "collector": {"traj_ids": torch.arange(64)},
        ...     "next": {"reward": torch.rand(64, 1), "done": done, "terminated": done}}, [64])
        >>> _ = buffer.extend(data)
        >>> sample = buffer.sample()
        >>> sample["triplets", "anchor"].shape, sample["triplets", "valid"].all().item()
        (torch.Size([16, 8, 12, 12]), True)
    """

    def __init__(
        self,
        labels: Label,
        miner: Callable[..., Triplets],
        capacity: int = 8192,
        num_triplets: int = 64,
        min_steps: int = 2048,
        key_grid: int = 4,
        keys: Mapping[str, NestedKey] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in {
            "num_triplets": num_triplets,
            "min_steps": min_steps,
            "key_grid": key_grid,
        }.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if unknown := set(keys or {}) - set(_COLUMNS):
            raise ValueError(f"Unknown keys {sorted(unknown)}: expected some of {sorted(_COLUMNS)}.")
        if min_steps > capacity:
            raise ValueError(
                f"miner.min_steps = {min_steps} exceeds miner.capacity = {capacity}: no triplet would form."
            )
        self.labels, self.miner, self.bank = labels, miner, FeatureBank(capacity)
        self.num_triplets, self.min_steps, self.key_grid = num_triplets, min_steps, key_grid
        self.keys = {**_COLUMNS, **(keys or {})}
        self.generator = torch.Generator().manual_seed(seed)
        # Index triples [M, 3] into the bank, mined at the last extend.
        self.mined = torch.empty(0, 3, dtype=torch.int64)
        self._last: TensorDictBase | None = None

    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase:
        rows = self._rows(tensordict)
        # A new rollout never repeats looks, rewards and ends step by step: all equal means the same data once more.
        # Values may differ then: TorchRL's PPO tutorial estimates them anew in every epoch.
        fingerprint = rows.exclude("features", "next_value")
        if self._last is None or len(rows) != len(self._last) or not (fingerprint == self._last).all():
            self._last = fingerprint.clone()  # collectors reuse their memory
            self.bank.extend(rows)
            self.mined = self._mine()
        return tensordict.exclude(self.keys["features"])

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Attach triplets to a sample."""
        features = self.bank.rows["features"]
        rows = tensordict.numel()
        count = min(self.num_triplets, rows) if len(self.mined) else 0
        members = features.new_zeros(rows, 3, *features.shape[1:])
        if count:
            # One triplet may be drawn twice: with few of them that is still better than a smaller batch.
            draw = torch.randint(len(self.mined), (count,), generator=self.generator)
            members[:count] = features[self.mined[draw.to(self.mined.device)]]
        valid = torch.arange(rows, device=features.device) < count
        triplets = TensorDict(
            {"anchor": members[:, 0], "positive": members[:, 1], "negative": members[:, 2], "valid": valid},
            [rows],
        )
        return tensordict.set("triplets", triplets.reshape(tensordict.batch_size))

    def labelled(self) -> tuple[Tensor, Tensor]:
        """Label of each step in the bank [N] and whether it is known [N], in the order of ``bank.rows``."""
        return label_steps(self.bank.rows.exclude("features", "key"), self.labels)

    def _rows(self, tensordict: TensorDictBase) -> TensorDict:
        columns = {name: tensordict.get(key, None) for name, key in self.keys.items()}
        if columns["next_value"] is None:
            del columns["next_value"]
        for name, column in columns.items():
            if column is None:
                raise KeyError(f"TripletReplay found no {self.keys[name]!r} in the data: {_WRITTEN_BY[name]}")
        features = columns.pop("features").detach().flatten(0, -4)
        rows = TensorDict({name: column.reshape(-1) for name, column in columns.items()}, [len(features)])
        if len(rows) > self.bank.capacity:
            raise ValueError(
                f"{len(rows)} steps came at once but the bank holds {self.bank.capacity}: raise miner.capacity or "
                "lower collector.frames_per_batch."
            )
        if not torch.isfinite(rows["reward"]).all():
            raise ValueError("A reward is not finite (NaN or infinite): check the environment's reward.")
        rows["features"] = features.clamp(-_HALF_MAX, _HALF_MAX).half()
        rows["key"] = F.adaptive_avg_pool2d(features.float(), self.key_grid).flatten(1)
        return rows

    def _mine(self) -> Tensor:
        if len(self.bank) < self.min_steps:
            return self.mined[:0]
        label, known = self.labelled()
        keys = self.bank.rows["key"]
        found = self.miner(keys - keys.mean(0), label, known, self.bank.rows["trajectory"], self.generator)
        return torch.stack(found[:3], -1)[found.valid]

    def get_extra_state(self) -> dict[str, Any]:
        """The bank, the mined triplets and the random generator."""
        return {
            "bank": self.bank.state_dict(),
            "mined": self.mined,
            "last": None if self._last is None else self._last.to_dict(),
            "generator": self.generator.get_state(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` returned."""
        self.bank.load_state_dict(state["bank"])
        self.mined, last = state["mined"], state["last"]
        self._last = None if last is None else TensorDict(last).auto_batch_size_(1)
        self.generator.set_state(state["generator"])


_WRITTEN_BY = {
    "features": "let the collector's policy keep the encoder's output (selected_out_keys).",
    "trajectory": "TorchRL's collectors write it; set keys={'trajectory': ...} for another one.",
    "reward": "environments write it; set keys={'reward': ...} for another one.",
    "done": "environments write it; set keys={'done': ...} for another one.",
    "terminated": "environments write it; set keys={'terminated': ...} for another one.",
}
