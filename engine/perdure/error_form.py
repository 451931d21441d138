"""What is kept of an exception, and how a declared one comes back.

Not here: which exceptions are declared (`definitions`), and what a failure leads to.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import traceback
from typing import Any, cast

import msgspec

from .annotations import resolve
from .codec import TypeCodec, encode_plain, plain
from .core.limits import (
    MESSAGE_LENGTH_MAX,
    NAME_LENGTH_MAX,
    TRACEBACK_LENGTH_MAX,
    VALUE_BYTES_MAX,
)
from .core.outcomes import Json
from .errors import DefinitionError, ErrorInfo, LimitExceeded, ValidationError

_PACKAGE = os.path.dirname(__file__) + os.sep
_parts = msgspec.json.Decoder(list[msgspec.Raw]).decode


def encode_error(
    error: BaseException, *, declared: tuple[type[BaseException], ...] = ()
) -> ErrorInfo:
    """What is kept of an exception; never raises.

    The type is the bare class name. An instance of a declared class is kept as that class (the
    nearest in its method resolution order), with `args` if they can be stored, for
    `rebuild_error`.
    """
    cls = next((each for each in type(error).__mro__ if each in declared), None)
    arguments = None
    if cls is not None:
        try:
            arguments = _encode_args(cls, error.args)
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

    None if it was not declared, its args could not be stored, or its constructor refuses them.
    """
    if info.arguments is None:
        return None
    for cls in declared:
        if cls.__name__ == info.type:
            try:
                error = cls(*_decode_args(cls, info.arguments))
            except Exception:  # by contract: then it comes back as StepFailed
                return None
            return error if isinstance(error, cls) else None
    return None


# ---- its args ----


def _encode_args(cls: type[BaseException], args: tuple[Any, ...]) -> Json:
    texts = [_encode_arg(_codec_of(cls, index), value) for index, value in enumerate(args)]
    whole = f"[{','.join(texts)}]"
    if len(whole.encode()) > VALUE_BYTES_MAX:
        raise LimitExceeded("the args of an exception")
    return whole


def _encode_arg(codec: TypeCodec[Any] | None, value: Any) -> Json:
    if codec is not None:
        with contextlib.suppress(ValidationError):  # its __init__ has made args of its own
            return codec.encode(value, where="args", limit=VALUE_BYTES_MAX)
    return encode_plain(value, where="args", limit=VALUE_BYTES_MAX)


def _decode_args(cls: type[BaseException], text: Json) -> list[Any]:
    parts = enumerate(_parts(text))
    return [_decode_arg(_codec_of(cls, index), bytes(part).decode()) for index, part in parts]


def _decode_arg(codec: TypeCodec[Any] | None, text: Json) -> Any:
    if codec is not None:
        with contextlib.suppress(ValidationError):
            return codec.decode(text, where="args")
    return plain(text)


def _codec_of(cls: type[BaseException], index: int) -> TypeCodec[Any] | None:
    codecs, of_rest = _codecs_of(cast(Any, cls))
    return codecs[index] if index < len(codecs) else of_rest


@functools.lru_cache(maxsize=1024)
def _codecs_of(
    cls: Any,
) -> tuple[tuple[TypeCodec[Any] | None, ...], TypeCodec[Any] | None]:
    """By the annotations of its ``__init__``: of each parameter that takes an arg by position,
    and of what ``*rest`` takes; None where there is none, or nothing that can be stored."""
    init = cls.__init__
    if not inspect.isfunction(init):
        return (), None
    codecs: list[TypeCodec[Any] | None] = []
    of_rest = None
    for each in list(inspect.signature(init).parameters.values())[1:]:
        codec = None
        if each.annotation is not inspect.Parameter.empty:
            try:
                codec = TypeCodec.of(resolve(each.annotation, init, where="args"), where="args")
            except DefinitionError:
                codec = None
        if each.kind is inspect.Parameter.VAR_POSITIONAL:
            of_rest = codec
        elif each.kind is not inspect.Parameter.KEYWORD_ONLY:
            codecs.append(codec)
    return tuple(codecs), of_rest


# ---- its texts ----


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
