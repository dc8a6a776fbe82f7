"""with_auxiliary: TorchRL's loss unchanged, plus the auxiliary one, as one LossModule."""

import copy
import pickle

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded
from torchrl.objectives import ClipPPOLoss, KLPENPPOLoss, PPOLoss
from torchrl.objectives.value import GAE

from gaze_torchrl.modules import FineCNN, FovealGaze, GazeModule, GlimpseReadout, gaze_actor, value_head
from gaze_torchrl.objectives import GazePPOLoss, TripletContrastiveLoss, with_auxiliary


def networks(seed=0):
    torch.manual_seed(seed)
    encoder, gaze = FineCNN((4, 8)), GazeModule(FovealGaze(8, (8, 8), num_foveae=2), foveated=None)
    readout = GlimpseReadout(8, proprio_dim=3, num_foveae=2, hidden=16)
    actor = gaze_actor(encoder, gaze, readout, Bounded(-1, 1, (2,)), hidden=16)
    return actor, value_head(readout, hidden=16), gaze


def losses(seed=0, **options):
    actor, critic, gaze = networks(seed)
    return GazePPOLoss(actor, critic, auxiliary=TripletContrastiveLoss(gaze), **options), actor, critic, gaze


def batch(n=8):
    maps = {name: torch.rand(n, 8, 8, 8) for name in ("anchor", "positive", "negative")}
    return TensorDict(
        {
            "pixels": torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8),
            "proprio": torch.randn(n, 3),
            "action": torch.randn(n, 2),
            "action_log_prob": torch.randn(n),
            "advantage": torch.randn(n, 1),
            "value_target": torch.randn(n, 1),
            "triplets": {**maps, "valid": torch.ones(n, dtype=torch.bool)},
        },
        [n],
    )


def test_terms_are_those_of_the_parts():
    loss, actor, critic, gaze = losses()
    td = batch()
    both, plain, alone = loss(td), ClipPPOLoss(actor, critic)(td), TripletContrastiveLoss(gaze)(td)
    assert set(both.keys()) == set(plain.keys()) | set(alone.keys())
    for part in (plain, alone):
        for key, value in part.items():
            torch.testing.assert_close(both[key], value)


def test_trunk_runs_once_per_call():
    loss, actor, *_ = losses()
    calls = []
    actor.module[0].module.register_forward_hook(lambda *_: calls.append(1))
    loss(batch())
    assert len(calls) == 1


def test_who_trains_what():
    """Each term's gradient reaches what it should and nothing else."""
    loss, actor, critic, gaze = losses()
    encoder = actor.module[0]
    terms = loss(batch())
    reached = {
        name: {
            part: any(g is not None and g.abs().sum() > 0 for g in gradients)
            for part, module in {"encoder": encoder, "gaze": gaze, "critic": critic}.items()
            for gradients in [
                torch.autograd.grad(terms[name], list(module.parameters()), retain_graph=True, allow_unused=True)
            ]
        }
        for name in ("loss_objective", "loss_critic", "loss_gaze")
    }
    assert reached == {
        "loss_objective": {"encoder": True, "gaze": True, "critic": False},
        "loss_critic": {"encoder": True, "gaze": True, "critic": True},
        "loss_gaze": {"encoder": False, "gaze": True, "critic": False},
    }


def test_parameters_are_the_networks_own():
    loss, actor, critic, _ = losses()
    own = {id(p) for p in (*actor.parameters(), *critic.parameters())}
    assert {id(p) for p in loss.parameters()} == own


def test_in_and_out_keys():
    loss, *_ = losses()
    assert {"pixels", "proprio", ("triplets", "anchor"), ("triplets", "valid")} <= set(loss.in_keys)
    assert {"loss_objective", "loss_critic", "loss_entropy", "loss_gaze"} <= set(loss.out_keys)


def test_set_keys_goes_to_the_loss_that_has_the_key():
    loss, *_ = losses()
    td = batch()
    expected = loss(td)
    loss.set_keys(advantage=("estimate", "advantage"), anchor=("mined", "anchor"))
    assert loss.tensor_keys.advantage == ("estimate", "advantage")
    assert ("mined", "anchor") in loss.in_keys
    td = td.rename_key_("advantage", ("estimate", "advantage"))
    td["mined"] = TensorDict({"anchor": td.pop(("triplets", "anchor"))}, [8])
    renamed = loss(td)
    for key in ("loss_objective", "loss_gaze"):
        torch.testing.assert_close(renamed[key], expected[key])
    with pytest.raises(ValueError, match=r"\['anchors'\] are not accepted"):
        loss.set_keys(anchors="x")


def test_dispatch_equals_tensordict():
    loss, *_ = losses()
    td = batch()
    flat = {key if isinstance(key, str) else "_".join(key): value for key, value in td.items(True, True)}
    values = dict(zip(loss.out_keys, loss(**flat), strict=True))
    expected = loss(td)
    for key in ("loss_objective", "loss_critic", "loss_gaze"):
        torch.testing.assert_close(values[key], expected[key])


def test_state_dict_and_deepcopy():
    loss, *_ = losses(0)
    other, *_ = losses(1)
    td = batch()
    other.load_state_dict(loss.state_dict())
    for same in (other, copy.deepcopy(loss)):
        for key, value in loss(td).items():
            torch.testing.assert_close(same(td)[key], value)


@pytest.mark.parametrize(
    "change",
    [copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss)), lambda loss: loss.to(torch.float64)],
    ids=["deepcopy", "pickle", "to"],
)
def test_the_gaze_stays_shared(change):
    """The auxiliary's gaze and the actor's are one object, after a copy and a cast too."""
    loss = change(losses()[0])
    actors = {p.data_ptr() for p in loss.actor_network_params.parameters()}
    assert all(p.data_ptr() in actors for p in loss.auxiliary.parameters())
    assert len(list(loss.parameters())) == len(list(losses()[0].parameters()))


@pytest.mark.parametrize("loss_class", [ClipPPOLoss, KLPENPPOLoss, PPOLoss])
def test_copies_and_pickles_for_process_collectors(loss_class):
    actor, critic, gaze = networks()
    loss = with_auxiliary(loss_class)(actor, critic, auxiliary=TripletContrastiveLoss(gaze))
    td = batch()
    td["loc"], td["scale"] = torch.zeros(8, 2), torch.ones(8, 2)
    for same in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        assert type(same) is type(loss)
        torch.testing.assert_close(same(td)["loss_gaze"], loss(td)["loss_gaze"])


def test_the_auxiliary_coefficient_can_be_scheduled():
    loss, *_ = losses()
    td = batch()
    before = loss(td)["loss_gaze"]
    loss.auxiliary.coeff = 0.0
    assert loss(td)["loss_gaze"] == 0 < before


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
    assert terms["loss_gaze"].shape == (8,)


def test_compiled_equals_eager():
    loss, *_ = losses()
    td = batch()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(td)["loss_gaze"], loss(td)["loss_gaze"])


def test_one_class_per_loss():
    assert with_auxiliary(ClipPPOLoss) is GazePPOLoss
    assert issubclass(GazePPOLoss, ClipPPOLoss)
    assert with_auxiliary(KLPENPPOLoss).__name__ == "GazeKLPENPPOLoss"


def test_another_torchrl_loss():
    actor, critic, gaze = networks()
    loss = with_auxiliary(KLPENPPOLoss)(actor, critic, auxiliary=TripletContrastiveLoss(gaze))
    td = batch()
    td["loc"], td["scale"] = torch.zeros(8, 2), torch.ones(8, 2)  # of the policy that collected
    assert {"loss_objective", "loss_critic", "loss_gaze", "kl"} <= set(loss(td).keys())


def test_what_is_no_loss_is_refused():
    actor, critic, _ = networks()
    with pytest.raises(TypeError, match="LossModule, got Linear"):
        GazePPOLoss(actor, critic, auxiliary=torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match="LossModule class"):
        with_auxiliary(torch.nn.Linear)
    with pytest.raises(ValueError, match="Both losses write"):
        GazePPOLoss(actor, critic, auxiliary=ClipPPOLoss(actor, critic))
