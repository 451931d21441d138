"""Outcomes to JSON and back."""

from __future__ import annotations

import math
from typing import Any

import pytest

from perdure.codec import TypeCodec
from perdure.core.outcomes import Canceled, Failed, Succeeded
from perdure.errors import ErrorInfo, ValidationError
from perdure.outcome_form import is_outcome
from perdure.records import Outcome


@pytest.mark.parametrize(
    "outcome", [Succeeded({"a": [1, None]}), Failed(ErrorInfo("KeyError", "'x'")), Canceled()]
)
def test_an_outcome_comes_back_as_it_was(outcome: Any) -> None:
    """A mutation may be given one, and so it can be called from outside like any other."""
    codec = TypeCodec.of(Outcome, where="w")
    assert codec.decode(codec.encode(outcome, where="w", limit=9999), where="w") == outcome


@pytest.mark.parametrize("wrong", [{"kind": "canceled"}, Succeeded, 5, Succeeded(math.nan)])
def test_what_is_no_outcome_is_refused(wrong: Any) -> None:
    """Also one whose value cannot be stored."""
    with pytest.raises(ValidationError):
        TypeCodec.of(Outcome, where="w").encode(wrong, where="w", limit=9999)
    with pytest.raises(ValidationError, match="expected an Outcome"):
        TypeCodec.of(Outcome, where="w").decode('{"kind":"other"}', where="w")


def test_the_three_classes_written_out_are_an_outcome() -> None:
    """Not fewer, not others, and not with a type for the value: that is a plain JSON value."""
    assert is_outcome(Outcome)
    assert is_outcome(Canceled | Failed | Succeeded[Any])
    assert is_outcome(Succeeded | Failed | Canceled)
    for other in (Any, Succeeded, Succeeded | Failed, Succeeded[int] | Failed | Canceled):
        assert not is_outcome(other)
