"""What a program may do: evaluated directly, with no engine, no journal and no loop.

Where timing decides (who wins a race, what a time limit cuts off, which of several failures comes
first) a program has several endings. An effect then belongs to those that are certain (`least`) or
to those that are possible (`most`): what is cancelled may have got anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import attrs
from property_tests.programs import DAY_MS, Program, paths

#: Rows of mutations and calls of actions: "row p0.1", "call p0.2". No path does both.
Effects = frozenset[str]

NONE: Effects = frozenset()


@attrs.frozen
class Ending:
    """One way in which a program may end.

    Attributes:
        value: what it returns, unless it raises.
        error: the text of what it raises.
        least: effects that it has for certain.
        most: effects that it may have.
    """

    value: Any = None
    error: str | None = None
    least: Effects = NONE
    most: Effects = NONE


@attrs.frozen
class Expected:
    """What a program may do.

    Attributes:
        endings: all of them; none for a program that waits for ever.
        touched: effects that it may have if it is cut off anywhere.
    """

    endings: list[Ending]
    touched: Effects


def expected(program: Program, path: str) -> Expected:
    """What the program may do at this path."""
    kind, option, *_ = program
    parts = [expected(part, part_path) for part_path, part in paths(program, path)]
    match kind:
        case "work" | "flaky":
            return _certain(path, None, {f"call {path}"})
        case "broken":
            return _certain(None, path, {f"call {path}"})
        case "overdue":  # both attempts may be lost before their code begins
            return _possible(None, path, {f"call {path}"})
        case "once":
            return _possible(path, None, {f"call {path}"})
        case "write":
            return _certain(path, None, {f"row {path}"})
        case "read back":
            return _certain(1, None, {f"row {path}"})
        case "undone" | "raise":
            return _certain(None, path)
        case "sleep" | "nap":
            return _certain(True)
        case "late":
            return _certain("late")
        case "event":
            return _certain("sent")
        case "letters":
            return _certain(list(range(option)))
        case "never":
            return Expected([], NONE)
        case "row" | "loop" | "queue" | "stream" | "condition":
            return _in_turn(parts)
        case "gather" | "lock" | "completed" | "group" | "children" | "semaphore" | "barrier":
            return _at_once(parts)
        case "context" | "all":
            return _at_once(parts)
        case "settled":
            caught = [Expected([_caught(e) for e in each.endings], each.touched) for each in parts]
            return _at_once(caught)
        case "signal":
            return _signal(parts)
        case "child" | "patient":
            return parts[0]
        case "try":
            return Expected([_caught(each) for each in parts[0].endings], parts[0].touched)
        case "timeout" | "limit":
            late = [] if option == DAY_MS else [Ending("late", most=parts[0].touched)]
            return Expected([*parts[0].endings, *late], parts[0].touched)
        case "cancel":
            doomed, part = parts
            return Expected(_beside(part.endings, doomed.touched), _touched(parts))
        case "race":
            return _race(parts)
    raise AssertionError(f"no such program: {kind}")


def _certain(value: Any, error: str | None = None, effects: Iterable[str] = ()) -> Expected:
    done = frozenset(effects)
    return Expected([Ending(value, error, least=done, most=done)], done)


def _possible(value: Any, error: str | None, effects: Iterable[str]) -> Expected:
    done = frozenset(effects)
    return Expected([Ending(value, error, most=done)], done)


def _caught(ending: Ending) -> Ending:
    if ending.error is None:
        return ending
    return attrs.evolve(ending, value=["caught", ending.error], error=None)


def _in_turn(parts: list[Expected]) -> Expected:
    """One after the other, until one fails; their values."""
    open_ones, failed = [Ending([])], []
    for part in parts:
        pairs = [_then(first, second) for first in open_ones for second in part.endings]
        open_ones = [each for each in pairs if each.error is None]
        failed += [each for each in pairs if each.error is not None]
    return Expected(open_ones + failed, _touched(parts))


def _then(first: Ending, second: Ending) -> Ending:
    return Ending(
        [*first.value, second.value],
        second.error,
        least=first.least | second.least,
        most=first.most | second.most,
    )


def _at_once(parts: list[Expected]) -> Expected:
    """All of them together; the values of all, or the error of any, whose rest may go on."""
    touched = _touched(parts)
    good = [[each for each in part.endings if each.error is None] for part in parts]
    bad = [each for part in parts for each in part.endings if each.error is not None]
    whole = [
        Ending(
            [each.value for each in those],
            least=_union(each.least for each in those),
            most=_union(each.most for each in those),
        )
        for those in product(*good)
    ]
    return Expected(whole + _beside(bad, touched), touched)


def _signal(parts: list[Expected]) -> Expected:
    """The first, and when it is done, the others together."""
    first, *rest = parts
    after = _at_once(rest)
    both = _in_turn([first, after])
    flat = [
        each if each.error else attrs.evolve(each, value=[each.value[0], *each.value[1]])
        for each in both.endings
    ]
    return Expected(flat, _touched(parts))


def _race(parts: list[Expected]) -> Expected:
    """Any of them may win, or fail first; the others are cut off anywhere."""
    touched = _touched(parts)
    first = [
        attrs.evolve(each, value=[number, each.value])
        for number, part in enumerate(parts)
        for each in part.endings
    ]
    return Expected(_beside(first, touched), touched)


def _beside(endings: list[Ending], touched: Effects) -> list[Ending]:
    """These endings, while other things go on beside."""
    return [attrs.evolve(each, most=each.most | touched) for each in endings]


def _touched(parts: list[Expected]) -> Effects:
    return _union(part.touched for part in parts)


def _union(several: Iterable[Effects]) -> Effects:
    return NONE.union(*several)
