"""The readout contract, held by every registered one: what they see, and what they do not."""

import copy
import pickle

import pytest
import torch
from tensordict import TensorDict

from gaze_torchrl import registry
from gaze_torchrl.modules import (
    AttentionPoolGaze,
    FovealGaze,
    GazeModule,
    GlimpseReadout,
    KeypointReadout,
    NoGaze,
    PoolReadout,
)
from gaze_torchrl.modules.readout import pool


def seen(lead=(4,), k=3):
    td = TensorDict({"features": torch.rand(*lead, 8, 10, 12), "proprio": torch.rand(*lead, 5)}, lead)
    return GazeModule(FovealGaze(8, (10, 12), num_foveae=k))(td)


def registered(entry):
    def make(proprio_dim, **keys):
        facts = {"in_channels": 8, "map_size": (10, 12), "proprio_dim": proprio_dim, "num_foveae": 3}
        return entry.target(**{k: v for k, v in facts.items() if k in entry.parameters}, **entry.options, **keys)

    return make


READOUTS = {entry.name: registered(entry) for entry in registry.entries("readout")}
EVERY_READOUT = pytest.mark.parametrize("make", READOUTS.values(), ids=READOUTS.keys())


def test_every_name_is_held_to_the_contract():
    assert {"flatten", "glimpse", "pool", "keypoints"} <= set(READOUTS)


@EVERY_READOUT
@pytest.mark.parametrize("lead", [(), (4,), (2, 3), (0,)])
@pytest.mark.parametrize("proprio", [0, 5])
def test_size_for_any_leading_dims(make, lead, proprio):
    readout = make(proprio)
    assert readout(seen(lead).select(*readout.in_keys))["embedding"].shape == (*lead, readout.out_features)


@EVERY_READOUT
def test_proprioception_is_joined_unchanged(make):
    td = seen()
    embedding = make(5)(td)["embedding"]
    assert torch.equal(embedding[:, -5:], td["proprio"])


@EVERY_READOUT
def test_what_is_missing_is_named(make):
    with pytest.raises(KeyError, match=r"the data has no \['proprio'\].*proprio_dim=0"):
        make(5)(seen().exclude("proprio"))


@pytest.mark.parametrize("name", ["glimpse", "keypoints"])
def test_another_number_of_foveae_is_named(name):
    with pytest.raises(ValueError, match="The gaze has 4 foveae, the readout num_foveae=3"):
        READOUTS[name](0)(seen(k=4))


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
    template = make(5)
    names = [name for name in ("features", "foveated", "gaze", "proprio", "embedding") if reads(template, name)]
    nested = make(5, **{name: ("agent", name) for name in names})
    assert nested.in_keys == [("agent", *([key] if isinstance(key, str) else key)) for key in template.in_keys]
    nested.load_state_dict(template.state_dict())
    renamed = TensorDict({"agent": td.clone()}, [4])
    torch.testing.assert_close(nested(renamed)["agent", "embedding"], template(td)["embedding"])


def reads(readout, name):
    return name == "embedding" or any(name in (key, key[0]) for key in readout.in_keys)


@EVERY_READOUT
def test_gradient_reaches_features_and_gaze(make):
    module = GazeModule(FovealGaze(8, (10, 12), num_foveae=3))
    features = torch.rand(4, 8, 10, 12, requires_grad=True)
    td = module(TensorDict({"features": features, "proprio": torch.rand(4, 5)}, [4]))
    readout = make(5)
    readout(td)["embedding"].square().sum().backward()
    assert features.grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in module.parameters() if p.ndim > 1)
    assert all(p.grad.abs().sum() > 0 for p in readout.parameters())


@EVERY_READOUT
def test_gradcheck(make):
    readout, td = make(5).double(), seen((2,)).double()
    keys = [key for key in readout.in_keys if key != "proprio"]

    def call(*values):
        return readout(td.clone().update(dict(zip(keys, values, strict=True))))["embedding"]

    values = [td[key].detach().clone().requires_grad_() for key in keys]
    assert torch.autograd.gradcheck(call, values, fast_mode=True)


@EVERY_READOUT
def test_compiled_equals_eager(make):
    readout, td = make(5), seen()

    def call(td):
        return readout(td)["embedding"]

    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(td.clone()), call(td.clone()))


@EVERY_READOUT
def test_vmap_copies_and_pickles(make):
    readout, fresh, td = make(5), make(5), seen()
    fresh.load_state_dict(readout.state_dict())
    expected = readout(td.clone())["embedding"]
    for same in (fresh, copy.deepcopy(readout), pickle.loads(pickle.dumps(readout)), torch.func.vmap(readout)):
        torch.testing.assert_close(same(td.clone())["embedding"], expected)


@EVERY_READOUT
def test_plain_tensors(make):
    readout, td = make(5), seen()
    named = {key if isinstance(key, str) else "_".join(key): td[key] for key in readout.in_keys}
    assert torch.equal(readout(**named), readout(td)["embedding"])


@EVERY_READOUT
def test_bf16_autocast_is_finite(make):
    with torch.autocast("cpu", torch.bfloat16):
        assert make(5)(seen())["embedding"].isfinite().all()


def test_pool_of_no_gaze_is_the_mean():
    readout, td = PoolReadout(8), TensorDict({"features": torch.rand(4, 8, 10, 12)}, [4])
    expected = readout.net(td["features"].mean((-2, -1)))
    torch.testing.assert_close(readout(GazeModule(NoGaze(8, (10, 12)))(td))["embedding"], expected)


def test_pool_of_attention_is_attention_pooling():
    gaze, readout, features = AttentionPoolGaze(8), PoolReadout(8), torch.rand(4, 8, 10, 12)
    torch.nn.init.normal_(gaze.query)
    td = GazeModule(gaze)(TensorDict({"features": features}, [4]))
    cells = features.flatten(2).mT
    pooled = torch.nn.functional.scaled_dot_product_attention(gaze.query.expand(4, 1, 8), cells, cells)[:, 0]
    torch.testing.assert_close(readout(td)["embedding"], readout.net(pooled))


def test_pool_does_not_fade_with_the_map():
    td = seen()
    faint = td.clone()
    faint["gaze", "map"] *= 0.01
    readout = PoolReadout(8)
    torch.testing.assert_close(readout(faint)["embedding"], readout(td)["embedding"])


def test_keypoints_are_the_means_alone():
    td = seen(k=3)
    assert torch.equal(KeypointReadout(num_foveae=3)(td)["embedding"], td["gaze", "mean"].flatten(1))
    with pytest.raises(ValueError, match=r"readout\.num_foveae must be positive"):
        KeypointReadout(num_foveae=0)
