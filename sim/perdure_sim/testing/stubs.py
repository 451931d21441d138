"""What stands for an action's code in a test: values, exceptions, functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def stub_function(
    returns: Any, raises: Any, call: Callable[..., Any] | None
) -> Callable[..., Any] | None:
    """The function that `sim.stub` describes; None where the action's own code is to run.

    Raises:
        TypeError, ValueError: the options do not fit together.
    """
    given = [returns is not ..., raises is not None, call is not None]
    if sum(given) > 1:
        raise ValueError("stub: give one of returns=, raises= and call=")
    if call is not None:
        if not callable(call):
            raise TypeError(f"stub: call={call!r}: give a function that gets what the action gets")
        return call
    if raises is not None:
        items = raises if isinstance(raises, list) else [raises]
        for item in items:
            if not is_exception(item):
                raise TypeError(f"stub: raises={item!r}: give an exception, or a list of them")
        return _in_turn(items)
    if returns is not ...:
        items = returns if isinstance(returns, list) else [returns]
        if not items:
            raise ValueError(
                "stub: returns=[]: a list is taken one item after the other;"
                " to return an empty list write returns=[[]]"
            )
        return _in_turn(items)
    return None


def _in_turn(items: list[Any]) -> Callable[..., Any]:
    """One item after the other, then the last one for ever."""
    left = list(items)

    def stub(*args: Any, **kwargs: Any) -> Any:
        item = left.pop(0) if len(left) > 1 else left[0]
        if is_exception(item):
            raise item
        return item

    return stub


def is_exception(item: object) -> bool:
    """Whether a stub raises it."""
    return isinstance(item, Exception) or (isinstance(item, type) and issubclass(item, Exception))
