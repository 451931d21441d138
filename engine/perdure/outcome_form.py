"""The JSON form of an `Outcome`, for the parameter of an `on_complete`.

JSON cannot tell its three classes apart by their fields, so they are told by their kind.
"""

from __future__ import annotations

import typing
from types import UnionType
from typing import Any

import attrs
import msgspec

from .core.outcomes import Canceled, Failed, Succeeded
from .errors import ErrorInfo
from .forms import Misfit, by_hand
from .records import Outcome


def is_outcome(annotation: Any) -> bool:
    """Whether it is `Outcome`, or the same three classes written out."""
    members = (Succeeded[Any], Succeeded[object], Succeeded, Failed, Canceled)
    parts = typing.get_args(annotation)
    return annotation == Outcome or (
        len(parts) == 3
        and typing.get_origin(annotation) in (typing.Union, UnionType)
        and all(part in members for part in parts)
    )


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
