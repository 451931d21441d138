"""What callers give, checked and encoded before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NewType

import pytest
from tests.runtime.harness import NOW, Rig

from perdure.core.outcomes import Canceled, Failed, Succeeded
from perdure.definitions import Definer
from perdure.errors import DefinitionError, LimitExceeded, ValidationError
from perdure.events import define_event
from perdure.records import Outcome
from perdure.runtime.contexts import MutationContext
from perdure.runtime.functions import context_codec
from perdure.runtime.operations import StartOrder
from perdure.runtime.orders import checked_filter, checked_id, event_order, start_order
from perdure.step import Step

Make = Callable[..., Rig]
d = Definer()
stranger = Definer()
WorkflowId = NewType("WorkflowId", str)
number = define_event("number", int)


@d.workflow
async def flow(step: Step, n: int, text: str = "default") -> None:
    pass


@d.mutation
def ended(ctx: MutationContext, workflow_id: str, outcome: Outcome, context: list[int]) -> None:
    pass


@d.mutation
def ended_plainly(ctx: MutationContext, workflow_id: str, outcome: Outcome) -> None:
    pass


@d.mutation
def unfit(ctx: MutationContext, one: int) -> None:
    pass


@d.mutation
def with_number(ctx: MutationContext, workflow_id: int, outcome: Outcome) -> None:
    pass


@d.mutation
def with_dict(ctx: MutationContext, workflow_id: str, outcome: dict[str, Any]) -> None:
    pass


@d.mutation
def by_keyword(
    ctx: MutationContext, workflow_id: str, outcome: Outcome, *, context: list[int]
) -> None:
    pass


@d.mutation
def one_class(ctx: MutationContext, workflow_id: str, outcome: str | None, context: Any) -> None:
    pass


@d.mutation
def written_out(
    ctx: MutationContext, workflow_id: WorkflowId, outcome: Succeeded[Any] | Failed | Canceled
) -> None:
    pass


@d.mutation
def untyped(ctx, workflow_id, outcome, context=None):  # type: ignore[no-untyped-def]
    pass


@d.mutation
def with_none(
    ctx: MutationContext, workflow_id: str | None, outcome: Outcome | None = None, context: Any = 0
) -> None:
    pass


@d.mutation
def with_objects(
    ctx: MutationContext, workflow_id: object, outcome: object, context: object
) -> None:
    pass


@stranger.mutation(name="ended")
def foreign(ctx: MutationContext, workflow_id: str, outcome: Outcome) -> None:
    pass


def order(rig: Rig, call: Any, **options: Any) -> StartOrder:
    known = dict.fromkeys(("id", "on_complete", "context", "run_after", "run_at")) | options
    return start_order(rig.env, call, now=NOW, **known)


def test_a_start_order_holds_everything_encoded(rigs: Make) -> None:
    """Arguments with their defaults, the context as its parameter's type, the time in ms."""
    rig = rigs(d)
    made = order(rig, flow(1), id="w", on_complete=ended, context=[1, 2], run_after=5)
    assert made == StartOrder(
        workflow_id="w",
        name="flow",
        arguments='{"n":1,"text":"default"}',
        start_at=NOW + 5000,
        has_own_id=True,
        on_complete="ended",
        context="[1,2]",
    )
    plain = order(rig, flow(1), context={"any": "thing"})
    assert (plain.start_at, plain.has_own_id, plain.context) == (NOW, False, '{"any":"thing"}')


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"on_complete": ended, "context": ["text"]}, ValidationError),
        ({"on_complete": ended_plainly, "context": object()}, ValidationError),
        ({"on_complete": unfit}, DefinitionError),
        ({"on_complete": foreign}, DefinitionError),
        ({"on_complete": flow}, TypeError),
        ({"id": "x" * 201}, LimitExceeded),
        ({"id": "a\nb"}, ValueError),
        ({"context": "x" * 2_000_000}, LimitExceeded),
    ],
)
def test_bad_starts(rigs: Make, options: dict[str, Any], error: type[Exception]) -> None:
    """Each is refused with an error that says what to give."""
    with pytest.raises(error):
        order(rigs(d), flow(1), **options)


@pytest.mark.parametrize(
    ("on_complete", "message"),
    [
        (unfit, r"its parameters are \(ctx, one\)"),
        (with_number, "its parameter `workflow_id` is annotated with int"),
        (with_dict, r"its parameter `outcome` is annotated with dict\[str, "),
        (one_class, r"its parameter `outcome` is annotated with str \| None"),
        (by_keyword, "its parameters are keyword-only: context"),
    ],
)
def test_an_on_complete_that_could_not_be_called_is_refused_at_the_start(
    rigs: Make, on_complete: Any, message: str
) -> None:
    """By then the workflow would have ended; nothing of it is written."""
    remedy = r".*, but an on_complete takes \(ctx, workflow_id: str, outcome: Outcome, context\)"
    with pytest.raises(DefinitionError, match=message + remedy):
        order(rigs(d), flow(1), on_complete=on_complete, context=[1])


@pytest.mark.parametrize("on_complete", [written_out, untyped, with_none, with_objects])
def test_an_on_complete_may_be_annotated_in_other_words(rigs: Make, on_complete: Any) -> None:
    """A name for text, the three classes of an outcome, with None, or no annotation at all."""
    assert order(rigs(d), flow(1), on_complete=on_complete).on_complete == on_complete.name


def test_the_context_of_an_on_complete() -> None:
    """Its third parameter has a codec; without one there is none."""
    codec = context_codec(ended)
    assert codec is not None
    assert codec.decode("[1]", where="here") == [1]
    assert context_codec(ended_plainly) is None


def event(rig: Rig, *args: Any, **options: Any) -> Any:
    known: dict[str, Any] = dict.fromkeys(("workflow_id", "id", "value", "error")) | options
    return event_order(rig.env, *args, **known)


def test_event_orders(rigs: Make) -> None:
    """Typed by their definition, plain by name, or an error."""
    rig = rigs(d)
    typed = event(rig, number, workflow_id="w", value=5)
    assert (typed.name, typed.outcome, typed.has_own_id) == ("number", Succeeded("5"), False)
    by_id = event(rig, None, id="e", value=[1])
    assert (by_id.event_id, by_id.outcome, by_id.has_own_id) == ("e", Succeeded("[1]"), True)
    failed = event(rig, "name", workflow_id="w", error="sorry")
    assert isinstance(failed.outcome, Failed)
    assert (failed.outcome.error.type, failed.outcome.error.message) == ("EventError", "sorry")


@pytest.mark.parametrize(
    ("event_given", "options", "error"),
    [
        (None, {}, ValueError),
        ("name", {}, ValueError),
        (None, {"workflow_id": "w"}, ValueError),
        ("", {"workflow_id": "w"}, ValueError),
        ("name", {"workflow_id": 5}, TypeError),
        ("name", {"workflow_id": "w", "error": 5}, TypeError),
        ("name", {"workflow_id": "w", "error": "x", "value": 1}, ValueError),
        (number, {"workflow_id": "w", "value": "5"}, ValidationError),
        ("name", {"workflow_id": "w", "value": float("nan")}, ValidationError),
    ],
)
def test_bad_events(
    rigs: Make, event_given: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    """Each is refused before anything is stored."""
    with pytest.raises(error):
        event(rigs(d), event_given, **options)


def test_a_coroutine_is_no_id() -> None:
    """The most common slip: a start that was not awaited."""
    assert checked_id("w") == "w"
    with pytest.raises(TypeError, match="the id that start"):
        checked_id(None)


@pytest.mark.parametrize("text", ["\ud800", "a\udfff"])
def test_half_a_surrogate_pair_is_refused(text: str) -> None:
    """No store could keep it; the error says which argument it was."""
    for check, what in ((checked_id, "workflow_id="), (checked_filter, "name=")):
        with pytest.raises(ValueError, match=what):
            check(text)


def test_a_nul_character_is_refused() -> None:
    """PostgreSQL cannot even look for it."""
    with pytest.raises(ValueError, match=r"workflow_id='a\\x00': a NUL character"):
        checked_id("a\0")


def test_a_filter_is_a_text_or_nothing() -> None:
    """None asks for workflows of every name."""
    assert checked_filter(None) is None
    assert checked_filter("flow") == "flow"
    with pytest.raises(TypeError, match="name=5"):
        checked_filter(5)
