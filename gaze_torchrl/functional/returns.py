r"""Discounted and lambda returns over ragged segments of a stream of steps.

A stream [*, T] holds segments one after another along its last dimension. ``last`` marks the last step of
each segment; nothing is ever carried across it. ``done`` marks real ends of episodes, so a segment may end
without one.
"""

import torch
from torch import Tensor

__all__ = ["discounted_return", "known_return", "lambda_return", "reverse_scan", "segment_end", "segment_start"]


def reverse_scan(coefficient: Tensor, value: Tensor) -> Tensor:
    r"""Solve a first-order linear recurrence backwards in time.

    .. math:: y_t = v_t + c_t \, y_{t+1}, \qquad y_{T+1} = 0,

    by :math:`\lceil\log_2 T\rceil` doubling passes, since two neighbouring stretches of steps compose into
    one recurrence.

    Args:
        coefficient: c, [*, T], floating point, finite. Where it is zero, nothing is carried, not even NaN or infinity.
        value: v, [*, T], floating point.

    Returns:
        y, [*, T].

    Raises:
        ValueError: if the shapes differ or there is no time dimension.

    Reference:
        Blelloch, Prefix Sums and Their Applications, 1990, section 1.4 (recurrences).

    >>> reverse_scan(torch.tensor([0.5, 0.5, 0.5]), torch.tensor([1.0, 2.0, 4.0]))
    tensor([3., 4., 4.])
    """
    _check_streams("reverse_scan", coefficient=coefficient, value=value)
    steps, shift = value.shape[-1], 1
    while shift < steps:
        # Beyond the end y is zero: only the first steps - shift entries have a partner.
        head, tail = coefficient[..., :-shift], value[..., shift:]
        # Zero times NaN is NaN: one bad segment would spoil those before it. A finite tail is kept for its gradient.
        tail = torch.where(head == 0, tail.nan_to_num(0, 0, 0), tail)
        value = torch.cat([value[..., :-shift] + head * tail, value[..., -shift:]], -1)
        coefficient = torch.cat([head * coefficient[..., shift:], coefficient[..., -shift:]], -1)
        shift *= 2
    return value


def discounted_return(reward: Tensor, last: Tensor, gamma: float) -> Tensor:
    r"""Discounted sum of the rewards from each step to the last step of its segment.

    .. math:: G_t = r_t + \gamma (1 - \mathrm{last}_t) \, G_{t+1}

    Args:
        reward: r, [*, T], floating point.
        last: True at the last step of each segment, [*, T], bool. The end of the stream always is one.
        gamma: discount per step, in [0, 1].

    Returns:
        G, [*, T].

    Raises:
        ValueError: if the shapes differ, ``last`` is not bool or ``gamma`` is out of range.

    >>> discounted_return(torch.ones(4), torch.tensor([False, True, False, False]), gamma=0.5)
    tensor([1.5000, 1.0000, 1.5000, 1.0000])
    """
    _check_streams("discounted_return", reward=reward, last=last)
    _check_bool(last=last)
    _check_unit_interval(gamma=gamma)
    return reverse_scan(gamma * (~last).to(reward.dtype), reward)


def lambda_return(
    reward: Tensor, next_value: Tensor, last: Tensor, terminated: Tensor, gamma: float, lmbda: float
) -> Tensor:
    r"""TD(:math:`\lambda`) return of each step within its segment.

    .. math::
        G_t = r_t + \gamma \bigl((1 - \lambda_t) V_{t+1} + \lambda_t G_{t+1}\bigr), \qquad
        \lambda_t = \lambda (1 - \mathrm{last}_t),

    with :math:`V_{t+1} = 0` after termination. At the last step of a segment, and at the end of the stream,
    it bootstraps with the whole of ``next_value``, so unfinished segments have a return too.

    Args:
        reward: r, [*, T], floating point.
        next_value: value estimate of the state that follows each step, [*, T]; ignored where ``terminated``.
        last: True at the last step of each segment, [*, T], bool.
        terminated: True where the episode ended in a terminal state (not by a time limit), [*, T], bool.
            Also ends the segment.
        gamma: discount per step, in [0, 1].
        lmbda: weight of longer returns, in [0, 1]; 0 gives the one-step target, 1 the bootstrapped discounted
            return.

    Returns:
        G, [*, T].

    Raises:
        ValueError: if the shapes differ, a flag is not bool, or ``gamma`` or ``lmbda`` is out of range.

    Reference:
        Sutton and Barto, Reinforcement Learning: An Introduction, 2018, section 12.1.

    >>> reward, next_value = torch.ones(3), torch.full((3,), 8.0)
    >>> last, terminated = torch.tensor([[False, False, True], [False, False, False]])
    >>> lambda_return(reward, next_value, last, terminated, gamma=0.5, lmbda=0.5)
    tensor([4.0625, 4.2500, 5.0000])
    """
    _check_streams("lambda_return", reward=reward, next_value=next_value, last=last, terminated=terminated)
    _check_bool(last=last, terminated=terminated)
    _check_unit_interval(gamma=gamma, lmbda=lmbda)
    end = last | terminated
    # The scan's y is zero beyond the stream, so the last step must not wait for one.
    end = torch.cat([end[..., :-1], torch.ones_like(end[..., -1:])], -1)
    decay = lmbda * (~end).to(reward.dtype)
    bootstrap = next_value.masked_fill(terminated, 0)
    return reverse_scan(gamma * decay, reward + gamma * (1 - decay) * bootstrap)


def segment_end(segment: Tensor, done: Tensor) -> Tensor:
    r"""Mark the last step of each segment: where the segment changes, the episode is done or the stream ends.

    Args:
        segment: identifier of the segment (such as a trajectory id) of each step, equal along one segment and
            different from that of the next, [*, T], integer.
        done: True at the end of an episode, [*, T], bool.

    Returns:
        ``last`` for the functions of this module, [*, T], bool.

    Raises:
        ValueError: if the shapes differ or ``done`` is not bool.

    >>> segment_end(torch.tensor([7, 7, 7, 3, 3]), torch.tensor([False, True, False, False, False]))
    tensor([False,  True,  True, False,  True])
    """
    _check_streams("segment_end", segment=segment, done=done)
    _check_bool(done=done)
    change = segment[..., 1:] != segment[..., :-1]
    return torch.cat([change, torch.ones_like(done[..., -1:])], -1) | done


def segment_start(last: Tensor) -> Tensor:
    r"""Index of the first step of each step's segment.

    Args:
        last: True at the last step of each segment, [*, T], bool.

    Returns:
        Index along T, [*, T], int64; ``value.gather(-1, index)`` spreads what the first steps hold over their
        segments.

    Raises:
        ValueError: if ``last`` is not bool.

    >>> segment_start(torch.tensor([False, True, False, False, False]))
    tensor([0, 0, 2, 2, 2])
    """
    _check_streams("segment_start", last=last)
    _check_bool(last=last)
    first = torch.cat([torch.ones_like(last[..., :1]), last[..., :-1]], -1)
    index = torch.arange(last.shape[-1], device=last.device)
    return torch.where(first, index, 0).cummax(-1).values


def known_return(last: Tensor, done: Tensor) -> Tensor:
    r"""Tell where the return-to-go is known: the step's own segment ends in a ``done``, at or after the step.

    Args:
        last: True at the last step of each segment, [*, T], bool.
        done: True at the end of an episode, [*, T], bool.

    Returns:
        True where the rest of the episode lies in the stream, [*, T], bool.

    Raises:
        ValueError: if the shapes differ or a flag is not bool.

    >>> last = torch.tensor([False, True, False, True, False])
    >>> done = torch.tensor([False, True, False, False, False])
    >>> known_return(last, done)
    tensor([ True,  True, False, False, False])
    """
    _check_streams("known_return", last=last, done=done)
    _check_bool(last=last, done=done)
    return reverse_scan((~last).float(), done.float()).bool()


def _check_streams(function: str, **streams: Tensor) -> None:
    shapes = {name: list(stream.shape) for name, stream in streams.items()}
    reference, *others = shapes.values()
    if not reference or any(shape != reference for shape in others):
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"{function} expects streams of one shape [*, T], got {found}")


def _check_bool(**flags: Tensor) -> None:
    for name, flag in flags.items():
        if flag.dtype != torch.bool:
            raise ValueError(f"{name} must be a bool tensor, got {flag.dtype}; convert it with .bool()")


def _check_unit_interval(**factors: float) -> None:
    for name, factor in factors.items():
        if not 0 <= factor <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {factor}")
