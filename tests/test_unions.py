"""Unions that pydantic decodes: no value comes back in another class than it had."""

from __future__ import annotations

import datetime as dt
import enum
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from tests.naming import stable_name

from perdure.codec import TypeCodec
from perdure.errors import DefinitionError, ValidationError
from perdure.unions import classes_of, joined_classes

pydantic = pytest.importorskip("pydantic")

LIMIT = 1024 * 1024
ID = uuid.UUID(int=1)
NOON = dt.datetime(2024, 1, 1, 12, tzinfo=dt.UTC)


class Color(str, enum.Enum):  # noqa: UP042  Both a str and a member.
    RED = "red"


class A(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    x: int


class B(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    x: int


class Wider(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    x: int
    y: int = 0


class Narrower(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    x: int | None


class Deposit(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    kind: Literal["deposit"] = "deposit"
    amount: int


class Refund(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    kind: Literal["refund"] = "refund"
    amount: int


Movement = Annotated[Deposit | Refund, pydantic.Field(discriminator="kind")]


class Mixed(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    value: str | uuid.UUID | int | float | None = None


class When(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    value: dt.datetime | str


class Money(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    value: Decimal | str


class Colored(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    color: Color | Literal["blue"] | int


class Keyed(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    by: dict[int | str, int]
    group: set[str | uuid.UUID] = pydantic.Field(default_factory=set)


class Ambiguous(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    movement: A | B


class Empty(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    pass


class Blank(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    pass


@dataclass
class Plain:
    x: int


@dataclass
class Holder:
    item: A | B


@pydantic.dataclasses.dataclass
class Data:
    x: int


def codec(annotation: Any) -> TypeCodec[Any]:
    return TypeCodec.of(annotation, where="the value")


@pytest.mark.parametrize(
    "annotation",
    [
        A | B,
        list[A | B],
        dict[str, A | B],
        A | B | None,
        list[A] | list[B],
        tuple[A | B, int],
        Annotated[A | B, pydantic.Field()],
        Ambiguous,
        Holder,
        A | Data,
        Empty | Blank,
    ],
    ids=stable_name,
)
def test_models_with_the_same_fields_are_no_union(annotation: Any) -> None:
    """No JSON tells which it was: the definition is refused, with both names and a remedy."""
    with pytest.raises(DefinitionError, match=r"JSON cannot tell \w+ and \w+ apart") as caught:
        codec(annotation)
    assert "kind: Literal[" in str(caught.value)


KEPT = [
    (Deposit | Refund, [Deposit(amount=1), Refund(amount=1)]),
    (list[Movement], [[Refund(amount=1), Deposit(amount=1)]]),
    (A | Wider, [A(x=1), Wider(x=1), Wider(x=1, y=2)]),
    (A | int | None, [A(x=1), 1, None]),
    (A | dict[str, int], [A(x=1), {"z": 1}]),
    (Mixed, [Mixed(value=each) for each in ("a", ID, 1, 1.0, 1.5, None)]),
    (When, [When(value=NOON), When(value="noon")]),
    (Money, [Money(value=Decimal("1.50")), Money(value="much")]),
    (Colored, [Colored(color=Color.RED), Colored(color="blue"), Colored(color=1)]),
    (Keyed, [Keyed(by={"a": 1}, group={"a", ID})]),
    (A | Plain, [A(x=1)]),
]


@pytest.mark.parametrize(("annotation", "values"), KEPT, ids=stable_name)
def test_what_json_tells_apart_keeps_its_class(annotation: Any, values: list[Any]) -> None:
    """Tags, other fields and other forms are enough."""
    for value in values:
        text = codec(annotation).encode(value, where="w", limit=LIMIT)
        again = codec(annotation).decode(text, where="w")
        assert again == value
        assert repr(again).replace("TzInfo(0)", "datetime.timezone.utc") == repr(value) or (
            "group" in repr(value)  # a set has no order
        )


CHANGED = [
    (Wider | A, A(x=1), "a A would come back as Wider", "$"),
    (list[Wider | A], [A(x=1)], "a A would come back as Wider", "$[0]"),
    (Mixed, Mixed(value=str(ID)), "a str would come back as UUID", "$.value"),
    (When, When(value="2024-01-01T00:00:00Z"), "a str would come back as datetime", "$.value"),
    (dict[str, Mixed], {"k": Mixed(value=str(ID))}, "back as UUID", "$.k.value"),
    (Money, Money(value="1"), "a str would come back as Decimal", "$.value"),
    (A | dict[str, int], {"x": 1}, "a dict would come back as A", "$"),
    (A | Plain, Plain(1), "a Plain would come back as A", "$"),
    (A | str | dt.datetime, NOON, "a datetime would come back as str", "$"),
    (A | list[int] | tuple[int, ...], (1,), "a tuple would come back as list", "$"),
    (Keyed, Keyed(by={1: 1}), "a int would come back as another type", "$.by"),
    (Keyed, Keyed(by={}, group={str(ID)}), "a str would come back as another", "$.group[…]"),
    (Data | Wider | Any, ID, "a UUID would come back as str", "$"),
]


@pytest.mark.parametrize(
    ("annotation", "value", "message", "path"),
    CHANGED,
    ids=[f"{each[2]} at {each[3]}" for each in CHANGED],
)
def test_what_would_change_its_class_is_refused(
    annotation: Any, value: Any, message: str, path: str
) -> None:
    """At the value, with its path: nothing is stored that would come back as something else."""
    with pytest.raises(ValidationError) as caught:
        codec(annotation).encode(value, where="w", limit=LIMIT)
    assert message in str(caught.value)
    assert f" at {path}: " in str(caught.value)


def test_members_of_one_union_that_overlap_are_judged_by_the_value() -> None:
    """Either is stored as itself, or not at all."""
    kept = 0
    for value in (A(x=1), Narrower(x=1), Narrower(x=None)):
        try:
            text = codec(Narrower | A).encode(value, where="w", limit=LIMIT)
        except ValidationError:
            continue
        kept += 1
        assert type(codec(Narrower | A).decode(text, where="w")) is type(value)
    assert kept == 2


def test_values_outside_of_unions_are_judged_by_their_json_form() -> None:
    """A model takes a dict, a list a tuple, a float a whole number, beside any union."""

    class Both(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        union: int | str
        many: list[float]

    holder = {"union": "a", "many": (1, 2)}
    assert codec(Both).encode(holder, where="w", limit=LIMIT) == '{"many":[1.0,2.0],"union":"a"}'


def test_classes_of_an_annotation_are_found_through_fields_and_aliases() -> None:
    """Recursive models too."""

    class Tree(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        leaf: Decimal
        children: list[Tree]

    Tree.model_rebuild(_types_namespace={"Tree": Tree})
    assert {Tree, Decimal, list} <= classes_of(dict[str, Tree])
    assert joined_classes(Tree) == ()
    assert set(joined_classes(int | Literal["a"] | None)) == {int, str}
