"""What the contrastive loss is fed with: triplets mined by the run's own rules from fresh rollouts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torchrl.collectors import Collector

from gaze_torchrl.objectives.contrastive import ContrastiveLoss
from gaze_torchrl.replay import TripletReplay
from gaze_torchrl.training.agent import build_env
from gaze_torchrl.training.learner import Learner
from gaze_torchrl.training.overlay import looks_somewhere
from gaze_torchrl.viewing.pictures import Picture, picture

__all__ = ["Inspection", "Member", "ShownTriplet", "collect", "inspect_triplets"]

_STEPS = 1024  # about as many are collected
_LONGEST = 256  # steps per lane: of longer episodes the beginning
_SHOWN = 24
_SIDE = 192  # pixels

NAMES = ("anchor", "positive", "negative")


@dataclass(frozen=True)
class Member:
    """A step of a triplet.

    Args:
        picture: what was seen, and where the agent looked.
        label: what it was worth, before labels are normalised.
        normalized: as the miner saw it.
        episode, step: where it comes from.
        key_similarity: to the anchor: cosine of their keys, less the mean of all keys; of keys that are compared by
            distance d, in standard deviations, exp(-d² / 2).
        gaze_similarity: to the anchor: cosine of what the contrastive loss compares; None where it is not known.
    """

    picture: Picture
    label: float
    normalized: float
    episode: int
    step: int
    key_similarity: float
    gaze_similarity: float | None


@dataclass(frozen=True)
class ShownTriplet:
    """A triplet: where its members lie in the bank, and what there is to see of them."""

    rows: tuple[int, int, int]
    members: tuple[Member, Member, Member]

    @property
    def difference(self) -> float:
        """Between the labels of positive and negative."""
        return abs(self.members[1].label - self.members[2].label)

    @property
    def gap(self) -> float | None:
        """By how much the gaze finds the positive closer to the anchor than the negative."""
        _, positive, negative = self.members
        if positive.gaze_similarity is None or negative.gaze_similarity is None:
            return None
        return positive.gaze_similarity - negative.gaze_similarity


@dataclass(frozen=True)
class Inspection:
    """Mined triplets.

    Args:
        triplets: those shown.
        mined: how many there are.
        steps, episodes: what they were mined from.
        labels: all known labels, before they are normalised.
        normalizes: whether the miner saw them normalised.
        accuracy: share of ``compared`` triplets whose positive the gaze finds closer; None where it is not known.
        compared: how many were compared: as many as there are in a minibatch.
    """

    triplets: list[ShownTriplet]
    mined: int
    steps: int
    episodes: int
    labels: list[float]
    normalizes: bool
    accuracy: float | None
    compared: int


def collect(config: DictConfig, learner: Learner, length: int) -> TripletReplay:
    """Act with exploration noise, label and mine as the run does, and keep what was seen.

    Args:
        config: the run's configuration.
        learner: the run's, with trained networks and triplets.
        length: steps of an episode.

    Returns:
        A bank, mined once, with ``pixels`` and, where there is any, ``proprio`` for members: the networks, which do not
        change, see the rest in them.
    """
    own = learner.triplets
    assert own is not None
    length = min(length, _LONGEST)
    lanes = min(config.env.num_envs, max(4, _STEPS // length))
    rollouts = max(1, round(_STEPS / (lanes * length)))
    # Other episodes than those of the evaluation, and the same whenever the run is looked at.
    env = build_env(config, lanes, config.evaluation.seed + 1)
    torch.manual_seed(config.evaluation.seed + 1)
    seen = [key for key in ("pixels", "proprio") if key in env.observation_spec.keys()]  # noqa: SIM118 (no mapping)
    replay = TripletReplay(
        own.labels,
        own.miner,
        keys=own.keys,
        normalize=own.normalize,
        capacity=rollouts * lanes * length,
        num_triplets=own.num_triplets,
        min_steps=rollouts * lanes * length,
        members=seen,
        seed=config.seed,
    )
    # In this process, however the run collected: the environment is open already.
    frames = lanes * length
    collector = Collector(
        env,
        learner.policy(),
        frames_per_batch=frames,
        total_frames=rollouts * frames,
        auto_register_policy_transforms=False,
    )
    try:
        for rollout in collector:
            learner.prepare(rollout)
            replay.inv(rollout)
    finally:
        collector.shutdown()
    return replay


@torch.no_grad()
def inspect_triplets(learner: Learner, replay: TripletReplay) -> Inspection:
    """Triplets of a bank with all that is known of them.

    Args:
        learner: the run's, with trained networks.
        replay: what `collect` returned.
    """
    rows = replay.bank.rows
    label, known = replay.labelled()
    triplets, accuracy = _look(learner, replay, label, known) if len(replay.mined) else ([], None)
    return Inspection(
        triplets=triplets,
        mined=len(replay.mined),
        steps=len(rows),
        episodes=len(rows["episode"].unique()),
        labels=label[known].tolist(),
        normalizes=replay.normalize is not None,
        accuracy=accuracy,
        compared=min(len(replay.mined), replay.num_triplets),
    )


def _look(
    learner: Learner, replay: TripletReplay, label: Tensor, known: Tensor
) -> tuple[list[ShownTriplet], float | None]:
    """The triplets that are shown, and the accuracy of `Inspection`; labels [N] as in the bank."""
    rows = replay.bank.rows
    key = rows["key"] - rows["key"][known].mean(0)
    far = getattr(replay.keys, "metric", "cosine") == "euclidean"
    if far:
        key = key / key[known].square().mean(0).sqrt().clamp_min(torch.finfo(key.dtype).tiny)
    index = replay.bank.row(replay.mined["number"]).to(key.device)[: replay.num_triplets]
    looked = learner.agent.trunk(rows["members"][index])
    attended = _attended(learner, looked)
    shown = index[:_SHOWN]
    gazes = looks_somewhere(looked)

    def member(triplet: int, place: int) -> Member:
        anchor, row = shown[triplet, 0], shown[triplet, place]
        alike = (
            (key[anchor] - key[row]).square().sum().div(-2).exp()
            if far
            else cosine_similarity(key[anchor], key[row], 0)
        )
        return Member(
            picture=picture(looked[triplet, place], learner.agent.geometry, gazes, _SIDE),
            label=float(label[row]),
            normalized=float(replay.mined["label"][triplet, place]),
            episode=int(rows["episode"][row]),
            step=int(rows["step"][row]),
            key_similarity=float(alike),
            gaze_similarity=None if attended is None else float(attended[triplet, place]),
        )

    triplets = [
        ShownTriplet((int(anchor), int(positive), int(negative)), (member(i, 0), member(i, 1), member(i, 2)))
        for i, (anchor, positive, negative) in enumerate(shown)
    ]
    return triplets, None if attended is None else float((attended[:, 1] > attended[:, 2]).float().mean())


def _attended(learner: Learner, looked: TensorDictBase) -> Tensor | None:
    """Cosines [n, 3] to the anchor of what the contrastive loss compares; None if that is nothing the gaze sees.

    Args:
        learner: its contrast is asked.
        looked: triplets [n, 3] as the trunk saw them, as many as there are in a minibatch, over which the loss centres
            its features.
    """
    contrast = learner.contrast
    if not isinstance(contrast, ContrastiveLoss):
        return None
    members = looked.transpose(0, 1)
    valid = torch.ones(len(looked), dtype=torch.bool, device=looked["pixels"].device)
    embedded = contrast.embed({key: members[key] for key in contrast.member_keys}, valid)
    return cosine_similarity(embedded[:1], embedded, -1).T
