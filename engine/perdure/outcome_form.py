"""The JSON form of an `Outcome`, for the parameter of an `on_complete`.

JSON cannot tell its three classes apart by their fields, so they are told by their kind.
"""

from __future__ import annotations

import typing
from types import NoneType, UnionType
from typing import Annotated, Any

import attrs
import msgspec

from .core.outcomes import Canceled, Failed, Succeeded
from .errors import ErrorInfo
from .forms import Misfit, Unstorable, by_hand
from .records import Outcome

_CLASSES = (Succeeded, Failed, Canceled)


def outcome_members(annotation: Any) -> tuple[Any, ...]:
    """What an annotation joins, if one of the three classes is in a union; else nothing.

    Raises:
        Unstorable: not all three are in it, or others than them and None.
    """
    while inner := getattr(annotation, "__value__", None) or (
        annotation.__origin__ if typing.get_origin(annotation) is Annotated else None
    ):
        annotation = inner  # the name that `type X = …` made, and what `Annotated` adds
    if typing.get_origin(annotation) not in (typing.Union, UnionType):
        return ()
    parts = typing.get_args(annotation)
    classes = [typing.get_origin(part) or part for part in parts]
    if not any(each in classes for each in _CLASSES):
        return ()
    missing = [each.__name__ for each in _CLASSES if each not in classes]
    if missing:
        raise Unstorable(f"{' and '.join(missing)} would not fit: {_REMEDY}")
    for part in parts:
        if part not in (Succeeded, Succeeded[Any], Succeeded[object], Failed, Canceled, NoneType):
            raise Unstorable(f"{_shown(part)} is more than what an outcome holds: {_REMEDY}")
    return parts


def is_outcome(annotation: Any) -> bool:
    """Whether it is `Outcome`, or the same three classes written out, or one of these or None."""
    return bool(outcome_members(annotation))


_REMEDY = "the value of an outcome is plain JSON, so write `Outcome`"


def _shown(part: Any) -> str:
    return part.__name__ if isinstance(part, type) else str(part).rpartition(".")[2]


def dump_outcome_or_none(value: Any, path: str) -> Any:
    return None if value is None else dump_outcome(value, path)


def decode_outcome_or_none(text: bytes | str) -> Outcome | None:
    return None if msgspec.json.decode(text) is None else decode_outcome(text)


def dump_outcome(value: Any, path: str) -> Any:
    match value:
        case Succeeded():
            return {"kind": "success", "value": by_hand(value.value, f"{path}.value")}
        case Failed():
            return {"kind": "failed", "error": attrs.asdict(value.error)}
        case Canceled():
            return {"kind": "canceled"}
    raise Misfit("expected an Outcome", path, value)


def decode_outcome(text: bytes | str) -> Outcome:
    plain = msgspec.json.decode(text)
    match plain:
        case {"kind": "success", "value": value}:
            return Succeeded(value)
        case {"kind": "failed", "error": error}:
            return Failed(msgspec.convert(error, ErrorInfo))
        case {"kind": "canceled"}:
            return Canceled()
    raise Misfit("expected an Outcome", "$", plain)
