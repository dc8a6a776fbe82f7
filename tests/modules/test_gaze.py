"""The gaze contract, held by every registered gaze, and the special cases that must equal known results."""

import copy
import math
import pickle
import warnings

import pytest
import torch
from torch.distributions import MultivariateNormal

from gaze_torchrl import registry
from gaze_torchrl.functional import cell_centers, gaussian_map
from gaze_torchrl.modules import (
    AttentionPoolGaze,
    FixedCenterGaze,
    FovealGaze,
    MaskGaze,
    MLPHead,
    MomentsHead,
    NoGaze,
    PatchGaze,
    SpatialSoftmaxGaze,
    TransformerHead,
)

FACTS = {"in_channels": 8, "map_size": (10, 12)}


def registered(entry):
    facts = {name: value for name, value in FACTS.items() if name in entry.parameters}
    return lambda: entry.target(**facts, **entry.options)


GAZES = {entry.name: registered(entry) for entry in registry.entries("gaze")} | {
    "mlp": lambda: FovealGaze(8, (10, 12), head=MLPHead(8, (10, 12))),
    "mlp-3": lambda: FovealGaze(8, (10, 12), head=MLPHead(8, (10, 12), num_foveae=3), num_foveae=3),
    "transformer-3": lambda: FovealGaze(8, (10, 12), head=TransformerHead(8, (10, 12), num_foveae=3), num_foveae=3),
    "sum": lambda: FovealGaze(8, (10, 12), num_foveae=2, normalize="sum"),
    "periphery": lambda: FovealGaze(8, (10, 12), periphery=0.25),
    "patch-sigmoid": lambda: PatchGaze(8, activation="sigmoid"),
}
EVERY_GAZE = pytest.mark.parametrize("make", GAZES.values(), ids=GAZES.keys())
LOCATED = pytest.mark.parametrize("make", [make for make in GAZES.values() if "mean" in make().out_names])
FIXED = ("none", "global_pool", "fixed_center")
LEARNING = pytest.mark.parametrize("make", [GAZES[name] for name in GAZES if name not in FIXED])


def test_every_name_is_held_to_the_contract():
    assert {"foveal", "multi_foveal", "patch", "mask", "attention_pool", "global_pool", "spatial_softmax"} < set(GAZES)
    assert set(FIXED) < set(GAZES)


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
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of attention under vmap
def test_leading_dims_do_not_mix(make):
    gaze, features = make(), torch.rand(2, 3, 8, 10, 12)
    whole, mapped = gaze(features), torch.func.vmap(torch.func.vmap(gaze))(features)
    for everything, rows, one in zip(whole, mapped, gaze(features[1, 2]), strict=True):
        torch.testing.assert_close(rows, everything)
        torch.testing.assert_close(everything[1, 2], one)


@EVERY_GAZE
def test_map_lies_in_unit_interval(make):
    for scale in (0.0, 1.0, 100.0):
        attention = make()(scale * torch.rand(5, 8, 10, 12))[0]
        assert ((attention >= 0) & (attention <= 1)).all()


@LOCATED
def test_covariance_is_positive_definite_mean_inside_and_foveae_peak(make):
    _, mean, covariance, foveae = make()(50 * torch.randn(20, 8, 10, 12))
    assert (torch.linalg.eigvalsh(covariance) > 0).all()
    assert (mean.abs() <= 1).all()
    assert ((foveae >= 0) & (foveae <= 1)).all()
    assert (foveae.amax((-2, -1)) > 0.5).all()


@EVERY_GAZE
def test_gradcheck(make):
    gaze = make().double()
    features = torch.rand(2, 8, 10, 12, dtype=torch.float64, requires_grad=True)
    if isinstance(gaze, AttentionPoolGaze):
        torch.nn.init.normal_(gaze.query)
    if isinstance(gaze, NoGaze | FixedCenterGaze):
        assert not any(output.requires_grad for output in gaze(features))
    else:
        assert torch.autograd.gradcheck(gaze, (features,), fast_mode=True)


@LEARNING
def test_every_parameter_learns(make):
    gaze = make().double()
    weights = torch.rand(10, 12, dtype=torch.float64)
    (gaze(torch.rand(16, 8, 10, 12, dtype=torch.float64))[0] * weights).sum().backward()
    idle = {name for name, parameter in gaze.named_parameters() if parameter.grad.abs().max() < 1e-12}
    assert idle <= {"head.saliency.2.bias"}  # a softmax does not see it


@pytest.mark.parametrize("name", FIXED)
def test_fixed_gazes_have_nothing_to_learn(name):
    assert not list(GAZES[name]().parameters())


@pytest.mark.parametrize("name", sorted(set(GAZES) - {"none", "foveal", "mlp", "mlp-3", "transformer-3"}))
def test_compiled_equals_eager(name):
    """Compiling takes a second: one name of each class, and heads have this test of their own."""
    gaze, features = GAZES[name](), torch.rand(3, 8, 10, 12)
    torch._dynamo.reset()
    for compiled, eager in zip(
        torch.compile(gaze, fullgraph=True, backend="aot_eager")(features), gaze(features), strict=True
    ):
        torch.testing.assert_close(compiled, eager)


@EVERY_GAZE
def test_acting_equals_training(make):
    """Without gradients torch has faster kernels for transformers: the same up to rounding."""
    gaze, features = make(), torch.rand(3, 8, 10, 12)
    expected = gaze(features)
    with torch.no_grad():
        for found, output in zip(gaze.eval()(features), expected, strict=True):
            torch.testing.assert_close(found, output)


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


def test_one_fovea_is_the_normal_density_up_to_its_peak():
    gaze = FovealGaze(8, (10, 12)).double()
    attention, mean, covariance, _ = gaze(torch.rand(8, 10, 12, dtype=torch.float64))
    normal = MultivariateNormal(mean[0], covariance[0])
    expected = (normal.log_prob(cell_centers(10, 12, dtype=torch.float64)) - normal.log_prob(mean[0])).exp()
    torch.testing.assert_close(attention.flatten(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("gaze_class", [FovealGaze, SpatialSoftmaxGaze])
def test_map_is_the_soft_union_of_the_foveae(gaze_class):
    attention, _, _, foveae = gaze_class(8, (10, 12), num_foveae=3)(torch.rand(4, 8, 10, 12))
    torch.testing.assert_close(attention, 1 - (1 - foveae).prod(1))
    assert (attention + 1e-6 >= foveae.amax(1)).all()


def test_foveae_peak_at_their_mean_which_is_seldom_the_centre_of_a_cell():
    _, mean, covariance, foveae = FovealGaze(8, (10, 12))(torch.rand(4, 8, 10, 12))
    largest = foveae.amax((-2, -1))
    assert (largest < 1).all()
    distance = (cell_centers(10, 12) - mean).norm(dim=-1).amin(-1, keepdim=True)
    assert (largest >= (-0.5 * distance**2 / torch.linalg.eigvalsh(covariance)[..., 0]).exp()).all()
    foveae = SpatialSoftmaxGaze(8, (10, 12))(torch.rand(4, 8, 10, 12))[3]
    assert (foveae.amax((-2, -1)) == 1).all()


@pytest.mark.parametrize("faint", [AttentionPoolGaze(8), FovealGaze(8, (10, 12), normalize="sum")])
def test_a_map_that_sums_to_one_is_faint(faint):
    """As many times fainter than one with a peak as there are cells, about."""
    features = torch.rand(4, 8, 10, 12)
    ratio = FovealGaze(8, (10, 12))(features)[0].mean() / faint(features)[0].mean()
    assert 60 < ratio <= 121


def test_sum_normalisation_and_periphery():
    features = torch.rand(4, 8, 10, 12)
    torch.testing.assert_close(GAZES["sum"]()(features)[0].sum((-2, -1)), torch.ones(4))
    plain, floored = FovealGaze(8, (10, 12)), FovealGaze(8, (10, 12), periphery=0.25)
    floored.load_state_dict(plain.state_dict())
    torch.testing.assert_close(floored(features)[0], 0.25 + 0.75 * plain(features)[0])


def test_without_a_head_it_is_a_moments_head():
    torch.manual_seed(3)
    plain = FovealGaze(8, (10, 12), num_foveae=2)
    torch.manual_seed(3)
    given = FovealGaze(8, (10, 12), num_foveae=2, head=MomentsHead(8, num_foveae=2))
    features = torch.rand(4, 8, 10, 12)
    for a, b in zip(plain(features), given(features), strict=True):
        assert torch.equal(a, b)


def test_patch_softmax_is_the_softmax_up_to_its_peak():
    gaze, features = PatchGaze(8).double(), torch.rand(4, 8, 10, 12, dtype=torch.float64)
    softmax = gaze.logits(features)[:, 0].flatten(1).softmax(1).unflatten(1, (10, 12))
    torch.testing.assert_close(gaze(features)[0], softmax / softmax.amax((1, 2), keepdim=True))


@pytest.mark.parametrize(("make", "reach"), [(lambda: PatchGaze(8, activation="sigmoid"), 0), (lambda: MaskGaze(8), 3)])
def test_how_far_a_cell_sees(make, reach):
    """A patch's weight comes from its own features, a mask's from its surroundings."""
    gaze, features = make(), torch.rand(1, 8, 11, 13)
    changed = features.clone()
    changed[..., 5, 6] += 10.0
    moved = (gaze(features)[0] - gaze(changed)[0]).abs()[0] > 1e-7
    rows, columns = moved.nonzero().T
    distance = torch.maximum((rows - 5).abs(), (columns - 6).abs())
    assert distance.max() == reach


def test_mask_starts_nearly_open():
    attention = MaskGaze(8, start=0.9)(torch.rand(5, 8, 10, 12))[0]
    assert attention.mean().item() == pytest.approx(0.9, abs=0.05)


def test_attention_pool_is_scaled_dot_product_attention():
    gaze, features = AttentionPoolGaze(8), torch.rand(4, 8, 10, 12)
    torch.testing.assert_close(gaze(features)[0], torch.full((4, 10, 12), 1 / 120))
    torch.nn.init.normal_(gaze.query)
    cells = features.flatten(2).mT
    expected = torch.nn.functional.scaled_dot_product_attention(gaze.query.expand(4, 1, 8), cells, cells)[:, 0]
    torch.testing.assert_close(torch.einsum("nhw,nchw->nc", gaze(features)[0], features), expected)


def test_spatial_softmax_points_at_the_one_cell_that_fires():
    gaze = SpatialSoftmaxGaze(1, (9, 9), num_foveae=1, min_sigma=0.1)
    torch.nn.init.ones_(gaze.filters.weight)
    features = torch.zeros(1, 9, 9)
    features[0, 2, 7] = 1.0
    attention, mean, covariance, foveae = gaze(features)
    torch.testing.assert_close(mean[0], torch.tensor([2 * 7 + 1, 2 * 2 + 1]) / 9 - 1, atol=1e-4, rtol=0)
    torch.testing.assert_close(covariance[0], 0.1**2 * torch.eye(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(attention, features[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(foveae[0], attention)


def test_fixed_center_is_one_gaussian_in_the_middle():
    attention, mean, covariance, foveae = FixedCenterGaze(sigma=0.4)(torch.rand(3, 8, 10, 12))
    expected = gaussian_map(torch.zeros(2), 0.16 * torch.eye(2), 10, 12)
    torch.testing.assert_close(attention, expected.expand(3, 10, 12))
    torch.testing.assert_close(foveae, expected.expand(3, 1, 10, 12))
    assert not mean.any()
    assert covariance[0, 0, 0, 0].item() == pytest.approx(0.16)


@pytest.mark.parametrize("gaze_class", [FovealGaze, SpatialSoftmaxGaze])
def test_coarse_map_warns(gaze_class):
    with pytest.warns(UserWarning, match="7x7 cells"):
        gaze_class(8, (7, 7))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gaze_class(8, (8, 8))


@pytest.mark.parametrize(
    ("gaze_class", "options", "match"),
    [
        (FovealGaze, {"num_foveae": 0}, r"gaze\.num_foveae must be positive, got 0"),
        (FovealGaze, {"normalize": "max"}, r"gaze\.normalize"),
        (FovealGaze, {"periphery": 1.0}, r"gaze\.periphery"),
        (FovealGaze, {"periphery": 0.1, "normalize": "sum"}, r"gaze\.periphery"),
        (
            FovealGaze,
            {"num_foveae": 8, "head": MomentsHead(8)},
            r"gaze\.num_foveae is 8, but MomentsHead has num_foveae = 1",
        ),
        (FovealGaze, {"head": torch.nn.Identity()}, r"Identity has num_foveae = None: build the head with"),
        (SpatialSoftmaxGaze, {"sharpness": 0.0}, r"gaze\.sharpness must be positive"),
    ],
)
def test_bad_options(gaze_class, options, match):
    with pytest.raises(ValueError, match=match):
        gaze_class(8, (10, 12), **options)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: PatchGaze(8, activation="tanh"), r"gaze\.activation must be 'softmax' or 'sigmoid', got 'tanh'"),
        (lambda: PatchGaze(8, hidden=0), r"gaze\.hidden must be positive"),
        (lambda: MaskGaze(8, start=1.0), r"gaze\.start must lie in \(0, 1\), got 1\.0"),
        (lambda: AttentionPoolGaze(0), r"gaze\.in_channels must be positive"),
        (lambda: FixedCenterGaze(sigma=-math.inf), r"gaze\.sigma must be positive"),
    ],
)
def test_bad_options_without_a_map_size(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_a_head_by_name_is_refused():
    with pytest.raises(TypeError, match=r"gaze\.head must be a module such as MomentsHead\(in_channels\), got 'mlp'"):
        FovealGaze(8, (10, 12), head="mlp")


@pytest.mark.parametrize("gaze_class", [FovealGaze, SpatialSoftmaxGaze, NoGaze])
@pytest.mark.parametrize(("channels", "map_size", "match"), [(0, (10, 12), "in_channels"), (8, (0, 12), "map_size")])
def test_bad_sizes(gaze_class, channels, map_size, match):
    with pytest.raises(ValueError, match=match):
        gaze_class(channels, map_size)
