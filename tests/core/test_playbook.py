"""The playbook itself: what it lets pass, what it refuses, and how it shows it."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from tests.core.playbook import NOW, At, Playbook, Ready, asked, attempt, fresh, row, run, waiting

from perdure.core.effects import SetTimer
from perdure.core.journal import Started
from perdure.core.messages import FactDelivered, StepAdmitted, StepDue


def test_a_script_that_fits_passes_and_leaves_the_state() -> None:
    """Writes, effects and ready steps in order pass; `state` is the one after them."""
    book = Playbook(fresh())
    assert (
        book
        >> FactDelivered(fact=Started())
        >> asked(run())
        << row(0, is_new=True, state="ready")
        << Ready(0)
    )
    assert book.state.position == 0
    assert book.state.next_number == 1


def test_a_difference_is_shown_as_a_transcript() -> None:
    """What was expected is marked with -, what came instead with +, what fits stays unmarked."""
    book = (
        Playbook(waiting(run(timeout_ms=5)))
        >> StepAdmitted(number=0, runner="w")
        << row(0, state="started")
        << attempt(0, of=2)
        << SetTimer(NOW + 5, 0)
    )
    with pytest.raises(AssertionError) as caught:
        bool(book)
    lines = str(caught.value).splitlines()[1:]
    assert lines[0] == "   >> StepAdmitted(number=0, runner='w')"
    assert lines[1] == "   << row(0, state='started')"
    assert lines[2] == "-  << attempt(0, of=2)"
    assert lines[3].startswith("+  << RunAttempt(")
    assert lines[4:] == [f"   << SetTimer(due_at={NOW + 5}, number=0)"]


def test_what_is_not_named_is_a_difference() -> None:
    """A message whose outputs are not all named fails, and so does one named too many."""
    silent = Playbook(waiting(run())) >> StepAdmitted(number=0, runner="w")
    with pytest.raises(AssertionError, match=r"\+  << PutStep"):
        bool(silent)
    too_many = Playbook(waiting(run())) >> StepDue(number=0) << Ready(0)
    with pytest.raises(AssertionError, match=r"-  << Ready\(number=0\)"):
        bool(too_many)


def test_the_order_matters() -> None:
    """The same outputs in another order are a difference."""
    book = (
        Playbook(waiting(run()))
        >> StepAdmitted(number=0, runner="w")
        << attempt(0)
        << row(0, state="started")
    )
    with pytest.raises(AssertionError):
        bool(book)


def test_a_partial_expectation_checks_the_fields_that_it_names() -> None:
    """`row` looks at number, newness and the named fields, and at nothing else."""
    for wrong in (row(1), row(0, is_new=True), row(0, attempt=2)):
        book = Playbook(waiting(run())) >> StepAdmitted(number=0, runner="w") << wrong
        book = book << attempt(0)
        with pytest.raises(AssertionError):
            bool(book)


def test_the_time_moves_with_at() -> None:
    """Messages after `At` are decided at its time."""
    book = Playbook(waiting(run(due_at=NOW + 9)))
    assert (
        book
        >> StepDue(number=0)
        >> At(NOW + 9)
        >> StepDue(number=0)
        << row(0, state="ready")
        << Ready(0)
    )
    assert book.now == NOW + 9


def test_a_script_goes_on_after_an_assertion() -> None:
    """What was asserted is not played again; a later transcript shows where it ended."""
    book = Playbook(waiting(run()))
    assert book >> StepAdmitted(number=0, runner="w") << row(0) << attempt(0)
    book = book >> StepDue(number=0) << Ready(7)
    with pytest.raises(AssertionError, match="asserted until here"):
        bool(book)


def test_one_that_is_left_unasserted_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that is dropped unplayed raises, which pytest turns into a failure."""
    raised: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: raised.append(report.exc_value))
    book = Playbook(fresh()) >> StepDue(number=0)
    del book
    assert [str(error) for error in raised] == [
        "a playbook was never asserted: it ends with StepDue(number=0)"
    ]


def test_only_messages_are_sent() -> None:
    """Something else after `>>`, or an expectation before any message, is a mistake."""
    with pytest.raises(AssertionError, match="not a message"):
        Playbook(fresh()) >> "StepDue"  # type: ignore[operator]
    with pytest.raises(AssertionError, match="name a message"):
        Playbook(fresh()) << Ready(0)
