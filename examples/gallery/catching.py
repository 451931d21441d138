"""For the tests of this gallery: run a test that must fail, and tell what was found."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import attrs


@attrs.frozen
class Caught:
    """What the simulator has found.

    Attributes:
        law: what does not hold: the name of the exception.
        message: what it says.
        faults: what has to go wrong for that, after shrinking; times within a range as well.
    """

    law: str
    message: str
    faults: tuple[str, ...]


def caught(test: Callable[..., None]) -> Caught:
    """Run a test of `simulate`, as pytest would, and expect it to fail.

    Of several failures it is the one that takes the most faults.
    """
    try:
        test()
    except Exception as error:
        return max((_told(each) for each in _flat(error)), key=lambda found: len(found.faults))
    raise AssertionError("the simulator has found nothing")


def _told(error: Exception) -> Caught:
    """What Hypothesis notes at an error: the arguments of the example, and so the plan."""
    notes = "\n".join(getattr(error, "__notes__", ()))
    plan = re.search(r"\bplan='(?:pd1:)?([^']*)'", notes)
    assert plan is not None, f"no plan was told for {error!r}"
    return Caught(type(error).__name__, str(error), tuple(filter(None, plan[1].split(";"))))


def _flat(error: Exception) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for each in error.exceptions:
            yield from _flat(each)
    else:
        yield error
