"""For the tests of this gallery: run a test that must fail, and tell what was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    """Run a test of `simulate`, as pytest would, and expect it to fail."""
    simulated: Any = test
    try:
        simulated()
    except Exception as error:
        failure = simulated.simulation.failures[type(error)]
        return Caught(
            law=type(error).__name__,
            message=str(error),
            arguments=failure.drawn,
            faults=tuple(map(str, failure.plan)),
        )
    raise AssertionError("the simulator has found nothing")
