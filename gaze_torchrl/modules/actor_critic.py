"""Actors and critics on top of a shared trunk: encoder, gaze, readout."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from tensordict.nn import (
    AddStateIndependentNormalScale,
    NormalParamExtractor,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictModuleBase,
    TensorDictSequential,
)
from tensordict.utils import NestedKey
from torch import nn
from torchrl.data import Binary, Bounded, Categorical, MultiCategorical, MultiOneHot, OneHot, TensorSpec
from torchrl.modules import MLP, IndependentNormal, OneHotCategorical, TanhModule, TanhNormal

from gaze_torchrl.modules.checks import check_positive

__all__ = ["Trunk", "gaze_actor", "qvalue_head", "value_head"]


class Trunk(TensorDictSequential):
    """Encoder, gaze and readout: pixels and proprioception to the ``embedding``.

    The first module of an actor. Losses made by `with_auxiliary` split it off and run it once; TorchRL's own part of
    the loss then sees embeddings only.

    Args:
        encoder: pixels [*, 3, H, W] to features [*, C, h, w].
        gaze: a `GazeModule`.
        readout: writes the embedding.
        pixels: key of the pixels.
    """

    def __init__(
        self,
        encoder: nn.Module,
        gaze: TensorDictModuleBase,
        readout: TensorDictModuleBase,
        pixels: NestedKey = "pixels",
    ) -> None:
        super().__init__(TensorDictModule(encoder, in_keys=[pixels], out_keys=gaze.in_keys[:1]), gaze, readout)

    # A part of a trunk is a plain sequence: TensorDictSequential would build it as one more trunk.
    def __getitem__(self, index: int | slice) -> TensorDictModuleBase:
        part = self.module[index]
        return TensorDictSequential(*part) if isinstance(index, slice) else part

    def select_subsequence(self, *args: Any, **kwargs: Any) -> TensorDictSequential:
        """The modules that some keys need, as `TensorDictSequential.select_subsequence`."""
        return TensorDictSequential(*self.module).select_subsequence(*args, **kwargs)

    @property
    def encoder(self) -> TensorDictModule:
        """Pixels to features."""
        return self.module[0]

    @property
    def gaze(self) -> TensorDictModuleBase:
        """Features to where the agent looks."""
        return self.module[1]

    @property
    def readout(self) -> TensorDictModuleBase:
        """What is seen there to the embedding."""
        return self.module[2]


def gaze_actor(
    encoder: nn.Module,
    gaze: TensorDictModuleBase,
    readout: TensorDictModuleBase,
    action_spec: TensorSpec,
    *,
    policy: Literal["normal", "tanh_normal", "deterministic"] = "normal",
    hidden: int = 64,
    initial_log_std: float = -0.5,
    pixels: NestedKey = "pixels",
) -> TensorDictSequential:
    """The actor: a `Trunk` and a head for the actions of an environment.

    The trunk lives in the actor; critics are heads on its embedding (`value_head`, `qvalue_head`).

    Args:
        encoder: pixels [*, 3, H, W] to features [*, C, h, w].
        gaze: a `GazeModule`.
        readout: writes ``embedding``; its ``out_features`` is the embedding's size.
        action_spec: of one environment's action, ``env.action_spec_unbatched``: one discrete choice (`OneHot` [A] or
            `Categorical` []), or continuous with finite bounds (`Bounded` [A]).
        policy: for continuous actions: ``"normal"`` (Gaussian with a state-independent deviation, for PPO and A2C),
            ``"tanh_normal"`` (squashed Gaussian with a deviation per state, for SAC, REDQ and CrossQ) or
            ``"deterministic"`` (for TD3). Discrete actions have a categorical policy.
        hidden: units of the hidden layer.
        initial_log_std: logarithm of the initial standard deviation of the Gaussians.
        pixels: key of the pixels.

    Returns:
        A TorchRL actor that writes ``action`` and, unless deterministic, ``action_log_prob``.

    Raises:
        TypeError: if the actions are anything else.
        ValueError: if ``hidden`` is not positive or ``policy`` unknown.
    """
    check_positive("loss", hidden=hidden)
    trunk, read = Trunk(encoder, gaze, readout, pixels), readout.out_keys
    if _is_discrete(action_spec):
        net = _head(readout, action_spec.space.n, hidden)
        return ProbabilisticTensorDictSequential(
            trunk,
            TensorDictModule(net, in_keys=read, out_keys=["logits"]),
            ProbabilisticTensorDictModule(
                in_keys=["logits"],
                out_keys=["action"],
                distribution_class=OneHotCategorical
                if isinstance(action_spec, OneHot)
                else torch.distributions.Categorical,
                return_log_prob=True,
            ),
        )
    (size,), low, high = action_spec.shape, action_spec.space.low, action_spec.space.high
    if policy == "deterministic":
        return TensorDictSequential(
            trunk,
            TensorDictModule(_head(readout, size, hidden), in_keys=read, out_keys=["param"]),
            TanhModule(in_keys=["param"], out_keys=["action"], low=low, high=high),
        )
    if policy == "normal":
        net = _head(readout, size, hidden)
        with torch.no_grad():
            # Start near the middle of the action range, whatever is seen.
            net[-1].bias.copy_((low + high) / 2)
        scale = AddStateIndependentNormalScale(size, scale_mapping="exp", init_value=initial_log_std)
        distribution, options = IndependentNormal, {}
    elif policy == "tanh_normal":
        net = _head(readout, 2 * size, hidden)
        with torch.no_grad():
            net[-1].bias.zero_()
        # Not the exponential: one large activation would make the squashed Gaussian numerically flat.
        scale = NormalParamExtractor(scale_mapping=f"biased_softplus_{math.exp(initial_log_std)}")
        distribution, options = TanhNormal, {"low": low, "high": high}
    else:
        raise ValueError(f"policy must be 'normal', 'tanh_normal' or 'deterministic', got {policy!r}.")
    return ProbabilisticTensorDictSequential(
        trunk,
        TensorDictModule(nn.Sequential(net, scale), in_keys=read, out_keys=["loc", "scale"]),
        ProbabilisticTensorDictModule(
            in_keys=["loc", "scale"],
            out_keys=["action"],
            distribution_class=distribution,
            distribution_kwargs=options,
            return_log_prob=True,
        ),
    )


def value_head(readout: TensorDictModuleBase, *, hidden: int = 64) -> TensorDictModule:
    """A critic: the state's value from the embedding.

    Args:
        readout: writes ``embedding``; its ``out_features`` is the embedding's size.
        hidden: units of the hidden layer.

    Returns:
        A module that reads the embedding [*, D] and writes ``state_value`` [*, 1].

    Raises:
        ValueError: if ``hidden`` is not positive.
    """
    check_positive("loss", hidden=hidden)
    net = MLP(readout.out_features, 1, num_cells=[hidden], activation_class=nn.Tanh)
    return TensorDictModule(net, in_keys=readout.out_keys, out_keys=["state_value"])


def qvalue_head(readout: TensorDictModuleBase, action_spec: TensorSpec, *, hidden: int = 64) -> TensorDictModule:
    """A critic: the value of an action from the embedding; of every action where they are discrete.

    Args:
        readout: writes ``embedding``; its ``out_features`` is the embedding's size.
        action_spec: of one environment's action, as for `gaze_actor`.
        hidden: units of each of the two hidden layers.

    Returns:
        A module that reads the embedding [*, D] and the action [*, A] and writes ``state_action_value`` [*, 1], or,
        for discrete actions, reads the embedding and writes ``action_value`` [*, A].

    Raises:
        TypeError: for actions that `gaze_actor` refuses.
        ValueError: if ``hidden`` is not positive.
    """
    check_positive("loss", hidden=hidden)
    if _is_discrete(action_spec):
        net = MLP(readout.out_features, action_spec.space.n, num_cells=[hidden, hidden], activation_class=nn.ReLU)
        return TensorDictModule(net, in_keys=readout.out_keys, out_keys=["action_value"])
    net = MLP(readout.out_features + action_spec.shape[-1], 1, num_cells=[hidden, hidden], activation_class=nn.ReLU)
    return TensorDictModule(net, in_keys=[*readout.out_keys, "action"], out_keys=["state_action_value"])


def _is_discrete(action_spec: TensorSpec) -> bool:
    # Of several choices at once, though subclasses of the two.
    several = isinstance(action_spec, MultiOneHot | MultiCategorical | Binary)
    if isinstance(action_spec, OneHot | Categorical) and not several:
        if action_spec.ndim == isinstance(action_spec, OneHot):
            return True
    elif isinstance(action_spec, Bounded) and action_spec.dtype.is_floating_point and action_spec.ndim == 1:
        space = action_spec.space
        if (space.low.isfinite() & space.high.isfinite()).all():
            return False
    raise TypeError(
        "Expected a discrete or a bounded, continuous action spec of one environment (OneHot [A], Categorical [], or "
        f"Bounded [A] with finite bounds; of a batch, env.action_spec_unbatched), got {action_spec}: choose another "
        "env or task."
    )


def _head(readout: TensorDictModuleBase, out_features: int, hidden: int) -> MLP:
    net = MLP(readout.out_features, out_features, num_cells=[hidden], activation_class=nn.Tanh)
    with torch.no_grad():
        net[-1].weight.mul_(0.01)
    return net
