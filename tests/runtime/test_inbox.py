"""The inbox: rows from other processes, each taken in once, and deleted with what it led to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.runtime.harness import NOW, Rig

from perdure.core.messages import (
    AttemptEnded,
    AttemptLost,
    ChildEnded,
    EventSent,
    Message,
    SentEvent,
    StepDue,
)
from perdure.core.outcomes import Canceled, Succeeded
from perdure.definitions import Definer
from perdure.errors import StoreBusy
from perdure.runtime.contexts import ActionContext
from perdure.runtime.inbox import InboxReader
from perdure.step import Step
from perdure.store.base import InboxRow

Make = Callable[..., Rig]
d = Definer()


@d.action
def work(ctx: ActionContext) -> object:
    raise NotImplementedError("the rig's runner runs nothing")


@d.workflow
async def working(step: Step) -> object:
    return await step.run_action(work())


@d.workflow
async def listening(step: Step) -> object:
    """Awaits an event, with something running so that it keeps its owner."""
    action = step.run_action(work())
    event = await step.await_event("go")
    await action
    return event


def put(rig: Rig, **fields: object) -> None:
    with rig.store.transaction() as tx:
        tx.put_inbox([InboxRow(accepted_at=NOW, **fields)])  # type: ignore[arg-type]


def test_a_row_is_given_once(rigs: Make) -> None:
    """A row that is being worked on is not read again; a released one is."""
    rig, client = rigs(d), rigs(d, works=False)
    workflow_id = rig.start(listening())
    client.done(client.ask_event("go", workflow_id, 1))
    reader = InboxReader(rig.env, rig.store)
    (letter,) = reader.read(has_changed=False)
    assert isinstance(letter.message, EventSent)
    assert reader.read(has_changed=True) == []
    reader.release([letter.row_id])
    assert reader.read(has_changed=False) == [letter]


def test_a_revocation_that_was_not_taken_in_is_given_again(rigs: Make) -> None:
    """Its row carries no message, yet it must not be lost, nor be deleted unheard."""
    rig = rigs(d)
    workflow_id = rig.start(working())
    put(rig, workflow_id=workflow_id, kind="revoked", body="null", worker=rig.worker_id)
    reader = InboxReader(rig.env, rig.store)
    (letter,) = reader.read(has_changed=True)
    assert letter.is_revoked
    reader.release([letter.row_id])
    with rig.store.transaction() as tx:
        reader.in_commit(tx)
    assert rig.rows("SELECT kind FROM perdure_inbox") == [("revoked",)]
    assert reader.read(has_changed=False) == [letter]


def test_nothing_is_read_without_a_reason(rigs: Make) -> None:
    """Only after another process committed, or when it is said that there may be something."""
    rig = rigs(d)
    reader = InboxReader(rig.env, rig.store)
    reader.read(has_changed=False)
    workflow_id = rig.start(listening())
    put(rig, workflow_id=workflow_id, kind="revoked", body="null", worker=rig.worker_id)
    assert reader.read(has_changed=False) == []
    assert len(reader.read(has_changed=True)) == 1


def test_rows_are_deleted_with_their_commit(rigs: Make) -> None:
    """A row whose commit failed is still there, and is taken in by the next one: once."""
    rig, client = rigs(d), rigs(d, works=False)
    workflow_id = rig.start(listening())
    rig.settle()
    client.done(client.ask_event("go", workflow_id, 5))
    rig.store.fail("commit", StoreBusy("locked"))
    rig.turn()
    assert rig.rows("SELECT kind FROM perdure_inbox") == [("event",)]
    rig.pass_time(10)
    assert rig.rows("SELECT kind FROM perdure_inbox") == []
    rig.runner.succeed()
    rig.settle()
    assert rig.outcome(workflow_id) == 5


def test_a_row_stored_by_a_doubtful_commit_counts_once(rigs: Make) -> None:
    """The event was consumed by a commit that seemed to fail: it is not consumed again."""
    rig, client = rigs(d), rigs(d, works=False)
    workflow_id = rig.start(listening())
    rig.settle()
    client.done(client.ask_event("go", workflow_id, 5))
    rig.store.fail("applied", StoreBusy("locked"))
    rig.turn()
    rig.pass_time(10)
    assert rig.rows("SELECT consumed_by IS NOT NULL FROM perdure_events") == [(1,)]
    rig.runner.succeed()
    rig.settle()
    assert rig.outcome(workflow_id) == 5


def cancel_by_hand(rig: Rig) -> None:
    """What it had started is over, on record."""
    rig.rows("UPDATE perdure_steps SET state = 'settled', outcome = 'canceled', runner = NULL")


def test_a_revoked_workflow_is_dropped(rigs: Make) -> None:
    """The actor goes, its attempts are told, and the row goes with the next commit."""
    rig = rigs(d)
    workflow_id = rig.start(working())
    rig.settle()
    # Whoever takes it out of our hands gives it another epoch.
    rig.rows("UPDATE perdure_workflows SET epoch = epoch + 1000, owner = NULL")
    cancel_by_hand(rig)
    put(rig, workflow_id=workflow_id, kind="revoked", body="null", worker=rig.worker_id)
    rig.worker._inbox.look = True
    rig.settle()
    assert rig.runner.cancelled == rig.runner.started
    assert workflow_id not in rig.worker.actors
    rig.start(working())
    assert rig.rows("SELECT * FROM perdure_inbox") == []


def test_the_attempts_of_a_revoked_workflow_are_told_though_it_was_dropped(rigs: Make) -> None:
    """An actor is only a cache, and what the workflow has started runs on without it."""
    rig = rigs(d)
    workflow_id = rig.start(working())
    rig.settle()
    rig.worker.actors.drop(workflow_id)
    cancel_by_hand(rig)
    put(rig, workflow_id=workflow_id, kind="revoked", body="null", worker=rig.worker_id)
    rig.worker._inbox.look = True
    rig.settle()
    assert rig.runner.cancelled == rig.runner.started


def test_an_event_that_was_consumed_already_is_void(rigs: Make) -> None:
    """It came with the workflow when that was loaded; its row has nothing more to say."""
    rig, client = rigs(d), rigs(d, works=False)
    workflow_id = rig.start(listening())
    rig.settle()
    rig.worker.actors.drop(workflow_id)  # so that the event comes with the rows
    client.done(client.ask_event("go", workflow_id, 5))
    rig.worker.actors.runnable[workflow_id] = None
    rig.settle()
    rig.runner.succeed()
    rig.settle()
    assert rig.outcome(workflow_id) == 5
    assert rig.rows("SELECT * FROM perdure_inbox") == []


ENDED = AttemptEnded(
    number=1, epoch=2, attempt=3, outcome=Succeeded("4"), accepted_at=5, is_retryable=False
)
LOST = AttemptLost(number=1, epoch=2, attempt=3, accepted_at=5)
EVENT = EventSent(event=SentEvent(event_id="e", name="go", sequence=1, sent_at=5))
CHILD = ChildEnded(number=1, child_id="c", outcome=Canceled(), accepted_at=5)


@pytest.mark.parametrize(
    ("messages", "kinds"),
    [
        ([ENDED], ["attempt"]),
        ([LOST], ["attempt"]),
        ([EVENT], ["event"]),
        ([CHILD, StepDue(number=1)], []),  # still in the inbox; derived from the state
        ([ENDED, CHILD, EVENT], ["attempt", "event"]),
    ],
)
def test_what_the_new_owner_must_get(rigs: Make, messages: list[Message], kinds: list[str]) -> None:
    """Of the messages for a workflow that is not ours any more: what nobody would tell again."""
    rig = rigs(d)
    request = InboxReader(rig.env, rig.store).pass_on("w", messages)
    assert [row.kind for row in ([] if request is None else request.rows)] == kinds


@pytest.mark.parametrize("message", [ENDED, LOST])
def test_what_is_passed_on_arrives_unchanged(rigs: Make, message: Message) -> None:
    """The owner reads the very message that the runner's worker could not use."""
    rig, client = rigs(d), rigs(d, works=False)
    workflow_id = rig.start(working())
    reader = InboxReader(rig.env, rig.store)
    client.done(client.ask(reader.pass_on(workflow_id, [message])))
    assert [letter.message for letter in reader.read(has_changed=True)] == [message]


def test_nothing_is_passed_on_to_the_ended(rigs: Make) -> None:
    """A row for a workflow that has ended would lie there for ever."""
    rig = rigs(d)
    reader = InboxReader(rig.env, rig.store)
    request = reader.pass_on("nobody", [ENDED])
    rig.value(rig.done(rig.ask(request)))
    assert rig.rows("SELECT * FROM perdure_inbox") == []
