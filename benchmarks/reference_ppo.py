"""PPO in plain PyTorch: what our loop is measured against.

One file, no TorchRL but the environment itself: the same network (FineCNN, flattened, two heads), the same data,
losses, clipping and optimizer as `gaze-train gaze=none contrast=none`. Run by loop_cost.py.
"""

from collections.abc import Iterator

import torch
from omegaconf import DictConfig
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.nn import functional as F
from torchrl.envs import EnvBase

from gaze_torchrl.modules import FineCNN
from gaze_torchrl.training.agent import build_env


class ActorCritic(nn.Module):
    """Pixels and proprioception to the mean of the action and the state's value."""

    def __init__(self, proprio: int, actions: int, hidden: int, log_std: float) -> None:
        super().__init__()
        self.encoder = FineCNN()
        self.read = nn.Sequential(nn.Flatten(), nn.Linear(32 * 16 * 16, 256), nn.ReLU())
        self.actor = nn.Sequential(nn.Linear(256 + proprio, hidden), nn.Tanh(), nn.Linear(hidden, actions))
        self.critic = nn.Sequential(nn.Linear(256 + proprio, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        self.log_std = nn.Parameter(torch.full((actions,), log_std))

    def forward(self, pixels: Tensor, proprio: Tensor) -> tuple[Independent, Tensor]:
        embedding = torch.cat([self.read(self.encoder(pixels)), proprio], -1)
        policy = Normal(self.actor(embedding), self.log_std.exp(), validate_args=False)
        return Independent(policy, 1, validate_args=False), self.critic(embedding).squeeze(-1)


def reference_ppo(config: DictConfig) -> Iterator[int]:
    """Learn for ever; yields the frames of each rollout once it has been learnt from."""
    node = config.loss
    env = build_env(config, config.env.num_envs, config.seed)
    lanes, steps = config.env.num_envs, config.collector.frames_per_batch // config.env.num_envs
    net = ActorCritic(
        env.observation_spec["proprio"].shape[-1], env.action_spec.shape[-1], node.hidden, node.initial_log_std
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=node.learning_rate, fused=True)
    seen = env._reset(None)
    while True:
        data, seen = collect(net, env, seen, steps, node.gae.gamma)
        with torch.no_grad():
            following = net(seen["pixels"], seen["proprio"])[1]
        data["advantage"] = advantages(data, following, node.gae.gamma, node.gae.lmbda)
        data["target"] = data["advantage"] + data["value"]
        flat = {name: column.flatten(0, 1) for name, column in data.items()}
        for _ in range(node.epochs):
            for index in torch.randperm(lanes * steps).split(node.minibatch):
                loss = ppo_loss(net, {name: column[index] for name, column in flat.items()}, node)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), node.max_grad_norm)
                optimizer.step()
        yield lanes * steps


@torch.no_grad()
def collect(
    net: ActorCritic, env: EnvBase, seen: TensorDictBase, steps: int, gamma: float
) -> tuple[dict[str, Tensor], TensorDictBase]:
    """Some steps from what is seen: columns [T, N], and what is seen then."""
    kept: dict[str, list[Tensor]] = {
        name: [] for name in ("pixels", "proprio", "action", "log_prob", "value", "reward", "done")
    }
    for _ in range(steps):
        policy, value = net(seen["pixels"], seen["proprio"])
        action = policy.sample()
        after = env._step(TensorDict({"action": action}, env.batch_size))
        done, reward = after["done"].squeeze(-1), after["reward"].squeeze(-1)
        if done.any():  # time limits: the value of the last state of an episode is its own
            reward = reward + gamma * done * net(after["pixels"], after["proprio"])[1]
        row = (seen["pixels"], seen["proprio"], action, policy.log_prob(action), value, reward, done)
        for column, entry in zip(kept.values(), row, strict=True):
            column.append(entry)
        seen = env._reset(TensorDict({"_reset": done.unsqueeze(-1)}, env.batch_size)) if done.any() else after
    return {name: torch.stack(column) for name, column in kept.items()}, seen


def advantages(data: dict[str, Tensor], following: Tensor, gamma: float, lmbda: float) -> Tensor:
    """Generalised advantage estimates [T, N] of steps whose rewards hold the values of last states."""
    estimates, advantage = torch.empty_like(data["reward"]), torch.zeros_like(following)
    for t in reversed(range(len(estimates))):
        alive = (~data["done"][t]).float()
        delta = data["reward"][t] + gamma * following * alive - data["value"][t]
        advantage = delta + gamma * lmbda * alive * advantage
        estimates[t], following = advantage, data["value"][t]
    return estimates


def ppo_loss(net: ActorCritic, batch: dict[str, Tensor], node: DictConfig) -> Tensor:
    """The clipped objective, the critic's error and the entropy of a minibatch [M]."""
    policy, value = net(batch["pixels"], batch["proprio"])
    ratio = (policy.log_prob(batch["action"]) - batch["log_prob"]).exp()
    gain = (batch["advantage"] - batch["advantage"].mean()) / batch["advantage"].std()
    clip = node.objective.clip_epsilon
    objective = torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain).mean()
    loss = -objective + node.objective.critic_coeff * F.mse_loss(value, batch["target"])
    return loss - node.objective.entropy_coeff * policy.entropy().mean()
