"""The bank: what is kept of the last steps, to label, to compare and to look at them again."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import LazyTensorStorage

__all__ = ["FeatureBank"]


class FeatureBank:
    """A ring of the last steps, oldest overwritten first.

    Storage is TorchRL's; what is added is ``written``, the running number of each row, which keeps the time order of
    a trajectory known after the ring has wrapped around, and names a step for good: its row only until it is
    overwritten.

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
            raise ValueError(f"bank.capacity must be at least 2 steps, got {capacity}.")
        self.capacity = capacity
        self.written = 0
        self._storage = LazyTensorStorage(capacity, device="auto")

    def extend(self, rows: TensorDictBase) -> None:
        """Append rows [n]; of more rows than fit, the last are kept.

        Raises:
            ValueError: if they have other columns than those before.
        """
        device = rows.device or next(iter(rows.values())).device
        number = torch.arange(self.written, self.written + len(rows), device=device)
        rows = rows.copy().set("written", number)[-self.capacity :]
        if len(self) and (changed := set(self.rows.keys(True, True)) ^ set(rows.keys(True, True))):
            raise ValueError(
                f"The bank was extended with and without {sorted(map(str, changed))}: all data must hold it, or none."
            )
        self._storage.set(self.row(number[-self.capacity :]), rows)
        self.written += len(number)

    def row(self, number: Tensor) -> Tensor:
        """Row in which the step of a running number is stored."""
        return number % self.capacity

    def holds(self, number: Tensor) -> Tensor:
        """Whether the step of a running number is still stored."""
        return number >= self.written - self.capacity

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

    @property
    def bytes_per_step(self) -> int:
        """Memory of one stored step, in bytes; times ``capacity``, what the bank takes.

        Features of 32 channels on a map of 16x16 take 16384 in half precision, their pooled key 2048, the columns of
        numbers less than 50, and with `ResidualNormalize` four for each number of the proprioception.

        Raises:
            RuntimeError: if the bank is empty.
        """
        return sum(column[0].nbytes for column in self.rows.values(include_nested=True, leaves_only=True))

    def __len__(self) -> int:
        return min(self.written, self.capacity)

    def state_dict(self) -> dict:
        """Everything needed to go on exactly."""
        return {"capacity": self.capacity, "written": self.written, "storage": self._storage.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: if it comes from a bank of another capacity, where a step has another row.
        """
        if state["capacity"] != self.capacity:
            raise ValueError(
                f"The state is that of a bank of {state['capacity']} steps, this one holds {self.capacity}: keep "
                "bank.capacity."
            )
        self.written = state["written"]
        self._storage.load_state_dict(state["storage"])
