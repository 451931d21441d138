"""The laws of time: nothing is early, and nothing is late without a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from perdure.core.commands import AwaitEvent, RunChild, RunStep, Sleep
from perdure.core.ids import WorkflowId
from perdure.core.journal import StepRecord
from perdure.core.outcomes import Canceled, Failed, Succeeded
from perdure.core.workflow import RESTARTED

from ..faults.plan import Fault
from .bodies import PROMPT_MS, Bodies
from .known import Change, Commit, Known
from .violations import DeliveredOutOfOrder, FromTheFuture, Late, LateOutcome

#: How long a fault may hold something up beside its own duration, in ms.
DELAY_MS = 2_000

#: A drain is over so long after the last attempt may run, in ms.
DRAIN_MORE_MS = 5_000

#: Those of which it cannot be said.
UNKNOWN = (
    "kill",  # code that may not fit comes with it
    "deaf",  # its own code goes on after that, and was never told
    "runs_fast",
    "runs_slow",
)


def patience(faults: Iterable[Fault], *, drain_ms: int) -> int | None:
    """How long these faults may have held something up, in ms; None if it cannot be said.

    Args:
        drain_ms: how long attempts may run in a worker that ends in good order.
    """
    total = skew = moments = 0
    for fault in faults:
        if fault.kind in UNKNOWN:
            return None
        delay = drain_ms + DRAIN_MORE_MS if fault.kind == "drain" else DELAY_MS
        total += delay * fault.burst + fault.duration
        skew += fault.duration if fault.kind.startswith("jump") else 0
        moments += fault.burst
    # Whoever takes over by a clock that is ahead has others wait until theirs are there.
    return total + skew * moments


class Waits:
    """How long things wait.

    Args:
        patience: how long faults may have held something up until now, in ms; None where that
            cannot be said.
    """

    def __init__(self, bodies: Bodies, patience: Callable[[], int | None]) -> None:
        self._bodies = bodies
        self._patience = patience

    def check(
        self, commit: Commit, workflows: Mapping[WorkflowId, Known], *, is_exact: bool
    ) -> None:
        """After a commit: all that it says has happened, and not long ago.

        Args:
            is_exact: no clock has been wrong.
        """
        now = commit.now
        for change in commit.changes:
            if is_exact:
                self._check_future(change, now)
            self._check_deadline(change, is_exact=is_exact)
            self._check_promptness(change, now, workflows)
        if is_exact:
            _check_order(commit)
        for known, event_id in commit.consumed:
            number = known.consumed[event_id]
            seen = known.seen
            since = max(seen.sent[event_id], seen.asked.get(number, now))
            self._check(known, f"event {event_id}", since, now)
        for workflow_id, before in commit.before.items():
            known = workflows[workflow_id]
            state = known.state
            if state.blocked is not None and state.blocked.error != RESTARTED:
                known.was_blocked = True
            if is_exact and max(state.stamp, state.ended_at or 0) > now:
                raise FromTheFuture(f"{workflow_id} at {now}: {state}")
            if before is None:
                continue
            if before.started_at is None and state.started_at is not None:
                self._check(known, "its start", known.header.start_at, now)
            if before.timer_at is not None and state.position > before.position:
                at = known.ticks.get(before.position + 1)
                if at is not None:
                    self._check(known, "its timer", before.timer_at, now)

    def _check_future(self, change: Change, now: int) -> None:
        new = change.new
        latest = max(new.asked_at, new.started_at or 0, new.settled_at or 0, new.delivered_at or 0)
        if latest > now:
            raise FromTheFuture(f"{change.where} at {now}: {new}")

    def _check_deadline(self, change: Change, *, is_exact: bool) -> None:
        old, new = change.old, change.new
        if old is None or old.outcome is not None or not isinstance(new.outcome, Succeeded):
            return
        deadline = None
        if isinstance(new.command, RunStep):
            deadline = old.deadline_at
        elif isinstance(new.command, AwaitEvent) and is_exact:
            deadline = new.command.due_at
        if deadline is not None and (new.settled_at or 0) > deadline:
            raise LateOutcome(f"{change.where}: by {deadline}, came {new.settled_at}: {new}")

    def _check_promptness(
        self, change: Change, now: int, workflows: Mapping[WorkflowId, Known]
    ) -> None:
        known, old, new = change.known, change.old, change.new
        seen, number = known.seen, new.number
        if old is None:
            seen.asked[number] = now
        if new.outcome is None:
            return
        if old is None or old.outcome is None:
            seen.settled[number] = now
            since = self._since(change, workflows)
            if since is not None:
                self._check(known, f"the end of step {number}", max(since, seen.asked[number]), now)
        if new.delivered_position is not None:
            self._check(known, f"the delivery of step {number}", seen.settled[number], now)

    def _since(self, change: Change, workflows: Mapping[WorkflowId, Known]) -> int | None:
        """Since when a step's outcome was there to be seen; None if that is not known."""
        new = change.new
        outcome = new.outcome
        match new.command:
            case _ if isinstance(outcome, Canceled):
                return None
            case Sleep():
                return new.command.due_at
            case AwaitEvent():
                if isinstance(outcome, Failed) and outcome.error.type == "TimeoutError":
                    return new.command.due_at
            case RunChild():
                child = workflows.get(new.child_id or "")
                return child.seen.ended if child is not None and child.has_ended else None
            case RunStep():
                if isinstance(outcome, Succeeded):
                    return self._bodies.ended_at(change.known.workflow_id, new)
        return None

    def _check(self, known: Known, what: str, since: int, now: int) -> None:
        since = max(since, known.seen.restarted)
        if now - since <= PROMPT_MS or known.was_blocked:
            return
        patience = self._patience()
        if patience is not None and now - since > PROMPT_MS + patience:
            raise Late(f"{known.workflow_id}: {what} was there at {since}, and is seen at {now}")


def _check_order(commit: Commit) -> None:
    """Outcomes that wait to be learned are learned in the order in which they came."""
    news: dict[WorkflowId, list[StepRecord]] = {}
    settled: set[tuple[WorkflowId, int]] = set()
    for change in commit.changes:
        old, new = change.old, change.new
        if new.outcome is not None and (old is None or old.outcome is None):
            settled.add((change.known.workflow_id, new.number))
        if new.delivered_position is not None:
            news.setdefault(change.known.workflow_id, []).append(new)
    for change in commit.changes:
        delivered = news.pop(change.known.workflow_id, None)
        if delivered is None:
            continue
        known = change.known
        delivered.sort(key=lambda record: record.delivered_position or 0)
        # What was settled in this very commit and not delivered was settled after all deliveries.
        behind = [
            record
            for number, record in known.open.items()
            if record.outcome is not None and (known.workflow_id, number) not in settled
        ]
        for index, record in enumerate(delivered):
            for other in (*delivered[index + 1 :], *behind):
                is_earlier = (other.settled_at or 0) < (record.settled_at or 0)
                if is_earlier and other.asked_position < (record.delivered_position or 0):
                    raise DeliveredOutOfOrder(
                        f"{known.workflow_id}: step {record.number}, settled at"
                        f" {record.settled_at}, before step {other.number}, settled at"
                        f" {other.settled_at}"
                    )
