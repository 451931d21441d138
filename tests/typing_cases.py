"""What type checkers must see of definitions, calls and events. Checked by mypy, never run.

Each `type: ignore` here is itself a test: mypy reports it as unused when the mistake passes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, assert_type

from perdure.definitions import (
    Action,
    ActionCall,
    AsyncAction,
    Call,
    Definer,
    Mutation,
    MutationCall,
    Query,
    QueryCall,
    ThreadAction,
    Workflow,
    WorkflowCall,
)
from perdure.events import Event, define_event
from perdure.manager import WorkflowManager
from perdure.records import Page, Status, StepInfo
from perdure.runtime.contexts import ActionContext, MutationContext
from perdure.step import Step
from perdure_sim import Answer, Run, Simulation

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


@manager.action(raises=[LookupError, KeyError])
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


assert_type(count("u"), QueryCall[int])
assert_type(send_email("u", kind="k"), MutationCall[int])
assert_type(send_email("u"), MutationCall[int])
assert_type(with_name(user_id="u"), MutationCall[None])
assert_type(enrich("u"), ActionCall[Profile])
assert_type(enrich_more("u"), ActionCall[Profile])
assert_type(in_thread([1]), ActionCall[int])
assert_type(in_thread_more([1]), ActionCall[int])
assert_type(onboard("u"), WorkflowCall[str])
assert_type(onboard_more("u"), WorkflowCall[str])

assert_type(count.fn(None, "u"), int)
assert_type(send_email.fn(None, "u", kind="k"), int)
assert_type(with_name.fn(None, user_id="u"), None)
assert_type(in_thread.fn(None, [1]), int)
assert_type(in_thread_more.fn(None, [1]), int)
a_query: Query[..., int] = count
a_mutation: Mutation[..., int] = send_email
an_action: Action[..., Profile] = enrich
a_workflow: Workflow[..., str] = onboard
an_async_action: AsyncAction[..., Profile] = enrich_more
a_plain_action: ThreadAction[..., int] = in_thread_more
wider: Call[object] = enrich("u")
wider_action: ActionCall[object] = enrich("u")


async def bare_functions() -> None:
    """`fn` is the function itself, with another context in a unit test."""
    assert_type(await enrich.fn(None, "u"), Profile)
    assert_type(await enrich_more.fn(None, "u"), Profile)
    assert_type(await onboard.fn(None, "u"), str)
    assert_type(await onboard_more.fn(None, user_id="u"), str)
    count.fn(None, 7)  # type: ignore[arg-type]
    send_email.fn(None, "u", knd="k")  # type: ignore[call-arg]
    in_thread.fn(None)  # type: ignore[call-arg,misc]
    await enrich.fn(None, 7)  # type: ignore[arg-type]
    await onboard.fn(None, 7)  # type: ignore[arg-type]


async def steps(step: Step) -> None:
    """Each verb takes calls of its kind, and gives what the function returns."""
    assert_type(await step.run_query(count("u")), int)
    assert_type(await step.run_mutation(send_email("u")), int)
    assert_type(await step.run_action(enrich("u"), retry=True), Profile)
    assert_type(await step.run_action(in_thread([1])), int)
    assert_type(await step.run_workflow(onboard("u")), str)
    number = define_event("n", int)
    assert_type(await step.await_event(number), int)
    assert_type(await step.await_event(number, id="e", timeout=1), int)
    assert_type(await step.await_event("n"), Any)
    assert_type(await step.sleep(1), None)
    one, other = step.run_query(count("u")), step.run_action(enrich("u"))
    assert_type(one, asyncio.Future[int])
    assert_type(await asyncio.gather(one, other, step.sleep(1)), tuple[int, Profile, None])
    assert_type(await asyncio.wait_for(other, 1), Profile)
    assert_type(await asyncio.shield(other), Profile)
    done, _ = await asyncio.wait([one], timeout=1)
    assert_type(done, set[asyncio.Future[int]])
    for next_one in asyncio.as_completed([one]):
        assert_type(await next_one, int)
    assert_type(step.with_options(retry=False, unstable_args=True), Step)
    assert_type(await step.with_options(retry=True).run_action(enrich("u")), Profile)
    step.run_action(enrich("u"), inline=True)  # type: ignore[call-arg]
    step.run_query(count("u"), retry=True)  # type: ignore[call-arg]
    step.run_query(send_email("u"))  # type: ignore[arg-type]
    step.run_mutation(enrich("u"))  # type: ignore[arg-type]
    step.run_action(send_email("u"))  # type: ignore[arg-type]
    step.run_action(onboard("u"))  # type: ignore[arg-type]
    step.run_workflow(enrich("u"))  # type: ignore[arg-type]
    step.run_action(enrich)  # type: ignore[arg-type]


async def outside(app: WorkflowManager, ctx: MutationContext, action: ActionContext) -> None:
    """So does each of the manager's."""
    assert_type(await app.start(onboard("u")), str)
    assert_type(app.sync.start(onboard("u")), str)
    assert_type(ctx.start(onboard("u")), str)
    assert_type(await action.start(onboard("u")), str)
    assert_type(await app.run_query(count("u")), int)
    assert_type(app.sync.run_mutation(send_email("u")), int)
    assert_type(await action.run_mutation(with_name(user_id="u")), None)
    assert_type(action.sync.run_query(count("u")), int)
    await app.start(enrich("u"))  # type: ignore[arg-type]
    app.sync.start(send_email("u"))  # type: ignore[arg-type]
    ctx.start(count("u"))  # type: ignore[arg-type]
    await action.start(enrich("u"))  # type: ignore[arg-type]
    await app.run_query(send_email("u"))  # type: ignore[arg-type]
    await app.run_mutation(onboard("u"))  # type: ignore[arg-type]
    app.sync.run_query(enrich("u"))  # type: ignore[arg-type]
    action.sync.run_mutation(count("u"))  # type: ignore[arg-type]


def simulated(sim: Simulation) -> None:
    """And each of a simulation's, which is not awaited."""
    number, nothing = define_event("n", int), define_event("none", type(None))
    run = sim.start(onboard("u"))
    assert_type(run, Run[str])
    assert_type(run.value, str)
    assert_type(run.answer, Answer[str])
    assert_type(sim.send_event(number, workflow_id="w", value=1), Answer[str])
    assert_type(sim.send_event(number, workflow_id="w", error="no"), Answer[str])
    assert_type(sim.send_event(nothing, workflow_id="w"), Answer[str])
    assert_type(sim.send_event("n", workflow_id="w", value="any"), Answer[str])
    assert_type(sim.send_event(id="e").value, str | None)
    assert_type(sim.create_event(number, workflow_id="w"), str)
    assert_type(sim.cancel("w"), Answer[None])
    assert_type(sim.restart("w", from_step=enrich), Answer[None])
    assert_type(sim.cleanup("w").value, bool | None)
    assert_type(sim.transact(lambda over: over.start(onboard("u"))), Answer[str])
    assert_type(sim.status("w"), Status)
    assert_type(sim.list_steps("w"), Page[StepInfo])
    sim.start(enrich("u"))  # type: ignore[arg-type]
    sim.send_event(number, workflow_id="w", value="1")  # type: ignore[misc]
    sim.send_event(number, workflow_id="w")  # type: ignore[arg-type]
    sim.stub(send_email, returns=1)  # type: ignore[arg-type]
    sim.start(onboard("u"), on_complete=enrich)  # type: ignore[arg-type]


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
