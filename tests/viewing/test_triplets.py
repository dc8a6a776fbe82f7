"""The triplet inspector: real frames, the run's own rules, the trained networks."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensordict import TensorDict

from gaze_torchrl.envs import ClutterEnv
from gaze_torchrl.training.agent import build_agent, build_env
from gaze_torchrl.training.checkpoints import load_networks
from gaze_torchrl.training.experiment import run_config
from gaze_torchrl.training.loop import build_learner
from gaze_torchrl.training.overlay import draw_gaze
from gaze_torchrl.viewing.triplets import collect, inspect_triplets
from tests.training.support import tiny_run


def trained(path: Path, overrides=()):
    config = run_config(path, overrides)
    env = build_env(config, 1, 0)
    learner = build_learner(config, build_agent(config, env), env)
    load_networks(path, learner.networks)
    return config, learner


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def mined(run):
    config, learner = trained(run)
    replay = collect(config, learner, 20)
    return config, learner, replay, inspect_triplets(learner, replay)


def picture(member):
    data = base64.b64decode(member.picture.source.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_members_are_frames_that_the_agent_saw(run, monkeypatch):
    seen, render = set(), ClutterEnv._render

    def remembered(self):
        pixels = render(self)
        seen.update(one.numpy().tobytes() for one in pixels)
        return pixels

    monkeypatch.setattr(ClutterEnv, "_render", remembered)
    config, learner = trained(run)
    seen.clear()
    replay = collect(config, learner, 20)
    inspection = inspect_triplets(learner, replay)
    assert len(inspection.triplets) == 24
    for triplet in inspection.triplets:
        for row in triplet.rows:
            assert replay.bank.rows["members", "pixels"][row].numpy().tobytes() in seen


@torch.no_grad()
def test_pictures_show_frame_and_gaze(mined):
    _, learner, replay, inspection = mined
    for triplet in inspection.triplets[:4]:
        for row, member in zip(triplet.rows, triplet.members, strict=True):
            step = replay.bank.rows[row]["members"].select("pixels", "proprio")
            looked = learner.agent.trunk(step)
            expected = draw_gaze(step["pixels"], looked["gaze"], learner.agent.geometry, member.picture.height)
            shown = picture(member)
            assert shown.shape == expected.shape
            assert np.abs(shown - expected).mean() < 8, "lossy, but the same"
            width = shown.shape[1] // 2
            assert np.abs(shown[:, :width] - shown[:, width:]).mean() > 20, "the gaze is drawn"


def test_triplets_are_what_the_miner_finds(mined):
    """Mined anew from the bank, and checked by hand: look-alikes of other episodes across two quantiles."""
    config, _, replay, inspection = mined
    rows, (labels, known) = replay.bank.rows, replay.labelled()
    again = replay.miner(
        rows["key"], labels, known, rows["episode"], rows["step"], torch.Generator().manual_seed(config.seed)
    )
    found = torch.stack(again[:3], -1)[again.valid]
    assert inspection.mined == len(found)
    assert [list(triplet.rows) for triplet in inspection.triplets] == found[:24].tolist()
    low, high = torch.quantile(labels[known], torch.tensor([config.miner.low, config.miner.high])).tolist()
    for triplet in inspection.triplets:
        anchor, positive, negative = triplet.members
        is_high = anchor.label > high
        assert is_high or anchor.label < low
        assert (positive.label > high) == is_high
        assert (positive.label < low) != is_high
        assert (negative.label < low) == is_high
        assert anchor.episode not in (positive.episode, negative.episode)
        assert anchor.key_similarity == pytest.approx(1, abs=1e-5)
        for row, member in zip(triplet.rows, triplet.members, strict=True):
            assert member.label == pytest.approx(float(labels[row]))
            assert (member.episode, member.step) == (int(rows["episode"][row]), int(rows["step"][row]))


def test_labels_bootstrap_from_the_trained_critic(run, mined):
    config, learner, replay, _ = mined
    env = build_env(config, 1, 0)
    torch.manual_seed(5)
    fresh = build_learner(config, build_agent(config, env), env)
    networks = {"critic": fresh.critic}
    before = [one.clone() for one in fresh.critic.parameters()]
    load_networks(run, networks)
    assert not all(map(torch.equal, before, fresh.critic.parameters()))
    assert all(map(torch.equal, learner.critic.parameters(), fresh.critic.parameters()))
    rows = replay.bank.rows
    seen = learner.critic(learner.agent.trunk(rows["members"].select("pixels", "proprio")))["state_value"].squeeze(-1)
    # The value of the next state, of the step that follows in the same episode.
    following = (rows["episode"][:-1] == rows["episode"][1:]) & (rows["step"][1:] == rows["step"][:-1] + 1)
    assert following.sum() > 100
    assert torch.allclose(rows["next_value"][:-1][following], seen[1:][following], atol=1e-4)


def test_what_the_gaze_tells_apart_is_what_the_loss_reports(mined):
    _, learner, replay, inspection = mined
    index = replay.bank.row(replay.mined["number"])[: replay.num_triplets]
    members = learner.agent.trunk.encoder(replay.bank.rows["members"].copy()).detach()
    triplets = {
        name: members[index[:, place]].set("label", replay.mined["label"][: len(index), place])
        for place, name in enumerate(("anchor", "positive", "negative"))
    }
    valid = torch.ones(len(index), dtype=torch.bool)
    reported = learner.contrast(TensorDict({"triplets": {**triplets, "valid": valid}}, [len(index)]))
    assert inspection.accuracy == pytest.approx(float(reported["triplet_accuracy"]))
    assert inspection.compared == len(index) == 64
    told = [triplet.gap > 0 for triplet in inspection.triplets]
    assert any(told)
    assert not all(told)


@pytest.mark.parametrize(
    "overrides",
    [
        ["loss=sac", "normalize=rank", "miner=visual"],
        ["gaze=mask", "labels=return_to_go", "normalize=running_quantile"],
        ["gaze.condition=true", "contrast.target=both", "contrast.embedding=projected"],
        ["contrast.embedding=glimpse", "key=proprio"],
        ["gaze=none", "readout=flatten", "contrast.target=encoder", "key=joint"],
        ["miner=random", "contrast.num_triplets=5"],
        ["collector=process", "collector.num_collectors=2"],
    ],
    ids=" ".join,
)
def test_other_runs(overrides, tmp_path):
    config, learner = trained(tiny_run(tmp_path / "run", *overrides, "evaluation.video_episodes=0"))
    replay = collect(config, learner, 20)
    inspection = inspect_triplets(learner, replay)
    assert len(inspection.triplets) == min(24, config.contrast.num_triplets)
    assert inspection.normalizes == any(override.startswith("normalize=") for override in overrides)
    for triplet in inspection.triplets:
        assert triplet.gap is not None
        member = triplet.members[0]
        assert (member.picture.width == member.picture.height) == ("gaze=none" in overrides)
        if inspection.normalizes:
            assert member.normalized != pytest.approx(member.label)


def test_no_triplets_where_all_labels_are_equal(run):
    config, learner = trained(run)
    learner.triplets.labels = lambda steps: (torch.zeros(len(steps)), torch.ones(len(steps), dtype=torch.bool))
    replay = collect(config, learner, 20)
    inspection = inspect_triplets(learner, replay)
    assert (inspection.triplets, inspection.mined, inspection.accuracy) == ([], 0, None)
    assert inspection.steps == len(inspection.labels) == len(replay.bank)
