"""Ctrl-C ends a run, whatever Python was doing when it came."""

import signal
import threading
from weakref import WeakSet

import pytest
import torch
from torchrl.data import LazyMemmapStorage
from torchrl.data.replay_buffers.storages import tensor as storages

from gaze_torchrl.cli import _one_message
from gaze_torchrl.training import loop
from gaze_torchrl.training.interrupts import remembered_interrupts
from tests.training.support import tiny_run


@pytest.fixture(autouse=True)
def _interruptible():
    """Whatever this process inherited (a shell's background jobs ignore Ctrl-C) or another test left."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None], ids=["ignored", "handled"])
def test_where_it_does_something_else(handler):
    signal.signal(signal.SIGINT, handler)
    with remembered_interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
    assert not interrupts
    assert signal.getsignal(signal.SIGINT) is handler


def test_beside_a_storage_that_cleans_up(monkeypatch):
    """TorchRL's memory-mapped storages set a handler that removes their files and goes on to the one before it."""
    anew = {"_CLEANUP_HANDLERS_REGISTERED": False, "_CLEANUP_DONE": False, "_MEMMAP_STORAGE_REGISTRY": WeakSet()}
    for name, value in (anew | {"_ORIGINAL_SIGINT_HANDLER": None, "_ORIGINAL_SIGTERM_HANDLER": None}).items():
        monkeypatch.setattr(storages, name, value)
    terminated = signal.getsignal(signal.SIGTERM)
    storage = LazyMemmapStorage(4)
    storage.set(range(4), torch.zeros(4))
    assert signal.getsignal(signal.SIGINT) is storages._signal_cleanup_handler
    try:
        with remembered_interrupts() as interrupts:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            assert interrupts == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, terminated)


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


def test_what_ctrl_c_is_answered(tmp_path, capsys):
    """Nobody is sent to a run that would begin anew."""
    for there, said in ((False, "before a first state was saved"), (True, f"Go on with: gaze-train resume={tmp_path}")):
        if there:
            (tmp_path / "state").mkdir()
            (tmp_path / "state" / "checkpoint-000000256.torchrl").touch()
        with pytest.raises(SystemExit), _one_message(tmp_path, []):
            raise KeyboardInterrupt
        assert said in capsys.readouterr().err
