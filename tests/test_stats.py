"""Intervals over seeds."""

from __future__ import annotations

import numpy as np
import pytest

from llm180 import interval


@pytest.mark.parametrize(("n", "quantile"), [(2, 12.706), (5, 2.776), (10, 2.262), (20, 2.093)])
def test_the_half_width_is_the_tabled_quantile_of_student_times_the_standard_error(n: int, quantile: float) -> None:
    values = np.arange(n) * 3.0 + 7
    mean, half = interval(values)
    assert mean == pytest.approx(values.mean())
    assert half == pytest.approx(quantile * values.std(ddof=1) / n**0.5, rel=2e-4)


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    samples = np.random.default_rng(0).normal(3, 2, size=(2000, 6))
    for confidence in (0.8, 0.95):
        hits = [abs(found.mean - 3) < found.half for found in (interval(x, confidence) for x in samples)]
        assert np.mean(hits) == pytest.approx(confidence, abs=0.02)


def test_an_interval_prints_itself_and_says_whether_it_excludes_zero() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert f"{found:.2f}" == "2.00 ± 2.48" and not found.excludes_zero
    assert interval([-1.0, -1.1, -1.2]).excludes_zero


@pytest.mark.parametrize("values", [[], [1.0], 3.0, [[1.0, 2.0], [3.0, 4.0]]])
def test_what_is_no_list_of_two_numbers_is_refused(values) -> None:
    with pytest.raises(ValueError, match="at least two numbers"):
        interval(values)


def test_a_confidence_that_is_no_probability_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        interval([1.0, 2.0], 95)


def test_an_interval_of_an_interval_is_refused():
    with pytest.raises(TypeError, match="already"):
        interval(interval([1.0, 2.0, 4.0]))
