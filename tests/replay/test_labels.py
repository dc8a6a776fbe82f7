"""Labels against a brute-force loop, whatever the order, the lanes and the borders of the data."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from gaze_torchrl.replay import ReturnToGo, ValueTarget, label_steps


def episodes(generator: torch.Generator, count: int, max_length: int = 9) -> list[dict]:
    """Random trajectories: some end, some are cut by a time limit, some are still running."""
    out = []
    for _ in range(count):
        length = int(torch.randint(1, max_length + 1, (), generator=generator))
        end = ["terminated", "truncated", "unfinished"][int(torch.randint(3, (), generator=generator))]
        rewards = torch.randn(length, generator=generator, dtype=torch.float64).tolist()
        values = torch.randn(length, generator=generator, dtype=torch.float64).tolist()
        out.append({"end": end, "reward": rewards, "next_value": values})
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
                "time": t,
                "reward": trajectory["reward"][t],
                "next_value": trajectory["next_value"][t],
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


def brute_lambda(trajectory: dict, t: int, gamma: float, lmbda: float) -> float:
    last = len(trajectory["reward"]) - 1
    value = 0.0 if t == last and trajectory["end"] == "terminated" else trajectory["next_value"][t]
    if t == last:
        return trajectory["reward"][t] + gamma * value
    onward = brute_lambda(trajectory, t + 1, gamma, lmbda)
    return trajectory["reward"][t] + gamma * ((1 - lmbda) * value + lmbda * onward)


def check(trajectories: list[dict], steps: TensorDict, gamma: float, lmbda: float) -> None:
    to_go, to_go_known = label_steps(steps, ReturnToGo(gamma))
    masked, masked_known = label_steps(steps, ReturnToGo(gamma, truncation="mask"))
    target, target_known = label_steps(steps, ValueTarget(gamma, lmbda))
    assert target_known.all()
    for row in range(len(steps)):
        trajectory, t = trajectories[1000 - int(steps["trajectory"][row])], int(steps["time"][row])
        end = trajectory["end"]
        assert bool(to_go_known[row]) == (end != "unfinished")
        assert bool(masked_known[row]) == (end == "terminated")
        if end != "unfinished":
            assert to_go[row].item() == pytest.approx(brute_return(trajectory, t, gamma), abs=1e-9)
        if end == "terminated":
            assert masked[row].item() == pytest.approx(brute_return(trajectory, t, gamma), abs=1e-9)
        assert target[row].item() == pytest.approx(brute_lambda(trajectory, t, gamma, lmbda), abs=1e-9)


def test_no_wrong_label_in_a_thousand_ragged_streams():
    generator = torch.Generator().manual_seed(0)
    for _ in range(1000):
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


def test_truncation_bootstraps_and_termination_does_not():
    base = {"trajectory": torch.zeros(1, dtype=torch.int64), "written": torch.arange(1), "reward": torch.ones(1)}
    for terminated, expected in ((True, 1.0), (False, 1.0 + 0.5 * 8.0)):
        flags = {"done": torch.tensor([True]), "terminated": torch.tensor([terminated])}
        steps = TensorDict({**base, **flags, "next_value": torch.tensor([8.0])}, [1])
        assert label_steps(steps, ValueTarget(0.5, 0.9))[0].item() == expected


def test_value_target_without_values_says_who_writes_them():
    steps = TensorDict(
        {
            "trajectory": torch.zeros(1, dtype=torch.int64),
            "reward": torch.ones(1),
            "done": torch.tensor([True]),
            "terminated": torch.tensor([True]),
        },
        [1],
    )
    with pytest.raises(KeyError, match="GAE"):
        ValueTarget(0.9, 0.9)(steps)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: ReturnToGo(1.5), r"labels\.gamma must lie in \[0, 1\], got 1\.5"),
        (lambda: ReturnToGo(0.9, truncation="bootstrap"), r"labels\.truncation must be 'sum' or 'mask'"),
        (lambda: ValueTarget(0.9, -0.1), r"labels\.lmbda"),
    ],
)
def test_bad_options(build, match):
    with pytest.raises(ValueError, match=match):
        build()
