"""The bank: the features of the last steps, with what is needed to label and to compare them."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torchrl.data import LazyTensorStorage

__all__ = ["FeatureBank"]


class FeatureBank:
    """A ring of the last steps, oldest overwritten first.

    Storage is TorchRL's; what is added is ``written``, the running number of each row, which keeps the time order of
    a trajectory known after the ring has wrapped around.

    Args:
        capacity: steps kept, at least 2.

    Raises:
        ValueError: if the capacity is below 2.

    Example:
        >>> from tensordict import TensorDict
        >>> bank = FeatureBank(capacity=3)
        >>> bank.extend(TensorDict({"reward": torch.arange(5.0)}, [5]))
        >>> len(bank), bank.rows["reward"].tolist(), bank.rows["written"].tolist()
        (3, [3.0, 4.0, 2.0], [3, 4, 2])
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 2:
            raise ValueError(f"miner.capacity must be at least 2 steps, got {capacity}.")
        self.capacity = capacity
        self.written = 0
        self._storage = LazyTensorStorage(capacity, device="auto")

    def extend(self, rows: TensorDictBase) -> None:
        """Append rows [n]; of more rows than fit, the last are kept."""
        device = rows.device or next(iter(rows.values())).device
        number = torch.arange(self.written, self.written + len(rows), device=device)
        rows = rows.copy().set("written", number)[-self.capacity :]
        self._storage.set(number[-self.capacity :] % self.capacity, rows)
        self.written += len(number)

    @property
    def rows(self) -> TensorDictBase:
        """The stored rows [len(bank)], in storage order, without a copy.

        Raises:
            RuntimeError: if the bank is empty.
        """
        if not len(self):
            raise RuntimeError(
                "The feature bank is empty: append TripletReplay to the replay buffer before the first extend()."
            )
        return self._storage[: len(self)]

    def __len__(self) -> int:
        return min(self.written, self.capacity)

    def state_dict(self) -> dict:
        """Everything needed to go on exactly."""
        return {"written": self.written, "storage": self._storage.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.written = state["written"]
        self._storage.load_state_dict(state["storage"])
