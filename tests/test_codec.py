"""Types to JSON and back: what is stored, what is refused, and what the messages say."""

from __future__ import annotations

import collections
import datetime as dt
import enum
import math
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NewType, Optional, TypedDict

import attrs
import msgspec
import pytest
from tests.naming import stable_name

from perdure.codec import (
    TypeCodec,
    encode_plain,
    plain,
)
from perdure.errors import DefinitionError, LimitExceeded, ValidationError
from perdure.forms import VALUE_DEPTH_MAX

LIMIT = 1024 * 1024


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 10


class Point(NamedTuple):
    x: int
    y: int = 0


class Address(TypedDict):
    street: str
    number: int


@dataclass
class Item:
    name: str
    count: int = 1
    tags: list[str] = field(default_factory=list)


@dataclass
class Special(Item):
    extra: int = 0


@dataclass
class Order:
    items: list[Item]
    address: Address | None = None


@attrs.frozen
class Account:
    owner: str
    _secret: int = 0


class Money(msgspec.Struct, frozen=True):
    amount: Decimal
    currency: str = "EUR"


class Cat(msgspec.Struct, tag=True):
    name: str


class Dog(msgspec.Struct, tag=True):
    name: str
    age: int = 0


class Sparse(msgspec.Struct, omit_defaults=True):
    first: int = 1
    second: int = 2


class Loose(msgspec.Struct, array_like=True):
    a: int


@dataclass
class Weight:
    kilos: float
    parts: dict[str, float]


@dataclass
class Counts:
    counts: dict[int, int]


@dataclass
class Dangling:
    there: Nowhere  # type: ignore[name-defined]  # noqa: F821


@dataclass(frozen=True)
class Key:
    a: int
    b: str | None = None


@dataclass
class Tree:
    value: int
    children: list[Tree] = field(default_factory=list)


UserId = NewType("UserId", str)


def encode(annotation: Any, value: Any, limit: int = LIMIT) -> str:
    return TypeCodec.of(annotation, where="the value").encode(value, where="the value", limit=limit)


def decode(annotation: Any, text: str) -> Any:
    return TypeCodec.of(annotation, where="the value").decode(text, where="the value")


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


ROUND_TRIPS = [
    (int, 5, "5"),
    (int, 2**70, str(2**70)),
    (str, 'a"\u0000é', '"a\\"\\u0000é"'),
    (bool, True, "true"),
    (float, 1.5, "1.5"),
    (None, None, "null"),
    (bytes, b"\x00\xff", '"AP8="'),
    (list[int], [2, 1], "[2,1]"),
    (dict[str, int], {"b": 1, "a": 2}, '{"a":2,"b":1}'),
    (dict[int, str], {10: "x", 9: "y"}, '{"10":"x","9":"y"}'),
    (dict[Color, int], {Color.RED: 1}, '{"red":1}'),
    (tuple[int, str], (1, "a"), '[1,"a"]'),
    (set[str], {"b", "a", "c"}, '["a","b","c"]'),
    (frozenset[int], frozenset({3, 1}), "[1,3]"),
    (set[Color], {Color.RED, Color.BLUE}, '["blue","red"]'),
    (set[frozenset[str]], {frozenset("ab"), frozenset("a")}, '[["a","b"],["a"]]'),
    (set[int | str], {1, "a"}, '["a",1]'),
    (set[Key], {Key(1), Key(1, "x")}, '[{"a":1,"b":"x"},{"a":1,"b":null}]'),
    (dt.date, dt.date(2024, 2, 29), '"2024-02-29"'),
    (dt.datetime, dt.datetime(2024, 1, 1, tzinfo=dt.UTC), '"2024-01-01T00:00:00Z"'),
    (dt.timedelta, dt.timedelta(seconds=90), '"PT90S"'),
    (uuid.UUID, uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
    (Decimal, Decimal("1.50"), '"1.50"'),
    (Color, Color.RED, '"red"'),
    (Level, Level.HIGH, "10"),
    (Literal["a", 1], 1, "1"),
    (Point, Point(1, 2), "[1,2]"),
    (Address, {"street": "s", "number": 1}, '{"number":1,"street":"s"}'),
    (Order, Order([Item("a")]), '{"address":null,"items":[{"count":1,"name":"a","tags":[]}]}'),
    (Account, Account("me", secret=7), '{"_secret":7,"owner":"me"}'),
    (Money, Money(Decimal(1)), '{"amount":"1","currency":"EUR"}'),
    (Cat | Dog, Dog("rex"), '{"age":0,"name":"rex","type":"Dog"}'),
    (Sparse, Sparse(second=3), '{"second":3}'),
    (Tree, Tree(1, [Tree(2)]), None),
    (UserId, UserId("u"), '"u"'),
    (int | None, None, "null"),
    (Annotated[int, msgspec.Meta(ge=0)], 3, "3"),
    (dict[str, object], {"a": [1, None]}, '{"a":[1,null]}'),
    (Any, {"a": [1, None, "x"]}, '{"a":[1,null,"x"]}'),
    (list[Any] | dict[str, Any] | None, [1, None], "[1,null]"),
    (dict[int | float, int], {1: 1, 2.5: 2}, '{"1":1,"2.5":2}'),
    (dict[int | uuid.UUID, int], {1: 1}, '{"1":1}'),
    (dict[Color | int, int], {1: 1, Color.RED: 2}, '{"1":1,"red":2}'),
    (Decimal, Decimal("1E+5"), '"1E+5"'),
    (list[Decimal], [Decimal("1.5")], '["1.5"]'),
    (str | list[Decimal], "infinity and nan", '"infinity and nan"'),
]


@pytest.mark.parametrize(("annotation", "value", "text"), ROUND_TRIPS, ids=stable_name)
def test_a_value_comes_back_as_it_was(annotation: Any, value: Any, text: str | None) -> None:
    """Each supported type is stored as readable JSON and decodes to an equal, fresh value."""
    encoded = encode(annotation, value)
    if text is not None:
        assert _members(encoded) == _members(text)
    again = decode(annotation, encoded)
    assert again == value
    assert type(again) is type(value)


def _members(text: str) -> str:
    """Field order is msgspec's: by declaration for classes, sorted for dicts."""
    import json

    return json.dumps(json.loads(text), sort_keys=True, ensure_ascii=False)


def test_decoding_gives_a_fresh_value_each_time() -> None:
    """Two receivers never share a mutable value."""
    text = encode(list[int], [1])
    codec = TypeCodec.of(list[int], where="w")
    assert codec.decode(text, where="w") is not codec.decode(text, where="w")


def test_any_value_is_judged_by_its_json_form() -> None:
    """Without annotation a tuple becomes a list and a class a dict, live and on replay alike."""
    value = {"t": (1, 2), "o": Item("a"), "s": {"b", "a"}, 1: Color.RED}
    assert decode(Any, encode(Any, value)) == {
        "1": "red",
        "o": {"count": 1, "name": "a", "tags": []},
        "s": ["a", "b"],
        "t": [1, 2],
    }


@pytest.mark.parametrize("annotation", [Any, object])
def test_a_private_field_under_any_is_kept(annotation: Any) -> None:
    """msgspec drops private fields of attrs classes; they must not be lost silently."""
    assert plain(encode(annotation, [Account("me", secret=7)])) == [{"_secret": 7, "owner": "me"}]


WRONG = [
    (int, "5", "the value: Expected `int`, got `str` at $: '5'"),
    (int, True, "Expected `int`, got `bool` at $: True"),
    (int, 1.0, "got `float` at $: 1.0"),
    (str, 5, "Expected `str`, got `int` at $: 5"),
    (None, 0, "Expected `null`, got `int` at $: 0"),
    (list[int], [1, "x"], "at $[1]: 'x'"),
    (dict[str, int], {"a": 1, "b": "x"}, "at $.b: 'x'"),
    (dict[str, list[dict[str, int]]], {"a": [], "b": [{}, {"c d": "x"}]}, "at $.b[1]['c d']: 'x'"),
    (dict[int, int], {"x": 1}, "Expected `int`, got `str` as key at $.x: 'x'"),
    (Order, Order([Item("a"), Item("b", "many")]), "at $.items[1].count: 'many'"),  # type: ignore[arg-type]
    (Order, {"items": [{"count": 1}]}, "missing required field `name` at $.items[0]: {'count': 1}"),
    (tuple[int, int], (1, 2, 3), "at $: [1, 2, 3]"),
    (Literal["a"], "b", "at $: 'b'"),
    (Color, "green", "at $: 'green'"),
    (Annotated[int, msgspec.Meta(ge=0)], -1, ">= 0 at $: -1"),
    (bytes, "!", "at $: '!'"),
]


@pytest.mark.parametrize(("annotation", "value", "message"), WRONG, ids=stable_name)
def test_a_wrong_value_is_refused_with_its_path(annotation: Any, value: Any, message: str) -> None:
    """The message says what was expected, where, and shows the value there."""
    with pytest.raises(ValidationError) as caught:
        encode(annotation, value)
    assert message in str(caught.value)


NO_KEY = [
    (dict[int, int], {True: 1}, "$.True"),
    (dict[float, int], {False: 1}, "$.False"),
    (dict[int | float, int], {True: 1}, "$.True"),
    (dict[Decimal, int], {True: 1}, "$.True"),
    (dict[Literal[1, 2], int], {True: 1}, "$.True"),
    (dict[Level, int], {True: 1}, "$.True"),
    (dict[str, int], {True: 1}, "$.True"),
    (Mapping[int, int], {True: 1}, "$.True"),
    (dict[int, int] | None, {True: 1}, "$.True"),
    (list[dict[int, dict[int, int]]], [{}, {5: {1: 1, False: 2}}], "$[1]['5'].False"),
    (dict[int, Any], {1: {True: 1}}, "$['1'].True"),
    (dict[int, set[frozenset[int]]], {True: {frozenset({1})}}, "$.True"),
    (Any, {"a": [{True: 1}]}, "$.a[0].True"),
    (Counts, Counts({True: 1}), "$.counts.True"),
    (Counts, {"counts": {True: 1}}, "$.counts.True"),
]


@pytest.mark.parametrize(("annotation", "value", "path"), NO_KEY, ids=stable_name)
def test_a_bool_is_no_key(annotation: Any, value: Any, path: str) -> None:
    """It is no number, though Python counts it as one: refused with its path, as a bool for an int
    value is."""
    with pytest.raises(ValidationError) as caught:
        encode(annotation, value)
    assert f"a `bool` cannot be a key at {path}: " in str(caught.value)


@pytest.mark.parametrize(
    "annotation", [int, float, Decimal, Literal[1], Literal[1] | None, Level], ids=stable_name
)
def test_a_bool_is_no_number(annotation: Any) -> None:
    """Alone, in lists and in sets."""
    for whole, value in ((annotation, True), (list[annotation], [True]), (set[annotation], {True})):
        with pytest.raises(ValidationError, match="got `bool`"):
            encode(whole, value)


ID = uuid.UUID(int=1)
NO_TEXT = [
    (str, ID, "Expected `str`, got `uuid` at $: UUID('00000000-0000-0000-0000-000000000001')"),
    (str, b"abc", "Expected `str`, got `bytes` at $: b'abc'"),
    (str, dt.date(2024, 2, 29), "got `date`"),
    (str, dt.datetime(2024, 2, 29, tzinfo=dt.UTC), "got `datetime`"),
    (str, dt.timedelta(1), "got `duration`"),
    (str, Decimal(1), "got `decimal`"),
    (str | None, ID, "Expected `str | null`, got `uuid`"),
    (UserId, ID, "got `uuid`"),
    (list[str], ["a", ID], "at $[1]: UUID("),
    (set[str], {b"a"}, "got `bytes` at $[0]"),
    (dict[str, list[str]], {"a": [], "b": [ID]}, "at $.b[0]: UUID("),
    (dict[str, int], {ID: 1}, "Expected `str`, got `uuid` as key at $["),
    (dict[str, int], {1: 1}, "Expected `str`, got `int` as key at $['1']: 1"),
    (Order, Order([Item("a"), Item(ID)]), "at $.items[1].name: UUID("),  # type: ignore[arg-type]
    (Order, {"items": [{"name": ID}]}, "at $.items[0].name: UUID("),
]


@pytest.mark.parametrize(("annotation", "value", "message"), NO_TEXT, ids=stable_name)
def test_what_is_written_as_text_is_no_str(annotation: Any, value: Any, message: str) -> None:
    """JSON writes dates and UUIDs as text, and bytes as base64, but they are none."""
    with pytest.raises(ValidationError) as caught:
        encode(annotation, value)
    assert message in str(caught.value)


def test_the_json_form_of_a_value_may_be_given_for_it() -> None:
    """As a program reads it from JSON: text for a UUID or a date, a dict for a class, a list for a
    set; a member of an Enum is its value."""
    for annotation, value, same in (
        (uuid.UUID, str(ID), ID),
        (dt.date, "2024-02-29", dt.date(2024, 2, 29)),
        (bytes, "AP8=", b"\x00\xff"),
        (set[str], ["b", "a"], {"a", "b"}),
        (dict[int, str], {"1": "a"}, {1: "a"}),
        (Item, {"name": "a", "count": 1, "tags": ()}, Item("a")),
        (Color, "red", Color.RED),
        (str, Color.RED, "red"),
        (list[str], (Color.RED,), ["red"]),
    ):
        assert decode(annotation, encode(annotation, value)) == same
    assert decode(dict[str, Any], encode(dict[str, Any], {"a": ID})) == {"a": str(ID)}


NAN = math.nan


NOT_FINITE = [
    (float, NAN, "$: nan"),
    (int, math.inf, "$: inf"),
    (float | str, NAN, "$: nan"),
    (list[float], [1.0, -math.inf], "$[1]: -inf"),
    (Weight, Weight(NAN, {}), "$.kilos: nan"),
    (float | None, NAN, "$: nan"),
    (int | None, math.inf, "$: inf"),
    (list[float | None], [None, 1.0, -math.inf], "$[2]: -inf"),
    (Any, NAN, "$: nan"),
    (Any, {"a": [None, {"b": NAN}]}, "$.a[1].b: nan"),
    (dict[str, Any], {"a": (1, NAN)}, "$.a[1]: nan"),
    (Order, Order([Item("a")], NAN), "$.address: nan"),  # type: ignore[arg-type]
    (Any, {NAN: 1}, "$: nan"),
    (Decimal, Decimal("NaN"), "$: Decimal('NaN')"),
    (Decimal, Decimal("sNaN"), "$: Decimal('sNaN')"),
    (Decimal | None, Decimal("-Infinity"), "$: Decimal('-Infinity')"),
    (Decimal | int, "inf", "$: Decimal('Infinity')"),
    (dict[str, list[Decimal]], {"a": [Decimal(1), Decimal("NaN1")]}, "$.a[1]: Decimal('NaN1')"),
    (list[Money], [Money(Decimal("Infinity"))], "$[0].amount: Decimal('Infinity')"),
    (dict[Decimal, int], {Decimal("NaN"): 1}, "$: Decimal('NaN')"),
    (set[Decimal], {Decimal("Infinity")}, "$[…]: Decimal('Infinity')"),
    (Any, {"a": Decimal("NaN")}, "$.a: Decimal('NaN')"),
    (dict[float, int], {math.inf: 1}, "$: inf"),
]


@pytest.mark.parametrize(("annotation", "value", "message"), NOT_FINITE, ids=stable_name)
def test_numbers_that_json_has_not_are_refused(annotation: Any, value: Any, message: str) -> None:
    """nan and inf never become a silent null, wherever null may stand."""
    with pytest.raises(ValidationError) as caught:
        encode(annotation, value)
    assert f"JSON has no such number at {message}" in str(caught.value) or "a key" in str(
        caught.value
    )


UNKNOWN = [
    (Item, {"name": "a", "colour": 1}, "$.colour"),
    (Item, Special("a", extra=3), "$.extra"),
    (Order, Order([Item("a"), Special("b")]), "$.items[1].extra"),
    (Order, {"items": [], "address": {"street": "s", "number": 1, "zip": 2}}, "$.address.zip"),
    (Account, {"owner": "me", "other": 1}, "$.other"),
    (Money, {"amount": "1", "tax": 1}, "$.tax"),
    (dict[str, Item], {"k": {"name": "a", "colour": 1}}, "$.k.colour"),
    (Cat | Dog, {"type": "Cat", "name": "tom", "age": 1}, "$.age"),
    (Tree, {"value": 1, "children": [{"value": 2, "leaf": True}]}, "$.children[0].leaf"),
]


@pytest.mark.parametrize(("annotation", "value", "path"), UNKNOWN, ids=stable_name)
def test_unknown_fields_are_refused_at_any_depth(annotation: Any, value: Any, path: str) -> None:
    """A field that the type does not have would be lost; also one of a subclass."""
    with pytest.raises(ValidationError, match="unknown field") as caught:
        encode(annotation, value)
    assert f"at {path}: " in str(caught.value)
    with pytest.raises(ValidationError, match="unknown field"):
        decode(annotation, encode(Any, value))


def test_given_defaults_are_no_unknown_fields() -> None:
    """A struct that omits defaults still knows the field when its default is written out."""
    assert decode(Sparse, encode(Sparse, {"first": 1})) == Sparse()


STRANGE = [
    (Any, "\ud800", "lone surrogate"),
    (str, "a\udfff", "lone surrogate"),
    (Any, {"a": {"\ud800": 1}}, "lone surrogate cannot be stored at $.a"),
    (Any, object(), "a value of type object cannot be stored as JSON at $"),
    (Any, {"a": [lambda: None]}, " cannot be stored as JSON at $.a[0]"),
    (Any, {(1, 2): 3}, "a key that cannot be stored as JSON at $: (1, 2)"),
    (Any, {None: 3}, "a key that cannot be stored as JSON at $: None"),
    (Any, {"a": {1: "x", "1": "y"}}, "two keys that are both '1' in JSON at $.a"),
    (dict[str, int], {1: 1, "1": 2}, "two keys that are both '1'"),
    (Any, 10**5000, "4300 digits"),
    (Any, [1j], "a value of type complex cannot be stored as JSON at $[0]: 1j"),
    (Any, nested(VALUE_DEPTH_MAX + 1), "nested more than 200 deep"),
    (Any, nested(10_000), "nested more than 200 deep"),
    (list[Any], nested(10_000), "nested more than 200 deep"),
]


@pytest.mark.parametrize(
    ("annotation", "value", "message"), STRANGE, ids=[each[2] for each in STRANGE]
)
def test_what_json_cannot_hold_is_refused(annotation: Any, value: Any, message: str) -> None:
    """Each is a ValidationError that says what and where, never a crash or a changed value."""
    with pytest.raises(ValidationError) as caught:
        encode(annotation, value)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_value_that_contains_itself_is_refused() -> None:
    """A cycle has no JSON form, in a list, a dict, or an object."""
    loop: list[Any] = []
    loop.append(loop)
    tree = Tree(1)
    tree.children.append(tree)
    for annotation, value in ((Any, loop), (Any, {"a": loop}), (Tree, tree)):
        with pytest.raises(ValidationError, match="containing itself"):
            encode(annotation, value)


def test_nesting_up_to_the_limit_is_stored() -> None:
    """The limit itself is allowed, and brackets inside text do not count."""
    assert decode(Any, encode(Any, nested(VALUE_DEPTH_MAX))) == nested(VALUE_DEPTH_MAX)
    assert decode(Any, encode(Any, ['"[' * 1000])) == ['"[' * 1000]


@pytest.mark.parametrize(
    "text", ["[" * 10_000, "[" * 9_000 + "]" * 9_000, "", "{", "1 2", '"\\ud800"']
)
def test_text_that_is_no_value_is_refused_when_decoded(text: str) -> None:
    """Text from outside that is malformed or too deep is a ValidationError."""
    with pytest.raises(ValidationError, match="the value: "):
        decode(list[int], text)


def test_text_that_no_longer_fits_is_refused_when_decoded() -> None:
    """What older code stored is validated again, with path and value."""
    with pytest.raises(ValidationError, match=r"Expected `int`, got `str` at \$\.count: 'x'"):
        decode(Item, '{"name":"a","count":"x"}')


def test_what_a_post_init_raises_is_a_validation_error() -> None:
    """A check in the user's own class refuses a value like one of the codec's."""

    @dataclass
    class Positive:
        n: int

        def __post_init__(self) -> None:
            if self.n < 0:
                raise LookupError("negative")

    with pytest.raises(ValidationError, match="LookupError: negative"):
        decode(Positive, '{"n":-1}')


def test_the_limit_counts_bytes_and_is_told() -> None:
    """Exactly the limit passes; one byte more is LimitExceeded with size, limit and remedy."""
    assert encode(str, "é" * 4, limit=10) == '"éééé"'
    with pytest.raises(LimitExceeded, match=r"12 bytes of JSON, the limit is 10.*Limits"):
        encode(str, "é" * 5, limit=10)
    with pytest.raises(LimitExceeded):
        encode_plain({"a": "x" * 20}, where="w", limit=20)


def test_the_order_of_sets_does_not_depend_on_hashes() -> None:
    """Other processes with other hash seeds encode the same text."""
    program = (
        "import sys; sys.path[:0] = eval(sys.argv[1])\n"
        "from typing import Any\n"
        "from perdure.codec import TypeCodec\n"
        "letters = [frozenset('abc'), frozenset('bcd'), frozenset('a')]\n"
        "values = ((Any, {'s': set('hello')}), (Any, [set(letters)]), (set[frozenset[str]],"
        " set(letters)), (set[str], set('hello')), (set[str | int], {1, 'a', 'b'}))\n"
        "print([TypeCodec.of(a, where='').encode(v, where='', limit=999) for a, v in values])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program, repr(sys.path)],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in (1, 2, 3)
    }
    assert len(outputs) == 1


UNSTORABLE = [
    (object(), "not supported|no form"),
    (Callable[[], int], "no form in JSON"),
    (list[ValueError], "ValueError has no form in JSON"),
    (complex, "complex has no form"),
    (collections.deque[int], "deque has no form"),
    (str | dt.datetime, "more than one str-like type"),
    (Item | Order, "more than one dataclass"),
    (list[int] | tuple[int, ...], "array-like"),
    (str | Color, "more than one str-like type.*give each class a tag"),
    (Item | Any, "in a union with Any, Item would come back as plain JSON"),
    (list[dt.date | Any], "in a union with Any, Date would come back as plain JSON"),
    (dict[int | str, str], "cannot tell a number from other keys"),
    (dict[Decimal | float, str], "cannot tell a number from other keys"),
    (dict[Literal["1"] | int, str], "cannot tell a number from other keys"),
    (dict[Level | str, str], "cannot tell a number from other keys"),
    (msgspec.Raw, "Raw is not supported"),
    (dict[tuple[int, int], str], "the keys of a dict must be"),
    (list[dict[bool, str]], "the keys of a dict must be"),
    (Loose, "forbid_unknown_fields"),
    (Dangling, "'Nowhere' is not defined: the annotations of a class are looked up in its module"),
    (list["Nowhere"], "Nowhere"),  # type: ignore[name-defined]  # noqa: F821
]


@pytest.mark.parametrize(("annotation", "message"), UNSTORABLE, ids=stable_name)
def test_an_annotation_that_cannot_be_stored_is_a_definition_error(
    annotation: Any, message: str
) -> None:
    """It is found when the code is defined, and the message begins with where."""
    with pytest.raises(DefinitionError, match=message) as caught:
        TypeCodec.of(annotation, where="action f: parameter `x`")
    assert str(caught.value).startswith("action f: parameter `x`: ")


def test_text_is_known_under_any_name() -> None:
    """A function that is called with text has to take it."""
    for annotation in (str, UserId, Annotated[UserId, "x"], str | None, Optional[str], Any, object):  # noqa: UP045
        assert TypeCodec.of(annotation, where="w").takes_text
    for other in (int, None, list[str], dict[str, int], int | None, Annotated[int, {}]):
        assert not TypeCodec.of(other, where="w").takes_text


def test_codecs_of_one_annotation_are_shared() -> None:
    """A codec is made once; an annotation that cannot be hashed works as well."""
    assert TypeCodec.of(list[int], where="a") is TypeCodec.of(list[int], where="b")
    unhashable = Annotated[int, {"any": "thing"}]
    assert TypeCodec.of(unhashable, where="a").encode(1, where="a", limit=9) == "1"
