"""What the contrastive losses compare: features under the map, and glimpses that know their places."""

import pytest
import torch
from tensordict import TensorDict

from gaze_torchrl.modules import FovealGaze, GazeModule, MomentsHead, NoGaze, PatchGaze
from gaze_torchrl.objectives import TripletContrastiveLoss
from tests.objectives.support import MEMBERS, batch, encoder_module, gaze_module, reached


def test_flat_under_a_uniform_map_is_the_features_flattened():
    loss = TripletContrastiveLoss(
        GazeModule(NoGaze(4, (8, 8))), encoder_module(), target="encoder", embedding="flat", center=False
    )
    pixels = torch.stack([batch()["triplets", name, "pixels"] for name in MEMBERS])
    valid = torch.ones(6, dtype=torch.bool)
    with loss.encoder_network_params.to_module(loss.encoder_network):
        features = loss.encoder_network.module(pixels)
    torch.testing.assert_close(loss.embed({"pixels": pixels}, valid), features.flatten(2))


def placed_batch(seed, n=64):
    """What tells the outcome is where the bright thing is, and nothing about how it looks; proprioception is noise."""
    generator = torch.Generator().manual_seed(seed)
    side = torch.arange(n) % 2 * 2 - 1
    members = {}
    for name, sides in (("anchor", side), ("positive", side), ("negative", -side)):
        features = torch.rand(n, 4, 8, 8, generator=generator)
        row, column = torch.randint(8, (n,), generator=generator), torch.randint(3, (n,), generator=generator)
        features[torch.arange(n), 3, row, torch.where(sides > 0, column, 7 - column)] = 6.0
        proprio = torch.randn(n, 3, generator=generator)
        members[name] = {"features": features, "label": torch.zeros(n), "proprio": proprio}
    return TensorDict({"triplets": {**members, "valid": torch.ones(n, dtype=torch.bool)}}, [n])


@pytest.mark.parametrize("embedding", ["glimpse", "projected"])
def test_only_an_embedding_with_places_learns_from_places(embedding):
    torch.manual_seed(0)
    module = GazeModule(FovealGaze(4, (8, 8), head=MomentsHead(4, min_sigma=0.2)))
    loss = TripletContrastiveLoss(module, encoder_module(), embedding=embedding, proprio_dim=3, coeff=1.0, margin=1.0)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    for seed in range(100):
        optimizer.zero_grad()
        loss(placed_batch(seed))["loss_contrast"].backward()
        optimizer.step()
    accuracy = loss(placed_batch(1000, n=512))["triplet_accuracy"]
    assert accuracy > 0.9 if embedding == "glimpse" else accuracy < 0.7, accuracy


def test_what_a_glimpse_compares():
    module, encoder, td = gaze_module(num_foveae=2), encoder_module(), batch(valid=[True] * 4 + [False] * 2)
    loss = TripletContrastiveLoss(module, encoder, embedding="glimpse", proprio_dim=3, projection=5)
    assert loss.member_keys == ["features", "proprio"]
    members = {key: torch.stack([td["triplets", name, key] for name in MEMBERS]) for key in loss.member_keys}
    rows = []
    for features, proprio in zip(members["features"].flatten(0, 1), members["proprio"].flatten(0, 1), strict=True):
        foveae = module.gaze(features)[3]
        axis = (2 * torch.arange(8) + 1) / 8 - 1
        seen = [(features * one).sum((-2, -1)) / one.sum() for one in foveae]
        places = [torch.stack([(one.sum(0) * axis).sum(), (one.sum(1) * axis).sum()]) / one.sum() for one in foveae]
        rows.append(loss.embedding.net(torch.cat([*seen, *places, proprio])))
    expected = torch.stack(rows).unflatten(0, (3, 6))
    expected = expected - expected[:, :4].mean((0, 1))
    torch.testing.assert_close(loss.embed(members, td["triplets", "valid"]), expected)
    assert reached(loss(td)["loss_contrast"], [module, loss.embedding]) == [True, True]


def test_a_glimpse_of_a_gaze_without_foveae_is_of_its_map():
    module, features = GazeModule(PatchGaze(4)), torch.rand(3, 6, 4, 8, 8)
    loss = TripletContrastiveLoss(module, encoder_module(), embedding="glimpse", projection=5)
    assert loss.member_keys == ["features"]
    attention, valid = module.gaze(features)[0], torch.ones(6, dtype=torch.bool)
    expected = loss.embedding(features, attention.unsqueeze(-3), valid)
    torch.testing.assert_close(loss.embed({"features": features}, valid), expected)


@pytest.mark.parametrize(("kind", "size"), [("pooled", 4), ("flat", 4 * 8 * 8), ("projected", 5)])
def test_size_and_centre_of_the_embeddings(kind, size):
    loss = TripletContrastiveLoss(gaze_module(), encoder_module(), embedding=kind, projection=5, attention="anchor")
    features, valid = torch.rand(3, 6, 4, 8, 8), torch.tensor([True] * 4 + [False] * 2)
    embeddings = loss.embed({"features": features}, valid)
    assert embeddings.shape == (3, 6, size)
    # A shift common to all features moves neither the centred features nor, with equal maps, the embedding.
    shift = 10 * torch.rand(4, 8, 8)
    attention = torch.rand(1, 6, 8, 8).expand(3, -1, -1, -1)
    embed = loss.embedding
    torch.testing.assert_close(embed(features + shift, attention, valid), embed(features, attention, valid))
    embed.center = False
    assert not torch.allclose(embed(features + shift, attention, valid), embed(features, attention, valid))


def test_the_projection_learns_with_the_gaze():
    module = gaze_module()
    loss = TripletContrastiveLoss(module, encoder_module(), embedding="projected")
    assert reached(loss(batch())["loss_contrast"], [module, loss.embedding]) == [True, True]
    assert {id(p) for p in loss.parameters()} == {id(p) for p in (*module.parameters(), *loss.embedding.parameters())}
