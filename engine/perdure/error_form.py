"""What is kept of an exception, and how a declared one comes back: by its class's name and `args`.

Not here: which classes are declared (`definitions`), and when an error is an outcome.
"""

from __future__ import annotations

import os
import traceback

from .codec import encode_plain, plain
from .core.limits import (
    MESSAGE_LENGTH_MAX,
    NAME_LENGTH_MAX,
    TRACEBACK_LENGTH_MAX,
    VALUE_BYTES_MAX,
)
from .errors import ErrorInfo

_PACKAGE = os.path.dirname(__file__) + os.sep


def encode_error(
    error: BaseException, *, declared: tuple[type[BaseException], ...] = ()
) -> ErrorInfo:
    """What is kept of an exception; never raises.

    The type is the bare class name. An instance of a declared class is kept as that class (the
    nearest in its method resolution order), with `args` if they are JSON, for `rebuild_error`.
    """
    cls = next((each for each in type(error).__mro__ if each in declared), None)
    arguments = None
    if cls is not None:
        try:
            arguments = encode_plain(list(error.args), where="args", limit=VALUE_BYTES_MAX)
        except Exception:  # by contract: then it comes back as StepFailed
            arguments = None
    try:
        message = str(error)
    except Exception as failure:
        message = f"<str() of the exception raised {type(failure).__name__}>"
    if len(message) > MESSAGE_LENGTH_MAX:
        message = message[: MESSAGE_LENGTH_MAX - 1] + "…"
    name = _storable((cls or type(error)).__name__)[:NAME_LENGTH_MAX]
    return ErrorInfo(name, _storable(message), _traceback_text(error), arguments)


def rebuild_error(
    info: ErrorInfo, declared: tuple[type[BaseException], ...]
) -> BaseException | None:
    """The declared exception that `info` was made of, as ``cls(*args)``.

    None if it was not declared, its args were not JSON, or its constructor refuses them.
    """
    if info.arguments is None:
        return None
    for cls in declared:
        if cls.__name__ == info.type:
            try:
                error = cls(*plain(info.arguments))
            except Exception:  # by contract: then it comes back as StepFailed
                return None
            return error if isinstance(error, cls) else None
    return None


def _traceback_text(error: BaseException) -> str:
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        frames = frames.tb_next
    try:
        lines = traceback.format_exception(type(error), error, frames or error.__traceback__)
        text = _storable("".join(lines))
    except Exception as failure:  # a __str__ or __repr__ of the user's, or no stack left
        return f"<the traceback could not be written: {type(failure).__name__}>"
    if len(text) > TRACEBACK_LENGTH_MAX:
        text = "…" + text[1 - TRACEBACK_LENGTH_MAX :]
    return text


def _storable(text: str) -> str:
    """Every database takes it: no lone surrogates, and no NUL, which PostgreSQL refuses."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
