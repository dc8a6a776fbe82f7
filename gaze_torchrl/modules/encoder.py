"""Convolutional encoders: uint8 pixels in, a feature map that a gaze can point into out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gaze_torchrl.modules.checks import check_positive
from gaze_torchrl.modules.geometry import WINDOWED, Axis, MapGeometry, slide, unnested
from gaze_torchrl.registry import register

__all__ = ["ConvEncoder", "DrQCNN", "FineCNN", "NatureCNN", "PlainCNN"]


class ConvEncoder(nn.Module):
    """A stack of convolutions over pixels with any leading dims.

    Args:
        *layers: modules applied in turn to float images [N, 3, H, W] in [-1, 1]. The first and last convolution in
            them set the channels. ``Conv2d``, ``MaxPool2d`` and ``AvgPool2d``, alone or in ``nn.Sequential``, set the
            geometry; whatever else there is, such as a residual block, must keep the size of the map and its place.

    Raises:
        TypeError: when called with pixels that are neither uint8 nor floating point.
        ValueError: when called with fewer than three dims, or with floats outside [0, 1].
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        convolutions = [layer for layer in self.layers.modules() if isinstance(layer, nn.Conv2d)]
        self.in_channels = convolutions[0].in_channels
        self.out_channels = convolutions[-1].out_channels

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pixels.

        Args:
            pixels: [*, 3, H, W], uint8 in [0, 255] or float in [0, 1].

        Returns:
            Features [*, C, h, w], floating point.
        """
        if pixels.ndim < 3 or pixels.shape[-3] != self.in_channels:
            raise ValueError(
                f"Expected pixels of shape [*, {self.in_channels}, H, W], got {tuple(pixels.shape)}. Images with the "
                "channels last need pixels.movedim(-1, -3)."
            )
        scale = 255 if pixels.dtype == torch.uint8 else 1
        images = self._checked(pixels).flatten(0, -4) if pixels.ndim > 3 else self._checked(pixels).unsqueeze(0)
        if not _in_vmap():
            # Convolutions are a third faster with channels last on a CPU, and so is what reads their features.
            images = images.contiguous(memory_format=torch.channels_last)
        # Centred on grey: filters then start as differences between colours, not as mere measures of brightness.
        features = self.layers(images.to(self._dtype) * (2 / scale) - 1)
        return features.reshape(*pixels.shape[:-3], *features.shape[-3:])

    @property
    def _dtype(self) -> torch.dtype:
        # Not of the parameters: where a loss runs its target networks, a module has none.
        return next(layer for layer in self.layers.modules() if isinstance(layer, nn.Conv2d)).weight.dtype

    @staticmethod
    def _checked(pixels: Tensor) -> Tensor:
        if pixels.dtype == torch.uint8:
            return pixels
        if not pixels.dtype.is_floating_point:
            raise TypeError(f"Expected pixels of dtype uint8 or float, got {pixels.dtype}: use pixels.to(torch.uint8).")
        # The check reads values, which neither a compiled graph nor vmap can; uint8, the normal case, needs none.
        if not torch.compiler.is_compiling() and not _in_vmap() and pixels.numel():
            low, high = pixels.detach().aminmax()
            if not (low >= 0 and high <= 1):
                raise ValueError(
                    f"Expected float pixels in [0, 1], got values in [{float(low):g}, {float(high):g}]. Pass uint8 "
                    "pixels in [0, 255], or divide by 255."
                )
        return pixels

    @torch.no_grad()
    def geometry(self, height: int, width: int) -> MapGeometry:
        """Size of the feature map for an image and where its cells lie in it.

        Args:
            height, width: image size in pixels.

        Returns:
            The map's geometry.

        Raises:
            ValueError: if the image is too small, a pooling has ``ceil_mode``, or a layer makes another size than is
                reckoned with.
        """
        axes = [Axis(height), Axis(width)]
        image = torch.empty(2, self.in_channels, height, width, dtype=self._dtype, device="meta")
        for layer in unnested(self.layers):
            if isinstance(layer, WINDOWED):
                axes = [slide(layer, along, axis) for along, axis in enumerate(axes)]
            size = (axes[0].size, axes[1].size)
            if min(size) < 1:
                raise ValueError(
                    f"{type(self).__name__} needs larger images than {height}x{width} pixels: raise env.image_size, or "
                    "choose another encoder."
                )
            # Without data, and so at no cost: does the layer make what is reckoned with?
            state = {name: one.to("meta") for name, one in chain(layer.named_parameters(), layer.named_buffers())}
            image = functional_call(layer, state, image)
            if image.shape[-2:] != size:
                raise ValueError(
                    f"The geometry of {type(self).__name__} does not fit: for {height}x{width} pixels {layer} makes "
                    f"a map of {'x'.join(map(str, image.shape[-2:]))} cells where {size[0]}x{size[1]} are expected. "
                    "Only Conv2d, MaxPool2d and AvgPool2d, alone or in nn.Sequential, may change the size of the map."
                )
        y, x = (axis.on(pixels) for axis, pixels in zip(axes, (height, width), strict=True))
        return MapGeometry(size, (x[0], y[0]), (x[1], y[1]))


def _in_vmap() -> bool:
    # A compiler cannot trace the question, and meets no vmap of an encoder here.
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


@register("encoder", "fine")
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


@register("encoder", "nature")
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


@register("encoder", "plain")
class PlainCNN(ConvEncoder):
    """ManiSkill's convolutions: four padded 3x3 ones, a max pooling after each, and a 1x1 one at the end.

    Args:
        pools: side and stride of the four poolings, in cells, at least 1; 1 does not pool. At 64 pixels
            ``(2, 2, 2, 2)`` gives 4x4 cells and ``(2, 2, 1, 1)`` 16x16; ManiSkill's, at 128, is ``(4, 2, 2, 2)``.
        channels: output channels of the four 3x3 convolutions; the 1x1 one keeps the last.
        in_channels: image channels.

    Raises:
        ValueError: unless there are four poolings and four channels, all positive.

    Reference:
        Tao et al., "ManiSkill3: GPU Parallelized Robotics Simulation and Rendering for Generalizable Embodied AI",
        2024: the encoder of its visual SAC baseline, without the linear layer. Its biases start at zero, ours where
        PyTorch puts them.

    Example:
        >>> PlainCNN()(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape
        torch.Size([2, 64, 4, 4])
    """

    def __init__(
        self,
        pools: Sequence[int] = (2, 2, 2, 2),
        channels: Sequence[int] = (16, 32, 64, 64),
        in_channels: int = 3,
    ) -> None:
        for name, values in {"pools": pools, "channels": channels}.items():
            if len(values) != 4 or min(values) < 1:
                raise ValueError(f"encoder.{name} must be four numbers of at least 1, got {list(values)}.")
        layers: list[nn.Module] = []
        for inputs, outputs, pool in zip((in_channels, *channels), channels, pools, strict=False):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(pool)]
        super().__init__(*layers, nn.Conv2d(channels[-1], channels[-1], 1), nn.ReLU())


@register("encoder", "drq")
class DrQCNN(ConvEncoder):
    """DrQ-v2's convolutions: four 3x3 ones, the first of stride 2: a very fine map, 25x25 cells at 64 pixels.

    Args:
        channels: output channels of each convolution.
        in_channels: image channels.

    Raises:
        ValueError: if ``channels`` is not positive.

    Reference:
        Yarats et al., "Mastering Visual Continuous Control: Improved Data-Augmented Reinforcement Learning", 2021.
        Its weights start orthogonal, ours as PyTorch draws them, and its pixels lie in [-0.5, 0.5], ours in [-1, 1].

    Example:
        >>> DrQCNN()(torch.zeros(2, 3, 84, 84, dtype=torch.uint8)).shape
        torch.Size([2, 32, 35, 35])
    """

    def __init__(self, channels: int = 32, in_channels: int = 3) -> None:
        check_positive("encoder", channels=channels)
        layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 3, stride=2), nn.ReLU()]
        for _ in range(3):
            layers += [nn.Conv2d(channels, channels, 3), nn.ReLU()]
        super().__init__(*layers)
