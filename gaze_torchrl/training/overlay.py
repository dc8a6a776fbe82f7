"""Videos of evaluation episodes with the gaze drawn on them: heat map and ellipses."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw
from tensordict import TensorDictBase
from torch import Tensor
from torch.nn import functional as F

from gaze_torchrl.functional import axis_centers
from gaze_torchrl.modules import MapGeometry
from gaze_torchrl.training.evaluation import gaze_density

__all__ = ["draw_gaze", "gaze_video", "looks_somewhere"]

_SIDE = 192  # pixels per episode in the video
_BORDER = 4
_MOST = 240  # frames of a video: of longer episodes every second, third, ... step


def draw_gaze(pixels: Tensor, gaze: TensorDictBase | None, geometry: MapGeometry, side: int = _SIDE) -> np.ndarray:
    """One frame beside itself with the gaze: attention's density as a heat map, each fovea as its one-sigma ellipse.

    The narrowest fovea's ellipse is opaque, wider ones are fainter.

    Args:
        pixels: [C, H, W] uint8; of more than three channels the last three are shown, of fewer the last one in grey.
        gaze: ``map`` [h, w], and of one with foveae, their maps ``foveae`` [K, h, w], ``mean`` [K, 2] and
            ``covariance`` [K, 2, 2] in map coordinates; None for no gaze.
        geometry: from map to image coordinates.
        side: height of each picture, pixels; its width is side W / H.

    Returns:
        [side, 2 side W / H, 3] uint8; without a gaze, half as wide.
    """
    colors = pixels[-3:] if len(pixels) >= 3 else pixels[-1:].expand(3, -1, -1)
    size = (round(side * pixels.shape[-1] / pixels.shape[-2]), side)
    image = Image.fromarray(colors.movedim(0, -1).cpu().numpy()).resize(size, Image.Resampling.NEAREST)
    if gaze is None:
        return np.asarray(image)
    density = gaze_density(gaze)
    shade = _on_image(density / density.amax(), geometry, size).cpu().numpy()
    heat = matplotlib.colormaps["inferno"](shade)[..., :3]
    weight = 0.5 * shade[..., None]  # the picture shows through, dimmed where nothing is attended to
    gazed = Image.fromarray(((1 - weight) * 0.6 * np.asarray(image) + weight * 255 * heat).astype(np.uint8))
    if "foveae" not in gaze:
        return np.concatenate([np.asarray(image), np.asarray(gazed)], axis=1)
    # The wider a fovea, the thinner it spreads its attention and the fainter its ellipse; wide ones below narrow ones.
    narrow = 1 / gaze["foveae"].sum((-2, -1)).clamp_min(1e-8)
    strength = (narrow / narrow.amax()).cpu().numpy()
    outlines = _ellipses(gaze["mean"], gaze["covariance"], geometry)
    for k in strength.argsort():
        layer = Image.new("RGBA", gazed.size)
        line = [tuple(point) for point in (outlines[k] + 1) / 2 * size]
        ImageDraw.Draw(layer).line(line, fill=(0, 255, 255, int(255 * strength[k])), width=2)
        gazed.paste(layer, mask=layer)
    return np.concatenate([np.asarray(image), np.asarray(gazed)], axis=1)


def gaze_video(path: Path, steps: TensorDictBase, geometry: MapGeometry, episodes: int, fps: int = 6) -> Path:
    """Write a GIF of the first episodes, side by side in two columns; of more than 240 steps every second, third, ...

    Args:
        path: the file, ``.gif``.
        steps: what `rollout_episodes` returned, with ``("gaze", ...)`` where there is a gaze; one whose map is the same
            everywhere, such as `NoGaze`, is not drawn.
        geometry: from map to image coordinates.
        episodes: how many episodes, at most.
        fps: frames per second.

    Returns:
        The path.
    """
    frames = []
    shown = steps[:episodes]
    looks = looks_somewhere(shown)
    length = int(shown["mask"].any(0).sum())
    for t in [*range(0, length - 1, -(-length // _MOST)), length - 1]:
        tiles = []
        for step, running in zip(shown[:, t], shown["mask"][:, t], strict=True):
            tile = draw_gaze(step["pixels"], step["gaze"] if looks else None, geometry)
            # An episode that has ended stays dark until all have.
            tiles.append(np.pad(tile if running else tile // 4, ((_BORDER, _BORDER), (_BORDER, _BORDER), (0, 0))))
        if len(tiles) % 2:
            tiles.append(np.zeros_like(tiles[0]))
        rows = [np.concatenate(tiles[i : i + 2], axis=1) for i in range(0, len(tiles), 2)]
        frames.append(np.concatenate(rows))
    _write_gif(path, frames, fps)
    return path


def looks_somewhere(steps: TensorDictBase) -> bool:
    """Whether steps have a gaze that is worth drawing: one whose map is not the same everywhere, as `NoGaze`'s is.

    Args:
        steps: any number of steps, maybe with ``("gaze", "map")`` [*, h, w].
    """
    attention = steps.get(("gaze", "map"), None)
    return attention is not None and bool((attention.amax((-2, -1)) > attention.amin((-2, -1))).any())


def _write_gif(path: Path, frames: list[np.ndarray], fps: int) -> None:
    """One palette for all frames, the picture's own colours given most of it: a red target stays red."""
    thumbnails = np.concatenate([frame[::3, ::3] for frame in frames])
    vivid = thumbnails[(thumbnails.max(-1) - thumbnails.min(-1)) > 120]
    extra = (
        np.resize(vivid, (len(vivid) * 4 // thumbnails.shape[1], *thumbnails.shape[1:]))
        if len(vivid)
        else thumbnails[:0]
    )
    palette = Image.fromarray(np.concatenate([thumbnails, extra])).quantize(256)
    images = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0)


def _on_image(attention: Tensor, geometry: MapGeometry, size: tuple[int, int]) -> Tensor:
    """Attention [h, w] interpolated on an image of a size (width, height), zero where the map does not reach."""
    lines = [axis_centers(length, device=attention.device, dtype=attention.dtype) for length in size]
    grid = torch.stack(torch.meshgrid(*lines, indexing="xy"), -1)
    grid = (grid - grid.new_tensor(geometry.offset)) / grid.new_tensor(geometry.scale)
    return F.grid_sample(attention[None, None], grid[None], align_corners=False, padding_mode="zeros")[0, 0].clamp(0, 1)


def _ellipses(mean: Tensor, covariance: Tensor, geometry: MapGeometry, points: int = 48) -> np.ndarray:
    """Outlines [K, points, 2] of the foveae at one sigma, in image coordinates."""
    angle = torch.linspace(0, 2 * torch.pi, points, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()], -1)
    root = torch.linalg.cholesky(covariance.double().cpu())
    return geometry.to_image(mean.double().cpu()[:, None] + circle @ root.mT).numpy()
