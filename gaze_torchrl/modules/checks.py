"""Checks of constructor arguments, with messages that name the configuration key."""

from __future__ import annotations

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

__all__ = ["check_positive", "read_inputs"]


def check_positive(group: str, **values: float) -> None:
    """Raise unless every value is positive.

    Args:
        group: the configuration group the values belong to.
        **values: by the names of their keys.

    Raises:
        ValueError: for the first value that is not positive.

    Example:
        >>> check_positive("gaze", hidden=0)
        Traceback (most recent call last):
        ValueError: gaze.hidden must be positive, got 0.
    """
    for name, value in values.items():
        if not value > 0:  # so that NaN is refused too
            raise ValueError(f"{group}.{name} must be positive, got {value}.")


def read_inputs(module: TensorDictModuleBase, tensordict: TensorDictBase, advice: str) -> list[Tensor]:
    """What a module reads, in the order of its ``in_keys``.

    Args:
        module: the one that reads; its ``in_keys`` say what.
        tensordict: the data.
        advice: what to do where something is missing.

    Raises:
        KeyError: if the data lacks a key; the message names it and ends with the advice.
    """
    values = [tensordict.get(key, None) for key in module.in_keys]
    if missing := [key for key, value in zip(module.in_keys, values, strict=True) if value is None]:
        raise KeyError(f"{type(module).__name__} reads {module.in_keys}, but the data has no {missing}: {advice}")
    return values
