"""How a step or a workflow ended: the three outcomes.

The same three classes serve inside the engine, where a value is JSON text, and outside, where it
is a plain value; hence the type parameter.
"""

from __future__ import annotations

import json
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import attrs

from ..errors import ErrorInfo

T_co = TypeVar("T_co", covariant=True)

#: JSON text. The core never sees a decoded user value.
Json: TypeAlias = str


@attrs.frozen
class Succeeded(Generic[T_co]):
    """It returned `value`.

    In a status, and as the outcome that an `on_complete` gets, `value` is the plain JSON value that
    is stored: a dict for a dataclass, text for a datetime. `WorkflowManager.result` gives it as the
    workflow's return annotation says; so does ``msgspec.convert(outcome.value, Profile)``, or for a
    pydantic model ``Profile.model_validate(outcome.value)``.
    """

    value: T_co
    kind: Literal["success"] = attrs.field(default="success", init=False, repr=False)


@attrs.frozen
class Failed:
    """It raised; `error` tells what."""

    error: ErrorInfo
    kind: Literal["failed"] = attrs.field(default="failed", init=False, repr=False)


@attrs.frozen
class Canceled:
    """It was canceled before it ended by itself."""

    kind: Literal["canceled"] = attrs.field(default="canceled", init=False, repr=False)


#: An outcome as the engine holds it: a value is JSON text.
Outcome: TypeAlias = Succeeded[Json] | Failed | Canceled


def is_same_json(one: Json, other: Json) -> bool:
    """Whether two texts are the same value, where 1 and 1.0 are the same number.

    A whole number that is given for a float is stored as a float; older code stored it as it was
    given, and its journals are still compared with what today's code asks for.
    """
    if one == other:
        return True
    try:
        return _is_same(json.loads(one), json.loads(other))
    except (ValueError, OverflowError, RecursionError):  # numbers beyond what Python converts
        return False


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if {type(one), type(other)} == {int, float}:
        return float(one) == float(other)
    return type(one) is type(other) and bool(one == other)
