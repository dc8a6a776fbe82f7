"""The drawing against slow per-pixel implementations of the rules in docs/clutter.md."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from gaze_torchrl.envs.clutter_render import background, disk_mask, paint, patch_size


def paint_naively(image: np.ndarray, objects: list[tuple]) -> np.ndarray:
    """Draws (shape, x, y, radius, color) on one image [3, S, S], pixel after pixel."""
    image = image.astype(int)
    size = image.shape[-1]
    for shape, x, y, radius, color in objects:
        for row in range(size):
            for column in range(size):
                dx = ((2 * column + 1) / size - 1 - x) * size / 2
                dy = ((2 * row + 1) / size - 1 - y) * size / 2
                distance = max(abs(dx), abs(dy)) if shape == "square" else math.hypot(dx, dy)
                cover = min(max(radius * size / 2 - distance + 0.5, 0), 1)
                if shape == "ring":
                    cover -= min(max(radius * size / 4 - distance + 0.5, 0), 1)
                for channel in range(3):
                    below = image[channel, row, column]
                    image[channel, row, column] = round(below + cover * (color[channel] - below))
    return image


coordinate = st.one_of(st.sampled_from([-1.0, 0.0, 1.0]), st.floats(-1, 1, width=32))
rgb = st.tuples(*[st.integers(0, 255)] * 3)
thing = st.tuples(coordinate, coordinate, st.floats(0.03125, 0.25, width=32), rgb)


@settings(deadline=None, max_examples=60)
@given(things=st.lists(thing, min_size=3, max_size=5), size=st.sampled_from([16, 19]))
def test_paint_equals_pixel_loop(things: list[tuple], size: int) -> None:
    image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
    shapes = ["disk", "square", "ring", "disk", "disk"][: len(things)]
    expected = paint_naively(image.numpy(), [(s, *t) for s, t in zip(shapes, things, strict=True)])

    x, y, radius, color = zip(*things, strict=True)
    patch = patch_size(max(radius), size)
    canvas = torch.nn.functional.pad(image, [patch] * 4)[None].clone()
    center = torch.tensor([x, y]).T[None]
    paint(
        canvas,
        center,
        torch.tensor([radius]),
        torch.tensor([color], dtype=torch.float32),
        patch,
        slice(1, 2),
        slice(2, 3),
    )
    painted = canvas[0, :, patch:-patch, patch:-patch].numpy().astype(int)
    assert abs(painted - expected).max() <= 1


def test_paint_keeps_lanes_apart_and_order() -> None:
    size, patch = 16, patch_size(0.2, 16)
    canvas = torch.zeros(2, 3, size + 2 * patch, size + 2 * patch, dtype=torch.uint8)
    center = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[-0.5, 0.5], [0.5, -0.5]]])
    color = torch.tensor([[255.0, 0, 0], [0, 255, 0]]).expand(2, 2, 3)
    paint(canvas, center, torch.full((2, 2), 0.2), color, patch)
    image = canvas[..., patch:-patch, patch:-patch]
    assert image[0, :, 8, 8].tolist() == [0, 255, 0]  # the later object hides the earlier one
    assert image[1, :, 12, 4].tolist() == [255, 0, 0]  # x = -0.5 is left, y = 0.5 is down
    assert image[1, :, 4, 12].tolist() == [0, 255, 0]
    assert not image[1, :, 8, 8].any()


def test_paint_same_compiled() -> None:
    size, patch = 24, patch_size(0.14, 24)
    start = torch.randint(0, 256, (2, 3, size + 2 * patch, size + 2 * patch), dtype=torch.uint8)
    objects = (torch.rand(2, 4, 2) * 2 - 1, torch.full((2, 4), 0.14), torch.rand(2, 4, 3) * 255)
    shapes = {"squares": slice(1, 2), "rings": slice(2, 4)}
    eager, compiled = start.clone(), start.clone()
    paint(eager, *objects, patch, **shapes)
    torch.compile(paint, fullgraph=True, backend="aot_eager")(compiled, *objects, patch, **shapes)
    assert not eager.equal(start)
    assert eager.equal(compiled)


@pytest.mark.parametrize(("grid", "size"), [(4, 16), (4, 21), (12, 18), (1, 16), (12, 8)])
def test_background_is_bilinear(grid: int, size: int) -> None:
    noise = torch.rand(2, 3, grid, grid)
    smooth = background(noise, size).int()
    assert background(noise, size).dtype == torch.uint8

    def neighbours(j: int) -> tuple[int, int, float]:
        place = min(max((j + 0.5) * grid / size - 0.5, 0), grid - 1)
        low = int(place)
        return low, min(low + 1, grid - 1), place - low

    for row in range(size):
        top, bottom, v = neighbours(row)
        for column in range(size):
            left, right, u = neighbours(column)
            above = noise[..., top, left] * (1 - u) + noise[..., top, right] * u
            below = noise[..., bottom, left] * (1 - u) + noise[..., bottom, right] * u
            expected = (above * (1 - v) + below * v) * 255
            assert (smooth[..., row, column] - expected).abs().max() <= 0.51


@pytest.mark.parametrize("size", [16, 23])
def test_disk_mask_equals_pixel_loop(size: int) -> None:
    center = torch.rand(5, 2) * 2 - 1
    mask = disk_mask(center, 0.3, size)
    assert mask.any((-1, -2)).all()
    for lane in range(5):
        for row in range(size):
            for column in range(size):
                dx = (2 * column + 1) / size - 1 - center[lane, 0].item()
                dy = (2 * row + 1) / size - 1 - center[lane, 1].item()
                assert mask[lane, row, column] == (math.hypot(dx, dy) <= 0.3)
