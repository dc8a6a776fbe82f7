r"""Random changes of images that leave what matters in them as it is; every image of a batch is changed on its own.

All take images [*, C, H, W], uint8 in [0, 255] or float in [0, 1], and return images of the same shape, dtype and
range. Random numbers are drawn on the generator's device, or without one on the images' device from torch's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

__all__ = ["color_jitter", "overlay", "random_conv", "random_shift"]

# Rows: luma Y and the two chroma axes of YIQ, of red, green and blue.
_YIQ = torch.tensor(
    [[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]], dtype=torch.float64
)
_GREY = _YIQ[0].expand(3, 3)  # the grey of the same luma
_QUARTER = torch.linalg.solve(_YIQ, torch.stack([0 * _YIQ[0], -_YIQ[2], _YIQ[1]]))  # a quarter turn of the chroma


def random_shift(images: Tensor, pad: int = 4, generator: Generator | None = None) -> Tensor:
    r"""Shift every image by whole pixels, filling in with its border: pad by repeating it, then crop at random.

    Pixels are moved, never mixed, so uint8 stays exact. (DrQ-v2's implementation interpolates floats instead.)

    Args:
        images: [*, C, H, W], of any dtype.
        pad: largest shift along each axis, in pixels, >= 0; all shifts are equally likely.
        generator: source of the shifts.

    Returns:
        Shifted images, [*, C, H, W].

    Reference:
        Kostrikov et al., Image Augmentation Is All You Need: Regularizing Deep Reinforcement Learning from Pixels,
        2021.

    >>> row = torch.arange(5, dtype=torch.uint8).expand(1, 1, 1, 5)
    >>> random_shift(row, 2, torch.Generator().manual_seed(0)).tolist()
    [[[[2, 3, 4, 4, 4]]]]
    """
    flat = images.reshape(-1, *images.shape[-3:])
    count, channels, height, width = flat.shape
    shift = _draw(torch.randint, (2, count, 1), flat, generator, low=-pad, high=pad + 1)
    y, x = (
        (torch.arange(side, device=flat.device) + one).clamp(0, side - 1)
        for side, one in zip((height, width), shift, strict=True)
    )
    pixel = (y.unsqueeze(2) * width + x.unsqueeze(1)).flatten(1).unsqueeze(1).expand(-1, channels, -1)
    return flat.flatten(2).gather(2, pixel).reshape(images.shape)


def color_jitter(
    images: Tensor,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
    generator: Generator | None = None,
) -> Tensor:
    r"""Change brightness, contrast, saturation and hue of every image at random, in this order.

    Each step is affine in the colours, so the four are one 3x3 matrix and one offset per image:

    .. math:: x' = b\,c\,\bigl[G + s\,(\cos h\,(1 - G) + \sin h\,Q)\bigr]\,x + (1 - c)\,b\,\bar{y},

    with G the grey of the same luma, Q a quarter turn of the chroma in YIQ, and y-bar the image's mean luma. Values are
    cut off at the limits of the range once, at the end.

    Args:
        images: RGB, [*, 3, H, W].
        brightness, contrast, saturation: the factors b, c and s are uniform in [1 - v, 1 + v], v in [0, 1].
        hue: the angle h is uniform in [-hue, hue] of a full turn, in [0, 0.5].
        generator: source of the factors.

    Returns:
        Images, [*, 3, H, W].

    Raises:
        ValueError: if the images do not have three channels.

    Reference:
        Laskin et al., Reinforcement Learning with Augmented Data, 2020. They turn the hue in HSV and cut off after
        each step; the matrix is ours.

    >>> grey = torch.full((1, 3, 2, 2), 0.5)
    >>> color_jitter(grey, brightness=0.0, hue=0.5).allclose(grey)  # has no colour, and no contrast
    True
    """
    if images.shape[-3] != 3:
        raise ValueError(f"color_jitter expects RGB images [*, 3, H, W], got {list(images.shape)}.")
    flat, limit = _as_float(images)
    spread = flat.new_tensor([brightness, contrast, saturation, 2 * math.pi * hue])
    draw = spread * (2 * _draw(torch.rand, (len(flat), 4), flat, generator).to(flat.dtype) - 1)
    b, c, s = (1 + draw[:, :3]).T[..., None, None]
    h = draw[:, 3, None, None]
    grey, quarter = _GREY.to(flat), _QUARTER.to(flat)
    chroma = torch.eye(3).to(flat) - grey
    matrix = b * c * (grey + s * (h.cos() * chroma + h.sin() * quarter))
    offset = (1 - c) * b * (grey @ flat.mean((-2, -1)).unsqueeze(-1))
    return _like(torch.baddbmm(offset, matrix, flat.flatten(2)), images, limit)


def random_conv(images: Tensor, generator: Generator | None = None) -> Tensor:
    r"""Filter every image with a random 3x3 convolution of its own: shapes stay, colours and textures change.

    The filter is Xavier normal and acts on pixels centred on grey, padded with grey; values beyond the range are cut
    off at its limits.

    Args:
        images: [*, C, H, W].
        generator: source of the filters.

    Returns:
        Filtered images, [*, C, H, W].

    Reference:
        Lee et al., Network Randomization: A Simple Technique for Generalization in Deep Reinforcement Learning, 2020
        (one filter per batch, and a share of clean images).

    >>> random_conv(torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)).dtype
    torch.uint8
    """
    flat, limit = _as_float(images)
    count, channels = flat.shape[:2]
    std = (9 * channels) ** -0.5  # Xavier: sqrt(2 / (fan in + fan out))
    kernel = std * _draw(torch.randn, (count * channels, channels, 3, 3), flat, generator).to(flat.dtype)
    # One group per image. An empty batch has no groups, and nothing to filter.
    centred = (flat - limit / 2).reshape(1, -1, *flat.shape[-2:])
    changed = F.conv2d(centred, kernel, padding=1, groups=count) + limit / 2 if count else flat
    return _like(changed, images, limit)


def overlay(images: Tensor, alpha: float = 0.5, generator: Generator | None = None) -> Tensor:
    r"""Mix every image with another one of the batch, drawn at random.

    .. math:: x'_i = (1 - \alpha)\,x_i + \alpha\,x_j, \qquad j \neq i.

    Args:
        images: [*, C, H, W]; an image alone in its batch stays as it is.
        alpha: share of the other image, in [0, 1].
        generator: source of the partners.

    Returns:
        Mixed images, [*, C, H, W].

    Reference:
        Hansen and Wang, Generalization in Reinforcement Learning by Soft Data Augmentation, 2021 (with images of
        another data set).

    >>> overlay(torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1), alpha=0.25).flatten()
    tensor([0.2500, 0.7500])
    """
    flat, limit = _as_float(images)
    count = len(flat)
    step = _draw(torch.randint, (count,), flat, generator, low=min(1, count - 1), high=max(count, 1))
    other = (torch.arange(count, device=flat.device) + step) % max(count, 1)
    return _like(torch.lerp(flat, flat[other], alpha), images, limit)


def _draw(
    sample: Callable[..., Tensor], shape: tuple[int, ...], images: Tensor, generator: Generator | None, **options: int
) -> Tensor:
    device = images.device if generator is None else generator.device
    return sample(size=shape, generator=generator, device=device, **options).to(images.device)


def _as_float(images: Tensor) -> tuple[Tensor, int]:
    """Images [N, C, H, W], at least float32, and the upper limit of their range."""
    dtype = torch.promote_types(images.dtype, torch.float32)
    return images.reshape(-1, *images.shape[-3:]).to(dtype), 1 if images.dtype.is_floating_point else 255


def _like(changed: Tensor, images: Tensor, limit: int) -> Tensor:
    if not images.dtype.is_floating_point:
        changed = changed.round_()
    return changed.clamp_(0, limit).to(images.dtype).reshape(images.shape)
