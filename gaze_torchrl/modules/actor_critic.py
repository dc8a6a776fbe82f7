"""Actor and critic on top of a shared trunk: encoder, gaze, readout."""

from __future__ import annotations

import torch
from tensordict.nn import (
    AddStateIndependentNormalScale,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictModuleBase,
)
from torch import nn
from torchrl.data import Bounded
from torchrl.modules import MLP, IndependentNormal

from gaze_torchrl.modules.checks import check_positive

__all__ = ["gaze_actor", "value_head"]


def gaze_actor(
    encoder: nn.Module,
    gaze: TensorDictModuleBase,
    readout: TensorDictModuleBase,
    action_spec: Bounded,
    *,
    hidden: int = 64,
    initial_log_std: float = -0.5,
    pixels: str = "pixels",
) -> ProbabilisticTensorDictSequential:
    """The policy: encoder, gaze, readout, and a Gaussian over the actions with a state-independent deviation.

    The trunk lives in the actor, and writes ``features``, ``("gaze", ...)`` and ``embedding`` into the tensordict;
    the critic is a head on the embedding (`value_head`), so that TorchRL's PPO losses run the trunk once.

    Args:
        encoder: pixels [*, 3, H, W] to features [*, C, h, w].
        gaze: a `GazeModule`.
        readout: writes ``embedding``; its ``out_features`` is the embedding's size.
        action_spec: bounded, continuous spec of one environment's action, shape [A] or batched [*, A].
        hidden: units of the hidden layer.
        initial_log_std: logarithm of the initial standard deviation.
        pixels: key of the pixels.

    Returns:
        A TorchRL actor that writes ``action`` and ``action_log_prob``.

    Raises:
        TypeError: if the actions are not continuous and bounded.
        ValueError: if ``hidden`` is not positive.
    """
    if not (isinstance(action_spec, Bounded) and action_spec.dtype.is_floating_point):
        raise TypeError(f"Expected a bounded, continuous action spec, got {action_spec}: choose another env or task.")
    check_positive("loss", hidden=hidden)
    actions = action_spec.shape[-1]
    mean = MLP(readout.out_features, actions, num_cells=[hidden], activation_class=nn.Tanh)
    with torch.no_grad():
        # Start near the middle of the action range, whatever is seen.
        mean[-1].weight.mul_(0.01)
        mean[-1].bias.copy_(((action_spec.space.low + action_spec.space.high) / 2).reshape(-1, actions)[0])
    scale = AddStateIndependentNormalScale(actions, scale_mapping="exp", init_value=initial_log_std)
    return ProbabilisticTensorDictSequential(
        TensorDictModule(encoder, in_keys=[pixels], out_keys=gaze.in_keys),
        gaze,
        readout,
        TensorDictModule(nn.Sequential(mean, scale), in_keys=readout.out_keys, out_keys=["loc", "scale"]),
        ProbabilisticTensorDictModule(
            in_keys=["loc", "scale"],
            out_keys=["action"],
            distribution_class=IndependentNormal,
            return_log_prob=True,
        ),
    )


def value_head(readout: TensorDictModuleBase, *, hidden: int = 64) -> TensorDictModule:
    """The critic: a state value from the embedding.

    Args:
        readout: writes ``embedding``; its ``out_features`` is the embedding's size.
        hidden: units of the hidden layer.

    Returns:
        A module that reads the embedding [*, D] and writes ``state_value`` [*, 1].
    """
    check_positive("loss", hidden=hidden)
    net = MLP(readout.out_features, 1, num_cells=[hidden], activation_class=nn.Tanh)
    return TensorDictModule(net, in_keys=readout.out_keys, out_keys=["state_value"])
