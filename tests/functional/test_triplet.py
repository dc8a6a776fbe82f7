"""Triplet losses: known values, torch's own losses as oracles, gradients, degenerate vectors."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from gaze_torchrl.functional import cosine_triplet_loss, soft_margin_triplet_loss

F64 = torch.float64
LOSSES = [cosine_triplet_loss, soft_margin_triplet_loss]


@pytest.mark.parametrize(
    ("positive", "negative", "margin", "expected"),
    [
        ([0.0, 2.0], [3.0, 4.0], 0.3, 0.9),  # 0.6 - 0 + 0.3
        ([5.0, 0.0], [0.0, 1.0], 0.3, 0.0),  # 0 - 1 + 0.3 < 0
        ([-1.0, 0.0], [7.0, 0.0], 2.0, 4.0),  # 1 + 1 + 2, the largest loss there is
        ([3.0, 4.0], [4.0, 3.0], 0.0, 0.2),  # 0.8 - 0.6
        ([2.0, 0.0], [3.0, 0.0], 0.5, 0.5),  # equal similarities cost the margin
    ],
)
def test_constants(positive: list[float], negative: list[float], margin: float, expected: float) -> None:
    anchor = torch.tensor([1.5, 0.0])
    loss = cosine_triplet_loss(anchor, torch.tensor(positive), torch.tensor(negative), margin)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("margin", [0.01, 0.3, 1.0])
def test_equals_torchs_triplet_loss_on_cosine_distance(margin: float) -> None:
    anchor, positive, negative = torch.randn(3, 200, 6, dtype=F64)
    torch_loss = nn.TripletMarginWithDistanceLoss(
        distance_function=lambda a, b: 1 - F.cosine_similarity(a, b), margin=margin, reduction="none"
    )
    loss = cosine_triplet_loss(anchor, positive, negative, margin)
    torch.testing.assert_close(loss, torch_loss(anchor, positive, negative), rtol=0, atol=1e-14)
    assert 0 < (loss > 0).sum() < 200  # both sides of the hinge


@pytest.mark.parametrize("temperature", [0.05, 1.0, 3.0])
def test_soft_margin_is_the_cross_entropy_of_two_choices(temperature: float) -> None:
    anchor, positive, negative = torch.randn(3, 200, 6, dtype=F64)
    logits = torch.stack([F.cosine_similarity(anchor, other) / temperature for other in (positive, negative)], -1)
    expected = F.cross_entropy(logits, torch.zeros(200, dtype=torch.int64), reduction="none")
    torch.testing.assert_close(soft_margin_triplet_loss(anchor, positive, negative, temperature), expected)


def test_soft_margin_tends_to_the_hinge() -> None:
    triplet = torch.randn(3, 200, 6, dtype=F64)
    hinge = cosine_triplet_loss(*triplet, margin=0.0)
    torch.testing.assert_close(1e-4 * soft_margin_triplet_loss(*triplet, 1e-4), hinge, rtol=0, atol=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
@given(seed=st.integers(0, 2**16), exponent=st.floats(-6, 6))
def test_lengths_do_not_matter(loss, seed: int, exponent: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    triplet = torch.randn(3, 8, 6, dtype=F64, generator=generator)
    lengths = 10 ** (exponent * torch.rand(3, 8, 1, dtype=F64, generator=generator))
    torch.testing.assert_close(loss(*(lengths * triplet)), loss(*triplet))


@pytest.mark.parametrize("loss", LOSSES)
@given(seed=st.integers(0, 2**16))
def test_each_triplet_stands_alone(loss, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    triplet = torch.randn(3, 8, 6, dtype=F64, generator=generator)
    order = torch.randperm(8, generator=generator)
    torch.testing.assert_close(loss(*triplet[:, order]), loss(*triplet)[order])
    triplet[:, 5:] = torch.tensor([math.nan, math.inf, -math.inf])[:, None]
    assert loss(*triplet)[:5].isfinite().all()


def test_triplet_gradient_away_from_the_hinge() -> None:
    triplet = torch.randn(3, 40, 5, dtype=F64)
    gap = cosine_triplet_loss(*triplet, margin=2.0) - 2.0
    triplet = triplet[:, (gap + 0.3).abs() > 0.05].requires_grad_()
    assert torch.autograd.gradcheck(lambda triplet: cosine_triplet_loss(*triplet), triplet)


def test_soft_margin_gradient() -> None:
    triplet = torch.randn(3, 10, 5, dtype=F64).requires_grad_()
    assert torch.autograd.gradcheck(lambda triplet: soft_margin_triplet_loss(*triplet), triplet)


@pytest.mark.parametrize("zero", [[0], [1], [2], [0, 1], [0, 1, 2]])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(("function", "option", "tie"), list(zip(LOSSES, (2.0, 0.1), (2.0, math.log(2)), strict=True)))
def test_zero_vectors_are_harmless(zero: list[int], dtype: torch.dtype, function, option: float, tie: float) -> None:
    triplet = torch.randn(3, 4, 5, dtype=dtype)
    triplet[zero] = 0
    triplet.requires_grad_()
    loss = function(*triplet, option)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert triplet.grad is not None
    assert triplet.grad.isfinite().all()
    if 0 in zero:
        torch.testing.assert_close(loss, torch.full_like(loss, tie))


def test_errors() -> None:
    vector = torch.zeros(4, 5)
    for loss in LOSSES:
        with pytest.raises(ValueError, match=r"one shape \[\*, D\], got \[4, 5\], \[4, 5\] and \[4, 6\]"):
            loss(vector, vector, torch.zeros(4, 6))
        with pytest.raises(ValueError, match=r"got \[\], \[\] and \[\]"):
            loss(*torch.zeros(3))
    for margin in (-0.1, 2.1, math.nan):
        with pytest.raises(ValueError, match=r"margin must lie in \[0, 2\]"):
            cosine_triplet_loss(vector, vector, vector, margin)
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature must be positive"):
            soft_margin_triplet_loss(vector, vector, vector, temperature)
