"""What is kept of an exception, and how a declared one comes back."""

from __future__ import annotations

import os
from dataclasses import dataclass

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
    """Where JSON does not keep what was raised, or the class has changed since, it is said why."""
    unstorable = encode_error(PaymentError(object()), declared=(PaymentError,))
    assert rebuild_error(unstorable, (PaymentError,)) == (
        "PaymentError is declared with raises=, but cannot be raised again: its args: a value of"
        " type object cannot be stored as JSON at $: <object object>. Give it attributes that can"
        " be stored, with the names of the parameters of its __init__, or a __reduce__ that"
        " returns (PaymentError, (…))"
    )
    changed = rebuild_error(ErrorInfo("Picky", "", "", '["1: x"]'), (Picky,))
    assert isinstance(changed, str)
    assert "its class refuses what was stored of it, with TypeError" in changed
    assert rebuild_error(ErrorInfo("Other", "", "", "[]"), (Picky,)) is None


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


@pytest.mark.parametrize("method", ["__reduce__", "__str__"])
def test_an_error_whose_class_exits_is_kept(method: str) -> None:
    """What its class raises must not be an `Exception`: the attempt is reported all the same."""

    def leave(self: Exception) -> object:
        raise SystemExit(3)

    cls = type("Leaving", (Exception,), {method: leave})
    assert encode_error(cls("x"), declared=(cls,)).type == "Leaving"
