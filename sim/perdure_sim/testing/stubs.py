"""What stands for an action's code in a test: values, exceptions, functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from perdure.definitions import Action
from perdure.errors import ValidationError


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
        if isinstance(item, Exception):
            # Else its traceback would have one more entry each time that it is raised, for ever.
            raise item.with_traceback(None)
        if is_exception(item):
            raise item
        return item

    return stub


def is_exception(item: object) -> bool:
    """Whether a stub raises it."""
    return isinstance(item, Exception) or (isinstance(item, type) and issubclass(item, Exception))


def check_values(action: Action[..., Any], returns: Any, limit: int) -> None:
    """Whether an action may return what a stub of it is to return.

    Raises:
        ValidationError: it may not; the message says so, too, where a list was meant as a whole.
        LimitExceeded
    """
    where = f"stub of {action.name}: its result"
    for value in returns if isinstance(returns, list) else [returns]:
        if is_exception(value):
            continue
        try:
            action.result.encode(value, where=where, limit=limit)
        except ValidationError as error:
            if not isinstance(returns, list) or not _may_return(action, returns, limit):
                raise
            raise ValidationError(
                f"{error}. Of a list one item is taken after the other: to return this list, write"
                " returns=[[…]]"
            ) from None


def _may_return(action: Action[..., Any], value: Any, limit: int) -> bool:
    try:
        action.result.encode(value, where="", limit=limit)
    except ValidationError:
        return False
    return True
