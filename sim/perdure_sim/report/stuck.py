"""Why nothing can move: of each workflow that has not ended, what it waits for, and who should act.

It looks into the store and into the memory of the processes that live. What it finds wrong, it says
in sentences, after an arrow.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import attrs
import msgspec

from perdure.core.commands import AwaitEvent, RunChild, RunStep
from perdure.core.ids import WorkerId, WorkflowId
from perdure.core.journal import StepRecord
from perdure.core.workflow import WorkflowState, match_event, next_time
from perdure.runtime.attempts import Attempt
from perdure.runtime.mailbox import Post
from perdure.store.base import InboxRow, Loaded, Reader, WorkerRow
from perdure.store.sqlite import SqliteStore

from ..stores.memory import MemoryStore
from .wording import call_text, error_text, moment, outcome_text, step_text

if TYPE_CHECKING:
    from ..world.process import Process
    from ..world.world import World

#: Width of the first column.
LABEL = 12

#: Of many steps, reasons or workflows so many are shown.
SOME = 4


def why_stuck(world: World, may_wait: Collection[WorkflowId] = ()) -> str:
    """Why nothing can move, when the world has nothing left to do; "" if all have ended that
    should have.

    Args:
        may_wait: ids of workflows that need not end.
    """
    store = world.open_disk()
    store.open(max_parallelism=None)
    try:
        reader = store.reader()
        loaded = reader.load(list(world.history.workflows))
        inbox = _inbox(world, store)
        looker = _Looker(world, reader, reader.workers(), loaded, inbox)
        texts = [
            looker.workflow(each.state)
            for each in loaded
            if each.state.outcome is None and each.state.workflow_id not in may_wait
        ]
        texts += [
            f"a client was never answered: {deed.name}\n  → {looker.client()}"
            for deed in world.deeds
            if not deed.is_done
        ]
        if not texts:
            return ""
        texts = _some(texts, "… and {} more workflows or requests")
        return "\n".join([*texts, *looker.permits(), looker.left_to_do()])
    finally:
        store.close()


def _inbox(world: World, store: object) -> list[InboxRow]:
    """All messages that wait, for whomever."""
    if isinstance(store, MemoryStore):
        return list(store.database._tables.inbox.values())
    if isinstance(store, SqliteStore):
        rows = world.db.execute(
            "SELECT workflow_id, kind, body, accepted_at, number, worker, id FROM perdure_inbox"
            " ORDER BY id"
        )
        names = ("workflow_id", "kind", "body", "accepted_at", "number", "worker", "row_id")
        return [
            msgspec.convert(dict(zip(names, row, strict=True)), InboxRow) for row in rows.fetchall()
        ]
    return []


@attrs.frozen
class _Looker:
    world: World
    reader: Reader
    workers: Sequence[WorkerRow]
    loaded: Sequence[Loaded]
    inbox: Sequence[InboxRow]

    @property
    def now(self) -> int:
        return self.world.now

    def process(self, worker_id: WorkerId | None) -> Process | None:
        """The process that this worker's life is in, if it still is."""
        for process in self.world.workers:
            worker = process.engine._worker
            if process.is_alive and worker is not None and worker.env.worker_id == worker_id:
                return process
        return None

    def who(self, worker_id: WorkerId) -> str:
        """A worker, and whether it lives."""
        process = self.process(worker_id)
        name = worker_id.partition(".")[0]
        return f"an earlier life of {name}" if process is None else f"{name}, which lives"

    # --- one workflow -------------------------------------------------------------------------

    def workflow(self, state: WorkflowState) -> str:
        """Everything about one workflow."""
        header = state.header
        call = call_text(header.name, header.arguments)
        rows = [f"{state.workflow_id} = {call} has not ended, and nothing moves"]
        steps = [_row("waits for", self._step(record)) for record in state.live.values()]
        rows += _some(steps, _row("", "… and {} more steps"))
        if state.position < 0:
            rows.append(_row("waits for", f"its begin, due at {moment(header.start_at)}"))
        elif not state.live:
            rows.append(_row("waits for", "no step"))
        rows.append(_row("owner", self._owner(state)))
        rows.append(_row("wakes", self._wakes(state)))
        for event in state.events:
            when = "only created" if event.sent_at is None else f"sent at {moment(event.sent_at)}"
            rows.append(_row("has unread", f"event {event.name} ({event.event_id}), {when}"))
        rows += [
            _row("inbox", _inbox_text(row))
            for row in self.inbox
            if row.workflow_id == state.workflow_id
        ]
        if state.blocked is not None:
            blocked = state.blocked
            rows.append(_row("blocked", error_text(blocked.error)))
            text = f"{blocked.count} times, to be tried again at {moment(blocked.retry_at)}"
            rows.append(_row("", text))
        reasons = list(dict.fromkeys(self._reasons(state))) or ["nobody does anything for it"]
        rows += _some([f"  → {reason}" for reason in reasons], "    … and {} more like these")
        return "\n".join(rows)

    def _step(self, record: StepRecord) -> str:
        name, since = step_text(record), f"asked for at {moment(record.asked_at)}"
        due = "" if record.due_at is None else f", due at {moment(record.due_at)}"
        match record.state:
            case "started":
                assert record.runner is not None and record.started_at is not None
                until = next_time(record)
                timeout = "" if until is None else f", times out at {moment(until)}"
                return (
                    f"{name}: attempt {record.attempt}, started at {moment(record.started_at)} in"
                    f" {self.who(record.runner)}{timeout}"
                )
            case "backoff":
                return f"{name}: attempt {record.attempt + 1}{due}, {since}"
            case "ready":
                return f"{name}: a permit to start, ready since {moment(record.due_at or 0)}"
            case "settled":
                ended = outcome_text(record.outcome)
                return f"{name}: {ended} at {moment(record.settled_at or 0)}, its code is not told"
        if isinstance(record.command, RunChild):
            return f"{name}: child {record.child_id}, {since}"
        return f"{name}: {since}{due}"

    def _owner(self, state: WorkflowState) -> str:
        if state.owner is None:
            return f"nobody (epoch {state.epoch})"
        process = self.process(state.owner)
        knows = ""
        if process is not None:
            worker = process.engine._worker
            is_known = worker is not None and state.workflow_id in worker.actors
            knows = " and has it in memory" if is_known else " and does not know of it"
        return f"{self.who(state.owner)}{knows} (epoch {state.epoch})"

    def _wakes(self, state: WorkflowState) -> str:
        parts = []
        if state.wake_at is not None:
            parts.append(f"wants to be taken up at {moment(state.wake_at)}")
        elif state.owner is None:
            parts.append("never: it does not want to be taken up")
        if state.timer_at is not None:
            parts.append(f"a timer of its code is due at {moment(state.timer_at)}")
        process = None if state.owner is None else self.process(state.owner)
        if process is not None:
            at = process._turn_at
            plan = "has no plan to look again" if at is None else f"looks again at {moment(at)}"
            parts.append(f"{process.name} {plan}")
        return "; ".join(parts) or "its owner is gone"

    # --- what is wrong ------------------------------------------------------------------------

    def _reasons(self, state: WorkflowState) -> Iterator[str]:
        """Sentences that say what keeps it from moving; the first is the gravest."""
        process = None if state.owner is None else self.process(state.owner)
        if state.blocked is not None:
            yield "its code cannot go on: see what blocks it"
        if state.owner is None:
            yield from self._unowned(state)
        elif process is None:
            yield from self._owner_is_gone(state.owner)
        elif state.workflow_id not in _actors(process):
            yield f"{process.name} owns it, but has lost sight of it: it is not in its memory"
        for record in state.live.values():
            yield from self._step_reasons(state, process, record)
        if state.events and state.awaiting and match_event(state) is not None:
            yield "an event that it waits for is there, and its code was not told"
        rows = [row for row in self.inbox if row.workflow_id == state.workflow_id]
        if rows:
            yield f"{len(rows)} in its inbox, which its owner has not read"
        if state.owner is not None and process is not None:
            yield from _memory_reasons(state, process, self.now)

    def _unowned(self, state: WorkflowState) -> Iterator[str]:
        times = [at for at in map(next_time, state.live.values()) if at is not None]
        if state.timer_at is not None:
            times.append(state.timer_at)
        due = min(times, default=None) if state.position >= 0 else state.header.start_at
        if state.wake_at is not None:
            if state.wake_at <= self.now:
                yield f"nobody has taken it up, though it wants that since {moment(state.wake_at)}"
            else:
                yield f"it is not due yet: now it is {moment(self.now)}"
        elif state.settled or due is not None:
            what = "an outcome is there" if due is None else f"it is due at {moment(due)}"
            yield (
                f"nobody owns it, and nobody will take it up: {what}, but the time at which it"
                " wants to be woken is not stored"
            )
        elif all(record.state == "asked" for record in state.live.values()):
            yield "all that it waits for must come from others"

    def _owner_is_gone(self, owner: WorkerId) -> Iterator[str]:
        if any(row.worker_id == owner for row in self.workers):
            yield "its owner is dead, and no other worker has noticed: so nobody takes it up"
        else:
            yield "its owner is gone, and it was not taken from it: so nobody takes it up"

    def _step_reasons(
        self, state: WorkflowState, process: Process | None, record: StepRecord
    ) -> Iterator[str]:
        name = step_text(record)
        match record.state:
            case "started":
                yield from self._attempt_reasons(state, record)
            case "backoff" | "asked":
                due = record.due_at
                if due is not None and due <= self.now:
                    yield f"{name} was due at {moment(due)}, and now it is {moment(self.now)}"
                    if process is not None and not _has_timer(process, state, record):
                        yield f"{process.name} has no timer for {name}"
            case "ready":
                if process is not None and not _is_queued(process, state, record):
                    yield f"{process.name} does not have {name} in its queue of what may start"
        if isinstance(record.command, RunChild) and record.state == "asked":
            yield from self._child_reasons(record)
        if isinstance(record.command, AwaitEvent) and record.due_at is None:
            if record.state == "asked" and not state.events:
                yield f"{name} waits for an event that nobody has sent, without a timeout"

    def _attempt_reasons(self, state: WorkflowState, record: StepRecord) -> Iterator[str]:
        name, runner = f"attempt {record.attempt} of {step_text(record)}", record.runner
        where = self.process(runner)
        if where is None:
            whose = "nobody" if runner is None else self.who(runner)
            yield f"{name} was to run in {whose}: its outcome can never come"
            return
        runs = where.engine._runner
        key = Attempt.of(state.workflow_id, record).key
        if runs is None or all(attempt.key != key for attempt in runs.attempts()):
            command = record.command
            call = where.world.calls
            has_run = isinstance(command, RunStep) and any(
                made.workflow_id == state.workflow_id
                and made.step_number == record.number
                and made.attempt == record.attempt
                for made in call
            )
            what = "its code has run, and the outcome was lost" if has_run else "it never began"
            yield f"{name} does not run in {where.name}, though it is recorded: {what}"
        else:
            yield f"{name} still runs in {where.name}, and does not end"

    def _child_reasons(self, record: StepRecord) -> Iterator[str]:
        child = next(
            (each.state for each in self.loaded if each.state.workflow_id == record.child_id), None
        )
        if child is None:
            yield f"its child {record.child_id} does not exist"
        elif child.outcome is not None:
            ended = moment(child.ended_at or 0)
            yield f"its child {record.child_id} has ended at {ended}, and that was not told to it"

    # --- the world ----------------------------------------------------------------------------

    def client(self) -> str:
        """Why a request of a client is not answered."""
        client = self.world.client
        if not client.is_alive:
            return f"{client.name} is dead"
        count = len(client.engine.mailbox)
        are = "is 1 request" if count == 1 else f"are {count} requests"
        return f"{client.name} lives; in its mailbox {are}"

    def permits(self) -> list[str]:
        """How many actions each worker may run, where one lacks permits."""
        if not any(row.wanting for row in self.workers):
            return []
        held = [
            f"{row.worker_id.partition('.')[0]} holds {row.permits} and lacks {row.wanting}"
            for row in self.workers
        ]
        return [f"permits: {self.reader.config().max_parallelism} in all; {'; '.join(held)}"]

    def left_to_do(self) -> str:
        """What the world will still do."""
        lives = ", ".join(
            f"{process.name} {'lives' if process.is_alive else 'is dead'}"
            for process in self.world.processes
        )
        heap = self.world._heap
        left = f"{len(heap)} things, the next one at {moment(heap[0][0])}" if heap else "nothing"
        return f"now it is {moment(self.now)}; {lives}; left to do: {left}"


def _some(texts: list[str], rest: str) -> list[str]:
    """The first few of them."""
    if len(texts) <= SOME:
        return texts
    return [*texts[: SOME - 1], rest.format(len(texts) - SOME + 1)]


def _row(label: str, text: str) -> str:
    return f"  {label:<{LABEL}}{text}"


def _inbox_text(row: InboxRow) -> str:
    of = "" if row.number is None else f" of step {row.number}"
    whose = "" if row.worker is None else f", for {row.worker.partition('.')[0]}"
    return f"{row.kind}{of}, since {moment(row.accepted_at)}{whose}"


def _actors(process: Process) -> Collection[WorkflowId]:
    worker = process.engine._worker
    return () if worker is None else worker.actors.by_id


def _has_timer(process: Process, state: WorkflowState, record: StepRecord) -> bool:
    worker = process.engine._worker
    return worker is not None and any(
        workflow_id == state.workflow_id and number == record.number
        for _, workflow_id, number in worker.actors.timers._timers
    )


def _is_queued(process: Process, state: WorkflowState, record: StepRecord) -> bool:
    worker = process.engine._worker
    if worker is None:
        return False
    if record.number in worker.actors.held.get(state.workflow_id, ()):
        return True
    return any(
        (step.workflow_id, step.number) == (state.workflow_id, record.number)
        for step in worker.actors.queue._steps
    )


def _memory_reasons(state: WorkflowState, process: Process, now: int) -> Iterator[str]:
    """What its owner has in memory for it."""
    worker = process.engine._worker
    if worker is None:
        return
    actor = worker.actors.get(state.workflow_id)
    if actor is not None and actor.state != state:
        yield f"{process.name} has another state of it in memory than the one that is stored"
    pending = [
        item
        for item in worker._collecting.pending
        if isinstance(item, Post) and item.workflow_id == state.workflow_id
    ]
    if pending:
        yield f"{process.name} has {len(pending)} messages for it that it has not taken up"
    if state.timer_at is not None and state.timer_at <= now:
        yield f"a timer of its code was due at {moment(state.timer_at)}"
    if worker.trouble is not None:
        yield f"{process.name} has trouble with its store: {worker.trouble}"
