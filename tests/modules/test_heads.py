"""The contract of the gaze's heads, held by every registered one, and what each starts with."""

import copy
import math
import pickle

import pytest
import torch

from gaze_torchrl import registry
from gaze_torchrl.modules import FovealGaze, MLPHead, MomentsHead, TransformerHead

FACTS = {"in_channels": 8, "map_size": (10, 12), "num_foveae": 3}


def registered(entry):
    facts = {name: value for name, value in FACTS.items() if name in entry.parameters}
    return lambda: entry.target(**facts, **entry.options)


HEADS = {entry.name: registered(entry) for entry in registry.entries("gaze/head")}
EVERY_HEAD = pytest.mark.parametrize("make", HEADS.values(), ids=HEADS.keys())


def test_every_name_is_held_to_the_contract():
    assert {"moments", "mlp", "transformer"} <= set(HEADS)


@EVERY_HEAD
@pytest.mark.parametrize("batch", [1, 5, 0])
def test_shapes(make, batch):
    head = make()
    mean, covariance = head(torch.rand(batch, 8, 10, 12))
    assert mean.shape == (batch, 3, 2)
    assert covariance.shape == (batch, 3, 2, 2)
    assert head.num_foveae == 3


@EVERY_HEAD
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of attention under vmap
def test_images_do_not_mix(make):
    head, features = make(), torch.rand(4, 2, 8, 10, 12)
    mapped = torch.func.vmap(head)(features)
    for rows, flat, one in zip(mapped, head(features.flatten(0, 1)), head(features[2, 1:]), strict=True):
        torch.testing.assert_close(rows.flatten(0, 1), flat)
        torch.testing.assert_close(rows[2, 1:], one)


@EVERY_HEAD
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3])
def test_gaussians_are_proper_for_any_features(make, scale):
    mean, covariance = make()(scale * torch.randn(20, 8, 10, 12))
    assert (mean.abs() <= 1).all()
    assert (torch.linalg.eigvalsh(covariance) > 0).all()


@EVERY_HEAD
def test_gradcheck(make):
    features = torch.rand(2, 8, 10, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(make().double(), (features,), fast_mode=True)


@EVERY_HEAD
def test_every_parameter_learns(make):
    head = make().double()
    outputs = head(torch.rand(16, 8, 10, 12, dtype=torch.float64))
    sum((output * torch.rand_like(output)).sum() for output in outputs).backward()
    idle = {name for name, parameter in head.named_parameters() if parameter.grad.abs().max() < 1e-12}
    assert idle <= {"saliency.2.bias"}  # a softmax does not see it


@EVERY_HEAD
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_compiled_equals_eager(make, mode):
    head, features = getattr(make(), mode)(), torch.rand(3, 8, 10, 12)
    torch._dynamo.reset()
    with torch.set_grad_enabled(mode == "train"):
        compiled = torch.compile(head, fullgraph=True, backend="aot_eager")(features)
        for found, expected in zip(compiled, head(features), strict=True):
            torch.testing.assert_close(found, expected)


@EVERY_HEAD
def test_bf16_autocast_keeps_places_fine(make):
    """Moments are taken in float32: in half precision a mean would have steps of a whole cell."""
    with torch.autocast("cpu", torch.bfloat16):
        mean, covariance = make()(torch.rand(3, 8, 10, 12))
    assert mean.isfinite().all()
    assert covariance.isfinite().all()


@EVERY_HEAD
def test_copies_and_pickles(make):
    head, fresh, features = make(), make(), torch.rand(3, 8, 10, 12)
    fresh.load_state_dict(head.state_dict())
    for other in (copy.deepcopy(head), pickle.loads(pickle.dumps(head)), fresh):
        for a, b in zip(head(features), other(features), strict=True):
            assert torch.equal(a, b)


def test_moments_head_looks_at_what_is_salient():
    """With a saliency that reads one channel, the gaze goes where that channel is active."""
    gaze = FovealGaze(1, (9, 9), head=MomentsHead(1, min_sigma=0.1))
    first, _, last = gaze.head.saliency
    with torch.no_grad():
        first.weight.fill_(1.0), first.bias.zero_(), last.weight.fill_(10.0), last.bias.zero_()
    features = torch.zeros(1, 9, 9)
    features[0, 2, 7] = 1.0
    attention, mean, covariance, _ = gaze(features)
    torch.testing.assert_close(mean[0], torch.tensor([2 * 7 + 1, 2 * 2 + 1]) / 9 - 1, atol=1e-4, rtol=0)
    assert attention.argmax() == 2 * 9 + 7
    torch.testing.assert_close(covariance[0], 0.1**2 * torch.eye(2), atol=1e-3, rtol=0)


@pytest.mark.parametrize("min_sigma", [1e-4, 1e-2])
@pytest.mark.parametrize("flip", [False, True])
def test_a_narrow_fovea_on_a_diagonal_saliency(min_sigma, flip):
    """The thinnest of ellipses: in float32 what is left of its variance across is all rounding."""
    gaze = FovealGaze(1, (16, 16), head=MomentsHead(1, min_sigma=min_sigma))
    features = torch.eye(16).flip(-1) if flip else torch.eye(16)
    features = features.unsqueeze(0).requires_grad_()
    first, _, last = gaze.head.saliency
    with torch.no_grad():
        first.weight.fill_(1.0), first.bias.zero_(), last.weight.fill_(1.0), last.bias.zero_()
    attention = gaze(features)[0]
    (gradient,) = torch.autograd.grad(attention.sum(), features)
    assert gradient.isfinite().all()
    torch.testing.assert_close(attention.double(), gaze.double()(features.double())[0], atol=1e-3, rtol=0)


def test_mlp_head_starts_wide_and_near_the_middle():
    mean, covariance = MLPHead(8, (10, 12))(torch.rand(64, 8, 10, 12))
    assert mean.norm(dim=-1).mean() < 0.1
    assert (covariance.diagonal(dim1=-2, dim2=-1).sqrt() > 0.8).all()


def test_transformer_head_starts_with_a_gaze_that_follows_the_image():
    mean, _ = TransformerHead(8, (10, 12), num_foveae=4)(torch.rand(64, 8, 10, 12))
    assert (mean.std(0) > 0.05).all()


def test_transformer_queries_read_the_whole_image():
    """What stands in one corner changes how two other cells compare, which no 1x1 saliency could do."""
    head, features = TransformerHead(8, (10, 12)), torch.rand(1, 8, 10, 12)
    changed = features.clone()
    changed[..., 0, 0] += 10.0
    head.queries.data *= 0.1  # what is read then counts more than what a query was
    logits = []

    def keep(_, inputs, output):
        logits.append(output)

    head.last_norm.register_forward_hook(keep)
    head(features), head(changed)
    cells = head.norm(head.project(features.flatten(-2).mT) + head.place)
    before, after = (queries @ (cells[:, 5] - cells[:, 6]).mT for queries in logits)
    assert (before - after).abs().min() > 1e-3


def test_transformer_cells_have_a_place():
    """The same content everywhere, and yet not the same everywhere: the encoding tells the cells apart."""
    head = TransformerHead(8, (10, 12), sharpness=100.0)
    assert head(torch.ones(1, 8, 10, 12))[0].abs().max() > 0.01


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: MomentsHead(8, min_sigma=-1.0), r"gaze\.head\.min_sigma must be positive, got -1"),
        (lambda: MomentsHead(8, min_sigma=math.nan), r"gaze\.head\.min_sigma must be positive, got nan"),
        (lambda: MLPHead(8, (10, 12), max_sigma=math.nan), r"gaze\.head\.max_sigma must exceed .* got nan"),
        (lambda: MomentsHead(8, num_foveae=0), r"gaze\.num_foveae must be positive, got 0"),
        (lambda: MLPHead(8, (10, 12), min_sigma=3.0), r"gaze\.head\.max_sigma must exceed min_sigma = 3\.0, got 2\.0"),
        (lambda: TransformerHead(8, (10, 12), width=30, num_heads=4), r"gaze\.head\.width must be a multiple of num_"),
        (lambda: TransformerHead(8, (10, 12), num_layers=0), r"gaze\.head\.num_layers must be positive, got 0"),
    ],
)
def test_bad_options(make, match):
    with pytest.raises(ValueError, match=match):
        make()
