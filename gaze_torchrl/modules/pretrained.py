"""A frozen backbone of torchvision or timm as the encoder, with weights from a local file."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from gaze_torchrl.modules.encoder import ConvEncoder
from gaze_torchrl.modules.geometry import MapGeometry
from gaze_torchrl.registry import register

__all__ = ["PretrainedEncoder"]

# Of each library: where a model is made by name, by which function, and where models are cut.
_LIBRARIES = {
    "torchvision": ("torchvision.models", "get_model", "torchvision.models.feature_extraction"),
    "timm": ("timm", "create_model", "timm.models"),
}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours, red, green, blue


@register("encoder", "pretrained")
class PretrainedEncoder(ConvEncoder):
    """The first layers of a pretrained vision model, frozen: no gradient, no statistics that move.

    Needs ``pip install "gaze_torchrl[pretrained]"``. Nothing is ever downloaded: save the weights once, where there is
    a network, with ``torch.save(model.state_dict(), path)``.

    Args:
        library: ``"torchvision"`` or ``"timm"``.
        name: of the model in that library, such as ``"resnet18"``.
        layer: where the model is cut: the name of the submodule whose output [N, C, h, w] is the feature map, such
            as ``"layer2"`` of a ResNet (stride 8) or ``"features.3"`` of torchvision's ConvNeXt.
        weights: file of the whole model's state dict; None leaves the weights random, with a warning, which is for
            tests of a pipeline only.

    Raises:
        ImportError: if the library is not installed, or does not fit the installed torch.
        FileNotFoundError: if there is no such file of weights.
        ValueError: if the library, the model or the layer is unknown, the weights are another model's, or the layer's
            output is no feature map.

    Example:
        >>> encoder = PretrainedEncoder("torchvision", "resnet18", "layer1", "resnet18.pt")  # doctest: +SKIP
        >>> encoder(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape  # doctest: +SKIP
        torch.Size([2, 64, 16, 16])
    """

    def __init__(
        self,
        library: Literal["torchvision", "timm"] = "torchvision",
        name: str = "resnet18",
        layer: str = "layer2",
        weights: str | None = None,
    ) -> None:
        super().__init__(_Backbone(library, name, layer, weights))
        self.requires_grad_(False).eval()
        # Cuts off in the middle of a block: which convolution comes last does not tell the channels.
        self.out_channels = self._map(64, 64).shape[-3]

    def train(self, mode: bool = True) -> PretrainedEncoder:
        """Stay in evaluation mode, whatever is asked for."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pixels.

        Args:
            pixels: [*, 3, H, W], uint8 in [0, 255] or float in [0, 1].

        Returns:
            Features [*, C, h, w], floating point, constants to any gradient.
        """
        return super().forward(pixels)

    def geometry(self, height: int, width: int) -> MapGeometry:
        """Size of the feature map for an image; the map is taken to cover the whole of it.

        Args:
            height, width: image size in pixels.

        Returns:
            The map's geometry.
        """
        size: tuple[int, int] = tuple(self._map(height, width).shape[-2:])  # type: ignore[assignment]
        return MapGeometry(size, (1.0, 1.0), (0.0, 0.0))

    def _map(self, height: int, width: int) -> Tensor:
        return self(torch.zeros(3, height, width, dtype=torch.uint8, device=next(self.parameters()).device))


class _Backbone(nn.Module):
    """Images [N, 3, H, W] in [-1, 1] to the output of a layer of a model that was trained on ImageNet's colours."""

    scale: Tensor
    shift: Tensor

    def __init__(self, library: str, name: str, layer: str, weights: str | None) -> None:
        super().__init__()
        if library not in _LIBRARIES:
            raise ValueError(f"encoder.library must be one of {sorted(_LIBRARIES)}, got {library!r}.")
        models, create, cutter = _LIBRARIES[library]
        try:
            make = getattr(importlib.import_module(models), create)
            cut = importlib.import_module(cutter).create_feature_extractor  # type: ignore[attr-defined]
        except (ImportError, RuntimeError) as error:
            # RuntimeError: torchvision built for another torch, such as the CUDA one beside a CPU torch.
            raise ImportError(
                f'encoder.library={library} cannot be imported: pip install "gaze_torchrl[pretrained]", with torch and '
                f"torchvision of one build ({error})."
            ) from error
        try:
            model = make(name).eval()
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"encoder.name must be a model of {library}, got {name!r} ({error}).") from error
        self._load(model, name, weights)
        try:
            # Traced, and so right for any model, not only for those that run their children in order.
            body = cut(model, {layer: "features"})
        except ValueError as error:
            children = [child for child, _ in model.named_children()]
            raise ValueError(
                f"encoder.layer must be a submodule of {name}, got {layer!r}: choose one of {children} or one inside "
                "of them, such as 'layer2.0'."
            ) from error
        # The library's own class keeps a second graph for training, and its copies forget that they do not train.
        self.body = torch.fx.GraphModule(body, body.graph)
        mean, std = torch.tensor([_MEAN, _STD]).view(2, 3, 1, 1)
        self.register_buffer("scale", 0.5 / std, persistent=False)
        self.register_buffer("shift", (0.5 - mean) / std, persistent=False)

    @staticmethod
    def _load(model: nn.Module, name: str, weights: str | None) -> None:
        if weights is None:
            warnings.warn(
                f"{name} stays frozen at random weights: set encoder.weights to a file of its state dict.", stacklevel=4
            )
            return
        if not Path(weights).is_file():
            raise FileNotFoundError(
                f"encoder.weights={weights} is no file, and nothing is downloaded: save the state dict of {name} there "
                "with torch.save(model.state_dict(), path)."
            )
        try:
            model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        except RuntimeError as error:
            raise ValueError(f"encoder.weights={weights} holds no weights of encoder.name={name}: {error}") from error

    def forward(self, images: Tensor) -> Tensor:
        features = self.body(images * self.scale + self.shift)["features"]
        if features.ndim != 4:
            raise ValueError(
                f"encoder.layer must put out a feature map [N, C, h, w], got {list(features.shape)}: choose an earlier "
                "layer, or a model of convolutions."
            )
        return features
