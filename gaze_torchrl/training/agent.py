"""Assembly: every component is built once and passed on to those that need it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from omegaconf import DictConfig
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModule, TensorDictSequential
from tensordict.utils import NestedKey
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.envs import EnvBase
from torchrl.objectives import LossModule
from torchrl.objectives.value import GAE

from gaze_torchrl.modules import GazeModule, MapGeometry, gaze_actor, value_head
from gaze_torchrl.objectives import with_auxiliary
from gaze_torchrl.replay import TripletReplay
from gaze_torchrl.training.assemble import assemble
from gaze_torchrl.training.config import ConfigError

__all__ = ["Agent", "Learner", "build_agent", "build_env", "build_learner"]


@dataclass
class Agent:
    """What acts: the policy, its critic and where its gaze points.

    Args:
        actor: pixels and proprioception to an action.
        critic: head on the actor's embedding.
        gaze: the actor's gaze.
        geometry: from the gaze's coordinates to the image's.
    """

    actor: ProbabilisticTensorDictSequential
    critic: TensorDictModule
    gaze: GazeModule
    geometry: MapGeometry

    @property
    def trunk(self) -> TensorDictSequential:
        """Encoder, gaze and readout: pixels and proprioception to the embedding."""
        return TensorDictSequential(*self.actor.module[:3])

    def policy(self, *extra: NestedKey) -> TensorDictSequential:
        """Actor and critic as one policy that writes only the action, its log-probability, the value, the gaze's
        place and the ``extra`` keys: what else passes through the networks is large and would only go stale.
        """
        keys = ["action", "action_log_prob", "state_value", *self._gaze_keys("mean", "covariance"), *extra]
        return TensorDictSequential(self.actor, self.critic, selected_out_keys=keys)

    def watched_policy(self) -> TensorDictSequential:
        """The policy with all that its gaze shows, for evaluation and videos."""
        return self.policy(*self._gaze_keys("foveae"))

    def _gaze_keys(self, *names: str) -> list[NestedKey]:
        return [key for key in self.gaze.out_keys if key[-1] in names]


@dataclass
class Learner:
    """What learns: the composed loss, the buffer with its triplets, the advantage and the optimizer.

    Args:
        loss: a TorchRL loss, composed with the contrastive one where there is one.
        buffer: holds one rollout.
        advantage: TorchRL's GAE.
        optimizer: of all parameters.
        triplets: the transform of the buffer, None without contrast.
    """

    loss: LossModule
    buffer: TensorDictReplayBuffer
    advantage: GAE
    optimizer: torch.optim.Optimizer
    triplets: TripletReplay | None


def build_env(config: DictConfig, num_envs: int, seed: int) -> EnvBase:
    """The configured environment, seeded.

    Args:
        config: the whole configuration.
        num_envs: environments in the batch.
        seed: of the environment.

    Raises:
        ConfigError: if the device cannot be used or the environment refuses an argument.
    """
    try:
        torch.empty(0, device=config.device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={config.device} cannot be used here: {error}") from error
    node = config.env.copy()
    node.num_envs = num_envs
    env = assemble(node, "env", device=torch.device(config.device))
    env.set_seed(seed)
    return env


def build_agent(config: DictConfig, env: EnvBase) -> Agent:
    """Encoder, gaze, readout, actor and critic for the observations and actions of an environment."""
    height, width = env.observation_spec["pixels"].shape[-2:]
    proprio = env.observation_spec.get("proprio", None)
    encoder = assemble(config.encoder, "encoder")
    geometry = encoder.geometry(height, width)
    sizes = {
        "in_channels": encoder.out_channels,
        "map_size": geometry.size,
        "proprio_dim": 0 if proprio is None else proprio.shape[-1],
    }
    gaze = assemble(config.gaze, "gaze", skip=["rl_gradient"], **sizes)
    if hasattr(gaze, "num_foveae"):
        sizes["num_foveae"] = gaze.num_foveae
    readout = assemble(config.readout, "readout", **sizes)
    foveated = "foveated" if "foveated" in readout.in_keys else None
    gaze_module = GazeModule(gaze, foveated=foveated, rl_gradient=config.gaze.rl_gradient)
    written = {*gaze_module.in_keys, *gaze_module.out_keys, *env.observation_spec.keys(True, True)}
    if unwritten := [key for key in readout.in_keys if key not in written]:
        raise ConfigError(
            f"{type(readout).__name__} reads {unwritten}, which {type(gaze).__name__} does not write: a gaze without a "
            "location goes with readout=flatten."
        )
    actor = gaze_actor(
        encoder,
        gaze_module,
        readout,
        env.action_spec_unbatched,
        hidden=config.loss.hidden,
        initial_log_std=config.loss.initial_log_std,
    )
    critic = value_head(readout, hidden=config.loss.hidden)
    device = torch.device(config.device)
    return Agent(actor.to(device), critic.to(device), gaze_module, geometry)


def build_learner(config: DictConfig, agent: Agent) -> Learner:
    """Loss, buffer, advantage and optimizer of PPO, with the contrastive part where configured."""
    frames, gae = config.collector.frames_per_batch, config.loss.gae
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(frames, device=torch.device(config.device)),
        sampler=SamplerWithoutReplacement(),
        batch_size=config.loss.minibatch,
    )
    objective, contrast, miner, triplets = config.loss.objective, config.contrast, config.miner, None
    networks = {"actor_network": agent.actor, "critic_network": agent.critic}
    if contrast._target_ is None:
        loss = assemble(objective, "loss.objective", **networks)
    else:
        auxiliary = assemble(
            contrast,
            "contrast",
            skip=["num_triplets", "max_grad_norm"],
            gaze_network=agent.gaze,
            max_triplets=contrast.num_triplets,
        )
        loss = assemble(objective, "loss.objective", wrap=with_auxiliary, auxiliary=auxiliary, **networks)
        triplets = TripletReplay(
            assemble(config.labels, "labels"),
            assemble(miner.rule, "miner.rule"),
            capacity=miner.capacity,
            min_steps=miner.min_steps,
            key_grid=miner.key_grid,
            num_triplets=contrast.num_triplets,
            seed=config.seed,
        )
        buffer.append_transform(triplets)
    optimizer = torch.optim.Adam(loss.parameters(), lr=config.loss.learning_rate)
    advantage = GAE(gamma=gae.gamma, lmbda=gae.lmbda, value_network=None, device=torch.device(config.device))
    return Learner(loss, buffer, advantage, optimizer, triplets)
