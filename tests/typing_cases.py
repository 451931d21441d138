"""What type checkers must see of definitions, calls and events. Checked by mypy, never run.

Each `type: ignore` here is itself a test: mypy reports it as unused when the mistake passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_type

from perdure.definitions import Action, Call, Definer, Mutation, Query, Workflow
from perdure.events import Event, define_event
from perdure.manager import WorkflowManager
from perdure.records import Status
from perdure.runtime.contexts import ActionContext, MutationContext

manager = Definer()


@dataclass
class Profile:
    """What an action returns."""

    segment: str


@manager.query
def count(ctx: object, user_id: str) -> int:
    """A query, bare."""
    return len(user_id)


@manager.mutation
def send_email(ctx: object, user_id: str, kind: str = "welcome") -> int:
    """A mutation, bare."""
    return len(user_id + kind)


@manager.mutation(name="other")
def with_name(ctx: object, *, user_id: str) -> None:
    """A mutation with options."""


@manager.action
async def enrich(ctx: object, user_id: str) -> Profile:
    """An asynchronous action, bare."""
    return Profile(user_id)


@manager.action(retry=True, timeout=5, raises=LookupError)
async def enrich_more(ctx: object, user_id: str) -> Profile:
    """An asynchronous action with options."""
    return Profile(user_id)


@manager.action
def in_thread(ctx: object, numbers: list[int]) -> int:
    """A plain action, bare."""
    return sum(numbers)


@manager.action(raises=(LookupError, KeyError))
def in_thread_more(ctx: object, numbers: list[int]) -> int:
    """A plain action with options."""
    return sum(numbers)


@manager.workflow
async def onboard(step: object, user_id: str) -> str:
    """A workflow, bare."""
    return user_id


@manager.workflow(retry=False)
async def onboard_more(step: object, user_id: str) -> str:
    """A workflow with options."""
    return user_id


assert_type(count("u"), Call[int])
assert_type(send_email("u", kind="k"), Call[int])
assert_type(send_email("u"), Call[int])
assert_type(with_name(user_id="u"), Call[None])
assert_type(enrich("u"), Call[Profile])
assert_type(enrich_more("u"), Call[Profile])
assert_type(in_thread([1]), Call[int])
assert_type(in_thread_more([1]), Call[int])
assert_type(onboard("u"), Call[str])
assert_type(onboard_more("u"), Call[str])

a_query: Query[..., int] = count
a_mutation: Mutation[..., int] = send_email
an_action: Action[..., Profile] = enrich
a_workflow: Workflow[..., str] = onboard
wider: Call[object] = enrich("u")


async def mistakes() -> None:
    """What a type checker must refuse."""
    send_email(7)  # type: ignore[arg-type]
    send_email("u", knd="k")  # type: ignore[call-arg]
    send_email()  # type: ignore[call-arg]
    with_name("u")  # type: ignore[call-arg]
    enrich(7)  # type: ignore[arg-type]
    onboard_more(7)  # type: ignore[arg-type]
    narrower: Call[bool] = count("u")  # type: ignore[assignment]
    await narrower  # type: ignore[misc]

    @manager.workflow  # type: ignore[arg-type]
    def not_async(step: object) -> None:
        """A workflow must be `async def`."""

    @manager.query  # type: ignore[arg-type]
    def without_context() -> None:
        """The first parameter is the context."""


async def events(app: WorkflowManager, ctx: MutationContext, action: ActionContext) -> None:
    """The payload must fit the event, whoever sends it."""
    number, nothing, anything = (
        define_event("n", int),
        define_event("none", type(None)),
        define_event("any"),
    )
    assert_type(await app.send_event(number, workflow_id="w", value=1), str)
    assert_type(await app.send_event(number, workflow_id="w", error="no"), str)
    assert_type(await app.send_event(nothing, workflow_id="w"), str)
    assert_type(await app.send_event(anything, workflow_id="w"), str)
    assert_type(await app.send_event("n", workflow_id="w", value="any"), str)
    assert_type(await app.send_event(id="e"), str)
    assert_type(app.sync.send_event(number, id="e", value=1), str)
    assert_type(ctx.send_event(number, id="e", value=1), str)
    assert_type(await action.send_event(number, id="e", value=1), str)
    assert_type(action.sync.send_event(number, id="e", value=1), str)
    assert_type(await app.create_event(number, workflow_id="w"), str)
    await app.send_event(number, workflow_id="w", value="1")  # type: ignore[misc]
    app.sync.send_event(number, workflow_id="w", value="1")  # type: ignore[misc]
    ctx.send_event(number, workflow_id="w", value="1")  # type: ignore[misc]
    await action.send_event(number, workflow_id="w", value="1")  # type: ignore[misc]
    action.sync.send_event(number, workflow_id="w", value="1")  # type: ignore[misc]
    await app.send_event(number, workflow_id="w")  # type: ignore[arg-type]
    async for status in app.watch("w"):
        assert_type(status, Status)
    for status in app.sync.watch("w"):
        assert_type(status, Status)
    assert_type(await action.status("w"), Status)


assert_type(define_event("paid"), Event[Any])
assert_type(define_event("paid", int), Event[int])
assert_type(define_event("paid", Profile), Event[Profile])
assert_type(define_event("paid", list[int]), Event[list[int]])
