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


def effective(choice):
    """The choices that have an effect beside the others."""
    idle = {"gaze/head"} if choice["gaze"] not in ("foveal", "multi_foveal") else set()
    if choice["contrast"] == "curl":  # works without triplets
        idle |= {"miner", "labels", "normalize", "key"}
    return {group: name for group, name in choice.items() if group not in idle}


def possible(choice):
    return choice["gaze"] not in NO_PLACE or choice["readout"] not in ("glimpse", "keypoints")


def overrides(choice):
    """The command line of a choice."""
    extra = OFF_POLICY if choice["loss"] in ("sac", "redq", "crossq") else ["loss.epochs=1"]
    if choice["gaze"] in UNTRAINED and choice["contrast"] != "curl":
        extra = [*extra, "contrast.target=encoder"]
    return [*TINY_COMMON, *SMALL, *extra, *(f"{group}={name}" for group, name in effective(choice).items())]


def pairs(choice):
    return {frozenset(pair) for pair in itertools.combinations(effective(choice).items(), 2)}


def pairwise(axes):
    """Rows in which every possible pair of choices occurs at least once: greedy, and the same at every run."""
    alone = {frozenset({(group, name)}) for group, names in axes.items() for name in names}
    wanted = {one | two for one in alone for two in alone}
    missing = {pair for pair in wanted if possible(DEFAULT | dict(pair)) and pair in pairs(DEFAULT | dict(pair))}
    while missing:
        row = dict(sorted(min(missing, key=sorted)))
        for group in sorted(set(axes) - set(row), key=lambda group: (-len(axes[group]), group)):
            fine = [name for name in axes[group] if possible({**DEFAULT, **row, group: name})]
            row[group] = max(fine, key=lambda name: len(pairs({**DEFAULT, **row, group: name}) & missing))
        yield row
        missing -= pairs(row)


DEFAULT = {group: names[-1] for group, names in AXES.items()} | {
    "gaze": "multi_foveal",
    "contrast": "triplet",
    "readout": "pool",
}
ROWS = list(pairwise(AXES))


def check(choice):
    before, after, losses = one_update(compose_config(overrides(choice)))
    assert all(value == value for value in losses.values()), losses
    assert any((a != b).any() for a, b in zip(before, after, strict=True))
    # The untrained policy never succeeds, and its returns differ less than the fixed gaps of anchor_relative.
    if choice["contrast"] != "curl" and choice["labels"] != "success" and choice["miner"] != "anchor_relative":
        assert losses["triplet_valid"] > 0
        assert losses["loss_contrast"] != 0


def test_every_pair_is_in_a_row():
    """The greedy search loses none: each component stands beside each other one that it can stand beside."""
    covered = set().union(*map(pairs, ROWS))
    for (a, first), (b, second) in itertools.combinations(AXES.items(), 2):
        for pair in itertools.product([(a, name) for name in first], [(b, name) for name in second]):
            choice = DEFAULT | dict(pair)
            assert frozenset(pair) in covered or frozenset(pair) not in pairs(choice) or not possible(choice), pair


@pytest.mark.parametrize("choice", ROWS, ids=lambda row: "-".join(row.values()))
def test_every_pair_takes_an_update(choice):
    check(choice)


@pytest.mark.thorough
@pytest.mark.parametrize("loss", AXES["loss"])
@pytest.mark.parametrize("contrast", AXES["contrast"])
@pytest.mark.parametrize("miner", AXES["miner"])
@pytest.mark.parametrize("gaze", AXES["gaze"])
def test_the_whole_product_takes_an_update(gaze, miner, contrast, loss):
    """About ten minutes."""
    check({**DEFAULT, "gaze": gaze, "miner": miner, "contrast": contrast, "loss": loss})
