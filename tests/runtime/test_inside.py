"""Marking code inside a handler or a transaction: there the manager would wait for itself."""

from __future__ import annotations

import pytest

from perdure.errors import CalledInside
from perdure.runtime.contexts import MutationContext
from perdure.runtime.inside import CONTEXT_VERBS, INSIDE, inside_transaction, refuse_inside


def test_outside_everything_is_allowed() -> None:
    """No mark, no objection; a mark goes when its code ends, also by an exception."""
    refuse_inside("start")
    with pytest.raises(KeyError):
        inside_transaction(lambda: dict[str, int]()["missing"])
    refuse_inside("start")


def test_inside_a_transaction_the_verb_of_the_context_is_named() -> None:
    """The error says what to write instead."""
    with pytest.raises(CalledInside, match=r"ctx\.cancel\(…\)"):
        inside_transaction(lambda: refuse_inside("cancel"))


@pytest.mark.parametrize(
    ("verb", "instead"),
    [
        ("run_mutation", r"ctx\.db.*definition\.fn\(ctx, …\)"),
        ("result", r"ctx\.db.*manager\.result when the function has returned"),
    ],
)
def test_a_verb_that_the_context_lacks_is_not_named(verb: str, instead: str) -> None:
    """The remedy is one that works."""
    with pytest.raises(CalledInside, match=instead):
        inside_transaction(lambda: refuse_inside(verb))


def test_each_verb_that_is_named_is_one_of_the_context() -> None:
    """The two lists do not drift apart."""
    assert all(hasattr(MutationContext, verb) for verb in CONTEXT_VERBS)


@pytest.mark.parametrize(
    ("verb", "instead"),
    [
        ("start", r"step\.run_workflow"),
        ("run_query", r"step\.run_query"),
        ("status", r"step\.run_… or step\.await_event"),
    ],
)
def test_inside_a_handler_the_step_is_named(verb: str, instead: str) -> None:
    """A replay would repeat the call."""
    token = INSIDE.set("handler")
    try:
        with pytest.raises(CalledInside, match=instead):
            refuse_inside(verb)
    finally:
        INSIDE.reset(token)


def test_the_value_is_passed_on() -> None:
    """What the marked function returns is returned."""
    assert inside_transaction(lambda: 5) == 5
