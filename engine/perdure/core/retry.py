"""Retry policies and the delay between attempts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import attrs

from .ids import unit_float
from .limits import ATTEMPTS_MAX, RETRY_BASE_MAX, SLEEP_MS_MAX


def duration_ms(value: timedelta | float, what: str) -> int:
    """A duration (a `timedelta`, or seconds) in whole milliseconds, rounded up.

    Rounded up because a wait must never be shorter than what was asked for.

    Raises:
        ValueError: negative, not finite, not a number, or over 100 years.
    """
    if isinstance(value, timedelta):
        whole, rest = divmod(value, timedelta(milliseconds=1))
        ms = whole + bool(rest)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{what}={value!r}: a duration must be finite")
        # Bounded before it is a float: an int may be larger than any.
        seconds = min(max(value, -SLEEP_MS_MAX), SLEEP_MS_MAX)
        # Rounded to the microsecond first: 0.1 * 1000 must not become 101.
        ms = math.ceil(round(seconds * 1000, 3))
    else:
        raise TypeError(f"{what}={value!r}: give a timedelta or a number of seconds")
    if ms < 0:
        raise ValueError(f"{what}={value!r}: a duration cannot be negative")
    if ms > SLEEP_MS_MAX:
        raise ValueError(f"{what}={value!r}: longer than the limit of 100 years")
    return ms


def _error_names(classes: Iterable[type[BaseException]]) -> tuple[str, ...]:
    names = []
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, BaseException)):
            raise TypeError(f"non_retryable: {cls!r} is not an exception class")
        names.append(class_name(cls))
    return tuple(names)


def _class_tuple(
    classes: Iterable[type[BaseException]] | type[BaseException],
) -> tuple[type[BaseException], ...]:
    if isinstance(classes, type):
        return (classes,)  # as `except` takes one or several
    # Not `tuple` itself: type checkers would then want an Iterable of its free type variable.
    return tuple(classes)


def class_name(cls: type[Any]) -> str:
    """The full name under which an exception class is recorded and compared."""
    return f"{cls.__module__}.{cls.__qualname__}"


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How often an action is tried, and how long to wait in between.

    After failed attempt *k* (from 1) the wait is
    ``initial_backoff * base ** (k - 1) * U[0.5, 1.5)``, at most `max_backoff`.

    Attributes:
        max_attempts: attempts in all, lost ones counted too; 1 means no retry.
        initial_backoff: wait after the first failed attempt (`timedelta` or seconds).
        base: factor from one wait to the next, at least 1.
        max_backoff: upper bound of a wait, jitter included; None for none (then 100 years).
        jitter: spread each wait over half to one and a half of it.
        non_retryable: exception classes (and their subclasses) that end the step at once.
    """

    max_attempts: int = 5
    initial_backoff: timedelta | float = 0.5
    base: float = 2.0
    max_backoff: timedelta | float | None = None
    jitter: bool = True
    non_retryable: tuple[type[BaseException], ...] = attrs.field(default=(), converter=_class_tuple)
    _plan: RetryPlan = attrs.field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        n = self.max_attempts
        if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= ATTEMPTS_MAX:
            raise ValueError(
                f"RetryPolicy(max_attempts={n!r}): give a number from 1 to {ATTEMPTS_MAX}"
            )
        if isinstance(self.base, bool) or not isinstance(self.base, int | float):
            raise TypeError(f"RetryPolicy(base={self.base!r}): give a number")
        if not 1 <= self.base <= RETRY_BASE_MAX:
            raise ValueError(
                f"RetryPolicy(base={self.base!r}): give a number from 1 to {RETRY_BASE_MAX:g}"
            )
        if not isinstance(self.jitter, bool):
            raise TypeError(f"RetryPolicy(jitter={self.jitter!r}): give True or False")
        # Made once: each step asks for it, at each replay again.
        object.__setattr__(self, "_plan", self._make_plan())

    def plan(self) -> RetryPlan:
        """The policy as it is stored with a step: milliseconds and names."""
        return self._plan

    def _make_plan(self) -> RetryPlan:
        cap = SLEEP_MS_MAX
        if self.max_backoff is not None:
            cap = duration_ms(self.max_backoff, "RetryPolicy: max_backoff")
        return RetryPlan(
            max_attempts=self.max_attempts,
            initial_ms=duration_ms(self.initial_backoff, "RetryPolicy: initial_backoff"),
            base=float(self.base),
            cap_ms=cap,
            jitter=self.jitter,
            non_retryable=_error_names(self.non_retryable),
        )


@attrs.frozen(kw_only=True, cache_hash=True)
class RetryPlan:
    """A retry policy in stored form: no classes, no `timedelta`, only numbers and names."""

    max_attempts: int = 1
    initial_ms: int = 0
    base: float = 1.0
    cap_ms: int = SLEEP_MS_MAX
    jitter: bool = False
    non_retryable: tuple[str, ...] = ()

    def backoff_ms(self, failed_attempt: int, *, key: tuple[str, int, int]) -> int:
        """Milliseconds to wait after failed attempt number `failed_attempt` (from 1).

        `key` is (workflow id, epoch, step number): the jitter is drawn from it and from the
        attempt, so that the same history always gives the same wait.
        """
        try:
            wait = self.initial_ms * self.base ** (failed_attempt - 1)
        except OverflowError:
            wait = math.inf if self.initial_ms else 0.0
        if self.jitter:
            workflow_id, epoch, number = key
            wait *= 0.5 + unit_float(workflow_id, epoch, number, failed_attempt)
        return math.ceil(min(wait, self.cap_ms))


#: No retry: at most one start, also across crashes.
AT_MOST_ONCE = RetryPlan()
