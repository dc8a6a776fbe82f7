"""Composition: any TorchRL loss with an actor, a shared trunk and auxiliary losses, as one LossModule."""

import pytest
import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.modules import ProbabilisticActor
from torchrl.objectives import (
    ClipPPOLoss,
    CrossQLoss,
    DDPGLoss,
    KLPENPPOLoss,
    SACLoss,
    SoftUpdate,
)
from torchrl.objectives.value import GAE

from gaze_torchrl.objectives import (
    CURLLoss,
    GazePPOLoss,
    GazeRegularizer,
    GazeSACLoss,
    TripletContrastiveLoss,
    with_auxiliary,
)
from tests.objectives.composed import EVERY_LOSS, OFF_POLICY, ON_POLICY, batch, losses, networks, options, run


@EVERY_LOSS
def test_terms_are_those_of_the_parts(loss_class):
    """Of the TorchRL loss itself, given the trunk's embeddings, and of the auxiliary loss."""
    loss, actor, critic, gaze = losses(loss_class)
    td = batch(loss_class)
    with torch.no_grad():
        embedded = td.copy().update(actor[0](td.select("pixels", "proprio")))
        embedded["next"].update(actor[0](td["next"].select("pixels", "proprio")))
    torch.manual_seed(1)
    plain = loss_class(type(actor)(*actor.module[1:]), critic, **options(loss_class))
    if loss_class in OFF_POLICY:
        plain.make_value_estimator(gamma=0.9)
        plain.load_state_dict(loss.state_dict(), strict=False)
    both, alone = run(loss, td), TripletContrastiveLoss(gaze)(td)
    plain = run(plain, embedded)
    assert set(both.keys()) == set(plain.keys()) | set(alone.keys())
    for part in (plain, alone):
        for key, value in part.items():
            torch.testing.assert_close(both[key], value)


@EVERY_LOSS
def test_who_trains_what(loss_class):
    """Each term's gradient reaches what it should and nothing else: off policy, the actor does not train the trunk."""
    loss, actor, _, gaze = losses(loss_class)
    terms = run(loss, batch(loss_class))
    parts = {"encoder": actor[0].encoder, "gaze": gaze, "actor": actor[1]}
    reached = {}
    for name, value in terms.items():
        if not name.startswith("loss_") or name in ("loss_alpha", "loss_entropy"):
            continue
        for part, module in parts.items():
            gradients = torch.autograd.grad(value, list(module.parameters()), retain_graph=True, allow_unused=True)
            if any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients):
                reached.setdefault(name, set()).add(part)
    expected = (
        {"loss_objective": {"encoder", "gaze", "actor"}, "loss_critic": {"encoder", "gaze"}}
        if loss_class in ON_POLICY
        else {"loss_actor": {"actor"}, "loss_qvalue": {"encoder", "gaze"}}
    )
    assert reached == {**expected, "loss_contrast": {"gaze"}}


@EVERY_LOSS
def test_encoder_runs_once_per_step(loss_class):
    """Once with gradient on the observations; off policy once more, without, on the next ones."""
    loss, actor, *_ = losses(loss_class)
    calls = []
    actor[0].encoder.module.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    loss(batch(loss_class))
    assert calls == ([True] if loss_class in ON_POLICY else [True, False])


@pytest.mark.parametrize("loss_class", [one for one in OFF_POLICY if one is not CrossQLoss])
def test_targets_follow_the_critics_and_hold_no_encoder(loss_class):
    loss, *_ = losses(loss_class)
    before = loss.target_qvalue_network_params.clone()
    with torch.no_grad():
        loss.qvalue_network_params.apply_(lambda value: value.add_(1))
    SoftUpdate(loss, tau=0.5).step()
    assert ((loss.target_qvalue_network_params - before) > 0).all()
    critic = [one[0].shape for one in loss.qvalue_network_params.values(True, True)]
    targets = [one[0].shape for one in loss.target_qvalue_network_params.values(True, True)]
    assert targets == critic
    assert not {one.shape for one in loss.trunk.encoder.parameters() if one.ndim == 4} & set(targets)


@EVERY_LOSS
def test_parameters_are_the_networks_own(loss_class):
    loss, actor, *_ = losses(loss_class)
    own = {id(one) for one in actor.parameters()}
    assert own <= {id(one) for one in loss.parameters()}


@EVERY_LOSS
def test_in_and_out_keys(loss_class):
    loss, *_ = losses(loss_class)
    observed = {"pixels", "proprio"} | ({("next", "pixels")} if loss_class in OFF_POLICY else set())
    assert observed <= set(loss.in_keys)
    assert not {"embedding", ("next", "embedding")} & set(loss.in_keys)
    assert "loss_contrast" in loss.out_keys


@EVERY_LOSS
def test_the_batch_is_left_as_it_was(loss_class):
    loss, td = losses(loss_class)[0], batch(loss_class)
    before = set(td.keys(True, True))
    loss(td)
    assert set(td.keys(True, True)) - before <= {"td_error"}


def test_priorities_reach_the_batch():
    loss, td = losses(SACLoss)[0], batch(SACLoss)
    loss(td)
    assert td["td_error"].shape == (8,)


def test_set_keys_goes_to_the_loss_that_has_the_key():
    loss, *_ = losses()
    td = batch()
    expected = loss(td)
    loss.set_keys(advantage=("estimate", "advantage"), valid=("mined", "valid"))
    assert loss.tensor_keys.advantage == ("estimate", "advantage")
    assert ("mined", "valid") in loss.in_keys
    td = td.rename_key_("advantage", ("estimate", "advantage")).rename_key_(("triplets", "valid"), ("mined", "valid"))
    renamed = loss(td)
    for key in ("loss_objective", "loss_contrast"):
        torch.testing.assert_close(renamed[key], expected[key])
    with pytest.raises(ValueError, match=r"\['anchors'\] are not accepted"):
        loss.set_keys(anchors="x")


def test_dispatch_equals_tensordict():
    loss, *_ = losses()
    td = batch()
    flat = {key if isinstance(key, str) else "_".join(key): td[key] for key in loss.in_keys if key in td.keys(True)}
    values = dict(zip(loss.out_keys, loss(**flat), strict=True))
    expected = loss(td)
    for key in ("loss_objective", "loss_critic", "loss_contrast"):
        torch.testing.assert_close(values[key], expected[key])


def test_the_auxiliary_coefficient_can_be_scheduled():
    loss, *_ = losses()
    td = batch()
    before = loss(td)["loss_contrast"]
    loss.auxiliaries[0].coeff = 0.0
    assert loss(td)["loss_contrast"] == 0 < before


def test_value_estimator_still_works():
    loss, *_ = losses()
    loss.make_value_estimator(GAE(gamma=0.9, lmbda=0.9, value_network=None))
    loss.set_keys(value="my_value")
    assert loss.value_estimator.tensor_keys.value == "my_value"


def test_reduction_none_keeps_the_rows():
    actor, critic, gaze = networks()
    auxiliary = TripletContrastiveLoss(gaze, reduction="none")
    terms = GazePPOLoss(actor, critic, auxiliary=auxiliary, reduction="none")(batch())
    assert terms["loss_objective"].shape[0] == 8
    assert terms["loss_contrast"].shape == (8,)


def test_several_auxiliaries_and_none():
    actor, critic, _ = networks(SACLoss)
    extra = [CURLLoss(actor[0].encoder), GazeRegularizer(spread=1.0, drift=1.0)]
    loss = GazeSACLoss(actor, critic, auxiliary=extra, **options(SACLoss))
    loss.make_value_estimator(gamma=0.9)
    terms = run(loss, batch(SACLoss))
    assert {"loss_actor", "loss_contrast", *extra[1].out_keys} <= set(terms.keys())
    assert terms["loss_gaze_spread"] > 0 < terms["loss_gaze_drift"]
    plain = GazeSACLoss(actor, critic, **options(SACLoss))
    plain.make_value_estimator(gamma=0.9)
    assert (
        set(plain(batch(SACLoss)).keys())
        == set(plain.out_keys)
        == set(terms.keys())
        - {
            "loss_contrast",
            "curl_accuracy",
            *extra[1].out_keys,
        }
    )


def nested(actor):
    """The same actor as TorchRL's users build it: everything but the distribution in a sequence of its own."""
    *networks, distribution = actor.module
    return ProbabilisticActor(
        TensorDictSequential(*networks),
        in_keys=["loc", "scale"],
        distribution_class=distribution.distribution_class,
        distribution_kwargs=distribution.distribution_kwargs,
        return_log_prob=True,
    )


@pytest.mark.parametrize("loss_class", [ClipPPOLoss, SACLoss])
def test_a_trunk_is_found_within_a_probabilistic_actor(loss_class):
    actor, critic, _ = networks(loss_class)
    loss = with_auxiliary(loss_class)(nested(actor), critic, **options(loss_class))
    flat = with_auxiliary(loss_class)(actor, critic, **options(loss_class))
    if loss_class in OFF_POLICY:
        loss.make_value_estimator(gamma=0.9)
        flat.make_value_estimator(gamma=0.9)
        flat.load_state_dict(loss.state_dict())  # several critics, drawn anew
    assert loss.trunk is actor[0]
    td = batch(loss_class)
    expected = run(flat, td)
    for key, value in run(loss, td).items():
        torch.testing.assert_close(value, expected[key])


def test_a_trunk_that_does_not_come_first_is_refused():
    actor, critic, _ = networks()
    late = type(actor)(TensorDictModule(torch.nn.Identity(), ["pixels"], ["seen"]), *actor.module)
    with pytest.raises(ValueError, match=r"trunk must come first in the actor.*'TensorDictModule', 'Trunk'"):
        GazePPOLoss(late, critic)


def test_an_actor_without_a_trunk_is_left_whole():
    actor, critic, gaze = networks()
    whole = type(actor)(*actor[0].module, *actor.module[1:])
    loss = GazePPOLoss(whole, critic, auxiliary=TripletContrastiveLoss(gaze))
    assert loss.trunk is None
    td = batch()
    split = losses()[0](td)
    for key, value in loss(td).items():
        torch.testing.assert_close(value, split[key])


def test_one_class_per_loss():
    assert with_auxiliary(ClipPPOLoss) is GazePPOLoss
    assert with_auxiliary(SACLoss) is GazeSACLoss
    assert issubclass(GazePPOLoss, ClipPPOLoss)
    assert with_auxiliary(KLPENPPOLoss).__name__ == "GazeKLPENPPOLoss"


def test_what_is_no_loss_is_refused():
    actor, critic, gaze = networks()
    with pytest.raises(TypeError, match="LossModule, got Linear"):
        GazePPOLoss(actor, critic, auxiliary=torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match="LossModule class"):
        with_auxiliary(torch.nn.Linear)
    with pytest.raises(TypeError, match="use TD3Loss"):
        with_auxiliary(DDPGLoss)
    with pytest.raises(ValueError, match=r"Two losses write .*call the other by itself"):
        GazePPOLoss(actor, critic, auxiliary=[TripletContrastiveLoss(gaze), TripletContrastiveLoss(gaze)])
