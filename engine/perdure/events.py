"""Events: a name and the type of its payload, shared by those who send and those who await.

Not here: sending, queueing and awaiting them.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar, overload

import attrs

from .codec import TypeCodec
from .definitions import checked_name

T = TypeVar("T")


@attrs.frozen
class Event(Generic[T]):
    """A kind of event. Make it with `define_event`; the same name and type are the same event."""

    name: str
    codec: TypeCodec[T] = attrs.field(repr=False)


@overload
def define_event(name: str) -> Event[Any]: ...
@overload
def define_event(name: str, type: type[T]) -> Event[T]: ...
@overload
def define_event(name: str, type: Any) -> Event[Any]: ...
def define_event(name: str, type: Any = object) -> Event[Any]:
    """An event that workflows can await and anyone can send.

    Args:
        name: 1 to 200 printable characters.
        type: the payload's annotation, such as ``Order``, ``list[int]`` or ``int | None``;
            None for no payload; by default any JSON value.

    Raises:
        DefinitionError: the name cannot be used, or such a payload cannot be stored.
    """
    name = checked_name(name, "define_event")
    return Event(name, TypeCodec.of(type, where=f"event {name}"))
