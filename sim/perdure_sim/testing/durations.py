"""Durations as tests give them: seconds, a timedelta, a text such as "2m", or a range "0s..2m"."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TypeAlias

#: Seconds, a timedelta, or a text: ``"30s"``, ``"1h 30m"``, ``"250ms"``.
Duration: TypeAlias = timedelta | float | str

_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")


def to_ms(duration: Duration, what: str = "duration") -> int:
    """A length of time in ms.

    Raises:
        TypeError, ValueError: it is none, or below zero.
    """
    if isinstance(duration, timedelta):
        ms = duration / timedelta(milliseconds=1)
    elif isinstance(duration, str):
        ms = _parse(duration, what)
    elif isinstance(duration, int | float) and not isinstance(duration, bool):
        ms = duration * 1_000
    else:
        raise TypeError(f"{what}={duration!r}: give seconds, a timedelta or a text such as '30s'")
    if not 0 <= ms < float("inf"):
        raise ValueError(f"{what}={duration!r}: give a length of time from 0 on")
    return round(ms)


def to_range(duration: Duration, what: str = "duration") -> tuple[int, int]:
    """The least and the most ms of a duration: of ``"0s..2m"``, or twice the same.

    Raises:
        TypeError, ValueError: it is no duration, or ends before it begins.
    """
    if not isinstance(duration, str) or ".." not in duration:
        ms = to_ms(duration, what)
        return ms, ms
    first, _, last = duration.partition("..")
    low, high = to_ms(first, what), to_ms(last, what)
    if low > high:
        raise ValueError(f"{what}={duration!r}: the range ends before it begins")
    return low, high


def _parse(text: str, what: str) -> float:
    parts = _PART.findall(text)
    if not parts or _PART.sub("", text).strip():
        raise ValueError(
            f"{what}={text!r}: write numbers with ms, s, m, h or d, such as '30s', '1h 30m',"
            " or a range '0s..2m' where one may be"
        )
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
