"""The whole state of a run: what is saved of it, so that a stopped run goes on as if it had not been."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tensordict import TensorDict, TensorDictBase
from torchrl.checkpoint import Checkpoint, GlobalRNGState, StateDictCheckpointAdapter
from torchrl.envs import EnvBase

from gaze_torchrl.training.learner import Learner

__all__ = ["RunState"]


@dataclass
class RunState:
    """How far a run has come, and everything that its next step depends on.

    Args:
        learner: networks, targets, optimizer, replay buffer, bank, mined triplets.
        collector: where it is in its episodes.
        env: the collector's, if it is in this process; what `restores` says of it decides whether its episodes go on or
            begin anew.
        frames: that the run has learnt from.
        evaluated, saved: frames at the last evaluation, and when this was last saved.
        episodes: how many have been begun; their number is the next one's.
        begun: the collector's first episode.
    """

    learner: Learner
    collector: Any
    env: EnvBase | None
    frames: int = 0
    evaluated: int = 0
    saved: int = 0
    episodes: int = 0
    begun: int = 0

    def number(self, rollout: TensorDictBase) -> TensorDictBase:
        """Number the episodes of a rollout on from those before the run was resumed: a collector begins at zero."""
        key = ("collector", "traj_ids")
        numbers = rollout[key] + self.begun
        self.episodes = max(self.episodes, int(numbers.max()) + 1)
        # Collectors leave them on the CPU, and buffers their index where a rollout names no device. A buffer that was
        # restored has all columns on one device.
        return rollout.copy().set(key, numbers).to(rollout["next", "done"].device)

    def checkpoint(self) -> Checkpoint:
        """What saves this state and loads it, the global random generators with it; nothing of it is pickled."""
        checkpoint = Checkpoint(format="archive", rng=GlobalRNGState())
        for name, component in (("run", self), ("learner", self.learner)):
            # Told to, since a TorchRL buffer would choose a format of its own, with pickles.
            checkpoint.register(name, component, adapter=StateDictCheckpointAdapter())
        return checkpoint

    def state_dict(self) -> dict[str, Any]:
        """Counters, and of an environment that can be restored its episodes and the collector's place in them."""
        state = {name: getattr(self, name) for name in ("frames", "evaluated", "episodes", "begun")}
        if restores(self.env):
            state["env"] = self.env.state_dict()  # type: ignore[union-attr]
            state["root"] = self.collector._carrier.to_dict()
            state["pool"] = self.collector._traj_pool.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; episodes that cannot be restored have begun anew."""
        self.frames = self.saved = state["frames"]
        self.evaluated, self.episodes = state["evaluated"], state["episodes"]
        if restores(self.env):
            self.begun = state["begun"]
            self.env.load_state_dict(state["env"])  # type: ignore[union-attr]
            carrier = self.collector._carrier
            # Over what a reset gave: an environment of an older version may not have measured all of it.
            carrier.update(TensorDict(state["root"], carrier.batch_size, device=carrier.device))
            self.collector._traj_pool.load_state_dict(state["pool"])
        else:
            self.begun = self.episodes


def restores(env: EnvBase | None) -> bool:
    """Whether an environment's ``state_dict`` holds its episodes, future ones included, so that they go on exactly."""
    return getattr(type(env), "restores", False)  # of its class: batched environments ask their lanes, or recurse
