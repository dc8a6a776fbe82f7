"""The picture shows the gaze where it is."""

import numpy as np
import pytest
import torch
from PIL import Image
from tensordict import TensorDict

from gaze_torchrl.functional import covariance_from, gaussian_map
from gaze_torchrl.modules import FineCNN, MapGeometry, NatureCNN
from gaze_torchrl.training.overlay import draw_gaze, gaze_video

IDENTITY = MapGeometry((16, 16), (1.0, 1.0), (0.0, 0.0))


def picture(mean, encoder, size, sigma=0.2):
    geometry = encoder.geometry(size, size)
    mean = torch.tensor([mean])
    covariance = covariance_from(torch.full((1, 2), sigma), torch.zeros(1))
    foveae = gaussian_map(mean, covariance, *geometry.size)
    gaze = TensorDict({"foveae": foveae, "mean": mean, "covariance": covariance})
    frame = draw_gaze(torch.zeros(3, size, size, dtype=torch.uint8), gaze, geometry, side=200)
    return frame[:, 200:].astype(int), geometry


def centroid(weight):
    rows, columns = np.indices(weight.shape)
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum() / 100 - 1


def test_heat_and_ellipse_lie_at_the_mean_in_the_image():
    for encoder, size in ((FineCNN(), 64), (NatureCNN(), 128)):
        frame, geometry = picture((0.3, -0.4), encoder, size)
        expected = geometry.to_image(torch.tensor([0.3, -0.4])).numpy()
        is_ellipse = (frame == [0, 255, 255]).all(-1)
        assert is_ellipse.sum() > 50
        assert np.abs(centroid(is_ellipse) - expected).max() < 0.03
        # Inferno of attention a, weighted by a: red grows with both.
        heat = np.where(is_ellipse, 0, frame[..., 0]).astype(float)
        assert np.abs(centroid(heat) - expected).max() < 0.05


def test_without_a_gaze_only_the_picture():
    pixels = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    frame = draw_gaze(pixels, None, FineCNN().geometry(64, 64), side=64)
    assert np.array_equal(frame, pixels.movedim(0, -1).numpy())


def test_shown_are_the_newest_colors():
    """Of stacked frames or with a depth the last three channels; a single channel in grey."""
    pixels = torch.randint(0, 256, (7, 32, 32), dtype=torch.uint8)
    geometry = FineCNN().geometry(32, 32)
    assert np.array_equal(draw_gaze(pixels, None, geometry, side=32), pixels[4:].movedim(0, -1).numpy())
    grey = draw_gaze(pixels[:1], None, geometry, side=32)
    assert np.array_equal(grey, pixels[:1].expand(3, -1, -1).movedim(0, -1).numpy())


def test_wide_pictures_stay_wide():
    """Two cameras side by side: the gaze in the right one is drawn there."""
    geometry = FineCNN().geometry(32, 64)
    attention = torch.zeros(geometry.size)
    attention[4, 12] = 1.0
    frame = draw_gaze(torch.zeros(3, 32, 64, dtype=torch.uint8), TensorDict({"map": attention}), geometry, side=64)
    assert frame.shape == (64, 256, 3)
    rows, columns = np.nonzero(frame[:, 128:, 0])
    assert abs(columns.mean() - (12.5 / 16) * 128) < 1.5
    assert abs(rows.mean() - (4.5 / 8) * 64) < 1.5


def test_a_gaze_without_foveae_is_drawn_by_its_map():
    attention = torch.zeros(16, 16)
    attention[4, 12] = 1.0
    frame = draw_gaze(torch.zeros(3, 64, 64, dtype=torch.uint8), TensorDict({"map": attention}), IDENTITY, side=64)
    assert np.abs(centroid(frame[:, 64:, 0].astype(float)) * 100 / 32 + 100 / 32 - 1 - [0.5625, -0.4375]).max() < 0.05


@pytest.mark.parametrize(("attention", "pictures"), [(torch.rand(2, 3, 8, 8), 2), (torch.ones(2, 3, 8, 8), 1)])
def test_video_shows_a_gaze_that_looks_somewhere(attention, pictures, tmp_path):
    """One that weighs all alike, as that of the plain CNN does, is none."""
    pixels = torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8)
    mask = torch.ones(2, 3, dtype=torch.bool)
    steps = TensorDict({"pixels": pixels, "mask": mask, "gaze": {"map": attention}}, [2, 3])
    with Image.open(gaze_video(tmp_path / "gaze.gif", steps, IDENTITY, 2)) as video:
        assert video.size == (2 * (pictures * 192 + 8), 192 + 8)
        assert video.n_frames == 3


@pytest.mark.parametrize(("length", "frames"), [(1, 1), (20, 20), (240, 240), (241, 121), (500, 168)])
def test_video_of_a_long_episode_skips_steps_but_not_the_last(length, frames, tmp_path):
    """And is no longer than the episodes that it shows."""
    pixels = torch.randint(0, 256, (2, 500, 3, 8, 8), dtype=torch.uint8)
    pixels[0, length - 1] = 255
    mask = torch.arange(500) < torch.tensor([[length], [500]])
    steps = TensorDict({"pixels": pixels, "mask": mask}, [2, 500])
    with Image.open(gaze_video(tmp_path / "gaze.gif", steps, IDENTITY, 1)) as video:
        assert video.n_frames == frames
        video.seek(frames - 1)
        assert np.asarray(video.convert("RGB"))[4:196, 4:196].mean() > 200
