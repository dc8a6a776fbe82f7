"""What every contrastive loss keeps: what learns, which rows count, the LossModule contract; and the base's options."""

import copy
import importlib.util
import pickle

import pytest
import torch
from tensordict import TensorDict
from torch.nn import functional as F

from gaze_torchrl.modules import FovealGaze, GazeModule, MomentsHead, NoGaze
from gaze_torchrl.objectives import (
    InfoNCEContrastiveLoss,
    MetricLearningContrastiveLoss,
    SoftMarginContrastiveLoss,
    TripletContrastiveLoss,
)
from tests.objectives.support import MEMBERS, batch, encoder_module, gaze_module, reached

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("pytorch_metric_learning") is None, reason="needs pytorch-metric-learning"
)
COMPILED = [TripletContrastiveLoss, SoftMarginContrastiveLoss, InfoNCEContrastiveLoss]
FAMILY = [*COMPILED, pytest.param(MetricLearningContrastiveLoss, marks=needs_library)]
every_loss = pytest.mark.parametrize("loss_class", FAMILY)


def brute_force(module, td, margin):
    """The triplet loss by its definition, triplet by triplet."""
    valid = td["triplets", "valid"]
    rows = [i for i in range(len(td)) if valid[i]]
    center = sum(td["triplets", name, "features"][i] for name in MEMBERS for i in rows) / (3 * len(rows))

    def embed(features):
        attention = module.gaze(features)[0]
        return ((features - center) * attention).sum((-2, -1))

    losses = []
    for i in rows:
        a, p, n = (embed(td["triplets", name, "features"][i]) for name in MEMBERS)
        losses.append(F.relu(F.cosine_similarity(a, n, 0) - F.cosine_similarity(a, p, 0) + margin))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("valid", [None, [True, False, True, True, False, False]])
def test_the_triplet_loss_equals_brute_force(valid):
    module, td = gaze_module(), batch(valid=valid)
    loss = TripletContrastiveLoss(module, margin=0.4, coeff=0.5)
    torch.testing.assert_close(loss(td)["loss_contrast"], 0.5 * brute_force(module, td, 0.4))


@every_loss
@pytest.mark.parametrize(
    ("target", "expected"), [("gaze", [True, False]), ("encoder", [False, True]), ("both", [True, True])]
)
def test_the_gradient_reaches_the_target_and_nothing_else(loss_class, target, expected):
    gaze, encoder, td = gaze_module(film=True), encoder_module(), batch()
    for name in MEMBERS:
        td["triplets", name, "features"].requires_grad_()
    loss = loss_class(gaze, encoder, target=target)
    value = loss(td)["loss_contrast"]
    assert reached(value, [gaze, encoder]) == expected
    value.backward()
    assert all(td["triplets", name, "features"].grad is None for name in MEMBERS)
    own = {id(p) for module, on in ((gaze, True), (encoder, target != "gaze")) if on for p in module.parameters()}
    assert {id(p) for p in loss.parameters()} == own


@every_loss
@pytest.mark.parametrize(
    ("key", "message"),
    [("valid", r"of the triplets' batch size, got \[6, 1\] beside"), ("label", r"labels \[\*, 1\]")],
)
def test_a_dimension_too_many_is_refused(loss_class, key, message):
    """Values of TorchRL are [B, 1]; a label of that shape would multiply losses of pairs."""
    td = batch()
    for name in ["valid"] if key == "valid" else [(member, "label") for member in MEMBERS]:
        td["triplets"].set(name, td["triplets"].get(name).unsqueeze(-1))
    with pytest.raises(ValueError, match=message):
        loss_class(gaze_module())(td)


@pytest.mark.parametrize("missing", ["triplets", ("triplets", "negative", "features")])
def test_triplets_that_are_missing_are_named(missing):
    with pytest.raises(KeyError, match=r"reads \('triplets', .*append TripletReplay"):
        TripletContrastiveLoss(gaze_module())(batch().exclude(missing))


def test_nothing_is_right_about_a_collapsed_embedding():
    """Where positives and negatives are equally close, accuracy must not look perfect."""
    td = batch()
    for name in MEMBERS:
        td["triplets", name, "features"] = torch.ones_like(td["triplets", name, "features"])
    assert TripletContrastiveLoss(gaze_module())(td)["triplet_accuracy"] == 0


@every_loss
def test_rows_that_are_not_valid_do_not_count(loss_class):
    module, td = gaze_module(film=True), batch(valid=[True, True, True, False, False, False])
    loss = loss_class(module)
    before = loss(td)
    first = loss(td[:3])
    for name in MEMBERS:
        for entry in ("features", "proprio", "label"):
            td["triplets", name, entry][3:] = torch.tensor([torch.nan, torch.inf, 1e30]).view(
                -1, *[1] * (td["triplets", name, entry].ndim - 1)
            )
    after = loss(td)
    after["loss_contrast"].backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())
    for key in ("loss_contrast", "triplet_accuracy"):
        torch.testing.assert_close(after[key], before[key])
        torch.testing.assert_close(after[key], first[key])
    assert after["triplet_valid"] == 0.5


@every_loss
@pytest.mark.parametrize("target", ["gaze", "encoder", "both"])
def test_no_valid_triplet_gives_a_connected_zero_and_the_same_keys(loss_class, target):
    loss = loss_class(gaze_module(), encoder_module(), target=target)
    none, some = loss(batch(valid=[False] * 6)), loss(batch())
    assert set(none.keys()) == set(some.keys()) == set(loss.out_keys)
    assert none["loss_contrast"] == 0
    assert none["loss_contrast"].requires_grad
    gradients = torch.autograd.grad(none["loss_contrast"], list(loss.parameters()), materialize_grads=True)
    assert all((gradient == 0).all() for gradient in gradients)


@every_loss
def test_zero_features_give_finite_gradients(loss_class):
    module, td = gaze_module(), batch()
    for name in MEMBERS:
        td["triplets", name, "features"].zero_()
    loss_class(module)(td)["loss_contrast"].backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@every_loss
def test_only_the_first_rows_are_read(loss_class):
    module, td = gaze_module(), batch()
    first = loss_class(module, num_triplets=2)(td)["loss_contrast"]
    torch.testing.assert_close(first, loss_class(module)(td[:2])["loss_contrast"])


@every_loss
def test_nested_keys(loss_class):
    module, td = gaze_module(), batch()
    loss = loss_class(module)
    expected = loss(td)["loss_contrast"]
    loss.set_keys(label=("mined", "return"), **{name: ("replay", "mined", name) for name in (*MEMBERS, "valid")})
    assert ("replay", "mined", "anchor", "mined", "return") in loss.in_keys
    renamed = TensorDict({"replay": {"mined": td["triplets"]}}, [6])
    for name in MEMBERS:
        renamed.rename_key_(("replay", "mined", name, "label"), ("replay", "mined", name, "mined", "return"))
    torch.testing.assert_close(loss(renamed)["loss_contrast"], expected)
    with pytest.raises(ValueError, match="not an accepted tensordict key"):
        loss.set_keys(anchors="x")


@every_loss
def test_dispatch_equals_tensordict(loss_class):
    loss, td = loss_class(gaze_module(film=True)), batch()
    names = {"_".join(key): td[key] for key in loss.in_keys}
    assert len(names) == 10
    for value, key in zip(loss(**names), loss.out_keys, strict=True):
        torch.testing.assert_close(value, loss(td)[key])


@every_loss
def test_any_leading_dims(loss_class):
    loss, td = loss_class(gaze_module(), num_triplets=5), batch()
    torch.testing.assert_close(loss(td.reshape(2, 3))["loss_contrast"], loss(td)["loss_contrast"])


@every_loss
def test_reduction(loss_class):
    module, td = gaze_module(), batch(valid=[True, True, True, False, False, False])
    mean, total, rows = (
        loss_class(module, reduction=reduction)(td)["loss_contrast"] for reduction in ("mean", "sum", "none")
    )
    assert rows.shape == (6,)
    assert (rows[3:] == 0).all()
    torch.testing.assert_close(total, rows.sum())
    torch.testing.assert_close(mean, rows.sum() / 3)


@every_loss
def test_the_coefficient_can_be_scheduled(loss_class):
    loss, td = loss_class(gaze_module(), coeff=0.1), batch()
    before = loss(td)["loss_contrast"]
    loss.coeff = 0.05
    torch.testing.assert_close(loss(td)["loss_contrast"], before / 2)
    assert loss.state_dict()["coeff"] == pytest.approx(0.05)


@every_loss
@pytest.mark.parametrize("target", ["gaze", "both"])
def test_state_dict_copies_and_dtype(loss_class, target):
    td = batch()
    loss, other = (
        loss_class(gaze_module(), encoder_module(), target=target, embedding="projected", projection=5)
        for _ in range(2)
    )
    assert not torch.equal(other(td)["loss_contrast"], loss(td)["loss_contrast"])
    other.load_state_dict(loss.state_dict())
    for same in (other, copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        torch.testing.assert_close(same(td)["loss_contrast"], loss(td)["loss_contrast"])
    assert copy.deepcopy(loss).to(torch.float64)(td)["loss_contrast"].dtype == torch.float64


@pytest.mark.parametrize(
    ("loss_class", "options"),
    [
        (TripletContrastiveLoss, {}),
        (InfoNCEContrastiveLoss, {"target": "both", "attention": "anchor", "embedding": "projected"}),
        (TripletContrastiveLoss, {"embedding": "glimpse", "proprio_dim": 3}),
    ],
)
def test_compiled_equals_eager(loss_class, options):
    loss, td = loss_class(gaze_module(film=True), encoder_module(), **options), batch()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(td)["loss_contrast"], loss(td)["loss_contrast"])


@every_loss
@pytest.mark.parametrize("target", ["gaze", "both"])
def test_autocast_is_close_and_finite(loss_class, target):
    loss, td = loss_class(gaze_module(), encoder_module(), target=target), batch()
    expected = loss(td)["loss_contrast"]
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(td)["loss_contrast"]
    torch.testing.assert_close(value, expected, rtol=0.1, atol=0.02)  # which compares the dtypes, too
    value.backward()
    assert all(parameter.grad.isfinite().all() for parameter in loss.parameters())


@every_loss
def test_half_precision_members(loss_class):
    loss, td = loss_class(gaze_module(film=True)), batch()
    half = td.clone()
    for name in MEMBERS:
        for entry in ("features", "proprio"):
            half["triplets", name, entry] = td["triplets", name, entry].half()
    found = loss(half)["loss_contrast"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(td)["loss_contrast"], rtol=0.02, atol=1e-3)


def test_what_members_must_hold():
    encoder = encoder_module()
    cases = {
        (False, "gaze"): ["features"],
        (True, "gaze"): ["features", "proprio"],
        (False, "encoder"): ["pixels"],
        (True, "both"): ["pixels", "proprio"],
    }
    for (film, target), expected in cases.items():
        loss = TripletContrastiveLoss(gaze_module(film), encoder, target=target)
        assert loss.member_keys == expected
        assert loss.in_keys[: len(expected)] == [("triplets", "anchor", key) for key in expected]
        td = batch()
        for name in MEMBERS:
            td["triplets", name] = td["triplets", name].select(*expected, "label")
        assert loss(td)["loss_contrast"] > 0


def test_encoded_pixels_are_the_features():
    gaze, encoder, td = gaze_module(), encoder_module(), batch()
    expected = TripletContrastiveLoss(gaze, encoder, target="both")(td)["loss_contrast"]
    for name in MEMBERS:
        td["triplets", name] = encoder(td["triplets", name])
    torch.testing.assert_close(TripletContrastiveLoss(gaze)(td)["loss_contrast"], expected)


def test_the_anchors_gaze_on_all_three():
    module, td = gaze_module(num_foveae=2), batch()
    own, anchor = (TripletContrastiveLoss(module, attention=attention, center=False) for attention in ("own", "anchor"))
    assert not torch.equal(own(td)["loss_contrast"], anchor(td)["loss_contrast"])
    features = torch.stack([td["triplets", name, "features"] for name in MEMBERS])
    expected = (features * module.gaze(features[0])[0][:, None]).sum((-2, -1))
    torch.testing.assert_close(anchor.embed({"features": features}, td["triplets", "valid"]), expected)


def test_equal_gazes_make_own_and_anchor_equal():
    module, td = gaze_module(), batch()
    for name in MEMBERS:  # a gaze is blind to a channel without weight, and there alone the members differ
        td["triplets", name, "features"][:, 1:] = td["triplets", "anchor", "features"][:, 1:]
    with torch.no_grad():
        next(parameter for parameter in module.parameters() if parameter.ndim == 4)[:, 0] = 0
    own, anchor = (TripletContrastiveLoss(module, attention=attention)(td) for attention in ("own", "anchor"))
    assert own["loss_contrast"] > 0
    torch.testing.assert_close(own["loss_contrast"], anchor["loss_contrast"])


def test_only_the_gaze_can_lower_it_and_it_does():
    """Outcome shows at one place, noise everywhere else: training finds the place."""
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(0)
    features = {name: torch.rand(64, 4, 8, 8, generator=generator) for name in MEMBERS}
    sign = (torch.arange(64) % 2 * 2 - 1).float()
    for name, side in (("anchor", sign), ("positive", sign), ("negative", -sign)):
        features[name][:, 3, 5, 2] = 3.0  # what to look for
        features[name][:, 0, 5, 2] = 3.0 * side  # what tells the outcome, there alone
    members = {name: {"features": features[name], "label": torch.zeros(64)} for name in MEMBERS}
    td = TensorDict({"triplets": {**members, "valid": torch.ones(64, dtype=torch.bool)}}, [64])
    module = GazeModule(FovealGaze(4, (8, 8), head=MomentsHead(4, min_sigma=0.2)))
    loss = TripletContrastiveLoss(module, coeff=1.0, margin=1.0)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    target = torch.tensor([2 * 2 + 1, 2 * 5 + 1]) / 8 - 1

    def distance():
        return (module.gaze(features["anchor"])[1][:, 0] - target).norm(dim=-1).mean().item()

    before = distance()
    for _ in range(200):
        optimizer.zero_grad()
        terms = loss(td)
        terms["loss_contrast"].backward()
        optimizer.step()
    assert distance() < 0.15 < 0.5 < before + 0.1
    assert terms["triplet_accuracy"] > 0.95


@pytest.mark.parametrize("target", ["gaze", "encoder", "both"])
def test_gradient_equals_finite_differences(target):
    gaze, encoder = gaze_module().double(), encoder_module().double()
    loss, td = TripletContrastiveLoss(gaze, encoder, target=target, margin=2.0), batch(dtype=torch.float64)
    learner = gaze if target == "gaze" else encoder
    parameter = next(parameter for parameter in learner.parameters() if parameter.ndim > 1)
    direction = torch.randn_like(parameter)
    (gradient,) = torch.autograd.grad(loss(td)["loss_contrast"], parameter)
    if target == "encoder":  # the gaze is constant, though the encoder moves it: hold it where it is
        attention = gaze.look(torch.stack([encoder(td["triplets", name])["features"] for name in MEMBERS]))[0].detach()
        loss.gaze_network.look = lambda features: (attention,)
    with torch.no_grad():
        parameter.add_(1e-7 * direction)
        above = loss(td)["loss_contrast"]
        parameter.sub_(2e-7 * direction)
        below = loss(td)["loss_contrast"]
    torch.testing.assert_close((gradient * direction).sum(), (above - below) / 2e-7, rtol=1e-5, atol=1e-8)


def test_learns_even_where_the_rl_gradient_may_not_reach_the_gaze():
    module = GazeModule(FovealGaze(4, (8, 8)), rl_gradient=False, foveated=None)
    TripletContrastiveLoss(module)(batch())["loss_contrast"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters() if parameter.ndim > 1)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"coeff": -1.0}, r"contrast\.coeff must not be negative, got -1"),
        ({"num_triplets": 0}, r"contrast\.num_triplets must be positive, got 0"),
        ({"projection": 0}, r"contrast\.projection must be positive, got 0"),
        ({"reduction": "avg"}, r"contrast\.reduction must be one of \('mean', 'sum', 'none'\), got 'avg'"),
        ({"embedding": "max"}, r"contrast\.embedding must be one of .*'flat'.*, got 'max'"),
        ({"attention": "negative"}, r"contrast\.attention must be one of .*'anchor'\), got 'negative'"),
        ({"target": "policy"}, r"contrast\.target must be one of .*'both'\), got 'policy'"),
        ({"target": "both"}, r"contrast\.target=both .* pass encoder_network"),
        ({"embedding": "projected"}, r"contrast\.embedding=projected needs the encoder"),
        ({"embedding": "glimpse"}, r"contrast\.embedding=glimpse needs the encoder"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        TripletContrastiveLoss(gaze_module(), **options)


def test_a_target_that_cannot_learn_is_refused():
    plain, frozen = GazeModule(NoGaze(4, (8, 8))), encoder_module().requires_grad_(False)
    for gaze, encoder, target in ((plain, None, "gaze"), (gaze_module(), frozen, "encoder"), (plain, frozen, "both")):
        with pytest.raises(ValueError, match=rf"contrast\.target={target} has nothing to train"):
            TripletContrastiveLoss(gaze, encoder, target=target)
    TripletContrastiveLoss(gaze_module(), frozen, target="both")(batch())["loss_contrast"].backward()
