"""Composed losses copied, pickled, saved and compiled are what they were."""

import copy
import pickle

import pytest
import torch
from torchrl.objectives import ClipPPOLoss, CrossQLoss, KLPENPPOLoss, SACLoss

from tests.objectives.composed import EVERY_LOSS, OFF_POLICY, ON_POLICY, batch, losses, run


@EVERY_LOSS
def test_copies_and_pickles_for_process_collectors(loss_class):
    loss, *_ = losses(loss_class)
    td = batch(loss_class)
    copies = pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)  # before the call: KLPENPPOLoss adapts its weight
    expected = run(loss, td)
    for same in copies:
        assert type(same) is type(loss)
        for key, value in run(same, td).items():
            torch.testing.assert_close(value, expected[key])


@EVERY_LOSS
@pytest.mark.parametrize(
    "change",
    [copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss)), lambda loss: loss.to(torch.float64)],
    ids=["deepcopy", "pickle", "to"],
)
def test_the_gaze_stays_shared(loss_class, change):
    """The auxiliary's gaze and the trunk's are one object, after a copy and a cast too."""
    loss = change(losses(loss_class)[0])
    trunk = {id(one) for one in loss.trunk.parameters()} | {one.data_ptr() for one in loss.trunk.parameters()}
    assert all(one.data_ptr() in trunk for one in loss.auxiliaries.parameters())
    assert len(list(loss.parameters())) == len(list(losses(loss_class)[0].parameters()))


@EVERY_LOSS
@pytest.mark.parametrize("order", [["loss", "actor", "optimizer"], ["actor", "optimizer", "loss"]])
def test_what_is_copied_together_stays_together(loss_class, order):
    """The actor of the copied loss is the copied actor, and the copied optimizer moves it."""
    loss, actor, *_ = losses(loss_class)
    parts = {"loss": loss, "actor": actor, "optimizer": torch.optim.SGD(loss.parameters(), lr=1.0)}
    copied = copy.deepcopy({name: parts[name] for name in order})
    inside = {id(one) for one in copied["loss"].parameters()}
    assert {id(one) for one in copied["actor"].parameters()} <= inside
    assert {id(one) for one in copied["optimizer"].param_groups[0]["params"]} == inside
    assert not inside & {id(one) for one in loss.parameters()}


@EVERY_LOSS
def test_state_dict(loss_class):
    loss, other = losses(loss_class, 0)[0], losses(loss_class, 1)[0]
    other.load_state_dict(loss.state_dict())
    td = batch(loss_class)
    expected, same = run(loss, td), run(other, td)
    for key, value in expected.items():
        torch.testing.assert_close(same[key], value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss_class",
    [
        pytest.param(one, marks=() if one is CrossQLoss else pytest.mark.thorough)  # PPO and SAC: the last test below
        for one in ON_POLICY + OFF_POLICY
        if one is not KLPENPPOLoss
    ],
)
def test_compiled_equals_eager(loss_class):
    """KLPENPPOLoss itself branches on its data, which no compiler can follow."""
    loss, td = losses(loss_class)[0], batch(loss_class)
    expected = run(loss, td)  # first: TorchRL sets attributes as it goes, which a compiler cannot follow
    torch._dynamo.reset()
    compiled = run(torch.compile(loss, fullgraph=True, backend="aot_eager"), td)
    for key, value in expected.items():
        torch.testing.assert_close(compiled[key], value, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("loss_class", [ClipPPOLoss, SACLoss])
def test_compiled_in_place_is_eager_and_its_gradients_stay_apart(loss_class):
    (loss, *_), (compiled, *_), td = losses(loss_class), losses(loss_class), batch(loss_class)
    compiled.compile(backend="aot_eager")
    found, expected = run(compiled, td), run(loss, td)
    assert set(found.keys()) == set(expected.keys())
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, msg=lambda text, key=key: f"{key}: {text}")

    def gradients(one, terms):
        names = [key for key, _ in expected.items() if key.startswith("loss_") and key != "loss_contrast"]
        torch.stack([terms[name] for name in names]).sum().backward()
        contrast = [parameter for parameter in one.auxiliaries.parameters() if parameter.requires_grad]
        rl = [parameter.grad for parameter in one.parameters()]
        return rl, torch.autograd.grad(terms["loss_contrast"], contrast, allow_unused=True)

    for mine, its in zip(gradients(compiled, found), gradients(loss, expected), strict=True):
        for a, b in zip(mine, its, strict=True):
            torch.testing.assert_close(a, b)
    copied = pickle.loads(pickle.dumps(compiled))
    torch.testing.assert_close(run(copied, td)["loss_contrast"], expected["loss_contrast"])
