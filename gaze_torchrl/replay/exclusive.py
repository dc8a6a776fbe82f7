"""Buffer transforms of which one thread at a time reads or writes what they keep."""

from __future__ import annotations

from threading import RLock
from typing import Any

from torchrl.envs import Transform

__all__ = ["ExclusiveTransform"]


class ExclusiveTransform(Transform):
    """A transform with a lock of its own, ``self.lock``: samples wait while data is stored.

    A replay buffer's own locks leave its transforms out, and with ``prefetch`` it samples in threads beside the one
    that extends it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lock = RLock()

    def __getstate__(self) -> dict[str, Any]:
        # Locks can be neither copied nor sent to another process.
        return {key: value for key, value in super().__getstate__().items() if key != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.lock = RLock()
