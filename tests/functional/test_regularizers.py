"""What is asked of a map at the edge of the number range; the rest: tests/objectives/test_regularizer.py."""

import pytest
import torch

from gaze_torchrl.functional import map_entropy


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-8, 1e12])
def test_entropy_does_not_depend_on_the_scale_of_the_map_however_faint(scale: float) -> None:
    attention = torch.rand(3, 4, 5)
    share = attention.double().flatten(1) / attention.double().sum((1, 2))[:, None]
    expected = torch.tensor([float(-sum(p * p.log() for p in row)) for row in share])
    faint = (scale * attention).requires_grad_()
    entropy = map_entropy(faint)
    torch.testing.assert_close(entropy, expected)
    (gradient,) = torch.autograd.grad(entropy.sum(), faint)
    assert gradient.isfinite().all()


def test_entropy_of_no_attention_is_zero() -> None:
    assert map_entropy(torch.zeros(4, 5)) == 0
