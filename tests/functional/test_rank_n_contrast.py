"""rank_n_contrast: the definition by loops, its invariants, special cases with a closed form, gradients."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gaze_torchrl.functional import rank_n_contrast

F64 = torch.float64


def brute_force(z: Tensor, y: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """The definition, pair by pair."""
    members = [i for i in range(len(y)) if valid[i]]
    losses = torch.zeros(len(y), dtype=z.dtype)
    for i in members:
        others = [j for j in members if j != i]
        weight = {k: torch.exp(torch.cosine_similarity(z[i], z[k], 0) / temperature) for k in others}
        for j in others:
            total = sum(weight[k] for k in others if abs(y[i] - y[k]) >= abs(y[i] - y[j]))
            losses[i] -= torch.log(weight[j] / total) / len(others)
    return losses


def drawn(seed: int, ties: bool = False, n: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z, y = torch.randn(n, 4, dtype=F64, generator=generator), torch.randn(n, dtype=F64, generator=generator)
    return z, y.round() if ties else y, torch.rand(n, generator=generator) < 0.7


@given(seed=st.integers(0, 2**16), ties=st.booleans(), temperature=st.floats(0.05, 5))
def test_equals_the_definition(seed: int, ties: bool, temperature: float) -> None:
    z, y, valid = drawn(seed, ties)
    torch.testing.assert_close(rank_n_contrast(z, y, valid, temperature), brute_force(z, y, valid, temperature))


@given(seed=st.integers(0, 2**16), scale=st.sampled_from([-4.0, -1.0, 0.125, 1.0, 1024.0]))
def test_only_directions_and_the_order_of_label_distances_matter(seed: int, scale: float) -> None:
    z, y, valid = drawn(seed, ties=True)  # whole numbers: shifts and powers of two are exact
    other = rank_n_contrast(z * torch.arange(1, 10)[:, None], scale * y + 3, valid)
    torch.testing.assert_close(other, rank_n_contrast(z, y, valid))


@given(
    seed=st.integers(0, 2**16),
    step=st.sampled_from([0.1, 0.3, 1 / 3, 1e-3, 7e5]),
    shift=st.sampled_from([0.0, 0.7, -10.1]),
    dtype=st.sampled_from([torch.float32, F64]),
)
def test_gaps_that_differ_by_rounding_alone_are_equal(seed: int, step: float, shift: float, dtype: torch.dtype) -> None:
    z, _, valid = drawn(seed)
    y = torch.randint(9, (9,), generator=torch.Generator().manual_seed(seed))
    rounded = (step * (y.to(dtype) + shift)).to(dtype)
    torch.testing.assert_close(rank_n_contrast(z, rounded, valid), rank_n_contrast(z, y, valid))


def test_gaps_that_differ_by_more_are_not_equal_beside_a_far_label() -> None:
    z = torch.randn(5, 4, dtype=F64)
    y = torch.tensor([0.0, 1.0, -1.0001, 1e8, -1e8])  # float32: the far ones' rounding is larger than 1e-4
    every = torch.ones(5, dtype=torch.bool)
    found, expected = rank_n_contrast(z, y, every, 1.0), brute_force(z, y, every, 1.0)
    torch.testing.assert_close(found[:3], expected[:3])


@given(seed=st.integers(0, 2**16))
def test_the_order_of_the_members_does_not_matter(seed: int) -> None:
    z, y, valid = drawn(seed, ties=True)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(rank_n_contrast(z[order], y[order], valid[order]), rank_n_contrast(z, y, valid)[order])


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 1e30])
def test_what_is_not_valid_does_not_matter(junk: float) -> None:
    z, y, valid = drawn(3)
    alone = rank_n_contrast(z[valid], y[valid])
    z[~valid], y[~valid] = junk, junk
    z.requires_grad_()
    losses = rank_n_contrast(z, y, valid)
    losses.sum().backward()
    torch.testing.assert_close(losses[valid], alone)
    assert (losses[~valid] == 0).all()
    assert z.grad is not None
    assert (z.grad[~valid] == 0).all()
    assert z.grad.isfinite().all()


def test_one_label_for_all_is_a_softmax_over_the_others() -> None:
    z = torch.nn.functional.normalize(torch.randn(7, 4, dtype=F64), dim=-1)
    logits = (z @ z.T / 0.2).fill_diagonal_(-torch.inf)
    expected = -logits.log_softmax(-1).fill_diagonal_(0).sum(-1) / 6
    torch.testing.assert_close(rank_n_contrast(z, torch.ones(7, dtype=F64), temperature=0.2), expected)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_nothing_to_contrast_costs_nothing(n: int) -> None:
    z = torch.randn(3, 4, requires_grad=True)
    losses = rank_n_contrast(z, torch.randn(3), torch.arange(3) < n)
    torch.testing.assert_close(losses, torch.zeros(3))
    assert losses.requires_grad


def test_embeddings_in_the_order_of_the_labels_cost_least() -> None:
    y = torch.linspace(0, 1, 12, dtype=F64)
    arc = torch.stack([torch.cos(2 * y), torch.sin(2 * y)], -1)
    ordered = rank_n_contrast(arc, y).mean()
    shuffled = torch.stack([rank_n_contrast(arc[torch.randperm(12)], y).mean() for _ in range(20)])
    assert ordered < shuffled.min()


def test_zero_vectors_are_harmless() -> None:
    z = torch.zeros(4, 3, requires_grad=True)
    rank_n_contrast(z, torch.arange(4.0)).sum().backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_rank_gradient() -> None:
    z, y, valid = drawn(1)
    assert torch.autograd.gradcheck(lambda z: rank_n_contrast(z, y, valid, 0.3), z.requires_grad_())


def test_half_precision_is_close() -> None:
    z, y, valid = drawn(2)
    half = rank_n_contrast(z.bfloat16(), y.float(), valid, 0.5)
    torch.testing.assert_close(half, rank_n_contrast(z, y, valid, 0.5).bfloat16(), rtol=0.03, atol=0.03)


def test_errors() -> None:
    z, y = torch.zeros(4, 3), torch.zeros(4)
    with pytest.raises(ValueError, match=r"labels \[\*, N\], got \[4, 3\] and \[5\]"):
        rank_n_contrast(z, torch.zeros(5))
    with pytest.raises(ValueError, match=r"valid must be bool \[4\], got torch.float32 \[4\]"):
        rank_n_contrast(z, y, torch.ones(4))
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        rank_n_contrast(z, y, temperature=0)
