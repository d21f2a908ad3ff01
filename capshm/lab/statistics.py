"""The statistics of a comparison: medians, overheads, and what could not have been seen. The only user of scipy.

*Pairs.* What a policy costs is judged round by round: the ratio of its cell to the baseline's cell of the same round,
which ran on the same machine in about the same minute. The overhead is the median of these ratios.

*Intervals* are bias-corrected and accelerated bootstrap intervals (BCa; Efron, "Better Bootstrap Confidence Intervals",
1987) of the median, with a fixed seed. Of few values they are too sure of themselves: what is called 95 % holds the
median in 87 of 100 samples of seven. So their nominal level is chosen by the number of values. The exact interval of a
median, from the binomial distribution, ends at the two order statistics that hold it with the wanted probability; the
nominal level is the one at which the bootstrap of so many values just reaches these. With 6 to 15 values and normal,
Laplace and contaminated noise the intervals then hold the median in 95 of 100 samples and more. Where BCa is not
defined, as with many equal values, they are the percentile intervals of the same resamples.

*Seen or not.* The spread of the ratios is the root mean square of their logarithms' distances from the median, where
the farthest of every seven are left out: one disturbed round in seven neither hides a difference nor makes one. An
overhead is seen if the logarithm of the ratio is at least `threshold` times that spread. Two equal things pass it in
one comparison of 1,000 or fewer, and

    smallest = exp(detectable * spread) - 1

is a difference that would have been seen in 95 of 100 repetitions of the whole run, or more. Both factors are quantiles
of simulated samples of that number of ratios, which are symmetric because the ratio of two equal things is: the first
of normal noise, which passes a threshold more often than noise with longer tails does; the second of Laplace noise,
which hides more than normal noise does. The interval has no part in it, since that of few values reaches to their
extremes, whatever these are.

What is not covered: where one round in ten was disturbed, `smallest` is seen in 92 of 100 repetitions. A machine of two
speeds that differ by a factor of three, where chance decides for each cell, makes up to five false alarms in 1,000.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy
import numpy.typing
from scipy import stats

CONFIDENCE = 0.95
"""Of intervals: their share that holds the truth, or more."""
FALSE_ALARMS = 0.001
"""Comparisons of equal things that are called different: at most this share."""
POWER = 0.95
"""Repetitions in which a difference as large as `smallest` is seen: at least this share."""
ENOUGH = 6
"""Repeats, for an interval: of fewer, even the least and the greatest do not hold the median 95 times in 100."""

_RESAMPLES = 9999
_SIMULATED = 100_000  # samples
_MOST_SIMULATED = 60  # values in each; beyond, a median's spread falls with the root of the number
_PER_OUTLIER = 7
_SHARE_OF_ALARMS, _SHARE_OF_MISSES = 0.5, 0.8  # what the simulation may use up of those allowed: it is not exact

_Floats = numpy.typing.NDArray[numpy.float64]


class Interval(NamedTuple):
    """Both ends belong to it."""

    low: float
    high: float


class Median(msgspec.Struct, frozen=True):
    """interval: None if there were not enough repeats."""

    value: float
    interval: Interval | None


class Overhead(msgspec.Struct, frozen=True):
    """Of something over something else. ratio: 1 is none.

    smallest: a difference, as a share, that these repeats would have shown with `POWER`. It and interval are None if
    there were not enough repeats; nothing is seen then.
    """

    ratio: float
    interval: Interval | None
    smallest: float | None
    is_seen: bool


class _Factors(NamedTuple):
    """Of the spread: what an overhead must reach to be seen, and what would have been seen."""

    threshold: float
    detectable: float


def median(samples: Sequence[float], *, seed: int = 0, confidence: float = CONFIDENCE) -> Median:
    """Of at least one sample."""
    value = float(numpy.median(samples))
    return Median(value, _interval(samples, seed, confidence) if len(samples) >= ENOUGH else None)


def overhead(pairs: Sequence[tuple[float, float]], *, seed: int = 0, confidence: float = CONFIDENCE) -> Overhead:
    """Of the first over the second of at least one pair; all are above 0."""
    ratios = [one / other for one, other in pairs]
    found = median(ratios, seed=seed, confidence=confidence)
    if found.interval is None:
        return Overhead(found.value, None, None, is_seen=False)
    factors = _factors(len(ratios))
    logarithms, spreads = _medians_and_spreads(numpy.log([ratios]))
    distance, spread = abs(float(logarithms[0])), float(spreads[0])
    smallest = math.expm1(min(factors.detectable * spread, 700))  # e^700: as good as all
    return Overhead(
        found.value, found.interval, smallest, is_seen=distance > 0 and distance >= factors.threshold * spread
    )


@functools.cache
def _factors(count: int) -> _Factors:
    """For so many ratios."""
    if count > _MOST_SIMULATED:
        shrunk = math.sqrt(_MOST_SIMULATED / count)
        return _Factors(*(each * shrunk for each in _factors(_MOST_SIMULATED)))
    random = numpy.random.default_rng(count)
    medians, spreads = _medians_and_spreads(random.normal(size=(_SIMULATED, count)))
    threshold = numpy.quantile(abs(medians) / spreads, 1 - _SHARE_OF_ALARMS * FALSE_ALARMS)
    medians, spreads = _medians_and_spreads(random.laplace(size=(_SIMULATED, count)))
    # What is printed comes from one sample, and what is then seen depends on another: its neighbour.
    needed = (threshold * spreads - medians) / numpy.roll(spreads, 1)
    return _Factors(float(threshold), float(numpy.quantile(needed, 1 - _SHARE_OF_MISSES * (1 - POWER))))


def _medians_and_spreads(samples: _Floats) -> tuple[_Floats, _Floats]:
    """Of each row."""
    medians = numpy.median(samples, axis=1)
    distances = numpy.sort(abs(samples - medians[:, None]), axis=1)
    count = samples.shape[1]
    kept = distances[:, : count - count // _PER_OUTLIER]
    return medians, numpy.sqrt((kept**2).mean(axis=1))


def _interval(samples: Sequence[float], seed: int, confidence: float) -> Interval:
    if min(samples) == max(samples):
        return Interval(samples[0], samples[0])
    margin = _nominal_margin(len(samples), confidence)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where BCa is not defined, which is what is asked next
        found = stats.bootstrap(
            (samples,), numpy.median, n_resamples=_RESAMPLES, confidence_level=1 - 2 * margin, method="BCa", rng=seed
        )
    low, high = (float(end) for end in found.confidence_interval)
    if math.isnan(low) or math.isnan(high):
        low, high = (float(end) for end in numpy.quantile(found.bootstrap_distribution, [margin, 1 - margin]))
    return Interval(low, high)


@functools.cache
def _nominal_margin(count: int, confidence: float) -> float:
    """What to have the bootstrap leave out at each end, so that its interval holds the median as often as is wanted."""
    # The exact interval ends at this order statistic from either side: fewer values than that lie below the median
    # with no more than half of the probability that is left.
    order = max(1, int(stats.binom.ppf((1 - confidence) / 2, count, 0.5)))
    # A resample's median is at most the k-th value when more than half of its values are.
    before, at = (float(stats.binom.sf((count - 1) // 2, count, place / count)) for place in (order - 1, order))
    return before + (at - before) / 10  # past the value before, and well before the next, since BCa moves it
