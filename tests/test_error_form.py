"""What is kept of an exception, and how a declared one comes back."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from perdure.codec import TypeCodec
from perdure.core.limits import MESSAGE_LENGTH_MAX, TRACEBACK_LENGTH_MAX
from perdure.error_form import encode_error, rebuild_error
from perdure.errors import ErrorInfo, ValidationError


class PaymentError(Exception):
    """A declared error."""


class CardDeclined(PaymentError):
    """More precise than the declared one."""


class Picky(Exception):
    """Its constructor does not take its args."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")


class Unspeakable(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no")


class Untraceable(Exception):
    """Has no stack, but something else by that name."""

    @property
    def __traceback__(self) -> int:  # type: ignore[override]
        return 5


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_an_error_is_kept_as_type_message_and_traceback() -> None:
    """The type is the bare class name; undeclared errors keep no arguments."""
    info = encode_error(raised(ValueError("bad")))
    assert (info.type, info.message, info.arguments) == ("ValueError", "bad", None)
    assert info.traceback.endswith("ValueError: bad\n")
    assert "in raised" in info.traceback
    assert rebuild_error(info, (ValueError,)) is None


def test_a_declared_error_comes_back_as_itself() -> None:
    """Class and args are the same; args went through JSON."""
    info = encode_error(raised(PaymentError("late", (1, 2))), declared=(PaymentError,))
    again = rebuild_error(info, (LookupError, PaymentError))
    assert type(again) is PaymentError
    assert again.args == ("late", [1, 2])


def test_a_subclass_comes_back_as_the_nearest_declared_class() -> None:
    """What the handler can name in `except` is what it gets."""
    error = raised(CardDeclined("no"))
    info = encode_error(error, declared=(Exception, PaymentError))
    assert info.type == "PaymentError"
    assert "CardDeclined: no" in info.traceback
    assert type(rebuild_error(info, (Exception, PaymentError))) is PaymentError


def test_declared_errors_that_cannot_be_rebuilt_are_told_apart() -> None:
    """Args that are not JSON, or a constructor that refuses them, give None."""
    unstorable = encode_error(PaymentError(object()), declared=(PaymentError,))
    assert unstorable.arguments is None
    assert rebuild_error(unstorable, (PaymentError,)) is None
    picky = encode_error(Picky(1, "x"), declared=(Picky,))
    assert picky.arguments == '["1: x"]'
    assert rebuild_error(picky, (Picky,)) is None
    assert rebuild_error(ErrorInfo("Other", "", "", "[]"), (Picky,)) is None


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
    """Makes args of its own of what it was given."""

    def __init__(self, when: datetime | str) -> None:
        super().__init__(f"at {when}")


def again(error: Exception) -> BaseException | None:
    cls = type(error)
    return rebuild_error(encode_error(error, declared=(cls,)), (cls,))


def test_the_args_of_a_declared_error_are_of_the_types_that_it_takes() -> None:
    """Stored and decoded by the annotations of its constructor, as all that the engine stores."""
    noon = datetime(2030, 1, 1, 12, tzinfo=UTC)
    sold = again(SoldOut("book", noon, Decimal("1.50"), Decimal(2)))
    assert isinstance(sold, SoldOut)
    assert sold.args == ("book", noon, Decimal("1.50"), Decimal(2))
    assert sold.until == noon
    code = uuid.UUID(int=7)
    assert again(Refused({"b", "a"}, code)) == Refused({"a", "b"}, code)


def test_args_that_are_not_of_those_types_come_back_as_plain_json() -> None:
    """An error is told rather than judged: it is the handler's to read."""
    sold = again(SoldOut("book", "soon", "cheap"))  # type: ignore[arg-type]
    assert sold is not None
    assert sold.args == ("book", "soon", "cheap")
    worded = again(Worded("noon"))
    assert str(worded) == "at at noon"


def test_args_of_types_that_cannot_be_stored_are_tried_as_they_are() -> None:
    """An annotation that is for people alone refuses nothing."""

    class Odd(Exception):
        def __init__(self, what: Callable[[], int] | int, where: NoSuchName) -> None:  # type: ignore[name-defined]  # noqa: F821
            super().__init__(what, where)

    odd = again(Odd(1, "here"))
    assert odd is not None
    assert odd.args == (1, "here")


def test_an_error_whose_text_cannot_be_had_is_still_kept() -> None:
    """encode_error never raises, whatever the exception's class does."""
    info = encode_error(raised(Unspeakable()))
    assert info.message == "<str() of the exception raised RuntimeError>"
    assert info.type == "Unspeakable"


def test_text_of_errors_is_cut_and_can_be_stored() -> None:
    """The beginning of a message and the end of a traceback tell most; no surrogate, no NUL."""
    info = encode_error(raised(ValueError("start \ud800\0" + "x" * 100_000 + "end")))
    assert info.message.startswith("start \\ud800\\x00x")
    assert len(info.message) <= MESSAGE_LENGTH_MAX + len("\\ud800\\x00")
    assert info.traceback.endswith("end\n")
    assert len(info.traceback) == TRACEBACK_LENGTH_MAX
    (info.message + info.traceback).encode()


def test_the_engines_own_frames_are_left_out() -> None:
    """A traceback begins with the user's code."""

    @dataclass
    class Bad:
        n: int

        def __post_init__(self) -> None:
            raise KeyError("mine")

    with pytest.raises(ValidationError) as caught:
        TypeCodec.of(Bad, where="w").decode('{"n":1}', where="w")
    cause = caught.value.__cause__
    assert isinstance(cause, KeyError)
    text = encode_error(cause).traceback
    assert "in __post_init__" in text
    assert os.path.join("perdure", "codec.py") not in text


def test_what_is_no_stack_is_told_in_its_place() -> None:
    """An exception may have anything there, and its step must end."""
    info = encode_error(raised(Untraceable("bad")), declared=(Untraceable,))
    assert info.message == "bad"
    assert info.traceback == "<the traceback could not be written: AttributeError>"
    assert isinstance(rebuild_error(info, (Untraceable,)), Untraceable)
