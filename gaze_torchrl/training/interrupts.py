"""Ctrl-C that is not lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["remembered_interrupts"]


@contextmanager
def remembered_interrupts() -> Iterator[list[int]]:
    """Ctrl-C interrupts as before and is remembered.

    Python raises it wherever the program is. If that is a finalizer or a callback from C, the exception is printed,
    dropped, and the program goes on. Who looks at what was remembered can stop all the same. Nothing is remembered
    outside the main thread, where no handler can be set, and where Ctrl-C does something else than to interrupt.

    Yields:
        The interrupts until now, empty at first.

    Example:
        >>> _ = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        >>> with remembered_interrupts() as interrupts:
        ...     try:
        ...         signal.raise_signal(signal.SIGINT)
        ...     except KeyboardInterrupt:
        ...         pass
        ...     len(interrupts)
        1
    """
    interrupts: list[int] = []
    handler = signal.getsignal(signal.SIGINT)  # Python's, or one around it: TorchRL's removes files of storages first
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield interrupts
        return

    def remember(number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame)
        except KeyboardInterrupt:
            interrupts.append(number)
            raise

    signal.signal(signal.SIGINT, remember)
    try:
        yield interrupts
    finally:
        if signal.getsignal(signal.SIGINT) is remember:  # TorchRL's handler puts back the one before it
            signal.signal(signal.SIGINT, handler)
