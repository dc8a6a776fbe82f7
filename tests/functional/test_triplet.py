import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gaze_torchrl.functional import cosine_triplet_loss

F64 = torch.float64


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


def test_scale_does_not_matter() -> None:
    triplet = torch.randn(3, 50, 6, dtype=F64)
    scaled = triplet * torch.logspace(-3, 3, 50, dtype=F64)[:, None]
    torch.testing.assert_close(cosine_triplet_loss(*scaled), cosine_triplet_loss(*triplet))


def test_triplet_gradient_away_from_the_hinge() -> None:
    triplet = torch.randn(3, 40, 5, dtype=F64)
    gap = cosine_triplet_loss(*triplet, margin=2.0) - 2.0
    triplet = triplet[:, (gap + 0.3).abs() > 0.05].requires_grad_()
    assert torch.autograd.gradcheck(lambda triplet: cosine_triplet_loss(*triplet), triplet)


@pytest.mark.parametrize("zero", [[0], [1], [2], [0, 1], [0, 1, 2]])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_zero_vectors_are_harmless(zero: list[int], dtype: torch.dtype) -> None:
    triplet = torch.randn(3, 4, 5, dtype=dtype)
    triplet[zero] = 0
    triplet.requires_grad_()
    loss = cosine_triplet_loss(*triplet, margin=2.0)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert triplet.grad is not None
    assert triplet.grad.isfinite().all()
    if 0 in zero:
        torch.testing.assert_close(loss, torch.full_like(loss, 2.0))


def test_errors() -> None:
    vector = torch.zeros(4, 5)
    with pytest.raises(ValueError, match=r"one shape \[\*, D\], got \[4, 5\], \[4, 5\] and \[4, 6\]"):
        cosine_triplet_loss(vector, vector, torch.zeros(4, 6))
    with pytest.raises(ValueError, match=r"got \[\], \[\] and \[\]"):
        cosine_triplet_loss(*torch.zeros(3))
    for margin in (-0.1, 2.1, math.nan):
        with pytest.raises(ValueError, match=r"margin must lie in \[0, 2\]"):
            cosine_triplet_loss(vector, vector, vector, margin)
