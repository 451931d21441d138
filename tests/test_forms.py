"""The strict walk over values, and what annotations let in."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from decimal import Decimal
from types import GenericAlias
from typing import Any, Literal, NamedTuple, TypedDict

import attrs
import msgspec
import pytest

from perdure.forms import (
    VALUE_DEPTH_MAX,
    Misfit,
    Traits,
    Unstorable,
    by_hand,
    holds_only_scalars,
    mentions_pydantic,
    refuse_unknown,
    short,
    too_deep,
    traits_of,
)


class Pair(NamedTuple):
    a: int
    b: float


class Mixed(enum.Enum):
    ONE = (1, "x")


@attrs.define
class Slotted:
    a: int
    _b: int = 2


class Tagged(msgspec.Struct, tag="t", tag_field="kind", rename="camel", omit_defaults=True):
    some_field: int = 1
    other: int | msgspec.UnsetType = msgspec.UNSET


class Row(msgspec.Struct, array_like=True, tag=True, forbid_unknown_fields=True):
    a: int


@dataclass
class Linked:
    after: Linked | None = None


@dataclass
class Flat:
    a: int
    b: list[str] = field(default_factory=list)


class Typed(TypedDict):
    a: int


@pytest.mark.parametrize(
    ("value", "builtins"),
    [
        ({"b": 1, 2: (3, Pair(4, 5.0))}, {"b": 1, "2": [3, [4, 5.0]]}),
        (Mixed.ONE, [1, "x"]),
        (Slotted(1), {"a": 1, "_b": 2}),
        (Tagged(), {"kind": "t", "someField": 1}),
        (Row(1), ["Row", 1]),
        ({frozenset({2, 1}), frozenset()}, [[1, 2], []]),
        (b"\x00", "AA=="),
    ],
)
def test_the_walk_leaves_nothing_out(value: Any, builtins: Any) -> None:
    """Private fields, defaults, tags and renamed fields are there; sets are ordered."""
    assert by_hand(value, "$") == builtins


def test_only_flat_values_are_known_to_hold_scalars() -> None:
    """What is nested, hidden in slots, or no scalar is left to those who look closer."""
    for value in ("a", None, [1, "a"], (True, None), {"a": 1}, {}, Flat(1, "b")):  # type: ignore[arg-type]
        assert holds_only_scalars(value)
    others: list[Any] = [b"a", [b"a"], {1: "a"}, {"a": b"a"}, {"a": []}, Flat(1), Slotted(1), {"a"}]
    for other in others:
        assert not holds_only_scalars(other)


def test_the_walk_names_the_path_of_what_is_wrong() -> None:
    """Through objects, tuples and keys that are no identifiers."""
    with pytest.raises(Misfit) as caught:
        by_hand({"a b": [Flat(1, [Pair(1, float("inf"))])]}, "$")  # type: ignore[list-item]
    assert caught.value.path == "$['a b'][0].b[0][1]"
    assert str(caught.value.told("the value")).endswith(f"at {caught.value.path}: inf")


def test_a_leaf_at_the_deepest_level_is_allowed() -> None:
    """Only lists, dicts and objects count as levels."""
    value: Any = b""
    for _ in range(VALUE_DEPTH_MAX):
        value = [value]
    raw = msgspec.json.encode(by_hand(value, "$"))
    assert not too_deep(raw)
    assert too_deep(b"[" + raw + b"]")
    with pytest.raises(Misfit):
        by_hand([value], "$")


@pytest.mark.parametrize(
    ("annotation", "traits"),
    [
        (int, Traits()),
        (list[int], Traits()),
        (dict[str, int], Traits(text=True)),
        (int | None, Traits(null=True)),
        (Literal[1, None], Traits(null=True)),  # noqa: PYI061 (msgspec sees another shape)
        (Flat, Traits(objects=True, text=True, forms=True)),
        (list[Typed], Traits(objects=True, forms=True)),
        (Slotted, Traits(objects=True, forms=True, by_hand=True)),
        (Linked, Traits(objects=True, forms=True, null=True, deep=True)),
        (set[frozenset[int]], Traits(by_hand=True, forms=True)),
        (list[float], Traits(forms=True)),
        (dict[str, Decimal], Traits(decimals=True, text=True, forms=True)),
        (Any, Traits(free=True, null=True, by_hand=True, deep=True)),
        (list[Any], Traits(null=True, by_hand=True, deep=True)),
    ],
)
def test_annotations_ask_only_for_the_checks_they_need(annotation: Any, traits: Traits) -> None:
    """Plain types need none, and so pay for none."""
    assert traits_of(annotation) == traits


def test_an_annotation_without_json_form_is_told() -> None:
    """Also deep inside."""

    class Odd:
        """Nothing that msgspec knows."""

    with pytest.raises(Unstorable, match="Odd has no form in JSON"):
        traits_of(dict[str, list[Odd]])


def test_unknown_fields_are_looked_for_in_lists_and_dicts() -> None:
    """Only keys count: a value may be written in another way."""
    refuse_unknown({"a": [{"b": 1}], "c": "1.0"}, {"a": [{"b": 2, "x": 3}], "c": "1"}, "$")
    with pytest.raises(Misfit) as caught:
        refuse_unknown({"a": [{}, {"b": 1}]}, {"a": [{}, {}]}, "$")
    assert caught.value.path == "$.a[1].b"


def test_shown_values_are_short_and_never_raise() -> None:
    """A message stays readable, whatever the value's repr does."""

    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError

    assert len(short("x" * 10_000)) <= 200
    assert len(short([["x" * 1000] * 1000] * 1000)) <= 200
    assert "Rude" in short(Rude())


def test_shown_values_are_the_same_in_each_process() -> None:
    """A handler may give an error's text to a step: no address in memory is in it."""

    assert short([object()]) == "[<object object>]"
    assert "0x" not in short({"deep": [object(), print, lambda: None]})


def test_ordinary_annotations_do_not_mention_pydantic() -> None:
    """Recursive classes are looked through once."""
    assert not mentions_pydantic(list[Linked])
    assert not mentions_pydantic(dict[str, Flat | None])


def test_models_are_found_inside_other_annotations() -> None:
    """In generics, in fields of other classes, and as a constraint of an Annotated."""
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Model", n=(int, ...))
    holder = attrs.make_class("Holder", {"model": attrs.field(type=model)})
    assert mentions_pydantic(GenericAlias(list, (GenericAlias(list, (model,)),)))
    assert mentions_pydantic(GenericAlias(list, (holder,)))
