"""Convolutional encoders: uint8 pixels in, a feature map that a gaze can point into out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gaze_torchrl.modules.checks import check_positive

__all__ = ["ConvEncoder", "FineCNN", "MapGeometry", "NatureCNN"]


class MapGeometry(NamedTuple):
    """Where the cells of a feature map lie in the image it was computed from.

    A gaze works in map coordinates, [-1, 1] across the map. A convolution without padding sees less of the
    border, so the map covers only the inner part of the image; drawing a gaze on the image, or measuring its
    distance to an object, needs this affine change of coordinates (in the image, too, [-1, 1] spans the picture).

    Args:
        size: (h, w) cells of the map.
        scale: image units per map unit, (x, y).
        offset: image coordinates of the map's centre, (x, y).
    """

    size: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float]

    def to_image(self, mean: Tensor) -> Tensor:
        """Map coordinates [*, 2] to image coordinates [*, 2], both ordered (x, y).

        Example:
            >>> geometry = FineCNN().geometry(64, 64)
            >>> geometry.size
            (16, 16)
            >>> geometry.to_image(torch.tensor([0.5, -0.5])).tolist()  # padded convolutions cover the whole image
            [0.5, -0.5]
        """
        return mean * mean.new_tensor(self.scale) + mean.new_tensor(self.offset)


class ConvEncoder(nn.Module):
    """A stack of convolutions over pixels with any leading dims.

    Args:
        *layers: modules applied in turn to float images [N, 3, H, W] in [-1, 1]; the convolutions among them set
            ``out_channels`` and the geometry.

    Raises:
        TypeError: when called with pixels that are neither uint8 nor floating point.
        ValueError: when called with fewer than three dims, or with floats outside [0, 1].
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
        self.in_channels = convolutions[0].in_channels
        self.out_channels = convolutions[-1].out_channels

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pixels.

        Args:
            pixels: [*, 3, H, W], uint8 in [0, 255] or float in [0, 1].

        Returns:
            Features [*, C, h, w], floating point, non-negative.
        """
        if pixels.ndim < 3 or pixels.shape[-3] != self.in_channels:
            raise ValueError(
                f"Expected pixels of shape [*, {self.in_channels}, H, W], got {tuple(pixels.shape)}. Images with the "
                "channels last need pixels.movedim(-1, -3)."
            )
        dtype = next(self.parameters()).dtype
        scale = 255 if pixels.dtype == torch.uint8 else 1
        # Centred on grey: filters then start as differences between colours, not as mere measures of brightness.
        images = self._checked(pixels).to(dtype) * (2 / scale) - 1
        features = self.layers(images.flatten(0, -4) if images.ndim > 3 else images.unsqueeze(0))
        return features.reshape(*pixels.shape[:-3], *features.shape[-3:])

    @staticmethod
    def _checked(pixels: Tensor) -> Tensor:
        if pixels.dtype == torch.uint8:
            return pixels
        if not pixels.dtype.is_floating_point:
            raise TypeError(f"Expected pixels of dtype uint8 or float, got {pixels.dtype}: use pixels.to(torch.uint8).")
        # The check reads values, which a compiled graph must not do; uint8, the normal case, needs none.
        if not torch.compiler.is_compiling() and pixels.numel():
            low, high = pixels.detach().aminmax()
            if not (low >= 0 and high <= 1):
                raise ValueError(
                    f"Expected float pixels in [0, 1], got values in [{float(low):g}, {float(high):g}]. Pass uint8 "
                    "pixels in [0, 255], or divide by 255."
                )
        return pixels

    def geometry(self, height: int, width: int) -> MapGeometry:
        """Size of the feature map for an image and where its cells lie in it.

        Args:
            height, width: image size in pixels.

        Returns:
            The map's geometry.

        Raises:
            ValueError: if the image is too small for the convolutions.
        """
        sizes, scales, offsets = zip(*(self._axis(n, axis) for axis, n in enumerate((height, width))), strict=True)
        return MapGeometry(sizes, scales[::-1], offsets[::-1])

    def _axis(self, pixels: int, axis: int) -> tuple[int, float, float]:
        size, stride, center = pixels, 1.0, 0.5  # center: of the first cell, in pixels
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                kernel, step, padding = layer.kernel_size[axis], layer.stride[axis], int(layer.padding[axis])
                size = (size + 2 * padding - kernel) // step + 1
                center += stride * ((kernel - 1) / 2 - padding)
                stride *= step
        if size < 1:
            raise ValueError(
                f"{type(self).__name__} needs larger images than {pixels} pixels: raise env.image_size, or choose "
                "another encoder."
            )
        middle = center + stride * (size - 1) / 2
        return size, stride * size / pixels, 2 * middle / pixels - 1


class FineCNN(ConvEncoder):
    """Two padded 4x4 convolutions of stride 2: a fine map, 16x16 cells at 64 pixels, aligned with the image.

    Args:
        channels: output channels of the two convolutions.
        in_channels: image channels.

    Example:
        >>> FineCNN()(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape
        torch.Size([2, 32, 16, 16])
    """

    def __init__(self, channels: tuple[int, int] = (8, 32), in_channels: int = 3) -> None:
        first, second = channels
        check_positive("encoder", **{"channels[0]": first, "channels[1]": second})
        super().__init__(
            nn.Conv2d(in_channels, first, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, second, 4, stride=2, padding=1),
            nn.ReLU(),
        )


class NatureCNN(ConvEncoder):
    """The three convolutions of the DQN paper: 12x12 cells at 128 pixels, only 4x4 at 64.

    Args:
        in_channels: image channels.

    Reference:
        Mnih et al., "Human-level control through deep reinforcement learning", Nature 2015.

    Example:
        >>> NatureCNN()(torch.zeros(3, 128, 128, dtype=torch.uint8)).shape
        torch.Size([64, 12, 12])
    """

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__(
            nn.Conv2d(in_channels, 32, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
        )
