"""Pictures inside a page: frames with the gaze on them, as data."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image
from tensordict import TensorDictBase

from gaze_torchrl.modules import MapGeometry
from gaze_torchrl.training.overlay import draw_gaze

__all__ = ["Picture", "picture"]


@dataclass(frozen=True)
class Picture:
    """A picture as ``data:`` URI, and its size in pixels: where there is a gaze, two pictures side by side."""

    source: str
    width: int
    height: int


def picture(step: TensorDictBase, geometry: MapGeometry, gazes: bool, side: int) -> Picture:
    """A step as it is seen, and where there is a gaze, beside it the same with the gaze.

    Args:
        step: ``pixels`` [C, H, W] uint8 and ``("gaze", ...)``, as for `draw_gaze`.
        geometry: from map to image coordinates.
        gazes: whether there is a gaze to draw.
        side: height of the picture, pixels; a multiple of the frame's is smallest, as the blocks of both then coincide.
    """
    drawn = draw_gaze(step["pixels"], step["gaze"] if gazes else None, geometry, side)
    return Picture(_encoded(drawn), drawn.shape[1], drawn.shape[0])


def _encoded(image: np.ndarray) -> str:
    # WebP is a quarter of the size of PNG or JPEG here, and every browser of the last years shows it.
    file = io.BytesIO()
    Image.fromarray(image).save(file, "WEBP", quality=75)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
