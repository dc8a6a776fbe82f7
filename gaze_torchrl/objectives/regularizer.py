"""The regulariser: keeps the gaze narrow, steady or certain, beside what the return asks of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import dispatch
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.objectives import LossModule

from gaze_torchrl.functional import gaze_drift, gaze_spread, map_entropy
from gaze_torchrl.registry import register

__all__ = ["GazeRegularizer"]


@register("regularizer", "gaze")
class GazeRegularizer(LossModule):
    r"""Three penalties on what the gaze wrote into the minibatch, each with a coefficient of its own.

    .. math:: c_s\, \overline{tr\, \Sigma_k} \;+\; c_d\, \overline{\|\mu_k - \mu_k^{next}\|^2} \;+\;
              c_e\, \overline{H(map)}

    A term with coefficient 0 is off: it reads nothing, and its output is zero. It knows no networks: the gradient is
    that of the outputs it reads, so the actor must have run on the minibatch before. Means are over the steps that
    TorchRL's samplers do not mark as padding (``loss_mask_key``).

    Args:
        spread: coefficient of the width of the foveae, >= 0.
        drift: coefficient of the squared distance to the stored mean one step later, a constant, >= 0; steps that
            end an episode do not count.
        entropy: coefficient of the entropy of the map, >= 0.

    Raises:
        ValueError: for a negative coefficient.
        KeyError: when called with a minibatch that lacks what a term reads.

    Returns (when called):
        ``loss_gaze_spread``, ``loss_gaze_drift``, ``loss_gaze_entropy``, in every configuration. Coefficients
        that were not 0 when it was built can be scheduled (``loss.spread = 0.05``).

    Example:
        >>> from gaze_torchrl.modules import FovealGaze, GazeModule
        >>> td = GazeModule(FovealGaze(8, (12, 12)))(TensorDict({"features": torch.rand(5, 8, 12, 12)}, [5]))
        >>> loss = GazeRegularizer(spread=0.1)
        >>> loss.in_keys, sorted(loss(td).keys())
        ([('gaze', 'covariance')],
         ['loss_gaze_drift', 'loss_gaze_entropy', 'loss_gaze_spread'])
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that `set_keys` can change: what the gaze wrote now and stored of the next step, and its end."""

        map: NestedKey = ("gaze", "map")
        mean: NestedKey = ("gaze", "mean")
        covariance: NestedKey = ("gaze", "covariance")
        next_mean: NestedKey = ("next", "gaze", "mean")
        done: NestedKey = ("next", "done")

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    _schedulable_buffers = frozenset({"spread", "drift", "entropy"})

    out_keys = ["loss_gaze_spread", "loss_gaze_drift", "loss_gaze_entropy"]  # noqa: RUF012 (TorchRL reads a list)

    def __init__(self, *, spread: float = 0.0, drift: float = 0.0, entropy: float = 0.0) -> None:
        super().__init__()
        coefficients = {"spread": spread, "drift": drift, "entropy": entropy}
        for name, value in coefficients.items():
            if value < 0:
                raise ValueError(f"regularizer.{name} must not be negative, got {value}.")
            self.register_coeff_buffer(name, float(value))
        # Kept apart from the buffers, whose values a forward pass could only read by waiting for the device.
        self.active = [name for name, value in coefficients.items() if value]
        self._set_in_keys()

    def _set_in_keys(self) -> None:
        self.in_keys = [key for name in self.active for key in self._reads(name)]

    def _forward_value_estimator_keys(self, **kwargs: NestedKey) -> None:
        self._set_in_keys()

    def _reads(self, name: str) -> list[NestedKey]:
        return [getattr(self.tensor_keys, field) for field in _TERMS[name][1]]

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Read what the active terms need, return all three."""
        losses = {f"loss_gaze_{name}": torch.zeros_like(getattr(self, name)) for name in _TERMS}
        for name in self.active:
            inputs = [self._read(tensordict, key, name) for key in self._reads(name)]
            penalty, counts = _TERMS[name][0](*inputs)
            mean = self._reduce_loss(penalty, tensordict, mask=counts, reduction="mean")
            losses[f"loss_gaze_{name}"] = getattr(self, name) * mean
        return TensorDict(losses)

    def _read(self, tensordict: TensorDictBase, key: NestedKey, name: str) -> Tensor:
        value = tensordict.get(key, None)
        if value is None:
            if key == self.tensor_keys.next_mean:
                cause = "Collectors do not store the gaze on the next observations: run the trunk on those"
            else:
                cause = (
                    "A gaze without a location (gaze=none, global_pool, patch, mask, attention_pool) writes only its "
                    "map: choose another one"
                )
            raise KeyError(
                f"regularizer.{name} reads {key!r}, which the minibatch does not hold. {cause}, or set "
                f"regularizer.{name}=0."
            )
        return value


# Each gives its penalty [*] and which of them count, None for all.
def _spread(covariance: Tensor) -> tuple[Tensor, None]:
    return gaze_spread(covariance), None


def _drift(mean: Tensor, next_mean: Tensor, done: Tensor) -> tuple[Tensor, Tensor]:
    # Where the episode ended the next mean may be anything: replaced rather than multiplied by zero.
    constant = torch.where(done.unsqueeze(-1), mean, next_mean).detach()
    return gaze_drift(mean, constant), ~done


def _entropy(attention: Tensor) -> tuple[Tensor, None]:
    return map_entropy(attention), None


# term -> what it computes, and the tensordict keys of its arguments.
_TERMS: dict[str, tuple[Callable[..., tuple[Tensor, Tensor | None]], tuple[str, ...]]] = {
    "spread": (_spread, ("covariance",)),
    "drift": (_drift, ("mean", "next_mean", "done")),
    "entropy": (_entropy, ("map",)),
}
