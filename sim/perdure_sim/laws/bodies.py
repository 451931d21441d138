"""The laws of attempts: what runs of the actions' code, against what is recorded of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs

from perdure.core.commands import RunStep
from perdure.core.ids import WorkerId, WorkflowId, idempotency_key
from perdure.core.journal import StepRecord
from perdure.core.outcomes import Canceled, Outcome, Succeeded
from perdure.core.retry import RetryPlan
from perdure.runtime.attempts import Attempt

from ..world.actions import CallMade
from .known import Change, Commit, Known
from .owners import Owners
from .violations import (
    AttemptAfterEnd,
    AttemptGivenUp,
    AttemptNotRecorded,
    AttemptTwice,
    BackoffTooShort,
    KeyChanged,
    NotStopped,
    OutcomeIgnored,
    OutcomeInvented,
    RetriedForGood,
    TooManyRunning,
)

#: How long anything may take without a fault, in ms: polls, and the notice of who has died.
PROMPT_MS = 1_000


@attrs.define
class Body:
    """The code of one attempt.

    Attributes:
        runner: the worker on record for it; None if it is not on record any more.
        ended_at: in the world's time; None while it runs, or died with its process.
        value: what it returned, encoded; None if it did not.
        is_final: what it did is not to be tried again.
        is_dead: its process has died under it.
    """

    call: CallMade
    runner: WorkerId | None
    ended_at: int | None = None
    value: str | None = None
    is_final: bool = False
    is_dead: bool = False


class Bodies:
    """All attempts whose code has begun."""

    def __init__(self, owners: Owners) -> None:
        self._owners = owners
        self._bodies: dict[tuple[WorkflowId, int, str, int], Body] = {}
        self._last: dict[tuple[WorkflowId, int], Body] = {}
        self._running: dict[tuple[WorkflowId, int, str, int], Body] = {}

    # --- their code -----------------------------------------------------------------------------

    def begin(self, call: CallMade, known: Known | None, seen: int | None) -> None:
        """The code of an attempt begins to run.

        Args:
            seen: how many commits there were when its process began the turn that started it.
        """
        place = (call.workflow_id, call.step_number)
        where = f"{call.workflow_id} step {call.step_number} attempt {call.attempt}"
        record = None if known is None else known.steps.get(call.step_number)
        if known is None or record is None or record.attempt < call.attempt:
            raise AttemptNotRecorded(f"{where} of {call.action} runs; recorded is {record}")
        key = (*place, call.idempotency_key, call.attempt)
        # A zombie may begin it when it was taken for lost, and the next one is on record.
        runner = record.runner if record.attempt == call.attempt else None
        body = Body(call, runner)
        other = self._bodies.setdefault(key, body)
        if other is not body:
            raise AttemptTwice(
                f"{where} ran at {other.call.at} in {other.call.process}, now {call}"
            )
        last = self._last.setdefault(place, body)
        if last.call.idempotency_key != call.idempotency_key:
            raise KeyChanged(f"{where}: {last.call.idempotency_key}, now {call.idempotency_key}")
        if last.call.attempt < call.attempt:  # else a zombie's, which comes after the next one
            self._last[place] = body
        if seen is not None and 0 < known.ended_in <= seen:
            raise AttemptAfterEnd(f"{where} begins; it ended before: {known.state.outcome}")
        self._running[key] = body
        self._check_running(where)

    def _check_running(self, where: str) -> None:
        owners = self._owners
        if owners.limit is None:
            return
        # What runs for a worker that is taken for dead counts no more: its permits are given anew.
        running = [each for each in self._running.values() if each.runner in owners.workers]
        # After the limit was lowered, what is held ends first.
        most = max(owners.limit, sum(owners.workers.values()))
        if len(running) > most:
            names = [f"{each.call.workflow_id}/{each.call.step_number}" for each in running]
            raise TooManyRunning(f"{where} begins; now {names} run, and the limit is {most}")

    def end(
        self,
        attempt: Attempt,
        now: int,
        outcome: Outcome,
        known: Known | None,
        patience: Callable[[], int | None],
        *,
        is_retryable: bool,
    ) -> None:
        """The code of an attempt has ended, and its worker is told.

        Args:
            patience: see `Waits`.
        """
        record = attempt.record
        name = idempotency_key(attempt.workflow_id, record.number, record.asked_epoch)
        if known is not None and (record.started_epoch or 0) < known.since:
            return  # of before a restart
        body = self._running.pop((attempt.workflow_id, record.number, name, record.attempt), None)
        if body is not None:
            body.ended_at = now
            body.value = outcome.value if isinstance(outcome, Succeeded) else None
            body.is_final = not is_retryable
            self._check_stop(body, known, patience)

    def _check_stop(
        self, body: Body, known: Known | None, patience: Callable[[], int | None]
    ) -> None:
        """If nobody waits for it any more, its code was told so and has ended soon."""
        if known is None or body.ended_at is None:
            return
        number = body.call.step_number
        since = known.seen.ended if known.has_ended else known.seen.settled.get(number)
        if since is None or body.ended_at - since <= PROMPT_MS:
            return
        most = patience()
        if most is not None and body.ended_at - since > PROMPT_MS + most:
            raise NotStopped(
                f"{known.workflow_id} step {number} was over at {since}, and its code, which began"
                f" at {body.call.at}, ran on until {body.ended_at}"
            )

    def forget(self, workflow_id: WorkflowId) -> None:
        """A workflow is restarted, or gone: nobody asks any more what runs for it."""
        for known in (self._bodies, self._running):
            for key in [key for key in known if key[0] == workflow_id]:
                del known[key]
        for place in [place for place in self._last if place[0] == workflow_id]:
            del self._last[place]

    def crash(self, process: str) -> None:
        """A process has died, and all code in it."""
        dead = [key for key, body in self._running.items() if body.call.process == process]
        for key in dead:
            self._running.pop(key).is_dead = True

    def ended_at(self, workflow_id: WorkflowId, record: StepRecord) -> int | None:
        """When the code of a step's last attempt ended."""
        body = self._last.get((workflow_id, record.number))
        if body is None or body.call.attempt != record.attempt:
            return None
        return body.ended_at

    # --- what is recorded of it -----------------------------------------------------------------

    def check(self, commit: Commit, *, is_exact: bool) -> None:
        """What is recorded of attempts is what came of them.

        Args:
            is_exact: no clock has been wrong.
        """
        for change in commit.changes:
            old, new = change.old, change.new
            if old is None or old.state != "started" or old.attempt != new.attempt:
                continue
            if new.state in ("backoff", "settled") and old.outcome is None:
                self._check_end(change, old, commit, is_exact=is_exact)

    def _check_end(
        self, change: Change, old: StepRecord, commit: Commit, *, is_exact: bool
    ) -> None:
        new, where = change.new, change.where
        body = self._last.get((change.known.workflow_id, new.number))
        if body is not None and body.call.attempt != new.attempt:
            body = None
        if isinstance(new.outcome, Succeeded):
            returned = None if body is None else body.value
            if returned != new.outcome.value:
                raise OutcomeInvented(f"{where}: {new.outcome}, its code returned {returned}")
            return
        if isinstance(new.outcome, Canceled) or body is None:
            return
        is_mine = commit.author is not None and commit.author.worker_id == body.runner
        deadline = old.deadline_at
        # By a clock that was wrong the time may have been over.
        is_over = deadline is not None and (not is_exact or deadline <= commit.now)
        if body.ended_at is None:
            is_lost = body.is_dead or body.runner not in self._owners.workers
            is_stopping = commit.author is not None and commit.author.is_stopping
            if not (is_lost or is_over or is_stopping):
                raise AttemptGivenUp(f"{where}: it runs since {body.call.at}, recorded is {new}")
        was_in_time = body.ended_at is not None and (
            deadline is None or (is_exact and body.ended_at < deadline)
        )
        if is_mine and was_in_time and body.value is not None:
            raise OutcomeIgnored(f"{where} returned {body.value}, recorded is {new}")
        if new.state == "backoff":
            if is_mine and was_in_time and body.is_final:
                raise RetriedForGood(f"{where} failed for good, recorded is {new}")
            since = old.started_at or 0
            if is_mine and was_in_time and body.ended_at is not None:
                since = body.ended_at
            if is_exact:
                self._check_wait(where, new, since)

    def _check_wait(self, where: str, new: StepRecord, since: int) -> None:
        command = new.command
        assert isinstance(command, RunStep)
        least = since + shortest_wait(command.retry, new.attempt)
        if (new.due_at or 0) < least:
            raise BackoffTooShort(
                f"{where}: attempt {new.attempt} failed at {since} or later, the next one is due at"
                f" {new.due_at}, but not before {least} by {command.retry}"
            )


def shortest_wait(plan: RetryPlan, failed_attempt: int) -> int:
    """The least that may pass after a failed attempt, in ms."""
    try:
        wait = plan.initial_ms * plan.base ** (failed_attempt - 1)
    except OverflowError:
        wait = math.inf if plan.initial_ms else 0.0
    return math.floor(min(wait * (0.5 if plan.jitter else 1.0), plan.cap_ms))
