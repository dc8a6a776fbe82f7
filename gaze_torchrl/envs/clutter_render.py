"""Drawing of the clutter world: pure functions, batched over lanes, without randomness.

World coordinates are [-1, 1]^2, x right and y down, and the image spans them exactly: the centre of pixel
column j is at x = (2j + 1) / size - 1. Objects are composited one after the other in 8 bits, each on the
small patch around it only, which is what makes it fast.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["background", "disk_mask", "paint", "patch_size"]


def background(noise: Tensor, size: int) -> Tensor:
    """Bilinearly upsamples coarse noise to a smooth 8-bit texture.

    Args:
        noise: [*, 3, g, g] float in [0, 1].
        size: side of the image in pixels.

    Returns:
        [*, 3, size, size] uint8.

    >>> background(torch.full((1, 3, 4, 4), 0.2), 16).unique()
    tensor([51], dtype=torch.uint8)
    """
    # Linear weights [g, size] along each side: ten times faster than interpolating images on a CPU.
    weights = interpolate(torch.eye(noise.shape[-1], device=noise.device)[None], size=size, mode="linear")[0]
    return (weights.T @ noise @ weights * 255).round_().to(torch.uint8)


def patch_size(radius: float, size: int) -> int:
    """Side in pixels of a patch that covers an object of this radius and its soft edge, wherever it lies.

    It is also the padding that lets patches of objects centred in the image never leave the canvas.

    >>> patch_size(0.14, size=64)
    10
    """
    return math.floor(radius * size + 1) + 1


def paint(
    canvas: Tensor,
    center: Tensor,
    radius: Tensor,
    color: Tensor,
    patch: int,
    squares: slice = slice(0),
    rings: slice = slice(0),
) -> None:
    r"""Draws objects on a padded canvas, in place and in index order.

    An object covers the fraction :math:`\alpha = \mathrm{clamp}(r - d + 1/2, 0, 1)` of a pixel at distance d
    from its centre (both in pixels: an edge one pixel wide). Distance is Euclidean, for squares the maximum
    norm; a ring loses the coverage of the disk with half its radius. Each object replaces the 8-bit value v
    by :math:`\mathrm{round}(v + \alpha (\mathrm{color} - v))`.

    Args:
        canvas: [N, 3, size + 2 patch, size + 2 patch] uint8, the image with `patch` pixels of padding around.
        center: [N, M, 2] float, (x, y) in [-1, 1].
        radius: [N, M] float, half the width, in world units.
        color: [N, M, 3] float in [0, 255].
        patch: from :func:`patch_size` of the largest radius.
        squares: which of the M objects are squares.
        rings: which of the M objects are rings.

    >>> canvas = torch.zeros(1, 3, 16 + 8, 16 + 8, dtype=torch.uint8)
    >>> paint(canvas, torch.zeros(1, 1, 2), torch.full((1, 1), 0.1), torch.full((1, 1, 3), 255.0), patch=4)
    >>> canvas[0, 0, 10:14, 10:14]
    tensor([[  0,   0,   0,   0],
            [  0, 151, 151,   0],
            [  0, 151, 151,   0],
            [  0,   0,   0,   0]], dtype=torch.uint8)
    """
    width = canvas.shape[-1]
    scale = (width - 2 * patch) / 2
    position = (center + 1) * scale - 0.5  # pixel indices
    radius = radius[..., None] * scale
    corner = (position - radius - 0.5).ceil_()
    offset = (corner - position)[..., None] + torch.arange(patch, device=canvas.device)
    dx, dy = offset[..., 0, None, :], offset[..., 1, :, None]

    distance = (dx.square() + dy.square()).sqrt_()
    distance[:, squares] = torch.maximum(dx[:, squares].abs(), dy[:, squares].abs())
    radius = radius[..., None]
    alpha = (radius - distance).add_(0.5).clamp_(0, 1)
    alpha[:, rings] -= (radius / 2 - distance)[:, rings].add_(0.5).clamp_(0, 1)
    alpha = alpha.flatten(2)[:, :, None]

    column, row = (corner.long() + patch).unbind(-1)
    inside = torch.arange(patch, device=canvas.device)
    index = (row * width + column)[..., None] + (inside[:, None] * width + inside).flatten()
    index = index[:, :, None].expand(-1, -1, 3, -1)

    pixels = canvas.view(canvas.shape[0], 3, -1)
    for where, tint, cover in zip(index.unbind(1), color[..., None].unbind(1), alpha.unbind(1), strict=True):
        blend = pixels.gather(2, where).float().lerp_(tint, cover)
        pixels.scatter_(2, where, blend.round_().to(torch.uint8))


def disk_mask(center: Tensor, radius: float, size: int) -> Tensor:
    """Pixels whose centre lies in a disk.

    Args:
        center: [*, 2] float, (x, y) in [-1, 1].
        radius: of the disk, in world units.
        size: side of the image in pixels.

    Returns:
        [*, size, size] bool.

    >>> disk_mask(torch.tensor([-1.0, 1.0]), 0.4, 8).nonzero()
    tensor([[6, 0],
            [7, 0],
            [7, 1]])
    """
    axis = (2 * torch.arange(size, device=center.device) + 1) / size - 1
    dx, dy = (axis - center[..., None]).square().unbind(-2)
    return dx[..., None, :] + dy[..., :, None] <= radius**2
