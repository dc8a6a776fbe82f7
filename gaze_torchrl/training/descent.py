"""Gradient steps on a composed loss: clipped term by term, and skipped where a number is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.objectives import LossModule
from torchrl.objectives.utils import TargetNetUpdater

from gaze_torchrl.training.guards import find_culprit

__all__ = ["Descent", "clipped_gradient"]

LOOK_EVERY = 8
"""Steps between two looks at whether one failed. A look waits for the device; until it, the minibatches are kept."""


class Descent:
    """Adam on all parameters of a loss.

    The contrastive gradient has a norm limit of its own, so it takes nothing of the RL loss's; or an Adam of its own,
    whose steps have their own size however large the gradient is. Where a loss or a gradient is not finite, neither
    this step nor a later one is taken: the networks stay as they were before.

    Args:
        loss: the composed loss.
        contrast: its contrastive auxiliary, if it has one.
        learning_rate: of Adam.
        max_grad_norm: of the RL loss's gradient; None for no limit.
        max_contrast_norm: of the contrastive gradient.
        contrast_rate: learning rate of the contrast's own Adam; None: both gradients go into one.
        updaters: of target networks, stepped after each step.
    """

    def __init__(
        self,
        loss: LossModule,
        contrast: LossModule | None,
        learning_rate: float,
        max_grad_norm: float | None,
        max_contrast_norm: float,
        contrast_rate: float | None = None,
        updaters: Sequence[TargetNetUpdater] = (),
    ) -> None:
        self.loss, self.contrast, self.updaters = loss, contrast, list(updaters)
        self.max_grad_norm, self.max_contrast_norm = max_grad_norm, max_contrast_norm
        self.waits = False
        """Whether nothing but the contrast learns: the other terms are computed, and no gradient of theirs."""
        parameters = list(loss.parameters())
        self.optimizer, self.contrast_optimizer = _adam(parameters, learning_rate), None
        if contrast is not None and contrast_rate is not None:
            self.contrast_optimizer = _adam(_trained(contrast), contrast_rate)
        self._failed = torch.zeros((), device=parameters[0].device)

    def descend(self, minibatches: Iterable[TensorDictBase]) -> dict[str, float]:
        """One step on each minibatch.

        Returns:
            The mean of each term of the loss, and of what `step` measures; NaN if there is no minibatch.

        Raises:
            NonFinite: if a loss or a gradient is not finite; the message names it.
        """
        history, named = [], sorted(map(str, self.loss.out_keys))
        unseen: list[tuple[TensorDictBase, Tensor]] = []
        norms = ["grad_norm"] if self.contrast is None else ["contrast_grad_norm", "contrast_grad_share", "grad_norm"]
        for minibatch in minibatches:
            torch.compiler.cudagraph_mark_step_begin()  # with compile=reduce-overhead: what the last step made may go
            losses = self.loss(minibatch)
            measured = self.step(losses)
            unseen.append((minibatch, self._failed))
            if len(unseen) == LOOK_EVERY:
                self._look(unseen)
            # TorchRL names some scalars nowhere (explained_variance), and CrossQ adds what is no term, row by row.
            terms = {key: one for key, one in sorted(losses.items()) if key in named or one.numel() == 1}
            history.append({key: one.detach().mean() for key, one in sorted({**terms, **measured}.items())})
        if not history:
            return dict.fromkeys(sorted([*named, *norms]), math.nan)
        self._look(unseen)
        mean = torch.stack([torch.stack(list(terms.values())) for terms in history]).mean(0)
        return dict(zip(history[0], mean.tolist(), strict=True))

    def step(self, losses: TensorDictBase) -> dict[str, Tensor]:
        """One optimizer step; the norms of the RL gradient and of the contrastive one, before they are clipped, and the
        share that the latter has of the two where both act, clipped."""
        separate = () if self.contrast is None else self.contrast.out_keys
        terms = [value for name, value in losses.items() if name.startswith("loss_") and name not in separate]
        total = torch.stack(terms).sum()
        self.optimizer.zero_grad()
        if self.waits:
            # No gradient, for Adam would count steps of a gradient of zero, and the first ones after them be too large.
            measured = {"grad_norm": torch.zeros_like(total)}
        else:
            total.backward()
            measured = {"grad_norm": self._clip()}
        if self.contrast is not None:
            gradients, norm, share = clipped_gradient(
                losses["loss_contrast"], _trained(self.contrast), self.max_contrast_norm
            )
            measured |= {"contrast_grad_norm": norm, "contrast_grad_share": share}
            total = total + losses["loss_contrast"]
            if self.contrast_optimizer is None:
                _add(gradients)
        failed = ~torch.isfinite(torch.stack([total.detach(), *measured.values()])).all()
        self._failed = failed.to(torch.float32).maximum(self._failed)
        self._take(self.optimizer)
        if self.contrast_optimizer is not None:
            self.contrast_optimizer.zero_grad()
            _add(gradients)
            self._take(self.contrast_optimizer)
        for updater in self.updaters:
            updater.step()
        return measured

    def _take(self, optimizer: torch.optim.Adam) -> None:
        """A step of an optimizer, unless this step or one before it failed."""
        if optimizer.defaults["fused"]:
            optimizer.found_inf = self._failed  # type: ignore[attr-defined]
            optimizer.step()
        elif not self._failed:  # waits for the device
            optimizer.step()

    def _look(self, unseen: list[tuple[TensorDictBase, Tensor]]) -> None:
        """Raise if a step has failed since the last look."""
        if not unseen:
            return
        failed = torch.stack([one for _, one in unseen]).tolist()
        if any(failed):
            raise find_culprit(self.loss, unseen[failed.index(1)][0])
        unseen.clear()

    def _clip(self) -> Tensor:
        gradients = [one.grad for one in self.loss.parameters() if one.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self.max_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(list(self.loss.parameters()), self.max_grad_norm, norm)
        return norm


def clipped_gradient(
    loss: Tensor, parameters: list[Tensor], max_norm: float
) -> tuple[list[tuple[Tensor, Tensor]], Tensor, Tensor]:
    """The gradient of a loss, of norm ``max_norm`` at most.

    Returns:
        Pairs of a parameter and its gradient, clipped, where there is one; the norm before that; and the share that it
        has, clipped, of the sum of both norms, in [0, 1], on the parameters that have a gradient of another loss.
    """
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    pairs = [(one, gradient) for one, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
    norm = nn.utils.get_total_norm([gradient for _, gradient in pairs])
    scale = (max_norm / (norm + 1e-6)).clamp_max(1.0)
    both = [(gradient, one.grad) for one, gradient in pairs if one.grad is not None]
    mine, present = (nn.utils.get_total_norm([pair[i] for pair in both]) for i in (0, 1))
    share = scale * mine / (scale * mine + present).clamp_min(torch.finfo(norm.dtype).tiny) if both else norm.sign()
    return [(one, gradient * scale) for one, gradient in pairs], norm, share


def _add(gradients: list[tuple[Tensor, Tensor]]) -> None:
    """Add to the gradients that parameters have."""
    for parameter, gradient in gradients:
        if parameter.grad is None:
            # Laid out like the parameter, as backward() does: a fused Adam on a CPU takes it for granted.
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad.add_(gradient)


def _adam(parameters: list[Tensor], learning_rate: float) -> torch.optim.Adam:
    # Fused is several times faster, and there it can be told to skip a step.
    return torch.optim.Adam(parameters, lr=learning_rate, fused=parameters[0].device.type in ("cpu", "cuda"))


def _trained(loss: LossModule) -> list[Tensor]:
    return [parameter for parameter in loss.parameters() if parameter.requires_grad]
