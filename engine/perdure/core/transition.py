"""The transition of the workflow actor: (state, message, now) to a decision.

Two rules. All transitions of a workflow live in this file. This file does not know who calls, how
anything is stored, or what the user's handler is: it is a function of values.

Theory of operation. Messages that report something (`AttemptEnded`, `EventSent`, `StepDue`, …)
only *settle* steps or queue events; they deliver nothing. `next_fact` then says which fact the
handler learns next. Giving a fact to the handler is the message `FactDelivered`, which takes the
next position; what the handler did in reaction comes back as `Asked`, `Ended` or
`HandlerBlocked`. A step that has become ready waits until the pool admits it (`StepAdmitted`).
A message that no longer fits (a late outcome, a timer of a step that has ended) changes nothing,
and each place that drops one says why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, assert_never, get_args

from msgspec.structs import replace

from ..errors import ErrorInfo
from ..sometimes import sometimes
from .commands import AwaitEvent, RunChild, RunStep, Sleep, StepCommand
from .draft import Decision, Draft
from .effects import (
    CallFunction,
    CallOnComplete,
    CancelAttempt,
    CancelChild,
    CheckEvent,
    ConsumeEvent,
    PutTick,
    RevokeAttempt,
    RunAttempt,
    SetTimer,
    StartChild,
    TellParent,
)
from .ids import WorkerId, child_id
from .journal import (
    Started,
    StepEnded,
    StepRecord,
    Tick,
    outcome_bytes,
    overfull,
    record_canceled,
    record_started,
)
from .limits import TICK_BYTES, Limits
from .messages import (
    Admission,
    Asked,
    AttemptEnded,
    AttemptLost,
    AttemptStarted,
    CancelWorkflow,
    ChildEnded,
    Ended,
    EventMissing,
    EventSent,
    FactDelivered,
    FailWorkflow,
    FunctionEnded,
    HandlerBlocked,
    Message,
    StepAdmitted,
    StepDue,
)
from .outcomes import Canceled, Failed, Outcome, Succeeded
from .workflow import (
    Blocked,
    WorkflowState,
    match_event,
    next_time,
)

#: A workflow whose code does not fit is tried again after 1 s, doubling up to 10 min.
BLOCKED_RETRY_MS_MIN = 1_000
BLOCKED_RETRY_MS_MAX = 600_000


def transition(
    state: WorkflowState, message: Message, now: int, limits: Limits = Limits()
) -> Decision:
    """What `message` makes of `state` at `now`. Total, pure, and the only way on."""
    draft = Draft.of(state, now, limits)
    advance(draft, message)
    return draft.decision(state)


def advance(draft: Draft, message: Message) -> None:
    """The same in place: several messages on one draft come to what one after the other do."""
    if draft.status != "in_progress":
        sometimes("a message comes after the end of its workflow")
        return
    _ON[type(message)](draft, message)


# --- the handler --------------------------------------------------------------------------------


def _on_fact_delivered(draft: Draft, message: FactDelivered) -> None:
    fact = message.fact
    position = draft.position = draft.position + 1
    stamp = max(draft.stamp, draft.now)
    draft.blocked = None  # progress: that its code did not fit before is forgotten
    match fact:
        case StepEnded():
            record = draft.live.get(fact.number)
            assert record is not None, fact
            draft.put(record, _delivered(draft, record, fact, position, stamp))
        case Started():
            draft.started_at = stamp
        case Tick():
            stamp = max(draft.stamp, fact.now)
            draft.timer_at = None  # the reaction tells the next one
            draft.writes.append(PutTick(position, stamp))
            draft.journal_bytes += TICK_BYTES
        case _:
            assert_never(fact)
    draft.stamp = stamp


def _delivered(
    draft: Draft, record: StepRecord, fact: StepEnded, position: int, stamp: int
) -> StepRecord:
    if record.state == "settled":
        return replace(record, delivered_position=position, delivered_at=stamp)
    # An event: it is consumed at its delivery, not before.
    match = match_event(draft)
    assert match is not None and match[1] == record.number, fact
    event = match[0]
    draft.remove_event(event)
    draft.writes.append(ConsumeEvent(event.event_id, record.number))
    return replace(
        record,
        state="settled",
        outcome=fact.outcome,
        settled_at=event.sent_at,
        event_id=event.event_id,
        due_at=None,
        delivered_position=position,
        delivered_at=stamp,
    )


def _on_asked(draft: Draft, message: Asked) -> None:
    _take_commands(draft, message, message.admission)
    if message.timer_at is not None and message.timer_at != draft.timer_at:
        draft.effects.append(SetTimer(message.timer_at))
    draft.timer_at = message.timer_at
    limit = draft.limits.journal_bytes
    if draft.journal_bytes > limit:
        sometimes("a journal is full")
        _end(draft, Failed(overfull(draft.journal_bytes, limit)))


def _on_ended(draft: Draft, message: Ended) -> None:
    _take_commands(draft, message)
    _end(draft, message.outcome)


def _take_commands(
    draft: Draft, message: Asked | Ended, admission: Admission | None = None
) -> None:
    canceled: dict[int, None] = {}
    if message.cancels:
        first_new = message.steps[0][0] if message.steps else draft.next_number
        canceled = dict.fromkeys(cancel.number for cancel in message.cancels)
        # What was open before goes first: an event id that it awaited may be awaited anew.
        for number in canceled:
            if number < first_new:
                _cancel(draft, number)
    permits = 0 if admission is None else admission.permits
    for number, command in message.steps:
        if number in canceled:  # nobody waits for it: it is recorded, and never starts
            _ask(draft, number, command, None, 0)
            _cancel(draft, number)
        else:
            permits -= _ask(draft, number, command, admission, permits)
    if message.steps:
        draft.next_number = message.steps[-1][0] + 1


def _cancel(draft: Draft, number: int) -> None:
    """The handler cancelled the future of a step."""
    record = draft.live.get(number)
    if record is None:
        return  # its outcome was delivered in this very reaction
    _stop(draft, record)
    position = draft.position
    final = replace(record_canceled(record, draft.now), canceled_position=position)
    draft.put(record, final, is_last=True)


def _ask(
    draft: Draft,
    number: int,
    command: StepCommand,
    admission: Admission | None,
    permits: int,
) -> int:
    """Record a new step; how many permits it took."""
    now = draft.now
    due_at = command.due_at
    record = StepRecord(
        number=number,
        command=command,
        asked_position=draft.position,
        asked_at=draft.stamp,
        asked_epoch=draft.epoch,
        state="asked",
        due_at=due_at,
    )
    took = 0
    match command:
        case RunStep():
            if due_at is None or due_at <= now:
                ready = replace(record, state="ready", due_at=now)
                if admission is None or not _may_start(command, admission, permits):
                    record = ready
                    draft.ready.append(record)
                else:
                    record = _begun(draft, ready, admission.runner)
                    took = command.kind == "action"
        case RunChild():
            child = command.child_id or child_id(draft.header.workflow_id, number, draft.epoch)
            record = replace(record, child_id=child, due_at=None)
            draft.writes.append(StartChild(number, child, command))
        case Sleep():
            if command.due_at <= now:
                done: Outcome = Succeeded("null")
                record = replace(
                    record, state="settled", outcome=done, settled_at=command.due_at, due_at=None
                )
        case AwaitEvent():
            if command.event_id is not None:
                other = draft.awaits().waiting_for(command.event_id, draft.live)
                if other is not None:
                    sometimes("an event is awaited by id twice")
                    text = f"event {command.event_id!r} is awaited by step {other} already"
                    failed = Failed(ErrorInfo("EventNotFound", text))
                    record = replace(
                        record, state="settled", outcome=failed, settled_at=now, due_at=None
                    )
                elif not draft.has_event(command.event_id):
                    draft.writes.append(CheckEvent(command.event_id, number))
        case _:
            assert_never(command)
    draft.put(None, record)
    if record.state == "ready" and record.attempt:
        draft.writes.append(CallFunction(number))
    elif record.state == "asked" and record.due_at is not None:
        draft.effects.append(SetTimer(record.due_at, number))
    return took


def _may_start(command: RunStep, admission: Admission, permits: int) -> bool:
    if command.kind == "action":
        return permits > 0
    return command.inline or admission.functions


def _on_handler_blocked(draft: Draft, message: HandlerBlocked) -> None:
    before = draft.blocked
    count = 1 if before is None else before.count + 1
    wait = min(BLOCKED_RETRY_MS_MIN * 2 ** min(count - 1, 20), BLOCKED_RETRY_MS_MAX)
    retry_at = draft.now + wait
    blocked = Blocked(error=message.error, count=count, retry_at=retry_at)
    draft.blocked, draft.owner, draft.wake_at = blocked, None, retry_at


# --- steps --------------------------------------------------------------------------------------


def _on_step_admitted(draft: Draft, message: StepAdmitted) -> None:
    record = draft.live.get(message.number)
    if record is None or record.state != "ready":
        return  # canceled since it was queued
    begun = _begun(draft, record, message.runner)
    draft.put(record, begun)
    draft.blocked = None  # what it waited for, such as its function, is there
    if begun.state == "ready":
        draft.writes.append(CallFunction(record.number))


def _begun(draft: Draft, record: StepRecord, runner: WorkerId) -> StepRecord:
    """The record of a ready step whose next attempt begins; an action is told to run."""
    assert isinstance(record.command, RunStep)
    now = draft.now
    if record.command.kind != "action":
        # It runs and is settled inside the transaction that records this.
        return replace(record, attempt=record.attempt + 1, started_at=now)
    started = record_started(record, epoch=draft.epoch, runner=runner, now=now)
    draft.effects.append(RunAttempt(started))
    if started.deadline_at is not None:
        draft.effects.append(SetTimer(started.deadline_at, record.number))
    return started


def _on_function_ended(draft: Draft, message: FunctionEnded) -> None:
    record = draft.live.get(message.number)
    if record is None or record.state != "ready":
        return  # it was canceled in the meantime
    _settle(draft, record, message.outcome, draft.now)


def _on_attempt_started(draft: Draft, message: AttemptStarted) -> None:
    record = draft.live.get(message.number)
    if record is None or record.state != "ready" or record.command.kind != "action":
        return  # read with its row, when the workflow was loaded
    if (draft.epoch, record.attempt + 1) != (message.epoch, message.attempt):
        return  # taken from a former owner, or retried since
    sometimes("the owner learns that another worker has taken a step")
    started = record_started(
        record, epoch=message.epoch, runner=message.runner, now=message.started_at
    )
    draft.learn(record, started)
    if started.deadline_at is not None:
        draft.effects.append(SetTimer(started.deadline_at, record.number))


def _on_attempt_ended(draft: Draft, message: AttemptEnded) -> None:
    record = _current_attempt(draft, message)
    if record is None:
        return
    if record.deadline_at is not None and message.accepted_at > record.deadline_at:
        sometimes("an outcome that is too late comes before the timer of its timeout")
        _time_out(draft, record)
    elif isinstance(message.outcome, Failed) and message.is_retryable:
        _fail_attempt(draft, record, message.outcome.error, message.accepted_at)
    else:
        _settle(draft, record, message.outcome, message.accepted_at)


def _on_attempt_lost(draft: Draft, message: AttemptLost) -> None:
    record = _current_attempt(draft, message)
    if record is not None:
        text = f"the worker that ran attempt {record.attempt} is gone; what it did is not known"
        _fail_attempt(draft, record, ErrorInfo("WorkerLost", text), message.accepted_at)


def _current_attempt(draft: Draft, message: AttemptEnded | AttemptLost) -> StepRecord | None:
    """The step that `message` is about, if its attempt is still the one that counts."""
    record = draft.live.get(message.number)
    if record is None or record.state != "started":
        sometimes("an outcome comes for an attempt that was canceled, timed out, or reported")
        return None
    if (record.started_epoch, record.attempt) != (message.epoch, message.attempt):
        sometimes("an outcome comes for an attempt that another has followed")
        return None
    return record


def _fail_attempt(draft: Draft, record: StepRecord, error: ErrorInfo, accepted_at: int) -> None:
    """After a failed attempt: the next one, later; or, when there is none, the step's failure."""
    assert isinstance(record.command, RunStep)
    plan = record.command.retry
    if record.attempt >= plan.max_attempts:
        sometimes("the attempts of a step are used up")
        _settle(draft, record, Failed(error), accepted_at)
        return
    key = (draft.header.workflow_id, record.asked_epoch, record.number)
    # Not before it began, where this turn has looked at the clock before that.
    since = max(draft.now, record.started_at or 0)
    due_at = since + plan.backoff_ms(record.attempt, key=key)
    waiting = replace(record, state="backoff", due_at=due_at, runner=None, deadline_at=None)
    draft.put(record, waiting)
    draft.effects.append(SetTimer(due_at, record.number))


def _time_out(draft: Draft, record: StepRecord) -> None:
    """The attempt ends for the journal, whatever its code does or has done since."""
    assert isinstance(record.command, RunStep) and record.deadline_at is not None
    text = f"attempt {record.attempt} took longer than {record.command.timeout_ms} ms"
    _fail_attempt(draft, record, ErrorInfo("TimeoutError", text), record.deadline_at)


def _settle(draft: Draft, record: StepRecord, outcome: Outcome, accepted_at: int) -> None:
    settled = replace(
        record,
        state="settled",
        outcome=outcome,
        settled_at=accepted_at,
        runner=None,
        due_at=None,
        deadline_at=None,
    )
    draft.put(record, settled)


def _on_event_sent(draft: Draft, message: EventSent) -> None:
    draft.add_event(message.event)


def _on_event_missing(draft: Draft, message: EventMissing) -> None:
    record = draft.live.get(message.number)
    if record is None or record.state != "asked":
        return  # it was canceled in the reaction in which it was asked
    _settle(draft, record, Failed(message.error), draft.now)


def _on_child_ended(draft: Draft, message: ChildEnded) -> None:
    record = draft.live.get(message.number)
    if record is None or record.state != "asked" or record.child_id != message.child_id:
        sometimes("a child ends that nobody waits for any more")
        return
    _settle(draft, record, message.outcome, message.accepted_at)


def _on_step_due(draft: Draft, message: StepDue) -> None:
    record, now = draft.live.get(message.number), draft.now
    at = None if record is None else next_time(record)
    if record is None or at is None or at > now:
        sometimes("a timer fires for a step that has gone on")
        return
    match record.state:
        case "asked":
            _on_asked_step_due(draft, record, at)
        case "backoff":
            ready = replace(record, state="ready")
            draft.put(record, ready)
            draft.ready.append(ready)
        case "started":
            sometimes("an attempt takes longer than its timeout")
            _stop(draft, record)
            _time_out(draft, record)
        case "ready" | "settled":
            pass  # it waits for the pool, or for its delivery: not for a time
        case _:
            assert_never(record.state)


def _on_asked_step_due(draft: Draft, record: StepRecord, at: int) -> None:
    match record.command:
        case RunStep():
            ready = replace(record, state="ready")
            draft.put(record, ready)
            draft.ready.append(ready)
        case Sleep():
            _settle(draft, record, Succeeded("null"), at)
        case AwaitEvent():
            event = draft.queue().event_for(record, draft.live)
            if event is not None and (event.sent_at or 0) <= at:
                sometimes("an event was sent in time, and its timeout came first")
                return
            text = f"no event {record.command.name!r} came in time"
            _settle(draft, record, Failed(ErrorInfo("TimeoutError", text)), at)
        case RunChild():
            pass  # the child waits for its start time itself
        case _:
            assert_never(record.command)


def _stop(draft: Draft, record: StepRecord) -> None:
    """Tell whoever works on a step that nobody waits for it any more."""
    if record.state == "started":
        assert record.started_epoch is not None
        draft.effects.append(CancelAttempt(record.number, record.started_epoch, record.attempt))
        # (Who ends a workflow that nobody owns tells all that it concerns.)
        if draft.owner is not None and record.runner not in (None, draft.owner):
            assert record.runner is not None
            draft.writes.append(RevokeAttempt(record.number, record.runner))
    if record.child_id is not None and record.state != "settled":
        draft.writes.append(CancelChild(record.number, record.child_id))


# --- the end ------------------------------------------------------------------------------------


def _on_cancel(draft: Draft, message: CancelWorkflow) -> None:
    draft.epoch = message.epoch
    _end(draft, Canceled())


def _on_fail(draft: Draft, message: FailWorkflow) -> None:
    _end(draft, Failed(message.error))


def _end(draft: Draft, outcome: Outcome) -> None:
    """Everything open is canceled; the outcome is recorded, once, and told."""
    header = draft.header
    for record in list(draft.live.values()):
        if record.state != "settled":
            _stop(draft, record)
            draft.drop(record)
    draft.live, draft.settled, draft.awaiting = {}, (), ()
    draft.status, draft.outcome = outcome.kind, outcome
    draft.ended_at = max(draft.now, draft.stamp)
    draft.owner = draft.wake_at = draft.timer_at = draft.blocked = None
    draft.journal_bytes += outcome_bytes(outcome)
    if header.on_complete is not None:
        draft.writes.append(CallOnComplete(outcome))
    if header.parent_id is not None and header.parent_number is not None:
        draft.writes.append(TellParent(header.parent_id, header.parent_number, outcome))


#: What each message does. (A table and no `match`, which would ask one class after the other.)
_ON: Final[dict[type[Message], Callable[[Draft, Any], None]]] = {
    AttemptEnded: _on_attempt_ended,
    AttemptLost: _on_attempt_lost,
    AttemptStarted: _on_attempt_started,
    Asked: _on_asked,
    CancelWorkflow: _on_cancel,
    ChildEnded: _on_child_ended,
    Ended: _on_ended,
    EventMissing: _on_event_missing,
    EventSent: _on_event_sent,
    FactDelivered: _on_fact_delivered,
    FailWorkflow: _on_fail,
    FunctionEnded: _on_function_ended,
    HandlerBlocked: _on_handler_blocked,
    StepAdmitted: _on_step_admitted,
    StepDue: _on_step_due,
}
assert _ON.keys() == set(get_args(Message)), "each message has its transition"
