"""What every registered component keeps, whatever its name: one registered tomorrow is held to it today.

The families' own tests say what each component is for; here is what all must share. Environments have theirs in
tests/envs, where each is started once; what labels, normalisers and miners share stands in test_contract_replay.py.
"""

import copy
import itertools

import pytest
import torch
from tensordict import TensorDict
from tensordict.utils import unravel_key
from torch import nn

from gaze_torchrl import registry
from tests.contract_entries import EVERY_COPY, every
from tests.contract_support import ADAPTERS, build, facts, keyed, leaves, sample

NETWORKS = ("encoder", "gaze", "gaze/head", "readout")
LOSSES = ("contrast", "regularizer")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.* stays frozen at random weights"),
    pytest.mark.filterwarnings("ignore:There is a performance drop"),  # of attention under vmap
    pytest.mark.filterwarnings("ignore:No target network updater"),
]


def assert_equal(found, expected, **tolerance):
    """Equal but for rounding, which grows with the largest number a sum goes through, not with the sum."""
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        scale = max(1.0, one.detach().abs().max().item()) if one.is_floating_point() and one.numel() else 1.0
        near = {"rtol": 1.3e-6, "atol": 1e-5 * scale} if one.is_floating_point() else {}
        torch.testing.assert_close(
            found[name], one, **(tolerance or near), msg=lambda text, name=name: f"{name}: {text}"
        )


def weighted(outputs):
    """A number that depends on every output through which a gradient flows."""
    flowing = [one.double() for one in outputs.values() if one.requires_grad]
    generator = torch.Generator().manual_seed(7)
    return sum((one * torch.randn(one.shape, generator=generator, dtype=torch.float64)).sum() for one in flowing)


def trainable(module):
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def gradients(outputs, tensors):
    if not tensors:
        return {}
    found = torch.autograd.grad(weighted(outputs), list(tensors.values()), allow_unused=True)
    return dict(zip(tensors, found, strict=True))


def test_every_group_has_an_adapter():
    assert set(ADAPTERS) | {"env"} == set(registry.FACTS)


# 1. Leading dims


@every(*NETWORKS, "key")
@pytest.mark.parametrize("lead", [(), (5,), (2, 3)])
def test_a_batch_is_its_rows(entry, lead):
    adapter, component = ADAPTERS[entry.group], build(entry)
    td = adapter.inputs(component, *lead)
    whole = adapter.call(component, td)
    for place in itertools.product(*map(range, lead)):
        row = adapter.call(component, td[place] if lead else td.clone())
        assert {name: one.shape for name, one in whole.items()} == {n: (*lead, *one.shape) for n, one in row.items()}
        assert_equal({name: one[place] for name, one in whole.items()}, row)


@every(*NETWORKS, "key")
def test_vmap_is_a_batch(entry):
    adapter, component = ADAPTERS[entry.group], build(entry)
    td = adapter.inputs(component, 4)
    assert_equal(torch.vmap(lambda row: adapter.call(component, row))(td), adapter.call(component, td))


@every(*LOSSES)
def test_leading_dims_of_a_loss_are_one_batch(entry):
    adapter, component = ADAPTERS[entry.group], build(entry)
    td = adapter.inputs(component, 6)
    assert_equal(adapter.call(component, td.reshape(2, 3)), adapter.call(component, td))


@every(*LOSSES)
def test_a_step_without_leading_dims_is_a_batch_of_one(entry):
    adapter, component = ADAPTERS[entry.group], build(entry)
    td = adapter.inputs(component, 2)[1:]
    assert_equal(adapter.call(component, td[0]), adapter.call(component, td))


@every("augment")
def test_leading_dims_of_a_sample_are_one_batch(entry):
    adapter = ADAPTERS["augment"]
    td = adapter.inputs(build(entry), 6)
    flat, folded = (adapter.call(build(entry), one) for one in (td, td.reshape(2, 3)))
    assert_equal({name: one.flatten(0, 1) for name, one in folded.items()}, flat)
    alone = adapter.call(build(entry), td[0])
    assert {name: (one.shape, one.dtype) for name, one in alone.items()} == {
        name: (one.shape[1:], one.dtype) for name, one in flat.items()
    }


# 2. Keys


@every(*NETWORKS, *LOSSES, "augment")
def test_nested_keys(entry):
    plain, read, written = keyed(entry, lambda key: key)
    nested, nested_read, nested_written = keyed(entry, lambda key: unravel_key(("agent", key)))
    nested.load_state_dict(plain.state_dict())
    assert {key[0] for key in nested_read} == {"agent"}
    td, moved = sample(read, 6), TensorDict({}, [6])
    for key, place in zip(read, nested_read, strict=True):
        moved[place] = td[key]
    torch.manual_seed(0)
    expected = plain(td.clone())
    torch.manual_seed(0)
    found = nested(moved)
    for key, place in zip(written, nested_written, strict=True):
        torch.testing.assert_close(found[place], expected[key])


# 3. Gradients


def has_influence(adapter, component, td, parameter):
    """Whether the outputs change with a parameter: those of a softmax do not with a bias on all of its logits."""
    before = adapter.call(component, td)
    with torch.no_grad():
        parameter.add_(1.0)
    after = adapter.call(component, td)
    with torch.no_grad():
        parameter.sub_(1.0)
    return any(not torch.allclose(one, before[name]) for name, one in after.items())


@every(*NETWORKS, "regularizer")
def test_the_gradient_reaches_parameters_and_inputs(entry):
    adapter, component = ADAPTERS[entry.group], build(entry).double()
    td, inputs = leaves(adapter.inputs(component, 8))
    outputs, parameters = adapter.call(component, td), trainable(component)
    fixed = {name: one for name, one in outputs.items() if not one.requires_grad}
    if parameters or not list(component.parameters()):  # not frozen: what has no gradient is always the same
        others = adapter.call(component, leaves(adapter.inputs(component, 8))[0])
        assert_equal({name: others[name] for name in fixed}, fixed)
    if len(fixed) == len(outputs):
        assert not parameters
        return
    for key, gradient in gradients(outputs, inputs).items():
        assert (gradient is None) if adapter.constant(key) else gradient.any(), key
    for name, gradient in gradients(adapter.call(component, td), parameters).items():
        assert gradient is not None, name
        assert gradient.abs().max() > 1e-12 or not has_influence(adapter, component, td, parameters[name]), name


@every("contrast")
@pytest.mark.parametrize("embedding", ["pooled", "projected", "glimpse"])
def test_a_contrast_trains_one_network_and_what_is_its_own(entry, embedding):
    """The gaze if it names it, else the encoder; never what the other network made of the pixels."""
    known = facts(entry)
    networks = {name: one for name, one in known.items() if isinstance(one, nn.Module)}
    adapter, loss = ADAPTERS["contrast"], build(entry, **known, embedding=embedding, projection=5).double()
    target = networks["gaze_network" if "gaze_network" in entry.parameters else "encoder_network"]
    parameters, ids = trainable(loss), {id(one) for one in target.parameters()}
    own = [name for name, one in parameters.items() if id(one) not in ids]
    assert len(own) == len(parameters) - len(ids)
    if "embedding" in entry.parameters:
        assert bool(own) == (embedding != "pooled")
    td, inputs = leaves(adapter.inputs(loss, 16))
    for key, gradient in gradients(adapter.call(loss, td), inputs).items():
        assert gradient is None or not adapter.constant(key), key
    for network in networks.values():
        reached = gradients(adapter.call(loss, td), dict(network.named_parameters()))
        assert all((one is not None) == (network is target) for one in reached.values())
    for name, gradient in gradients(adapter.call(loss, td), parameters).items():
        assert gradient.abs().max() > 1e-12 or not has_influence(adapter, loss, td, parameters[name]), name


# 4. State


@every(*ADAPTERS)
def test_state_dict_makes_another_instance_the_same(entry):
    adapter, component, other = ADAPTERS[entry.group], build(entry), build(entry, seed=1)
    adapter.call(component, adapter.inputs(component, 6))  # some only have a state once they were used
    td = adapter.inputs(component, 6)
    stateful = isinstance(component, nn.Module) and component.state_dict()
    if stateful:
        different = copy.deepcopy(other)
        other.load_state_dict(component.state_dict())
    expected = adapter.call(component, td.clone())
    assert_equal(adapter.call(other, td.clone()), expected)
    if stateful:
        found = adapter.call(different, td.clone())
        assert any(not torch.equal(one, expected[name]) for name, one in found.items())


# 5. Derivatives


# Not the encoders: on failure gradcheck writes out the whole Jacobian of the pixels, for many minutes.
@every("gaze", "gaze/head", "readout", *LOSSES)
def test_gradcheck(entry):
    adapter, component = ADAPTERS[entry.group], build(entry).double()
    td, inputs = leaves(adapter.inputs(component, 3))
    moving = [one for key, one in inputs.items() if not adapter.constant(key)] + list(trainable(component).values())

    def outputs(*_):  # gradcheck moves the tensors themselves, parameters too
        return tuple(one for one in adapter.call(component, td).values() if one.requires_grad)

    if not outputs():
        pytest.skip("nothing to differentiate")
    assert torch.autograd.gradcheck(outputs, moving, fast_mode=True)


# 6. Compilation


LIBRARY = "the library picks the valid rows, whose number is known to the host alone"


# Not the augmentations: torch.compile cannot trace a generator of one's own.
@every(*NETWORKS, *LOSSES, "key", "normalize", broken={"contrast=metric_learning": LIBRARY})
def test_compiled_is_eager(entry):
    adapter, component = ADAPTERS[entry.group], build(entry)
    td = adapter.inputs(component, 3)
    expected = adapter.call(copy.deepcopy(component), td.clone())
    parameters = trainable(component) if isinstance(component, nn.Module) else {}
    torch._dynamo.reset()
    found = adapter.call(torch.compile(component, fullgraph=True, backend="aot_eager"), td.clone())
    assert_equal(found, expected, rtol=1e-5, atol=1e-5)
    if parameters:
        assert_equal(gradients(found, parameters), gradients(adapter.call(component, td.clone()), parameters))


# 7. Precision


@every(*NETWORKS, *LOSSES, "key")
def test_bf16_autocast_is_close(entry):
    adapter, component = ADAPTERS[entry.group], build(entry)
    td, inputs = leaves(adapter.inputs(component, 8), torch.float32)
    moving = {str(key): one for key, one in inputs.items() if not adapter.constant(key)} | trainable(component)
    expected = adapter.call(component, td)
    with torch.autocast("cpu", torch.bfloat16):
        found = adapter.call(component, td)
    for name, one in found.items():
        if "accuracy" not in name:  # a share of few rows, one of which may be a near tie
            assert relative_error(one, expected[name]) < 0.05, name
    if any(one.requires_grad for one in expected.values()):
        flat = [
            torch.cat([one.flatten() for one in gradients(outputs, moving).values() if one is not None])
            for outputs in (found, expected)
        ]
        assert relative_error(*flat) < 0.5


def relative_error(found, expected):
    """Length of the difference, NaN or infinite where ``found`` is."""
    found, expected = found.detach().double(), expected.detach().double()
    return (found - expected).norm() / expected.norm().clamp_min(1e-6)


# 8. Devices


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every(*NETWORKS, *LOSSES, "key", "labels", "normalize")
def test_a_gpu_gives_what_the_cpu_gives(entry, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    adapter, component = ADAPTERS[entry.group], build(entry)
    if entry.name == "curl":
        pytest.skip("its views are drawn on the device")
    td = adapter.inputs(component, 6)
    expected = adapter.call(component, td.clone())
    there = component.to("cuda") if isinstance(component, nn.Module) else component
    found = adapter.call(there, td.to("cuda"))
    assert all(one.is_cuda for one in found.values())
    assert_equal({name: one.cpu() for name, one in found.items()}, expected, rtol=1e-4, atol=1e-4)


# 9. Copies


@every(*ADAPTERS)
@EVERY_COPY
def test_copies_give_the_same(entry, copied):
    adapter, component = ADAPTERS[entry.group], build(entry)
    td = adapter.inputs(component, 6)
    adapter.call(component, td.clone())
    twin = copied(component)
    assert twin is not component
    for _ in range(2):  # what draws random numbers goes on alike
        assert_equal(adapter.call(twin, td.clone()), adapter.call(component, td.clone()), rtol=0, atol=0)
