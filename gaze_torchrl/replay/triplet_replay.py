"""TripletReplay: the replay-buffer transform that labels returns and attaches triplets to samples."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor, nn

from gaze_torchrl.replay.bank import FeatureBank
from gaze_torchrl.replay.columns import COLUMNS, read_columns, without_padding
from gaze_torchrl.replay.episodes import place_in_episode
from gaze_torchrl.replay.exclusive import ExclusiveTransform
from gaze_torchrl.replay.keys import PooledKeys
from gaze_torchrl.replay.labels import Label, label_steps
from gaze_torchrl.replay.miner import Triplets
from gaze_torchrl.replay.mining_facts import NO_FACTS, mining_facts

__all__ = ["TripletReplay"]

_HALF_MAX = torch.finfo(torch.float16).max

_LOOKS = ("reward", "trajectory", "done", "terminated", "key")  # what tells steps apart, the quickest first
_MEMBERS = ("anchor", "positive", "negative")


class TripletReplay(ExclusiveTransform):
    """Append it to any TorchRL replay buffer: ``buffer.append_transform(TripletReplay(...))``.

    On ``extend`` it copies what the triplets need of the new steps into its bank, and from time to time labels every
    step of the bank and mines it. On ``sample`` it draws from the mined triplets and attaches their steps:

    ============================================  ================================================================
    ``("triplets", "anchor")``                    tensordict [B]: ``members`` under their own keys, ``label`` [B]
    ``("triplets", "positive")``, ``"negative"``  the same
    ``("triplets", "valid")``                     [B] bool
    ============================================  ================================================================

    Features are kept in half precision, detached; other members as they come. Labels are those of the last mining.
    The nested tensordict has the sample's batch size, so that it can be sliced, moved and stored with it; triplets
    fill the first ``num_triplets`` rows and the others are zero, not valid. The features are not kept in the buffer
    itself: there they would only go stale. Data may come as rollouts [N, T] or a few flat steps at a time, those of one
    trajectory in time order; the padding of a collector's ``split_trajs=True`` is left out (not with
    ``MultiSyncCollector``, which then numbers the trajectories anew in every batch: one is taken for another). A
    collector's ``set_truncated=True`` ends every episode with the batch, and its labels with it.

    Args:
        labels: what a step was worth, such as `ReturnToGo` or `ValueTarget`.
        miner: which steps make triplets, such as `QuantileMiner`.
        keys: what steps are compared by, features [N, C, h, w] to [N, D], such as `ProjectedKeys`, or from the columns
            that its attribute ``reads`` names, as `ProprioKeys` and `JointKeys` do; None for ``PooledKeys(4)``.
        normalize: from labels [N] and whether each is known [N] to the labels that the miner and the sample see, such
            as `RankNormalize`; from the proprioception [N, P], too, if its attribute ``reads`` is ``"proprio"``, as
            that of `ResidualNormalize`; None leaves them as they are.
        capacity: steps in the bank, at least as many as one ``extend`` brings.
        num_triplets: triplets attached to each sample, at most (a sample has no more triplets than rows).
        min_steps: steps the bank must hold before mining starts.
        mine_every: new steps between two minings, at least 1: with 1 at every ``extend``. In between, triplets of
            steps that are overwritten are dropped.
        members: tensordict keys that each member of a triplet holds, such as ``"features"``, ``"pixels"`` or
            ``("agent", "proprio")``.
        columns: tensordict keys of ``features``, ``proprio``, ``trajectory``, ``reward``, ``done``, ``terminated``,
            ``next_value`` and ``success``, where they differ from TorchRL's; only some keys and normalisers read the
            second, only some labels the last two.
        skip_repeats: for loops that extend the same data again in every epoch, as TorchRL's PPO tutorial does: data
            with the looks, rewards and ends of those before are not added. Off, all are, with a warning, since a scene
            where nothing moves may look so too.
        seed: of the anchors and of the triplets drawn.

    Raises:
        ValueError: if a number is out of range, if keys and miner have another metric, if more steps come at once than
            the bank holds, with other columns than before, or with features that are zero: no policy acted.
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
        >>> triplets = buffer.sample()["triplets"]
        >>> triplets["anchor", "features"].shape, triplets["valid"].all().item()
        (torch.Size([16, 8, 12, 12]), True)
    """

    def __init__(
        self,
        labels: Label,
        miner: Callable[..., Triplets],
        *,
        keys: nn.Module | None = None,
        normalize: Callable[..., Tensor] | None = None,
        capacity: int = 8192,
        num_triplets: int = 64,
        min_steps: int = 2048,
        mine_every: int = 1,
        members: Sequence[NestedKey] = ("features",),
        columns: Mapping[str, NestedKey] | None = None,
        skip_repeats: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in {
            "contrast.num_triplets": num_triplets,
            "bank.min_steps": min_steps,
            "bank.mine_every": mine_every,
        }.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if unknown := set(columns or {}) - set(COLUMNS):
            raise ValueError(f"Unknown columns {sorted(unknown)}: expected some of {sorted(COLUMNS)}.")
        if (read := getattr(normalize, "reads", "proprio")) != "proprio":
            raise ValueError(f"A normaliser may read 'proprio', {type(normalize).__name__} reads {read!r}.")
        if min_steps > capacity:
            raise ValueError(f"bank.min_steps = {min_steps} exceeds bank.capacity = {capacity}: no triplet would form.")
        metric, its = getattr(keys, "metric", "cosine"), getattr(miner, "metric", None)
        if its is not None and its != metric:
            name = type(miner).__name__
            raise ValueError(f"{name} compares by {its}, but these keys want {metric}: {name}(metric={metric!r}).")
        self.labels, self.miner, self.normalize, self.bank = labels, miner, normalize, FeatureBank(capacity)
        self.keys = PooledKeys() if keys is None else keys
        self.num_triplets, self.min_steps, self.mine_every = num_triplets, min_steps, mine_every
        self.members, self.columns = list(members), {**COLUMNS, **(columns or {})}
        self.skip_repeats = skip_repeats
        self.generator = torch.Generator().manual_seed(seed)
        # Triplets [M] of the last mining: running numbers of their steps, which survive the turning of the ring, and
        # their labels, both [M, 3].
        self.mined = TensorDict({"number": torch.empty(0, 3, dtype=torch.int64), "label": torch.empty(0, 3)}, [0])
        self._facts = NO_FACTS
        self._mined_at = 0

    @torch.no_grad()
    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase:
        with self.lock:
            self._add(self._rows(without_padding(tensordict)))
        return tensordict.exclude(self.columns["features"])

    def _add(self, rows: TensorDict) -> None:
        repeated = self._repeats(rows)
        if repeated and self.skip_repeats:
            return
        if repeated and len(rows) > 1:  # one step may well be like the last
            warnings.warn(
                "TripletReplay was given the same steps twice in a row, and positives may be copies of their anchors: "
                "set skip_repeats=True in a loop that extends its rollout again in every epoch.",
                stacklevel=2,
            )
        stored = self.bank.rows if len(self.bank) else None
        rows["step"], rows["episode"] = place_in_episode(rows["trajectory"], rows["done"], stored)
        self.bank.extend(rows)
        if len(self.bank) >= self.min_steps and self.bank.written - self._mined_at >= self.mine_every:
            self._mine()
        else:
            self.mined = self.mined[self.bank.holds(self.mined["number"]).all(-1)]

    def _repeats(self, rows: TensorDictBase) -> bool:
        """Whether rows are the last of the bank; their values may differ, being estimated anew in every epoch."""
        if len(rows) > len(self.bank):
            return False
        stored, written = self.bank.rows, self.bank.written
        last = self.bank.row(torch.arange(written - len(rows), written, device=rows.device))
        return all(bool((rows[name] == stored[name][last]).all()) for name in _LOOKS)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Attach triplets to a sample."""
        with self.lock:
            triplets = self._draw(tensordict.numel())
        # A copy: samples of a list of tensordicts are the stored ones themselves.
        return tensordict.copy().set("triplets", triplets.reshape(tensordict.batch_size))

    def _draw(self, batch: int) -> TensorDict:
        rows = self.bank.rows
        device, count = rows["written"].device, min(self.num_triplets, batch) if len(self.mined) else 0
        # One triplet may be drawn twice: with few of them that is still better than a smaller batch.
        draw = torch.randint(max(len(self.mined), 1), (count,), generator=self.generator).to(device)
        # Before the first mining, or from a checkpoint, they lie on another device than the bank.
        mined = self.mined.to(device)
        number, label = mined["number"][draw], _take(mined["label"], draw, batch)
        triplets = TensorDict({"valid": torch.arange(batch, device=device) < count}, [batch])
        for place, name in enumerate(_MEMBERS):
            row = self.bank.row(number[:, place])
            member = rows["members"].apply(lambda column, row=row: _take(column, row, batch), batch_size=[batch])
            if (features := member.get(self.columns["features"], None)) is not None:
                member.set(self.columns["features"], features.movedim(-1, -3))
            triplets[name] = member.set("label", label[:, place])
        return triplets

    def labelled(self) -> tuple[Tensor, Tensor]:
        """Label of each step in the bank [N], not normalised, and whether it is known [N], as in ``bank.rows``."""
        return label_steps(self.bank.rows.exclude("members", "key"), self.labels)

    def statistics(self) -> dict[str, Tensor]:
        """Scalars of the last mining, for logging, as `mining_facts` says; zero before it."""
        return dict(self._facts)

    @property
    def _explains(self) -> bool:
        """Whether the normaliser takes the proprioception, too."""
        return hasattr(self.normalize, "reads")

    def _rows(self, tensordict: TensorDictBase) -> TensorDict:
        read = getattr(self.keys, "reads", ("features",))
        wanted = [name for name in self.columns if name != "proprio" or name in read or self._explains]
        columns = read_columns(tensordict, {name: self.columns[name] for name in wanted})
        members = {key: tensordict.get(key, None) for key in self.members}
        for key, value in members.items():
            if value is None:
                raise KeyError(f"TripletReplay found no {key!r} in the data, one of its members={self.members}.")
        features = columns.pop("features")
        leading = features.ndim - 3
        features = features.reshape(-1, *features.shape[leading:])
        compared = [features if name == "features" else columns[name].reshape(len(features), -1) for name in read]
        flat = {name: column.reshape(-1) for name, column in columns.items() if name != "proprio"}
        # On a GPU, TorchRL's collectors leave the numbers of trajectories on the CPU.
        rows = TensorDict(flat, [len(features)], device=features.device)
        if len(rows) > self.bank.capacity:
            raise ValueError(
                f"{len(rows)} steps came at once but the bank holds {self.bank.capacity}: raise bank.capacity or "
                "lower collector.frames_per_batch."
            )
        with torch.autocast(features.device.type, enabled=False):
            rows["key"] = self.keys(*compared)
        if self._explains:
            rows["proprio"] = columns["proprio"].reshape(len(features), -1).float()
        for key, value in members.items():
            kept = value.reshape(-1, *value.shape[leading:])
            if key == self.columns["features"]:
                # Channels last, as encoders lay maps out: the gaze looks at them twice as fast.
                kept = kept.half().clamp(-_HALF_MAX, _HALF_MAX).movedim(-3, -1)
            rows["members", key] = kept
        return rows

    @property
    def has_mined(self) -> bool:
        """Whether the miner has run."""
        return self._mined_at > 0

    def _mine(self) -> None:
        # Neighbours by products of half precision would be others.
        with torch.autocast(self.bank.rows["reward"].device.type, enabled=False):
            self._mine_exactly()

    def _mine_exactly(self) -> None:
        rows = self.bank.rows
        raw, known = self.labelled()
        explaining = (rows["proprio"],) if self._explains else ()
        label = raw if self.normalize is None else self.normalize(raw, known, *explaining)
        found = self.miner(rows["key"], label, known, rows["episode"], rows["step"], self.generator)
        label = getattr(found, "label", label)
        index = torch.stack(found[:3], -1)[found.valid]
        self.mined = TensorDict({"number": rows["written"][index], "label": label[index].float()}, [len(index)])
        self._mined_at = self.bank.written
        self._facts = mining_facts(rows["key"], index, raw, known)

    def get_extra_state(self) -> dict[str, Any]:
        """The bank, the mined triplets, the counters and the random generator."""
        return {
            "bank": self.bank.state_dict(),
            "mined": self.mined.to_dict(),
            "mined_at": self._mined_at,
            "facts": self._facts,
            "generator": self.generator.get_state(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` returned."""
        self.bank.load_state_dict(state["bank"])
        self.mined = TensorDict(state["mined"]).auto_batch_size_(1)
        # Older versions had fewer.
        self._mined_at, self._facts = state["mined_at"], {**NO_FACTS, **state["facts"]}
        self.generator.set_state(state["generator"])


def _take(column: Tensor, row: Tensor, batch: int) -> Tensor:
    """Some rows of a column, followed by zeros up to ``batch`` rows."""
    out = column.new_zeros(batch, *column.shape[1:])
    torch.index_select(column, 0, row, out=out[: len(row)])
    return out
