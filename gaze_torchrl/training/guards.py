"""Guards: what is not finite stops a run before it spoils the networks; triplets that run dry are reported."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor
from torchrl.objectives import LossModule

from gaze_torchrl.replay import TripletReplay

__all__ = ["NonFinite", "TripletWatch", "check_rollout", "find_culprit"]


class NonFinite(FloatingPointError):
    """Something is NaN or infinite.

    Args:
        message: what, and which keys of the configuration to look at.
        batch: where it was found.
    """

    def __init__(self, message: str, batch: TensorDictBase) -> None:
        super().__init__(message)
        self.batch = batch


def check_rollout(rollout: TensorDictBase, written: Iterable[NestedKey] = ()) -> None:
    """Check everything that a rollout holds; one wait for the device.

    Args:
        rollout: [N, T].
        written: what the policy writes; all else comes from the environment.

    Raises:
        NonFinite: with the key of the first entry that is not finite.
    """
    entries = {key: one for key, one in rollout.items(True, True) if one.is_floating_point()}
    finite = torch.stack([one.isfinite().all() for one in entries.values()])
    if finite.all():
        return
    # What the environment says comes first: a network that was told NaN answers NaN.
    bad = [key for key, fine in zip(entries, finite.tolist(), strict=True) if not fine]
    answers = {unravel_key(key) for key in written}
    key = min(bad, key=lambda one: (_now(one) in answers, bad.index(one)))
    value = entries[key][~entries[key].isfinite()].flatten()[0].item()
    if _now(key) in answers:
        reason = "the policy has diverged: lower loss.learning_rate, or set loss.max_grad_norm"
    else:
        reason = f"the environment says so: look at env.*{_OPTIONS.get(_now(key), '')} and at the task"
    raise NonFinite(f"{_name(key)} of a rollout is {value}; {reason}.", rollout)


_OPTIONS = {"reward": " (env.reward, env.reward_mode)", "proprio": " (env.proprio)", "pixels": " (env.image_size)"}


def find_culprit(loss: LossModule, minibatch: TensorDictBase) -> NonFinite:
    """The first term of a loss whose value or gradient is not finite on a minibatch, as an error to raise.

    Args:
        loss: as it was when the minibatch failed.
        minibatch: [B].
    """
    terms = [name for name, _ in loss(minibatch).items() if name.startswith("loss_")]
    parameters = [one for one in loss.parameters() if one.requires_grad]
    for name in terms:
        term = loss(minibatch)[name]  # again for each: a compiled graph is freed by its first gradient
        value = term.detach().mean().item()
        if not torch.isfinite(term).all():
            return NonFinite(f"{name} is {value}: {_advice(name)}.", minibatch)
        gradients = torch.autograd.grad(term.sum(), parameters, allow_unused=True)
        if not all(_finite(one) for one in gradients):
            return NonFinite(f"The gradient of {name} ({value:g}) is not finite: {_advice(name)}.", minibatch)
    return NonFinite(f"The sum of the gradients of {terms} is not finite: {_advice('')}.", minibatch)


def _finite(gradient: Tensor | None) -> bool:
    return gradient is None or bool(gradient.isfinite().all())


def _advice(name: str) -> str:
    if name == "loss_contrast":
        return "lower contrast.coeff or contrast.max_grad_norm, or raise contrast.temperature where there is one"
    if name.startswith("loss_gaze_"):
        return f"lower regularizer.{name.removeprefix('loss_gaze_')}"
    return "lower loss.learning_rate, set loss.max_grad_norm, or check the environment's rewards and pixels"


def _now(key: NestedKey) -> NestedKey:
    """The key without its "next"."""
    return unravel_key(key[1:]) if isinstance(key, tuple) and key[0] == "next" else key


def _name(key: NestedKey) -> str:
    return key if isinstance(key, str) else "/".join(key)


class TripletWatch:
    """Warns, once, when there is nothing to mine, or nothing to tell apart, for several rollouts in a row.

    Args:
        patience: how many.
    """

    def __init__(self, patience: int = 5) -> None:
        self.patience, self.dry = patience, 0

    def look(self, triplets: TripletReplay | None) -> None:
        """Look at the last mining, after a rollout; ``triplets`` is None where there are none to be mined."""
        if triplets is None or len(triplets.bank) < triplets.min_steps or not triplets.has_mined:
            return
        facts = triplets.statistics()
        mined, known, spread = (float(facts[name]) for name in ("mined_triplets", "known_labels", "label_std"))
        self.dry = self.dry + 1 if mined == 0 or spread < 1e-6 else 0
        if self.dry != self.patience:
            return
        if known == 0:
            why = "no label is known, since no episode ends within the bank: raise bank.capacity, or choose labels="
            why += "value_target"
        elif spread < 1e-6:
            why = f"the labels are all alike (standard deviation {spread:.1g}): look at labels.* and at the rewards"
        else:
            why = "the miner finds no neighbours with different labels: look at miner.*, such as its thresholds"
        warnings.warn(f"The contrast has had nothing to learn from for {self.dry} rollouts: {why}.", stacklevel=3)
