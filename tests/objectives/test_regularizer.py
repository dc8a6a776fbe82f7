"""GazeRegularizer: its terms against loops over steps, what it reads, and the LossModule contract."""

import copy
import math
import pickle

import pytest
import torch
from tensordict import TensorDict

from gaze_torchrl.functional import gaze_drift, gaze_spread, map_entropy
from gaze_torchrl.modules import FovealGaze, GazeModule, NoGaze
from gaze_torchrl.objectives import GazeRegularizer

ALL = {"spread": 0.3, "drift": 0.5, "entropy": 0.7}


def batch(n=6, k=3):
    td = GazeModule(FovealGaze(4, (8, 8), num_foveae=k))(TensorDict({"features": torch.rand(n, 4, 8, 8)}, [n]))
    done = torch.zeros(n, 1, dtype=torch.bool)
    done[1] = True
    return td.update({"next": {"gaze": {"mean": torch.rand(n, k, 2)}, "done": done}})


def brute_force(td):
    """Each term by its definition, step by step."""
    spreads, drifts, entropies = [], [], []
    for step in td:
        covariance, mean, after = step["gaze", "covariance"], step["gaze", "mean"], step["next", "gaze", "mean"]
        spreads.append(sum(one[0, 0] + one[1, 1] for one in covariance) / len(covariance))
        if not step["next", "done"]:
            drifts.append(sum((a - b).square().sum() for a, b in zip(after, mean, strict=True)) / len(mean))
        share = (step["gaze", "map"] / step["gaze", "map"].sum()).flatten()
        entropies.append(-sum(p * math.log(p) for p in share.tolist() if p > 0))
    return {name: sum(values) / len(values) for name, values in zip(ALL, (spreads, drifts, entropies), strict=True)}


def test_equals_brute_force():
    td = batch()
    losses, expected = GazeRegularizer(**ALL)(td), brute_force(td)
    for name, coefficient in ALL.items():
        torch.testing.assert_close(losses[f"loss_gaze_{name}"], torch.as_tensor(coefficient * expected[name]))


@pytest.mark.parametrize("name", ALL)
def test_each_term_alone_reads_its_own_keys_and_trains_the_gaze(name):
    reads = {
        "spread": [("gaze", "covariance")],
        "drift": [("gaze", "mean"), ("next", "gaze", "mean"), ("next", "done")],
        "entropy": [("gaze", "map")],
    }
    loss, td = GazeRegularizer(**{name: 1.0}), batch()
    assert loss.in_keys == reads[name]
    losses = loss(td.select(*loss.in_keys))
    assert set(losses.keys()) == set(loss.out_keys)
    assert [key for key in loss.out_keys if losses[key] != 0] == [f"loss_gaze_{name}"]
    (gradient,) = torch.autograd.grad(losses[f"loss_gaze_{name}"], td[reads[name][0]])
    assert gradient.abs().sum() > 0


def test_by_default_it_reads_nothing_and_costs_nothing():
    loss = GazeRegularizer()
    assert loss.in_keys == []
    assert dict(loss(TensorDict()).items()) == {f"loss_gaze_{name}": 0 for name in ALL}


def test_steps_that_end_an_episode_do_not_drift():
    loss, td = GazeRegularizer(drift=1.0), batch()
    before = loss(td)["loss_gaze_drift"]
    td["next", "gaze", "mean"][1] = float("nan")
    torch.testing.assert_close(loss(td)["loss_gaze_drift"], before)
    (gradient,) = torch.autograd.grad(loss(td)["loss_gaze_drift"], td["gaze", "mean"])
    assert gradient.isfinite().all()
    assert not gradient[1].any()
    td["next", "done"].fill_(True)
    assert loss(td)["loss_gaze_drift"] == 0


@pytest.mark.parametrize("key", [("collector", "mask"), "shifted_valid"])
def test_padding_does_not_count(key):
    td, real = batch(), torch.tensor([True, True, False, True, False, True])
    expected = GazeRegularizer(**ALL)(td[real])
    td["next", "gaze", "mean"][~real] = torch.nan
    padded = GazeRegularizer(**ALL)(td.set(key, real.unsqueeze(-1)))
    for name, value in expected.items():
        torch.testing.assert_close(padded[name], value)


def test_next_means_that_nobody_wrote_are_named():
    with pytest.raises(KeyError, match="Collectors do not store"):
        GazeRegularizer(drift=1.0)(batch().exclude(("next", "gaze")))


def test_the_stored_next_mean_is_a_constant():
    td = batch()
    td["next", "gaze", "mean"].requires_grad_()
    GazeRegularizer(drift=1.0)(td)["loss_gaze_drift"].backward()
    assert td["next", "gaze", "mean"].grad is None


@pytest.mark.parametrize(("name", "key"), [("spread", "covariance"), ("drift", "mean")])
def test_a_gaze_without_a_location_is_named(name, key):
    td = GazeModule(NoGaze(4, (8, 8)))(TensorDict({"features": torch.rand(6, 4, 8, 8)}, [6]))
    with pytest.raises(KeyError, match=rf"regularizer\.{name} reads \('gaze', '{key}'\).*gaze=none"):
        GazeRegularizer(**{name: 1.0})(td)
    assert GazeRegularizer(entropy=1.0)(td)["loss_gaze_entropy"] == pytest.approx(math.log(64))


def test_known_values():
    torch.testing.assert_close(gaze_spread(0.25 * torch.eye(2).expand(5, 3, 2, 2)), torch.full((5,), 0.5))
    torch.testing.assert_close(gaze_drift(torch.zeros(2, 3, 2), torch.ones(2, 3, 2)), torch.full((2,), 2.0))
    one = torch.zeros(4, 5)
    one[2, 3] = 0.3
    assert map_entropy(one) == 0
    assert map_entropy(torch.full((4, 5), 0.2)) == pytest.approx(math.log(20))
    with pytest.raises(ValueError, match=r"gaze_drift expects two means of one shape .* got \[3, 2\] and \[4, 2\]"):
        gaze_drift(torch.zeros(3, 2), torch.zeros(4, 2))


def test_entropy_does_not_depend_on_the_scale_of_the_map():
    attention = torch.rand(3, 4, 5)
    torch.testing.assert_close(map_entropy(attention), map_entropy(0.01 * attention))


def test_entropy_has_a_finite_gradient_where_the_map_is_zero():
    for attention in (torch.zeros(4, 5), torch.eye(5)):
        attention.requires_grad_()
        map_entropy(attention).backward()
        assert attention.grad.isfinite().all()


@pytest.mark.parametrize(
    ("function", "shapes"), [(gaze_spread, [(3, 2, 2)]), (gaze_drift, [(3, 2), (3, 2)]), (map_entropy, [(4, 5)])]
)
def test_gradcheck(function, shapes):
    inputs = [torch.rand(2, *shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(function, inputs)


def test_nested_keys_and_dispatch():
    loss, td = GazeRegularizer(**ALL), batch()
    expected = loss(td)
    names = {"_".join(key): td[key] for key in loss.in_keys}
    for value, key in zip(loss(**names), loss.out_keys, strict=True):
        torch.testing.assert_close(value, expected[key])
    loss.set_keys(covariance=("agent", "gaze", "covariance"))
    assert ("agent", "gaze", "covariance") in loss.in_keys
    renamed = td.update({"agent": {"gaze": {"covariance": 2 * td["gaze", "covariance"]}}})
    torch.testing.assert_close(loss(renamed)["loss_gaze_spread"], 2 * expected["loss_gaze_spread"])
    with pytest.raises(ValueError, match="not an accepted tensordict key"):
        loss.set_keys(means="x")


def test_a_coefficient_can_be_scheduled():
    loss, td = GazeRegularizer(spread=0.1), batch()
    before = loss(td)["loss_gaze_spread"]
    loss.spread = 0.05
    torch.testing.assert_close(loss(td)["loss_gaze_spread"], before / 2)


def test_state_dict_deepcopy_pickle_and_compile():
    loss, other, td = GazeRegularizer(**ALL), GazeRegularizer(spread=1.0, drift=1.0, entropy=1.0), batch()
    other.load_state_dict(loss.state_dict())
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for same in (other, copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), compiled):
        for key in loss.out_keys:
            torch.testing.assert_close(same(td)[key], loss(td)[key])


@pytest.mark.parametrize("name", ALL)
def test_a_negative_coefficient_is_refused(name):
    with pytest.raises(ValueError, match=rf"regularizer\.{name} must not be negative, got -1"):
        GazeRegularizer(**{name: -1.0})
