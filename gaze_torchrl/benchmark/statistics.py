"""What a few seeds say: robust means, intervals, and comparisons of one variant with another.

Values lie in arrays [*, n] whose last axis is the seeds of one setting (a *stratum*); settings may have different
numbers of seeds. Formulas are those of Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical
Precipice", 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Estimate",
    "bootstrap",
    "estimate",
    "frames_to",
    "improvement",
    "iqm",
    "performance_profile",
    "sample_efficiency",
]

Array = NDArray[np.float64]


class Estimate(NamedTuple):
    """A number and its 95 % interval. A ratio that is only bounded has an infinite or a zero end.

    Args:
        point: what was measured; for a ratio that is only known from one side, that bound.
        low, high: ends of the interval; NaN where a setting has a single seed, which says nothing about others.
        bound: "" for a number, ">" where the truth is larger than ``point``, "<" where it is smaller.
    """

    point: float
    low: float
    high: float
    bound: str = ""


def iqm(*strata: ArrayLike) -> Array:
    r"""Interquartile mean: the mean of the middle half of all seeds of all settings.

    .. math:: IQM(x) = \frac{1}{n - 2c} \sum_{i = c + 1}^{n - c} x_{(i)}, \qquad c = \lfloor n / 4 \rfloor

    Args:
        strata: values of each setting [*, n_s], of any scale that the settings share; up to three in all: their mean.

    Returns:
        [*].

    Example:
        >>> iqm([0.0, 1.0], [2.0, 100.0]).item()
        1.5
    """
    values = np.sort(np.concatenate([np.asarray(one, float) for one in strata], -1), -1)
    cut = values.shape[-1] // 4
    return values[..., cut : values.shape[-1] - cut].mean(-1)


def improvement(x: ArrayLike, y: ArrayLike) -> Array:
    r"""Probability that a seed of x does better than one of y; ties count half.

    .. math:: P(X > Y) = \frac{1}{nm} \sum_{i,j} [x_i > y_j] + \tfrac{1}{2} [x_i = y_j]

    Args:
        x, y: values [*, n] and [*, m] in one setting.

    Returns:
        [*] in [0, 1].

    Example:
        >>> improvement([1.0, 2.0], [1.0, 0.0]).item()
        0.875
    """
    one, other = np.asarray(x, float)[..., :, None], np.asarray(y, float)[..., None, :]
    return ((one > other) + 0.5 * (one == other)).mean((-2, -1))


def performance_profile(thresholds: ArrayLike, *strata: ArrayLike) -> Array:
    r"""Share of runs that score more than each threshold; settings weigh the same, however many seeds they have.

    .. math:: \hat{F}(\tau) = \frac{1}{S} \sum_s \frac{1}{n_s} \sum_i [x_{s,i} > \tau]

    Args:
        thresholds: T values.
        strata: scores of each setting [*, n_s], of a scale that the settings share.

    Returns:
        [T, *], which never rises along T if the thresholds do not fall.

    Example:
        >>> performance_profile([0.0, 0.5, 1.0], [0.4, 0.8], [1.0]).tolist()
        [1.0, 0.75, 0.0]
    """
    levels = np.asarray(thresholds, float)
    return np.mean([[(np.asarray(one, float) > level).mean(-1) for level in levels] for one in strata], 0)


def bootstrap(
    statistic: Callable[..., Array], *strata: ArrayLike, resamples: int = 2000, seed: int = 0
) -> tuple[Array, Array, Array]:
    """A statistic and its 95 % percentile interval, by resampling the seeds of each stratum apart from the others.

    Args:
        statistic: of arrays [*, n_s], one for each stratum, along their last axis.
        strata: values [*, n_s], n_s >= 1. What one seed measured stays together: a curve [E, n_s] moves as a whole.
        resamples: how often, > 0.
        seed: of the resampling; equal ones give equal intervals.

    Returns:
        The statistic of the strata, and the ends of its interval, each [*].

    Example:
        >>> [round(one.item(), 2) for one in bootstrap(iqm, [0.0, 1.0, 2.0])]
        [1.0, 0.0, 2.0]
    """
    arrays = [np.asarray(one, float) for one in strata]
    low, high = np.quantile(_resampled(statistic, arrays, resamples, seed), [0.025, 0.975], axis=-1)
    return statistic(*arrays), low, high


def estimate(statistic: Callable[..., Array], *strata: ArrayLike) -> Estimate:
    """A statistic with its bootstrap interval, which is NaN where a stratum holds a single seed.

    Args:
        statistic: as for `bootstrap`, of one number.
        strata: values [n_s]; none may be NaN.

    Example:
        >>> estimate(iqm, [0.5])
        Estimate(point=0.5, low=nan, high=nan, bound='')
    """
    point, low, high = (float(one) for one in bootstrap(statistic, *strata))
    if any(np.shape(one)[-1] == 1 for one in strata):
        return Estimate(point, np.nan, np.nan)
    return Estimate(point, low, high)


def frames_to(frames: ArrayLike, curves: ArrayLike, level: ArrayLike) -> Array:
    """The first evaluation at which a curve is at a level or above it.

    Args:
        frames: of the evaluations [E], ascending.
        curves: values [E, *].
        level: to reach [*].

    Returns:
        Frames [*], infinite where the curve never gets there within them (it is *censored*).

    Example:
        >>> frames_to([10, 20, 30], [[0.0, 0.0], [0.5, 0.1], [0.4, 0.2]], 0.5).tolist()
        [20.0, inf]
    """
    reached = np.asarray(curves, float) >= level
    return np.where(reached.any(0), np.asarray(frames, float)[reached.argmax(0)], np.inf)


def sample_efficiency(
    frames: ArrayLike, baseline: ArrayLike, variant: ArrayLike, level: float | None = None
) -> Estimate:
    r"""How many times fewer frames a variant needs than the baseline, for the same level.

    .. math:: \rho = \frac{T_{base}(L)}{T_{var}(L)}, \qquad T(L) = \min \{t : IQM_{seeds}(t) \ge L\}

    Without a level, :math:`L = \max_t IQM_{base}(t)`, the best the baseline reaches; it is found anew in each resample.
    Where a curve does not get to L within F frames, only :math:`T > F` is known. Then the ratio is a bound: less than
    :math:`T_{base} / F` if the variant falls short, more than :math:`F / T_{var}` if the baseline does, and anything if
    both do. The interval keeps that honest: its low end is the 2.5 % quantile of the least the ratio can be in each
    resample, its high end the 97.5 % quantile of the greatest.

    Args:
        frames: of the evaluations [E], ascending, the same for both.
        baseline, variant: what was measured [E, n] and [E, m], columns are seeds.
        level: to reach, in units of what was measured; None for the baseline's best.

    Returns:
        The ratio, 1 for no difference. NaN if neither reaches the level.

    Example:
        >>> base, fast = [[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]], [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
        >>> sample_efficiency([10, 20, 30], base, fast)
        Estimate(point=3.0, low=3.0, high=3.0, bound='')
        >>> sample_efficiency([10, 20, 30], base, fast, level=1.5)
        Estimate(point=nan, low=0.0, high=inf, bound='')
    """

    def ends(one: Array, other: Array) -> Array:
        """The least and the greatest that the ratio can be [2, *]."""
        curve = iqm(one)
        goal = curve.max(0) if level is None else np.full(curve.shape[1:], level)
        base, mine = frames_to(frames, curve, goal), frames_to(frames, iqm(other), goal)
        last = float(np.max(frames))
        least = np.where(np.isinf(mine), 0.0, np.minimum(base, last) / mine)
        greatest = np.where(np.isinf(base), np.inf, base / np.minimum(mine, last))
        return np.stack([least, greatest])

    arrays = [np.asarray(baseline, float), np.asarray(variant, float)]
    least, greatest = (float(one) for one in ends(*arrays))
    # Not interpolated: the mean of a number and of infinity is not a bound.
    draws = _resampled(ends, arrays)
    low = float(np.quantile(draws[0], 0.025, method="lower"))
    high = float(np.quantile(draws[1], 0.975, method="higher"))
    if 1 in (arrays[0].shape[-1], arrays[1].shape[-1]):
        low = high = np.nan
    if least == greatest:
        return Estimate(least, low, high)
    if least == 0:
        return Estimate(np.nan if np.isinf(greatest) else greatest, low, high, "" if np.isinf(greatest) else "<")
    return Estimate(least, low, high, ">")


def _resampled(statistic: Callable[..., Array], arrays: list[Array], resamples: int = 2000, seed: int = 0) -> Array:
    """The statistic of each resample [*, resamples]."""
    generator = np.random.default_rng(seed)
    drawn = []
    for one in arrays:
        count = one.shape[-1]
        drawn.append(one[..., generator.integers(count, size=(resamples, count))])
    return statistic(*drawn)
