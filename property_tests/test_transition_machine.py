"""The transition under random messages in random order, stale, foreign and repeated ones too.

There is no handler here: what it asks for is drawn, under the rules that a handler keeps (dense
numbers, cancels of what it was not told of yet).
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace
from tests.core.playbook import NOW, fresh, outputs

from perdure.core.commands import AwaitEvent, CancelStep, RunChild, RunStep, Sleep, StepCommand
from perdure.core.draft import Decision, Draft
from perdure.core.effects import (
    CallFunction,
    CallOnComplete,
    ConsumeEvent,
    PutStep,
    PutTick,
    RunAttempt,
    TellParent,
)
from perdure.core.journal import StepRecord
from perdure.core.limits import Limits
from perdure.core.messages import (
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
    SentEvent,
    StepAdmitted,
    StepDue,
)
from perdure.core.outcomes import Canceled, Failed, Outcome, Succeeded
from perdure.core.retry import RetryPlan
from perdure.core.transition import advance, transition
from perdure.core.workflow import (
    STEP_EDGES,
    WorkflowState,
    due_timers,
    is_parkable,
    next_fact,
    next_time,
)
from perdure.errors import ErrorInfo

ERROR = ErrorInfo("ValueError", "boom")
OUTCOMES: st.SearchStrategy[Outcome] = st.sampled_from(
    [Succeeded("1"), Succeeded("2"), Failed(ERROR)]
)
#: A step: mostly one that is live, see `TransitionMachine.pick`.
PICKS = st.integers(0, 11)
#: How far a report is off the attempt that runs: mostly not at all.
OFF = st.sampled_from([0, 0, 0, 0, -1, 1])
#: Relative to the present.
DUE = st.none() | st.integers(-20, 60)

RUNS = st.builds(
    lambda kind, attempts, due, timeout: RunStep(
        kind=kind,
        name="f",
        function="f",
        arguments="{}",
        due_at=due,
        timeout_ms=timeout,
        retry=RetryPlan(max_attempts=attempts, initial_ms=10, base=2.0, jitter=True),
    ),
    st.sampled_from(["action", "action", "mutation"]),
    st.integers(1, 3),
    DUE,
    st.none() | st.integers(0, 40),
)
COMMANDS: st.SearchStrategy[Any] = st.one_of(
    RUNS,
    st.builds(Sleep, name=st.just("sleep"), due_at=st.integers(-20, 60)),
    st.builds(AwaitEvent, name=st.just("e"), event_name=st.sampled_from("ab"), due_at=DUE),
    st.builds(AwaitEvent, name=st.just("e"), event_id=st.sampled_from(["e0", "e1"]), due_at=DUE),
    st.builds(RunChild, name=st.just("c"), function=st.just("c"), arguments=st.just("{}")),
)


class TransitionMachine(RuleBasedStateMachine):
    """One workflow, whatever reaches it; the model is a few dicts that only grow."""

    @initialize(parent=st.booleans(), commands=st.lists(COMMANDS, min_size=1, max_size=3))
    def begin(self, parent: bool, commands: list[Any]) -> None:
        """A new workflow, with or without a parent."""
        told = {"parent_id": "p", "parent_number": 0} if parent else {}
        self.state = fresh(on_complete="done", **told)
        self.now = NOW
        self.rows: dict[int, StepRecord] = {}
        self.positions: list[int] = []
        self.attempts: dict[int, list[int]] = {}
        self.consumed: list[str] = []
        self.ends: list[object] = []
        self.sequence = 0
        self.draft, self.draft_size = Draft.of(self.state, NOW, Limits()), 0
        self.drafted = Decision(self.state)
        self.deliver(commands, [], None)

    # --- messages -----------------------------------------------------------------------------

    @rule(ms=st.integers(-10, 30))
    def time_passes(self, ms: int) -> None:
        """Nothing happens by itself: timers are messages. A clock may also be set back."""
        self.now += ms

    @rule(
        commands=st.lists(COMMANDS, min_size=1, max_size=3),
        cancels=st.lists(PICKS, max_size=1),
        timer=st.none() | st.integers(-5, 40),
    )
    def deliver(self, commands: list[Any], cancels: list[int], timer: int | None) -> None:
        """The handler is given the next fact, if there is one, and reacts."""
        fact = next_fact(self.state, self.now)
        if fact is None:
            return
        self.send(FactDelivered(fact=fact))
        self.positions.append(self.state.position)
        steps, cancelled = self._reaction(commands, cancels)
        at = None if timer is None else self.now + timer
        self.send(Asked(steps=steps, cancels=cancelled, timer_at=at))

    @rule(commands=st.lists(COMMANDS, max_size=1), outcome=OUTCOMES, chance=st.integers(0, 9))
    def end(self, commands: list[Any], outcome: Outcome, chance: int) -> None:
        """The handler is given a fact and ends; not too often, or there is little to see."""
        fact = next_fact(self.state, self.now)
        if fact is None or chance:
            return
        self.send(FactDelivered(fact=fact))
        self.positions.append(self.state.position)
        steps, _ = self._reaction(commands, [])
        self.send(Ended(outcome=outcome, steps=steps))

    @rule(number=PICKS)
    def admit(self, number: int) -> None:
        """The pool lets a step start; a mutation runs, and is answered, at once."""
        number = self.pick(number)
        decision = self.send(StepAdmitted(number=number, runner="w1"))
        if CallFunction(number) in decision.writes:
            self.send(FunctionEnded(number=number, outcome=Succeeded("1")))

    @rule(
        number=PICKS,
        epoch_off=OFF,
        attempt_off=OFF,
        outcome=OUTCOMES,
        is_retryable=st.sampled_from([True, True, False]),
        age=st.integers(0, 20),
    )
    def report(
        self,
        number: int,
        epoch_off: int,
        attempt_off: int,
        outcome: Outcome,
        is_retryable: bool,
        age: int,
    ) -> None:
        """Some attempt ended: the one that runs, or an earlier, a later, or a foreign one."""
        number = self.pick(number)
        attempt = self.attempt_of(number) + attempt_off
        decision = self.send(
            AttemptEnded(
                number=number,
                epoch=1 + epoch_off,
                attempt=attempt,
                outcome=outcome,
                accepted_at=self.now - age,
                is_retryable=is_retryable,
            )
        )
        assert not ((epoch_off or attempt_off) and decision.writes), "it is not the one that runs"

    @rule(number=PICKS, epoch_off=OFF, attempt_off=OFF)
    def lose(self, number: int, epoch_off: int, attempt_off: int) -> None:
        """The worker of some attempt died."""
        number = self.pick(number)
        attempt = self.attempt_of(number) + attempt_off
        decision = self.send(
            AttemptLost(number=number, epoch=1 + epoch_off, attempt=attempt, accepted_at=self.now)
        )
        assert not ((epoch_off or attempt_off) and decision.writes), "it is not the one that runs"

    @rule(number=PICKS, epoch_off=OFF, attempt_off=OFF)
    def take(self, number: int, epoch_off: int, attempt_off: int) -> None:
        """Another worker has started some step; its row is written already."""
        number = self.pick(number)
        before = self.state.live.get(number)
        attempt = (0 if before is None else before.attempt) + 1 + attempt_off
        decision = self.send(
            AttemptStarted(
                number=number,
                epoch=1 + epoch_off,
                attempt=attempt,
                runner="other",
                started_at=self.now,
            )
        )
        assert not decision.writes
        after = self.state.live.get(number)
        if after != before:
            assert after is not None and before is not None
            assert before.state == "ready" and not (epoch_off or attempt_off)
            self.rows[number] = after
            self._check_start(after)

    @rule(name=st.sampled_from("ab"), outcome=OUTCOMES, age=st.integers(0, 20))
    def send_event(self, name: str, outcome: Outcome, age: int) -> None:
        """An event, sent a while ago."""
        event = SentEvent(
            event_id=f"e{self.sequence}",
            name=name,
            sequence=self.sequence,
            sent_at=self.now - age,
            outcome=outcome,
        )
        self.sequence += 1
        self.send(EventSent(event=event))

    @rule(number=PICKS)
    def event_is_missing(self, number: int) -> None:
        """An await by id cannot get its event, or so it is told late."""
        self.send(EventMissing(number=self.pick(number), error=ERROR))

    @rule(number=PICKS, epoch=st.sampled_from([0, 1]), outcome=OUTCOMES)
    def child_ends(self, number: int, epoch: int, outcome: Outcome) -> None:
        """The child of some step ended, or one of before a restart."""
        number = self.pick(number)
        self.send(
            ChildEnded(
                number=number, child_id=f"w/{number}@{epoch}", outcome=outcome, accepted_at=self.now
            )
        )

    @rule(number=PICKS)
    def timer(self, number: int) -> None:
        """A timer goes off, at the right time or not."""
        number = self.pick(number)
        record = self.state.live.get(number)
        if self.send(StepDue(number=number)).writes:
            assert record is not None
            due_at = next_time(record)
            assert due_at is not None
            assert due_at <= self.now, "never early"

    @rule(ms=st.integers(0, 60))
    def due(self, ms: int) -> None:
        """Time passes, and all timers that are due go off."""
        self.now += ms
        for timer in due_timers(self.state):
            if timer.number is not None and timer.due_at <= self.now:
                self.send(StepDue(number=timer.number))

    @rule()
    def block(self) -> None:
        """The handler's code does not fit."""
        self.send(HandlerBlocked(error=ERROR))

    @precondition(lambda self: self.state.position > 3)
    @rule(message=st.sampled_from([CancelWorkflow(epoch=2), FailWorkflow(error=ERROR)]))
    def stop(self, message: Message) -> None:
        """Somebody ends it from outside."""
        self.send(message)

    # --- what always holds --------------------------------------------------------------------

    @invariant()
    def the_state_is_sound(self) -> None:
        """Its own invariants hold."""
        if hasattr(self, "state"):
            self.state.check()

    @invariant()
    def positions_are_dense(self) -> None:
        """Each delivered fact took the next position, and each is in at most one row."""
        if hasattr(self, "state"):
            assert self.positions == list(range(self.state.position + 1))
            rows = [r.delivered_position for r in self.rows.values()]
            delivered = [position for position in rows if position is not None]
            assert len(set(delivered)) == len(delivered)

    @invariant()
    def a_parkable_workflow_has_nothing_to_do(self) -> None:
        """What may be parked has no fact to deliver, and nothing that runs or may start."""
        if hasattr(self, "state") and is_parkable(self.state, self.now):
            assert next_fact(self.state, self.now) is None
            assert not {r.state for r in self.state.live.values()} & {"ready", "started", "settled"}

    # --- inside -------------------------------------------------------------------------------

    def pick(self, number: int) -> int:
        """A live step for the lower picks; the number itself, which may be any, for the others."""
        live = sorted(self.state.live)
        return live[number % len(live)] if live and number < 9 else number

    def attempt_of(self, number: int) -> int:
        """The number of the attempt that was started last."""
        return self.attempts.get(number, [1])[-1]

    def send(self, message: Message) -> Decision:
        """One transition, with everything about it checked."""
        before = self.state
        decision = transition(before, message, self.now)
        self.state = decision.state
        self._check_draft(before, message, decision)
        if before.outcome is not None:
            assert (decision.state, outputs(decision)) == (before, [])
        for write in decision.writes:
            if isinstance(write, PutStep):
                self._check_row(write)
            elif isinstance(write, PutTick):
                assert write.position == self.state.position
                assert write.now >= before.stamp
            elif isinstance(write, ConsumeEvent):
                assert write.event_id not in self.consumed
                self.consumed.append(write.event_id)
            elif isinstance(write, CallOnComplete | TellParent):
                assert write.outcome == self.state.outcome
                assert type(write) not in self.ends
                self.ends.append(type(write))
        for effect in decision.effects:
            if isinstance(effect, RunAttempt):
                self._check_start(effect.record)
        assert self.state.stamp >= before.stamp
        assert self.state.journal_bytes >= before.journal_bytes
        return decision

    def _check_draft(self, before: WorkflowState, message: Message, decision: Decision) -> None:
        """All messages of one time on one draft come to what one after the other do."""
        if self.draft.now != self.now or self.draft_size >= 8:
            self.draft, self.draft_size = Draft.of(before, self.now, Limits()), 0
            self.drafted = Decision(before)
        advance(self.draft, message)
        self.draft_size += 1
        self.drafted = Decision(
            decision.state,
            self.drafted.writes + decision.writes,
            self.drafted.effects + decision.effects,
            self.drafted.ready + decision.ready,
        )
        assert self.draft.decision(before) == self.drafted

    def _check_row(self, write: PutStep) -> None:
        new, old = write.record, self.rows.get(write.record.number)
        assert write.is_new == (old is None)
        assert (None if old is None else old.state, new.state) in STEP_EDGES
        assert (new.state == "settled") == (new.outcome is not None)
        if old is None:
            assert new.number == len(self.rows), "numbers are dense"
        elif old.outcome is not None and old.outcome != new.outcome:
            assert (new.outcome, old.delivered_position) == (Canceled(), None)
            assert new.canceled_position is not None, "only the handler's cancel takes it back"
        if old is not None and old.delivered_position is not None:
            raise AssertionError(f"written after its delivery: {old} {new}")
        self.rows[new.number] = new

    def _check_start(self, record: StepRecord) -> None:
        assert isinstance(record.command, RunStep)
        starts = self.attempts.setdefault(record.number, [])
        starts.append(record.attempt)
        assert starts == list(range(1, len(starts) + 1)), "attempts are counted one by one"
        assert len(starts) <= record.command.retry.max_attempts
        assert self.rows[record.number] == record, "recorded as it runs"

    def _reaction(
        self, commands: list[Any], cancels: list[int]
    ) -> tuple[tuple[tuple[int, StepCommand], ...], tuple[CancelStep, ...]]:
        first = self.state.next_number
        steps = tuple(
            (number, self._absolute(command)) for number, command in enumerate(commands, first)
        )
        known = [
            n
            for n in map(self.pick, cancels)
            if n in self.state.live or first <= n < first + len(steps)
        ]
        return steps, tuple(CancelStep(number) for number in known)

    def _absolute(self, command: Any) -> StepCommand:
        """The command with its due time counted from now."""
        if getattr(command, "due_at", None) is None:
            return command  # type: ignore[no-any-return]
        return replace(command, due_at=self.now + command.due_at)  # type: ignore[no-any-return]


TestTransitionMachine = TransitionMachine.TestCase
TestTransitionMachine.settings = settings(max_examples=300, stateful_step_count=50)
