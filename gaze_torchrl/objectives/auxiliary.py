"""Compose a shared trunk and auxiliary losses with a TorchRL loss, as one LossModule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, wraps
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import (
    ProbabilisticTensorDictSequential,
    TensorDictModuleBase,
    TensorDictSequential,
    dispatch,
)
from tensordict.utils import NestedKey, unravel_key
from torch import nn
from torchrl.modules import SafeProbabilisticTensorDictSequential, SafeSequential
from torchrl.objectives import ClipPPOLoss, DDPGLoss, LossModule, SACLoss

from gaze_torchrl.modules.actor_critic import Trunk
from gaze_torchrl.objectives._compat import copy_shared, detach_redq_actor, picklable_state, restore_vmapped

__all__ = ["AuxiliaryLossMixin", "GazePPOLoss", "GazeSACLoss", "with_auxiliary"]


# Mixed into a LossModule, whose methods it calls; it is none by itself, so that the concrete loss decides the order.
if TYPE_CHECKING:

    class _Mixin(LossModule):
        pass
else:
    _Mixin = object


class AuxiliaryLossMixin(_Mixin):
    """Gives a TorchRL loss an actor with a shared `Trunk`, and auxiliary losses (see `with_auxiliary`).

    The trunk is split off the actor and runs once per call, with gradient, on the observations; with none on the next
    observations where the loss looks at them (SAC and its kin). The TorchRL loss then works on embeddings: nothing of
    it is changed, vmapped ensembles of critics stay small, target networks are heads. On-policy losses train the
    trunk by actor and critic; in off-policy ones the critic trains it and the actor does not.

    Optimize ``loss.parameters()``. Where each network has an optimizer of its own, as in TorchRL's SAC scripts, the
    trunk needs one, too: ``loss.trunk.parameters()`` are not among those of the actor or the critic.

    A mixin and not a wrapper: target updaters, trainers and checkpoints look at attributes of the loss itself
    (``actor_network``, ``target_*_params``), which a wrapper would hide.

    Args:
        actor_network: an actor whose first module is a `Trunk`, as `gaze_actor` makes it, or TorchRL's
            ``ProbabilisticActor`` around a sequence that begins with one. An actor without a trunk is left whole.
        args, kwargs: as for the TorchRL loss; critics are heads on the embedding.
        auxiliary: LossModules whose terms are added to the output, under keys of their own; one, several or none.
    """

    loss_class: type[LossModule]
    trunk: Trunk | None
    auxiliaries: Any  # a ModuleList of LossModules

    def __init__(
        self,
        actor_network: TensorDictModuleBase,
        *args: Any,
        auxiliary: LossModule | Sequence[LossModule] = (),
        **kwargs: Any,
    ) -> None:
        trunk, head = _split(actor_network)
        super().__init__(head, *args, **kwargs)
        auxiliaries = [auxiliary] if isinstance(auxiliary, nn.Module) else list(auxiliary)
        self.out_keys: list[NestedKey] = list(self.out_keys)
        for one in auxiliaries:
            if not isinstance(one, LossModule):
                raise TypeError(f"Expected auxiliary to be a TorchRL LossModule, got {type(one).__name__}.")
            if clash := set(self.out_keys) & set(one.out_keys):
                raise ValueError(
                    f"Two losses write {sorted(clash)}: keep one of them here, call the other by itself and add its "
                    "terms to the sum."
                )
            self.out_keys += one.out_keys
        self.trunk, self.auxiliaries = trunk, nn.ModuleList(auxiliaries)
        self._join_in_keys()

    @property
    def looks_ahead(self) -> bool:
        """Whether the TorchRL loss embeds the next observations itself; all but the on-policy ones do."""
        return not hasattr(self, "critic_network")

    @property
    def in_keys(self) -> list[NestedKey]:
        """Keys of all losses, and of the advantage; a critic that is a head on the embedding cannot estimate it."""
        return self._joint_in_keys

    def _join_in_keys(self) -> None:
        # Joined beforehand, because torch.compile cannot follow super() into a property.
        keys = list(super().in_keys)
        if self.trunk is not None:
            written = {unravel_key(key) for key in self.trunk.out_keys}
            ahead = {unravel_key(("next", key)) for key in written}
            keys = [key for key in keys if unravel_key(key) not in written | ahead] + self.trunk.in_keys
            if self.looks_ahead:
                written |= ahead
                keys += [unravel_key(("next", key)) for key in self.trunk.in_keys]
        keys += [getattr(self.tensor_keys, name, None) for name in ("advantage", "value_target")]
        for one in self.auxiliaries:
            # What the trunk writes for an auxiliary, it need not be given.
            keys += [key for key in one.in_keys if self.trunk is None or unravel_key(key) not in written]
        self._joint_in_keys = list(dict.fromkeys(key for key in keys if key is not None))

    def __reduce__(self) -> tuple:
        # The class is made at run time: pickle finds it by the TorchRL loss that it extends.
        return _blank, (self.loss_class,), picklable_state(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        restore_vmapped(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> AuxiliaryLossMixin:
        return copy_shared(self, memo)

    def set_keys(self, **kwargs: Any) -> None:
        """Set tensordict keys, each in the first loss that has the name: the TorchRL loss, then the auxiliaries."""
        mine = {name: key for name, key in kwargs.items() if name in self._AcceptedKeys.__dataclass_fields__}
        others = {name: key for name, key in kwargs.items() if name not in mine}
        built = "auxiliaries" in self._modules
        for one in self.auxiliaries if built else ():
            accepted = {name: others.pop(name) for name in one._AcceptedKeys.__dataclass_fields__ if name in others}
            one.set_keys(**accepted)
        if others:
            known = {type(self).__name__: sorted(self._AcceptedKeys.__dataclass_fields__)}
            if built:
                known |= {
                    type(one).__name__: sorted(one._AcceptedKeys.__dataclass_fields__) for one in self.auxiliaries
                }
            raise ValueError(f"{sorted(others)} are not accepted tensordict keys; accepted are {known}.")
        super().set_keys(**mine)
        if built:
            self._join_in_keys()

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The terms of all losses in one tensordict; the given one gets nothing but the priority."""
        losses, inner = self._objective(tensordict)
        priority = getattr(self.tensor_keys, "priority", None)
        if self.trunk is not None and priority is not None and inner.get(priority, None) is not None:
            tensordict.set(priority, inner.get(priority))
        for one in self.auxiliaries:
            losses.update(one(inner))
        return losses

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile in place, as `torch.nn.Module.compile` does, but trunk and TorchRL loss as one graph and each
        auxiliary as another: gradients can then still be taken term by term. Copies are not compiled.
        """
        self._objective = torch.compile(self._objective, *args, **kwargs)  # type: ignore[method-assign]
        for one in self.auxiliaries:
            one.compile(*args, **kwargs)

    def _objective(self, tensordict: TensorDictBase) -> tuple[TensorDictBase, TensorDictBase]:
        """The TorchRL loss, and the tensordict with what the trunk wrote into it."""
        inner = tensordict if self.trunk is None else self._embed(self.trunk, tensordict)
        return super().forward(inner), inner

    def _embed(self, trunk: Trunk, tensordict: TensorDictBase) -> TensorDictBase:
        inner = tensordict.copy()
        inner.update(trunk(tensordict.select(*trunk.in_keys)))
        if self.looks_ahead:
            with torch.no_grad():
                seen = trunk(tensordict.get("next").select(*trunk.in_keys))
            inner.set("next", inner.get("next").copy().update(seen))
        return inner


@cache
def with_auxiliary(loss_class: type[LossModule]) -> type[LossModule]:
    """A TorchRL loss class for an actor with a trunk and for auxiliary losses.

    ``with_auxiliary(SACLoss)(actor, qvalue, auxiliary=...)`` is a SACLoss; see `AuxiliaryLossMixin`. Tested are
    ClipPPO, KLPENPPO, PPO, A2C, SAC, DiscreteSAC, TD3, REDQ and CrossQ; another loss whose first argument is the actor
    may work, but check who trains its trunk.

    Args:
        loss_class: a concrete TorchRL loss class.

    Returns:
        Its subclass, named ``Gaze`` and the loss's name; the same one on every call.

    Raises:
        TypeError: if it is not a LossModule class, or DDPGLoss, which cuts the gradient to what its critic sees.

    Example:
        >>> with_auxiliary(ClipPPOLoss) is GazePPOLoss
        True
    """
    if not (isinstance(loss_class, type) and issubclass(loss_class, LossModule)):
        raise TypeError(f"Expected a TorchRL LossModule class such as ClipPPOLoss, got {loss_class!r}.")
    if issubclass(loss_class, DDPGLoss):
        raise TypeError("DDPGLoss detaches its critic's inputs, so nothing would train the trunk: use TD3Loss.")
    doc = f"`{loss_class.__name__}` with a shared trunk and auxiliary losses (see `AuxiliaryLossMixin`)."
    members = {"__doc__": doc, "__module__": __name__, "loss_class": loss_class}
    for name in ("actor_loss", "loss_actor"):
        if hasattr(loss_class, name):
            members[name] = _without_trunk(getattr(loss_class, name))
    return type(f"Gaze{loss_class.__name__}", (AuxiliaryLossMixin, *detach_redq_actor(loss_class), loss_class), members)


def _without_trunk(actor_loss: Callable) -> Callable:
    """An actor loss on constant embeddings."""

    @wraps(actor_loss)
    def detached(self: AuxiliaryLossMixin, tensordict: TensorDictBase, *args: Any, **kwargs: Any) -> Any:
        if self.trunk is not None:
            constant = {key: tensordict.get(key).detach() for key in self.trunk.readout.out_keys}
            tensordict = tensordict.copy().update(constant)
        return actor_loss(self, tensordict, *args, **kwargs)

    return detached


# From the special to the general: what a sequence that has lost its trunk is made of.
_SEQUENCES = (
    SafeProbabilisticTensorDictSequential,
    ProbabilisticTensorDictSequential,
    SafeSequential,
    TensorDictSequential,
)


def _split(actor: TensorDictModuleBase) -> tuple[Trunk | None, TensorDictModuleBase]:
    """The trunk of an actor, and the actor without it."""
    first, *rest = _in_order(actor)
    if isinstance(first, Trunk):
        kind = next(kind for kind in _SEQUENCES if isinstance(actor, kind))
        return first, kind(*rest)
    if any(isinstance(one, Trunk) for one in actor.modules()):
        raise ValueError(
            f"The trunk must come first in the actor, in a sequence, got {type(actor).__name__} of "
            f"{[type(one).__name__ for one in (first, *rest)]}: it could not be split off, and the wrong losses would "
            "train it. Build the actor with gaze_actor, or as ProbabilisticTensorDictSequential(trunk, head, ...)."
        )
    return None, actor


def _in_order(module: nn.Module) -> list[nn.Module]:
    """The modules of a sequence, with those of a sequence that comes first in it, as ProbabilisticActor nests them."""
    if isinstance(module, Trunk) or not isinstance(module, TensorDictSequential):
        return [module]
    first, *rest = module.module  # type: ignore[misc]
    return [*_in_order(first), *rest]


def _blank(loss_class: type[LossModule]) -> LossModule:
    return object.__new__(with_auxiliary(loss_class))  # type: ignore[arg-type]


GazePPOLoss = with_auxiliary(ClipPPOLoss)
GazeSACLoss = with_auxiliary(SACLoss)
