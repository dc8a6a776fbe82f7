"""Any gaze with any miner, contrast, loss, readout, ...: every pair of choices is built and takes one update."""

import itertools

import pytest

from gaze_torchrl import registry
from gaze_torchrl.training.config import compose_config
from tests.training.support import TINY_COMMON, one_update

registry.load()
SMALL = ["collector.frames_per_batch=64", "loss.minibatch=32", "bank.min_steps=32", "total_frames=64", "env.horizon=4"]
OFF_POLICY = ["loss.updates_per_frame=0.05", "loss.warmup=0", "loss.replay.capacity=128"]
NO_PLACE = ("none", "global_pool", "patch", "mask", "attention_pool")  # only flatten and pool read these
UNTRAINED = ("none", "global_pool", "fixed_center")  # only the encoder can learn from triplets


def names(group):
    return [entry.name for entry in registry.entries(group)]


AXES = {
    "gaze": names("gaze"),
    "gaze/head": names("gaze/head"),
    "miner": names("miner"),
    "contrast": names("contrast"),
    "loss": ["ppo", "a2c", "kl_ppo", "sac", "redq", "crossq"],
    "labels": ["return_to_go", "episode_return", "success", "value_target"],
    "normalize": ["none", *names("normalize")],
    "key": names("key"),
    "augment": ["none", *names("augment")],
    "readout": ["flatten", "pool", "glimpse", "keypoints"],
}


def overrides(choice):
    """The command line of a choice, or None for what cannot be."""
    if choice["gaze"] in NO_PLACE and choice["readout"] in ("glimpse", "keypoints"):
        return None
    extra = OFF_POLICY if choice["loss"] in ("sac", "redq", "crossq") else ["loss.epochs=1"]
    if choice["gaze"] in UNTRAINED and choice["contrast"] != "curl":
        extra = [*extra, "contrast.target=encoder"]
    chosen = [f"{group}={name}" for group, name in choice.items() if group != "gaze/head"]
    if choice["gaze"] in ("foveal", "multi_foveal"):
        chosen.append(f"gaze/head={choice['gaze/head']}")
    return [*TINY_COMMON, *SMALL, *extra, *chosen]


def pairwise(axes):
    """Rows in which every possible pair of choices occurs at least once: greedy, and the same at every run."""
    missing = {
        frozenset({one, two})
        for (a, first), (b, second) in itertools.combinations(axes.items(), 2)
        for one in ((a, name) for name in first)
        for two in ((b, name) for name in second)
        if overrides({**DEFAULT, a: one[1], b: two[1]}) is not None
    }
    while missing:
        row = dict(min(missing, key=sorted))
        for group in sorted(set(axes) - set(row), key=lambda group: -len(axes[group])):
            gain = {
                name: sum(frozenset({(group, name), pair}) in missing for pair in row.items()) for name in axes[group]
            }
            fine = [name for name in axes[group] if overrides({**DEFAULT, **row, group: name}) is not None]
            row[group] = max(fine, key=gain.__getitem__)
        yield row
        missing -= {frozenset(pair) for pair in itertools.combinations(row.items(), 2)}


DEFAULT = {group: names[-1] for group, names in AXES.items()} | {"readout": "pool"}
ROWS = list(pairwise(AXES))


def check(choice):
    before, after, losses = one_update(compose_config(overrides(choice)))
    assert all(value == value for value in losses.values()), losses
    assert any((a != b).any() for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("choice", ROWS, ids=lambda row: "-".join(row.values()))
def test_every_pair_takes_an_update(choice):
    check(choice)


@pytest.mark.cross_product
@pytest.mark.parametrize("loss", AXES["loss"])
@pytest.mark.parametrize("contrast", AXES["contrast"])
@pytest.mark.parametrize("miner", AXES["miner"])
@pytest.mark.parametrize("gaze", AXES["gaze"])
def test_the_whole_product_takes_an_update(gaze, miner, contrast, loss):
    """About an hour: pytest -m cross_product."""
    check({**DEFAULT, "gaze": gaze, "miner": miner, "contrast": contrast, "loss": loss})
