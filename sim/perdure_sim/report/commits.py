"""What a commit means to people, beside what was stored before it.

The rows that it wrote say what is; that an outcome came, that a worker took something up, or that
a handler was told, shows only in how they differ from the last ones.
"""

from __future__ import annotations

from typing import Any, assert_never

import attrs
from msgspec.structs import replace

from perdure.core.commands import AwaitEvent, RunChild, RunStep, Sleep
from perdure.core.ids import EventId, WorkerId, WorkflowId
from perdure.core.journal import StepRecord
from perdure.core.messages import SentEvent
from perdure.core.outcomes import Canceled, Failed, Succeeded
from perdure.core.workflow import RESTARTED, WorkflowState
from perdure.store.base import InboxRow

from ..world.faulty_store import Write
from .wording import (
    call_text,
    command_text,
    cut,
    error_text,
    event_text,
    moment,
    outcome_text,
    step_text,
)

#: What is said of a commit that has not changed what is stored of a workflow.
NO_NEWS = "its row is written, with no news"

#: Of what one commit changes of a workflow, so much is said.
CHANGES_MAX = 10


@attrs.frozen(kw_only=True)
class Part:
    """What a line says about one workflow, or about none.

    Attributes:
        is_named: whether the text itself says which workflow it is.
        steps: the numbers of that workflow's steps that it is about.
    """

    workflow_id: WorkflowId | None
    text: str
    steps: tuple[int, ...] = ()
    is_named: bool = False


@attrs.define
class Known:
    """What has been written of one workflow, as far as the trace has been told."""

    state: WorkflowState
    steps: dict[int, StepRecord] = attrs.field(factory=dict)


class Past:
    """What was written by now, and which workers there were."""

    def __init__(self) -> None:
        self._workflows: dict[WorkflowId, Known] = {}
        self._workers: dict[WorkerId, str] = {}
        self._lives: dict[str, int] = {}

    def worker(self, worker_id: WorkerId | None) -> str:
        """A worker's life by the name of its process: "w0", "w0 (life 2)"."""
        if worker_id is None:
            return "nobody"
        name = self._workers.get(worker_id)
        if name is None:
            process = worker_id.partition(".")[0]
            life = self._lives[process] = self._lives.get(process, 0) + 1
            name = process if life == 1 else f"{process} (life {life})"
            self._workers[worker_id] = name
        return name

    def forget(self) -> None:
        """Nothing was written; the workers stay who they were."""
        self._workflows.clear()

    def known(self, state: WorkflowState) -> Known:
        """What is known of a workflow: at first, that it is there."""
        return self._workflows.setdefault(state.workflow_id, Known(state))

    def find(self, workflow_id: WorkflowId) -> Known | None:
        """What is known of a workflow, if anything is."""
        return self._workflows.get(workflow_id)

    def lose(self, workflow_id: WorkflowId) -> None:
        """A workflow was deleted: another may have its id."""
        self._workflows.pop(workflow_id, None)

    def owned_by(self, worker_id: WorkerId) -> list[WorkflowId]:
        """The workflows that a worker owns."""
        return [key for key, known in self._workflows.items() if known.state.owner == worker_id]


class CommitTold:
    """What one commit means, beside what was known before it.

    Attributes:
        children: see `Line`.
    """

    def __init__(self, past: Past, writes: list[Write]) -> None:
        self.children: list[tuple[WorkflowId, WorkflowId]] = []
        self._past = past
        self._writes = writes
        self._begins: dict[WorkflowId, list[str]] = {}
        self._ends: dict[WorkflowId, list[str]] = {}
        self._steps: dict[WorkflowId, dict[int, None]] = {}
        self._records: dict[tuple[WorkflowId, int], StepRecord] = {}
        self._general: list[str] = []
        self._consumed: dict[tuple[WorkflowId, int], EventId] = {}
        self._mutations: list[WorkflowId] = []
        self._touched: list[WorkflowId] = []

    def parts(self) -> list[Part]:
        for kind, what in self._writes:
            if kind == "consume":
                workflow_id, event_id, number = what
                self._consumed[workflow_id, number] = event_id
            elif kind == "ticks":
                for workflow_id, _, at in what:
                    self._begin(workflow_id, f"a timer of its code is due ({moment(at)})")
        for kind, what in self._writes:
            self._take(kind, what)
        for (workflow_id, _), record in self._records.items():
            self._step(workflow_id, record)
        for (workflow_id, number), event_id in self._consumed.items():
            self._begin(workflow_id, f"step {number} gets event {event_id}", number)
        parts = []
        for workflow_id in dict.fromkeys((*self._begins, *self._ends)):
            ends = dict.fromkeys(self._ends.get(workflow_id, ()))
            texts = [*self._begins.get(workflow_id, ()), *ends]
            if len(texts) > CHANGES_MAX:
                rest = len(texts) - CHANGES_MAX + 1
                texts = [*texts[: CHANGES_MAX - 2], f"… {rest:,} more changes …", texts[-1]]
            texts = texts or [NO_NEWS]
            steps = tuple(self._steps.get(workflow_id, ()))
            parts.append(Part(workflow_id=workflow_id, text="; ".join(texts), steps=steps))
        if self._general:
            parts.append(Part(workflow_id=None, text="; ".join(self._general)))
        if not parts:
            parts.append(Part(workflow_id=None, text="nothing that changes a workflow"))
        return parts

    def meddled(self) -> list[tuple[WorkflowId, WorkflowId]]:
        """See `Line`."""
        return [
            (touched, mutation)
            for mutation in dict.fromkeys(self._mutations)
            for touched in self._touched
            if touched != mutation and (touched, mutation) not in self.children
        ]

    def _take(self, kind: str, what: Any) -> None:
        match kind:
            case "insert":
                for state in what:
                    self._insert(state)
            case "update":
                for write in what:
                    self._update(write.state)
            case "steps":
                for write in what:  # of several of one step the last, when all are known
                    self._records[write.workflow_id, write.record.number] = write.record
            case "delete":
                for workflow_id in what:
                    self._delete(workflow_id)
            case "cut":
                pass  # told with its restart
            case "event":
                self._event(*what)
            case "consume" | "ticks":
                pass  # told with the step, and before all
            case "inbox":
                for row in what:
                    self._inbox(row)
            case "wake":
                workflow_id, _ = what
                self._end(workflow_id, "wakes it")
            case _:
                self._of_workers(kind, what)

    def _begin(self, workflow_id: WorkflowId, text: str, step: int | None = None) -> None:
        self._begins.setdefault(workflow_id, []).append(text)
        if step is not None:
            self._steps.setdefault(workflow_id, {})[step] = None

    def _end(self, workflow_id: WorkflowId, text: str) -> None:
        self._ends.setdefault(workflow_id, []).append(text)

    # --- workers

    def _of_workers(self, kind: str, what: Any) -> None:
        name = self._past.worker
        match kind:
            case "add_worker":
                self._general.append(f"signs on as {name(what)}")
            case "remove_worker":
                self._general.append(f"strikes {name(what)} off the list of workers")
            case "permits":
                worker_id, permits = what
                self._general.append(f"{name(worker_id)} holds {permits} permits")
            case "wanting":
                worker_id, wanting = what
                if wanting:
                    self._general.append(f"{name(worker_id)} lacks {wanting} permits")
            case "limit":
                self._general.append(f"{what} actions may run at once from now on")
            case "function":
                pass  # told with its step
            case "release":
                self._release(*what)
            case "epochs":
                first, count = what
                if count > 100:
                    self._general.append(f"reserves epochs {first} to {first + count - 1}")
            case _:
                self._general.append(kind)

    def _release(self, worker_id: WorkerId, now: int, is_dead: bool) -> None:
        name = self._past.worker(worker_id)
        why = f"its owner {name} is dead" if is_dead else f"its owner {name} gives it up"
        for workflow_id in self._past.owned_by(worker_id):
            known = self._past.find(workflow_id)
            assert known is not None
            known.state = replace(known.state, owner=None, wake_at=now)
            self._end(workflow_id, f"{why}; anybody may take it up now")
        if is_dead:
            self._general.append(f"finds that {name} is dead")

    # --- workflows

    def _insert(self, state: WorkflowState) -> None:
        workflow_id, header = state.workflow_id, state.header
        self._past.known(state)
        self._touched.append(workflow_id)
        text = f"is started as {call_text(header.name, header.arguments)}"
        if header.parent_id is not None:
            self.children.append((workflow_id, header.parent_id))
            text += f", a child of {header.parent_id}"
        self._begin(workflow_id, text)
        if state.owner is not None:
            self._end(workflow_id, f"owned by {self._past.worker(state.owner)}")
        elif state.wake_at is None or state.wake_at > header.created_at:
            when = "never" if state.wake_at is None else moment(state.wake_at)
            self._end(workflow_id, f"to begin at {when}")
        self._how_it_goes(state, state, is_new=True)

    def _update(self, state: WorkflowState) -> None:
        workflow_id = state.workflow_id
        known = self._past.find(workflow_id)
        old = state if known is None else known.state
        known = self._past.known(state)
        known.state = state
        if state.epoch != old.epoch:
            text = f"epoch {state.epoch}"
            if state.owner is not None and state.owner != old.owner:
                text = f"{self._past.worker(state.owner)} takes it up (epoch {state.epoch})"
            self._begin(workflow_id, text)
        self._how_it_goes(old, state)

    def _how_it_goes(self, old: WorkflowState, state: WorkflowState, is_new: bool = False) -> None:
        workflow_id = state.workflow_id
        if state.position >= 0 and (old.position < 0 or is_new):
            self._begin(workflow_id, "its code begins")
        self._begins.setdefault(workflow_id, [])
        if old.outcome is not None and state.outcome is None:
            self._restart(workflow_id, state.next_number)
        if state.outcome is not None and (old.outcome is None or old.outcome != state.outcome):
            self._touched.append(workflow_id)
            self._end(workflow_id, f"it ends: it {outcome_text(state.outcome)}")
        elif old.owner is not None and state.owner is None:
            when = "something comes for it" if state.wake_at is None else moment(state.wake_at)
            self._end(workflow_id, f"is put aside until {when}")
        if state.blocked not in (None, old.blocked) and state.blocked.error != RESTARTED:
            error = state.blocked.error
            self._end(workflow_id, f"it is blocked: {error_text(error)}")
        if state.timer_at is not None and state.timer_at != old.timer_at:
            self._end(workflow_id, f"a timer of its code is set for {moment(state.timer_at)}")

    def _restart(self, workflow_id: WorkflowId, number: int) -> None:
        """It had ended, and goes on: with all its steps, or with those before `number`."""
        self._touched.append(workflow_id)
        known = self._past.find(workflow_id)
        steps = {} if known is None else known.steps
        is_cut = any(kind == "cut" and what[0] == workflow_id for kind, what in self._writes)
        where = f"from step {number}" if is_cut else "with all that is known of it"
        self._end(workflow_id, f"is restarted {where}")
        for each in [each for each in steps if is_cut and each >= number]:
            del steps[each]

    def _delete(self, workflow_id: WorkflowId) -> None:
        self._touched.append(workflow_id)
        self._past.lose(workflow_id)
        self._end(workflow_id, "is deleted")

    def _event(self, workflow_id: WorkflowId, event: SentEvent) -> None:
        self._touched.append(workflow_id)
        what = "is created" if event.outcome is None else f"is sent ({event_text(event.outcome)})"
        self._begin(workflow_id, f"event {event.name} {what} as {event.event_id}")

    def _inbox(self, row: InboxRow) -> None:
        of = "" if row.number is None else f" of step {row.number}"
        for_whom = "its owner" if row.worker is None else self._past.worker(row.worker)
        match row.kind:
            case "attempt":
                text = f"the outcome{of}"
            case "child":
                text = f"the outcome of the child{of}"
            case "event":
                text = "word of an event"
            case "revoked":
                text = "word that others have changed it"
            case _:
                assert_never(row.kind)
        self._end(row.workflow_id, f"{text} is put into the inbox of {for_whom}")

    # --- steps

    def _step(self, workflow_id: WorkflowId, new: StepRecord) -> None:
        known = self._past.find(workflow_id)
        old = None if known is None else known.steps.get(new.number)
        if known is not None:
            known.steps[new.number] = new
        event_id = self._consumed.pop((workflow_id, new.number), None)
        texts = self._step_texts(old, new, event_id)
        self._begin(workflow_id, "; ".join(texts) or f"{step_text(new)} is written", new.number)
        command = new.command
        if isinstance(command, RunStep) and command.kind == "mutation" and new.outcome is not None:
            self._mutations.append(workflow_id)

    def _step_texts(
        self, old: StepRecord | None, new: StepRecord, event_id: EventId | None
    ) -> list[str]:
        name, texts = step_text(new), []
        has_begun = new.attempt > (0 if old is None else old.attempt)
        if old is None:
            asked = f"asks for step {new.number}: {command_text(new.command)}"
            if isinstance(new.command, RunChild) and new.child_id is not None:
                asked += f" as {new.child_id}"
            texts.append(asked)
        if has_begun and (new.outcome is None or new.attempt > 1):
            where = "" if new.runner is None else f" in {self._past.worker(new.runner)}"
            subject = "its" if old is None else f"{name}:"
            texts.append(f"{subject} attempt {new.attempt} is to run{where}")
        elif old is not None and new.attempt < old.attempt:
            texts.append(f"{name}: attempt {new.attempt}, after attempt {old.attempt}")
        if new.state == "backoff" and (old is None or old.state != "backoff"):
            due = "never" if new.due_at is None else moment(new.due_at)
            text = f"{name}: attempt {new.attempt} is over without success"
            texts.append(f"{text}, the next one is due at {due}")
        if old is not None and new.state == "ready" and old.state != "ready":
            texts.append(f"{name} is ready for the next attempt")
        is_settled = new.outcome is not None
        was_settled = old is not None and old.outcome is not None
        is_told = new.delivered_position is not None
        if is_settled and (not was_settled or old is None or old.outcome != new.outcome):
            subject = "it" if old is None else name
            is_news = not is_told and not isinstance(new.outcome, Canceled)
            late = " (its code is not told yet)" if is_news else ""
            texts.append(f"{subject} {_settled(new, event_id)}{late}")
        elif is_settled and is_told and (old is None or old.delivered_position is None):
            texts.append(f"its code is told that {name} {_settled(new, event_id)}")
        return texts


def _settled(record: StepRecord, event_id: EventId | None) -> str:
    """How a step ended, by its kind."""
    command, outcome = record.command, record.outcome
    if isinstance(outcome, Succeeded):
        if isinstance(command, Sleep):
            return "is over"
        if isinstance(command, AwaitEvent):
            return f"gets event {event_id or 'of that name'}: {cut(outcome.value)}"
    if isinstance(outcome, Failed) and isinstance(command, AwaitEvent):
        if outcome.error.type == "TimeoutError":
            return "timed out"
    return outcome_text(outcome)
