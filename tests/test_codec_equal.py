"""One value is one text: what calls are compared by, and what is stored."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import attrs
import msgspec
import pytest
from tests.naming import stable_name

from perdure.codec import TypeCodec
from perdure.errors import ValidationError


@attrs.frozen
class Account:
    owner: str
    _secret: int = 0


class Sparse(msgspec.Struct, omit_defaults=True):
    first: int = 1
    second: int = 2


@dataclass(frozen=True)
class Key:
    a: int
    b: str | None = None


@dataclass
class Measured:
    value: float
    parts: dict[str, float]
    any: Any = None
    group: set[float] = field(default_factory=set)


@dataclass
class Weighed:
    by: dict[float, Any]


@dataclass(frozen=True)
class Weight:
    kg: float


def encode(annotation: Any, value: Any) -> str:
    return TypeCodec.of(annotation, where="the value").encode(value, where="w", limit=10_000)


def decode(annotation: Any, text: str) -> Any:
    return TypeCodec.of(annotation, where="the value").decode(text, where="w")


EQUAL = [
    (float, 1, 1.0),
    (float | None, 1, 1.0),
    (float, -(2**70), -float(2**70)),
    (list[float], [1, 2.5], [1.0, 2.5]),
    (dict[str, dict[str, float]], {"b": {"y": 1, "x": 2}}, {"b": {"x": 2.0, "y": 1.0}}),
    (Measured, Measured(1, {"a": 3}, group={1, 2}), Measured(1.0, {"a": 3.0}, group={2.0, 1.0})),
    (Measured, {"value": 1, "parts": {}}, Measured(1.0, {})),
    (dict[float, str], {1: "a", 2.5: "b"}, {1.0: "a", 2.5: "b"}),
    (Weighed, Weighed({1: "a"}), Weighed({1.0: "a"})),
    (set[Weight], {Weight(1), Weight(1.5)}, {Weight(1.5), Weight(1.0)}),
    (Decimal, 1, Decimal(1)),
    (Decimal, "1", Decimal(1)),
    (Decimal, 1.5, Decimal("1.5")),
    (dict[Decimal, str], {1: "a"}, {Decimal(1): "a"}),
    (uuid.UUID, "0" * 31 + "1", uuid.UUID(int=1)),
    (dt.timedelta, "PT1M30S", dt.timedelta(seconds=90)),
    (dt.datetime, "2024-01-01T00:00:00+00:00", dt.datetime(2024, 1, 1, tzinfo=dt.UTC)),
    (set[int], [3, 1, 3], {1, 3}),
    (set[Key], [{"a": 2}, {"a": 1, "b": "x"}], {Key(1, "x"), Key(2)}),
    (Account, {"owner": "me"}, Account("me")),
    (Sparse, {"first": 1, "second": 3}, Sparse(second=3)),
]


@pytest.mark.parametrize(("annotation", "given", "same"), EQUAL, ids=stable_name)
def test_what_the_receiver_cannot_tell_apart_is_the_same_text(
    annotation: Any, given: Any, same: Any
) -> None:
    """Texts are compared to find that two calls are the same, so one value is one text."""
    assert encode(annotation, given) == encode(annotation, same)
    assert decode(annotation, encode(annotation, given)) == same


def test_equal_values_that_look_different_are_different_text() -> None:
    """The receiver of a Decimal sees its digits, and that of a datetime its time zone."""
    assert encode(Decimal, Decimal("1.0")) == '"1.0"' != encode(Decimal, Decimal(1))
    noon = dt.datetime(2024, 1, 1, 12, tzinfo=dt.UTC)
    later = noon.astimezone(dt.timezone(dt.timedelta(hours=2)))
    assert noon == later
    assert encode(dt.datetime, noon) != encode(dt.datetime, later)


def test_truth_is_no_number() -> None:
    """True is equal to 1 in Python, and still no float."""
    with pytest.raises(ValidationError, match="Expected `float`, got `bool`"):
        encode(float, True)


def test_keys_that_become_one_are_refused() -> None:
    """One of two values would be lost."""
    for annotation in (dict[float, int], Weighed):
        given = {"1": 2, 1.0: 3}
        with pytest.raises(ValidationError, match="two keys that are the same at"):
            encode(annotation, given if annotation is not Weighed else {"by": given})


def test_a_class_that_changes_what_it_reads_is_stored_as_given() -> None:
    """To read it once more would change it once more: the receiver reads it once."""

    @dataclass
    class Counting:
        n: int
        of: float = 1

        def __post_init__(self) -> None:
            self.n += 1

    assert decode(Counting, encode(Counting, {"n": 1, "of": 1})) == Counting(1, 1.0)


def test_whole_numbers_stay_whole_where_they_may() -> None:
    """A union with int, and no annotation, keep 1 and 1.0 apart."""
    for annotation in (int | float, Any, list[Any]):
        assert encode(annotation, [1] if annotation == list[Any] else 1) in ("1", "[1]")
    assert encode(int | float, 1.0) == "1.0"
    assert encode(Measured, Measured(1, {}, any=1)).count("1.0") == 1


class Markup(str):
    """Text that another library has marked, as web frameworks do."""

    __slots__ = ()

    def __str__(self) -> str:
        return "<changed>"


class Float64(float):
    """A float of another library's, as numpy has them."""


class Count(int):
    """A number with a name."""


@pytest.mark.parametrize(
    ("annotation", "value", "text"),
    [
        (str, Markup("a"), '"a"'),
        (float, Float64(1.5), "1.5"),
        (int, Count(3), "3"),
        (Any, {"a": [Markup("a"), Float64(1)]}, '{"a":["a",1.0]}'),
        (dict[str, float], {Markup("a"): Float64(2)}, '{"a":2.0}'),
        (Key, Key(Count(2), Markup("a")), '{"a":2,"b":"a"}'),
        (str | int, Markup("a"), '"a"'),
    ],
    ids=stable_name,
)
def test_what_is_text_or_a_number_by_its_class_is_stored_as_that(
    annotation: Any, value: Any, text: str
) -> None:
    """An instance of a subclass is one of the class: it arrives as the plain value."""
    assert encode(annotation, value) == text


@pytest.mark.parametrize(
    ("annotation", "value"), [(bool, Count(1)), (int, Float64(1)), (str, Count(1))], ids=stable_name
)
def test_subclasses_pass_for_nothing_else(annotation: Any, value: Any) -> None:
    """Strictness is the same for them."""
    with pytest.raises(ValidationError, match="Expected"):
        encode(annotation, value)
