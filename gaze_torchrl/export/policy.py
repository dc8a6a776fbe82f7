"""A trained agent as one plain PyTorch module."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType, set_exploration_type

from gaze_torchrl.training.agent import Agent

__all__ = ["ExportedPolicy"]


class ExportedPolicy(nn.Module):
    """Pictures in, actions without noise and where the gaze points out; no tensordicts outside.

    ``geometry`` turns places in coordinates of the map into those of the picture.

    Args:
        agent: the agent; its networks are shared, and put into evaluation mode.
        reads_proprio: whether it was built for an environment with proprioception.

    Example:
        >>> from gaze_torchrl.training.agent import build_agent, build_env
        >>> from gaze_torchrl.training.config import compose_config
        >>> config = compose_config(["env.image_size=32"])
        >>> env = build_env(config, 2, seed=0)
        >>> policy = ExportedPolicy(build_agent(config, env), reads_proprio=True)
        >>> seen = env.reset()
        >>> {name: tuple(one.shape) for name, one in policy(seen["pixels"], seen["proprio"]).items()}
        {'action': (2, 2), 'gaze_map': (2, 8, 8), 'gaze_mean': (2, 8, 2), 'gaze_covariance': (2, 8, 2, 2)}
    """

    def __init__(self, agent: Agent, reads_proprio: bool) -> None:
        super().__init__()
        self.actor = agent.actor.eval()
        self.geometry = agent.geometry
        self.reads_proprio = reads_proprio
        shown = {f"gaze_{key[-1]}": key for key in agent.gaze.out_keys if key[-1] in ("map", "mean", "covariance")}
        self.outputs = {"action": "action", **shown}

    def forward(self, pixels: Tensor, proprio: Tensor | None = None) -> dict[str, Tensor]:
        """Act.

        Args:
            pixels: [B, C, H, W], uint8 in [0, 255] or float in [0, 1].
            proprio: [B, P], floating point; None for an agent without proprioception.

        Returns:
            ``action`` [B, A] (one-hot or [B] if discrete), and unless the gaze has none, ``gaze_map`` [B, h, w] in
            [0, 1], ``gaze_mean`` [B, K, 2] and ``gaze_covariance`` [B, K, 2, 2] in coordinates of the map.

        Raises:
            ValueError: if proprioception is missing, or not read.
        """
        if self.reads_proprio != (proprio is not None):
            wanted = "pixels and proprio" if self.reads_proprio else "pixels alone"
            raise ValueError(f"This policy was trained on {wanted}: call policy({wanted.replace(' and', ',')}).")
        seen = {"pixels": pixels} if proprio is None else {"pixels": pixels, "proprio": proprio}
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            acted = self.actor(TensorDict(seen, batch_size=pixels.shape[:1]))
        return {name: acted[key] for name, key in self.outputs.items()}

    def example(self, spaces: dict, batch: int = 2) -> tuple[Tensor, ...]:
        """Inputs of the right shapes, for tracing.

        Args:
            spaces: as ``spaces.json`` holds them.
            batch: how many.
        """
        device = next(self.parameters()).device
        pixels = torch.zeros(batch, *spaces["pixels"], dtype=torch.uint8, device=device)
        return (pixels, torch.zeros(batch, spaces["proprio"], device=device)) if self.reads_proprio else (pixels,)
