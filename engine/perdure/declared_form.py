"""The JSON form of a declared error (`raises=`), and how it is made again.

By pickle's rules, without pickle: an error is called with its args again, or with what its own
``__reduce__`` gives, and gets the attributes that this has not set. Many classes make args of their
own (``super().__init__(f"code {code}")``) and could not be called with them: for these each
parameter of ``__init__`` is taken from the attribute of its name; and if that does not do either,
the error is made without ``__init__``, of its args and attributes alone. Which of these gives the
same error is tried when it is stored; if none does, that is said instead of giving another one.

Values are stored as the annotations of the parameters of their names say, else as plain JSON.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from typing import Any, Literal, TypeAlias, cast

import msgspec

from .annotations import resolve
from .codec import TypeCodec, encode_plain, plain
from .core.limits import MESSAGE_LENGTH_MAX, VALUE_BYTES_MAX
from .core.outcomes import Json
from .errors import DefinitionError, LimitExceeded, ValidationError

#: Called with its args; called with its parameters by name; or made without being called.
How: TypeAlias = Literal["args", "names", "bare"]


class CannotStore(Exception):
    """An error that nothing in JSON makes again; the text says why."""


class _Form(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """An error of which its args alone, as a list, do not say enough."""

    how: How = "args"
    args: list[msgspec.Raw] = []
    names: dict[str, msgspec.Raw] = {}
    attributes: dict[str, msgspec.Raw] = {}


class _NotThere:
    """What an error has where it has no such attribute."""


_NOT_THERE = _NotThere()

_forms = msgspec.json.Decoder(list[msgspec.Raw] | _Form).decode
_encode = msgspec.json.Encoder(order="deterministic").encode


def store_error(error: BaseException, cls: type[BaseException]) -> Json:
    """What `make_error` needs to make `error` again, as an instance of `cls`.

    Raises:
        CannotStore: whatever was stored, another error would come back.
    """
    reason: Exception = CannotStore("it has no form in JSON")
    alike: list[Json] = []
    for candidate in (_reduced, _by_args, _by_names, _bare):
        try:
            form = candidate(error, cls)
            if form is None:
                continue
            again = _completed(error, cls, form)
            is_plain = form.how == "args" and not form.attributes
            whole = _encode(form.args if is_plain else form).decode()
        except Exception as failure:  # by contract: whatever its class does
            reason = failure
            continue
        if _has_text_of(again, error):
            return _within(whole)
        if type(error) is not cls or (form.how != "bare" and _has_lost(error, again)):
            alike.append(whole)
        reason = CannotStore("made again it has another text")
    if alike:
        return _within(alike[0])
    if isinstance(reason, CannotStore):
        raise reason
    raise CannotStore(f"{type(reason).__name__}: {reason}") from reason


def make_error(cls: type[BaseException], text: Json) -> BaseException:
    """The error that was stored; raises whatever its class raises, or `TypeError`."""
    form = _forms(text)
    return _made(cls, form if isinstance(form, _Form) else _Form(args=form))


def _within(text: Json) -> Json:
    if len(text.encode()) > VALUE_BYTES_MAX:
        raise CannotStore(f"its args and attributes are more than {VALUE_BYTES_MAX:,} bytes")
    return text


# ---- the forms that an error may have, without attributes; None for none ----


def _reduced(error: BaseException, cls: type[BaseException]) -> _Form | None:
    """With what its class says to pickle, which may be more than its args."""
    call, args, *_ = cast(Any, error.__reduce__())
    if call is not type(error) or (call is not cls and args == error.args):
        return None
    return _called(cls, args)


def _by_args(error: BaseException, cls: type[BaseException]) -> _Form | None:
    return _called(cls, error.args)


def _called(cls: type[BaseException], args: tuple[Any, ...]) -> _Form:
    codecs, of_rest = _codecs_by_position(cast(Any, cls))
    return _Form(
        args=[
            _raw(codecs[index] if index < len(codecs) else of_rest, value, "its args")
            for index, value in enumerate(args)
        ]
    )


def _by_names(error: BaseException, cls: type[BaseException]) -> _Form | None:
    names = {}
    for name, (is_needed, codec) in _parameters(cast(Any, cls)).items():
        value = getattr(error, name, _NOT_THERE)
        if value is not _NOT_THERE:
            names[name] = _raw(codec, value, f"its attribute `{name}`")
        elif is_needed:
            return None
    return _Form(how="names", names=names) if names else None


def _bare(error: BaseException, cls: type[BaseException]) -> _Form:
    return _Form(how="bare", args=[_raw(None, value, "its args") for value in error.args])


# ---- an error of a form ----


def _completed(error: BaseException, cls: type[BaseException], form: _Form) -> BaseException:
    """What a form makes; the form gets the attributes that are missing then.

    Raises:
        CannotStore: it makes another error, or such an attribute cannot be stored.
    """
    again = _made(cls, form)
    if not isinstance(again, cls):
        raise CannotStore("its class gives something else")
    if not _is_alike(again.args, error.args):
        raise CannotStore("its __init__ makes other args of what it is given")
    for name, value in _attributes(error).items():
        if _is_alike(value, getattr(again, name, _NOT_THERE)):
            continue
        try:
            raw = _raw(_codec_of(cls, name), value, f"its attribute `{name}`")
        except CannotStore:
            if type(error) is not cls:  # what a subclass adds is no part of what was declared
                continue
            raise
        form.attributes[name] = raw
        _set(again, cls, name, raw)
    return again


def _made(cls: type[BaseException], form: _Form) -> BaseException:
    error: BaseException
    if form.how == "args":
        codecs, of_rest = _codecs_by_position(cast(Any, cls))
        error = cls(
            *(
                _value(codecs[index] if index < len(codecs) else of_rest, raw)
                for index, raw in enumerate(form.args)
            )
        )
    elif form.how == "names":
        values = {name: _value(_codec_of(cls, name), raw) for name, raw in form.names.items()}
        error = cls(**values)
    else:
        args = [_value(None, raw) for raw in form.args]
        error = cls.__new__(cls, *args)
        error.args = tuple(args)
    for name, raw in form.attributes.items():
        _set(error, cls, name, raw)
    return error


def _set(error: BaseException, cls: type[BaseException], name: str, raw: msgspec.Raw) -> None:
    setattr(error, name, _value(_codec_of(cls, name), raw))


def _attributes(error: BaseException) -> dict[str, Any]:
    """All that an error has beside its args; without what tools keep in it for themselves."""
    found: dict[str, Any] = {}
    for each in type(error).__mro__:
        slots = vars(each).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(error, name):
                found[name] = getattr(error, name)
    with contextlib.suppress(Exception):  # ImportError's `name`, and its like
        found |= cast(Any, error.__reduce__())[2]
    found |= vars(error)
    found.pop("args", None)
    return {
        name: value
        for name, value in found.items()
        if name == "__notes__" or not (name.startswith("__") and name.endswith("__"))
    }


def _is_alike(value: Any, other: Any) -> bool:
    """Whether they are the same in JSON; or neither has a form in it, and both are of one class."""
    if value is other:
        return True
    try:
        text = encode_plain(value, where="", limit=sys.maxsize)
    except Exception:  # by contract: whatever stands in an error
        return type(value) is type(other)
    try:
        return text == encode_plain(other, where="", limit=sys.maxsize)
    except Exception:
        return False


def _has_lost(error: BaseException, again: BaseException) -> bool:
    """Whether JSON does not keep all of it, such as a tuple; its text may show that."""
    try:
        return error.args != again.args or _attributes(error) != _attributes(again)
    except Exception:  # by contract: an __eq__ of the user's
        return False


def _has_text_of(again: BaseException, error: BaseException) -> bool:
    text, other = _text(again), _text(error)
    if text == other:
        return True
    # A set in it has any order.
    return len(text) == len(other) <= MESSAGE_LENGTH_MAX and sorted(text) == sorted(other)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # by contract: a __str__ of the user's
        return ""


# ---- one value ----


def _raw(codec: TypeCodec[Any] | None, value: Any, what: str) -> msgspec.Raw:
    if codec is not None:
        with contextlib.suppress(ValidationError):  # its __init__ has made something of its own
            return msgspec.Raw(codec.encode(value, where="", limit=VALUE_BYTES_MAX).encode())
    try:
        return msgspec.Raw(encode_plain(value, where=what, limit=VALUE_BYTES_MAX).encode())
    except (ValidationError, LimitExceeded) as error:
        raise CannotStore(f"{error}") from None


def _value(codec: TypeCodec[Any] | None, raw: msgspec.Raw) -> Any:
    text = bytes(raw).decode()
    if codec is not None:
        with contextlib.suppress(ValidationError):
            return codec.decode(text, where="")
    return plain(text)


def _codec_of(cls: type[BaseException], name: str) -> TypeCodec[Any] | None:
    return _parameters(cast(Any, cls)).get(name, (False, None))[1]


@functools.lru_cache(maxsize=1024)
def _parameters(cls: Any) -> dict[str, tuple[bool, TypeCodec[Any] | None]]:
    """Those of its ``__init__`` that have names, and of each whether it must be given, and the
    codec of its annotation; None for no annotation, or one that cannot be stored."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        each.name: (each.default is inspect.Parameter.empty, _codec(cls.__init__, each))
        for each in _signature(cls)
        if each.kind in named
    }


@functools.lru_cache(maxsize=1024)
def _codecs_by_position(
    cls: Any,
) -> tuple[tuple[TypeCodec[Any] | None, ...], TypeCodec[Any] | None]:
    """The same, of each parameter that takes an arg by position, and of what ``*rest`` takes."""
    codecs: list[TypeCodec[Any] | None] = []
    of_rest = None
    for each in _signature(cls):
        if each.kind is inspect.Parameter.VAR_POSITIONAL:
            of_rest = _codec(cls.__init__, each)
        elif each.kind not in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
            codecs.append(_codec(cls.__init__, each))
    return tuple(codecs), of_rest


def _signature(cls: Any) -> list[inspect.Parameter]:
    init = cls.__init__
    return list(inspect.signature(init).parameters.values())[1:] if inspect.isfunction(init) else []


def _codec(init: Any, parameter: inspect.Parameter) -> TypeCodec[Any] | None:
    if parameter.annotation is inspect.Parameter.empty:
        return None
    try:
        return TypeCodec.of(resolve(parameter.annotation, init, where=""), where="")
    except DefinitionError:
        return None
