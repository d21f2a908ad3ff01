"""The statistics of a comparison: known values, degenerate samples, and how often they are wrong."""

import math
from collections.abc import Callable

import numpy
import pytest

from capshm.lab import statistics
from capshm.lab.statistics import Interval, median, overhead, smallest_difference

Noise = Callable[[numpy.random.Generator, int], "numpy.ndarray"]


def contaminated(random: numpy.random.Generator, count: int) -> "numpy.ndarray":
    """Normal, but one in ten was disturbed."""
    return random.normal(size=count) * numpy.where(random.random(count) < 0.1, 8, 1)


NOISES: dict[str, Noise] = {
    "normal": lambda random, count: random.normal(size=count),
    "laplace": lambda random, count: random.laplace(size=count),
    "student": lambda random, count: random.standard_t(3, size=count),
    "contaminated": contaminated,
}


def test_the_overhead_is_the_median_of_paired_ratios() -> None:
    """Not the ratio of medians: a slow round must not be set against another's baseline."""
    pairs = [(10.0, 10.0), (40.0, 20.0), (30.0, 30.0), (8.0, 4.0), (50.0, 25.0)]
    assert overhead(pairs).ratio == 2
    assert median([3.0, 1.0, 2.0]).value == 2
    assert median([4.0, 1.0, 2.0, 3.0]).value == 2.5


def test_the_interval_holds_the_median_and_lies_within_the_samples() -> None:
    """Of a sample without anything special; the same seed gives the same interval."""
    samples = [float(number) for number in (12, 15, 11, 14, 13, 18, 10)]
    found = median(samples, seed=7)
    assert found.interval is not None
    assert 10 <= found.interval.low < found.value < found.interval.high <= 18
    assert median(samples, seed=7) == found
    wider = median(samples, seed=7, confidence=0.999).interval
    assert wider is not None
    assert wider.low <= found.interval.low
    assert found.interval.high <= wider.high


def test_a_clear_difference_is_seen() -> None:
    """20 % among noise of a percent, in either direction."""
    more = overhead([(120 + noise, 100) for noise in (-1, 0, 1, -0.5, 0.5, 0.2, -0.2)])
    assert more.is_seen
    assert more.ratio == 1.2
    less = overhead([(100, 120 + noise) for noise in (-1, 0, 1, -0.5, 0.5, 0.2, -0.2)])
    assert less.is_seen
    assert less.ratio < 1


def test_what_noise_may_hide_is_not_seen() -> None:
    """A difference whose interval excludes none, but that is below the smallest that could have been seen."""
    found = overhead([(ratio, 1.0) for ratio in (1.01, 1.02, 1.03, 1.01, 1.02, 1.3, 1.02)])
    assert found.interval is not None
    assert found.interval.low > 1
    assert found.smallest is not None
    assert found.smallest > 0.02
    assert not found.is_seen


def test_the_smallest_difference_follows_its_formula() -> None:
    """For five ratios with a spread of 0.1 in logarithms: Student's 0.9995 quantile with four degrees is 8.6103."""
    logarithms = [-0.1, 0.1, -0.1, 0.1, 0.0]  # standard deviation 0.1
    expected = math.exp(8.610302 * math.sqrt(math.pi / 2) * 0.1 / math.sqrt(5)) - 1
    assert smallest_difference([math.exp(each) for each in logarithms]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_few_repeats_have_no_interval(count: int) -> None:
    """And nothing is seen in them, however large."""
    found = overhead([(10.0 + number, 1.0) for number in range(count)])
    assert found.ratio == 10 + (count - 1) / 2
    assert found.interval is None
    assert found.smallest is None
    assert not found.is_seen


def test_equal_values_have_an_interval_without_width() -> None:
    """A machine without noise: every difference is seen, and none is where there is none."""
    assert median([5.0] * 7).interval == Interval(5, 5)
    assert overhead([(2.0, 1.0)] * 7).is_seen
    assert not overhead([(1.0, 1.0)] * 7).is_seen


@pytest.mark.parametrize("samples", [[1, 2, 2, 2, 3], [1, 1, 1, 1, 9], [1, 2, 2, 2, 2, 2, 2], [1, 1, 1, 2, 2, 2]])
def test_many_equal_values_have_an_interval(samples: list[float]) -> None:
    """Where BCa is not defined the percentiles are, and no warning comes out."""
    found = median(samples).interval
    assert found is not None
    assert min(samples) <= found.low <= found.high <= max(samples)


def test_monstrous_noise_overflows_nothing() -> None:
    """Ratios over 600 orders of magnitude."""
    found = overhead([(10.0**power, 1.0) for power in (-300, 300, -200, 200, 0)])
    assert found.smallest is not None
    assert math.isfinite(found.smallest)
    assert not found.is_seen


@pytest.mark.slow
@pytest.mark.parametrize("count", [5, 7, 15])
@pytest.mark.parametrize("noise", NOISES)
def test_equal_things_are_rarely_called_different(noise: str, count: int) -> None:
    """At most once in 1,000 by the smallest difference alone: in 3,000 trials 3 are expected, and 11 are 1 in 5,000."""
    random = numpy.random.default_rng(20)
    alarms = 0
    for _ in range(3000):
        ratios = numpy.exp(0.03 * NOISES[noise](random, count))
        alarms += abs(math.log(numpy.median(ratios))) >= math.log1p(smallest_difference(list(ratios)))
    assert alarms < 11


@pytest.mark.slow
def test_intervals_hold_the_truth() -> None:
    """About 95 in 100 of nine repeats; a bootstrap of so few is somewhat too sure of itself, and no worse than that."""
    random = numpy.random.default_rng(21)
    held = 0
    for _ in range(150):
        found = overhead([(1.1 * math.exp(each), 1.0) for each in 0.03 * random.normal(size=9)]).interval
        assert found is not None
        held += found.low <= 1.1 <= found.high
    assert held >= 0.9 * 150


@pytest.mark.slow
def test_a_real_difference_above_the_smallest_is_seen() -> None:
    """Twice the smallest difference is seen nearly always: the table's "none seen" is no excuse for not looking."""
    random = numpy.random.default_rng(22)
    seen = 0
    for _ in range(60):
        noise = numpy.exp(0.03 * random.normal(size=7))
        size = 1 + 2 * smallest_difference(list(noise))
        seen += overhead([(size * each, 1.0) for each in noise]).is_seen
    assert seen >= 57


def test_the_level_is_that_of_the_documentation() -> None:
    """What the table's legend and the module's docstring say."""
    assert statistics.CONFIDENCE == 0.95
    assert statistics.FALSE_ALARMS == 0.001
    assert statistics.ENOUGH == 5
