"""What every training loop shares: the composed loss, the buffer's transforms, and the gradient steps."""

from __future__ import annotations

import math
from typing import Any

import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import nn
from torchrl.data import TensorDictReplayBuffer
from torchrl.objectives import LossModule, SoftUpdate

from gaze_torchrl.modules import Trunk
from gaze_torchrl.objectives import with_auxiliary
from gaze_torchrl.registry import BUILDER_KEYS
from gaze_torchrl.replay import TripletReplay
from gaze_torchrl.training.agent import Agent
from gaze_torchrl.training.assemble import assemble
from gaze_torchrl.training.descent import Descent
from gaze_torchrl.training.explain import ConfigError

__all__ = ["Learner", "has_targets"]


class Learner:
    """What learns. A training loop is a subclass: it says what to collect and how to learn from a rollout.

    Args:
        config: the whole configuration.
        agent: the agent that learns.
        buffer: the replay buffer; augmentation and triplets are appended to its transforms where configured.
        critics: heads on the embedding, by the names of the loss's arguments.
        **facts: further arguments of the loss that the data decides.

    Raises:
        ConfigError: if a part refuses its options, or two do not fit together.
    """

    def __init__(
        self, config: DictConfig, agent: Agent, buffer: TensorDictReplayBuffer, critics: dict, **facts: Any
    ) -> None:
        self.config, self.agent, self.buffer = config, agent, buffer
        device, trunk = torch.device(config.device), agent.trunk
        self.contrast: LossModule | None = None
        self.triplets: TripletReplay | None = None
        if config.contrast._target_ is not None:
            known = {"gaze_network": trunk.gaze, "encoder_network": trunk.encoder, **agent.sizes}
            self.contrast = assemble(config.contrast, "contrast", skip=[*BUILDER_KEYS["contrast"]], **known)
            self.contrast.to(device)
        auxiliaries = [self.contrast] if self.contrast is not None else []
        if config.regularizer._target_ is not None:
            auxiliaries.append(self._build_regularizer(trunk))
        critics = {name: critic.to(device) for name, critic in critics.items()}
        self.loss: LossModule = assemble(
            config.loss.objective,
            "loss.objective",
            wrap=with_auxiliary,
            actor_network=agent.actor,
            auxiliary=auxiliaries,
            **critics,
            **facts,
        ).to(device)
        if config.compile:
            self.loss.compile(mode=None if config.compile is True else config.compile)
        if config.augment._target_ is not None:
            buffer.append_transform(assemble(config.augment, "augment", seed=config.seed))
        if getattr(self.contrast, "member_keys", ()):
            self.triplets = self._build_triplets(self.contrast)
            buffer.append_transform(self.triplets)
        self.descent = Descent(
            self.loss,
            self.contrast,
            config.loss.learning_rate,
            config.loss.max_grad_norm,
            config.contrast.get("max_grad_norm", math.inf),
            config.contrast.get("own_learning_rate"),
            # Momentum encoders, such as CURL's.
            [SoftUpdate(one, tau=one.tau) for one in auxiliaries if has_targets(one)],
        )

    def policy(self) -> TensorDictSequential:
        """What collects: by default the agent, which keeps its features for the bank."""
        return self.agent.policy(keep=self.kept)

    def schedule(self, frames: int) -> None:
        """Weigh contrast and RL loss as configured for a number of frames; there is nothing here that resuming must
        restore."""
        self.descent.waits = frames <= self.config.contrast.get("pretrain_frames", 0)
        if self.contrast is not None and (last := self.config.contrast.get("anneal_frames")) is not None:
            self.contrast.coeff = self.config.contrast.coeff * max(0.0, 1 - frames / last)

    def update(self, rollout: TensorDictBase) -> dict[str, float]:
        """Learn from a rollout [N, T]; the mean of each term of the loss."""
        raise NotImplementedError

    def statistics(self) -> dict[str, float]:
        """What the bank looks like, as of `TripletReplay.statistics`; nothing without triplets."""
        return {} if self.triplets is None else {key: float(one) for key, one in self.triplets.statistics().items()}

    def prepare(self, rollout: TensorDictBase) -> None:
        """Write into a rollout [N, T] what labels read beside rewards: the critic's value of each next state."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next update depends on but the global random generators."""
        return {name: part.state_dict() for name, part in self._stateful().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name, part in self._stateful().items():
            part.load_state_dict(state[name])

    def _stateful(self) -> dict[str, Any]:
        own = self.descent.contrast_optimizer
        parts = {"loss": self.loss, "optimizer": self.descent.optimizer, "buffer": self.buffer}
        return parts if own is None else {**parts, "contrast_optimizer": own}

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What a checkpoint holds, by name."""
        embedding = getattr(self.contrast, "embedding", None)
        own = {"contrast": embedding} if embedding is not None and list(embedding.parameters()) else {}
        return {"actor": self.agent.actor, **own}

    @property
    def kept(self) -> tuple[str, ...]:
        """Outputs of the trunk that rollouts must hold for the bank."""
        return () if self.triplets is None else ("features",)

    def _build_regularizer(self, trunk: Trunk) -> LossModule:
        regularizer = assemble(self.config.regularizer, "regularizer")
        name = type(trunk.gaze.gaze).__name__
        if not regularizer.in_keys:
            raise ConfigError("regularizer=gaze has no term: give it a weight, such as regularizer.spread=0.1.")
        if not list(trunk.gaze.parameters()):
            raise ConfigError(f"{name} has nothing for the regulariser to train: add regularizer=none.")
        wanted = [key for key in regularizer.in_keys if "next" not in key and key not in trunk.out_keys]
        if wanted:
            raise ConfigError(f"The regulariser reads {wanted}, which {name}, a gaze without a place, does not write.")
        return regularizer

    def _build_triplets(self, contrast: Any) -> TripletReplay:
        config = self.config
        normalize = config.normalize._target_ and assemble(config.normalize, "normalize", **self.agent.sizes)
        keys = assemble(config.key, "key", **self.agent.sizes)
        return TripletReplay(
            assemble(config.labels, "labels"),
            assemble(config.miner, "miner", metric=getattr(keys, "metric", "cosine")),
            keys=keys,
            normalize=normalize,
            members=tuple(contrast.member_keys),
            num_triplets=contrast.num_triplets,
            seed=config.seed,
            **config.bank,
        ).to(torch.device(config.device))


def has_targets(loss: LossModule) -> bool:
    """Whether a loss has target networks."""
    return any(name.startswith("target_") for name, _ in loss.named_children())
