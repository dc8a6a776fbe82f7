import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrl.objectives.value.functional import reward2go, td_lambda_return_estimate

from gaze_torchrl.functional import (
    discounted_return,
    known_return,
    lambda_return,
    reverse_scan,
    segment_end,
    segment_start,
)

F64 = torch.float64
FACTORS = [0.0, 0.5, 0.9, 0.99, 1.0]


def ragged_stream(steps: int) -> dict[str, torch.Tensor]:
    """Segments of random lengths that end in a terminal state, in a time limit or without ``done``."""
    flip = torch.rand(4, steps)
    border = flip[0] < torch.rand(()) * 0.5
    done = border & (flip[1] < 0.6)
    return {
        "reward": torch.randn(steps, dtype=F64),
        "next_value": torch.randn(steps, dtype=F64),
        "segment": 100 - (border.cumsum(0) - border.long()),
        "done": done,
        "terminated": done & (flip[2] < 0.5),
    }


def labels_by_loop(stream: dict[str, torch.Tensor], gamma: float, lmbda: float) -> dict[str, list]:
    """Walk from every step to the end of its segment, term by term."""
    data = {key: value.tolist() for key, value in stream.items()}
    steps = len(data["reward"])
    labels: dict[str, list] = {"discounted": [], "known": [], "lambda": []}
    for start in range(steps):
        end = start
        while not data["done"][end] and end + 1 < steps and data["segment"][end + 1] == data["segment"][end]:
            end += 1
        total, mixture, weight = 0.0, 0.0, 1.0
        for t in range(start, end + 1):
            n = t - start
            total += gamma**n * data["reward"][t]
            n_step = total + gamma ** (n + 1) * (0.0 if data["terminated"][t] else data["next_value"][t])
            share = weight if t == end else weight * (1 - lmbda)
            mixture += share * n_step
            weight *= lmbda
        labels["discounted"].append(total)
        labels["known"].append(data["done"][end])
        labels["lambda"].append(mixture)
    return labels


def test_no_wrong_label_in_a_thousand_ragged_streams() -> None:
    seen = {True: 0, False: 0}
    for number in range(1000):
        stream = ragged_stream(int(torch.randint(1, 33, ())))
        gamma, lmbda = FACTORS[number % 5], FACTORS[number // 5 % 5]
        expected = labels_by_loop(stream, gamma, lmbda)
        last = segment_end(stream["segment"], stream["done"])
        discounted = discounted_return(stream["reward"], last, gamma)
        mixture = lambda_return(stream["reward"], stream["next_value"], last, stream["terminated"], gamma, lmbda)
        assert discounted.tolist() == pytest.approx(expected["discounted"], abs=1e-12)
        assert mixture.tolist() == pytest.approx(expected["lambda"], abs=1e-12)
        assert known_return(last, stream["done"]).tolist() == expected["known"]
        for flag in expected["known"]:
            seen[flag] += 1
    assert min(seen.values()) > 1000  # both kinds of label were really there


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 70), st.integers(0, 2**31))
def test_scan_solves_the_recurrence(steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    coefficient = torch.randn(steps, dtype=F64, generator=generator)
    value = torch.randn(steps, dtype=F64, generator=generator)
    scanned, following = reverse_scan(coefficient, value).tolist(), 0.0
    for t in reversed(range(steps)):
        following = value[t].item() + coefficient[t].item() * following
        assert scanned[t] == pytest.approx(following, rel=1e-9, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 70),
    st.sampled_from([float("nan"), float("inf"), -float("inf")]),
    st.sampled_from(FACTORS[1:]),
    st.integers(0, 2**31),
)
def test_a_bad_segment_does_not_spoil_the_others(steps: int, bad: float, factor: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    last = torch.rand(steps, generator=generator) < 0.3
    reward, next_value = torch.randn(2, steps, dtype=F64, generator=generator)
    place = int(torch.randint(steps, (), generator=generator))
    start = segment_start(last)
    # By definition: the steps of the bad one's segment, up to it.
    spoilt = (start == start[place]) & (torch.arange(steps) <= place)
    worse = reward.clone()
    worse[place] = bad
    for function in (
        lambda reward: discounted_return(reward, last, factor),
        lambda reward: lambda_return(reward, next_value, last, last, factor, 0.9),
        lambda reward: lambda_return(reward, next_value, last, torch.zeros_like(last), factor, 0.9),
    ):
        found = function(worse.requires_grad_())
        assert found.isfinite().tolist() == (~spoilt).tolist()
        torch.testing.assert_close(found[~spoilt], function(reward)[~spoilt])
        (gradient,) = torch.autograd.grad(found[~spoilt].sum(), worse)
        assert gradient.isfinite().all()


def test_nothing_is_carried_where_the_coefficient_is_zero_but_its_gradient_is_there() -> None:
    coefficient = torch.tensor([0.0, 0.5, 0.0, 0.0], dtype=F64, requires_grad=True)
    value = torch.randn(4, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(reverse_scan, (coefficient, value))


def test_scan_does_not_write_to_its_arguments() -> None:
    coefficient, value = torch.rand(9), torch.rand(9)
    before = coefficient.clone(), value.clone()
    reverse_scan(coefficient, value)
    assert torch.equal(coefficient, before[0])
    assert torch.equal(value, before[1])


@pytest.mark.parametrize("gamma", FACTORS)
@pytest.mark.parametrize("lmbda", FACTORS)
def test_lambda_return_is_torchrls(gamma: float, lmbda: float) -> None:
    reward, next_value = torch.randn(2, 5, 40, dtype=F64)
    last = torch.rand(5, 40) < 0.1
    terminated = last & (torch.rand(5, 40) < 0.5)
    columns = [stream.unsqueeze(-1) for stream in (next_value, reward, last, terminated)]
    expected = td_lambda_return_estimate(gamma, lmbda, *columns).squeeze(-1)
    returns = lambda_return(reward, next_value, last, terminated, gamma, lmbda)
    torch.testing.assert_close(returns, expected, rtol=0, atol=1e-12)


def test_discounted_return_is_torchrls() -> None:
    reward, last = torch.randn(5, 40, dtype=F64), torch.rand(5, 40) < 0.1
    expected = reward2go(reward, last, 0.99, time_dim=-1).view(5, 40)
    torch.testing.assert_close(discounted_return(reward, last, 0.99), expected, rtol=0, atol=1e-12)


def test_lambda_return_at_the_ends_of_lambda() -> None:
    reward, next_value = torch.randn(2, 3, 30, dtype=F64)
    last = torch.rand(3, 30) < 0.2
    terminated = last & (torch.rand(3, 30) < 0.5)
    one_step = reward + 0.9 * next_value * ~terminated
    torch.testing.assert_close(lambda_return(reward, next_value, last, terminated, 0.9, 0.0), one_step)
    # With every segment terminated nothing is left to bootstrap: the Monte-Carlo return.
    last[:, -1] = True
    monte_carlo = discounted_return(reward, last, 0.9)
    torch.testing.assert_close(lambda_return(reward, next_value, last, last, 0.9, 1.0), monte_carlo)


def test_lambda_return_ignores_the_value_after_termination() -> None:
    last = torch.tensor([False, True, True])
    next_value = torch.tensor([1.0, torch.nan, 1.0])  # as a reset observation may give
    terminated = torch.tensor([False, True, False])
    assert lambda_return(torch.ones(3), next_value, last, terminated, 0.9, 0.5).isfinite().all()


def test_termination_ends_a_segment_even_where_last_is_not_set() -> None:
    terminated = torch.tensor([False, True, False, False])
    reward, next_value = torch.randn(2, 4, dtype=F64)
    without = lambda_return(reward, next_value, torch.zeros(4, dtype=torch.bool), terminated, 0.9, 0.5)
    torch.testing.assert_close(
        without, lambda_return(reward, next_value, terminated, terminated, 0.9, 0.5), rtol=0, atol=0
    )


def test_long_streams_keep_their_precision_in_float32() -> None:
    reward = torch.rand(100_000)
    last = torch.zeros(100_000, dtype=torch.bool)
    gamma = 1 - 2**-10  # exact in float32 too
    returns = discounted_return(reward, last, gamma)
    expected = discounted_return(reward.double(), last, gamma)
    torch.testing.assert_close(returns.double(), expected, rtol=2e-6, atol=0)


def test_known_needs_a_done_in_the_same_segment() -> None:
    segment = torch.tensor([5, 5, 5, 9, 9, 2])
    done = torch.tensor([False, True, False, False, False, True])
    last = segment_end(segment, done)
    assert last.tolist() == [False, True, True, False, True, True]
    assert known_return(last, done).tolist() == [True, True, False, False, False, True]


def test_start_of_each_segment_by_loop() -> None:
    last = torch.rand(20, 30) < 0.3
    for row, found in zip(last.tolist(), segment_start(last).tolist(), strict=True):
        start = 0
        for t, index in enumerate(found):
            assert index == start
            start = t + 1 if row[t] else start
    assert segment_start(last[:, :0]).shape == (20, 0)


def test_returns_gradient() -> None:
    coefficient, value = torch.randn(2, 3, 7, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(reverse_scan, (coefficient, value))
    last = torch.rand(3, 7) < 0.3
    terminated = last & (torch.rand(3, 7) < 0.5)
    assert torch.autograd.gradcheck(lambda reward: discounted_return(reward, last, 0.9), value)
    assert torch.autograd.gradcheck(
        lambda reward, next_value: lambda_return(reward, next_value, last, terminated, 0.9, 0.8),
        (coefficient, value),
    )


def test_errors() -> None:
    reward, flag = torch.zeros(4), torch.zeros(4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"one shape \[\*, T\], got reward \[4\], last \[3\]"):
        discounted_return(reward, flag[:3], 0.9)
    with pytest.raises(ValueError, match=r"one shape \[\*, T\], got coefficient \[\], value \[\]"):
        reverse_scan(torch.tensor(1.0), torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"terminated \[4, 1\]"):
        lambda_return(reward, reward, flag, flag[:, None], 0.9, 0.9)
    with pytest.raises(ValueError, match=r"last must be a bool tensor, got torch.float32"):
        discounted_return(reward, reward, 0.9)
    with pytest.raises(ValueError, match="done must be a bool tensor"):
        known_return(flag, reward)
    with pytest.raises(ValueError, match="done must be a bool tensor"):
        segment_end(torch.zeros(4, dtype=torch.long), reward)
    with pytest.raises(ValueError, match="last must be a bool tensor"):
        segment_start(reward)
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"gamma must lie in \[0, 1\]"):
            discounted_return(reward, flag, wrong)
        with pytest.raises(ValueError, match=r"lmbda must lie in \[0, 1\]"):
            lambda_return(reward, reward, flag, flag, 0.9, wrong)
