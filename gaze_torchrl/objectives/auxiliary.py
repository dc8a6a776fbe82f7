"""Compose an auxiliary loss with a TorchRL loss, as one LossModule."""

from __future__ import annotations

import pickle
from functools import cache
from typing import TYPE_CHECKING, Any

from tensordict import TensorDictBase
from tensordict.nn import dispatch
from tensordict.utils import NestedKey
from torchrl.objectives import ClipPPOLoss, LossModule

__all__ = ["AuxiliaryLossMixin", "GazePPOLoss", "with_auxiliary"]


# Mixed into a LossModule, whose methods it calls; it is none by itself, so that the concrete loss decides the order.
if TYPE_CHECKING:

    class _Mixin(LossModule):
        pass
else:
    _Mixin = object


class AuxiliaryLossMixin(_Mixin):
    """Adds ``auxiliary``, another LossModule, to the TorchRL loss it is mixed into (see `with_auxiliary`).

    A mixin and not a wrapper: target updaters, trainers and checkpoints look at attributes of the loss itself
    (``actor_network``, ``target_*_params``), which a wrapper would hide.

    Args:
        *args, **kwargs: as for the TorchRL loss.
        auxiliary: a LossModule whose terms are added to the output, under keys the TorchRL loss does not use.
    """

    loss_class: type[LossModule]

    def __init__(self, *args: Any, auxiliary: LossModule, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(auxiliary, LossModule):
            raise TypeError(f"Expected auxiliary to be a TorchRL LossModule, got {type(auxiliary).__name__}.")
        if clash := set(self.out_keys) & set(auxiliary.out_keys):
            raise ValueError(f"Both losses write {sorted(clash)}: rename the outputs of the auxiliary one.")
        self.auxiliary = auxiliary
        self.out_keys: list[NestedKey] = [*self.out_keys, *auxiliary.out_keys]
        self._join_in_keys()

    @property
    def in_keys(self) -> list[NestedKey]:
        """Keys of both losses, and of the advantage: a critic that is a head on the embedding cannot estimate it."""
        return self._joint_in_keys

    def _join_in_keys(self) -> None:
        # Joined beforehand, because torch.compile cannot follow super() into a property.
        estimates = [getattr(self.tensor_keys, name, None) for name in ("advantage", "value_target")]
        extra = [key for key in (*estimates, *self.auxiliary.in_keys) if key is not None]
        self._joint_in_keys = list(dict.fromkeys([*super().in_keys, *extra]))

    def __reduce__(self) -> tuple:
        # The class is made at run time: pickle finds it by the TorchRL loss that it extends.
        return _blank, (self.loss_class,), self.__dict__

    def __deepcopy__(self, memo: dict[int, Any]) -> AuxiliaryLossMixin:
        # tensordict copies each set of parameters on its own, and the gaze of the copied actor would no longer be the
        # one its auxiliary trains; pickle keeps shared parameters shared.
        return pickle.loads(pickle.dumps(self))

    def set_keys(self, **kwargs: Any) -> None:
        """Set tensordict keys, each in the loss that has it; ``name`` of the TorchRL loss wins over the auxiliary's."""
        mine = {name: key for name, key in kwargs.items() if name in self._AcceptedKeys.__dataclass_fields__}
        others = {name: key for name, key in kwargs.items() if name not in mine}
        if others and "auxiliary" in self._modules:
            accepted = self.auxiliary._AcceptedKeys.__dataclass_fields__
            if unknown := [name for name in others if name not in accepted]:
                raise ValueError(
                    f"{unknown} are not accepted tensordict keys. {type(self).__name__} accepts "
                    f"{sorted(self._AcceptedKeys.__dataclass_fields__)} and, for its auxiliary, {sorted(accepted)}."
                )
            self.auxiliary.set_keys(**others)
        else:
            mine.update(others)
        super().set_keys(**mine)
        if "auxiliary" in self._modules:
            self._join_in_keys()

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The terms of both losses in one tensordict."""
        return super().forward(tensordict).update(self.auxiliary(tensordict))


@cache
def with_auxiliary(loss_class: type[LossModule]) -> type[LossModule]:
    """A TorchRL loss class that takes an auxiliary loss: ``with_auxiliary(ClipPPOLoss)(..., auxiliary=...)``.

    With a critic that is a head on the actor's embedding (`value_head`), the TorchRL loss must run the actor on the
    minibatch it hands to the critic, as those of the PPO family do.

    Args:
        loss_class: a concrete TorchRL loss class.

    Returns:
        Its subclass, named ``Gaze`` and the loss's name; the same one on every call.

    Raises:
        TypeError: if it is not a LossModule class.

    Example:
        >>> with_auxiliary(ClipPPOLoss) is GazePPOLoss
        True
    """
    if not (isinstance(loss_class, type) and issubclass(loss_class, LossModule)):
        raise TypeError(f"Expected a TorchRL LossModule class such as ClipPPOLoss, got {loss_class!r}.")
    doc = f"`{loss_class.__name__}` with an auxiliary loss (see `AuxiliaryLossMixin`)."
    members = {"__doc__": doc, "__module__": __name__, "loss_class": loss_class}
    return type(f"Gaze{loss_class.__name__}", (AuxiliaryLossMixin, loss_class), members)


def _blank(loss_class: type[LossModule]) -> LossModule:
    return object.__new__(with_auxiliary(loss_class))  # type: ignore[arg-type]


GazePPOLoss = with_auxiliary(ClipPPOLoss)
