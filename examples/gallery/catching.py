"""For the tests of this gallery: run a test that must fail, and tell what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs


@attrs.frozen
class Caught:
    """What the simulator has found.

    Attributes:
        law: what does not hold: the name of the exception.
        message: what it says.
        arguments: of the test, after shrinking.
        faults: what has to go wrong for that, after shrinking; times within a range as well.
    """

    law: str
    message: str
    arguments: Mapping[str, Any]
    faults: tuple[str, ...]


def caught(test: Callable[..., None]) -> Caught:
    """Run a test of `simulate`, as pytest would, and expect it to fail.

    Of several failures it is the one that takes the most faults.
    """
    simulated: Any = test
    try:
        simulated()
    except Exception as error:
        failures = simulated.simulation.failures
        found = [(each, failures[type(each)]) for each in _flat(error)]
        worst, failure = max(found, key=lambda both: len(both[1].plan))
        return Caught(
            law=type(worst).__name__,
            message=str(worst),
            arguments=failure.drawn,
            faults=tuple(map(str, failure.plan)),
        )
    raise AssertionError("the simulator has found nothing")


def _flat(error: Exception) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for each in error.exceptions:
            yield from _flat(each)
    else:
        yield error
