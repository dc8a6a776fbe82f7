"""Readouts: what they see, and what they do not."""

import pytest
import torch
from tensordict import TensorDict

from gaze_torchrl.modules import FlattenReadout, FovealGaze, GazeModule, GlimpseReadout
from gaze_torchrl.modules.readout import pool


def seen(lead=(4,), k=3):
    td = TensorDict({"features": torch.rand(*lead, 8, 10, 12), "proprio": torch.rand(*lead, 5)}, lead)
    return GazeModule(FovealGaze(8, (10, 12), num_foveae=k))(td)


READOUTS = {
    "flatten": lambda p: FlattenReadout(8, (10, 12), proprio_dim=p),
    "glimpse": lambda p: GlimpseReadout(8, proprio_dim=p, num_foveae=3),
}
EVERY_READOUT = pytest.mark.parametrize("make", READOUTS.values(), ids=READOUTS.keys())


@EVERY_READOUT
@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
@pytest.mark.parametrize("proprio", [0, 5])
def test_size_for_any_leading_dims(make, lead, proprio):
    readout = make(proprio)
    assert readout(seen(lead))["embedding"].shape == (*lead, readout.out_features)


@EVERY_READOUT
def test_proprioception_is_joined_unchanged(make):
    td = seen()
    embedding = make(5)(td)["embedding"]
    assert torch.equal(embedding[:, -5:], td["proprio"])


def test_pool_is_the_weighted_mean():
    features, weights = torch.rand(2, 8, 3, 4, dtype=torch.float64), torch.rand(2, 5, 3, 4, dtype=torch.float64)
    expected = torch.empty(2, 5, 8, dtype=torch.float64)
    for n in range(2):
        for k in range(5):
            for c in range(8):
                total = sum(weights[n, k, i, j] * features[n, c, i, j] for i in range(3) for j in range(4))
                expected[n, k, c] = total / weights[n, k].sum()
    torch.testing.assert_close(pool(features, weights), expected)


def test_pool_survives_an_empty_fovea():
    assert pool(torch.rand(8, 3, 4), torch.zeros(1, 3, 4)).isfinite().all()


def test_glimpse_sees_only_what_lies_under_the_foveae():
    """Features far outside every fovea change nothing; the same change in the flattened map would."""
    features = torch.rand(1, 8, 16, 16)
    foveae = torch.zeros(1, 1, 16, 16)
    foveae[..., :4, :4] = 1.0
    gaze = {"foveae": foveae, "mean": torch.zeros(1, 1, 2), "covariance": torch.eye(2).expand(1, 1, 2, 2)}
    readout = GlimpseReadout(8)
    td = TensorDict({"features": features, "gaze": gaze}, [1])
    before = readout(td.clone())["embedding"]
    outside = features.clone()
    outside[..., 8:, 8:] += 1.0
    assert torch.equal(readout(td.clone().set("features", outside))["embedding"], before)
    inside = features.clone()
    inside[..., :2, :2] += 1.0
    assert not torch.equal(readout(td.clone().set("features", inside))["embedding"], before)


def test_glimpse_knows_where_it_looks():
    td = seen(k=3)
    embedding = GlimpseReadout(8, num_foveae=3, hidden=16)(td)["embedding"]
    sigma = td["gaze", "covariance"].diagonal(dim1=-2, dim2=-1).sqrt()
    torch.testing.assert_close(embedding[:, 16:], torch.cat([td["gaze", "mean"], sigma], -1).flatten(1))


@EVERY_READOUT
def test_nested_keys(make):
    td = seen()
    renamed = TensorDict({"agent": td.clone()}, [4])
    template = make(5)
    options = {"proprio": ("agent", "proprio"), "embedding": ("agent", "embedding")}
    if isinstance(template, FlattenReadout):
        nested = FlattenReadout(8, (10, 12), proprio_dim=5, foveated=("agent", "foveated"), **options)
    else:
        nested = GlimpseReadout(
            8, proprio_dim=5, num_foveae=3, features=("agent", "features"), gaze=("agent", "gaze"), **options
        )
    nested.load_state_dict(template.state_dict())
    torch.testing.assert_close(nested(renamed)["agent", "embedding"], template(td)["embedding"])


@EVERY_READOUT
def test_gradient_reaches_features_and_gaze(make):
    module = GazeModule(FovealGaze(8, (10, 12), num_foveae=3))
    features = torch.rand(4, 8, 10, 12, requires_grad=True)
    td = module(TensorDict({"features": features, "proprio": torch.rand(4, 5)}, [4]))
    make(5)(td)["embedding"].square().sum().backward()
    assert features.grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in module.parameters() if p.ndim > 1)


@EVERY_READOUT
def test_compiled_equals_eager(make):
    readout, td = make(5), seen()

    def call(td):
        return readout(td)["embedding"]

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(td.clone()), call(td.clone()))
