"""The gaze contract: shapes, ranges, gradients, keys, and the special cases that must equal known results."""

import copy
import pickle
import warnings

import pytest
import torch
from tensordict import TensorDict
from torch.distributions import MultivariateNormal

from gaze_torchrl.functional import cell_centers
from gaze_torchrl.modules import FovealGaze, GazeModule, NoGaze

GAZES = {
    "moments": lambda: FovealGaze(8, (10, 12)),
    "moments-4": lambda: FovealGaze(8, (10, 12), num_foveae=4),
    "mlp": lambda: FovealGaze(8, (10, 12), head="mlp"),
    "mlp-3": lambda: FovealGaze(8, (10, 12), head="mlp", num_foveae=3),
    "sum": lambda: FovealGaze(8, (10, 12), num_foveae=2, normalize="sum"),
    "periphery": lambda: FovealGaze(8, (10, 12), periphery=0.25),
    "none": lambda: NoGaze(8, (10, 12)),
}
EVERY_GAZE = pytest.mark.parametrize("make", GAZES.values(), ids=GAZES.keys())
FOVEAL = pytest.mark.parametrize("make", [GAZES[name] for name in GAZES if name != "none"])


@EVERY_GAZE
@pytest.mark.parametrize("lead", [(), (1,), (5,), (2, 3), (0,)])
def test_shapes_for_any_leading_dims(make, lead):
    gaze = make()
    outputs = dict(zip(gaze.out_names, gaze(torch.rand(*lead, 8, 10, 12)), strict=True))
    k = getattr(gaze, "num_foveae", None)
    shapes = {"map": (10, 12), "mean": (k, 2), "covariance": (k, 2, 2), "foveae": (k, 10, 12)}
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {
        name: (*lead, *shapes[name]) for name in gaze.out_names
    }


@EVERY_GAZE
def test_leading_dims_do_not_mix(make):
    gaze, features = make(), torch.rand(2, 3, 8, 10, 12)
    for whole, part in zip(gaze(features), gaze(features[1, 2]), strict=True):
        torch.testing.assert_close(whole[1, 2], part)


@EVERY_GAZE
def test_map_lies_in_unit_interval(make):
    for scale in (0.0, 1.0, 100.0):
        attention = make()(scale * torch.rand(5, 8, 10, 12))[0]
        assert ((attention >= 0) & (attention <= 1)).all()


@FOVEAL
def test_covariance_is_positive_definite_and_mean_inside(make):
    _, mean, covariance, _ = make()(50 * torch.randn(20, 8, 10, 12))
    assert (torch.linalg.eigvalsh(covariance) > 0).all()
    assert (mean.abs() <= 1).all()


def test_one_fovea_is_the_normal_density_up_to_its_peak():
    gaze = FovealGaze(8, (10, 12)).double()
    attention, mean, covariance, _ = gaze(torch.rand(8, 10, 12, dtype=torch.float64))
    normal = MultivariateNormal(mean[0], covariance[0])
    expected = (normal.log_prob(cell_centers(10, 12, dtype=torch.float64)) - normal.log_prob(mean[0])).exp()
    torch.testing.assert_close(attention.flatten(), expected, rtol=0, atol=1e-10)


def test_map_is_the_soft_union_of_the_foveae():
    attention, _, _, foveae = FovealGaze(8, (10, 12), num_foveae=3)(torch.rand(4, 8, 10, 12))
    torch.testing.assert_close(attention, 1 - (1 - foveae).prod(1))
    assert (attention + 1e-6 >= foveae.amax(1)).all()


def test_sum_normalisation_and_periphery():
    features = torch.rand(4, 8, 10, 12)
    torch.testing.assert_close(GAZES["sum"]()(features)[0].sum((-2, -1)), torch.ones(4))
    plain, floored = FovealGaze(8, (10, 12)), FovealGaze(8, (10, 12), periphery=0.25)
    floored.load_state_dict(plain.state_dict())
    torch.testing.assert_close(floored(features)[0], 0.25 + 0.75 * plain(features)[0])


def test_moments_head_looks_at_what_is_salient():
    """With a saliency that reads one channel, the gaze goes where that channel is active."""
    gaze = FovealGaze(1, (9, 9), min_sigma=0.1)
    first, _, last = gaze.head.saliency
    with torch.no_grad():
        first.weight.fill_(1.0), first.bias.zero_(), last.weight.fill_(10.0), last.bias.zero_()
    features = torch.zeros(1, 9, 9)
    features[0, 2, 7] = 1.0
    attention, mean, covariance, _ = gaze(features)
    torch.testing.assert_close(mean[0], torch.tensor([2 * 7 + 1, 2 * 2 + 1]) / 9 - 1, atol=1e-4, rtol=0)
    assert attention.argmax() == 2 * 9 + 7
    torch.testing.assert_close(covariance[0], 0.1**2 * torch.eye(2), atol=1e-3, rtol=0)


def test_mlp_head_starts_wide_and_near_the_middle():
    _, mean, covariance, _ = FovealGaze(8, (10, 12), head="mlp")(torch.rand(64, 8, 10, 12))
    assert mean.norm(dim=-1).mean() < 0.1
    assert (covariance.diagonal(dim1=-2, dim2=-1).sqrt() > 0.8).all()


@EVERY_GAZE
def test_gradcheck(make):
    gaze = make().double()
    features = torch.rand(2, 8, 10, 12, dtype=torch.float64, requires_grad=True)
    if isinstance(gaze, NoGaze):
        assert not any(output.requires_grad for output in gaze(features))
    else:
        assert torch.autograd.gradcheck(gaze, (features,), fast_mode=True)


@FOVEAL
def test_every_parameter_learns(make):
    gaze = make()
    weights = torch.rand(10, 12)
    (gaze(torch.rand(16, 8, 10, 12))[0] * weights).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in gaze.head.parameters() if parameter.ndim > 1)


@EVERY_GAZE
def test_compiled_equals_eager(make):
    gaze, features = make(), torch.rand(3, 8, 10, 12)
    for compiled, eager in zip(
        torch.compile(gaze, fullgraph=True, backend="aot_eager")(features), gaze(features), strict=True
    ):
        torch.testing.assert_close(compiled, eager)


@EVERY_GAZE
def test_bf16_autocast_is_finite(make):
    with torch.autocast("cpu", torch.bfloat16):
        outputs = make()(torch.rand(3, 8, 10, 12))
    assert all(output.isfinite().all() for output in outputs)


@EVERY_GAZE
def test_copies_and_pickles(make):
    gaze, features = make(), torch.rand(3, 8, 10, 12)
    fresh = make()
    fresh.load_state_dict(gaze.state_dict())
    for other in (copy.deepcopy(gaze), pickle.loads(pickle.dumps(gaze)), fresh):
        for a, b in zip(gaze(features), other(features), strict=True):
            assert torch.equal(a, b)


def test_module_writes_nested_keys():
    module = GazeModule(
        FovealGaze(8, (10, 12)), features=("agent", "features"), foveated=("agent", "seen"), gaze_key=("agent", "gaze")
    )
    td = module(TensorDict({"agent": {"features": torch.rand(4, 8, 10, 12)}}, [4]))
    assert ("agent", "gaze", "mean") in td.keys(True)
    torch.testing.assert_close(
        td["agent", "seen"], td["agent", "features"] * td["agent", "gaze", "map"].unsqueeze(1), rtol=0, atol=0
    )
    assert set(module.out_keys) <= set(td.keys(True, True))


def test_no_gaze_leaves_the_features_as_they_are():
    td = GazeModule(NoGaze(8, (10, 12)))(TensorDict({"features": torch.rand(4, 8, 10, 12)}, [4]))
    assert torch.equal(td["foveated"], td["features"])


def test_module_without_foveated_writes_none():
    td = GazeModule(FovealGaze(8, (10, 12)), foveated=None)(TensorDict({"features": torch.rand(4, 8, 10, 12)}, [4]))
    assert "foveated" not in td


@pytest.mark.parametrize("rl_gradient", [True, False])
def test_rl_gradient_switch(rl_gradient):
    """What reads the module's outputs trains the gaze only if wanted, and the features in either case."""
    module = GazeModule(FovealGaze(8, (10, 12)), rl_gradient=rl_gradient)
    features = torch.rand(4, 8, 10, 12, requires_grad=True)
    module(TensorDict({"features": features}, [4]))["foveated"].square().sum().backward()
    assert features.grad.abs().sum() > 0
    assert any(parameter.grad is not None for parameter in module.parameters()) == rl_gradient


def test_coarse_map_warns():
    with pytest.warns(UserWarning, match="7x7 cells"):
        FovealGaze(8, (7, 7))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FovealGaze(8, (8, 8))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_foveae": 0}, r"gaze\.num_foveae must be positive, got 0"),
        ({"min_sigma": -1.0}, r"gaze\.min_sigma must be positive"),
        ({"head": "mpl"}, r"gaze\.head must be 'moments', 'mlp' or a module, got 'mpl'"),
        ({"normalize": "max"}, r"gaze\.normalize"),
        ({"periphery": 1.0}, r"gaze\.periphery"),
        ({"periphery": 0.1, "normalize": "sum"}, r"gaze\.periphery"),
        ({"head": "mlp", "min_sigma": 3.0}, "max_sigma must exceed"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        FovealGaze(8, (10, 12), **options)


@pytest.mark.parametrize("gaze_class", [FovealGaze, NoGaze])
@pytest.mark.parametrize(("channels", "map_size"), [(0, (10, 12)), (8, (0, 12))])
def test_bad_sizes(gaze_class, channels, map_size):
    with pytest.raises(ValueError, match=f"in_channels={channels}"):
        gaze_class(channels, map_size)
