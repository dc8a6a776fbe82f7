"""GazeModule and FiLM: the keys they read and write, who trains the gaze, and what proprioception changes."""

import copy
import pickle

import pytest
import torch
from tensordict import TensorDict

from gaze_torchrl.modules import FiLM, FovealGaze, GazeModule, NoGaze, PatchGaze


def data(n=4):
    return TensorDict({"features": torch.rand(n, 8, 10, 12), "proprio": torch.rand(n, 5)}, [n])


def conditioned(**options):
    film = FiLM(8, proprio_dim=5)
    torch.nn.init.normal_(film.net[-1].weight)
    return GazeModule(FovealGaze(8, (10, 12)), film=film, **options)


def test_writes_nested_keys():
    module = conditioned(
        features=("agent", "features"),
        foveated=("agent", "seen"),
        gaze_key=("agent", "gaze"),
        proprio=("agent", "proprio"),
    )
    assert module.in_keys == [("agent", "features"), ("agent", "proprio")]
    td = module(TensorDict({"agent": data()}, [4]))
    assert ("agent", "gaze", "mean") in td.keys(True)
    torch.testing.assert_close(
        td["agent", "seen"], td["agent", "features"] * td["agent", "gaze", "map"].unsqueeze(1), rtol=0, atol=0
    )
    assert set(module.out_keys) <= set(td.keys(True, True))


def test_selected_keys_and_plain_tensors():
    module, td = conditioned(), data()
    expected = module(td.copy())
    written = module(features=td["features"], proprio=td["proprio"])
    for key, value in zip(module.out_keys, written, strict=True):
        assert torch.equal(value, expected[key])
    few = module.select_out_keys(("gaze", "mean"))(td.copy())
    assert set(few.keys(True, True)) == {"features", "proprio", ("gaze", "mean")}
    assert torch.equal(few["gaze", "mean"], expected["gaze", "mean"])


def test_what_is_missing_is_named():
    with pytest.raises(KeyError, match=r"GazeModule reads .* the data has no \['proprio'\]: put the encoder before"):
        conditioned()(data().exclude("proprio"))


def test_no_gaze_leaves_the_features_as_they_are():
    td = GazeModule(NoGaze(8, (10, 12)))(data())
    assert torch.equal(td["foveated"], td["features"])


def test_module_without_foveated_writes_none():
    assert "foveated" not in GazeModule(FovealGaze(8, (10, 12)), foveated=None)(data())


@pytest.mark.parametrize("rl_gradient", [True, False])
def test_rl_gradient_switch(rl_gradient):
    """What reads the module's outputs trains gaze and FiLM only if wanted, and the features in either case."""
    module, td = conditioned(rl_gradient=rl_gradient), data()
    td["features"].requires_grad_()
    module(td)["foveated"].square().sum().backward()
    assert td["features"].grad.abs().sum() > 0
    trained = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert trained == ({name for name, _ in module.named_parameters()} if rl_gradient else set())


def test_look_has_a_gradient_whatever_the_switch_says():
    module, td = conditioned(rl_gradient=False), data()
    outputs = module.look(*(td[key] for key in module.in_keys))
    assert all(output.requires_grad for output in outputs)
    for key, output in zip(module.out_keys, outputs, strict=False):
        assert torch.equal(module(td)[key], output)


@pytest.mark.parametrize("lead", [(), (4,), (2, 3), (0,)])
def test_film_starts_as_the_identity(lead):
    features = torch.randn(*lead, 8, 10, 12)
    assert torch.equal(FiLM(8, proprio_dim=5)(features, torch.randn(*lead, 5)), features)


def test_film_scales_and_shifts_each_channel():
    film, features, proprio = FiLM(2, proprio_dim=3), torch.rand(4, 2, 5, 6), torch.rand(4, 3)
    with torch.no_grad():
        film.net[-1].bias.copy_(torch.tensor([1.0, -1.0, 10.0, 20.0]))
    expected = torch.stack([2 * features[:, 0] + 10, 0 * features[:, 1] + 20], 1)
    torch.testing.assert_close(film(features, proprio), expected)


def test_film_learns_every_parameter_after_its_first_step():
    film, features, proprio = FiLM(8, proprio_dim=5), torch.rand(16, 8, 10, 12), torch.rand(16, 5)
    for _ in range(2):
        film.zero_grad()
        film(features, proprio).square().mean().backward()
        torch.optim.SGD(film.parameters(), 0.1).step()
    assert all(parameter.grad.abs().sum() > 0 for parameter in film.parameters())


def test_proprioception_moves_the_gaze_and_not_the_features():
    module, td = conditioned(), data()
    other = td.clone().set("proprio", td["proprio"] + 1)
    here, there = module(td), module(other)
    assert not torch.allclose(here["gaze", "mean"], there["gaze", "mean"])
    torch.testing.assert_close(there["foveated"], td["features"] * there["gaze", "map"].unsqueeze(1), rtol=0, atol=0)


def test_unconditioned_module_reads_no_proprioception():
    module = GazeModule(PatchGaze(8))
    assert module.in_keys == ["features"]
    assert ("gaze", "map") in module(data().exclude("proprio")).keys(True)


def test_gradcheck_with_film():
    module = conditioned().double()
    inputs = [torch.rand(2, *shape, dtype=torch.float64, requires_grad=True) for shape in ((8, 10, 12), (5,))]
    assert torch.autograd.gradcheck(module.look, inputs, fast_mode=True)


def test_vmap_compile_copy_and_pickle():
    module, td = conditioned(), data()
    torch._dynamo.reset()
    expected = module(td.clone())["foveated"]
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    fresh = conditioned()
    fresh.load_state_dict(module.state_dict())
    for other in (compiled, copy.deepcopy(module), pickle.loads(pickle.dumps(module)), fresh, torch.func.vmap(module)):
        torch.testing.assert_close(other(td.clone())["foveated"], expected)


def test_film_without_proprioception_is_refused():
    with pytest.raises(ValueError, match=r"gaze\.condition needs proprioception, got proprio_dim = 0"):
        FiLM(8, proprio_dim=0)
