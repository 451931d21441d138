"""Events: names and payload types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from perdure.errors import DefinitionError, ValidationError
from perdure.events import define_event


@dataclass
class Paid:
    """A payload."""

    amount: int


def test_an_event_carries_a_name_and_a_codec() -> None:
    """The payload is validated against the type."""
    event = define_event("paid", Paid)
    assert event.name == "paid"
    text = event.codec.encode(Paid(5), where="event paid", limit=99)
    assert event.codec.decode(text, where="event paid") == Paid(5)
    with pytest.raises(ValidationError, match=r"event paid: .* at \$\.amount"):
        event.codec.decode('{"amount":"5"}', where="event paid")


def test_the_default_payload_is_any_json() -> None:
    """An event without a type takes whatever can be stored."""
    codec = define_event("poke").codec
    assert codec.decode(codec.encode({"a": [None]}, where="w", limit=99), where="w") == {
        "a": [None]
    }


@pytest.mark.parametrize(
    ("annotation", "value"),
    [(int | None, None), (list[int], [1]), (None, None), (dict[str, Paid], {"a": Paid(1)})],
)
def test_any_annotation_may_be_the_type(annotation: Any, value: Any) -> None:
    """Unions, generics and None are no classes, and work."""
    codec = define_event("e", annotation).codec
    assert codec.decode(codec.encode(value, where="w", limit=99), where="w") == value


def test_events_of_the_same_name_and_type_are_equal() -> None:
    """Sender and receiver may each define it."""
    assert define_event("paid", Paid) == define_event("paid", Paid)
    assert hash(define_event("paid", Paid)) == hash(define_event("paid", Paid))
    other: object = define_event("paid", int)
    assert define_event("paid", Paid) != other
    assert define_event("paid", Paid) != define_event("other", Paid)


def test_an_event_cannot_be_changed() -> None:
    """It is shared."""
    with pytest.raises(AttributeError):
        define_event("paid").name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["", "x" * 201, "a\tb", None])
def test_names_that_cannot_be_used_are_refused(name: Any) -> None:
    """Event names follow the rules of all names."""
    with pytest.raises(DefinitionError, match="define_event: "):
        define_event(name)


def test_a_payload_that_cannot_be_stored_is_refused() -> None:
    """When the event is defined, not when it is sent."""
    with pytest.raises(DefinitionError, match="event paid: values of complex cannot be stored"):
        define_event("paid", complex)
