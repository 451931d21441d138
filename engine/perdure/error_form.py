"""What is kept of an exception, and whether a declared one comes back.

Not here: which exceptions are declared (`definitions`), how they are made again (`declared_form`),
and what a failure leads to.
"""

from __future__ import annotations

import os
import traceback

import msgspec

from .core.limits import MESSAGE_LENGTH_MAX, NAME_LENGTH_MAX, TRACEBACK_LENGTH_MAX
from .core.outcomes import Json
from .declared_form import CannotStore, make_error, store_error
from .errors import ErrorInfo

_PACKAGE = os.path.dirname(__file__) + os.sep


def encode_error(
    error: BaseException, *, declared: tuple[type[BaseException], ...] = ()
) -> ErrorInfo:
    """What is kept of an exception; never raises.

    The type is the bare class name. An instance of a declared class is kept as that class (the
    nearest in its method resolution order), for `rebuild_error`; if it could not be made again, the
    reason is kept.
    """
    cls = next((each for each in type(error).__mro__ if each in declared), None)
    arguments = None if cls is None else _arguments(error, cls)
    try:
        message = str(error)
    except BaseException as failure:  # else the attempt would never be reported
        message = f"<str() of the exception raised {type(failure).__name__}>"
    if len(message) > MESSAGE_LENGTH_MAX:
        message = message[: MESSAGE_LENGTH_MAX - 1] + "…"
    name = _storable((cls or type(error)).__name__)[:NAME_LENGTH_MAX]
    return ErrorInfo(name, _storable(message), _traceback_text(error), arguments)


def _arguments(error: BaseException, cls: type[BaseException]) -> Json:
    try:
        return store_error(error, cls)
    except CannotStore as failure:
        reason = str(failure)
    except BaseException as failure:  # by contract: also where its class exits
        reason = type(failure).__name__
    return msgspec.json.encode(_storable(reason)[:MESSAGE_LENGTH_MAX]).decode()


def rebuild_error(
    info: ErrorInfo, declared: tuple[type[BaseException], ...]
) -> BaseException | str | None:
    """The declared exception that `info` was made of.

    None if it was not declared. Text that says why not, and what to do, if it cannot be made again.
    """
    if info.arguments is None:
        return None
    for cls in declared:
        if cls.__name__ == info.type:
            return _rebuilt(cls, info.arguments)
    return None


def _rebuilt(cls: type[BaseException], arguments: Json) -> BaseException | str:
    if arguments.startswith('"'):
        reason = msgspec.json.decode(arguments, type=str)
    else:
        try:
            error = make_error(cls, arguments)
        except Exception as failure:  # by contract: whatever its class does
            reason = f"its class refuses what was stored of it, with {type(failure).__name__}"
        else:
            if isinstance(error, cls):
                return error
            reason = "its class gives something else"
    name = cls.__name__
    return (
        f"{name} is declared with raises=, but cannot be raised again: {reason}. Give it attributes"
        " that can be stored, with the names of the parameters of its __init__, or a __reduce__"
        f" that returns ({name}, (…))"
    )


def _traceback_text(error: BaseException) -> str:
    try:
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_PACKAGE):
            frames = frames.tb_next
        lines = traceback.format_exception(type(error), error, frames or error.__traceback__)
        text = _storable("".join(lines))
    except Exception as failure:  # a __str__ or a property of the user's, or no stack left
        return f"<the traceback could not be written: {type(failure).__name__}>"
    if len(text) > TRACEBACK_LENGTH_MAX:
        text = "…" + text[1 - TRACEBACK_LENGTH_MAX :]
    return text


def _storable(text: str) -> str:
    """Every database takes it: no lone surrogates, and no NUL, which PostgreSQL refuses."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
