"""Off-policy learning: soft actor-critic and its kin, from a replay buffer of frames."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from torch import nn
from torchrl.data import Categorical, LazyTensorStorage, OneHot, TensorDictReplayBuffer
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.objectives import SoftUpdate

from gaze_torchrl.modules import qvalue_head
from gaze_torchrl.replay import FrameReplay, NStep
from gaze_torchrl.training.agent import Agent
from gaze_torchrl.training.explain import ConfigError
from gaze_torchrl.training.learner import Learner, has_targets

__all__ = ["SAC"]


class SAC(Learner):
    """TorchRL's SACLoss, DiscreteSACLoss, REDQLoss or CrossQLoss; the critic and the gaze train the encoder.

    Args:
        config: the whole configuration.
        agent: the agent that learns.
        env: what it acts in.
    """

    def __init__(self, config: DictConfig, agent: Agent, env: EnvBase) -> None:
        node, spec = config.loss, env.action_spec_unbatched
        discrete = isinstance(spec, OneHot | Categorical)
        if discrete != node.objective._target_.endswith("DiscreteSACLoss"):
            kind, other = ("discrete", "loss=discrete_sac") if discrete else ("continuous", "loss=sac")
            raise ConfigError(f"env={config.task.env} has {kind} actions: choose {other}.")
        if not discrete and node.policy != "tanh_normal":
            raise ConfigError(f"loss.policy must be 'tanh_normal' with continuous actions, got {node.policy!r}.")
        capacity = node.replay.capacity
        buffer = TensorDictReplayBuffer(
            storage=LazyTensorStorage(capacity, device=torch.device(config.device)), batch_size=node.minibatch
        )
        buffer.append_transform(FrameReplay(capacity, node.replay.spare))
        buffer.append_transform(NStep(config.task.gamma, node.replay.n_steps))
        self.critic = qvalue_head(agent.trunk.readout, spec, hidden=node.hidden)
        facts: dict = {"action_spec": spec}
        if discrete:
            facts |= {"action_space": spec, "num_actions": spec.space.n}
        super().__init__(config, agent, buffer, {"qvalue_network": self.critic}, **facts)
        self.loss.make_value_estimator(gamma=config.task.gamma)
        # REDQ and CrossQ register this buffer when they first need it, and a resumed run must have it before.
        getattr(self.loss, "target_entropy", None)
        if has_targets(self.loss):
            self.descent.updaters.append(SoftUpdate(self.loss, tau=node.tau))
        # Fractions of an update wait for the next rollout.
        self._due = 0.0

    def update(self, rollout: TensorDictBase) -> dict[str, float]:
        """Add a rollout [N, T] to the replay buffer, and take the gradient steps it is worth."""
        self.prepare(rollout)
        self.buffer.extend(rollout.exclude("truth", ("next", "truth")))
        if len(self.buffer) >= self.config.loss.warmup:
            self._due += rollout.numel() * self.config.loss.updates_per_frame
        updates, self._due = divmod(self._due, 1)
        return self.descent.descend(self.buffer.sample() for _ in range(int(updates)))

    def prepare(self, rollout: TensorDictBase) -> None:
        """Values of the next states of a rollout [N, T], if labels read them."""
        if self.triplets is not None and "next_value" in getattr(self.triplets.labels, "needs", ("next_value",)):
            self.estimate_value(rollout)

    def state_dict(self) -> dict[str, Any]:
        """With the fraction of an update that is due."""
        return {**super().state_dict(), "due": self._due}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._due = state["due"]

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Actor and critics."""
        return {**super().networks, "critic": self.loss.qvalue_network_params}

    @torch.no_grad()
    def estimate_value(self, rollout: TensorDictBase) -> None:
        """Write ``("next", "state_value")`` into a rollout, for labels that bootstrap: the least of the critics, of the
        policy's action without noise, or of discrete actions in the mean over the policy.
        """
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            seen = self.agent.actor(rollout["next"].select("pixels", "proprio", strict=False))
        values = []
        for parameters in self.loss.qvalue_network_params.unbind(0):
            with parameters.to_module(self.critic):
                values.append(self.critic(seen)[self.critic.out_keys[0]])
        value = torch.stack(values).amin(0)
        if (logits := seen.get("logits", None)) is not None:
            value = (logits.softmax(-1) * value).sum(-1, keepdim=True)
        rollout["next", "state_value"] = value
