"""PPO in plain PyTorch: what our loop is measured against.

One file, no TorchRL but the environment itself: the same network (FineCNN, flattened, two heads), the same data,
losses, clipping and optimizer as `gaze-train gaze=none contrast=none`. Run by loop_cost.py.
"""

from collections.abc import Iterator

import torch
from omegaconf import DictConfig
from tensordict import TensorDict
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torch.nn import functional as F

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
        kept: dict[str, list[Tensor]] = {
            name: [] for name in ("pixels", "proprio", "action", "log_prob", "value", "reward", "done")
        }
        for _ in range(steps):
            with torch.no_grad():
                policy, value = net(seen["pixels"], seen["proprio"])
                action = policy.sample()
                log_prob = policy.log_prob(action)
            after = env._step(TensorDict({"action": action}, [lanes]))
            done = after["done"].squeeze(-1)
            row = (seen["pixels"], seen["proprio"], action, log_prob, value, after["reward"].squeeze(-1), done)
            for column, entry in zip(kept.values(), row, strict=True):
                column.append(entry)
            if done.any():
                # Time limits: the value of the last state of an episode is its own.
                with torch.no_grad():
                    kept["reward"][-1] = (
                        kept["reward"][-1] + node.gae.gamma * done * net(after["pixels"], after["proprio"])[1]
                    )
                after = env._reset(TensorDict({"_reset": done.unsqueeze(-1)}, [lanes]))
            seen = after
        data = {name: torch.stack(column) for name, column in kept.items()}
        with torch.no_grad():
            following = net(seen["pixels"], seen["proprio"])[1]
        advantage = torch.zeros(lanes)
        advantages = torch.empty(steps, lanes)
        for t in reversed(range(steps)):
            alive = (~data["done"][t]).float()
            delta = data["reward"][t] + node.gae.gamma * following * alive - data["value"][t]
            advantage = delta + node.gae.gamma * node.gae.lmbda * alive * advantage
            advantages[t], following = advantage, data["value"][t]
        data |= {"advantage": advantages, "target": advantages + data["value"]}
        flat = {name: column.flatten(0, 1) for name, column in data.items()}
        for _ in range(node.epochs):
            for index in torch.randperm(lanes * steps).split(node.minibatch):
                batch = {name: column[index] for name, column in flat.items()}
                policy, value = net(batch["pixels"], batch["proprio"])
                ratio = (policy.log_prob(batch["action"]) - batch["log_prob"]).exp()
                gain = (batch["advantage"] - batch["advantage"].mean()) / batch["advantage"].std()
                clip = node.objective.clip_epsilon
                objective = torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain).mean()
                loss = -objective + node.objective.critic_coeff * F.mse_loss(value, batch["target"])
                loss = loss - node.objective.entropy_coeff * policy.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), node.max_grad_norm)
                optimizer.step()
        yield lanes * steps
