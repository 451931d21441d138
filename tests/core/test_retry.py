"""Retry policies: options, their stored form, and the waits. Bounds over all policies are in
property_tests/test_retry_bounds.py.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from perdure.core.limits import ATTEMPTS_MAX, SLEEP_MS_MAX
from perdure.core.retry import AT_MOST_ONCE, RetryPlan, RetryPolicy, class_name, duration_ms

KEY = ("w", 1, 0)


class Refused(Exception):
    """An error of a user's."""

    class Inner(Exception):
        """One inside of another."""


# --- durations ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        (0, 0),
        (1, 1_000),
        (0.5, 500),
        (0.1, 100),
        (0.3, 300),
        (0.0001, 1),
        (1.0000001, 1_000),
        (timedelta(milliseconds=7), 7),
        (timedelta(microseconds=1), 1),
        (timedelta(days=1), 86_400_000),
        (SLEEP_MS_MAX // 1_000, SLEEP_MS_MAX),
    ],
)
def test_a_duration_is_in_milliseconds_rounded_up(value: Any, ms: int) -> None:
    """Seconds or timedelta; noise of floats below a microsecond is not rounded up."""
    assert duration_ms(value, "d") == ms


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-1, "negative"),
        (timedelta(seconds=-1), "negative"),
        (float("inf"), "finite"),
        (float("nan"), "finite"),
        (timedelta(days=40_000), "100 years"),
        (1e300, "100 years"),
        (10**400, "100 years"),
        (-(10**400), "negative"),
        (timedelta.max, "100 years"),
        (timedelta.min, "negative"),
    ],
)
def test_an_impossible_duration_is_refused(value: Any, text: str) -> None:
    """The message names the option and what is wrong with it."""
    with pytest.raises(ValueError, match=f"^wait=.*{text}"):
        duration_ms(value, "wait")


@pytest.mark.parametrize("value", ["1", None, True])
def test_a_duration_is_a_number_or_a_timedelta(value: Any) -> None:
    """Other types are a TypeError, True too."""
    with pytest.raises(TypeError, match="give a timedelta or a number of seconds"):
        duration_ms(value, "wait")


# --- policies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_attempts": 0}, ValueError),
        ({"max_attempts": ATTEMPTS_MAX + 1}, ValueError),
        ({"max_attempts": 2.0}, ValueError),
        ({"max_attempts": True}, ValueError),
        ({"initial_backoff": -1}, ValueError),
        ({"initial_backoff": "1"}, TypeError),
        ({"max_backoff": -1}, ValueError),
        ({"base": 0.5}, ValueError),
        ({"base": float("inf")}, ValueError),
        ({"base": "2"}, TypeError),
        ({"base": True}, TypeError),
        ({"jitter": 1}, TypeError),
        ({"non_retryable": ("ValueError",)}, TypeError),
        ({"non_retryable": (int,)}, TypeError),
    ],
)
def test_a_wrong_option_is_refused_at_once(options: dict[str, Any], error: type[Exception]) -> None:
    """When the policy is made, not when an action fails."""
    with pytest.raises(error):
        RetryPolicy(**options)


def test_a_plan_is_the_policy_in_numbers_and_names() -> None:
    """What is stored has milliseconds and names of classes."""
    policy = RetryPolicy(
        max_attempts=3,
        initial_backoff=timedelta(seconds=1),
        base=3,
        max_backoff=60,
        jitter=False,
        non_retryable=[Refused, Refused.Inner],
    )
    assert policy.plan() == RetryPlan(
        max_attempts=3,
        initial_ms=1_000,
        base=3.0,
        cap_ms=60_000,
        jitter=False,
        non_retryable=(class_name(Refused), class_name(Refused.Inner)),
    )
    assert RetryPolicy().plan().cap_ms == SLEEP_MS_MAX


def test_a_class_is_named_in_full() -> None:
    """Module and qualified name: two classes of one name are told apart."""
    assert class_name(ValueError) == "builtins.ValueError"
    assert class_name(Refused.Inner).endswith("test_retry.Refused.Inner")


def test_without_a_policy_there_is_one_attempt() -> None:
    """The default plan of a step is at most once."""
    assert AT_MOST_ONCE.max_attempts == 1


# --- waits --------------------------------------------------------------------------------------


def test_waits_grow_by_the_base_up_to_the_cap() -> None:
    """Without jitter exactly initial × base^(k-1), at most the cap."""
    plan = RetryPolicy(initial_backoff=0.1, base=3, max_backoff=2, jitter=False).plan()
    assert [plan.backoff_ms(k, key=KEY) for k in range(1, 6)] == [100, 300, 900, 2_000, 2_000]


def test_jitter_spreads_a_wait_and_repeats() -> None:
    """Half to one and a half of it; the same for the same step, another for another step."""
    plan = RetryPolicy(initial_backoff=1, base=1).plan()
    waits = [plan.backoff_ms(1, key=("w", 1, number)) for number in range(200)]
    assert all(500 <= wait <= 1_500 for wait in waits)
    assert min(waits) < 600
    assert max(waits) > 1_400
    assert waits == [plan.backoff_ms(1, key=("w", 1, number)) for number in range(200)]


def test_a_wait_beyond_all_numbers_is_the_cap() -> None:
    """base^k may overflow a float: it is then the cap, not an error."""
    plan = RetryPolicy(initial_backoff=1, base=1e300, max_backoff=5).plan()
    assert plan.backoff_ms(ATTEMPTS_MAX, key=KEY) == 5_000


def test_a_wait_of_nothing_stays_nothing() -> None:
    """initial_backoff=0 retries at once, however often and whatever the base."""
    plan = RetryPolicy(initial_backoff=0, base=10).plan()
    assert [plan.backoff_ms(k, key=KEY) for k in (1, 50, ATTEMPTS_MAX)] == [0, 0, 0]


def test_one_class_may_stand_for_a_tuple_of_them() -> None:
    """As in an `except`."""
    assert RetryPolicy(non_retryable=OSError) == RetryPolicy(non_retryable=(OSError,))


def test_a_base_that_no_number_holds_is_refused() -> None:
    """With the error of any other bad base."""
    with pytest.raises(ValueError, match="base=1000"):
        RetryPolicy(base=10**400)
