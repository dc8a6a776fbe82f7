"""Checks of constructor arguments, with messages that name the configuration key."""

from __future__ import annotations

__all__ = ["check_positive"]


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
