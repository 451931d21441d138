"""Unions that pydantic decodes: which classes they join, and whether a value keeps its class.

msgspec makes no decoder for a union whose members JSON cannot tell apart. Pydantic makes one for
any union and takes the member that fits best, which may be another than the value's own. So a
union of classes with the very same fields is refused when it is defined, and each value that is
encoded must come back in the class that it had. Fields that pydantic leaves out are found here too.

Not here: unions that msgspec decodes (`forms`), and the decoding itself.
"""

from __future__ import annotations

import itertools
import typing
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NewType, TypeVar, Union

from .forms import Misfit, Unstorable, attributes_of, under

_UNIONS = (Union, UnionType)
#: What pydantic's types have that hide their value where it is written.
_SECRET = "get_secret_value"


def classes_of(annotation: Any) -> set[Any]:
    """Every class that stands anywhere in an annotation, in fields of classes too."""
    return {node for node in _nodes(annotation) if isinstance(node, type)}


def joined_classes(annotation: Any) -> tuple[type, ...]:
    """The classes among which a union anywhere in the annotation decides, and those of secrets:
    what `check_class` looks at.

    Raises:
        Unstorable: two of them have the same fields, so that no JSON can be told apart.
    """
    found: set[type] = set()
    for node in _nodes(annotation):
        if isinstance(node, type) and hasattr(node, _SECRET):
            found.add(node)
        if typing.get_origin(node) not in _UNIONS:
            continue
        members = [each for each in typing.get_args(node) if each is not NoneType]
        if len(members) > 1:
            _refuse_the_same(members)
            for member in members:
                found.update(_classes_in(member))
    return tuple(found)


def refuse_excluded(annotation: Any) -> None:
    """Refuse, with `Unstorable`, fields of pydantic models that are not written."""
    for node in _nodes(annotation):
        for name, field in _model_fields(node).items() if isinstance(node, type) else ():
            for option in ("exclude", "exclude_if"):
                if getattr(field, option, None):
                    raise Unstorable(
                        f"the field `{name}` of {node.__qualname__} has {option}=…, and its value"
                        f" would be lost: leave {option} out, or take a model without the field"
                    )


def check_class(given: Any, typed: Any, path: str, joined: tuple[type, ...]) -> None:
    """Refuse, with a `Misfit`, that a member of a union comes back as another.

    Args:
        given: what was encoded.
        typed: what it decodes to.
        path: of both.
        joined: see `joined_classes`.
    """
    if type(given) is not type(typed) and _is_other(given, typed, joined):
        _refuse(given, typed, path)
    if hasattr(type(given), _SECRET) and given != typed:
        name = type(given).__qualname__
        raise Misfit(
            f"a {name} is written as asterisks, and would come back as those: pass a reference to"
            " where the secret is kept, or give the field a serializer that writes it",
            path,
        )
    if isinstance(given, dict) and isinstance(typed, dict):
        _check_keys(given, typed, path, joined)
    mine, other = attributes_of(given), attributes_of(typed)
    if mine is not None and other is not None:
        for name, item in mine.items():
            if name in other:
                check_class(item, other[name], under(path, str(name)), joined)
    elif isinstance(given, list | tuple) and isinstance(typed, list | tuple):
        for index, pair in enumerate(zip(given, typed, strict=False)):
            check_class(*pair, f"{path}[{index}]", joined)
    elif isinstance(given, set | frozenset) and isinstance(typed, set | frozenset):
        there = {(type(item), item) for item in typed}
        for item in given:
            if (type(item), item) not in there and isinstance(item, joined):
                _refuse(item, None, f"{path}[…]")


def _is_other(given: Any, typed: Any, joined: tuple[type, ...]) -> bool:
    if type(given) is int and type(typed) is float:
        return False  # a number in the form that the annotation gives it
    if type(given) in joined:
        return True
    return isinstance(given, joined) and not isinstance(given, type(typed))


def _check_keys(
    given: dict[Any, Any], typed: dict[Any, Any], path: str, joined: tuple[type, ...]
) -> None:
    kinds = {key: type(key) for key in typed}
    for key in given:
        if kinds.get(key) is not type(key) and isinstance(key, joined):
            _refuse(key, None, path, " as key")


def _refuse(given: Any, typed: Any, path: str, how: str = "") -> typing.NoReturn:
    name = type(given).__qualname__
    back = "another type" if typed is None else type(typed).__qualname__
    raise Misfit(
        f"JSON cannot tell the members of the union apart here: a {name} would come back as"
        f" {back}; take one type, or classes with a Literal field each to tell them by{how}",
        path,
        given,
    )


# ---- Annotations ----


def _nodes(annotation: Any) -> list[Any]:
    """The annotation and all that stands in it: arguments, aliases, fields of classes."""
    found: dict[int, Any] = {}
    ahead = [annotation]
    while ahead:
        node = ahead.pop()
        if id(node) not in found:
            found[id(node)] = node  # kept alive, so that no id is used twice
            ahead.extend(_inner(node))
            ahead.extend(_field_types(node).values())
    return list(found.values())


def _inner(node: Any) -> Iterator[Any]:
    """What an annotation is made of, without the fields of classes."""
    origin = typing.get_origin(node)
    if origin is Annotated:
        yield typing.get_args(node)[0]
    elif origin is Literal:
        yield from map(type, typing.get_args(node))
    elif origin is not None:
        yield origin
        for part in typing.get_args(node):
            yield from part if isinstance(part, list) else (part,)
    elif isinstance(node, NewType):
        yield node.__supertype__
    elif isinstance(node, TypeVar):
        yield from node.__constraints__ or (node.__bound__,)
    elif hasattr(node, "__value__"):  # what `type X = …` makes, from Python 3.12 on
        yield node.__value__


def _field_types(node: Any) -> Mapping[str, Any]:
    """Type of each field of a class, by its name in JSON."""
    if not isinstance(node, type) or node.__module__ == "builtins":
        return {}
    fields = _model_fields(node)
    if fields:
        return {_json_name(name, field): field.annotation for name, field in fields.items()}
    try:
        return typing.get_type_hints(node, include_extras=True)
    except Exception:  # a name that only its author can resolve: pydantic would have told
        return {}


def _model_fields(cls: type) -> Mapping[str, Any]:
    """Pydantic's own records of the fields of a model or of one of its dataclasses."""
    for name in ("__pydantic_fields__", "model_fields"):
        fields = getattr(cls, name, None)
        if isinstance(fields, Mapping):
            return fields
    return {}


def _json_name(name: str, field: Any) -> str:
    given = getattr(field, "serialization_alias", None) or getattr(field, "alias", None)
    return given or name


def _classes_in(member: Any) -> Iterator[type]:
    """The classes whose instances a member of a union is made of."""
    ahead = [member]
    seen: set[int] = set()
    while ahead:
        node = ahead.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if node is Any:
            yield object
        elif typing.is_typeddict(node):
            yield dict
        elif isinstance(node, type) and not getattr(node, "_is_protocol", False):
            yield node
        ahead.extend(_inner(node))


def _refuse_the_same(members: list[Any]) -> None:
    for one, other in itertools.combinations(members, 2):
        models = _models_in(one)
        if models and _form(one) == _form(other):
            first, second = models[0], _models_in(other)[0]
            name = first.__name__
            raise Unstorable(
                f"JSON cannot tell {first.__qualname__} and {second.__qualname__} apart in a union:"
                " they have the same fields; give each one to tell it by, such as"
                f' `kind: Literal["{name}"] = "{name}"`'
            )


def _models_in(member: Any) -> list[type]:
    return [each for each in _classes_in(member) if _is_model(each)]


def _form(member: Any) -> Any:
    """Equal for members of a union that have the same fields, at the same places."""
    if typing.get_origin(member) is Annotated:
        return _form(typing.get_args(member)[0])
    if typing.get_origin(member) is not None:
        return (typing.get_origin(member), *map(_form, typing.get_args(member)))
    if not _is_model(member):
        return member
    return {
        _json_name(name, field): (field.annotation, *field.metadata)
        for name, field in _model_fields(member).items()
    }


def _is_model(cls: Any) -> bool:
    return isinstance(cls, type) and hasattr(cls, "__pydantic_core_schema__")
