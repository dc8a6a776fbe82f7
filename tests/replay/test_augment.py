"""Augmentations on real TorchRL buffers: samples change, the data do not."""

import copy
import pickle

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import LazyMemmapStorage, LazyTensorStorage, ListStorage, ReplayBuffer, TensorDictReplayBuffer

from gaze_torchrl import functional
from gaze_torchrl.registry import entries
from gaze_torchrl.replay import ColorJitter, Overlay, RandomConv, RandomShift

ENTRIES = list(entries("augment"))
EVERY = pytest.mark.parametrize("build", [entry.target for entry in ENTRIES], ids=[entry.name for entry in ENTRIES])


def data(*batch, dtype=torch.uint8):
    def pixels():
        images = torch.randint(0, 256, (*batch, 3, 12, 16), dtype=torch.uint8)
        return images if dtype == torch.uint8 else (images / 255).to(dtype)

    return TensorDict(
        {
            "pixels": pixels(),
            "action": torch.randn(*batch, 2),
            "nested": {"pixels": pixels()},
            "next": {"pixels": pixels(), "reward": torch.randn(*batch, 1)},
        },
        batch,
    )


def filled(transform, storage=None, buffer_class=TensorDictReplayBuffer, steps=16):
    buffer = buffer_class(storage=storage or LazyTensorStorage(steps), batch_size=8)
    buffer.append_transform(transform)
    source = data(steps)
    source["index_of"] = torch.arange(steps)
    buffer.extend(source)
    return buffer, source


def test_the_registered_ones_are_these():
    assert {entry.target for entry in ENTRIES} == {ColorJitter, Overlay, RandomConv, RandomShift}


@EVERY
@pytest.mark.parametrize("buffer_class", [TensorDictReplayBuffer, ReplayBuffer])
@pytest.mark.parametrize("storage", [LazyTensorStorage, LazyMemmapStorage, ListStorage])
def test_samples_change_and_the_storage_does_not(build, storage, buffer_class):
    buffer, source = filled(build(), storage(16), buffer_class)
    looks = []
    for _ in range(3):
        sample = buffer.sample()
        rows = sample["index_of"]
        looks.append(sample["pixels"].clone())
        assert sample["pixels"].dtype == torch.uint8
        for key in ("pixels", ("next", "pixels")):
            assert not torch.equal(sample[key], source[key][rows])
        for key in ("action", ("nested", "pixels"), ("next", "reward")):
            assert torch.equal(sample[key], source[key][rows])
    assert not torch.equal(looks[0], looks[1])
    for row in range(16):
        stored = buffer.storage[row]
        for key in ("pixels", ("next", "pixels")):
            assert torch.equal(stored[key], source[key][row])


@EVERY
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("batch", [(6,), (2, 3), (0,)])
def test_any_batch_size_and_dtype(build, batch, dtype):
    td = data(*batch, dtype=dtype)
    kept = td.clone()
    out = build()(td)
    assert out.batch_size == td.batch_size
    assert (out["pixels"].shape, out["pixels"].dtype) == (td["pixels"].shape, dtype)
    assert (td == kept).all()


def test_the_functions_do_it():
    td = data(6)
    for transform, function in (
        (RandomShift(pad=2, seed=3), lambda images, g: functional.random_shift(images, 2, g)),
        (
            ColorJitter(0.1, 0.2, 0.3, 0.4, seed=3),
            lambda images, g: functional.color_jitter(images, 0.1, 0.2, 0.3, 0.4, g),
        ),
        (RandomConv(seed=3), functional.random_conv),
        (Overlay(alpha=0.3, seed=3), lambda images, g: functional.overlay(images, 0.3, g)),
    ):
        generator = torch.Generator().manual_seed(3)
        out = transform(td)
        for key in ("pixels", ("next", "pixels")):
            assert torch.equal(out[key], function(td[key], generator))


@EVERY
def test_now_and_next_are_drawn_apart(build):
    td = data(6)
    td["next", "pixels"] = td["pixels"].clone()
    out = build()(td)
    assert not torch.equal(out["pixels"], out["next", "pixels"])


@EVERY
def test_other_keys(build):
    td = data(6)
    out = build(keys=[("nested", "pixels")])(td)
    assert not torch.equal(out["nested", "pixels"], td["nested", "pixels"])
    assert torch.equal(out["pixels"], td["pixels"])


@EVERY
def test_a_missing_key_is_passed_over_and_none_at_all_is_an_error(build):
    td = data(6).exclude(("next", "pixels"))
    out = build()(td)
    assert not torch.equal(out["pixels"], td["pixels"])
    assert set(out.keys(True, True)) == set(td.keys(True, True))
    with pytest.raises(KeyError, match=r"found none of .*'pixels'.* in the sample: set keys="):
        build()(data(6).select("action"))


@EVERY
def test_training_mode_does_not_matter(build):
    td = data(6)
    assert torch.equal(build(seed=1).train()(td)["pixels"], build(seed=1).eval()(td)["pixels"])


@EVERY
def test_a_resumed_run_goes_on_exactly(build):
    buffer, _ = filled(build(seed=1))
    buffer.sample()
    state = copy.deepcopy(buffer.state_dict())
    other, _ = filled(build(seed=2))
    other.load_state_dict(state)
    for _ in range(2):
        torch.manual_seed(7)  # the rows drawn are the sampler's
        expected = buffer.sample()
        torch.manual_seed(7)
        assert (other.sample() == expected).all()


@EVERY
def test_pickling_and_copies_keep_the_generator(build):
    transform, td = build(seed=1), data(6)
    transform(td)
    copies = [pickle.loads(pickle.dumps(transform)), copy.deepcopy(transform)]
    expected = transform(td)
    for same in copies:
        assert torch.equal(same(td)["pixels"], expected["pixels"])


def test_seeds_differ():
    td = data(6)
    looks = [RandomShift(seed=seed)(td)["pixels"] for seed in (0, 0, 1)]
    assert torch.equal(looks[0], looks[1])
    assert not torch.equal(looks[0], looks[2])


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: RandomShift(0), r"augment\.pad must be positive, got 0"),
        (lambda: ColorJitter(brightness=1.5), r"augment\.brightness must lie in \[0, 1\], got 1.5"),
        (lambda: ColorJitter(saturation=-0.1), r"augment\.saturation must lie in \[0, 1\], got -0.1"),
        (lambda: ColorJitter(hue=0.6), r"augment\.hue must lie in \[0, 0.5\], got 0.6"),
        (lambda: Overlay(1.0), r"augment\.alpha must lie in \[0, 1\), got 1.0"),
    ],
)
def test_bad_options(build, match):
    with pytest.raises(ValueError, match=match):
        build()
