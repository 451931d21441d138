"""Types to JSON and back: validation, size limits, arguments of a function.

A value is judged by its JSON form: it is encoded in a deterministic order, and what came out must
decode strictly into the annotation. msgspec does the work. Left alone it is too kind, so this
file refuses, with the help of `forms`, what it lets pass: ``nan`` and ``inf`` (it writes null),
unknown fields (it drops them), private fields of attrs classes (it leaves them out), sets that
have no order, deep nesting. Pydantic, when installed, takes over each annotation that mentions it.

Not here: what an annotation is for (`definitions`, `events`), what is kept of an exception
(`error_form`), and what to do when a value does not fit. Nothing here reads a clock or a database.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
import sys
import typing
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Generic, NoReturn, TypeVar

import attrs
import msgspec

from .annotations import resolve
from .core.outcomes import Json
from .errors import DefinitionError, LimitExceeded, ValidationError
from .forms import (
    NATIVE,
    SCALARS,
    Misfit,
    Traits,
    Unstorable,
    as_base,
    by_hand,
    holds_only_scalars,
    mentions_pydantic,
    pydantic_form,
    refuse_unknown,
    short,
    too_deep,
    traits_of,
    under,
)
from .outcome_form import (
    decode_outcome,
    decode_outcome_or_none,
    dump_outcome,
    dump_outcome_or_none,
    is_outcome,
    outcome_members,
)
from .records import Outcome
from .unions import check_class, classes_of, joined_classes, refuse_excluded

T = TypeVar("T")

#: Members of one dict that are tried, one at a time, to find the one that an error is about.
_SUSPECTS_MAX = 1000

_encode = msgspec.json.Encoder(order="deterministic").encode
_plain = msgspec.json.Decoder().decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_is_json = json.JSONEncoder(allow_nan=False, ensure_ascii=False).encode
#: What msgspec writes of exactly these it reads back as the same, or refuses to write.
_EXACT = (int, str, bool)
_NO_TEXT = re.compile(r"Expected `[^`]*\bstr\b")
_NO_NUMBER = re.compile(rb"nan|inf", re.IGNORECASE)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]|(\[\.\.\.\])")


# ---- The codec of one annotation ----


@attrs.frozen(eq=False, repr=False)
class TypeCodec(Generic[T]):
    """Encodes and decodes values of one annotation. Make it with `TypeCodec.of`."""

    annotation: Any
    _traits: Traits
    _decode: Callable[[Any], T]
    _dump: Callable[[Any, str], Any]
    _by_msgspec: bool
    _joined: tuple[type, ...] = ()  #: by unions that only pydantic can decode
    _refuse_text: Callable[[Any, str], None] | None = None  #: pydantic's

    @staticmethod
    def of(annotation: Any, *, where: str) -> TypeCodec[Any]:
        """The codec of `annotation`; `Any`, `object` and no annotation take any JSON value.

        Args:
            annotation: a type, with its names resolved; None takes only null.
            where: what it annotates, for the message.

        Raises:
            DefinitionError: values of this annotation cannot be stored, or JSON cannot tell
                the members of a union apart.
        """
        if annotation is inspect.Parameter.empty or annotation is object:
            annotation = Any
        try:
            if members := outcome_members(annotation):
                return _OUTCOME_OR_NONE if NoneType in members else _OUTCOME
            if mentions_pydantic(annotation):
                return _pydantic_codec(annotation)
            try:
                hash(annotation)
            except TypeError:
                return _codec(annotation)
            return _cached_codec(annotation)
        except Unstorable as error:
            raise DefinitionError(
                f"{where}: values of {_shown(annotation)} cannot be stored as JSON: {error}"
            ) from None

    @property
    def is_plain(self) -> bool:
        """Whether msgspec's strict decoder alone tells what fits."""
        return self._by_msgspec and not self._traits.objects

    def __str__(self) -> str:
        """The annotation, as a message shows it."""
        return _shown(self.annotation)

    @property
    def takes_text(self) -> bool:
        """Whether text fits, under whatever name, alone or in a union."""
        annotation = self.annotation
        while hasattr(annotation, "__supertype__") or hasattr(annotation, "__metadata__"):
            annotation = getattr(annotation, "__supertype__", None) or annotation.__origin__
        is_union = typing.get_origin(annotation) in (typing.Union, UnionType)
        members = typing.get_args(annotation) if is_union else (annotation,)
        return any(each in (str, Any) for each in members)

    @property
    def takes_outcome(self) -> bool:
        """Whether an `Outcome` fits, as an `on_complete` gets it."""
        return self.annotation is Any or is_outcome(self.annotation)

    def encode(self, value: T, *, where: str, limit: int) -> Json:
        """`value` as JSON text, the same text for equal values; validated.

        Args:
            value: what to encode.
            where: what the value is, for the message.
            limit: most bytes that the text may have.

        Raises:
            ValidationError: it does not fit the annotation; the message has path and value.
            LimitExceeded: the text is longer than `limit`.
        """
        try:
            raw = self.raw(value, "$")
        except Misfit as misfit:
            raise misfit.told(where) from misfit.__cause__
        return _within(raw, where, limit)

    def decode(self, text: Json, *, where: str) -> T:
        """A fresh value from JSON text.

        Raises:
            ValidationError: the text does not fit the annotation, or has fields unknown to it.
        """
        try:
            return self.value(text, "$")
        except Misfit as misfit:
            raise misfit.told(where) from misfit.__cause__

    def raw(self, value: T, root: str) -> bytes:
        """Encode and validate within this module: `root` is the path of `value`."""
        if type(value) is self.annotation and self.annotation in _EXACT:
            try:
                return _encode(value)
            except Exception:  # no 64 bits, no Unicode: told below
                pass
        traits = self._traits
        raw = None
        if self._by_msgspec:
            try:
                raw = _encode(value)
            except Exception:  # a set without order, keys that are not text, …: by hand, or told
                raw = None
        if raw is not None and type(value) not in SCALARS:
            if traits.by_hand or (traits.null and b"null" in raw):
                try:
                    _is_json(value)  # in C, and strict: nan and whatever is not plain JSON
                except Exception:
                    raw = None
        if raw is None:
            raw = self._hand_made(value, root)
        if traits.deep and too_deep(raw):
            self._hand_made(value, root)  # refuses it with the path
            raise Misfit("nested too deep", root)
        if traits.free:
            return raw
        try:
            typed = self._typed(raw, root)
        except Misfit:
            if b"null" in raw:
                self._hand_made(value, root)  # where it was nan or inf, tells that
            raise
        again = self._written(typed, root) if traits.forms else raw
        if again != raw:
            self._check_fields(raw, typed, root)
        if self._joined:
            check_class(value, typed, root, self._joined)
        if traits.text and not holds_only_scalars(value):
            self._refuse_as_text(value, typed, root)
        if traits.decimals and _NO_NUMBER.search(raw):
            self._dump(typed, root)  # refuses it with the path
        return raw if again == raw else self._stable(raw, again, root)

    def value(self, text: bytes | str, root: str) -> T:
        """Decode within this module: `root` is the path of the value."""
        typed = self._typed(text, root)
        if self._traits.objects:
            raw = text.encode() if isinstance(text, str) else text
            if self._written(typed, root) != raw:
                self._check_fields(raw, typed, root)
        return typed

    def _typed(self, text: bytes | str, root: str) -> T:
        try:
            return self._decode(text)
        except Misfit as misfit:
            raise Misfit(misfit.problem, root + misfit.path[1:], *misfit.shown) from None
        except Exception as error:  # msgspec's, or one from a __post_init__ of the user's
            again = lambda tree: self._decode(_encode(tree))  # noqa: E731
            try:
                tree = _plain(text)
            except Exception:  # malformed further on
                tree = None
            raise self._misfit(tree, error, root, again) from error

    def _refuse_as_text(self, value: T, typed: T, root: str) -> None:
        """A UUID, a date or bytes are text in JSON, and still no `str`; nor is a number as key."""
        if not self._by_msgspec:
            if isinstance(typed, str) and not isinstance(value, str | Enum):
                raise Misfit(f"Expected `str`, got `{type(value).__name__}`", root, value)
            if self._refuse_text is not None:
                self._refuse_text(value, root)
            return

        def convert(tree: Any) -> None:
            msgspec.convert(tree, self.annotation, strict=True, str_keys=True)

        tree = msgspec.to_builtins(value, builtin_types=NATIVE, enc_hook=as_base)
        try:
            convert(tree)
        except Exception as error:  # others are no news: what was decoded fits
            if _NO_TEXT.match(str(error)):
                raise self._misfit(tree, error, root, convert) from None

    def _written(self, typed: T, root: str) -> bytes:
        """A decoded value as text: the same for equal values, however they were given."""
        if self._by_msgspec and not self._traits.by_hand:
            try:
                return _encode(typed)
            except Exception:  # a set without order
                pass
        return self._hand_made(typed, root)

    def _stable(self, raw: bytes, again: bytes, root: str) -> bytes:
        """`again`, unless a class of the user's changes what it reads each time that it does."""
        try:
            return again if self._written(self._decode(again), root) == again else raw
        except Exception:  # by contract: what was given has been decoded, and is stored
            return raw

    def _hand_made(self, value: Any, root: str) -> bytes:
        try:
            return _encode(self._dump(value, root))
        except RecursionError:
            raise Misfit("nested too deep for the stack", root) from None

    def _check_fields(self, raw: bytes, typed: T, root: str) -> None:
        try:
            refuse_unknown(_plain(raw), self._dump(typed, root), root)
        except RecursionError:
            raise Misfit("nested too deep for the stack", root) from None

    def _misfit(
        self, tree: Any, error: Exception, root: str, again: Callable[[Any], object]
    ) -> Misfit:
        """msgspec's error with the exact path (it writes `[...]` for members of a dict).

        Args:
            tree: what it was about, in plain containers; members of dicts may be taken out.
            error: whatever was raised.
            root: the path of `tree`.
            again: raises the same for the same tree.
        """
        if isinstance(error, RecursionError):
            return Misfit("nested too deep", root)
        if not isinstance(error, msgspec.ValidationError):
            return Misfit(f"{type(error).__name__}: {error}", root)
        told = str(error)
        problem, found, at = told.rpartition(" - at ")
        if not found:
            problem, at = told, "`$`"
        of_key = at.startswith("`key` in ")
        steps = at.removeprefix("`key` in ").strip("`")[1:] + ("[...]" if of_key else "")
        node, path = tree, root
        for name, index, member in _STEP.findall(steps):
            try:
                key: Any = self._suspect(tree, node, told, again) if member else name or int(index)
                node = node[key]
            except (LookupError, TypeError):
                return Misfit(problem, f"{root}{steps}")
            path = f"{path}[{index}]" if index else under(path, str(key))
        return Misfit(f"{problem} as key", path, key) if of_key else Misfit(problem, path, node)

    def _suspect(
        self, tree: Any, node: dict[Any, Any], told: str, again: Callable[[Any], object]
    ) -> Any:
        """The key of `node`, part of `tree`, that alone gives the same error; others go."""
        for key, item in list(node.items())[:_SUSPECTS_MAX]:
            node.clear()
            node[key] = item
            try:
                again(tree)
            except Exception as error:
                if str(error) == told:
                    return key
        raise LookupError


def _shown(annotation: Any) -> str:
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation)


def _codec(annotation: Any) -> TypeCodec[Any]:
    traits = traits_of(annotation)
    decode = msgspec.json.Decoder(annotation, strict=True).decode
    return TypeCodec(annotation, traits, decode, by_hand, True)


def _pydantic_codec(annotation: Any) -> TypeCodec[Any]:
    form = pydantic_form(annotation)
    refuse_excluded(annotation)
    classes = classes_of(annotation)
    if sys.modules["pydantic"].BaseModel in classes:
        raise Unstorable("pydantic.BaseModel says nothing of what is in it: take a model of yours")
    traits = Traits(objects=True, forms=True, decimals=Decimal in classes, text=str in classes)
    joined = joined_classes(annotation)
    return TypeCodec(annotation, traits, form.decode, form.dump, False, joined, form.refuse_as_text)


_cached_codec = functools.lru_cache(maxsize=1024)(_codec)


def _within(raw: bytes, where: str, limit: int) -> Json:
    if len(raw) > limit:
        raise LimitExceeded(
            f"{where}: {len(raw):,} bytes of JSON, the limit is {limit:,}: keep large things in"
            " a table or file and pass a reference, or raise Limits(value_bytes=…)"
        )
    return raw.decode()


#: JSON cannot tell the three classes apart; this is for the parameters of an `on_complete`.
_OUTCOME: TypeCodec[Any] = TypeCodec(
    Outcome, Traits(deep=True), decode_outcome, dump_outcome, False
)
_OUTCOME_OR_NONE: TypeCodec[Any] = TypeCodec(
    Outcome | None, Traits(deep=True), decode_outcome_or_none, dump_outcome_or_none, False
)
_ANY: TypeCodec[Any] = TypeCodec.of(Any, where="any JSON value")


def plain(text: Json) -> Any:
    """JSON text as plain Python values, for records that people and programs read."""
    return _plain(text)


def encode_plain(value: Any, *, where: str, limit: int) -> Json:
    """A value without annotation as JSON text; raises as `TypeCodec.encode` does."""
    return _ANY.encode(value, where=where, limit=limit)


# ---- The arguments of a function ----


@attrs.frozen
class _Parameter:
    name: str
    key: bytes
    positional_only: bool
    codec: TypeCodec[Any]
    default: bytes | None


@attrs.frozen(eq=False, repr=False)
class ArgumentsCodec:
    """A function's arguments, without its first (the context), as one JSON object by name."""

    _parameters: tuple[_Parameter, ...]
    _positional: tuple[str, ...]
    _by_name: dict[str, _Parameter]
    #: All of them at once, where msgspec alone can judge them; it raises for whatever else.
    _decode_all: Callable[[Json], Any] | None

    @staticmethod
    def of(
        fn: Callable[..., Any], *, where: str, names: Mapping[str, Any] | None = None
    ) -> ArgumentsCodec:
        """The codec of the arguments of `fn`; `names` as for `resolve`.

        Raises:
            DefinitionError: no context parameter, `*args` or `**kwargs`, an annotation that
                cannot be stored, a default that does not fit its annotation.
        """
        kinds = inspect.Parameter
        context, *rest = inspect.signature(fn).parameters.values() or (None,)
        if context is None or context.kind not in (
            kinds.POSITIONAL_ONLY,
            kinds.POSITIONAL_OR_KEYWORD,
        ):
            raise DefinitionError(f"{where}: the first parameter must be the context")
        parameters = tuple(_parameter(each, fn, where, names) for each in rest)
        positional = tuple(each.name for each in rest if each.kind is not kinds.KEYWORD_ONLY)
        by_name = {each.name: each for each in parameters}
        return ArgumentsCodec(parameters, positional, by_name, _decoder_of_all(parameters))

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters, without the context, in the order of declaration."""
        return tuple(each.name for each in self._parameters)

    @property
    def positional(self) -> tuple[str, ...]:
        """Those of them that may be given by position."""
        return self._positional

    def codec(self, name: str) -> TypeCodec[Any]:
        """The codec of one parameter."""
        return self._by_name[name].codec

    def encode(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, where: str, limit: int
    ) -> Json:
        """The call's arguments as a JSON object, in the order of declaration, defaults filled in.

        Raises:
            ValidationError: missing, unexpected or surplus arguments, or one that does not fit.
            LimitExceeded: the text is longer than `limit` bytes.
        """
        parts = []
        if not kwargs and len(args) == len(self._positional) == len(self._parameters):
            given: Mapping[str, Any] = dict(zip(self._positional, args, strict=True))
        else:
            given = self._bound(args, kwargs, where)
        for each in self._parameters:
            if each.name in given:
                try:
                    part = each.codec.raw(given[each.name], f"$.{each.name}")
                except Misfit as misfit:
                    raise misfit.told(where) from misfit.__cause__
            elif each.default is not None:
                part = each.default
            else:
                raise ValidationError(f"{where}: the argument `{each.name}` is missing")
            parts.append(each.key + part)
        return _within(b"{" + b",".join(parts) + b"}", where, limit)

    def decode(self, text: Json, *, where: str) -> dict[str, Any]:
        """Fresh values by parameter name; a parameter that is not stored gets its default.

        Raises:
            ValidationError: an unknown name, a missing argument, or one that does not fit.
        """
        if self._decode_all is not None:
            try:
                return msgspec.structs.asdict(self._decode_all(text))
            except Exception:  # a default is missing, or something is wrong: told below
                pass
        try:
            stored = _members(text)
        except Exception as error:
            raise ValidationError(f"{where}: {error} at $") from None
        for name in stored:
            if name not in self._by_name:
                raise ValidationError(f"{where}: unknown argument at {under('$', name)}")
        values = {}
        for each in self._parameters:
            raw = stored.get(each.name, each.default)
            if raw is None:
                raise ValidationError(f"{where}: the argument `{each.name}` is missing")
            try:
                values[each.name] = each.codec.value(bytes(raw), f"$.{each.name}")
            except Misfit as misfit:
                raise misfit.told(where) from misfit.__cause__
        return values

    def bind(self, text: Json, *, where: str) -> tuple[list[Any], dict[str, Any]]:
        """As `decode`, ready for ``fn(context, *args, **kwargs)``."""
        values = self.decode(text, where=where)
        args = [values.pop(each.name) for each in self._parameters if each.positional_only]
        return args, values

    def _bound(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], where: str
    ) -> dict[str, Any]:
        def refuse(problem: str) -> NoReturn:
            raise ValidationError(f"{where}: {problem}")

        if len(args) > len(self._positional):
            refuse(
                f"takes {len(self._positional)} positional arguments, not {len(args)}:"
                f" {short(args[len(self._positional)])} is one too many"
            )
        given = dict(zip(self._positional, args, strict=False))
        for name, value in kwargs.items():
            parameter = self._by_name.get(name)
            if parameter is None:
                refuse(f"there is no argument `{name}`")
            if parameter.positional_only:
                refuse(f"the argument `{name}` is positional-only")
            if name in given:
                refuse(f"two values for the argument `{name}`")
            given[name] = value
        return given


def _decoder_of_all(parameters: tuple[_Parameter, ...]) -> Callable[[Json], Any] | None:
    """One decoder for all arguments: a third of what one for each takes."""
    if not all(each.codec.is_plain for each in parameters):
        return None
    if any(each.name.startswith("__") for each in parameters):
        return None  # `__del__` and its like mean something to a class
    try:
        fields = [(each.name, each.codec.annotation) for each in parameters]
        whole = msgspec.defstruct("Arguments", fields, forbid_unknown_fields=True)
        return msgspec.json.Decoder(whole, strict=True).decode
    except Exception:  # such as a name that is no field's
        return None


def _parameter(
    each: inspect.Parameter, fn: Callable[..., Any], where: str, names: Mapping[str, Any] | None
) -> _Parameter:
    if each.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        raise DefinitionError(f"{where}: `{each}` cannot be stored: name each parameter")
    what = f"{where}: parameter `{each.name}`"
    codec = TypeCodec.of(resolve(each.annotation, fn, where=what, names=names), where=what)
    default = None
    if each.default is not inspect.Parameter.empty:
        try:
            default = codec.raw(each.default, f"$.{each.name}")
        except Misfit as misfit:
            raise DefinitionError(f"{misfit.told(what)} (its default)") from misfit.__cause__
    only = each.kind is inspect.Parameter.POSITIONAL_ONLY
    return _Parameter(each.name, _encode(each.name) + b":", only, codec, default)
