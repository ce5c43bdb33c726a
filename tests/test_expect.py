"""The comparisons that checks use: what they refuse, and what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llm180 import expect

RNG = np.random.default_rng(0)
A = RNG.normal(size=(4, 4)) + 3 * np.eye(4)


def refusal(function, *args, **kwargs) -> expect.Mismatch:
    with pytest.raises(expect.Mismatch) as caught:
        function(*args, **kwargs)
    return caught.value


@pytest.mark.parametrize(
    ("got", "want"),
    [
        (1.0, 1.0 + 1e-12),
        (A, A + 1e-13),
        (torch.tensor(A), A),
        (A, torch.tensor(A)),
        (A.tolist(), A),
        ([torch.ones(2), torch.zeros(2)], [[1, 1], [0, 0]]),
        (torch.ones(2, dtype=torch.bfloat16), np.ones(2)),
        (torch.ones(2, requires_grad=True), np.ones(2)),
        (np.array([np.nan, np.inf, 1.0]), np.array([np.nan, np.inf, 1.0])),
        (np.zeros((0, 3)), np.zeros((0, 3))),
        (True, True),
        (3, 3.0),
        (1j, 1j),
    ],
)
def test_equal_values_are_close_whatever_holds_them(got, want):
    expect.close(got, want)


@pytest.mark.parametrize(
    ("got", "want", "came", "cause"),
    [
        (None, A, "None", "a `return` is missing"),
        (A[:2], A, "shape (2, 4)", ""),
        (A[:, :3], A[:, :3].T, "shape (4, 3)", "opposite order"),
        (A.ravel(), A, "shape (16,)", "reshape"),
        (A.sum(0, keepdims=True), A, "shape (1, 4)", "one axis too many"),
        (A.T, A, "", "transposed"),
        (-A, A, "", "sign is flipped"),
        (A / np.sqrt(8), A, "", "1/√8"),
        (A * 3, A, "", "factor of 3"),
        (A * 5e-199, A, "", "factor of 5e-199"),
        (A + 0.25, A, "", "off by a constant +0.25"),
        (A[::-1], A, "", "axis 0 is reversed"),
        (np.sort(A, axis=None).reshape(4, 4), A, "", "in other places"),
        (A * (1 + 1e-8 * np.sign(np.random.default_rng(0).normal(size=A.shape))), A, "", ""),
        (np.zeros_like(A), A, "", "every entry is zero"),
        (A * np.nan, A, "nan", "NaN came up"),
        (np.full((4, 4), np.inf), A, "inf", "infinity came up"),
        (A.astype(complex), A, "complex", ""),
        ("text", A, "str", ""),
        ({"a": 1}, A, "dict", ""),
        (0.5, 1.0, "0.5", "1/2"),
        (0.7391, 1.0, "0.7391", ""),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_difference_is_named_with_its_likely_cause(got, want, came, cause):
    mismatch = refusal(expect.close, got, want, what="the product")
    assert came in mismatch.came and cause in mismatch.cause and (cause or not mismatch.cause)
    assert "the product" in str(mismatch)


def test_one_wrong_entry_is_found_and_counted():
    wrong = A.copy()
    wrong[2, 1] += 1e-6
    mismatch = refusal(expect.close, wrong, A)
    assert "at [2, 1]" in mismatch.expected and "1 of 16 entries" in mismatch.came


def test_the_tolerance_is_relative_to_the_largest_entry_unless_said():
    expect.close([1e6, 1e-9], [1e6, 0.0])
    refusal(expect.close, [1e6, 1e-9], [1e6, 0.0], atol=0.0)
    refusal(expect.close, [1.0 + 1e-7], [1.0])
    expect.close([1.0 + 1e-7], [1.0], rtol=1e-6)


def test_nothing_is_broadcast():
    refusal(expect.close, np.ones(1), 1.0)
    refusal(expect.close, 1.0, np.ones((1, 1)))


def test_equal_is_exact():
    expect.equal((1, 2), (1, 2))
    expect.equal(np.array([1, 2]), np.array([1, 2]))
    assert "list and not a tuple" in refusal(expect.equal, [1, 2], (1, 2)).cause
    assert "reverse order" in refusal(expect.equal, (2, 1), (1, 2)).cause
    assert "3 entries where 2" in refusal(expect.equal, [1, 2, 3], [1, 2]).cause
    assert "`return`" in refusal(expect.equal, None, "x").cause
    assert "1 of 2 entries" in refusal(expect.equal, np.array([1, 3]), np.array([1, 2])).came
    refusal(expect.equal, np.ones(2), np.ones(3))
    refusal(expect.equal, 1.0000001, 1.0)


def test_raises_wants_the_error_the_type_and_the_message():
    def fail(error):
        raise error

    expect.raises(ValueError, fail, ValueError("inner lengths differ"), match="inner")
    assert "about 'inner'" in refusal(expect.raises, ValueError, fail, ValueError("no"), match="inner").expected
    assert "KeyError" in refusal(expect.raises, ValueError, fail, KeyError("x")).came
    assert "no error" in refusal(expect.raises, ValueError, lambda: 3).came


def test_that_tells_in_its_own_words():
    expect.that(True, "never shown")
    told = refusal(expect.that, False, "expected 3 words, got 4", "one too many")
    assert str(told) == "expected 3 words, got 4. Likely cause: one too many"


def test_numbers_that_differ_late_are_shown_with_the_digits_that_differ() -> None:
    with pytest.raises(expect.Mismatch, match=r"expected -0.131062017, came -0.131062018"):
        expect.close(-0.1310620181, -0.1310620171, rtol=1e-12)
    with pytest.raises(expect.Mismatch, match=r"expected 1, came 2"):
        expect.close(2.0, 1.0)


def test_the_words_that_a_message_needs_are_shown_without_their_regex():
    def wrong():
        raise ValueError("no")

    mismatch = refusal(expect.raises, ValueError, wrong, match=r"\bn\b|log_?prob")
    assert "a message about 'n' or 'log_prob'" in mismatch.expected
