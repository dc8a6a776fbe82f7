"""Where the cells of a feature map lie in the image, through convolutions and poolings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn

__all__ = ["WINDOWED", "Axis", "MapGeometry", "slide", "unnested"]


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
            >>> import torch
            >>> from gaze_torchrl.modules import FineCNN
            >>> geometry = FineCNN().geometry(64, 64)
            >>> geometry.size
            (16, 16)
            >>> geometry.to_image(torch.tensor([0.5, -0.5])).tolist()  # padded convolutions cover the whole image
            [0.5, -0.5]
        """
        return mean * mean.new_tensor(self.scale) + mean.new_tensor(self.offset)


WINDOWED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
"""The layers that may change the size of the map."""


class Axis(NamedTuple):
    """Where the cells of a map lie along one axis of the image.

    Args:
        size: cells.
        stride: from one to the next, pixels.
        center: of the first cell, pixels.
    """

    size: int
    stride: int = 1
    center: float = 0.5

    def on(self, pixels: int) -> tuple[float, float]:
        """Scale and offset of `MapGeometry` in an image of so many pixels."""
        middle = self.center + self.stride * (self.size - 1) / 2
        return self.stride * self.size / pixels, 2 * middle / pixels - 1


def slide(layer: nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d, along: int, axis: Axis) -> Axis:
    """The cells along an axis behind a convolution or a pooling.

    Args:
        layer: one of `WINDOWED`.
        along: 0 for y, 1 for x.
        axis: the cells before it.

    Raises:
        ValueError: for a pooling with ``ceil_mode``.
    """
    if getattr(layer, "ceil_mode", False):
        raise ValueError(f"An encoder needs poolings without ceil_mode, whose last cells look past the image: {layer}.")
    kernel, step, dilation = (_along(along, getattr(layer, name, 1)) for name in ("kernel_size", "stride", "dilation"))
    reach = dilation * (kernel - 1)
    if isinstance(layer.padding, str):
        total = reach if layer.padding == "same" else 0
        before = total // 2
    else:
        before = _along(along, layer.padding)
        total = 2 * before
    return Axis(
        (axis.size + total - reach - 1) // step + 1,
        axis.stride * step,
        axis.center + axis.stride * (reach / 2 - before),
    )


def _along(axis: int, value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[axis]


def unnested(layers: nn.Sequential) -> Iterator[nn.Module]:
    """The layers of a chain, those of chains inside it one by one."""
    for layer in layers:
        # A subclass with a forward of its own, such as a residual one, is no mere chain.
        if isinstance(layer, nn.Sequential) and type(layer).forward is nn.Sequential.forward:
            yield from unnested(layer)
        else:
            yield layer
