"""Labels against a brute-force loop, whatever the order, the lanes and the borders of the data."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from gaze_torchrl.replay import EpisodeReturn, ReturnToGo, Success, ValueTarget, label_steps


def episodes(generator: torch.Generator, count: int, max_length: int = 9) -> list[dict]:
    """Random trajectories: some end, some are cut by a time limit, some are still running."""
    out = []
    for _ in range(count):
        length = int(torch.randint(1, max_length + 1, (), generator=generator))
        end = ["terminated", "truncated", "unfinished"][int(torch.randint(3, (), generator=generator))]
        rewards = torch.randn(length, generator=generator, dtype=torch.float64).tolist()
        values = torch.randn(length, generator=generator, dtype=torch.float64).tolist()
        success = (torch.rand(length, generator=generator) < 0.2).tolist()
        out.append({"end": end, "reward": rewards, "next_value": values, "success": success})
    return out


def interleave(trajectories: list[dict], generator: torch.Generator) -> TensorDict:
    """Rows of all trajectories in a random order of writing that keeps each one's time order."""
    cursors = [0] * len(trajectories)
    rows = []
    while open_ones := [i for i, t in enumerate(trajectories) if cursors[i] < len(t["reward"])]:
        i = open_ones[int(torch.randint(len(open_ones), (), generator=generator))]
        t, trajectory = cursors[i], trajectories[i]
        over = t == len(trajectory["reward"]) - 1 and trajectory["end"] != "unfinished"
        rows.append(
            {
                "trajectory": 1000 - i,
                "step": t,
                "reward": trajectory["reward"][t],
                "next_value": trajectory["next_value"][t],
                "success": trajectory["success"][t],
                "done": over,
                "terminated": over and trajectory["end"] == "terminated",
            }
        )
        cursors[i] += 1
    steps = TensorDict({key: torch.tensor([row[key] for row in rows]) for key in rows[0]}, [len(rows)])
    for key in ("reward", "next_value"):
        steps[key] = torch.tensor([row[key] for row in rows], dtype=torch.float64)
    return steps.set("written", torch.arange(len(rows)))


def brute_return(trajectory: dict, t: int, gamma: float) -> float:
    return sum(gamma ** (i - t) * r for i, r in enumerate(trajectory["reward"]) if i >= t)


def brute_bootstrapped(trajectory: dict, t: int, gamma: float) -> float:
    value = trajectory["next_value"][-1] if trajectory["end"] == "truncated" else 0.0
    return brute_return(trajectory, t, gamma) + gamma ** (len(trajectory["reward"]) - t) * value


def brute_lambda(trajectory: dict, t: int, gamma: float, lmbda: float) -> float:
    last = len(trajectory["reward"]) - 1
    value = 0.0 if t == last and trajectory["end"] == "terminated" else trajectory["next_value"][t]
    if t == last:
        return trajectory["reward"][t] + gamma * value
    onward = brute_lambda(trajectory, t + 1, gamma, lmbda)
    return trajectory["reward"][t] + gamma * ((1 - lmbda) * value + lmbda * onward)


def check(trajectories: list[dict], steps: TensorDict, gamma: float, lmbda: float) -> None:
    """Every label of every stored step; where the first steps of an episode are gone, some cannot be known."""
    labels = {
        "to_go": ReturnToGo(gamma),
        "to_go_masked": ReturnToGo(gamma, truncation="mask"),
        "to_go_bootstrapped": ReturnToGo(gamma, truncation="bootstrap"),
        "episode": EpisodeReturn(gamma),
        "episode_masked": EpisodeReturn(gamma, truncation="mask"),
        "episode_bootstrapped": EpisodeReturn(gamma, truncation="bootstrap"),
        "once": Success("once"),
        "at_end": Success("at_end"),
        "target": ValueTarget(gamma, lmbda),
    }
    found = {name: label_steps(steps, label) for name, label in labels.items()}
    whole = {int(t) for t, step in zip(steps["trajectory"], steps["step"], strict=True) if step == 0}
    for row in range(len(steps)):
        number, t = int(steps["trajectory"][row]), int(steps["step"][row])
        trajectory = trajectories[1000 - number]
        ended, terminated = trajectory["end"] != "unfinished", trajectory["end"] == "terminated"
        is_whole = number in whole
        expected = {
            "to_go": (ended, brute_return(trajectory, t, gamma)),
            "to_go_masked": (terminated, brute_return(trajectory, t, gamma)),
            "to_go_bootstrapped": (ended, brute_bootstrapped(trajectory, t, gamma)),
            "episode": (ended and is_whole, brute_return(trajectory, 0, gamma)),
            "episode_masked": (terminated and is_whole, brute_return(trajectory, 0, gamma)),
            "episode_bootstrapped": (ended and is_whole, brute_bootstrapped(trajectory, 0, gamma)),
            "once": (ended and is_whole, any(trajectory["success"])),
            "at_end": (ended, trajectory["success"][-1]),
            "target": (True, brute_lambda(trajectory, t, gamma, lmbda)),
        }
        for name, (known, value) in expected.items():
            label, is_known = (column[row].item() for column in found[name])
            assert is_known == known, name
            if known:
                assert label == pytest.approx(float(value), abs=1e-9), name


def test_no_wrong_label_in_hundreds_of_ragged_streams():
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        trajectories = episodes(generator, count=int(torch.randint(1, 5, (), generator=generator)))
        gamma, lmbda = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        check(trajectories, interleave(trajectories, generator), gamma, lmbda)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**31), gamma=st.sampled_from([0.0, 0.5, 1.0]), lmbda=st.sampled_from([0.0, 0.9, 1.0]))
def test_storage_order_does_not_matter(seed, gamma, lmbda):
    """A ring that has wrapped holds the rows in another order: `written` alone tells the time."""
    generator = torch.Generator().manual_seed(seed)
    trajectories = episodes(generator, count=3)
    steps = interleave(trajectories, generator)
    shuffled = steps[torch.randperm(len(steps), generator=generator)]
    check(trajectories, shuffled, gamma, lmbda)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**31), kept=st.integers(1, 20))
def test_what_the_ring_has_overwritten_makes_no_wrong_label(seed, kept):
    generator = torch.Generator().manual_seed(seed)
    trajectories = episodes(generator, count=4)
    check(trajectories, interleave(trajectories, generator)[-kept:], 0.9, 0.8)


def test_truncation_bootstraps_and_termination_does_not():
    base = {"trajectory": torch.zeros(1, dtype=torch.int64), "written": torch.arange(1), "reward": torch.ones(1)}
    for terminated, expected in ((True, 1.0), (False, 1.0 + 0.5 * 8.0)):
        flags = {"done": torch.tensor([True]), "terminated": torch.tensor([terminated])}
        steps = TensorDict({**base, **flags, "next_value": torch.tensor([8.0])}, [1])
        assert label_steps(steps, ValueTarget(0.5, 0.9))[0].item() == expected


@pytest.mark.parametrize(
    ("label", "match"),
    [
        (ValueTarget(0.9, 0.9), "labels=value_target needs the critic.*GAE.*labels=return_to_go"),
        (ReturnToGo(0.9, "bootstrap"), "labels.truncation=bootstrap needs the critic.*GAE.*labels.truncation=sum"),
        (EpisodeReturn(truncation="bootstrap"), "labels.truncation=bootstrap needs the critic"),
        (Success(), r"labels=success needs \('next', 'success'\).*ManiSkillEnv"),
    ],
)
def test_missing_column_says_who_writes_it(label, match):
    steps = TensorDict(
        {
            "trajectory": torch.zeros(1, dtype=torch.int64),
            "step": torch.zeros(1, dtype=torch.int64),
            "reward": torch.ones(1),
            "done": torch.tensor([True]),
            "terminated": torch.tensor([True]),
        },
        [1],
    )
    with pytest.raises(KeyError, match=match):
        label(steps)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: ReturnToGo(1.5), r"labels\.gamma must lie in \[0, 1\], got 1\.5"),
        (
            lambda: ReturnToGo(0.9, truncation="cut"),
            r"labels\.truncation must be 'sum', 'mask' or 'bootstrap', got 'cut'",
        ),
        (lambda: EpisodeReturn(gamma=-1), r"labels\.gamma must lie in \[0, 1\], got -1"),
        (lambda: Success("twice"), r"labels\.when must be 'once' or 'at_end', got 'twice'"),
        (lambda: ValueTarget(0.9, -0.1), r"labels\.lmbda"),
    ],
)
def test_bad_options(build, match):
    with pytest.raises(ValueError, match=match):
        build()
