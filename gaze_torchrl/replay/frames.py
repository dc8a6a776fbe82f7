"""Frames for off-policy replay: every frame stored once, and n-step targets."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor
from torchrl.data import MultiStep
from torchrl.envs import Transform

from gaze_torchrl.replay.exclusive import ExclusiveTransform

__all__ = ["FrameReplay", "NStep"]


class FrameReplay(ExclusiveTransform):
    """Store each frame once: what a step sees next is what the following step sees.

    A replay-buffer transform. On ``extend`` it moves the frames of rollouts [*, T] into a ring of its own and leaves
    their numbers in the buffer, one row per step; on ``sample`` it puts the frames back, ``("next", pixels)`` too. Only
    the last frame of an episode and of a rollout is stored besides, so that memory is about half of what both
    observations take, and nothing is lost: sampled frames are those collected, to the bit. After `NStep` the next frame
    is the one n steps on.

    Args:
        capacity: steps that the buffer holds.
        spare: room for last frames, as a share of the capacity, > 0: rollouts of T steps need 1/T, episodes of L steps
            1/L.
        pixels: key of the frames [*, T, C, H, W].

    Raises:
        ValueError: if a number is out of range, if the data has no time dimension, or if rollouts and episodes are so
            short that a frame would be overwritten before its step.
        RuntimeError: if a sample's frames were overwritten: the buffer holds more steps than ``capacity``, or another
            thread drew the sample (``prefetch``) and it waited too long.

    Example:
        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
        >>> buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100), batch_size=4)
        >>> _ = buffer.append_transform(FrameReplay(100))
        >>> frames = torch.randint(0, 256, (2, 6, 3, 8, 8), dtype=torch.uint8)
        >>> done = torch.zeros(2, 5, 1, dtype=torch.bool)
        >>> rollout = TensorDict({"pixels": frames[:, :5], "next": {"pixels": frames[:, 1:], "done": done}}, [2, 5])
        >>> _ = buffer.extend(rollout)
        >>> len(buffer), buffer.sample()["next", "pixels"].shape
        (10, torch.Size([4, 3, 8, 8]))
    """

    def __init__(self, capacity: int, spare: float = 0.25, pixels: NestedKey = "pixels") -> None:
        super().__init__()
        if capacity < 1 or spare <= 0:
            raise ValueError(
                f"Expected loss.replay.capacity >= 1 and loss.replay.spare > 0, got {capacity} and {spare}."
            )
        self.capacity, self.size = capacity, capacity + int(-(-capacity * spare // 1))
        self.keys = [unravel_key(pixels), unravel_key(("next", pixels))]
        self.frames: Tensor | None = None
        self.written = self.steps = 0
        # (first step, first frame) of each batch that still has steps in the buffer.
        self._batches: deque[tuple[int, int]] = deque()
        self._writer = threading.get_ident()

    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase:
        with self.lock:
            self._writer = threading.get_ident()
            return self._take_frames(tensordict)

    def _take_frames(self, tensordict: TensorDictBase) -> TensorDictBase:
        if tensordict.ndim < 2:
            raise ValueError(
                f"FrameReplay needs rollouts [*, T], got a batch of shape {list(tensordict.shape)}: extend the buffer "
                "with the collector's batch as it is, not flattened."
            )
        if (mask := tensordict.get(("collector", "mask"), None)) is not None and not mask.all():
            raise ValueError("FrameReplay needs rollouts without padding: set the collector's split_trajs=False.")
        rollout = tensordict.reshape(-1, tensordict.shape[-1])
        now, after = (rollout.get(key) for key in self.keys)
        number = torch.arange(rollout.numel(), device=now.device).view(rollout.shape)
        # The step whose outcome is the next frame: this one, or with NStep one ahead.
        ahead = rollout.get("steps_to_next_obs", torch.ones_like(number)).view_as(number) - 1
        outcome = number + ahead.to(number.dtype)
        column = torch.arange(rollout.shape[1], device=now.device) + ahead
        done, changes = rollout["next", "done"].view_as(number), trajectory_changes(rollout).to(now.device)
        last = done | changes.gather(1, column) | (column == rollout.shape[1] - 1)
        # Steps with one outcome share its frame.
        unique, which = torch.unique(outcome[last], return_inverse=True)
        first = torch.empty_like(unique).scatter_(0, which, torch.arange(len(which), device=which.device))
        following = outcome + 1
        following[last] = rollout.numel() + which
        self._store(torch.cat([now.flatten(0, 1), after[last][first]]), rollout.numel())
        stored = rollout.exclude(*self.keys).flatten()
        base = self.written - rollout.numel() - len(unique)
        return stored.set("frame", base + number.flatten()).set(("next", "frame"), base + following.flatten())

    def _store(self, frames: Tensor, steps: int) -> None:
        if self.frames is None:
            self.frames = torch.empty(self.size, *frames.shape[1:], dtype=frames.dtype, device=frames.device)
        self._batches.append((self.steps, self.written))
        self.steps += steps
        self.written += len(frames)
        oldest = max(self.steps - self.capacity, 0)
        while len(self._batches) > 1 and self._batches[1][0] <= oldest:
            self._batches.popleft()
        step, frame = self._batches[0]
        if self.written - (frame + oldest - step) > self.size:
            raise ValueError(
                f"{self.size} frames are too few for {self.capacity} steps: rollouts or episodes are short. Raise "
                "loss.replay.spare or collector.frames_per_batch."
            )
        # Of more frames than fit only the last are in use: the check above has seen to that.
        number = torch.arange(self.written - len(frames), self.written, device=frames.device)[-self.size :]
        self.frames[number % self.size] = frames[-self.size :]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Put the frames of a sample back."""
        assert self.frames is not None  # nothing is sampled before something was stored
        sample = tensordict.exclude("frame", ("next", "frame"))
        with self.lock:
            # The buffer chose the steps before this, and another thread may have stored others since; or the buffer is
            # the larger of the two.
            # On a GPU the look would wait for the device.
            looks = threading.get_ident() != self._writer or self.frames.device.type == "cpu"
            if looks and (tensordict["frame"] < self.written - self.size).any():
                raise RuntimeError(
                    "A sample's frames were overwritten before it got them. Either the buffer holds more steps than "
                    f"FrameReplay(capacity={self.capacity}): give both the same number; or an extend() in another "
                    "thread came between: set the buffer's prefetch=None, or a larger `spare` (loss.replay.spare)."
                )
            for key, number in zip(self.keys, ("frame", ("next", "frame")), strict=True):
                sample.set(key, self.frames[tensordict.get(number) % self.size])
        return sample

    def get_extra_state(self) -> dict[str, Any]:
        """The frames and their numbers."""
        return {
            "frames": None if self.frames is None else self.frames[: self.written],
            "size": self.size,
            "written": self.written,
            "steps": self.steps,
            "batches": torch.tensor(self._batches, dtype=torch.int64).view(-1, 2),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` returned, maybe of a smaller ring.

        Raises:
            ValueError: if it comes from a larger one.
        """
        frames, size = state["frames"], state["size"]
        if size > self.size:
            raise ValueError(
                f"The state is that of a ring of {size} frames, this one holds {self.size}: keep loss.replay.capacity, "
                "and loss.replay.spare or more."
            )
        self.written, self.steps = state["written"], state["steps"]
        self.frames = None
        if frames is not None:
            self.frames = torch.empty(self.size, *frames.shape[1:], dtype=frames.dtype, device=frames.device)
            number = torch.arange(self.written - len(frames), self.written, device=frames.device)
            self.frames[number % self.size] = frames[number % size]
        self._batches = deque(tuple(batch) for batch in state["batches"].tolist())


def trajectory_changes(rollout: TensorDictBase) -> Tensor:
    """Whether each step [*, T] is followed by one of another trajectory, of which no ``done`` tells where a collector
    puts one rollout behind the other in time (``cat_results=-1``). False at the last step, and without numbers.
    """
    number = rollout.get(("collector", "traj_ids"), None)
    if number is None:
        return torch.zeros(rollout.shape, dtype=torch.bool)
    number = number.view(rollout.shape)
    return torch.cat([number[..., 1:] != number[..., :-1], torch.zeros_like(number[..., :1], dtype=torch.bool)], -1)


class NStep(Transform):
    """TorchRL's `MultiStep` as a replay-buffer transform for rollouts [*, T]: rewards and next states n steps ahead.

    Labels want the rewards as they were: `TripletReplay` must come after it in the buffer's transforms (data passes
    them from the last to the first when it is stored).

    Args:
        gamma: discount per step, in (0, 1].
        n_steps: steps, at least 1; fewer at the end of an episode or of a rollout.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(self, gamma: float, n_steps: int) -> None:
        super().__init__()
        if n_steps < 1 or not 0 < gamma <= 1:
            raise ValueError(f"Expected loss.replay.n_steps >= 1 and 0 < gamma <= 1, got {n_steps} and {gamma}.")
        self.multi_step = MultiStep(gamma, n_steps)

    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase:
        ends = tensordict.get("next").select("done", "terminated", "truncated", strict=False)
        changes = trajectory_changes(tensordict).unsqueeze(-1).to(ends["done"].device)
        cut = tensordict.get("next").copy().set("done", ends["done"] | changes)
        ahead = self.multi_step(tensordict.copy().set("next", cut))
        steps = ahead["steps_to_next_obs"]
        outcome = steps - 1 + torch.arange(tensordict.shape[-1], device=steps.device)
        # MultiStep leaves the ends where they were, and a target would bootstrap beyond a terminal state.
        ahead.get("next").update(ends.gather(-1, outcome))
        return ahead

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Nothing to do for samples."""
        return tensordict
