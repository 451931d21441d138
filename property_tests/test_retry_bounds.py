"""Retry waits over all policies: within their bounds, growing, and the same every time."""

from __future__ import annotations

import math
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from perdure.core.limits import ATTEMPTS_MAX, SLEEP_MS_MAX
from perdure.core.retry import RetryPlan, RetryPolicy, duration_ms

#: Whole milliseconds, in seconds: what people write.
SECONDS = st.integers(0, 10**9).map(lambda ms: ms / 1000)

POLICIES = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, ATTEMPTS_MAX),
    initial_backoff=SECONDS,
    base=st.floats(1, 1e6),
    max_backoff=st.none() | SECONDS,
    jitter=st.booleans(),
)
KEYS = st.tuples(st.text(max_size=5), st.integers(0, 2**40), st.integers(0, 10**6))
ATTEMPTS = st.integers(1, 50) | st.integers(1, ATTEMPTS_MAX)


def _plain(plan: RetryPlan, attempt: int) -> float:
    """The wait before jitter and cap."""
    try:
        return plan.initial_ms * plan.base ** (attempt - 1)
    except OverflowError:
        return math.inf if plan.initial_ms else 0


@given(policy=POLICIES, attempt=ATTEMPTS, key=KEYS)
def test_a_wait_is_within_its_bounds(
    policy: RetryPolicy, attempt: int, key: tuple[str, int, int]
) -> None:
    """Whole milliseconds, half to one and a half of initial × base^(k-1), never over the cap."""
    plan = policy.plan()
    wait = plan.backoff_ms(attempt, key=key)
    least, most = (0.5, 1.5) if policy.jitter else (1, 1)
    plain = _plain(plan, attempt)
    assert isinstance(wait, int)
    assert min(least * plain, plan.cap_ms) <= wait <= plan.cap_ms <= SLEEP_MS_MAX
    assert wait < most * plain + 1 or wait == 0


@given(policy=POLICIES, attempt=ATTEMPTS, key=KEYS)
def test_the_same_history_gives_the_same_wait(
    policy: RetryPolicy, attempt: int, key: tuple[str, int, int]
) -> None:
    """Jitter is drawn from workflow, epoch, step and attempt: no randomness."""
    assert policy.plan().backoff_ms(attempt, key=key) == policy.plan().backoff_ms(attempt, key=key)


@given(policy=POLICIES, attempt=ATTEMPTS, key=KEYS)
def test_without_jitter_waits_never_shrink(
    policy: RetryPolicy, attempt: int, key: tuple[str, int, int]
) -> None:
    """Each wait is at least as long as the one before."""
    plan = RetryPlan(initial_ms=policy.plan().initial_ms, base=policy.base)
    assert plan.backoff_ms(attempt, key=key) <= plan.backoff_ms(attempt + 1, key=key)


@given(st.integers(0, SLEEP_MS_MAX))
def test_whole_milliseconds_are_kept(ms: int) -> None:
    """Seconds and timedelta that are whole milliseconds come out as those, to the last one."""
    assert duration_ms(timedelta(milliseconds=ms), "d") == ms
    if ms < 2**42:  # beyond, a float of seconds has no place for milliseconds
        assert duration_ms(ms / 1000, "d") == ms


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=36_000)))
def test_a_duration_is_never_shorter_than_asked_for(value: timedelta) -> None:
    """Rounded up, by less than a millisecond."""
    rounded = timedelta(milliseconds=duration_ms(value, "d"))
    assert value <= rounded < value + timedelta(milliseconds=1)
