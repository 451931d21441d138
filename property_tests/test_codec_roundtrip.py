"""The codec over generated annotations, values and calls."""

from __future__ import annotations

import contextlib
import datetime as dt
import inspect
import json
import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.codec import ArgumentsCodec, TypeCodec, encode_plain, plain
from perdure.error_form import encode_error
from perdure.errors import ValidationError

LIMIT = 10 * 1024 * 1024

text = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=20,
)


@dataclass(frozen=True)
class Inner:
    """A dataclass that can be a member of a set."""

    n: int
    s: str | None = None


@dataclass
class Outer:
    """Fields of many kinds."""

    inner: Inner
    many: dict[str, Inner] = field(default_factory=dict)
    group: set[Inner] = field(default_factory=set)
    ratio: float | None = None


@attrs.frozen
class Private:
    """An attrs class with a private field."""

    n: int
    _secret: str = ""


inners = st.builds(Inner, st.integers(), st.none() | text)
outers = st.builds(
    Outer,
    inners,
    st.dictionaries(text, inners, max_size=3),
    st.sets(inners, max_size=3),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
)

LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers()),
    (str, text),
    (bool, st.booleans()),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (bytes, st.binary()),
    (type(None), st.none()),
    (uuid.UUID, st.uuids()),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (dt.date, st.dates()),
    (dt.datetime, st.datetimes(timezones=st.just(dt.UTC))),
    (Inner, inners),
    (Outer, outers),
    (Private, st.builds(Private, st.integers(), secret=text)),
    (Any, json_values),
]
HASHABLE = (int, str, bool, uuid.UUID, dt.date, Inner)


@st.composite
def typed_values(draw: st.DrawFn) -> tuple[Any, Any]:
    """An annotation and a value of it."""
    annotation, values = draw(st.sampled_from(LEAVES))
    for _ in range(draw(st.integers(0, 3))):
        forms = ["list", "dict", "tuple", "optional"]
        if annotation in HASHABLE:
            forms += ["set", "frozenset", "sets"]
        form = draw(st.sampled_from(forms))
        if form == "list":
            annotation, values = list[annotation], st.lists(values, max_size=4)  # type: ignore[valid-type]
        elif form == "dict":
            annotation = dict[str, annotation]  # type: ignore[valid-type]
            values = st.dictionaries(text, values, max_size=4)
        elif form == "tuple":
            annotation, values = tuple[annotation, int], st.tuples(values, st.integers())  # type: ignore[valid-type]
        elif form == "optional":
            annotation, values = annotation | None, st.none() | values
        elif form == "set":
            annotation, values = set[annotation], st.sets(values, max_size=4)  # type: ignore[valid-type]
        elif form == "frozenset":
            annotation, values = frozenset[annotation], st.frozensets(values, max_size=4)  # type: ignore[valid-type]
        else:
            annotation = set[frozenset[annotation]]  # type: ignore[valid-type]
            values = st.sets(st.frozensets(values, max_size=3), max_size=4)
    return annotation, draw(values)


@given(typed_values())
def test_every_value_comes_back_equal_and_encodes_to_the_same_text(pair: tuple[Any, Any]) -> None:
    """decode(encode(v)) == v, and encoding what was decoded gives the same text: a fixed point."""
    annotation, value = pair
    codec = TypeCodec.of(annotation, where="w")
    encoded = codec.encode(value, where="w", limit=LIMIT)
    again = codec.decode(encoded, where="w")
    assert again == value
    assert codec.encode(again, where="w", limit=LIMIT) == encoded
    json.loads(encoded, parse_constant=pytest.fail)


@given(json_values)
def test_plain_values_are_kept_as_they_are(value: Any) -> None:
    """Plain JSON needs no annotation; equal dicts give equal text whatever their order."""
    encoded = encode_plain(value, where="w", limit=LIMIT)
    assert plain(encoded) == value
    if isinstance(value, dict):
        backwards = dict(reversed(value.items()))
        assert encode_plain(backwards, where="w", limit=LIMIT) == encoded


@given(outers, st.sampled_from([math.nan, math.inf, -math.inf]), st.booleans())
def test_a_number_that_json_has_not_never_gets_through(
    outer: Outer, bad: float, as_any: bool
) -> None:
    """Wherever it hides: a null must not stand for it."""
    outer.ratio = bad
    annotation: Any = Any if as_any else list[Outer]
    codec = TypeCodec.of(annotation, where="w")
    value = [Outer(Inner(1)), outer]
    with pytest.raises(ValidationError, match=r"\$\[1\]\.ratio"):
        codec.encode(value, where="w", limit=LIMIT)


@given(outers, st.text("abc", min_size=1), st.sampled_from(["top", "inner", "many"]))
def test_an_unknown_field_never_gets_through(outer: Outer, name: str, place: str) -> None:
    """Neither when encoded from plain values nor when decoded."""
    codec = TypeCodec.of(Outer, where="w")
    outer.many["k"] = Inner(1)
    tree = plain(codec.encode(outer, where="w", limit=LIMIT))
    {"top": tree, "inner": tree["inner"], "many": tree["many"]["k"]}[place][name] = 1
    with pytest.raises(ValidationError, match=f"unknown field `{name}`"):
        codec.encode(tree, where="w", limit=LIMIT)
    with pytest.raises(ValidationError, match=f"unknown field `{name}`"):
        codec.decode(json.dumps(tree), where="w")


def _positional(ctx: Any, a: int, /, b: int = 2) -> Any: ...
def _keywords(ctx: Any, *, a: int, b: int = 2) -> Any: ...
def _mixed(ctx: Any, a: int, b: int = 2, *, c: int = 3) -> Any: ...
def _none(ctx: Any) -> Any: ...


@given(
    st.sampled_from([_positional, _keywords, _mixed, _none]),
    st.lists(st.integers(), max_size=4),
    st.dictionaries(st.sampled_from("abcd"), st.integers(), max_size=3),
)
def test_arguments_bind_as_python_binds_them(
    fn: Callable[..., Any], args: list[int], kwargs: dict[str, int]
) -> None:
    """The oracle is inspect.Signature: the same calls are accepted, with the same values."""
    codec = ArgumentsCodec.of(fn, where="w")
    try:
        expected = inspect.signature(fn).bind(None, *args, **kwargs)
    except TypeError:
        with pytest.raises(ValidationError):
            codec.encode(tuple(args), kwargs, where="w", limit=LIMIT)
        return
    expected.apply_defaults()
    stored = codec.encode(tuple(args), kwargs, where="w", limit=LIMIT)
    given_args, given_kwargs = codec.bind(stored, where="w")
    bound = inspect.signature(fn).bind(None, *given_args, **given_kwargs)
    assert bound.arguments == expected.arguments
    assert list(plain(stored)) == list(inspect.signature(fn).parameters)[1:]


@given(st.text(), st.lists(st.text() | st.integers() | st.binary()))
def test_every_error_can_be_kept(message: str, args: list[Any]) -> None:
    """Whatever its text and args are: the record is storable text."""
    info = encode_error(ValueError(message, *args), declared=(ValueError,))
    for kept in (info.type, info.message, info.traceback, info.arguments or ""):
        kept.encode()
        assert "\0" not in kept


@given(
    st.binary(max_size=30) | st.text(max_size=30).map(lambda each: each.encode("utf-8", "replace"))
)
def test_no_text_makes_decoding_fail_otherwise(raw: bytes) -> None:
    """Any text either decodes or is a ValidationError."""
    outside = raw.decode("utf-8", "replace")
    for annotation in (Outer, list[int], Any):
        # Another exception fails the test.
        with contextlib.suppress(ValidationError):
            TypeCodec.of(annotation, where="w").decode(outside, where="w")
