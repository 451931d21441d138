"""A workflow that runs for real, without worker and store: transition, next_fact and Handler.

`LiveRun` delivers facts to a handler as the worker does, keeps the rows that a store would keep,
and can drop the handler at any moment and build it again from those rows. `Steps` is the little
that a handler of these tests holds. Values are JSON; what runs outside is played by the test:

    run = LiveRun(main)
    run.answer("f", 1)          # the function f returned 1
    run.event("e", 2)           # somebody sent the event e
    run.later(1_000)            # a second passes
    assert run.value == 3

Not here: permits, owners, commits, fencing, which belong to the worker.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import attrs
from msgspec.structs import replace
from tests.core.playbook import NOW, fresh, run

from perdure.core.commands import AwaitEvent, RunChild, Sleep, StepCommand
from perdure.core.effects import PutStep, PutTick, Write
from perdure.core.journal import Delivery, Journal, StepRecord, TickRecord
from perdure.core.messages import (
    Asked,
    AttemptEnded,
    ChildEnded,
    EventSent,
    FactDelivered,
    HandlerBlocked,
    Message,
    SentEvent,
    StepAdmitted,
    StepDue,
)
from perdure.core.outcomes import Failed, Outcome, Succeeded
from perdure.core.replay import Handler, Raise, Reaction, StepFuture, Value
from perdure.core.transition import transition
from perdure.core.workflow import due_timers, next_fact, next_wake
from perdure.errors import ErrorInfo


class StepError(Exception):
    """What a failed step raises in the handlers of these tests."""


class StepWasCanceled(Exception):
    """What a step raises that was canceled from outside the handler."""


@attrs.frozen
class Steps:
    """What the handlers of these tests hold: each method asks for a step, at once."""

    handler: Handler

    def run(self, name: str = "f", *arguments: Any, attempts: int = 1) -> StepFuture:
        """An action."""
        return self.ask(run(name, arguments=json.dumps(arguments), attempts=attempts))

    def child(self, name: str = "child") -> StepFuture:
        """A child workflow."""
        return self.ask(RunChild(name=name, function=name, arguments="{}"))

    def sleep(self, ms: int) -> StepFuture:
        """A durable sleep."""
        return self.ask(Sleep(name="sleep", due_at=self.handler.loop.now_ms + ms))

    def event(self, name: str = "e", *, timeout_ms: int | None = None) -> StepFuture:
        """The next event of this name."""
        due_at = None if timeout_ms is None else self.handler.loop.now_ms + timeout_ms
        return self.ask(AwaitEvent(name=name, event_name=name, due_at=due_at))

    def ask(self, command: StepCommand) -> StepFuture:
        """Any command."""
        return self.handler.ask(command, resolve)


Main: TypeAlias = Callable[[Steps], Coroutine[Any, Any, Any]]


def resolve(outcome: Outcome) -> Value | Raise:
    """A fresh decode of what is recorded; raises ValueError for what is no JSON."""
    if isinstance(outcome, Succeeded):
        return Value(json.loads(outcome.value))
    if isinstance(outcome, Failed):
        if outcome.error.type == "TimeoutError":
            return Raise(TimeoutError(outcome.error.message))
        return Raise(StepError(outcome.error.message))
    return Raise(StepWasCanceled())


def launch(main: Main) -> Callable[[Handler], Coroutine[Any, Any, Outcome]]:
    """What `Handler` starts: `main`, with its end turned into an outcome."""

    async def launched(handler: Handler) -> Outcome:
        try:
            return Succeeded(json.dumps(await main(Steps(handler))))
        except Exception as error:
            return Failed(ErrorInfo(type(error).__name__, str(error)))

    return launched


class LiveRun:
    """One workflow from its start on.

    Args:
        main: the handler.
        is_started: deliver the first fact at once.

    Attributes:
        state: as the last decision left it.
        now: the time; `later` moves it on.
        steps, ticks: the rows that are stored.
        reactions: what the handler was given, and what it did with it, one for each position.
        writes: all writes but those of rows.
    """

    def __init__(self, main: Main, *, is_started: bool = True) -> None:
        self.main = main
        self.state = fresh()
        self.now = NOW
        self.steps: dict[int, StepRecord] = {}
        self.ticks: list[TickRecord] = []
        self.reactions: list[tuple[Delivery, Reaction]] = []
        self.writes: list[Write] = []
        self.handler = Handler("w", launch(main), self.journal(), NOW)
        self._sequence = 0
        if is_started:
            self.advance()

    # --- what happens outside -----------------------------------------------------------------

    def send(self, message: Message, *, is_late: bool = False) -> None:
        """A message arrives; `is_late`: what follows from it is not delivered yet."""
        self._apply(message)
        if not is_late:
            self.advance()

    def answer(self, key: str | int, value: Any = None, *, is_late: bool = False) -> None:
        """The first open step with this name, or number, runs and returns `value`.

        An exception as `value` is raised by it.
        """
        record = self.open_step(key)
        outcome: Outcome
        if isinstance(value, Exception):
            outcome = Failed(ErrorInfo(type(value).__name__, str(value)))
        else:
            outcome = Succeeded(json.dumps(value))
        self.settle(record.number, outcome, is_late=is_late)

    def settle(self, number: int, outcome: Outcome, *, is_late: bool = False) -> None:
        """The open step `number`, an action or a child, ends like this."""
        record = self.state.live[number]
        if record.child_id is not None:
            message: Message = ChildEnded(
                number=number, child_id=record.child_id, outcome=outcome, accepted_at=self.now
            )
        else:
            if record.state == "ready":
                self._apply(StepAdmitted(number=number, runner="worker"))
                record = self.state.live[number]
            assert record.started_epoch is not None, record
            message = AttemptEnded(
                number=number,
                epoch=record.started_epoch,
                attempt=record.attempt,
                outcome=outcome,
                accepted_at=self.now,
            )
        self.send(message, is_late=is_late)

    def event(self, name: str = "e", value: Any = None, *, is_late: bool = False) -> None:
        """An event is sent."""
        self._sequence += 1
        event = SentEvent(
            event_id=f"e{self._sequence}",
            name=name,
            sequence=self._sequence,
            sent_at=self.now,
            outcome=Succeeded(json.dumps(value)),
        )
        self.send(EventSent(event=event), is_late=is_late)

    def later(self, ms: int) -> None:
        """Time passes: whatever is due by then happens, each at its own time."""
        until = self.now + ms
        while (at := self.next_at()) is not None and at <= until:
            self.now = max(self.now, at)
            self.tick()
        self.now = until

    def tick(self) -> None:
        """All timers that are due now go off, in the order in which they were due."""
        timers = [timer for timer in due_timers(self.state) if timer.due_at <= self.now]
        for timer in sorted(timers, key=lambda timer: timer.due_at):
            if timer.number is not None:
                self._apply(StepDue(number=timer.number))
        self.advance()

    def next_at(self) -> int | None:
        """When something happens by itself, None if nothing will."""
        if self.state.status != "in_progress" or self.state.blocked is not None:
            return None
        return next_wake(replace(self.state, live=self._timed()))

    def open_step(self, key: str | int) -> StepRecord:
        """The first step of this name or number that something outside can end."""
        for record in self.state.live.values():
            if key in (record.number, record.command.name) and record.state != "settled":
                return record
        raise AssertionError(f"no open step {key!r} in {self.state.live}")

    def advance(self) -> None:
        """Deliver all that can be delivered, as the worker does."""
        before = self.state, dict(self.steps), list(self.ticks)
        reactions, writes = len(self.reactions), len(self.writes)
        while (fact := next_fact(self.state, self.now)) is not None:
            self._apply(FactDelivered(fact=fact))
            delivery = Delivery(self.state.position, self.state.stamp, fact)
            reaction = self.handler.deliver(delivery)
            if isinstance(reaction, HandlerBlocked):
                # Nothing of what was delivered is journaled.
                self.state, self.steps, self.ticks = before
                del self.reactions[reactions:], self.writes[writes:]
                self._apply(reaction)
                self.handler.close()
                return
            self.reactions.append((delivery, reaction))
            self._apply(reaction)

    # --- what became of it --------------------------------------------------------------------

    @property
    def value(self) -> Any:
        """What the handler returned."""
        assert isinstance(self.state.outcome, Succeeded), self.state
        return json.loads(self.state.outcome.value)

    @property
    def error(self) -> ErrorInfo:
        """What the handler raised, or why it is blocked."""
        if self.state.blocked is not None:
            return self.state.blocked.error
        assert isinstance(self.state.outcome, Failed), self.state
        return self.state.outcome.error

    @property
    def open_names(self) -> list[str]:
        """The names of the steps without an outcome, by number."""
        return [r.command.name for r in self.state.live.values() if r.state != "settled"]

    def journal(self, upto: int | None = None) -> Journal:
        """The rows as they were when position `upto` was committed, by default the last one."""
        if upto is None:
            upto = self.state.position
        if upto < 0:
            return Journal(None, (), ())
        steps = [self._as_of(record, upto) for _, record in sorted(self.steps.items())]
        kept = [record for record in steps if record.asked_position <= upto]
        ticks = [tick for tick in self.ticks if tick.position <= upto]
        return Journal(self.state.started_at, kept, ticks)

    def replayed(
        self, upto: int | None = None, main: Main | None = None
    ) -> tuple[Handler, Reaction]:
        """A new handler, run through the journal up to `upto`, perhaps with other code."""
        start = self.state.started_at
        handler = Handler(
            "w", launch(main or self.main), self.journal(upto), NOW if start is None else start
        )
        return handler, handler.replay()

    def crash(self, main: Main | None = None) -> None:
        """Drop the handler and go on with a new one from the journal, perhaps with other code."""
        self.handler.close()
        self.main = main or self.main
        self.handler, reaction = self.replayed()
        self._apply(reaction)
        if isinstance(reaction, HandlerBlocked):
            self.handler.close()
        else:
            self.advance()

    # --- inside -------------------------------------------------------------------------------

    def _apply(self, message: Message) -> None:
        decision = transition(self.state, message, self.now)
        decision.state.check()
        self.state = decision.state
        for write in decision.writes:
            match write:
                case PutStep():
                    number = write.record.number
                    assert write.is_new == (number not in self.steps), write
                    self.steps[number] = write.record
                case PutTick():
                    self.ticks.append(TickRecord(write.position, write.now))
                case _:
                    self.writes.append(write)

    def _timed(self) -> dict[int, StepRecord]:
        """The steps that wait for a time: a ready one waits for the pool."""
        return {n: r for n, r in self.state.live.items() if r.state != "ready"}

    @staticmethod
    def _as_of(record: StepRecord, position: int) -> StepRecord:
        """The row before all that came after `position`."""
        if record.canceled_position is not None and record.canceled_position > position:
            record = replace(record, canceled_position=None)
        if record.delivered_position is not None and record.delivered_position > position:
            record = replace(record, delivered_position=None, delivered_at=None)
        return record


def check_replays(run: LiveRun) -> None:
    """The law of replay: from any prefix of the journal, the handler does the same again.

    For each position: a handler built from all before it, and given its fact, reacts as the live
    one did; and one built from all up to it has nothing more to say and waits for the same time.
    """
    for delivery, reaction in run.reactions:
        handler, _ = run.replayed(delivery.position - 1)
        again = handler.deliver(delivery)
        handler.close()
        assert again == reaction, (delivery, again, reaction)
        handler, quiet = run.replayed(delivery.position)
        handler.close()
        if isinstance(reaction, Asked):
            assert quiet == Asked(timer_at=reaction.timer_at), (delivery, quiet)
        else:
            assert not isinstance(reaction, HandlerBlocked)
            silent = replace(reaction, steps=(), cancels=())
            assert quiet == silent, (delivery, quiet)


# --- handlers that several files play with ------------------------------------------------------


async def two_in_a_row(steps: Steps) -> Any:
    """One after the other, the second with the first one's result."""
    first = await steps.run("f")
    return await steps.run("g", first)


async def both(steps: Steps) -> Any:
    """Two at once."""
    return await asyncio.gather(steps.run("f"), steps.run("g"))


async def cancels(steps: Steps) -> Any:
    """Cancels one of two steps when the third has ended."""
    doomed, kept = steps.run("doomed"), steps.run("kept")
    await steps.run("f")
    doomed.cancel()
    return await kept
