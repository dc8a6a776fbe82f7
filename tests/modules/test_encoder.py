"""Encoders: one contract for all of them, what they accept, and where their cells lie."""

import copy
import pickle
import re
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import nn

from gaze_torchrl.modules import ConvEncoder, DrQCNN, FineCNN, ImpalaCNN, NatureCNN, PlainCNN, PretrainedEncoder
from gaze_torchrl.registry import entries

# The pretrained one is frozen and needs extra packages: test_pretrained.py.
ENTRIES = [entry for entry in entries("encoder") if entry.name != "pretrained"]
ENCODERS = pytest.mark.parametrize("build", [entry.target for entry in ENTRIES], ids=[entry.name for entry in ENTRIES])


def test_the_registered_ones_are_these():
    assert {entry.target for entry in ENTRIES} == {DrQCNN, FineCNN, ImpalaCNN, NatureCNN, PlainCNN}


@ENCODERS
@pytest.mark.parametrize("lead", [(), (1,), (5,), (2, 3), (0,), (2, 0)])
def test_any_leading_dims(build, lead):
    encoder = build()
    features = encoder(torch.randint(0, 256, (*lead, 3, 96, 64), dtype=torch.uint8))
    assert features.shape == (*lead, encoder.out_channels, *encoder.geometry(96, 64).size)


@ENCODERS
@pytest.mark.parametrize("side", [63, 64, 65, 84])
def test_map_size_of_odd_images(build, side):
    encoder = build()
    assert encoder(torch.rand(3, side, side)).shape[-2:] == encoder.geometry(side, side).size


@ENCODERS
def test_leading_dims_do_not_mix(build):
    encoder = build()
    pixels = torch.randint(0, 256, (2, 3, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(encoder(pixels)[1, 2], encoder(pixels[1, 2]))


@ENCODERS
def test_uint8_equals_float_over_255(build):
    encoder = build()
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(encoder(pixels), encoder(pixels / 255))


@ENCODERS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_pixels(build, dtype):
    encoder = build()
    pixels = torch.rand(2, 3, 64, 64).to(dtype)
    assert torch.equal(encoder(pixels), encoder(pixels.float()))


@ENCODERS
def test_pixels_are_not_changed(build):
    pixels = torch.rand(2, 3, 64, 64)
    before = pixels.clone()
    build()(pixels)
    assert torch.equal(pixels, before)


@ENCODERS
def test_every_parameter_learns(build):
    encoder = build()
    encoder(torch.rand(4, 3, 64, 64)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in encoder.parameters())


@ENCODERS
def test_gradcheck(build):
    encoder = build(in_channels=1).double()
    pixels = (0.1 + 0.8 * torch.rand(1, 1, 40, 40, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(encoder, pixels, eps=1e-7, fast_mode=True)


@ENCODERS
def test_autocast_is_finite(build):
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    encoder = build()
    with torch.autocast("cpu", torch.bfloat16):
        features = encoder(pixels)
    assert features.isfinite().all()
    torch.testing.assert_close(features.float(), encoder(pixels), rtol=0.1, atol=0.1)


@ENCODERS
def test_state_dict_and_copies(build):
    encoder, other = build(), build()
    other.load_state_dict(encoder.state_dict())
    pixels = torch.rand(2, 3, 64, 64)
    for same in (other, copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert torch.equal(same(pixels), encoder(pixels))
        assert same.geometry(64, 64) == encoder.geometry(64, 64)


@ENCODERS
def test_as_a_target_network(build):
    """TorchRL's losses put plain tensors in the place of the parameters."""
    encoder, other = build(), build()
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with TensorDict.from_module(other).data.to_module(encoder, preserve_module_state=False):
        assert torch.equal(encoder(pixels), other(pixels))


@ENCODERS
def test_compiled_equals_eager(build):
    encoder = build()
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(pixels), encoder(pixels))


@ENCODERS
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of pooling under vmap
def test_vmap_is_a_batch(build, dtype):
    encoder = build()
    pixels = torch.randint(0, 256, (3, 2, 3, 64, 64), dtype=torch.uint8)
    pixels = pixels if dtype == torch.uint8 else pixels / 255
    torch.testing.assert_close(torch.func.vmap(encoder)(pixels), encoder(pixels))


@ENCODERS
def test_other_image_channels(build):
    encoder = build(in_channels=6)
    assert encoder(torch.rand(2, 6, 64, 64)).shape[1] == encoder.out_channels


def linear(encoder):
    """All paths count and none is cut: positive weights, and an average where there was a maximum."""
    for parameter in encoder.double().parameters():
        nn.init.constant_(parameter, 0.01)
    for chain in [module for module in encoder.modules() if isinstance(module, nn.Sequential)]:
        for index, layer in enumerate(chain):
            if isinstance(layer, nn.MaxPool2d):
                chain[index] = nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding)
    return encoder


def assert_cell_is_where_its_gradient_is(encoder, height, width, row, column):
    geometry = encoder.geometry(height, width)
    h, w = geometry.size
    pixels = torch.full((3, height, width), 0.5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(encoder(pixels)[:, row, column].sum(), pixels)
    mass = gradient.sum(0)
    assert mass[[0, -1]].abs().sum() == mass[:, [0, -1]].abs().sum() == 0  # the border does not cut the field
    y, x = ((torch.arange(side, dtype=torch.float64) * 2 + 1) / side - 1 for side in (height, width))
    center = torch.stack([(mass.sum(0) * x).sum(), (mass.sum(1) * y).sum()]) / mass.sum()
    cell = torch.tensor([(2 * column + 1) / w - 1, (2 * row + 1) / h - 1], dtype=torch.float64)
    torch.testing.assert_close(geometry.to_image(cell), center)


@ENCODERS
def test_geometry_is_where_the_receptive_fields_are(build):
    """The gradient of one cell covers a patch of pixels whose middle is the cell's place."""
    encoder = linear(build())
    h, w = encoder.geometry(192, 160).size
    assert_cell_is_where_its_gradient_is(encoder, 192, 160, h // 2, w // 2 - 1)


@given(
    layers=st.lists(
        st.tuples(
            st.sampled_from(["pool", "convolution", "same"]),
            *(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 3), st.booleans()),
        ),
        min_size=1,
        max_size=3,
    )
)
@settings(max_examples=25, deadline=None)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_geometry_of_any_stack_of_convolutions_and_poolings(layers):
    modules: list[nn.Module] = [nn.Conv2d(3, 2, 1)]
    for kind, kernel, stride, padding, dilation, nested in layers:
        if kind == "pool":
            layer = nn.MaxPool2d(kernel, stride, min(padding, kernel // 2))
        elif kind == "same":
            layer = nn.Conv2d(2, 2, kernel, padding="same", dilation=dilation)
        else:
            layer = nn.Conv2d(2, 2, (kernel, 3), (stride, 2), (padding, 1), (dilation, 2))
        modules.append(nn.Sequential(nn.Identity(), nn.Sequential(layer)) if nested else layer)
    encoder = linear(ConvEncoder(*modules))
    size = h, w = encoder.geometry(256, 257).size
    assert encoder(torch.rand(3, 256, 257)).shape[-2:] == size
    assert_cell_is_where_its_gradient_is(encoder, 256, 257, h // 2, w // 2)


@pytest.mark.parametrize("side", [63, 64, 65])
@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(3, 2, 3, stride=2, dilation=2),),
        (nn.Conv2d(3, 2, 3, padding=1), nn.MaxPool2d(3, 2, dilation=2)),
        (nn.Sequential(nn.Conv2d(3, 2, 3, stride=4, padding=1)),),
        (nn.Conv2d(3, 2, 3, padding="valid"), nn.BatchNorm2d(2), nn.Sequential(nn.AvgPool2d(3))),
    ],
    ids=["dilated convolution", "dilated pooling", "nested", "valid"],
)
def test_map_size_of_what_a_stack_may_hold(layers, side):
    encoder = ConvEncoder(*layers)
    assert encoder.geometry(side, side).size == encoder(torch.rand(2, 3, side, side)).shape[-2:]


def test_geometry_leaves_the_encoder_alone():
    encoder = ConvEncoder(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))
    before = copy.deepcopy(encoder.state_dict())
    encoder.geometry(32, 32)
    torch.testing.assert_close(dict(encoder.state_dict()), dict(before), rtol=0, atol=0)


class Residual(nn.Sequential):
    def forward(self, features):
        return features + super().forward(features)


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (nn.MaxPool2d(2, ceil_mode=True), r"poolings without ceil_mode.*MaxPool2d\(kernel_size=2"),
        (nn.Upsample(scale_factor=2), r"64x64 pixels Upsample.* makes a map of 128x128 cells where 64x64 are expected"),
        (nn.Sequential(nn.ZeroPad2d((1, 0, 0, 0))), r"ZeroPad2d.* makes a map of 64x65 cells where 64x64 are"),
    ],
    ids=["ceil_mode", "upsample", "padding"],
)
def test_geometry_of_what_it_cannot_tell_is_refused(layer, match):
    with pytest.raises(ValueError, match=re.compile(match, re.DOTALL)):
        ConvEncoder(nn.Conv2d(3, 2, 1), layer).geometry(64, 64)


def test_a_residual_block_may_be_a_chain():
    encoder = linear(ConvEncoder(nn.Conv2d(3, 2, 1), Residual(nn.Conv2d(2, 2, 3, padding=1))))
    assert_cell_is_where_its_gradient_is(encoder, 16, 16, 8, 8)


@pytest.mark.parametrize(
    ("encoder", "side", "size"),
    [
        (FineCNN(), 64, 16),
        (NatureCNN(), 128, 12),
        (PlainCNN(), 64, 4),
        (PlainCNN((4, 2, 2, 2)), 128, 4),
        (PlainCNN((2, 2, 1, 1)), 64, 16),
        (ImpalaCNN(), 64, 8),
        (ImpalaCNN((16, 32)), 64, 16),
        (DrQCNN(), 84, 35),
    ],
)
def test_map_sizes(encoder, side, size):
    assert encoder.geometry(side, side).size == (size, size)
    assert encoder(torch.rand(3, side, side)).shape[-2:] == (size, size)


def test_plain_is_maniskills_network():
    encoder = PlainCNN((4, 2, 2, 2))
    theirs = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4, 4)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)),
        *(nn.Conv2d(64, 64, 1), nn.ReLU()),
    )
    theirs.load_state_dict(encoder.layers.state_dict())
    pixels = torch.rand(2, 3, 128, 128)
    torch.testing.assert_close(encoder(pixels), theirs(2 * pixels - 1))


def test_residual_blocks_start_from_their_input():
    encoder = ImpalaCNN((4,))
    for name, parameter in encoder.named_parameters():
        if "residual" in name:
            nn.init.zeros_(parameter)
    pixels = torch.rand(2, 3, 32, 32)
    plain = nn.functional.max_pool2d(encoder.layers[0](2 * pixels - 1), 3, 2, 1).relu()
    torch.testing.assert_close(encoder(pixels), plain)


def test_default_map_is_fine_enough_to_point_with():
    assert min(FineCNN().geometry(64, 64).size) >= 12


@pytest.mark.parametrize(
    ("pixels", "error", "match"),
    [
        (torch.zeros(3, 64, 64, dtype=torch.int64), TypeError, "uint8 or float, got torch.int64"),
        (torch.full((3, 64, 64), 255.0), ValueError, r"in \[0, 1\], got values in \[255, 255\]"),
        (torch.full((3, 64, 64), -0.1), ValueError, r"in \[0, 1\]"),
        (torch.full((3, 64, 64), float("nan")), ValueError, r"in \[0, 1\]"),
        (torch.zeros(64, 64, 3, dtype=torch.uint8), ValueError, "movedim"),
        (torch.zeros(64, 64, dtype=torch.uint8), ValueError, r"\[\*, 3, H, W\]"),
    ],
)
@ENCODERS
def test_bad_pixels(build, pixels, error, match):
    with pytest.raises(error, match=match):
        build()(pixels)


@ENCODERS
def test_image_too_small(build):
    with pytest.raises(ValueError, match=r"env\.image_size"):
        build().geometry(64, 0)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: FineCNN((0, 8)), r"encoder\.channels\[0\] must be positive, got 0"),
        (lambda: PlainCNN(pools=(2, 2)), r"encoder\.pools must be four numbers of at least 1, got \[2, 2\]"),
        (lambda: PlainCNN(pools=(2, 2, 2, 0)), r"encoder\.pools must be .* got \[2, 2, 2, 0\]"),
        (lambda: PlainCNN(channels=(8, 8)), r"encoder\.channels must be four"),
        (lambda: ImpalaCNN(()), r"encoder\.channels must be one or more .* got \[\]"),
        (lambda: ImpalaCNN((8, 0)), r"encoder\.channels must be .* got \[8, 0\]"),
        (lambda: DrQCNN(0), r"encoder\.channels must be positive, got 0"),
    ],
)
def test_bad_options(build, match):
    with pytest.raises(ValueError, match=match):
        build()


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)  # makes its import fail
    with pytest.raises(ImportError, match=r'pip install "gaze_torchrl\[pretrained\]"'):
        PretrainedEncoder()
