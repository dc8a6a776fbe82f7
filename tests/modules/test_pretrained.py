"""The pretrained encoder: cut where asked, frozen for good, weights from a local file and nowhere else."""

import copy
import pickle

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule

from gaze_torchrl.modules import ConvEncoder, PretrainedEncoder

torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")

MAKE = {"torchvision": torchvision.models.get_model, "timm": timm.create_model}
LIBRARIES = pytest.mark.parametrize("library", MAKE)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A ResNet-18 of each library, with statistics of its own, and the file of its state dict."""
    folder = tmp_path_factory.mktemp("weights")
    models = {}
    for library, make in MAKE.items():
        torch.manual_seed(0)
        model = make("resnet18")
        model(torch.randn(8, 3, 64, 64))  # moves the statistics of the batch normalisation
        path = folder / f"{library}.pt"
        torch.save(model.state_dict(), path)
        models[library] = model.eval(), str(path)
    return models


@pytest.fixture
def encoder(files):
    return PretrainedEncoder("torchvision", "resnet18", "layer2", files["torchvision"][1])


def by_hand(library, model, pixels):
    """Normalise with ImageNet's statistics, then run the children of the ResNet one by one up to layer2."""
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    features = (pixels / 255 - mean) / std
    for name, child in model.named_children():
        features = child(features)
        if name == "layer2":
            return features


@LIBRARIES
def test_features_are_those_of_the_layer(library, files):
    model, path = files[library]
    encoder = PretrainedEncoder(library, "resnet18", "layer2", path)
    pixels = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    expected = by_hand(library, model, pixels)
    assert expected.shape == (2, encoder.out_channels, *encoder.geometry(64, 96).size) == (2, 128, 8, 12)
    torch.testing.assert_close(encoder(pixels), expected)


@pytest.mark.parametrize(
    ("library", "name", "layer", "channels", "cells"),
    [
        ("torchvision", "resnet18", "layer1.0.conv1", 64, 16),  # inside a block
        ("torchvision", "mobilenet_v3_small", "features.3", 24, 8),
        ("timm", "test_resnet", "layer2", 48, 8),
    ],
)
@pytest.mark.filterwarnings("ignore:.* stays frozen at random weights")
def test_other_models_and_layers(library, name, layer, channels, cells):
    encoder = PretrainedEncoder(library, name, layer)
    assert encoder.out_channels == channels
    assert encoder(torch.rand(3, 64, 64)).shape == (channels, cells, cells)


def test_the_rest_of_the_model_is_dropped(encoder):
    assert not any("layer3" in name or "fc" in name for name in encoder.state_dict())


@pytest.mark.parametrize("lead", [(), (1,), (2, 3), (0,)])
def test_any_leading_dims(encoder, lead):
    features = encoder(torch.randint(0, 256, (*lead, 3, 64, 64), dtype=torch.uint8))
    assert features.shape == (*lead, 128, 8, 8)


def test_uint8_equals_float_over_255(encoder):
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(encoder(pixels), encoder(pixels / 255), rtol=1e-4, atol=1e-4)


def test_the_map_covers_the_whole_image(encoder):
    geometry = encoder.geometry(128, 64)
    assert geometry.size == (16, 8)
    corners = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    assert torch.equal(geometry.to_image(corners), corners)


def test_stays_frozen(encoder):
    """Nothing moves: no gradient, no graph, no statistics, whoever calls train()."""
    outer = torch.nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    before = copy.deepcopy(encoder.state_dict())
    pixels = torch.rand(4, 3, 64, 64, requires_grad=True)
    assert not outer(pixels).requires_grad
    torch.testing.assert_close(encoder.state_dict(), before, rtol=0, atol=0)


def test_what_follows_still_learns(encoder):
    head = torch.nn.Conv2d(128, 1, 1)
    head(encoder(torch.rand(2, 3, 64, 64))).sum().backward()
    assert head.weight.grad.abs().sum() > 0


def test_in_a_tensordict_module(encoder):
    module = TensorDictModule(encoder, in_keys=["pixels"], out_keys=["features"])
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(module(TensorDict({"pixels": pixels}, [2]))["features"], encoder(pixels))


def test_state_dict_and_copies(encoder):
    with pytest.warns(UserWarning, match="resnet18 stays frozen at random weights: set encoder.weights"):
        other = PretrainedEncoder()
    pixels = torch.rand(2, 3, 64, 64)
    assert not torch.equal(other(pixels), encoder(pixels))
    other.load_state_dict(encoder.state_dict())
    for same in (other, copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        torch.testing.assert_close(same(pixels), encoder(pixels))
        assert same.out_channels == encoder.out_channels
        assert not any(module.training for module in same.train().modules())
        assert not any(parameter.requires_grad for parameter in same.parameters())


def test_other_precisions(encoder):
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    expected = encoder(pixels)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(encoder(pixels).float(), expected, rtol=0.1, atol=0.1)
    torch.testing.assert_close(encoder.double()(pixels).float(), expected, rtol=1e-3, atol=1e-4)


def test_compiled_equals_eager(encoder):
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(pixels), encoder(pixels))


def test_pixels_are_checked_as_every_encoder_checks_them(encoder):
    assert isinstance(encoder, ConvEncoder)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        encoder(torch.full((3, 64, 64), 255.0))
    with pytest.raises(ValueError, match="movedim"):
        encoder(torch.zeros(64, 64, 3, dtype=torch.uint8))


def test_missing_weights_are_not_downloaded(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"encoder\.weights=.*none\.pt is no file, and nothing is downloaded"):
        PretrainedEncoder(weights=str(tmp_path / "none.pt"))


def test_weights_of_another_model(files):
    with pytest.raises(ValueError, match=r"holds no weights of encoder\.name=resnet34"):
        PretrainedEncoder(name="resnet34", weights=files["torchvision"][1])


def test_a_file_that_holds_code_is_refused(tmp_path):
    torch.save({"conv1.weight": pytest.raises}, tmp_path / "code.pt")
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        PretrainedEncoder(weights=str(tmp_path / "code.pt"))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"library": "keras"}, r"encoder\.library must be one of \['timm', 'torchvision'\], got 'keras'"),
        ({"name": "resnet19"}, r"encoder\.name must be a model of torchvision, got 'resnet19'"),
        ({"library": "timm", "name": "resnet19"}, r"encoder\.name must be a model of timm, got 'resnet19'"),
        ({"layer": "layer9"}, r"encoder\.layer must be a submodule of resnet18, got 'layer9': .*'layer2'"),
        ({"layer": "fc"}, r"encoder\.layer must put out a feature map .* got \[1, 1000\]"),
    ],
)
@pytest.mark.filterwarnings("ignore:.* stays frozen at random weights")
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        PretrainedEncoder(**options)
