"""How a step or a workflow ended: the three outcomes.

The same three classes serve inside the engine, where a value is JSON text, and outside, where it
is a plain value; hence the type parameter.
"""

from __future__ import annotations

from typing import Generic, Literal, TypeAlias, TypeVar

import attrs

from ..errors import ErrorInfo

T_co = TypeVar("T_co", covariant=True)

#: JSON text. The core never sees a decoded user value.
Json: TypeAlias = str


@attrs.frozen
class Succeeded(Generic[T_co]):
    """It returned `value`."""

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
