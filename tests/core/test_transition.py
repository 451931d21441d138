"""The transition: steps from asked to settled, attempts, retries, time-outs, children.

Events and sleeps are in test_transition_events.py, cancelling and ends in test_transition_ends.py,
what other workers run in test_transition_taken.py.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.core.playbook import (
    NOW,
    At,
    Playbook,
    Ready,
    after,
    asked,
    attempt,
    await_event,
    child,
    fresh,
    ok,
    outputs,
    row,
    run,
    sleep,
    step,
    waiting,
)

from perdure.core.commands import CancelStep, RunStep, StepCommand
from perdure.core.effects import (
    CallFunction,
    CancelAttempt,
    CancelChild,
    PutStep,
    RunAttempt,
    SetTimer,
    StartChild,
)
from perdure.core.journal import Started, StepEnded, StepState
from perdure.core.messages import (
    Admission,
    Asked,
    AttemptEnded,
    AttemptLost,
    AttemptStarted,
    ChildEnded,
    FactDelivered,
    FunctionEnded,
    Message,
    StepAdmitted,
    StepDue,
)
from perdure.core.outcomes import Canceled, Failed
from perdure.core.transition import transition
from perdure.core.workflow import STEP_EDGES, WorkflowState, next_fact
from perdure.errors import ErrorInfo

BOOM = Failed(ErrorInfo("ValueError", "boom"))
ADMIT = StepAdmitted(number=0, runner="worker")


def ended(of: int = 1, *, epoch: int = 1, at: int = NOW, retry: bool = True) -> AttemptEnded:
    """Attempt `of` of step 0 returned."""
    return AttemptEnded(
        number=0, epoch=epoch, attempt=of, outcome=ok(), accepted_at=at, is_retryable=retry
    )


def failed(of: int = 1, *, at: int = NOW, retry: bool = True) -> AttemptEnded:
    """Attempt `of` of step 0 raised."""
    return AttemptEnded(
        number=0, epoch=1, attempt=of, outcome=BOOM, accepted_at=at, is_retryable=retry
    )


def taken(of: int = 1, *, epoch: int = 1) -> AttemptStarted:
    """Attempt `of` of step 0 was started by another worker than the owner."""
    return AttemptStarted(number=0, epoch=epoch, attempt=of, runner="other", started_at=NOW)


def lost(of: int = 1, *, epoch: int = 1) -> AttemptLost:
    """The worker of attempt `of` of step 0 died."""
    return AttemptLost(number=0, epoch=epoch, attempt=of, accepted_at=NOW)


# --- every message meets every state of a step --------------------------------------------------


def _settled(state: WorkflowState) -> WorkflowState:
    return after(state, ADMIT, ended())


#: A state whose step 0 is as the name says, and the words are due at `NOW + 10`.
SITUATIONS: dict[str, WorkflowState] = {
    "unknown": waiting(),
    "run_at": waiting(run(due_at=NOW + 10)),
    "sleep": waiting(sleep(NOW + 10)),
    "event": waiting(await_event(due_at=NOW + 10)),
    "child": waiting(child()),
    "mutation": waiting(run(kind="mutation")),
    "ready": waiting(run()),
    "started": after(waiting(run(timeout_ms=10)), ADMIT),
    "retried": after(waiting(run(timeout_ms=10, attempts=2)), ADMIT),
    "backoff": after(waiting(run(attempts=2, backoff_ms=10)), ADMIT, failed()),
    "settled": after(waiting(run()), ADMIT, ended()),
}

MESSAGES: dict[str, Message] = {
    "admit": ADMIT,
    "function": FunctionEnded(number=0, outcome=ok()),
    "taken": taken(),
    "ended": ended(),
    "failed": failed(),
    "lost": lost(),
    "child": ChildEnded(number=0, child_id="w/0@1", outcome=ok(), accepted_at=NOW),
    "due": StepDue(number=0),
    "cancel": Asked(cancels=(CancelStep(0),)),
}

#: The state of the step afterwards; "." where the message changes nothing; "!" is never sent.
TABLE = """
            admit    function taken    ended    failed   lost     child    due      cancel
unknown     .        .        .        .        .        .        .        .        .
run_at      .        .        .        .        .        .        .        ready    settled
sleep       .        .        .        .        .        .        .        settled  settled
event       .        .        .        .        .        .        .        settled  settled
child       .        .        .        .        .        .        settled  .        settled
mutation    ready    settled  .        .        .        .        .        .        settled
ready       started  !        started  .        .        .        .        .        settled
started     .        .        .        settled  settled  settled  .        settled  settled
retried     .        .        .        settled  backoff  backoff  .        backoff  settled
backoff     .        .        .        .        .        .        .        ready    settled
settled     .        .        .        .        .        .        .        .        settled
"""


def _cells() -> list[tuple[str, str, str]]:
    head, *lines = (line.split() for line in TABLE.strip().splitlines())
    return [
        (line[0], message, cell)
        for line in lines
        for message, cell in zip(head, line[1:], strict=True)
        if cell != "!"
    ]


@pytest.mark.parametrize(("situation", "message", "expected"), _cells())
def test_each_message_in_each_state(situation: str, message: str, expected: str) -> None:
    """A message moves a step along its edge, or, where it does not fit, changes nothing at all."""
    before = SITUATIONS[situation]
    decision = transition(before, MESSAGES[message], NOW + 10)
    decision.state.check()
    if expected == ".":
        assert (decision.state, outputs(decision)) == (before, [])
    else:
        records = [write.record for write in decision.writes if isinstance(write, PutStep)]
        if message == "taken":  # its row is written by who has taken it
            records.append(decision.state.live[0])
        (record,) = records
        assert record.state == expected


def test_the_table_is_complete() -> None:
    """The table has a cell for every situation and every message."""
    lines = TABLE.strip().splitlines()
    assert lines[0].split() == list(MESSAGES)
    assert [line.split()[0] for line in lines[1:]] == list(SITUATIONS)


def test_every_legal_edge_is_reached() -> None:
    """Each edge of STEP_EDGES is taken by some message, and none other."""
    taken: set[tuple[StepState | None, StepState]] = set()

    def follow(state: WorkflowState, message: Message, now: int) -> WorkflowState:
        decision = transition(state, message, now)
        for write in decision.writes:
            if isinstance(write, PutStep):
                old = state.live.get(write.record.number)
                taken.add((None if old is None else old.state, write.record.state))
        return decision.state

    begun = after(fresh(), FactDelivered(fact=Started()))
    for command in (run(), run(due_at=NOW + 1), sleep(NOW)):
        follow(begun, asked(command), NOW)
    follow(begun, admitted(run()), NOW)
    for before in SITUATIONS.values():
        for message in MESSAGES.values():
            follow(before, message, NOW + 10)
    done = _settled(waiting(run()))
    follow(done, FactDelivered(fact=StepEnded(0, ok())), NOW)
    assert taken == STEP_EDGES


def admitted(*commands: RunStep, permits: int = 1, functions: bool = True) -> Asked:
    """A reaction of whose steps the pool lets some start at once."""
    steps = tuple(enumerate(commands))
    return Asked(steps=steps, admission=Admission("w9", permits, functions))


def test_what_is_admitted_starts_as_it_is_asked_for() -> None:
    """An action is recorded as started, on the runner, and runs after the commit: one write."""
    state = after(fresh(), FactDelivered(fact=Started()))
    decision = transition(state, admitted(run()), NOW)
    (write,) = decision.writes
    assert isinstance(write, PutStep)
    assert (write.record.state, write.record.runner, write.record.attempt) == ("started", "w9", 1)
    assert decision.effects == (RunAttempt(write.record),)
    assert decision.ready == ()


def test_no_more_start_than_there_are_permits() -> None:
    """The first ones in the order asked; the others are ready and wait for the pool."""
    state = after(fresh(), FactDelivered(fact=Started()))
    decision = transition(state, admitted(run(), run(), run(), permits=2), NOW)
    states = [record.state for record in decision.state.live.values()]
    assert states == ["started", "started", "ready"]
    assert [record.number for record in decision.ready] == [2]


def test_what_is_cancelled_as_it_is_asked_for_does_not_start() -> None:
    """Nobody waits for it; its permit is for the next one."""
    state = after(fresh(), FactDelivered(fact=Started()))
    message = replace(admitted(run(), run()), cancels=(CancelStep(0),))
    decision = transition(state, message, NOW)
    (effect,) = decision.effects
    assert isinstance(effect, RunAttempt)
    assert effect.record.number == 1
    rows = [write.record for write in decision.writes if isinstance(write, PutStep)]
    assert [(row.number, row.attempt) for row in rows if row.outcome == Canceled()] == [(0, 0)]


@pytest.mark.parametrize(
    ("inline", "functions", "runs"),
    [(False, True, True), (False, False, False), (True, False, True)],
)
def test_a_pause_holds_up_functions_that_are_not_inline(
    inline: bool, functions: bool, runs: bool
) -> None:
    """Queries and mutations take no permit; they run in the commit unless the pool is paused."""
    state = after(fresh(), FactDelivered(fact=Started()))
    command = replace(run(), kind="mutation", inline=inline)
    decision = transition(state, admitted(command, permits=0, functions=functions), NOW)
    assert (CallFunction(0) in decision.writes) == runs
    assert ([record.number for record in decision.ready] == [0]) != runs


# --- asking -------------------------------------------------------------------------------------


def test_asking_records_position_time_and_epoch() -> None:
    """A new step knows the fact it reacts to, that fact's stamp, and the epoch of its key."""
    state = waiting(run(), run("g"))
    first, second = state.live.values()
    assert (first.asked_position, first.asked_at, first.asked_epoch) == (0, NOW, 1)
    assert (second.number, second.command.name, state.next_number) == (1, "g", 2)


def test_a_scheduled_step_becomes_ready_at_its_time_and_not_before() -> None:
    """run_at and run_after: asked, with a timer; ready when the time has come."""
    begun = after(fresh(), FactDelivered(fact=Started()))
    assert (
        Playbook(begun)
        >> asked(run(due_at=NOW + 10))
        << row(0, is_new=True, state="asked", due_at=NOW + 10)
        << SetTimer(NOW + 10, 0)
        >> At(NOW + 9)
        >> StepDue(number=0)
        >> At(NOW + 10)
        >> StepDue(number=0)
        << row(0, state="ready", due_at=NOW + 10)
        << Ready(0)
    )


def test_a_schedule_in_the_past_is_ready_at_once() -> None:
    """A start time that has passed already needs no timer; the step queues from now."""
    begun = after(fresh(), FactDelivered(fact=Started()))
    assert (
        Playbook(begun)
        >> asked(run(due_at=NOW - 5))
        << row(0, is_new=True, state="ready", due_at=NOW)
        << Ready(0)
    )


# --- queries and mutations ----------------------------------------------------------------------


def test_a_mutation_runs_and_settles_inside_the_transaction() -> None:
    """Admitted: the function is called as a write; its outcome settles the step, at most once."""
    assert (
        Playbook(waiting(run(kind="mutation")))
        >> ADMIT
        << row(0, state="ready", attempt=1, started_at=NOW, runner=None)
        << CallFunction(0)
        >> FunctionEnded(number=0, outcome=ok())
        << row(0, state="settled", outcome=ok(), settled_at=NOW, delivered_position=None)
        >> FunctionEnded(number=0, outcome=BOOM)
        >> ADMIT
    )


# --- attempts of actions ------------------------------------------------------------------------


def test_an_attempt_is_recorded_before_it_runs() -> None:
    """Admitted: `started` with runner, number and epoch is written, and only then it is run."""
    assert (
        Playbook(waiting(run(timeout_ms=50)))
        >> At(NOW + 5)
        >> StepAdmitted(number=0, runner="w2")
        << row(0, state="started", runner="w2", attempt=1, started_epoch=1, started_at=NOW + 5)
        << attempt(0, deadline_at=NOW + 55)
        << SetTimer(NOW + 55, 0)
    )


def test_an_outcome_is_settled_with_the_time_of_its_acceptance() -> None:
    """The outcome keeps the time at which it was reported, which orders its delivery."""
    assert (
        Playbook(after(waiting(run()), ADMIT), now=NOW + 9)
        >> ended(at=NOW + 3)
        << row(0, state="settled", outcome=ok(), settled_at=NOW + 3, runner=None)
    )


@pytest.mark.parametrize(
    "stale", [ended(2), ended(epoch=0), ended(epoch=2), lost(2), lost(epoch=2)]
)
def test_a_foreign_outcome_is_dropped(stale: Message) -> None:
    """An attempt number or epoch that is not the recorded one changes nothing."""
    assert Playbook(after(waiting(run()), ADMIT)) >> stale


def test_a_late_or_duplicate_outcome_is_dropped() -> None:
    """Of two reports the first counts; the outcome of attempt 1 cannot settle attempt 2."""
    assert (
        Playbook(after(waiting(run()), ADMIT))
        >> ended()
        << row(0, outcome=ok())
        >> failed()
        >> lost()
        >> ended()
    )
    again = after(waiting(run(attempts=3)), ADMIT, lost())
    again = after(again, StepDue(number=0), ADMIT, now=NOW + 100)
    assert step(again).attempt == 2
    assert Playbook(again) >> ended(1) >> failed(1) >> lost(1)


def test_a_lost_attempt_without_retries_fails_the_step() -> None:
    """At most once: the step is not started again; it fails with type WorkerLost."""
    book = Playbook(after(waiting(run()), ADMIT))
    assert book >> lost() << row(0, state="settled", attempt=1)
    outcome = step(book.state).outcome
    assert isinstance(outcome, Failed)
    assert outcome.error.type == "WorkerLost"
    assert "attempt 1 is gone" in outcome.error.message


def test_lost_and_failed_attempts_count_together() -> None:
    """With three attempts, one lost and two failed are all there are; each waits longer."""
    assert (
        Playbook(waiting(run(attempts=3, backoff_ms=100)))
        >> ADMIT
        << row(0)
        << attempt(0, of=1)
        >> lost(1)
        << row(0, state="backoff", due_at=NOW + 100, runner=None, deadline_at=None)
        << SetTimer(NOW + 100, 0)
        >> At(NOW + 100)
        >> StepDue(number=0)
        << row(0, state="ready", due_at=NOW + 100)
        << Ready(0)
        >> ADMIT
        << row(0, state="started", attempt=2)
        << attempt(0, of=2)
        >> failed(2)
        << row(0, state="backoff", due_at=NOW + 300)
        << SetTimer(NOW + 300, 0)
        >> At(NOW + 300)
        >> StepDue(number=0)
        << row(0, state="ready")
        << Ready(0)
        >> ADMIT
        << row(0, state="started", attempt=3)
        << attempt(0, of=3)
        >> failed(3)
        << row(0, state="settled", outcome=BOOM, attempt=3)
    )


def test_a_wait_is_counted_from_the_begin_of_the_attempt_at_the_earliest() -> None:
    """A turn that stood still may have looked at the clock before the attempt began."""
    book = Playbook(after(waiting(run(attempts=2, backoff_ms=100)), ADMIT), now=NOW - 2_000)
    wait = SetTimer(NOW + 100, 0)
    assert book >> failed() << row(0, state="backoff", due_at=NOW + 100) << wait


def test_a_backoff_is_not_cut_short() -> None:
    """A timer that comes too early, or an admission, does not start the next attempt."""
    state = after(waiting(run(attempts=2, backoff_ms=100)), ADMIT, failed())
    assert Playbook(state, now=NOW + 99) >> StepDue(number=0) >> ADMIT


def test_an_error_that_is_not_retryable_ends_the_step_at_once() -> None:
    """NonRetryableError, and declared answers: no second attempt in spite of the policy."""
    assert (
        Playbook(after(waiting(run(attempts=5)), ADMIT))
        >> failed(retry=False)
        << row(0, state="settled", outcome=BOOM, attempt=1)
    )


def test_a_timed_out_attempt_fails_and_its_code_is_told() -> None:
    """At its deadline the attempt ends for the journal; what it returns later is dropped."""
    book = Playbook(after(waiting(run(timeout_ms=50)), ADMIT), now=NOW + 49)
    assert (
        book
        >> StepDue(number=0)
        >> At(NOW + 60)
        >> StepDue(number=0)
        << row(0, state="settled", settled_at=NOW + 50)
        << CancelAttempt(0, epoch=1, attempt=1)
        >> ended()
    )
    outcome = step(book.state).outcome
    assert isinstance(outcome, Failed)
    assert outcome.error == ErrorInfo("TimeoutError", "attempt 1 took longer than 50 ms")


@pytest.mark.parametrize("late", [ended(at=NOW + 51), failed(at=NOW + 51, retry=False)])
def test_an_outcome_after_the_deadline_does_not_count(late: AttemptEnded) -> None:
    """Also where it is seen before the timer is: a worker may have stood still in between."""
    book = Playbook(after(waiting(run(timeout_ms=50)), ADMIT), now=NOW + 60)
    assert book >> late << row(0, state="settled", settled_at=NOW + 50)
    settled = step(book.state).outcome
    assert isinstance(settled, Failed) and settled.error.type == "TimeoutError"


def test_an_outcome_at_the_deadline_counts() -> None:
    """On a tie the fact comes first."""
    book = Playbook(after(waiting(run(timeout_ms=50)), ADMIT), now=NOW + 60)
    assert book >> ended(at=NOW + 50) << row(0, outcome=ok())


def test_a_timed_out_attempt_is_retried() -> None:
    """The time-out bounds each attempt, so the policy decides whether there is another."""
    assert (
        Playbook(after(waiting(run(timeout_ms=50, attempts=2)), ADMIT), now=NOW + 50)
        >> StepDue(number=0)
        << row(0, state="backoff", due_at=NOW + 150, deadline_at=None)
        << CancelAttempt(0, epoch=1, attempt=1)
        << SetTimer(NOW + 150, 0)
    )


def test_an_attempt_belongs_to_the_epoch_of_its_start() -> None:
    """A takeover changes the workflow's epoch; an attempt that runs elsewhere still counts."""

    taken_over = replace(after(waiting(run()), ADMIT), epoch=7)
    assert Playbook(taken_over) >> ended(epoch=7) >> ended(epoch=1) << row(0, outcome=ok())


# --- delivery -----------------------------------------------------------------------------------


def test_a_delivery_takes_the_next_position_and_the_time() -> None:
    """The outcome's row gets position and stamp, and the step is no longer live."""
    book = Playbook(_settled(waiting(run())), now=NOW + 7)
    assert (
        book
        >> FactDelivered(fact=StepEnded(0, ok()))
        << row(0, delivered_position=1, delivered_at=NOW + 7, settled_at=NOW)
    )
    assert (book.state.position, book.state.stamp, book.state.live) == (1, NOW + 7, {})


def test_the_stamp_never_goes_back() -> None:
    """A clock that was set back does not show in the handler's time."""
    book = Playbook(_settled(waiting(run())), now=NOW - 500)
    assert book >> FactDelivered(fact=StepEnded(0, ok())) << row(0, delivered_at=NOW)
    assert book.state.stamp == NOW


def test_the_timer_of_the_handler_is_set_when_it_changes() -> None:
    """The handler's earliest timer goes into the state; an unchanged one sets no second timer."""
    book = Playbook(waiting())
    assert (
        book
        >> Asked(timer_at=NOW + 5)
        << SetTimer(NOW + 5)
        >> Asked(timer_at=NOW + 5)
        >> Asked(timer_at=NOW + 3)
        << SetTimer(NOW + 3)
        >> Asked()
    )
    assert book.state.timer_at is None


# --- children -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "id"), [(None, "w/0@1"), ("mine", "mine")])
def test_a_child_is_started_under_its_id(given: str | None, id: str) -> None:
    """An id that was not given is derived from workflow, step and epoch."""
    begun = after(fresh(), FactDelivered(fact=Started()))
    command = child(child_id=given)
    assert (
        Playbook(begun)
        >> asked(command)
        << StartChild(0, id, command)
        << row(0, is_new=True, state="asked", child_id=id, due_at=None)
    )


def test_only_its_own_child_settles_a_step() -> None:
    """The outcome of a child with another id (from before a restart) is dropped."""
    other = ChildEnded(number=0, child_id="w/0@0", outcome=ok("2"), accepted_at=NOW)
    own = ChildEnded(number=0, child_id="w/0@1", outcome=ok(), accepted_at=NOW + 1)
    assert (
        Playbook(waiting(child()))
        >> other
        >> own
        << row(0, state="settled", outcome=ok(), settled_at=NOW + 1)
        >> own
    )


# --- cancelling a step --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("situation", "told"),
    [
        ("run_at", []),
        ("sleep", []),
        ("event", []),
        ("ready", []),
        ("backoff", []),
        ("settled", []),
        ("started", [CancelAttempt(0, epoch=1, attempt=1)]),
    ],
)
def test_a_cancelled_step_ends_as_canceled(situation: str, told: list[object]) -> None:
    """The row keeps where the handler cancelled it; a running attempt is told; nothing follows."""
    book = Playbook(SITUATIONS[situation])
    book = (
        book
        >> Asked(cancels=(CancelStep(0),))
        << row(0, state="settled", outcome=Canceled(), canceled_position=0, due_at=None)
    )
    for effect in told:
        book = book << effect
    assert book >> ended() >> StepDue(number=0) >> ADMIT
    assert (book.state.live, next_fact(book.state, NOW + 99)) == ({}, None)


def test_a_cancelled_child_step_cancels_the_child() -> None:
    """The child is canceled in the same transaction, and what it reports is dropped."""
    assert (
        Playbook(waiting(child()))
        >> Asked(cancels=(CancelStep(0),))
        << CancelChild(0, "w/0@1")
        << row(0, state="settled", outcome=Canceled(), canceled_position=0)
        >> ChildEnded(number=0, child_id="w/0@1", outcome=ok(), accepted_at=NOW)
    )


def test_a_step_may_be_cancelled_in_the_reaction_that_asked_for_it() -> None:
    """Asked and cancelled at once: both are recorded, with the same position."""
    begun = after(fresh(), FactDelivered(fact=Started()))
    book = Playbook(begun)
    commands: tuple[tuple[int, StepCommand], ...] = ((0, sleep(NOW + 5)), (1, await_event()))
    assert (
        book
        >> Asked(steps=commands, cancels=(CancelStep(0),))
        << row(0, is_new=True, asked_position=0)
        << row(0, outcome=Canceled(), canceled_position=0)
        << row(1, is_new=True)
        << SetTimer(NOW + 5, 0)
        >> At(NOW + 5)
        >> StepDue(number=0)
    )
    assert (book.state.next_number, set(book.state.live)) == (2, {1})
