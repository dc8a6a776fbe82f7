"""What every function keeps: leading dimensions, dtypes, compilation, and no wait for the device."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import gaze_torchrl.functional as functional
from gaze_torchrl.functional import (
    axis_centers,
    cell_centers,
    cosine_triplet_loss,
    covariance_from,
    discounted_return,
    gaussian_map,
    gaze_drift,
    gaze_spread,
    info_nce,
    knn,
    known_return,
    lambda_return,
    map_centroid,
    map_entropy,
    mid_rank,
    neighbor_agreement,
    rank_n_contrast,
    residual,
    reverse_scan,
    segment_end,
    segment_start,
    soft_margin_triplet_loss,
    spatial_moments,
)


def flag(value: Tensor) -> Tensor:
    return value > 0.8


# name -> function of real arguments, and the trailing shape of each; all take any leading dimensions.
BATCHED: dict[str, tuple[Callable, list[tuple[int, ...]]]] = {
    "covariance_from": (covariance_from, [(2,), ()]),
    "discounted_return": (lambda r, last: discounted_return(r, flag(last), 0.9), [(7,), (7,)]),
    "gaussian_map": (lambda m, s, r: gaussian_map(m, covariance_from(s, r), 3, 4), [(2,), (2,), ()]),
    "gaussian_map sum": (
        lambda m, s, r: gaussian_map(m, covariance_from(s, r), 3, 4, normalize="sum"),
        [(2,), (2,), ()],
    ),
    "gaussian_map periphery": (
        lambda m, s, r: gaussian_map(m, covariance_from(s, r), 3, 4, periphery=0.1),
        [(2,), (2,), ()],
    ),
    "gaze_drift": (gaze_drift, [(3, 2), (3, 2)]),
    "gaze_spread": (gaze_spread, [(3, 2, 2)]),
    "info_nce": (info_nce, [(4, 4)]),
    "map_entropy": (map_entropy, [(3, 4)]),
    "map_centroid": (map_centroid, [(3, 4)]),
    "lambda_return": (lambda r, v, a, b: lambda_return(r, v, flag(a), flag(b), 0.9, 0.8), [(7,)] * 4),
    "reverse_scan": (reverse_scan, [(7,), (7,)]),
    "spatial_moments": (spatial_moments, [(3, 4)]),
    "cosine_triplet_loss": (lambda a, p, n: cosine_triplet_loss(a, p, n, margin=1.0), [(5,)] * 3),
    "soft_margin_triplet_loss": (soft_margin_triplet_loss, [(5,)] * 3),
    "rank_n_contrast": (lambda z, y, v: rank_n_contrast(z, y, ~flag(v)), [(6, 5), (6,), (6,)]),
    "known_return": (lambda last, done: known_return(flag(last), flag(done)), [(7,), (7,)]),
    "segment_end": (lambda s, done: segment_end((9 * s).long(), flag(done)), [(7,), (7,)]),
    "segment_start": (lambda last: segment_start(flag(last)), [(7,)]),
    "mid_rank": (lambda value, mask: mid_rank(value, ~flag(mask)), [(7,), (7,)]),
}
DIFFERENTIABLE = [name for name in BATCHED if name not in ("known_return", "segment_end", "segment_start", "mid_rank")]
UNBATCHED: dict[str, tuple[Callable, list[tuple[int, ...]]]] = {
    "knn": (lambda q, p, m: knn(q, p, 4, mask=flag(m), block=6), [(5, 3), (20, 3), (5, 20)]),
    "knn euclidean": (lambda q, p: knn(q, p, 4, metric="euclidean", block=6), [(5, 3), (20, 3)]),
    "neighbor_agreement": (lambda a, b: neighbor_agreement(a, b, 4), [(20, 3), (20, 5)]),
    "residual": (lambda y, by, m: residual(y, by, ~flag(m)), [(20,), (20, 3), (20,)]),
    "axis_centers": (lambda m: axis_centers(5, device=m.device, dtype=m.dtype), [()]),
    "cell_centers": (lambda m: cell_centers(5, 4, device=m.device, dtype=m.dtype), [()]),
}


def arguments(trailing: list[tuple[int, ...]], batch: tuple[int, ...] = (), **options) -> list[Tensor]:
    return [0.1 + 0.8 * torch.rand((*batch, *shape), **options) for shape in trailing]


# Random: tests/functional/test_augment.py holds them to the same, draw by draw.
RANDOM = {"color_jitter", "overlay", "random_conv", "random_shift"}


def test_every_public_function_is_covered() -> None:
    assert {name.split()[0] for name in BATCHED | UNBATCHED} | RANDOM == set(functional.__all__)


@pytest.mark.parametrize("name", BATCHED)
@pytest.mark.parametrize("batch", [(3,), (2, 3), (2, 1, 2), (0,), (2, 0)])
def test_a_batch_is_its_rows(name: str, batch: tuple[int, ...]) -> None:
    function, trailing = BATCHED[name]
    inputs = arguments(trailing, batch)
    outputs = pytree.tree_leaves(function(*inputs))
    single = pytree.tree_leaves(function(*arguments(trailing)))
    assert [out.shape for out in outputs] == [(*batch, *out.shape) for out in single]
    for place in torch.cartesian_prod(*map(torch.arange, batch)).reshape(-1, len(batch)).tolist():
        row = pytree.tree_leaves(function(*(value[tuple(place)] for value in inputs)))
        torch.testing.assert_close([out[tuple(place)] for out in outputs], row)


@pytest.mark.parametrize("name", BATCHED | UNBATCHED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(name: str, dtype: torch.dtype) -> None:
    function, trailing = (BATCHED | UNBATCHED)[name]
    for out in pytree.tree_leaves(function(*arguments(trailing, dtype=dtype))):
        assert out.dtype == dtype or not out.is_floating_point()


@pytest.mark.parametrize("name", BATCHED | UNBATCHED)
def test_nothing_waits_for_the_device(name: str) -> None:
    """A meta tensor has no data: a read of a value, or a tensor made on another device, would fail."""
    function, trailing = (BATCHED | UNBATCHED)[name]
    for out in pytree.tree_leaves(function(*arguments(trailing, device="meta"))):
        assert out.device.type == "meta"


@pytest.mark.parametrize("name", BATCHED | UNBATCHED)
def test_compiled_is_eager(name: str) -> None:
    function, trailing = (BATCHED | UNBATCHED)[name]
    inputs = arguments(trailing, (3,) if name in BATCHED else ())
    differentiable = name in DIFFERENTIABLE
    inputs = [value.requires_grad_(differentiable) for value in inputs]
    expected = function(*inputs)
    torch._dynamo.reset()
    found = torch.compile(function, fullgraph=True, backend="aot_eager")(*inputs)
    torch.testing.assert_close(found, expected)
    if differentiable:
        losses = [sum(out.sin().sum() for out in pytree.tree_leaves(outputs)) for outputs in (expected, found)]
        gradients = [torch.autograd.grad(loss, inputs, allow_unused=True) for loss in losses]
        torch.testing.assert_close(*gradients)
