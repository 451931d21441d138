"""Outcomes to JSON and back."""

from __future__ import annotations

import math
from typing import Annotated, Any

import pytest

from perdure.codec import TypeCodec
from perdure.core.outcomes import Canceled, Failed, Succeeded
from perdure.errors import DefinitionError, ErrorInfo, ValidationError
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
    """Also under another name, and where it may be missing; other unions are none."""
    assert is_outcome(Outcome)
    assert is_outcome(Canceled | Failed | Succeeded[Any])
    assert is_outcome(Succeeded | Failed | Canceled)
    assert is_outcome(Annotated[Outcome, "how it ended"])
    assert is_outcome(Outcome | None)
    for other in (Any, Succeeded, int | None, int | str):
        assert not is_outcome(other)


@pytest.mark.parametrize(
    ("annotation", "problem"),
    [
        (Succeeded | Failed, "Canceled would not fit"),
        (Succeeded[Any] | None, "Failed and Canceled would not fit"),
        (
            Succeeded[int] | Failed | Canceled,
            r"Succeeded\[int\] is more than what an outcome holds",
        ),
        (Outcome | str, "str is more than what an outcome holds"),
    ],
)
def test_less_or_more_than_an_outcome_is_told(annotation: Any, problem: str) -> None:
    """Whoever gets an outcome gets any of the three, and a plain value."""
    with pytest.raises(DefinitionError, match=f"^here: .*{problem}: .* so write `Outcome`"):
        TypeCodec.of(annotation, where="here")


def test_an_outcome_may_be_missing() -> None:
    """None is kept as null; each outcome stays what it is."""
    codec = TypeCodec.of(Outcome | None, where="w")
    for value in (None, Succeeded(None), Canceled()):
        assert codec.decode(codec.encode(value, where="w", limit=99), where="w") == value
    with pytest.raises(ValidationError, match="expected an Outcome"):
        TypeCodec.of(Outcome, where="w").decode("null", where="w")
