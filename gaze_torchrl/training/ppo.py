"""On-policy learning: PPO and its kin, several epochs over each rollout."""

from __future__ import annotations

import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import nn
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.envs import EnvBase
from torchrl.objectives.value import GAE

from gaze_torchrl.modules import value_head
from gaze_torchrl.training.agent import Agent
from gaze_torchrl.training.learner import Learner

__all__ = ["PPO"]


class PPO(Learner):
    """TorchRL's ClipPPOLoss, KLPENPPOLoss or A2CLoss with generalised advantage estimates.

    Args:
        config: the whole configuration.
        agent: the agent that learns.
        env: what it acts in.
    """

    def __init__(self, config: DictConfig, agent: Agent, env: EnvBase) -> None:
        device, gae = torch.device(config.device), config.loss.gae
        self.critic = value_head(agent.trunk.readout, hidden=config.loss.hidden)
        buffer = TensorDictReplayBuffer(
            storage=LazyTensorStorage(config.collector.frames_per_batch, device=device),
            sampler=SamplerWithoutReplacement(),
            batch_size=config.loss.minibatch,
        )
        self.advantage = GAE(gamma=gae.gamma, lmbda=gae.lmbda, value_network=None, device=device)
        super().__init__(config, agent, buffer, {"critic_network": self.critic})

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Actor and critic."""
        return {**super().networks, "critic": self.critic}

    def policy(self) -> TensorDictSequential:
        """The agent and its critic: every state is valued as it is acted in."""
        return self.agent.policy(self.critic, keep=self.kept)

    def update(self, rollout: TensorDictBase) -> dict[str, float]:
        """Several epochs of gradient steps on a rollout [N, T]."""
        self.prepare(rollout)
        steps = rollout.reshape(-1).exclude("truth", ("next", "truth"), ("next", "pixels"))
        self.buffer.empty()
        self.buffer.extend(steps)
        return self.descent.descend(minibatch for _ in range(self.config.loss.epochs) for minibatch in self.buffer)

    def prepare(self, rollout: TensorDictBase) -> None:
        """Values and advantages of a rollout [N, T]."""
        self.estimate_advantage(rollout)

    @torch.no_grad()
    def estimate_advantage(self, rollout: TensorDictBase) -> None:
        """Write ``advantage``, ``value_target`` and ``("next", "state_value")`` into a rollout [N, T].

        The policy has valued every state it acted in, and the next state of a step is the state of the following one:
        only where an episode or the rollout ends must a next state be looked at. The same holds for the gaze.
        """
        border = rollout["next", "done"].squeeze(-1).clone()
        border[:, -1] = True
        observation = rollout["next"].select("pixels", "proprio", strict=False)[border]
        seen = self.critic(self.agent.trunk(observation))
        for key in ("state_value", ("gaze", "mean")):
            if (now := rollout.get(key, None)) is not None:
                following = torch.cat([now[:, 1:], now[:, -1:]], 1)
                following[border] = seen[key]
                rollout.set(("next", *((key,) if isinstance(key, str) else key)), following)
        self.advantage(rollout)
