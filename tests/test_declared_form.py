"""The JSON form of a declared error, and how it is made again."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Self

import pytest

from perdure.core.limits import VALUE_BYTES_MAX
from perdure.declared_form import CannotStore, make_error, store_error

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


class SoldOut(Exception):
    """Its constructor says what it takes."""

    def __init__(self, item: str, until: datetime, *prices: Decimal, free: int = 0) -> None:
        super().__init__(item, until, *prices)
        self.until = until


@dataclass
class Refused(Exception):
    """Likewise, written by dataclasses."""

    reasons: set[str]
    code: uuid.UUID | None = None


class Worded(Exception):
    """Makes args of its own of what it was given, and forgets that."""

    def __init__(self, when: datetime | str) -> None:
        super().__init__(f"at {when}")


class Coded(Exception):
    """Makes args of its own, and keeps what it was given."""

    def __init__(self, code: int, *, until: datetime | None = None) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.until = until


class Said(Exception):
    """Keeps a part of what it was given, the rest is in its args."""

    def __init__(self, message: str, at: datetime) -> None:
        super().__init__(message)
        self.at = at


class Named(Exception):
    """Takes everything by name, and hides it."""

    def __init__(self, *, code: int) -> None:
        self._code = code

    @property
    def code(self) -> int:
        return self._code

    def __str__(self) -> str:
        return f"code {self.code}"


class Picklable(Exception):
    """Says itself how it is made again."""

    def __init__(self, given: int, unit: str) -> None:
        super().__init__(f"{given} {unit}")
        self._parts = (given, unit)

    def __reduce__(self) -> tuple[Any, ...]:
        return Picklable, self._parts


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__("slotted")
        self.code = code


class Stamped(Exception):
    """Reads a clock, of a kind."""

    made = 0

    def __init__(self, what: str) -> None:
        super().__init__(what)
        Stamped.made += 1
        self.at = Stamped.made


class Held(Exception):
    """Makes something for itself that cannot be stored."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.lock = object()


class Late(Exception):
    def __init__(self, code: int = 0) -> None:
        super().__init__(f"code {code}")


class LateTimeout(Late):
    """More precise than what is declared, and made with something else."""

    def __init__(self, where: str) -> None:
        super().__init__(5)
        self.where = where
        self.cause = ValueError()

    def __str__(self) -> str:
        return f"at {self.where}"


def noted(error: Exception) -> Exception:
    error.add_note("from upstream")
    error.retry_after = 5  # type: ignore[attr-defined]
    return error


def again(error: BaseException, cls: type[BaseException] | None = None) -> BaseException:
    cls = cls or type(error)
    text = store_error(error, cls)
    found = make_error(cls, text)
    assert store_error(found, cls) == text, "it can be stored again, and is the same"
    return found


SAME = [
    SoldOut("book", NOON, Decimal("1.50"), Decimal(2)),
    Refused({"b", "a"}, uuid.UUID(int=7)),
    Refused(reasons={"b", "a"}),
    Worded("noon"),
    Coded(5),
    Coded(5, until=NOON),
    Said("sold", NOON),
    Named(code=5),
    Picklable(5, "kg"),
    Slotted(5),
    Stamped("now"),
    Late(),
    Late(5),
    noted(Coded(5)),
    noted(Worded("noon")),
    noted(KeyError("x")),
    Exception(),
    Exception("a", 1, None, [True], {"b": 2.5}),
    OSError(2, "No such file", "a.txt"),
    FileNotFoundError(2, "No such file", "a.txt"),
    ImportError("no", name="mod", path="/mod.py"),
    StopAsyncIteration(5),
]


@pytest.mark.parametrize("error", SAME, ids=lambda error: type(error).__name__)
def test_an_error_comes_back_as_it_was(error: Exception) -> None:
    """The class, the args, the text and the attributes, whatever its constructor does."""
    found = again(error)
    assert type(found) is type(error)
    assert found.args == error.args
    assert sorted(str(found)) == sorted(str(error))  # a set in it has any order
    assert vars(found) == vars(error)
    for name in ("code", "until", "at", "filename", "name", "path", "value"):
        assert getattr(found, name, None) == getattr(error, name, None)


def test_what_the_args_make_is_stored_as_the_args_alone() -> None:
    """As ever: the other forms are for those that need them."""
    assert store_error(SoldOut("book", NOON), SoldOut) == '["book","2030-01-01T12:00:00Z"]'
    assert store_error(Exception("late", (1, 2)), Exception) == '["late",[1,2]]'
    assert store_error(Coded(5), Coded) == '{"how":"names","names":{"code":5,"until":null}}'


def test_args_that_are_not_of_the_types_of_the_parameters_come_back_as_plain_json() -> None:
    """An error is told rather than judged: it is the handler's to read."""
    sold = again(SoldOut("book", "soon", "cheap"))  # type: ignore[arg-type]
    assert sold.args == ("book", "soon", "cheap")
    assert again(Exception("late", (1, NOON))).args == ("late", [1, "2030-01-01T12:00:00Z"])


def test_args_of_types_that_cannot_be_stored_are_tried_as_they_are() -> None:
    """An annotation that is for people alone refuses nothing."""

    class Odd(Exception):
        def __init__(self, what: Callable[[], int] | int, where: NoSuchName) -> None:  # type: ignore[name-defined]  # noqa: F821
            super().__init__(what, where)

    assert again(Odd(1, "here")).args == (1, "here")


def test_what_a_class_makes_for_itself_need_not_be_stored() -> None:
    """The error that comes back has one of its own."""
    held = again(Held("on"))
    assert isinstance(held, Held)
    assert type(held.lock) is object


def test_a_subclass_comes_back_as_what_was_declared() -> None:
    """With its args, and the text of that class; what it adds is kept if it can be."""
    found = again(LateTimeout("at the gate"), Late)
    assert (type(found), found.args, vars(found)) == (
        Late,
        ("code 5",),
        {"where": "at the gate"},
    )


class Unkept(Exception):
    def __init__(self, response: object) -> None:
        super().__init__("bad response")
        self.response = response


class Rough(Exception):
    """Its text is made of what is lost."""

    def __init__(self, *parts: str) -> None:
        super().__init__()
        self.__parts__ = parts

    def __str__(self) -> str:
        return f"{len(self.__parts__)} parts"


class Hard(Exception):
    """Takes what it has from a caller alone."""

    __slots__ = ()

    def __new__(cls, key: object, *_: object) -> Self:
        if not isinstance(key, tuple):
            raise PermissionError("not from outside")
        return super().__new__(cls)


CANNOT = [
    (Unkept(object()), "its attribute `response`: a value of type object cannot be stored as JSON"),
    (ValueError(object()), "its args: a value of type object cannot be stored as JSON at $"),
    (ValueError("x" * (VALUE_BYTES_MAX + 1)), "its args: 1,048,579 bytes of JSON, the limit is"),
    (Coded.__new__(Coded, *("x" * 600_000,) * 2), "more than 1,048,576 bytes"),
    (Rough("a", "b"), "made again it has another text"),
    (Hard((1, 2)), "PermissionError: not from outside"),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "made again it has another text"),
]


@pytest.mark.parametrize(
    ("error", "reason"),
    CANNOT,
    ids=lambda each: each if isinstance(each, str) else type(each).__name__,
)
def test_what_would_come_back_as_another_is_refused(error: Exception, reason: str) -> None:
    """With the reason, and what it is about."""
    with pytest.raises(CannotStore) as caught:
        store_error(error, type(error))
    assert reason in str(caught.value)
