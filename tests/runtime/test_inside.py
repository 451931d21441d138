"""Marking code inside a handler or a transaction: there the manager would wait for itself."""

from __future__ import annotations

import pytest

from perdure.errors import CalledInside
from perdure.runtime.inside import INSIDE, inside_transaction, refuse_inside


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


def test_inside_a_handler_the_step_is_named() -> None:
    """A replay would repeat the call."""
    token = INSIDE.set("handler")
    try:
        with pytest.raises(CalledInside, match=r"step\.run_"):
            refuse_inside("start")
    finally:
        INSIDE.reset(token)


def test_the_value_is_passed_on() -> None:
    """What the marked function returns is returned."""
    assert inside_transaction(lambda: 5) == 5
