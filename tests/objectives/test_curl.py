"""CURL: the right pairs, the right gradients, keys that follow the encoder."""

import copy
import math
import pickle

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl.data import Bounded
from torchrl.objectives import SoftUpdate

from gaze_torchrl.functional import info_nce, random_shift
from gaze_torchrl.modules import FineCNN, FovealGaze, GazeModule, GlimpseReadout, gaze_actor, value_head
from gaze_torchrl.objectives import CURLLoss, GazePPOLoss

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")


def network(seed=0, channels=(4, 8)):
    torch.manual_seed(seed)
    return TensorDictModule(FineCNN(channels), in_keys=["pixels"], out_keys=["features"])


def batch(n=8):
    return TensorDict({"pixels": torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8)}, [n])


def seeded(loss, td, seed=0):
    torch.manual_seed(seed)
    return loss(td)


def own(loss):
    return dict(loss.named_parameters())


def test_loss_is_the_loop():
    """Views, embeddings and similarities by hand, pair by pair; the targets are others than the parameters."""
    encoder = network()
    loss, td = CURLLoss(encoder, coeff=0.5, grid=2, projection=6), batch(5)
    torch.nn.init.normal_(loss.bilinear)
    for target in loss.target_query_network_params.values(True, True):
        target.data.mul_(1.1)
    terms = seeded(loss, td)
    torch.manual_seed(0)
    views = random_shift(td["pixels"]), random_shift(td["pixels"])
    embeddings = []
    for view, params in zip(views, (loss.query_network_params, loss.target_query_network_params), strict=True):
        with params.to_module(loss.query_network, preserve_module_state=False):
            linear, norm = loss.query_network[1].module[2:]
            features = encoder.module(view)
            cells = torch.stack(
                [
                    features[:, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean((-2, -1))
                    for y in range(2)
                    for x in range(2)
                ],
                -1,
            )
            embeddings.append(norm(linear(cells.flatten(1))))
    total, right = 0.0, 0
    for i, query in enumerate(embeddings[0]):
        scores = torch.stack([query @ loss.bilinear @ key for key in embeddings[1]])
        total -= (scores[i].exp() / scores.exp().sum()).log() / 5
        right += int(scores.argmax() == i)
    torch.testing.assert_close(terms["loss_contrast"], 0.5 * total)
    assert terms["curl_accuracy"] == pytest.approx(right / 5)


def test_untrained_loss_is_about_log_n():
    loss = CURLLoss(network(), coeff=1.0)
    assert seeded(loss, batch(64))["loss_contrast"].item() == pytest.approx(math.log(64), rel=0.2)


def test_learns_to_tell_images_apart():
    loss = CURLLoss(network(), coeff=1.0)
    updater = SoftUpdate(loss, tau=0.1)
    optimizer = torch.optim.Adam(loss.parameters(), 3e-3)
    colors = 112 + torch.randint(0, 32, (32, 3, 4, 4), dtype=torch.uint8)  # pale, so that at first all look alike
    td = TensorDict({"pixels": colors.repeat_interleave(8, -1).repeat_interleave(8, -2)}, [32])
    first = seeded(loss, td)
    for _ in range(60):
        optimizer.zero_grad()
        loss(td)["loss_contrast"].backward()
        optimizer.step()
        updater.step()
    last = seeded(loss, td)
    assert last["loss_contrast"] < 0.5 * first["loss_contrast"]
    assert last["curl_accuracy"] > 0.8


def test_gradient_reaches_encoder_projection_and_bilinear_but_no_target():
    encoder = network()
    loss = CURLLoss(encoder)
    loss(batch())["loss_contrast"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in encoder.parameters())
    assert all(parameter.grad is not None for parameter in loss.parameters())
    assert loss.bilinear.grad.abs().sum() > 0
    for target in loss.target_query_network_params.values(True, True):
        assert not target.requires_grad


def test_parameters_are_the_encoders_the_projections_and_the_bilinear():
    encoder = network()
    loss = CURLLoss(encoder)
    encoders = {id(parameter) for parameter in encoder.parameters()}
    mine = {id(parameter) for parameter in loss.parameters()}
    assert encoders < mine
    assert len(mine) == len(encoders) + 4 + 1  # weights and biases of the linear layer and the norm; bilinear


def test_soft_update_moves_the_targets():
    loss = CURLLoss(network())
    updater = SoftUpdate(loss, tau=0.25)
    sources, targets = loss.query_network_params, loss.target_query_network_params
    before = targets.clone()
    for source in sources.values(True, True):
        source.data.add_(1.0)
    updater.step()
    for key, target in targets.items(True, True):
        torch.testing.assert_close(target, before[key] + 0.25)


def test_set_keys():
    loss, td = CURLLoss(network()), batch()
    expected = seeded(loss, td)
    assert loss.in_keys == ["pixels"]
    loss.set_keys(pixels=("camera", "rgb"))
    assert loss.in_keys == [("camera", "rgb")]
    renamed = seeded(loss, TensorDict({"camera": {"rgb": td["pixels"]}}, [8]))
    torch.testing.assert_close(renamed["loss_contrast"], expected["loss_contrast"])


def test_leading_dims_are_one_batch():
    loss, td = CURLLoss(network()), batch(6)
    expected = seeded(loss, td)
    torch.testing.assert_close(seeded(loss, td.reshape(2, 3)).to_dict(), expected.to_dict())


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_padding_is_no_negative(reduction):
    """Rows marked as padding are as if they were not there. Images of one colour, which no shift changes."""
    loss, td = CURLLoss(network(), pad=1, reduction=reduction), batch(8)
    td["pixels"] = td["pixels"][..., :1, :1].expand_as(td["pixels"]).contiguous()  # the same whatever the shift
    expected = loss(td[:5])
    found = loss(td.set(("collector", "mask"), torch.arange(8) < 5))
    contrast = found["loss_contrast"]
    if reduction == "none":
        assert not contrast[5:].any()
        contrast = contrast[:5]
    torch.testing.assert_close(contrast, expected["loss_contrast"])
    torch.testing.assert_close(found["curl_accuracy"], expected["curl_accuracy"])
    found["loss_contrast"].sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in loss.parameters() if parameter.grad is not None)


def test_reads_the_images_that_the_encoder_reads():
    encoder = TensorDictModule(FineCNN((4, 8)), in_keys=[("agent", "rgb")], out_keys=["features"])
    loss = CURLLoss(encoder)
    assert loss.in_keys == [("agent", "rgb")]
    assert loss(TensorDict({"agent": {"rgb": batch()["pixels"]}}, [8]))["loss_contrast"] > 0
    with pytest.raises(KeyError, match=r"reads \('agent', 'rgb'\).*set_keys\(pixels="):
        loss(batch())


def test_dispatch_equals_tensordict():
    loss, td = CURLLoss(network()), batch()
    expected = seeded(loss, td)
    torch.manual_seed(0)
    values = loss(pixels=td["pixels"])
    torch.testing.assert_close(dict(zip(loss.out_keys, values, strict=True)), expected.to_dict())


def test_the_sample_is_not_changed():
    td = batch()
    kept = td.clone()
    CURLLoss(network())(td)
    assert set(td.keys()) == set(kept.keys())
    assert torch.equal(td["pixels"], kept["pixels"])


def test_reductions():
    losses = {
        name: seeded(CURLLoss(network(), reduction=name), batch_of_seed(), seed=1)["loss_contrast"]
        for name in ("mean", "sum", "none")
    }
    assert losses["none"].shape == (8,)
    torch.testing.assert_close(losses["none"].mean(), losses["mean"])
    torch.testing.assert_close(losses["none"].sum(), losses["sum"])


def batch_of_seed(seed=3):
    torch.manual_seed(seed)
    return batch()


def test_the_coefficient_can_be_scheduled():
    loss, td = CURLLoss(network()), batch()
    before = seeded(loss, td)["loss_contrast"]
    loss.coeff = 0.2
    torch.testing.assert_close(seeded(loss, td)["loss_contrast"], 2 * before)


def test_state_dict():
    loss, other, td = CURLLoss(network(0)), CURLLoss(network(1)), batch()
    expected = seeded(loss, td)
    assert not torch.equal(seeded(other, td)["loss_contrast"], expected["loss_contrast"])
    other.load_state_dict(loss.state_dict())
    torch.testing.assert_close(seeded(other, td).to_dict(), expected.to_dict())


def test_other_precisions():
    td = batch()
    loss = CURLLoss(network())
    expected = seeded(loss, td)["loss_contrast"]
    with torch.autocast("cpu", torch.bfloat16):
        half = seeded(loss, td)["loss_contrast"]
        torch.manual_seed(0)
        query = loss._embed(td["pixels"], loss.query_network_params)
        key = loss._embed(td["pixels"], loss.target_query_network_params)
    torch.testing.assert_close(half, expected, rtol=0.05, atol=0)
    # The networks run in half precision; what compares their embeddings does not.
    exact = 0.1 * info_nce(query.double() @ loss.bilinear.double() @ key.double().T).mean()
    torch.testing.assert_close(half, exact.float())
    double = seeded(loss.double(), td)["loss_contrast"]
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), expected, rtol=1e-4, atol=1e-4)


def test_compiled_equals_eager():
    loss, td = CURLLoss(network()), batch()
    expected = seeded(loss, td)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(seeded(compiled, td).to_dict(), expected.to_dict())


def joint():
    torch.manual_seed(0)
    encoder, gaze = FineCNN((4, 8)), GazeModule(FovealGaze(8, (8, 8), num_foveae=2), foveated=None)
    readout = GlimpseReadout(8, num_foveae=2, hidden=16)
    actor = gaze_actor(encoder, gaze, readout, Bounded(-1, 1, (2,)), hidden=16)
    curl = CURLLoss(actor[0].encoder)
    return GazePPOLoss(actor, value_head(readout, hidden=16), auxiliary=curl)


CHANGES = pytest.mark.parametrize(
    "change",
    [lambda loss: loss, copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss)), lambda loss: loss.double()],
    ids=["same", "deepcopy", "pickle", "to"],
)


@CHANGES
def test_the_encoder_stays_shared_with_the_actor(change):
    loss = change(joint())
    trained = {p.data_ptr() for p in loss.trunk.encoder.parameters()}
    curl = loss.auxiliaries[0]
    assert trained < {p.data_ptr() for p in curl.parameters()}
    targets = {p.data_ptr() for p in curl.target_query_network_params.values(True, True)}
    assert not targets & {p.data_ptr() for p in loss.parameters()}
    assert len({id(p) for p in loss.parameters()}) == len(list(joint().parameters()))
    updater = SoftUpdate(curl, tau=0.5)
    before = curl.target_query_network_params.clone()
    for parameter in loss.trunk.encoder.parameters():
        parameter.data.add_(1.0)
    updater.step()
    for key, target in curl.target_query_network_params.items(True, True):
        moved = key[1] == "0"  # the encoder comes first, the projection second
        torch.testing.assert_close(target, before[key] + 0.5 * moved)


@pytest.mark.parametrize("change", [copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss))])
def test_copies_alone(change):
    loss, td = CURLLoss(network()), batch()
    torch.testing.assert_close(seeded(change(loss), td).to_dict(), seeded(loss, td).to_dict())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"coeff": -1}, r"contrast\.coeff must not be negative, got -1"),
        ({"coeff": math.nan}, r"contrast\.coeff must not be negative, got nan"),
        ({"pad": 0}, r"contrast\.pad must be positive, got 0"),
        ({"grid": 0}, r"contrast\.grid must be positive, got 0"),
        ({"projection": 0}, r"contrast\.projection must be positive, got 0"),
        ({"reduction": "max"}, r"contrast\.reduction must be 'mean', 'sum' or 'none', got 'max'"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        CURLLoss(network(), **options)


def test_a_frozen_encoder_is_refused():
    with pytest.raises(ValueError, match=r"contrast=curl trains the encoder, but all parameters .* frozen"):
        CURLLoss(network().requires_grad_(False))
