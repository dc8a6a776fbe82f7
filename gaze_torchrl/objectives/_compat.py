"""What touches private names of TorchRL, in one place; the contract tests of the losses notice when they change."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.objectives import LossModule, REDQLoss

__all__ = ["copy_shared", "detach_redq_actor", "loss_mask", "picklable_state", "restore_vmapped"]


def loss_mask(loss: LossModule, tensordict: TensorDictBase, steps: torch.Size) -> Tensor | None:
    """Which steps are real and no padding, bool in the shape of the steps; None if nothing says so.

    Args:
        loss: its ``loss_mask_key`` says where the masks lie.
        tensordict: the minibatch.
        steps: shape of a value per step.
    """
    real = None
    for key in loss._loss_mask_keys():
        if (mask := tensordict.get(key, None)) is not None:
            every = torch.ones(steps, dtype=torch.bool, device=mask.device) if real is None else real
            real = every & loss._expand_loss_mask(mask, every)
    return real


class _DetachedActor(REDQLoss):
    """REDQ computes the losses of actor and critics together, so its actor loss alone cannot get constant embeddings.

    The actor gets them, and of the stacked rows of the one call to the critics (actor, next state, critic) only the
    last third sends a gradient into the embedding.
    """

    trunk: Any
    _vmap_getdist: Callable
    _vmap_qvalue_network00: Callable

    def make_value_estimator(self, *args: Any, **kwargs: Any) -> None:
        super().make_value_estimator(*args, **kwargs)
        self.value_estimator.set_keys(steps_to_next_obs=("next", "steps_to_next_obs"))

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        # REDQ takes what lies under "next" and its own inputs, so that its target would not see the steps of an n-step
        # return, and discount it as one.
        if (steps := tensordict.get("steps_to_next_obs", None)) is not None:
            tensordict.set(("next", "steps_to_next_obs"), steps)  # not in a copy: REDQ writes priorities into its input
        return super().forward(tensordict)

    def _make_vmap(self) -> None:
        super()._make_vmap()
        self._vmap_getdist = partial(self._detached, self._vmap_getdist, None)
        self._vmap_qvalue_network00 = partial(
            self._detached, self._vmap_qvalue_network00, self.num_qvalue_nets + self.sub_sample_len
        )

    def _detached(self, call: Callable, rows: int | None, tensordict: TensorDictBase, params: Any) -> TensorDictBase:
        for key in self.trunk.readout.out_keys if self.trunk is not None else ():
            embedding = tensordict.get(key)
            constant = embedding[:rows].detach()
            tensordict.set(key, constant if rows is None else torch.cat([constant, embedding[rows:]]))
        return call(tensordict, params)


def detach_redq_actor(loss_class: type[LossModule]) -> tuple[type[LossModule], ...]:
    """The class that keeps REDQ's actor loss from training the trunk; nothing for other losses."""
    return (_DetachedActor,) if issubclass(loss_class, REDQLoss) else ()


def picklable_state(loss: LossModule) -> dict[str, Any]:
    """What a loss holds, without its vmapped and compiled functions, which are local objects that pickle refuses."""
    return {name: value for name, value in loss.__dict__.items() if not _is_made_again(name, value)}


def restore_vmapped(loss: LossModule) -> None:
    """Make the vmapped functions that `picklable_state` left out."""
    if type(loss)._make_vmap is not LossModule._make_vmap:
        loss._make_vmap()


def _is_made_again(name: str, value: object) -> bool:
    return name == "_objective" or (name.startswith("_vmap_") and callable(value))


def copy_shared(loss: LossModule, memo: dict[int, Any]) -> Any:
    """A deep copy in which what is shared stays shared: within the loss, and with what is copied along with it.

    tensordict copies each set of parameters on its own, and the gaze of the copied trunk would no longer be the one an
    auxiliary trains; pickle keeps shared parameters shared. The memo is deepcopy's: an actor or an optimizer in the
    same container finds the copied parameters there, or has left them.
    """

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: object) -> int | None:
            return id(thing) if isinstance(thing, nn.Module | Tensor) and id(thing) in memo else None

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, name: int) -> Any:
            return memo[name]

    Pickler(buffer := io.BytesIO(), pickle.HIGHEST_PROTOCOL).dump(loss)
    copied = Unpickler(io.BytesIO(buffer.getvalue())).load()
    for kind in ("modules", "parameters", "buffers"):
        for old, new in zip(getattr(loss, kind)(), getattr(copied, kind)(), strict=True):
            memo.setdefault(id(old), new)
    return copied
