"""Keys: what they are, and how well compact ones find the neighbours that whole maps find."""

import copy
import pickle

import pytest
import torch
from torch.nn import functional as F

from gaze_torchrl.functional import neighbor_agreement
from gaze_torchrl.replay import FullKeys, JointKeys, PooledKeys, ProjectedKeys, ProprioKeys

KEYS = {
    "pooled": PooledKeys,
    "projected": lambda: ProjectedKeys(3, (6, 8)),
    "projected pooled": lambda: ProjectedKeys(3, (6, 8), dim=16, grid=2),
    "full": FullKeys,
}


def scenes(count=400, channels=8, size=12):
    """Blobs of a few channels that move over the map, with noise: features with structure, like those of an encoder."""
    axis = torch.linspace(-1, 1, size)
    place, width = 2 * torch.rand(count, 3, 2) - 1, 0.3
    blob = [torch.exp(-0.5 * ((axis - place[..., i, None]) / width) ** 2) for i in (0, 1)]
    color = torch.rand(3, channels)
    maps = torch.einsum("noh,now,oc->nchw", *blob, color)
    return (maps + 0.05 * torch.randn(maps.shape)).clamp_min(0)


def centered(keys):
    return keys - keys.mean(0)


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_keys_are_float32_rows_of_one_size(name, dtype):
    module, features = KEYS[name](), torch.rand(5, 3, 6, 8)
    keys = module(features.to(dtype))
    assert keys.dtype == torch.float32
    assert keys.shape == (5, {"pooled": 48, "projected": 256, "projected pooled": 16, "full": 144}[name])
    torch.testing.assert_close(keys, module(features), rtol=0, atol=2e-2)


@pytest.mark.parametrize("name", KEYS)
def test_copies_and_compiled_give_the_same(name):
    module, features = KEYS[name](), torch.rand(5, 3, 6, 8)
    expected = module(features)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), KEYS[name]()):
        assert torch.equal(twin(features), expected)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(features), expected)


def test_pooled_cells_are_means():
    features = torch.rand(2, 3, 8, 8)
    keys = PooledKeys(4)(features).view(2, 3, 4, 4)
    for y in range(4):
        for x in range(4):
            cell = features[:, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
            torch.testing.assert_close(keys[:, :, y, x], cell.mean((2, 3)))


def test_full_is_the_map():
    features = torch.rand(2, 3, 4, 5)
    assert torch.equal(FullKeys()(features), features.flatten(1))


def test_projection_is_linear_and_seeded():
    features = torch.randn(4, 3, 6, 8)
    module, other = ProjectedKeys(3, (6, 8), dim=32), ProjectedKeys(3, (6, 8), dim=32, seed=1)
    torch.testing.assert_close(
        module(2 * features[:1] + features[1:2]), 2 * module(features[:1]) + module(features[1:2])
    )
    assert not torch.allclose(module(features), other(features))
    other.load_state_dict(module.state_dict())
    assert torch.equal(module(features), other(features))


def test_projection_keeps_cosines_as_johnson_and_lindenstrauss_say():
    """The variance of a projected inner product of unit vectors is (1 + cos²) / dim, at most 2 / dim."""
    features = torch.randn(200, 4, 8, 8)
    flat = F.normalize(features.flatten(1), dim=-1)
    exact = flat @ flat.T
    for dim in (64, 1024):
        keys = ProjectedKeys(4, (8, 8), dim=dim)(flat.view_as(features))
        error = (keys @ keys.T - exact)[torch.triu_indices(200, 200, 1).unbind()]
        assert error.square().mean().item() == pytest.approx(1 / dim, rel=0.2)
        assert error.mean().abs() < 3 / dim


def test_compact_keys_find_the_neighbours_of_whole_maps():
    """Measured: 0.85 for 4x4 cells, 0.06 for one, 0.64 for 64 random numbers and 0.81 for 256; chance is 0.025."""
    features = scenes()
    full = centered(FullKeys()(features))
    agreement = {
        name: neighbor_agreement(centered(module(features)), full, k=10).item()
        for name, module in {
            "cells": PooledKeys(4),
            "one cell": PooledKeys(1),
            "64": ProjectedKeys(8, (12, 12), dim=64),
            "256": ProjectedKeys(8, (12, 12), dim=256),
        }.items()
    }
    assert agreement["cells"] > 0.75
    assert agreement["256"] > 0.7 > agreement["64"] > 0.5
    assert agreement["one cell"] < 0.2  # where things are matters to a whole map


def scaled(keys):
    """As the miner scales keys of the metric "euclidean"."""
    return centered(keys) / centered(keys).square().mean(0).sqrt()


@pytest.mark.parametrize("size", [2, 7])
def test_joint_keys_are_both_and_count_them_the_same(size):
    """Whatever the units of either, and however many numbers the proprioception has."""
    features, proprio = scenes(), torch.randn(400, size)
    keys = JointKeys(8, (12, 12), size, dim=64)(1000 * features, 0.01 * proprio)
    seen, felt = keys.split((64, 64 // size * size), -1)
    assert torch.equal(seen, ProjectedKeys(8, (12, 12), dim=64, grid=4)(1000 * features))
    assert torch.equal(felt.view(400, -1, size), 0.01 * proprio[:, None].expand(-1, 64 // size, -1))
    far = [torch.cdist(scaled(half), scaled(half)).square().mean().item() for half in (seen, felt)]
    assert far[1] == pytest.approx(64 // size * size / 64 * far[0], rel=1e-3)


def test_joint_neighbours_are_near_in_both():
    """Nearest neighbours by either alone may be anything in the other."""
    features, proprio = scenes(), torch.randn(400, 2)
    build = {"seen": PooledKeys(4), "felt": ProprioKeys(2), "joint": JointKeys(8, (12, 12), 2)}
    read = {"features": features, "proprio": proprio}
    keys = {name: one(*(read[key] for key in getattr(one, "reads", ["features"]))) for name, one in build.items()}
    rank = {}
    for name in ("seen", "felt"):
        distance = torch.cdist(scaled(keys[name]), scaled(keys[name])).fill_diagonal_(torch.inf)
        rank[name] = distance.argsort(-1).argsort(-1) / 398
    nearest = {
        name: torch.cdist(scaled(one), scaled(one)).fill_diagonal_(torch.inf).argmin(-1) for name, one in keys.items()
    }
    share = {(by, of): rank[of].gather(1, near[:, None]).mean().item() for by, near in nearest.items() for of in rank}
    assert share["joint", "seen"] < 0.25 < 0.4 < share["felt", "seen"]
    assert share["joint", "felt"] < 0.25 < 0.4 < share["seen", "felt"]


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: PooledKeys(0), r"key\.grid must be at least 1, got 0"),
        (lambda: ProjectedKeys(3, (4, 4), grid=0), r"key\.grid must be at least 1, got 0"),
        (lambda: ProjectedKeys(3, (4, 4), dim=0), r"key\.dim must be at least 1, got 0"),
        (lambda: ProprioKeys(0), r"key=proprio needs proprioception.* set key=pooled"),
        (lambda: JointKeys(3, (4, 4), 0), r"key=joint needs proprioception.* set key=pooled"),
        (lambda: JointKeys(3, (4, 4), 9, dim=8), r"key\.dim must be at least the proprioception's size, 9, got 8"),
        (lambda: JointKeys(3, (4, 4), 2, grid=0), r"key\.grid must be at least 1, got 0"),
    ],
)
def test_bad_options(build, match):
    with pytest.raises(ValueError, match=match):
        build()
