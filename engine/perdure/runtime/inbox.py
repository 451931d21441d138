"""The inbox: messages that other processes, or earlier transactions, left in the store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from perdure.core.ids import WorkflowId
from perdure.core.messages import (
    AttemptEnded,
    AttemptLost,
    AttemptStarted,
    ChildEnded,
    EventSent,
    Message,
    SentEvent,
)
from perdure.core.outcomes import Canceled
from perdure.sometimes import sometimes
from perdure.store.base import InboxRow, Store, Transaction

from .operations import decode_inbox, encode_inbox
from .scope import Env, Scope


class Letter(msgspec.Struct, frozen=True):
    """A row of the inbox as a message; `message` is None where it was revoked or is void."""

    row_id: int
    workflow_id: WorkflowId
    message: Message | None
    is_revoked: bool = False


class PassOn(msgspec.Struct, frozen=True):
    """A request: put outcomes of attempts that ran here into the inbox of whoever owns them now.

    `messages` are the same, should the workflow become ours before it is carried out.
    """

    workflow_id: WorkflowId
    messages: tuple[Message, ...]
    rows: tuple[InboxRow, ...]

    def execute(self, scope: Scope) -> None:
        """Carry it out; what nobody waits for any more is dropped."""
        states = {
            state.workflow_id: state
            for state in scope.tx.states({row.workflow_id for row in self.rows})
        }
        for row in self.rows:
            state = states.get(row.workflow_id)
            if state is not None and state.status == "in_progress":
                scope.tx.put_inbox([row])
                scope.tx.wake(row.workflow_id, scope.now)
        scope.after.look_claims = True
        scope.after.look_inbox = True


class InboxReader:
    """Reads what is for one worker. A row is deleted in the commit that took it in.

    `look` says that there may be something.
    """

    def __init__(self, env: Env, store: Store) -> None:
        self._env = env
        self._store = store
        self.look = True
        self._taken: set[int] = set()
        self._void: set[int] = set()

    def read(self, *, has_changed: bool) -> list[Letter]:
        """What has come since; rows that are being worked on are not given twice."""
        if not (self.look or has_changed):
            return []
        self.look = False
        assert self._env.worker_id is not None
        rows = self._store.reader().inbox_of(self._env.worker_id)
        letters = []
        for row in rows:
            if row.row_id not in self._taken and row.row_id not in self._void:
                letter = self._letter(row)
                if letter.message is None:
                    self._void.add(row.row_id)
                else:
                    self._taken.add(row.row_id)
                if letter.message is not None or letter.is_revoked:
                    letters.append(letter)
        return letters

    def _letter(self, row: InboxRow) -> Letter:
        if row.kind == "revoked":
            sometimes("a worker reads that a workflow is no longer its own")
            return Letter(row.row_id, row.workflow_id, None, is_revoked=True)
        return Letter(row.row_id, row.workflow_id, self._message(row))

    def _message(self, row: InboxRow) -> Message | None:
        if row.kind == "event":
            event_id = msgspec.json.decode(row.body)
            found = self._store.reader().find_event(event_id)
            if found is None or found[2]:
                sometimes("an event in the inbox has been consumed already")
                return None
            return EventSent(event=found[1])
        assert row.number is not None
        body, outcome = decode_inbox(row.body)
        if row.kind == "child":
            return ChildEnded(
                number=row.number,
                child_id=body.child_id or "",
                outcome=outcome,
                accepted_at=row.accepted_at,
            )
        if body.runner is not None:
            return AttemptStarted(
                number=row.number,
                epoch=body.epoch,
                attempt=body.attempt,
                runner=body.runner,
                started_at=row.accepted_at,
            )
        if body.is_lost:
            return AttemptLost(
                number=row.number,
                epoch=body.epoch,
                attempt=body.attempt,
                accepted_at=row.accepted_at,
            )
        return AttemptEnded(
            number=row.number,
            epoch=body.epoch,
            attempt=body.attempt,
            outcome=outcome,
            accepted_at=row.accepted_at,
            is_retryable=body.is_retryable,
        )

    @property
    def has_void(self) -> bool:
        """Whether `in_commit` has something to do."""
        return bool(self._void)

    def in_commit(self, tx: Transaction) -> None:
        """Delete what had nothing to say."""
        if self._void:
            tx.delete_inbox(sorted(self._void))

    def committed(self) -> None:
        """The rows that were taken in are deleted."""
        self._taken.clear()
        self._void.clear()

    def reset(self) -> None:
        """No row is being worked on: read all of them again."""
        self._taken.clear()
        self._void.clear()
        self.look = True

    def release(self, row_ids: Iterable[int]) -> None:
        """These rows were not taken in after all: read them again."""
        released = set(row_ids)
        if released:
            self._taken -= released
            self._void -= released
            self.look = True

    def pass_on(self, workflow_id: WorkflowId, messages: Sequence[Message]) -> PassOn | None:
        """What of these messages, for a workflow that is not ours, its owner must get."""
        rows: list[InboxRow] = []
        for message in messages:
            match message:
                case AttemptEnded():
                    sometimes("the outcome of an attempt is passed on to another worker")
                    rows.append(_attempt_row(workflow_id, message))
                case AttemptLost():
                    rows.append(_lost_row(workflow_id, message))
                case EventSent():
                    rows.append(_event_row(workflow_id, message.event))
                case _:
                    pass  # derived from the state, or still in the inbox
        return PassOn(workflow_id, tuple(messages), tuple(rows)) if rows else None


def _lost_row(workflow_id: WorkflowId, message: AttemptLost) -> InboxRow:
    body = encode_inbox(Canceled(), epoch=message.epoch, attempt=message.attempt, is_lost=True)
    return InboxRow(
        workflow_id=workflow_id,
        kind="attempt",
        body=body,
        number=message.number,
        accepted_at=message.accepted_at,
    )


def _event_row(workflow_id: WorkflowId, event: SentEvent) -> InboxRow:
    return InboxRow(
        workflow_id=workflow_id,
        kind="event",
        body=msgspec.json.encode(event.event_id).decode(),
        accepted_at=event.sent_at or 0,
    )


def _attempt_row(workflow_id: WorkflowId, message: AttemptEnded) -> InboxRow:
    body: Any = encode_inbox(
        message.outcome,
        epoch=message.epoch,
        attempt=message.attempt,
        is_retryable=message.is_retryable,
    )
    return InboxRow(
        workflow_id=workflow_id,
        kind="attempt",
        body=body,
        number=message.number,
        accepted_at=message.accepted_at,
    )
