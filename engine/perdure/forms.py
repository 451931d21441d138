"""What the codec adds to msgspec: a strict walk over values, and what an annotation lets in.

`by_hand` turns a value into JSON-ready builtins: slower than msgspec, but it knows the path of
whatever is wrong, orders every set, and leaves no field out. `traits_of` reads an annotation once
and says which of the checks its values need, so that plain types pay for none. Annotations that
mention a pydantic model are served by `pydantic_form`.

Not here: when to check, encoding, size limits and the wording for users: that is `codec`.
"""

from __future__ import annotations

import cmath
import dataclasses
import datetime as dt
import functools
import importlib
import re
import reprlib
import sys
import typing
import uuid
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from enum import Enum
from itertools import accumulate
from typing import Any

import attrs
import msgspec
from msgspec import inspect as shapes

from .errors import ValidationError

#: Lists in lists in …: below what every tested Python can encode and decode from any stack, so
#: that a value which one version stores is not beyond another.
VALUE_DEPTH_MAX = 200

SCALARS = frozenset({str, int, bool, type(None)})
_TEXT = frozenset({str})
#: What is no text in Python, but becomes text in JSON.
NATIVE = (
    bytes,
    bytearray,
    memoryview,
    dt.datetime,
    dt.date,
    dt.time,
    dt.timedelta,
    uuid.UUID,
    Decimal,
)
_CONTAINERS = (dict, list, tuple, set, frozenset)

_encode = msgspec.json.Encoder(order="deterministic").encode
_NUMBER = re.compile(r"\s*[-+]?[\d.]+([eE][-+]?\d+)?\s*")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')

_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")


class _Repr(reprlib.Repr):
    """Without addresses in memory: a handler may use the text, and a replay must give the same."""

    def repr_instance(self, x: Any, level: int) -> str:
        text = _ADDRESS.sub("", repr(x))
        return text if len(text) <= self.maxother else f"{text[: self.maxother - 3]}..."


_REPR = _Repr()
_REPR.maxstring = _REPR.maxother = 80
_REPR.maxlevel = 3


class Misfit(Exception):
    """A value that does not fit: what is wrong, at which path, and the value there, if known."""

    def __init__(self, problem: str, path: str, *shown: Any) -> None:
        super().__init__(problem, path, *shown)
        self.problem, self.path, self.shown = problem, path, shown

    def told(self, where: str) -> ValidationError:
        path = self.path if len(self.path) <= 200 else f"{self.path[:200]}…"
        value = f": {short(self.shown[0])}" if self.shown else ""
        return ValidationError(f"{where}: {self.problem} at {path}{value}")


class Unstorable(Exception):
    """An annotation that the codec cannot keep its promises for; the text says why."""


def short(value: Any) -> str:
    try:
        return _REPR.repr(value)[:200]
    except Exception:  # a __repr__ of the user's
        return f"<{type(value).__name__}>"


# ---- Values to builtins, by hand: slower than msgspec, strict, and it knows the path ----


def by_hand(value: Any, path: str, depth: int = 0) -> Any:
    """`value` as JSON-ready builtins, sets ordered by their members' JSON; raises `Misfit`."""
    kind: Any = type(value)
    if kind in SCALARS:
        return _leaf(value, path)
    if isinstance(value, Enum):
        return by_hand(value.value, path, depth)
    fields = _fields(kind)
    if fields is None and not isinstance(value, _CONTAINERS):
        if _is_no_number(value):
            raise Misfit("JSON has no such number", path, value)
        return value if kind is float else _leaf(as_base(value), path)
    if depth >= VALUE_DEPTH_MAX:
        raise Misfit(f"nested more than {VALUE_DEPTH_MAX} deep, or containing itself", path)
    if isinstance(value, dict):
        return _dict_by_hand(value, path, depth)
    if isinstance(value, list | tuple):
        return [by_hand(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted((by_hand(item, f"{path}[…]", depth + 1) for item in value), key=_encode)
    return _object_by_hand(value, fields or (), path, depth)


def as_base(value: Any) -> Any:
    """The plain text or number of which it is a special kind: numpy's float64, marked-up text."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    return float.__float__(value) if isinstance(value, float) else value


def _is_no_number(value: Any) -> bool:
    """Whether it is a nan or an infinity, of any kind."""
    if isinstance(value, Decimal):
        return not value.is_finite()
    return isinstance(value, float | complex) and not cmath.isfinite(value)


def _leaf(value: Any, path: str) -> Any:
    try:
        _encode(value)
        return msgspec.to_builtins(value)
    except UnicodeEncodeError:
        raise Misfit("text with a lone surrogate cannot be stored", path, value) from None
    except TypeError:
        name = type(value).__qualname__
        raise Misfit(f"a value of type {name} cannot be stored as JSON", path, value) from None
    except ValueError as error:  # an integer of more digits than Python converts
        raise Misfit(str(error), path) from None


class _Keyed(dict[str, Any]):
    """A dict whose keys are more than text, and so may be written in several ways."""


def _dict_by_hand(value: dict[Any, Any], path: str, depth: int) -> dict[str, Any]:
    is_text = _TEXT.issuperset(map(type, value))
    result: dict[str, Any] = {} if is_text else _Keyed()
    for key, item in value.items():
        text = key
        if type(key) is not str:
            if type(key) is bool:  # no number, though Python counts it as one
                raise Misfit("a `bool` cannot be a key", under(path, str(key)), key)
            key = as_base(key)
            if _is_no_number(key):
                raise Misfit("JSON has no such number, also as a key,", path, key)
            try:
                (text,) = msgspec.to_builtins({key: None}, str_keys=True)
            except (TypeError, ValueError):
                raise Misfit("a key that cannot be stored as JSON", path, key) from None
        _leaf(text, path)
        if text in result:
            raise Misfit(f"two keys that are both {text!r} in JSON", path, value)
        result[text] = by_hand(item, under(path, text), depth + 1)
    return result


def under(path: str, key: str) -> str:
    return f"{path}.{key}" if key.isidentifier() else f"{path}[{short(key)}]"


@functools.lru_cache(maxsize=1024)
def _fields(cls: Any) -> tuple[tuple[str, str], ...] | None:
    """Attribute and JSON name of each field of a class that msgspec stores by its fields."""
    if issubclass(cls, msgspec.Struct):
        return tuple(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
    if attrs.has(cls):
        return tuple((field.name, field.name) for field in attrs.fields(cls))
    if dataclasses.is_dataclass(cls):
        return tuple((field.name, field.name) for field in dataclasses.fields(cls))
    return None


def holds_only_scalars(value: Any) -> bool:
    """Whether it is a scalar, or has nothing else in it; False also for what is not looked into.

    For most arguments it spares the question whether something passes for text.
    """
    kind = type(value)
    if kind in SCALARS:
        return True
    if kind is list or kind is tuple:
        return SCALARS.issuperset(map(type, value))
    members = value if kind is dict else getattr(value, "__dict__", None)
    return (
        type(members) is dict
        and _TEXT.issuperset(map(type, members))
        and SCALARS.issuperset(map(type, members.values()))
    )


def attributes_of(value: Any) -> dict[str, Any] | None:
    """Values by name of a dict, or of an object that is stored by its fields; else None."""
    if isinstance(value, dict):
        return value
    if hasattr(type(value), "__pydantic_fields__") and not dataclasses.is_dataclass(value):
        return {**vars(value), **(getattr(value, "__pydantic_extra__", None) or {})}
    cls: Any = type(value)
    fields = _fields(cls)
    if fields is None:
        return None
    found = [(name, getattr(value, attribute, msgspec.UNSET)) for attribute, name in fields]
    return {name: item for name, item in found if item is not msgspec.UNSET}


def _object_by_hand(
    value: Any, fields: tuple[tuple[str, str], ...], path: str, depth: int
) -> dict[str, Any] | list[Any]:
    config: Any = getattr(value, "__struct_config__", None)
    tag = config.tag if config else None
    found = [(name, getattr(value, attribute, msgspec.UNSET)) for attribute, name in fields]
    done = {
        name: by_hand(item, under(path, name), depth + 1)
        for name, item in found
        if item is not msgspec.UNSET
    }
    if config and config.array_like:
        return [*([] if tag is None else [tag]), *done.values()]
    return done if tag is None else {config.tag_field: tag, **done}


def too_deep(raw: bytes) -> bool:
    if raw.count(b"[") + raw.count(b"{") <= VALUE_DEPTH_MAX:
        return False
    steps = (
        1 if byte in b"[{" else -1 if byte in b"]}" else 0
        for byte in re.sub(rb"[^\[\]{}]+", b"", _STRING.sub(b"", raw))
    )
    return max(accumulate(steps)) > VALUE_DEPTH_MAX


def refuse_unknown(given: Any, kept: Any, path: str) -> None:
    """Every key of `given` must be there again in `kept`, which went through the annotation."""
    if isinstance(given, dict) and isinstance(kept, _Keyed):
        if len(given) != len(kept):
            raise Misfit("two keys that are the same", path, given)
        for (key, item), other in zip(given.items(), kept.values(), strict=True):
            refuse_unknown(item, other, under(path, key))
    elif isinstance(given, dict) and isinstance(kept, dict):
        for key, item in given.items():
            if key not in kept:
                raise Misfit(f"unknown field `{key}`", under(path, key), item)
            refuse_unknown(item, kept[key], under(path, key))
    elif isinstance(given, list) and isinstance(kept, list):
        # Shorter where a set was given the same twice; other lists keep their length.
        for i, (item, other) in enumerate(zip(given, kept, strict=False)):
            refuse_unknown(item, other, f"{path}[{i}]")


# ---- Annotations ----

_OBJECTS = (shapes.StructType, shapes.DataclassType, shapes.TypedDictType)
_SETS = (shapes.SetType, shapes.FrozenSetType)
#: What msgspec decodes as keys of a dict but never encodes as such.
_NO_KEYS = (
    *_OBJECTS,
    *_SETS,
    shapes.BoolType,
    shapes.DictType,
    shapes.ListType,
    shapes.NamedTupleType,
    shapes.NoneType,
    shapes.TupleType,
    shapes.VarTupleType,
)


#: What `Any` gives back as it was given.
_PLAIN = (
    shapes.AnyType,
    shapes.BoolType,
    shapes.DictType,
    shapes.FloatType,
    shapes.IntType,
    shapes.ListType,
    shapes.LiteralType,
    shapes.NoneType,
    shapes.StrType,
)

#: What is written in one way only. All else is not: 1 for 1.0, a dict for a class.
_ONE_FORM = (
    shapes.AnyType,
    shapes.BoolType,
    shapes.DictType,
    shapes.EnumType,
    shapes.IntType,
    shapes.ListType,
    shapes.LiteralType,
    shapes.NoneType,
    shapes.StrType,
    shapes.TupleType,
    shapes.UnionType,
    shapes.VarTupleType,
)

_REMEDY = (
    ": JSON cannot tell them apart; give each class a tag (msgspec.Struct with tag=True, or a"
    " pydantic model with a Literal field), or take one type"
)


@attrs.frozen(kw_only=True)
class Traits:
    """What an annotation lets in, and so which checks its values need."""

    free: bool = False  #: any JSON at all: nothing to validate against
    null: bool = False  #: null may stand somewhere: a nan could hide as one
    objects: bool = False  #: fields by name: unknown ones would be dropped
    by_hand: bool = False  #: msgspec may encode in hash order, or leave a field out
    deep: bool = False  #: no bound on nesting
    forms: bool = False  #: a value may be written in several ways
    decimals: bool = False  #: text may stand for a number that is not finite
    text: bool = False  #: text may stand: a date, or bytes, would pass for it


def _parts(node: Any) -> Iterator[Any]:
    """The nodes directly below one of msgspec's descriptions of an annotation."""
    for name in node.__struct_fields__:
        part = getattr(node, name)
        for item in part if isinstance(part, tuple) else (part,):
            if isinstance(item, shapes.Field):
                yield item.type
            elif isinstance(item, shapes.Type):
                yield item


def _nodes(root: Any) -> list[Any]:
    seen: dict[int, Any] = {}
    ahead = [root]
    while ahead:
        node = ahead.pop()
        if id(node) not in seen:
            seen[id(node)] = node
            ahead.extend(_parts(node))
    return list(seen.values())


def traits_of(annotation: Any) -> Traits:
    """Read an annotation; raises `Unstorable` if its values have no form in JSON."""
    try:
        root = shapes.type_info(annotation)
    except NameError as error:
        raise Unstorable(
            f"{error}: the annotations of a class are looked up in its module, so define or import"
            " it there"
        ) from None
    except Exception as error:  # whatever msgspec raises
        raise Unstorable(f"{error}{_REMEDY if 'unions may not' in str(error) else ''}") from None
    null = objects = unsafe = anything = recursive = False
    nodes = _nodes(root)
    for node in nodes:
        _refuse_custom(node)
        _refuse_union(node)
        below = _below(node)
        recursive |= any(part is node for part in below)
        anything |= isinstance(node, shapes.AnyType | shapes.CustomType)
        null |= isinstance(node, shapes.NoneType)
        null |= isinstance(node, shapes.LiteralType) and None in node.values
        objects |= isinstance(node, _OBJECTS)
        # msgspec leaves an attrs class's private fields out.
        unsafe |= isinstance(node, shapes.DataclassType) and any(
            field.name.startswith("_") for field in node.fields
        )
        # Sets compare by inclusion: to sort a set of sets leaves the order of hashes.
        unsafe |= isinstance(node, _SETS) and any(isinstance(part, _SETS) for part in below)
    return Traits(
        free=isinstance(root, shapes.AnyType | shapes.CustomType),
        null=null or anything,
        objects=objects,
        by_hand=unsafe or anything,
        deep=recursive or anything,
        forms=not all(isinstance(node, _ONE_FORM) for node in nodes),
        decimals=any(isinstance(node, shapes.DecimalType) for node in nodes),
        text=any(isinstance(node, shapes.StrType) for node in nodes),
    )


def _refuse_custom(node: Any) -> None:
    if isinstance(node, shapes.CustomType) and node.cls is not object:
        raise Unstorable(f"{node.cls.__qualname__} has no form in JSON")
    if isinstance(node, shapes.RawType | shapes.ExtType | shapes.MemoryViewType):
        raise Unstorable(f"{type(node).__name__.removesuffix('Type')} is not supported")
    if isinstance(node, shapes.DictType) and any(
        isinstance(part, _NO_KEYS) for part in _nodes(node.key_type)
    ):
        raise Unstorable("the keys of a dict must be text, numbers, dates or the like")
    if isinstance(node, shapes.StructType) and node.array_like and not node.forbid_unknown_fields:
        name = node.cls.__qualname__
        raise Unstorable(f"{name} is array_like: give it forbid_unknown_fields=True as well")


def _refuse_union(node: Any) -> None:
    """Unions that msgspec takes, but whose members may come back as others of them."""
    if isinstance(node, shapes.UnionType):
        if any(isinstance(part, shapes.AnyType) for part in node.types):
            for part in _nodes(node):
                if part is not node and not isinstance(part, _PLAIN):
                    raise Unstorable(
                        f"in a union with Any, {_name_of(part)} would come back as plain JSON:"
                        " leave one of them out"
                    )
    elif isinstance(node, shapes.DictType) and isinstance(node.key_type, shapes.UnionType):
        numbers = [part for part in node.key_type.types if _may_be_number(part)]
        texts = [part for part in node.key_type.types if _may_look_like_number(part)]
        if numbers and texts and (len(numbers) > 1 or numbers != texts):
            raise Unstorable(
                "keys of a dict are text in JSON, which cannot tell a number from other keys:"
                " take one type of keys"
            )


def _may_be_number(key: Any) -> bool:
    if isinstance(key, shapes.LiteralType | shapes.EnumType):
        return any(isinstance(value, int) for value in _values(key))
    return isinstance(key, shapes.IntType | shapes.FloatType | shapes.DecimalType)


def _may_look_like_number(key: Any) -> bool:
    """Whether the text of such a key may be that of a number."""
    if isinstance(key, shapes.LiteralType | shapes.EnumType):
        return any(isinstance(value, str) and _NUMBER.fullmatch(value) for value in _values(key))
    return isinstance(
        key, shapes.StrType | shapes.BytesType | shapes.ByteArrayType | shapes.DecimalType
    )


def _values(node: Any) -> Iterator[Any]:
    if isinstance(node, shapes.EnumType):
        return (member.value for member in node.cls)
    return iter(node.values)


def _name_of(part: Any) -> str:
    cls = getattr(part, "cls", None)
    return cls.__qualname__ if isinstance(cls, type) else type(part).__name__.removesuffix("Type")


def _below(node: Any) -> list[Any]:
    """All nodes under `node`; itself only if it is recursive."""
    found: dict[int, Any] = {}
    for part in _parts(node):
        found.update((id(each), each) for each in _nodes(part))
    return list(found.values())


# ---- Pydantic ----


def mentions_pydantic(annotation: Any) -> bool:
    """Whether a model, type or field of pydantic's stands anywhere in `annotation`."""
    return "pydantic" in sys.modules and _mentions(annotation, set())


def _mentions(annotation: Any, seen: set[type]) -> bool:
    # Pydantic's PositiveInt and conint(…) are made of `annotated_types`, which msgspec passes over.
    if type(annotation).__module__.partition(".")[0] in ("pydantic", "annotated_types") or any(
        hasattr(annotation, name)
        for name in ("__pydantic_core_schema__", "__get_pydantic_core_schema__")
    ):
        return True
    inner = list(typing.get_args(annotation))
    if isinstance(annotation, type) and annotation.__module__ != "builtins":
        if annotation in seen:
            return False
        seen.add(annotation)
        try:
            inner += typing.get_type_hints(annotation, include_extras=True).values()
        except Exception:  # msgspec will say it better
            return False
    return any(_mentions(part, seen) for part in inner)


class PydanticForm(typing.NamedTuple):
    """What a strict `TypeAdapter` does for a codec."""

    dump: Callable[[Any, str], Any]  #: turns a value, at a path, into builtins
    decode: Callable[[Any], Any]
    refuse_as_text: Callable[[Any, str], None]  #: what JSON writes as text, and is no `str`


def pydantic_form(annotation: Any) -> PydanticForm:
    """How values of an annotation that mentions pydantic are encoded and decoded."""
    pydantic = importlib.import_module("pydantic")
    try:
        adapter = pydantic.TypeAdapter(annotation)
    except Exception as error:
        raise Unstorable(str(error).partition("\n")[0]) from None

    def dump(value: Any, path: str) -> Any:
        how = {"round_trip": True, "serialize_as_any": True, "warnings": False, "by_alias": True}
        try:
            as_python = adapter.dump_python(value, mode="python", **how)
            as_json = adapter.dump_python(value, mode="json", **how)
        except Exception as error:
            raise Misfit(str(error).partition("\n")[0], path, value) from error
        return by_hand(_order_sets(as_python, as_json), path)

    def decode(text: bytes | str) -> Any:
        try:
            return adapter.validate_json(text, strict=True)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            path = "$" + "".join(
                f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"]
            )
            raise Misfit(first["msg"], path, first["input"]) from None

    def refuse_as_text(value: Any, path: str) -> None:
        tree = adapter.dump_python(value, serialize_as_any=True, warnings=False, by_alias=True)
        # Strictly a list is no tuple, and is not looked into; else bytes are text.
        for strict in (True, False):
            try:
                adapter.validate_python(tree, strict=strict)
                return
            except pydantic.ValidationError as error:
                errors = error.errors()
            except Exception:  # by contract: a validator of the user's knows JSON's form only
                return
            for each in errors:  # others are no news: what was decoded fits
                given, of_key = each["input"], each["loc"][-1:] == ("[key]",)
                suspects = (*NATIVE, int, float) if of_key else NATIVE
                if each["type"] == "string_type" and isinstance(given, suspects):
                    problem = f"Expected `str`, got `{type(given).__name__}`"
                    where = _path_in(tree, each["loc"], path)
                    raise Misfit(f"{problem} as key" if of_key else problem, where, given)

    return PydanticForm(dump, decode, refuse_as_text)


def _path_in(tree: Any, steps: Iterable[Any], path: str) -> str:
    """The path of what pydantic has found; it names members of unions, which are no steps."""
    for step in steps:
        try:
            tree = tree[step]
        except (LookupError, TypeError):
            continue
        path = f"{path}[{step}]" if isinstance(step, int) else under(path, step)
    return path


def _order_sets(as_python: Any, as_json: Any) -> Any:
    """The JSON form, with what it hides: the order of sets (by hash), and nan (as null or text)."""
    if isinstance(as_python, dict) and isinstance(as_json, dict):
        if len(as_python) != len(as_json):
            return as_json  # a serializer of the user's gives JSON another form
        pairs = zip(as_json, as_python, as_python.values(), as_json.values(), strict=True)
        return {was if _is_no_number(was) else key: _order_sets(*pair) for key, was, *pair in pairs}
    if isinstance(as_python, list | tuple | set | frozenset) and isinstance(as_json, list):
        if len(as_python) != len(as_json):
            return as_json
        items = [_order_sets(*pair) for pair in zip(as_python, as_json, strict=True)]
        if isinstance(as_python, set | frozenset):
            items.sort(key=lambda item: _encode(by_hand(item, "$")))
        return items
    if type(as_python) in SCALARS:
        return as_json
    return as_python if _is_no_number(as_python) else as_json
