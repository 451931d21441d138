"""Making and sending events inside one transaction, whoever owns the workflow."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from tests.runtime.harness import Answer, Rig

from perdure.core.messages import SentEvent
from perdure.core.outcomes import Canceled
from perdure.definitions import Definer
from perdure.errors import (
    EventAlreadySent,
    EventNotFound,
    StoreBusy,
    StoreError,
    WorkflowNotFound,
)
from perdure.runtime.contexts import MutationContext
from perdure.runtime.event_operations import missing
from perdure.runtime.orders import create_order, event_order
from perdure.runtime.scope import Scope
from perdure.step import Step

Make = Callable[..., Rig]
d = Definer()


@d.workflow
async def answer(step: Step, value: int) -> int:
    return value


@d.workflow
async def waiting(step: Step) -> object:
    return await step.await_event("go")


@d.workflow
async def twice(step: Step) -> list[object]:
    return [await step.await_event("go"), await step.await_event("go")]


@d.workflow
async def awaiting(step: Step) -> list[object]:
    """Waits for one id after the other, each sent to it under the name "next"."""
    heard: list[object] = []
    while event_id := await step.await_event("next"):
        try:
            heard.append(await step.await_event(id=event_id, timeout=3600))
        except (EventNotFound, TimeoutError) as error:
            heard.append(f"{type(error).__name__}: {error}")
    return heard


@d.workflow
async def both(step: Step, first: str, second: str) -> list[object]:
    """Two awaits at once; one that begins with "id:" is by id."""
    futures: list[asyncio.Future[object]] = [
        step.await_event(id=each.removeprefix("id:"))
        if each.startswith("id:")
        else step.await_event(each)
        for each in (await step.await_event("ids") if first == "?" else (first, second))
    ]
    return await asyncio.gather(*futures)


@d.mutation
def make(ctx: MutationContext, workflow_id: str) -> str:
    return ctx.create_event("go", workflow_id=workflow_id)


@d.workflow
async def maker(step: Step) -> object:
    """Creates its own event in its own transaction, and waits for it at once."""
    return await step.await_event(id=await step.run_mutation(make(step.workflow_id)))


def create(rig: Rig, workflow_id: str, name: str = "go") -> Answer:
    return rig.done(rig.ask(create_order(rig.env, name, workflow_id=workflow_id)))


def created(rig: Rig, workflow_id: str, name: str = "go") -> str:
    event_id: str = rig.value(create(rig, workflow_id, name))
    return event_id


def ask_send(rig: Rig, event: str | None = None, **options: Any) -> Answer:
    known = {"workflow_id": None, "id": None, "value": None, "error": None} | options
    return rig.ask(event_order(rig.env, event, **known))


def send(rig: Rig, event: str | None = None, **options: Any) -> Answer:
    return rig.done(ask_send(rig, event, **options))


def counted(rig: Rig) -> list[tuple[str, int, int]]:
    """Events by name: how many there are, and how many were sent."""
    return [
        (str(name), int(count), int(sent))
        for name, count, sent in rig.rows(
            "SELECT name, count(*), count(sequence) FROM perdure_events GROUP BY name ORDER BY name"
        )
    ]


# --- events


@pytest.mark.parametrize("sender", ["owner", "client", "other"])
@pytest.mark.parametrize("owned", [True, False])
def test_an_event_reaches_its_workflow(rigs: Make, sender: str, owned: bool) -> None:
    """Whoever owns it, and wherever it is sent from."""
    rig = rigs(d)
    other = rigs(d, works=sender == "other")
    workflow_id = rig.start(waiting())
    if owned:
        rig.rows(
            "UPDATE perdure_workflows SET owner = ?, wake_at = NULL, epoch = epoch + 9000",
            rig.worker_id,
        )
    source = rig if sender == "owner" else other
    source.value(source.done(source.ask_event("go", workflow_id, 5)))
    for each in (other, rig, other, rig):
        each.settle()
    assert rig.outcome(workflow_id) == 5


def test_events_are_consumed_once_in_their_order(rigs: Make) -> None:
    """The first await gets the first event, also if both were sent before."""
    rig = rigs(d)
    workflow_id = rig.start(twice())
    for value in (1, 2):
        rig.ask_event("go", workflow_id, value)
    rig.settle()
    assert rig.outcome(workflow_id) == [1, 2]


def test_an_event_to_an_ended_workflow_is_kept(rigs: Make) -> None:
    """It is stored, for a restart, and wakes nobody."""
    rig = rigs(d)
    workflow_id = rig.start(answer(1))
    rig.settle()
    rig.value(rig.done(rig.ask_event("go", workflow_id)))
    assert rig.rows("SELECT workflow_id, consumed_by FROM perdure_events") == [(workflow_id, None)]


def test_unknown_receivers_are_errors(rigs: Make) -> None:
    """An event for nobody is not stored."""
    rig = rigs(d)
    assert isinstance(rig.done(rig.ask_event("go", "nobody")).error, WorkflowNotFound)
    assert isinstance(send(rig, id="none").error, EventNotFound)
    assert isinstance(create(rig, "nobody").error, WorkflowNotFound)
    assert rig.rows("SELECT * FROM perdure_events") == []


def test_an_event_stored_by_a_doubtful_commit_is_delivered_once(rigs: Make) -> None:
    """The retry of a send that was stored after all sends nothing a second time."""
    rig = rigs(d)
    workflow_id = rig.start(twice())
    rig.settle()
    reply = rig.ask_event("go", workflow_id, 1)
    rig.store.fail("applied", StoreError("the connection broke"))
    rig.turn()
    rig.pass_time(10)
    assert reply.count == 1
    assert rig.rows("SELECT count(*) FROM perdure_events") == [(1,)]
    rig.done(rig.ask_event("go", workflow_id, 2))
    assert rig.outcome(workflow_id) == [1, 2]


# --- created events


@pytest.mark.parametrize("works", [True, False])
@pytest.mark.parametrize("owned", [True, False])
def test_a_created_event_is_awaited_and_sent_by_its_id(
    rigs: Make, works: bool, owned: bool
) -> None:
    """Made by any process, also while the workflow is in a worker's memory, which is not told."""
    rig, other = rigs(d), rigs(d, works=works)
    workflow_id = rig.start(awaiting())
    rig.settle()
    event_id = created(other, workflow_id)
    assert counted(rig) == [("go", 1, 0)]
    if owned:  # in the same turn as it is told of the id
        other.value(send(other, "next", workflow_id=workflow_id, value=event_id))
    else:
        rig.value(send(rig, "next", workflow_id=workflow_id, value=event_id))
    rig.settle()
    assert other.value(send(other, id=event_id, value=5)) == event_id
    rig.value(send(rig, "next", workflow_id=workflow_id))
    other.settle()
    rig.settle()
    assert rig.outcome(workflow_id) == [5]


def test_an_event_that_was_sent_first_waits_for_its_await(rigs: Make) -> None:
    """Created and sent before anybody waits; an await of its name would take it as well."""
    rig = rigs(d)
    workflow_id = rig.start(awaiting())
    event_id = created(rig, workflow_id)
    rig.value(send(rig, id=event_id, value="early"))
    rig.value(send(rig, "next", workflow_id=workflow_id, value=event_id))
    rig.value(send(rig, "next", workflow_id=workflow_id))
    assert rig.outcome(workflow_id) == ["early"]


def test_a_mutation_creates_an_event_for_its_own_workflow(rigs: Make) -> None:
    """In the transaction of the step, and known to the very next await."""
    rig = rigs(d)
    workflow_id = rig.start(maker())
    rig.settle()
    ((event_id,),) = rig.rows("SELECT id FROM perdure_events")
    rig.value(send(rig, id=event_id, value=8))
    assert rig.outcome(workflow_id) == 8


def test_an_event_of_another_workflow_cannot_be_awaited(rigs: Make) -> None:
    """The await fails, and says whose it is; the event is still its owner's."""
    rig = rigs(d)
    owner, thief = rig.start(awaiting()), rig.start(awaiting())
    event_id = created(rig, owner)
    for value in (event_id, "made up", None):
        rig.value(send(rig, "next", workflow_id=thief, value=value))
    foreign, unknown = rig.outcome(thief)
    assert foreign == f"EventNotFound: event {event_id!r} belongs to workflow {owner!r}"
    assert unknown.startswith("EventNotFound: event 'made up' is unknown")
    rig.value(send(rig, id=event_id, value="mine"))
    for value in (event_id, None):
        rig.value(send(rig, "next", workflow_id=owner, value=value))
    assert rig.outcome(owner) == ["mine"]


def test_a_consumed_event_cannot_be_awaited_again(rigs: Make) -> None:
    """Nor does its id wait for ever: the second await fails."""
    rig = rigs(d)
    workflow_id = rig.start(awaiting())
    event_id = created(rig, workflow_id)
    rig.value(send(rig, id=event_id, value="once"))
    for value in (event_id, event_id, None):
        rig.value(send(rig, "next", workflow_id=workflow_id, value=value))
    once, again = rig.outcome(workflow_id)
    assert once == "once"
    assert again == f"EventNotFound: event {event_id!r} was consumed by an earlier await"


def test_an_await_by_id_may_time_out_and_be_repeated(rigs: Make) -> None:
    """The event stays what it was: created."""
    rig = rigs(d)
    workflow_id = rig.start(awaiting())
    event_id = created(rig, workflow_id)
    rig.value(send(rig, "next", workflow_id=workflow_id, value=event_id))
    rig.pass_time(3_600_000)
    rig.value(send(rig, "next", workflow_id=workflow_id, value=event_id))
    rig.value(send(rig, id=event_id, value="late"))
    rig.value(send(rig, "next", workflow_id=workflow_id))
    assert rig.outcome(workflow_id) == [f"TimeoutError: no event {event_id!r} came in time", "late"]


@pytest.mark.parametrize("is_canceled", [True, False])
def test_events_of_an_ended_workflow_are_kept(rigs: Make, is_canceled: bool) -> None:
    """Made and sent after its end: for a restart."""
    rig = rigs(d)
    workflow_id = rig.start(waiting() if is_canceled else answer(1))
    if is_canceled:
        rig.done(rig.ask_cancel(workflow_id))
    rig.settle()
    event_id = created(rig, workflow_id)
    assert rig.value(send(rig, "go", workflow_id=workflow_id)) == event_id
    assert counted(rig) == [("go", 1, 1)]
    assert rig.outcome(workflow_id) == (Canceled() if is_canceled else 1)


# --- sending by id


def test_an_id_is_sent_once(rigs: Make) -> None:
    """A second send is told so, consumed or not; the first payload stands."""
    rig = rigs(d)
    workflow_id = rig.start(twice())
    event_id = created(rig, workflow_id)
    rig.value(send(rig, id=event_id, value="first"))
    for _ in range(2):
        error = send(rig, id=event_id, value="second").error
        assert isinstance(error, EventAlreadySent)
        assert f"event {event_id!r} (go) was sent already" in str(error)
        rig.settle()
    rig.value(send(rig, "go", workflow_id=workflow_id, value="third"))
    assert rig.outcome(workflow_id) == ["first", "third"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"event": "stop"}, "was created as 'go', not as 'stop'"),
        ({"workflow_id": "another"}, "belongs to workflow 'w', not to 'another'"),
    ],
)
def test_what_does_not_fit_the_id_is_refused(
    rigs: Make, options: dict[str, Any], reason: str
) -> None:
    """A name or an owner that is not the event's: nothing is sent."""
    rig = rigs(d)
    event_id = created(rig, rig.start(waiting(), id="w"))
    error = send(rig, id=event_id, **options).error
    assert isinstance(error, EventNotFound)
    assert reason in str(error)
    assert counted(rig) == [("go", 1, 0)]
    assert rig.value(send(rig, "go", id=event_id, workflow_id="w")) == event_id


# --- sending by name


def test_a_send_by_name_goes_to_the_oldest_created_event(rigs: Make) -> None:
    """In the order in which they were created, by whatever process, also within a millisecond."""
    rig, client = rigs(d), rigs(d, works=False)
    workflow_id = rig.start(answer(1))
    ids = [created(each, workflow_id) for each in (client, rig, client)]
    created(rig, workflow_id, "other")
    sent = [rig.value(send(rig, "go", workflow_id=workflow_id)) for _ in range(4)]
    assert sent[:3] == ids
    assert sent[3] not in ids
    assert counted(rig) == [("go", 4, 4), ("other", 1, 0)]


def test_a_send_by_name_goes_to_the_await_that_waits_longest(rigs: Make) -> None:
    """That one awaits an id: it gets it, though a created event is older."""
    rig = rigs(d)
    workflow_id = rig.start(both("?", ""))
    old, event_id = created(rig, workflow_id), created(rig, workflow_id)
    rig.value(send(rig, "ids", workflow_id=workflow_id, value=[f"id:{event_id}", "go"]))
    assert rig.value(send(rig, "go", workflow_id=workflow_id, value=1)) == event_id
    # Now the await of the name waits longest: it gets a new one, and the old id is kept.
    assert rig.value(send(rig, "go", workflow_id=workflow_id, value=2)) not in (old, event_id)
    assert rig.outcome(workflow_id) == [1, 2]
    assert counted(rig) == [("go", 3, 2), ("ids", 1, 1)]


def test_an_await_that_a_queued_event_is_for_is_served(rigs: Make) -> None:
    """Two sends by name in one turn: the first is for the await, the second for the created one."""
    rig, client = rigs(d), rigs(d, works=False)
    workflow_id = rig.start(both("?", ""))
    event_id = created(rig, workflow_id)
    rig.value(send(rig, "ids", workflow_id=workflow_id, value=["go", f"id:{event_id}"]))
    first = client.value(send(client, "go", workflow_id=workflow_id, value=1))
    assert first != event_id
    assert client.value(send(client, "go", workflow_id=workflow_id, value=2)) == event_id
    rig.settle()
    assert rig.outcome(workflow_id) == [1, 2]


def test_a_send_to_a_workflow_whose_rows_are_damaged_is_stored(rigs: Make) -> None:
    """It is blocked; what is sent to it is kept, and its damage is no trouble of the store's."""
    rig = rigs(d, works=False)
    workflow_id = rig.start(both("?", ""))
    event_id = created(rig, workflow_id)
    worker = rigs(d)
    worker.settle()
    assert worker.rows("UPDATE perdure_steps SET options = 'x' RETURNING number") == [(0,)]
    sent = rig.done(send(rig, "go", workflow_id=workflow_id, value=1))
    assert (sent.value, sent.error) == (event_id, None)


def naive(created: list[str], queued: list[str], waits: list[str]) -> str | None:
    """The created event that a send by name is for, by the rule as it is written down.

    What a step waits for is "name", or an event's id; all events are of that name.
    """
    left = list(waits)
    for event_id in queued:
        by_id = event_id if event_id in left else "name"
        if by_id in left:
            left.remove(by_id)
    heard = [wait for wait in left if wait == "name" or wait in created]
    if not heard:
        return created[0] if created else None
    return None if heard[0] == "name" else heard[0]


@d.mutation
def mixed(ctx: MutationContext, workflow_id: str, others: int) -> list[str]:
    for _ in range(others):
        ctx.create_event("other", workflow_id=workflow_id)
    return [ctx.create_event("e", workflow_id=workflow_id) for _ in range(4)]


@d.workflow
async def mixes(step: Step, plan: list[int | None]) -> int:
    """Waits for everything at a time: an event by its number, or (None) the name."""
    ids = await step.run_mutation(mixed(step.workflow_id, 1))
    waits = [
        step.await_event("e") if number is None else step.await_event(id=ids[number])
        for number in plan
    ]
    done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    return len(done)


@pytest.mark.parametrize("seed", range(20))
def test_a_send_by_name_is_for_whoever_waits_longest(rigs: Make, seed: int) -> None:
    """Of those that no queued event is for; whatever is awaited, and sent meanwhile."""
    chance = random.Random(seed)
    rig, client = rigs(d), rigs(d, works=False)
    plan: list[int | None] = [*chance.sample(range(4), chance.randrange(4))]
    for _ in range(chance.randrange(3)):
        plan.insert(chance.randrange(len(plan) + 1), None)
    workflow_id = rig.start(mixes([*plan]))
    rig.settle()
    rows = rig.rows("SELECT id FROM perdure_events WHERE name = 'e' ORDER BY made")
    created = [str(row[0]) for row in rows]
    waits = ["name" if number is None else created[number] for number in plan]
    queued: list[str] = []
    for _ in range(6):
        # The worker takes no turn meanwhile: all that is sent lies there.
        by_id = chance.random() < 0.3 and created
        wanted = chance.choice(created) if by_id else naive(created, queued, waits)
        where = {"id": wanted} if by_id else {"workflow_id": workflow_id}
        event_id = client.value(send(client, None if by_id else "e", **where))
        assert wanted in (event_id, None) and (wanted is not None or event_id not in created)
        queued.append(event_id)
        created = [each for each in created if each != event_id]


def test_two_awaits_of_one_name_each_get_their_own(rigs: Make) -> None:
    """Asked in one batch, and two events sent in one turn: first to first, and nobody gets both."""
    rig = rigs(d)
    workflow_id = rig.start(both("go", "go"))
    replies = [ask_send(rig, "go", workflow_id=workflow_id, value=n) for n in (1, 2)]
    rig.settle()
    assert len({rig.value(reply) for reply in replies}) == 2
    assert rig.outcome(workflow_id) == [1, 2]


def test_the_queue_is_in_the_order_of_the_sends(rigs: Make) -> None:
    """Not of the creation: the one that was created first is sent last."""
    rig = rigs(d)
    workflow_id = rig.start(twice())
    first, second = created(rig, workflow_id), created(rig, workflow_id)
    client = rigs(d, works=False)  # so that both lie there before the workflow goes on
    client.value(send(client, id=second, value="sent first"))
    client.value(send(client, id=first, value="sent last"))
    rig.settle()
    assert rig.outcome(workflow_id) == ["sent first", "sent last"]


# --- a commit whose outcome is not known


def doubtful(rig: Rig, reply: Answer) -> Any:
    """The answer of a request whose first commit is stored, and told to have failed."""
    rig.store.fail("applied", StoreBusy("somebody else writes"))
    rig.turn()
    rig.pass_time(10)
    assert reply.count == 1
    return rig.value(reply)


def test_a_create_that_was_stored_after_all(rigs: Make) -> None:
    """The retry gives the same id, and makes no second event."""
    rig = rigs(d)
    workflow_id = rig.start(waiting())
    rig.settle()
    order = create_order(rig.env, "go", workflow_id=workflow_id)
    assert doubtful(rig, rig.ask(order)) == order.event_id
    assert counted(rig) == [("go", 1, 0)]


@pytest.mark.parametrize("by_name", [True, False])
def test_a_send_to_a_created_event_that_was_stored_after_all(rigs: Make, by_name: bool) -> None:
    """The retry is no second send: neither `EventAlreadySent`, nor a new event."""
    rig = rigs(d)
    workflow_id = rig.start(twice())
    rig.settle()
    event_id = created(rig, rig.start(answer(0)))
    where = {"workflow_id": rig.rows("SELECT workflow_id FROM perdure_events")[0][0]}
    reply = ask_send(rig, "go", **where) if by_name else ask_send(rig, id=event_id)
    assert doubtful(rig, reply) == event_id
    assert counted(rig) == [("go", 1, 1)]
    assert rig.outcome(workflow_id) is None


def test_a_send_that_was_stored_and_consumed(rigs: Make) -> None:
    """The retry comes when the event has been taken: it is answered, and nothing is told."""
    rig = rigs(d)
    workflow_id = rig.start(maker())
    rig.settle()
    ((event_id,),) = rig.rows("SELECT id FROM perdure_events")
    order = event_order(rig.env, None, workflow_id=None, id=event_id, value=4, error=None)
    for _ in range(2):
        assert rig.value(rig.done(rig.ask(order))) == event_id
    assert rig.outcome(workflow_id) == 4


def test_what_can_be_awaited_is_not_missing(rigs: Make) -> None:
    """Created, or sent and not consumed, and the workflow's own."""
    rig = rigs(d)
    workflow_id = rig.start(answer(1))
    with rig.store.transaction() as tx:
        scope = Scope(env=rig.env, tx=tx, now=rig.clock.now)
        tx.put_event(workflow_id, SentEvent(event_id="e", name="go"), 1)
        assert missing(scope, workflow_id, "e") is None
        assert missing(scope, "another", "e") is not None
