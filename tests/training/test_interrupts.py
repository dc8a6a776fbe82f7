"""Ctrl-C ends a run, whatever Python was doing when it came."""

import signal
import threading

import pytest

from gaze_torchrl.training import loop
from gaze_torchrl.training.interrupts import remembered_interrupts
from tests.training.support import tiny_run


class Finalizer:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_in_a_finalizer(tmp_path, monkeypatch):
    """There Python drops the exception and goes on."""
    original, before = loop.check_rollout, signal.getsignal(signal.SIGINT)

    def interrupted(*args):
        Finalizer()
        original(*args)

    monkeypatch.setattr(loop, "check_rollout", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny_run(tmp_path / "run")
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 2, "the names, and the first rollout"
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupts_at_once_elsewhere():
    with remembered_interrupts() as interrupts:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interrupts == [signal.SIGINT]


def test_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with remembered_interrupts() as interrupts:
            signal.raise_signal(signal.SIGINT)
        assert not interrupts
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread():
    """Where no handler can be set, nothing fails."""
    seen = []

    def body():
        with remembered_interrupts() as interrupts:
            seen.append(list(interrupts))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [[]]
