"""Random changes of images: what may change, what may not, and in which proportion."""

import cmath
import colorsys
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from gaze_torchrl.functional import color_jitter, info_nce, overlay, random_conv, random_shift

FUNCTIONS = {"random_shift": random_shift, "color_jitter": color_jitter, "random_conv": random_conv, "overlay": overlay}
EVERY = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
DTYPES = [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(*lead, dtype=torch.uint8, side=(10, 12)):
    pixels = torch.randint(0, 256, (*lead, 3, *side), dtype=torch.uint8)
    return pixels if dtype == torch.uint8 else (pixels / 255).to(dtype)


@EVERY
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lead", [(), (1,), (4,), (2, 3), (0,), (2, 0)])
def test_shape_dtype_and_range_are_kept(function, dtype, lead):
    before = images(*lead, dtype=dtype)
    kept = before.clone()
    after = function(before)
    assert (after.shape, after.dtype) == (before.shape, dtype)
    assert torch.equal(before, kept)
    if dtype.is_floating_point and after.numel():
        assert after.min() >= 0
        assert after.max() <= 1


@EVERY
def test_one_seed_one_result(function):
    before = images(16)
    first = function(before, generator=generator(1))
    assert torch.equal(first, function(before, generator=generator(1)))
    assert not torch.equal(first, function(before, generator=generator(2)))
    torch.manual_seed(5)
    default = function(before)
    torch.manual_seed(5)
    assert torch.equal(default, function(before))


@EVERY
def test_every_image_changes_on_its_own(function):
    """The same image many times over, and one other for the overlay to draw from."""
    before = torch.cat([images(1).expand(15, -1, -1, -1), images(1)])
    after = function(before)
    assert len({tuple(one.flatten().tolist()) for one in after[:15]}) > (1 if function is overlay else 7)


@EVERY
def test_leading_dims_are_one_batch(function):
    before = images(2, 3)
    after = function(before, generator=generator())
    assert torch.equal(after.flatten(0, 1), function(before.flatten(0, 1), generator=generator()))


@EVERY
def test_uint8_is_the_rounded_float(function):
    before = images(6)
    exact = function(before / torch.tensor(255, dtype=torch.float64), generator=generator())
    assert (function(before, generator=generator()) - exact * 255).abs().max() <= 0.51


@EVERY
def test_memory_layout_does_not_matter(function):
    before = images(4)
    strided = before.movedim(-3, -1).contiguous().movedim(-1, -3)
    assert torch.equal(function(strided, generator=generator()), function(before, generator=generator()))


@EVERY
def test_nothing_waits_for_the_device(function):
    assert function(torch.zeros(2, 3, 8, 8, device="meta")).device.type == "meta"


@EVERY
def test_compiled_is_eager(function):
    before = images(4)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.manual_seed(0)
    expected = function(before)
    torch.manual_seed(0)
    assert torch.equal(compiled(before), expected)


@EVERY
def test_gradient_of_floats(function):
    before = (0.3 + 0.4 * torch.rand(2, 3, 5, 6, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda pixels: function(pixels, generator=generator()), before)


@given(side=st.tuples(st.integers(1, 9), st.integers(1, 9)), pad=st.integers(0, 5), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_every_shifted_image_is_a_crop_of_the_padded_one(side, pad, seed):
    before = torch.randint(0, 256, (5, 3, *side), dtype=torch.uint8, generator=generator(seed))
    after = random_shift(before, pad, generator(seed))
    padded = F.pad(before.double(), [pad] * 4, mode="replicate").to(torch.uint8)
    height, width = side
    for one, changed in zip(padded, after, strict=True):
        crops = [one[:, y : y + height, x : x + width] for y in range(2 * pad + 1) for x in range(2 * pad + 1)]
        assert any(torch.equal(changed, crop) for crop in crops)


def test_all_shifts_are_equally_likely():
    pad, count = 2, 20_000
    grid = torch.arange(49, dtype=torch.int32).reshape(1, 1, 7, 7)
    middle = random_shift(grid.expand(count, -1, -1, -1), pad)[:, 0, 3, 3]
    shares = torch.bincount(middle, minlength=49).reshape(7, 7)[1:6, 1:6] / count
    assert shares.sum() == 1
    assert (shares - 1 / 25).abs().max() < 5 * (1 / 25 / count) ** 0.5


def test_no_pad_no_shift():
    before = images(3)
    assert torch.equal(random_shift(before, 0), before)


def test_no_strength_no_jitter():
    before = images(5)
    assert torch.equal(color_jitter(before, 0, 0, 0, 0), before)


GREY = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)


def jittered_by_hand(image, brightness=1.0, contrast=1.0, saturation=1.0):
    """The three steps pixel by pixel, one after the other."""
    bright = [[[image[c, y, x] * brightness for c in range(3)] for x in range(4)] for y in range(4)]
    mean = sum(sum(w * v for w, v in zip(GREY, bright[y][x], strict=True)) for y in range(4) for x in range(4)) / 16
    out = torch.empty_like(image)
    for y in range(4):
        for x in range(4):
            color = [contrast * v + (1 - contrast) * mean for v in bright[y][x]]
            grey = sum(w * v for w, v in zip(GREY, color, strict=True))
            for c in range(3):
                out[c, y, x] = saturation * color[c] + (1 - saturation) * grey
    return out.clamp(0, 1)


def test_jitter_is_its_steps_one_after_the_other():
    before = 0.4 + 0.2 * torch.rand(6, 3, 4, 4, dtype=torch.float64)
    after = color_jitter(before, 0.3, 0.5, 0.7, 0.0, generator())
    draw = 2 * torch.rand(6, 4, generator=generator()).double() - 1
    for one, changed, (b, c, s, _) in zip(before, after, draw, strict=True):
        torch.testing.assert_close(changed, jittered_by_hand(one, 1 + 0.3 * b, 1 + 0.5 * c, 1 + 0.7 * s))


def chroma(color):
    _, i, q = colorsys.rgb_to_yiq(*color.tolist())
    return complex(i, q)


def test_hue_turns_the_chroma_and_keeps_the_luma():
    before = 0.4 + 0.2 * torch.rand(50, 3, 1, 1, dtype=torch.float64)
    after = color_jitter(before, 0, 0, 0, 0.5, generator())
    torch.testing.assert_close(torch.einsum("c,nchw->n", GREY, after), torch.einsum("c,nchw->n", GREY, before))
    angles = torch.pi * (2 * torch.rand(50, 4, generator=generator())[:, 3] - 1)
    for one, changed, angle in zip(before.flatten(1), after.flatten(1), angles.tolist(), strict=True):
        turned = chroma(one) * cmath.exp(1j * angle)
        assert abs(chroma(changed) - turned) < 0.01 * abs(turned)  # colorsys rounds its coefficients


def test_hue_leaves_grey_alone():
    grey = torch.rand(8, 1, 3, 3).expand(-1, 3, -1, -1)
    torch.testing.assert_close(color_jitter(grey, 0, 0, 0.9, 0.5), grey)


def test_jitter_wants_colours():
    with pytest.raises(ValueError, match=r"RGB images \[\*, 3, H, W\], got \[2, 4, 8, 8\]"):
        color_jitter(torch.rand(2, 4, 8, 8))


def filtered(image, kernel):
    return (F.conv2d(image - 0.5, kernel, padding=1) + 0.5).clamp(0, 1)


def test_random_conv_filters_each_image_with_its_own_kernel():
    before = images(5, dtype=torch.float64)
    after = random_conv(before, generator())
    kernels = torch.randn(15, 3, 3, 3, generator=generator()).double() / 27**0.5
    for one, changed, kernel in zip(before, after, kernels.split(3), strict=True):
        torch.testing.assert_close(changed, filtered(one, kernel))


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_kernels_are_xavier_normal(channels):
    before = torch.rand(1, channels, 8, 8)
    kernel = torch.nn.init.xavier_normal_(torch.empty(channels, channels, 3, 3), generator=generator())
    torch.testing.assert_close(random_conv(before, generator()), filtered(before, kernel))


def test_overlay_mixes_with_another_image():
    """Image i is 0 but for a one at place i, so the mix tells the partner."""
    count, alpha = 12, 0.25
    before = torch.eye(count).reshape(count, 1, 3, 4)
    partners = set()
    for seed in range(60):
        after = overlay(before, alpha, generator(seed)).flatten(1)
        torch.testing.assert_close(after.diagonal(), torch.full((count,), 1 - alpha))
        other = after - torch.diag(after.diagonal())
        torch.testing.assert_close(other.sum(1), torch.full((count,), alpha))
        torch.testing.assert_close(other.max(1).values, torch.full((count,), alpha))
        partners |= {(i, int(j)) for i, j in enumerate(other.argmax(1))}
    assert len(partners) > 0.9 * count * (count - 1)


def test_an_image_alone_stays():
    before = images(1)
    assert torch.equal(overlay(before), before)


@pytest.mark.parametrize("lead", [(), (3,), (2, 0)])
def test_info_nce_is_the_loop(lead):
    similarity = 5 * torch.randn(*lead, 4, 4, dtype=torch.float64)
    losses = info_nce(similarity)
    assert losses.shape == (*lead, 4)
    for matrix, row in zip(similarity.reshape(-1, 4, 4).tolist(), losses.reshape(-1, 4).tolist(), strict=True):
        for i in range(4):
            total = sum(math.exp(value) for value in matrix[i])
            assert row[i] == pytest.approx(-math.log(math.exp(matrix[i][i]) / total))


def test_info_nce_is_cross_entropy_with_the_diagonal():
    similarity = torch.randn(7, 7, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(info_nce(similarity), F.cross_entropy(similarity, torch.arange(7), reduction="none"))
    assert torch.autograd.gradcheck(info_nce, similarity)


def test_info_nce_special_cases():
    torch.testing.assert_close(info_nce(torch.full((5, 5), 3.0)), torch.full((5,), 5.0).log())
    assert torch.equal(info_nce(torch.zeros(1, 1)), torch.zeros(1))
    huge = info_nce(1e4 * torch.eye(3))
    assert torch.equal(huge, torch.zeros(3))
    assert info_nce(-1e4 * torch.eye(3)).isfinite().all()


def test_info_nce_wants_a_square():
    with pytest.raises(ValueError, match=r"\[\*, N, N\], got \[3, 4\]"):
        info_nce(torch.zeros(3, 4))
