"""TripletContrastiveLoss: values, gradients and the LossModule contract."""

import copy

import pytest
import torch
from tensordict import TensorDict
from torch.nn import functional as F

from gaze_torchrl.modules import FovealGaze, GazeModule
from gaze_torchrl.objectives import TripletContrastiveLoss

MEMBERS = ("anchor", "positive", "negative")


def gaze_module(**options):
    return GazeModule(FovealGaze(4, (8, 8), **options))


def batch(n=6, valid=None, key="triplets", dtype=torch.float32):
    maps = {name: torch.rand(n, 4, 8, 8, dtype=dtype) for name in MEMBERS}
    valid = torch.ones(n, dtype=torch.bool) if valid is None else torch.tensor(valid)
    return TensorDict({key: {**maps, "valid": valid}}, [n])


def brute_force(module, td, margin):
    """The loss by its definition, triplet by triplet."""
    valid = td["triplets", "valid"]
    rows = [i for i in range(len(td)) if valid[i]]
    center = sum(td["triplets", name][i] for name in MEMBERS for i in rows) / (3 * len(rows))

    def embed(features):
        attention = module.gaze(features)[0]
        return ((features - center) * attention).sum((-2, -1))

    losses = []
    for i in rows:
        a, p, n = (embed(td["triplets", name][i]) for name in MEMBERS)
        losses.append(F.relu(F.cosine_similarity(a, n, 0) - F.cosine_similarity(a, p, 0) + margin))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("valid", [None, [True, False, True, True, False, False]])
def test_equals_brute_force(valid):
    module, td = gaze_module(), batch(valid=valid)
    loss = TripletContrastiveLoss(module, margin=0.4, coeff=0.5)
    torch.testing.assert_close(loss(td)["loss_gaze"], 0.5 * brute_force(module, td, 0.4))


def test_rows_that_are_not_valid_do_not_count():
    module, td = gaze_module(), batch(valid=[True, True, False, False, False, False])
    loss = TripletContrastiveLoss(module)
    before = loss(td)["loss_gaze"]
    for name in MEMBERS:
        td["triplets", name][2:] = 1e4
    torch.testing.assert_close(loss(td)["loss_gaze"], before)
    assert loss(td)["triplet_valid"] == pytest.approx(1 / 3)


def test_max_triplets_reads_the_first_rows():
    module, td = gaze_module(), batch()
    first = TripletContrastiveLoss(module, max_triplets=2)(td)["loss_gaze"]
    torch.testing.assert_close(first, TripletContrastiveLoss(module)(td[:2])["loss_gaze"])


def test_no_valid_triplet_gives_a_connected_zero_and_the_same_keys():
    module = gaze_module()
    loss = TripletContrastiveLoss(module)
    none, some = loss(batch(valid=[False] * 6)), loss(batch())
    assert set(none.keys()) == set(some.keys()) == set(loss.out_keys)
    assert none["loss_gaze"] == 0
    assert none["loss_gaze"].requires_grad
    gradients = torch.autograd.grad(none["loss_gaze"], list(module.parameters()))
    assert all((gradient == 0).all() for gradient in gradients)


def test_zero_features_give_finite_gradients():
    module, td = gaze_module(), batch()
    for name in MEMBERS:
        td["triplets", name].zero_()
    TripletContrastiveLoss(module)(td)["loss_gaze"].backward()
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


def test_gradient_reaches_the_gaze_and_nothing_else():
    module, td = gaze_module(), batch()
    for name in MEMBERS:
        td["triplets", name].requires_grad_()
    TripletContrastiveLoss(module)(td)["loss_gaze"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters() if parameter.ndim > 1)
    assert all(td["triplets", name].grad is None for name in MEMBERS)


def test_only_the_gaze_can_lower_it_and_it_does():
    """Outcome shows at one place, noise everywhere else: training finds the place."""
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(0)
    features = {name: torch.rand(64, 4, 8, 8, generator=generator) for name in MEMBERS}
    sign = (torch.arange(64) % 2 * 2 - 1).float()
    for name, side in (("anchor", sign), ("positive", sign), ("negative", -sign)):
        features[name][:, 3, 5, 2] = 3.0  # what to look for
        features[name][:, 0, 5, 2] = 3.0 * side  # what tells the outcome, there alone
    td = TensorDict({"triplets": {**features, "valid": torch.ones(64, dtype=torch.bool)}}, [64])
    module = gaze_module(min_sigma=0.2)
    loss = TripletContrastiveLoss(module, coeff=1.0, margin=1.0)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    target = torch.tensor([2 * 2 + 1, 2 * 5 + 1]) / 8 - 1

    def distance():
        return (module.gaze(features["anchor"])[1][:, 0] - target).norm(dim=-1).mean().item()

    before = distance()
    for _ in range(200):
        optimizer.zero_grad()
        terms = loss(td)
        terms["loss_gaze"].backward()
        optimizer.step()
    assert distance() < 0.15 < 0.5 < before + 0.1
    assert terms["triplet_accuracy"] > 0.95


def test_gradient_equals_finite_differences():
    module = gaze_module().double()
    loss, td = TripletContrastiveLoss(module, margin=2.0), batch(dtype=torch.float64)
    parameter = next(parameter for parameter in loss.parameters() if parameter.ndim > 1)
    direction = torch.randn_like(parameter)
    (gradient,) = torch.autograd.grad(loss(td)["loss_gaze"], parameter)
    with torch.no_grad():
        parameter.add_(1e-6 * direction)
        above = loss(td)["loss_gaze"]
        parameter.sub_(2e-6 * direction)
        below = loss(td)["loss_gaze"]
    torch.testing.assert_close((gradient * direction).sum(), (above - below) / 2e-6, rtol=1e-5, atol=1e-8)


def test_nested_keys():
    module, td = gaze_module(), batch()
    loss = TripletContrastiveLoss(module)
    expected = loss(td)["loss_gaze"]
    loss.set_keys(**{name: ("replay", "mined", name) for name in (*MEMBERS, "valid")})
    assert ("replay", "mined", "anchor") in loss.in_keys
    renamed = TensorDict({"replay": {"mined": td["triplets"]}}, [6])
    torch.testing.assert_close(loss(renamed)["loss_gaze"], expected)
    with pytest.raises(ValueError, match="not an accepted tensordict key"):
        loss.set_keys(anchors="x")


def test_dispatch_equals_tensordict():
    loss, td = TripletContrastiveLoss(gaze_module()), batch()
    names = {f"triplets_{name}": td["triplets", name] for name in (*MEMBERS, "valid")}
    for value, key in zip(loss(**names), loss.out_keys, strict=True):
        torch.testing.assert_close(value, loss(td)[key])


def test_reduction():
    module, td = gaze_module(), batch(valid=[True, True, True, False, False, False])
    mean, total, rows = (
        TripletContrastiveLoss(module, reduction=reduction)(td)["loss_gaze"] for reduction in ("mean", "sum", "none")
    )
    assert rows.shape == (6,)
    assert (rows[3:] == 0).all()
    torch.testing.assert_close(total, rows.sum())
    torch.testing.assert_close(mean, rows.sum() / 3)


def test_learns_even_where_the_rl_gradient_may_not_reach_the_gaze():
    module = GazeModule(FovealGaze(4, (8, 8)), rl_gradient=False, foveated=None)
    TripletContrastiveLoss(module)(batch())["loss_gaze"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters() if parameter.ndim > 1)


def test_the_coefficient_can_be_scheduled():
    loss, td = TripletContrastiveLoss(gaze_module(), coeff=0.1), batch()
    before = loss(td)["loss_gaze"]
    loss.coeff = 0.05
    torch.testing.assert_close(loss(td)["loss_gaze"], before / 2)
    assert loss.state_dict()["coeff"] == pytest.approx(0.05)


def test_state_dict_deepcopy_and_dtype():
    loss, td = TripletContrastiveLoss(gaze_module()), batch()
    other = TripletContrastiveLoss(gaze_module())
    assert not torch.equal(other(td)["loss_gaze"], loss(td)["loss_gaze"])
    other.load_state_dict(loss.state_dict())
    for same in (other, copy.deepcopy(loss)):
        torch.testing.assert_close(same(td)["loss_gaze"], loss(td)["loss_gaze"])
    assert copy.deepcopy(loss).to(torch.float64)(td)["loss_gaze"].dtype == torch.float64


def test_compiled_equals_eager():
    loss, td = TripletContrastiveLoss(gaze_module()), batch()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(td)["loss_gaze"], loss(td)["loss_gaze"])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"margin": 2.5}, r"contrast\.margin must lie in \[0, 2\]"),
        ({"coeff": -1.0}, r"contrast\.coeff must not be negative, got -1"),
        ({"max_triplets": 0}, r"contrast\.num_triplets must be at least 1"),
        ({"reduction": "avg"}, r"contrast\.reduction must be 'mean', 'sum' or 'none', got 'avg'"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        TripletContrastiveLoss(gaze_module(), **options)
