"""What every training loop shares: the composed loss, the buffer's transforms, and the gradient step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from tensordict.nn import TensorDictSequential
from torch import Tensor, nn
from torchrl.data import TensorDictReplayBuffer
from torchrl.objectives import LossModule, SoftUpdate

from gaze_torchrl.modules import Trunk
from gaze_torchrl.objectives import with_auxiliary
from gaze_torchrl.registry import BUILDER_KEYS
from gaze_torchrl.replay import TripletReplay
from gaze_torchrl.training.agent import Agent
from gaze_torchrl.training.assemble import assemble
from gaze_torchrl.training.explain import ConfigError

__all__ = ["Learner", "add_gradient"]


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
            networks = {"gaze_network": trunk.gaze, "encoder_network": trunk.encoder}
            self.contrast = assemble(config.contrast, "contrast", skip=[*BUILDER_KEYS["contrast"]], **networks)
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
        if config.augment._target_ is not None:
            buffer.append_transform(assemble(config.augment, "augment", seed=config.seed))
        if getattr(self.contrast, "member_keys", ()):
            self.triplets = self._build_triplets(self.contrast)
            buffer.append_transform(self.triplets)
        self.optimizer = torch.optim.Adam(self.loss.parameters(), lr=config.loss.learning_rate)
        # Momentum encoders, such as CURL's.
        self.updaters = [SoftUpdate(one, tau=one.tau) for one in auxiliaries if has_targets(one)]

    def policy(self) -> TensorDictSequential:
        """What collects: by default the agent, which keeps its features for the bank."""
        return self.agent.policy(keep=self.kept)

    def update(self, rollout: TensorDictBase) -> dict[str, float]:
        """Learn from a rollout [N, T]; the mean of each term of the loss."""
        raise NotImplementedError

    def descend(self, minibatches: Iterable[TensorDictBase]) -> dict[str, float]:
        """One gradient step on each minibatch.

        Returns:
            The mean of each term of the loss; NaN if there is no minibatch.

        Raises:
            FloatingPointError: if a loss is not finite; the message names it.
        """
        history, named = [], sorted(map(str, self.loss.out_keys))
        for minibatch in minibatches:
            losses = self.loss(minibatch)
            self.step(losses)
            # TorchRL names some scalars nowhere (explained_variance), and CrossQ adds what is no term, row by row.
            terms = {key: one for key, one in sorted(losses.items()) if key in named or one.numel() == 1}
            history.append({key: one.detach().mean() for key, one in terms.items()})
        if not history:
            return dict.fromkeys(named, math.nan)
        mean = torch.stack([torch.stack(list(terms.values())) for terms in history]).mean(0)
        means: dict[str, float] = dict(zip(history[0], mean.tolist(), strict=True))
        for name, value in means.items():
            if name.startswith("loss_") and not math.isfinite(value):
                raise FloatingPointError(
                    f"{name} is {value}: lower loss.learning_rate, or check the environment's rewards and pixels."
                )
        return means

    def statistics(self) -> dict[str, float]:
        """What the bank looks like: triplets mined, share of known labels, their spread."""
        return {} if self.triplets is None else {key: float(one) for key, one in self.triplets.statistics().items()}

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What a checkpoint holds, by name."""
        return {"actor": self.agent.actor}

    @property
    def kept(self) -> tuple[str, ...]:
        """Outputs of the trunk that rollouts must hold for the bank."""
        return () if self.triplets is None else ("features",)

    def step(self, losses: TensorDictBase) -> None:
        """One optimizer step; the contrastive gradient has its own norm limit, so it takes nothing of the RL loss's."""
        separate = () if self.contrast is None else self.contrast.out_keys
        terms = [value for name, value in losses.items() if name.startswith("loss_") and name not in separate]
        self.optimizer.zero_grad()
        torch.stack(terms).sum().backward()
        if self.config.loss.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(list(self.loss.parameters()), self.config.loss.max_grad_norm)
        if self.contrast is not None:
            parameters = [parameter for parameter in self.contrast.parameters() if parameter.requires_grad]
            add_gradient(losses["loss_contrast"], parameters, self.config.contrast.max_grad_norm)
        self.optimizer.step()
        for updater in self.updaters:
            updater.step()

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
        normalize = config.normalize._target_ and assemble(config.normalize, "normalize")
        return TripletReplay(
            assemble(config.labels, "labels"),
            assemble(config.miner, "miner"),
            keys=assemble(config.key, "key", **self.agent.sizes),
            normalize=normalize,
            members=tuple(contrast.member_keys),
            num_triplets=contrast.num_triplets,
            seed=config.seed,
            **config.bank,
        ).to(torch.device(config.device))


def has_targets(loss: LossModule) -> bool:
    """Whether a loss has target networks."""
    return any(name.startswith("target_") for name, _ in loss.named_children())


def add_gradient(loss: Tensor, parameters: list[Tensor], max_norm: float) -> None:
    """Add the gradient of a loss, of norm ``max_norm`` at most, to the gradients already there."""
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    pairs = [(one, gradient) for one, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
    scale = (max_norm / (nn.utils.get_total_norm([gradient for _, gradient in pairs]) + 1e-6)).clamp_max(1.0)
    for parameter, gradient in pairs:
        gradient = gradient * scale
        parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
