"""The scenes of a `Simulation`, shared out among processes of this machine."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, multiprocessing

from gaze_torchrl.envs.maniskill_scene import SceneOptions
from gaze_torchrl.envs.maniskill_simulation import Reading, Simulation
from gaze_torchrl.envs.rendering import RendererNotFound
from gaze_torchrl.envs.wrapping import WorkerDied

__all__ = ["Workers"]


class Workers:
    """As a `Simulation` on the CPU, with each process simulating some of the scenes.

    What is seen passes through shared memory, so that a step costs no more than the slowest process takes. Scenes have
    the numbers and the seeds that they would have in one process: how many there are changes nothing but speed.

    Args:
        options: what the scenes are made from.
        count: how many scenes, at least as many as processes.
        processes: how many, at least 1.

    Raises:
        WorkerDied: here and later, if a process has ended; the message names it and its scenes.
        RendererNotFound, ValueError: as `Simulation`.
    """

    def __init__(self, options: SceneOptions, count: int, processes: int) -> None:
        shares = np.array_split(np.arange(count), processes)
        self._slices = [slice(int(share[0]), int(share[-1]) + 1) for share in shares]
        # Not a fork: the renderer's threads and locks would be copied half.
        context = multiprocessing.get_context("spawn")
        self._processes, self._pipes = [], []
        self._owing = set(range(len(self._slices)))  # processes that have not answered yet
        for share in self._slices:
            mine, its = context.Pipe()
            arguments = (its, options, share.start, share.stop - share.start)
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            its.close()  # so that the pipe breaks when the process dies
            self._processes.append(process)
            self._pipes.append(mine)
        try:
            bounds, layout = self._answers()[0]
            self.action_bounds: tuple[Tensor, Tensor] = bounds
            self._shared = {
                key: torch.zeros(count, *shape, dtype=dtype).share_memory_() for key, (shape, dtype) in layout.items()
            }
            for index, share in enumerate(self._slices):
                self._send(index, {key: entry[share] for key, entry in self._shared.items()})
            self._answers()
        except BaseException:
            self.close()
            raise

    def reset(self, rows: Sequence[int], seeds: Sequence[int]) -> Reading:
        """Begin new episodes in some scenes: increasing indices, and a seed for each; what is seen of them."""
        for index, share in enumerate(self._slices):
            mine = [
                (row - share.start, seed)
                for row, seed in zip(rows, seeds, strict=True)
                if share.start <= row < share.stop
            ]
            if mine:
                self._send(index, ("reset", *zip(*mine, strict=True)))
        self._answers()
        return {key: entry[list(rows)] for key, entry in self._shared.items() if key not in ("reward", "ended")}

    def step(self, action: Tensor) -> Reading:
        """Act in all scenes, [n, A]; what is seen afterwards, ``reward`` and ``ended``."""
        for index, share in enumerate(self._slices):
            self._send(index, ("step", action[share].numpy()))
        self._answers()
        return {key: entry.clone() for key, entry in self._shared.items()}

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.close()  # which ends its process
        for process in self._processes:
            process.join(timeout=10)
            if process.is_alive():
                process.kill()
        self._processes, self._pipes = [], []

    def _send(self, index: int, message: Any) -> None:
        if index in self._owing:
            self._receive(index)  # of an order whose answers an exception, such as Ctrl-C, left unread
        try:
            self._pipes[index].send(message)
        except OSError:
            self._mourn(index)
        self._owing.add(index)

    def _answers(self) -> list[Any]:
        """What the processes that were asked answer."""
        answers: dict[int, Any] = {}
        while self._owing:
            ready = wait([self._pipes[index] for index in self._owing])
            for index in [index for index in self._owing if self._pipes[index] in ready]:
                answers[index] = self._receive(index)
                if isinstance(answers[index], Exception):
                    raise answers[index]
        return [answers[index] for index in sorted(answers)]

    def _receive(self, index: int) -> Any:
        try:
            answer = self._pipes[index].recv()
        except (EOFError, OSError):
            self._mourn(index)
        self._owing.remove(index)
        return answer

    def _mourn(self, index: int) -> NoReturn:
        process, share = self._processes[index], self._slices[index]
        process.join(timeout=10)
        code = process.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit code {code}"
        raise WorkerDied(
            f"Process {index + 1} of env.num_workers={len(self._slices)} (pid {process.pid}, scenes {share.start} to "
            f"{share.stop - 1}) {how}. SIGKILL comes from the system where memory runs out: each process takes 0.7 GB; "
            "lower env.num_workers then."
        ) from None


def _work(pipe: Connection, options: SceneOptions, first: int, count: int) -> None:
    """What a process does: build its scenes, then obey until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes the pipe
    torch.set_num_threads(1)
    # Mesa's software renderer would start a thread per core in each process, and they would take turns.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    try:
        simulation = Simulation(options, first, count)
        trial = simulation.step(torch.zeros(count, len(simulation.action_bounds[0])))
        pipe.send((simulation.action_bounds, {key: (entry.shape[1:], entry.dtype) for key, entry in trial.items()}))
        shared: Reading = pipe.recv()
        while True:
            pipe.send(None)
            order, *arguments = pipe.recv()
            if order == "reset":
                rows, seeds = arguments
                where, reading = list(rows), simulation.reset(rows, seeds)
            else:
                where, reading = list(range(count)), simulation.step(torch.from_numpy(*arguments))
            for key, entry in reading.items():
                shared[key][where] = entry
    except (EOFError, ConnectionError):
        pass
    except (ValueError, ImportError, RendererNotFound) as error:
        pipe.send(error)
    except Exception:
        pipe.send(RuntimeError(f"A process that simulates scenes failed:\n{traceback.format_exc()}"))
