"""CURL: an encoder should know an image again after it was shifted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModule, TensorDictModuleBase, TensorDictSequential, dispatch
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.objectives import LossModule

from gaze_torchrl.functional import info_nce, random_shift
from gaze_torchrl.modules.checks import check_positive
from gaze_torchrl.objectives._compat import loss_mask
from gaze_torchrl.registry import register

__all__ = ["CURLLoss"]


@register("contrast", "curl")
class CURLLoss(LossModule):
    r"""Instance contrast that trains the encoder: two shifted views of an image belong together.

    .. math:: s_{ij} = q_i^\top W k_j, \qquad
              L = -c \cdot mean_i\,\log \frac{\exp s_{ii}}{\sum_j \exp s_{ij}}

    Queries q come from the encoder and a projection, keys k from their moving averages, which the training loop
    updates: ``updater = SoftUpdate(loss, tau=loss.tau)``, then ``updater.step()`` after every optimiser step. The other
    images of the minibatch are the negatives, less the padding that TorchRL's samplers mark (``loss_mask_key``).

    Args:
        encoder_network: pixels to features, the policy's own; `TensorDictModule` around an encoder with
            ``out_channels``.
        coeff: weight c of the loss, >= 0; schedulable (``loss.coeff = 0.05``).
        pad: largest shift of a view along each axis, in pixels, >= 1.
        grid: the features are averaged in grid x grid cells before the projection, >= 1.
        projection: size of q and k, >= 1.
        tau: share of the encoder that goes into the moving average at each update, in (0, 1].
        reduction: ``"mean"`` over the images, ``"sum"`` or ``"none"``.

    Raises:
        ValueError: if a number is out of range, the reduction is unknown, or the encoder is frozen.
        KeyError: when called with a minibatch that lacks the images.

    Returns (when called):
        ``loss_contrast``; detached, for logging, ``curl_accuracy``, the share of images whose own key is the most
        similar one. Views are drawn from torch's default generator.

    Reference:
        Laskin et al., "CURL: Contrastive Unsupervised Representations for Reinforcement Learning", ICML 2020. It
        crops images smaller, flattens the features, and starts W random in [0, 1]; the shift, the grid and the start
        at 1 / sqrt(projection) times the identity are ours.

    Example:
        >>> from gaze_torchrl.modules import FineCNN
        >>> loss = CURLLoss(TensorDictModule(FineCNN(), in_keys=["pixels"], out_keys=["features"]))
        >>> td = TensorDict({"pixels": torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8)}, [8])
        >>> sorted(loss(td).keys())
        ['curl_accuracy', 'loss_contrast']
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that `set_keys` can change: the images; those that the encoder reads if nothing is said."""

        pixels: NestedKey = "pixels"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    _schedulable_buffers = frozenset({"coeff"})

    query_network: TensorDictSequential
    query_network_params: TensorDictParams
    target_query_network_params: TensorDictParams

    out_keys = ["loss_contrast", "curl_accuracy"]  # noqa: RUF012 (TorchRL reads a list)

    def __init__(
        self,
        encoder_network: TensorDictModuleBase,
        *,
        coeff: float = 0.1,
        pad: int = 4,
        grid: int = 4,
        projection: int = 50,
        tau: float = 0.05,
        reduction: Literal["mean", "sum", "none"] = "mean",
    ) -> None:
        super().__init__()
        if not coeff >= 0:
            raise ValueError(f"contrast.coeff must not be negative, got {coeff}.")
        if not 0 < tau <= 1:
            raise ValueError(f"contrast.tau must lie in (0, 1], got {tau}.")
        check_positive("contrast", pad=pad, grid=grid, projection=projection)
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"contrast.reduction must be 'mean', 'sum' or 'none', got {reduction!r}.")
        parameter = next((one for one in encoder_network.parameters() if one.requires_grad), None)
        if parameter is None:
            raise ValueError(
                "contrast=curl trains the encoder, but all parameters of this one are frozen: choose another encoder, "
                "or another contrast."
            )
        head = nn.Sequential(
            nn.AdaptiveAvgPool2d(grid),
            nn.Flatten(),
            nn.Linear(encoder_network.out_channels * grid**2, projection),
            nn.LayerNorm(projection),
        ).to(parameter)
        projector = TensorDictModule(head, in_keys=encoder_network.out_keys, out_keys=["query"])
        self.convert_to_functional(
            TensorDictSequential(encoder_network, projector), "query_network", create_target_params=True
        )
        self.bilinear = nn.Parameter(torch.eye(projection).to(parameter) / projection**0.5)
        self.pad, self.tau, self.reduction = pad, tau, reduction
        self.set_keys(pixels=encoder_network.in_keys[0])
        self.register_coeff_buffer("coeff", float(coeff), device=parameter.device)

    def _set_in_keys(self) -> None:
        self.in_keys = [self.tensor_keys.pixels]

    def _forward_value_estimator_keys(self, **kwargs: NestedKey) -> None:
        self._set_in_keys()

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Read the images, return the loss."""
        pixels = tensordict.get(self.tensor_keys.pixels, None)
        if pixels is None:
            raise KeyError(
                f"CURLLoss reads {self.tensor_keys.pixels!r}, which the batch does not hold: name the images with "
                "set_keys(pixels=...)."
            )
        steps = pixels.shape[:-3]
        pixels = pixels.reshape(-1, *pixels.shape[-3:])
        query = self._embed(pixels, self.query_network_params)
        with torch.no_grad():
            key = self._embed(pixels, self.target_query_network_params)
        # Logarithms of half precision would be coarse.
        with torch.autocast(pixels.device.type, enabled=False):
            query, key = query.to(self.bilinear.dtype), key.to(self.bilinear.dtype)
            similarity = query @ self.bilinear @ key.T
            if (real := loss_mask(self, tensordict, steps)) is not None:
                # Padding repeats images, which would be their own negatives. Its rows keep one finite entry.
                own = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
                similarity = similarity.masked_fill(~(real.flatten() | own), -torch.inf)
            loss = self.coeff * info_nce(similarity)
        found = similarity.detach().argmax(-1) == torch.arange(len(similarity), device=similarity.device)
        return TensorDict(
            {
                "loss_contrast": self._reduce_loss(loss.view(steps), tensordict),
                "curl_accuracy": self._reduce_loss(found.to(loss.dtype).view(steps), tensordict, reduction="mean"),
            }
        )

    def _embed(self, pixels: Tensor, params: TensorDictParams) -> Tensor:
        """A view of every image [N, C, H, W], drawn anew, and its embedding [N, D]."""
        views = TensorDict({self.query_network.in_keys[0]: random_shift(pixels, self.pad)}, [len(pixels)])
        # Else tensordict would make parameters of the targets, which require gradients.
        with params.to_module(self.query_network, preserve_module_state=False):
            return self.query_network(views).get("query")
