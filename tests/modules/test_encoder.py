"""Encoders: shapes for any leading dims, what they accept, and where their cells lie."""

import pytest
import torch

from gaze_torchrl.modules import FineCNN, NatureCNN

ENCODERS = pytest.mark.parametrize("encoder_class", [FineCNN, NatureCNN])


@ENCODERS
@pytest.mark.parametrize("lead", [(), (1,), (5,), (2, 3), (0,)])
def test_any_leading_dims(encoder_class, lead):
    encoder = encoder_class()
    features = encoder(torch.randint(0, 256, (*lead, 3, 96, 64), dtype=torch.uint8))
    assert features.shape == (*lead, encoder.out_channels, *encoder.geometry(96, 64).size)


@ENCODERS
def test_leading_dims_do_not_mix(encoder_class):
    encoder = encoder_class()
    pixels = torch.randint(0, 256, (2, 3, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(encoder(pixels)[1, 2], encoder(pixels[1, 2]))


@ENCODERS
def test_uint8_equals_float_over_255(encoder_class):
    encoder = encoder_class()
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(encoder(pixels), encoder(pixels / 255))


def test_pixels_are_not_changed():
    pixels = torch.rand(2, 3, 64, 64)
    before = pixels.clone()
    FineCNN()(pixels)
    assert torch.equal(pixels, before)


def test_default_map_is_fine_enough_to_point_with():
    assert min(FineCNN().geometry(64, 64).size) >= 12


@ENCODERS
def test_geometry_is_where_the_receptive_fields_are(encoder_class):
    """The gradient of one cell covers a patch of pixels whose middle is the cell's place."""
    encoder = encoder_class().double()
    for parameter in encoder.parameters():  # all paths count, none is cut by a ReLU
        torch.nn.init.constant_(parameter, 0.01)
    side = 128
    geometry = encoder.geometry(side, side)
    pixels = torch.full((3, side, side), 0.5, dtype=torch.float64, requires_grad=True)
    h, w = geometry.size
    row, column = h // 2, w // 2 + 1
    (gradient,) = torch.autograd.grad(encoder(pixels)[:, row, column].sum(), pixels)
    mass = gradient.sum(0)
    line = (torch.arange(side, dtype=torch.float64) * 2 + 1) / side - 1
    center = torch.stack([(mass.sum(0) * line).sum(), (mass.sum(1) * line).sum()]) / mass.sum()
    cell = torch.tensor([(2 * column + 1) / w - 1, (2 * row + 1) / h - 1], dtype=torch.float64)
    torch.testing.assert_close(geometry.to_image(cell), center)


@pytest.mark.parametrize(
    ("pixels", "error", "match"),
    [
        (torch.zeros(3, 64, 64, dtype=torch.int64), TypeError, "uint8 or float, got torch.int64"),
        (torch.full((3, 64, 64), 255.0), ValueError, r"in \[0, 1\], got values in \[255, 255\]"),
        (torch.full((3, 64, 64), -0.1), ValueError, r"in \[0, 1\]"),
        (torch.full((3, 64, 64), float("nan")), ValueError, r"in \[0, 1\]"),
        (torch.zeros(64, 64, 3, dtype=torch.uint8), ValueError, "movedim"),
        (torch.zeros(64, 64, dtype=torch.uint8), ValueError, r"\[\*, 3, H, W\]"),
    ],
)
def test_bad_pixels(pixels, error, match):
    with pytest.raises(error, match=match):
        FineCNN()(pixels)


def test_image_too_small():
    with pytest.raises(ValueError, match=r"env\.image_size"):
        NatureCNN().geometry(20, 20)


@ENCODERS
def test_compiled_equals_eager(encoder_class):
    encoder = encoder_class()
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(pixels), encoder(pixels))
