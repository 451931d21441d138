"""Drives `Worker.turn` by hand: no thread, no real clock, a runner whose attempts a test ends.

A `Rig` is one worker (or, with `works=False`, a client) on a store. Several rigs on one file act
as several processes: each has its own connection, and the lock files are locked per open file.
`FaultyStore` is the SQLite store with trouble on demand. Nothing is asserted here beside
`settle`, which finds a worker that never comes to rest.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

from perdure.codec import plain
from perdure.core.commands import RunStep
from perdure.core.ids import WorkflowId
from perdure.core.limits import Limits
from perdure.core.messages import AttemptEnded
from perdure.core.outcomes import Failed, Outcome, Succeeded
from perdure.core.retry import RetryPolicy
from perdure.core.workflow import WorkflowState
from perdure.definitions import Call, Definer
from perdure.errors import ErrorInfo, StoreError
from perdure.runtime.attempts import Attempt, AttemptKey
from perdure.runtime.contexts import make_context
from perdure.runtime.event_operations import EventOrder
from perdure.runtime.mailbox import Mailbox, Post, Ticket
from perdure.runtime.orders import event_order, start_order
from perdure.runtime.requests import Cancel, RunFunction, UpdateConfig
from perdure.runtime.scope import Env
from perdure.runtime.worker import Worker
from perdure.step import StepRules
from perdure.store.base import Reader, Transaction
from perdure.store.sqlite import SqliteStore

#: Where every clock of these tests starts: a round number that is easy to add to.
NOW = 1_000_000

#: Turns after which a worker that still finds work is taken to run hot.
TURNS_MAX = 200

#: Seconds that a ticket may wait, as in the engine.
BUSY_SECONDS = 30.0


class FakeClock:
    """A clock that a test moves. Rigs that share one also share the sequence of new ids."""

    def __init__(self) -> None:
        self.now = NOW
        self._ids = 0

    def now_ms(self) -> int:
        return self.now

    def monotonic(self) -> float:
        return self.now / 1000

    def new_id(self) -> str:
        self._ids += 1
        return f"id{self._ids:04}"

    def advance(self, ms: int) -> None:
        self.now += ms


class FakeRunner:
    """Runs nothing: the test says how each attempt ends."""

    def __init__(self, clock: FakeClock, mailbox: Mailbox) -> None:
        self._clock = clock
        self._mailbox = mailbox
        self.open: dict[AttemptKey, Attempt] = {}
        self.started: list[AttemptKey] = []
        self.cancelled: list[AttemptKey] = []

    @property
    def running(self) -> int:
        return len(self.open)

    def start(self, attempts: Sequence[Attempt]) -> None:
        for attempt in attempts:
            assert attempt.key not in self.started, "an attempt was started twice"
            self.open[attempt.key] = attempt
            self.started.append(attempt.key)

    def attempts(self) -> list[Attempt]:
        return list(self.open.values())

    def cancel(self, key: AttemptKey) -> None:
        self.cancelled.append(key)

    def names(self) -> list[str]:
        """The functions of the open attempts, in the order of their start."""
        commands = [attempt.record.command for attempt in self.open.values()]
        return [command.function for command in commands if isinstance(command, RunStep)]

    def end(self, outcome: Outcome, key: AttemptKey | None = None, **options: Any) -> None:
        """End an open attempt (by default the oldest)."""
        key = next(iter(self.open)) if key is None else key
        workflow_id, number, epoch, count = key
        del self.open[key]
        message = AttemptEnded(
            number=number,
            epoch=epoch,
            attempt=count,
            outcome=outcome,
            accepted_at=self._clock.now_ms(),
            **options,
        )
        self._mailbox.put(Post(workflow_id, message))

    def succeed(self, text: str = "null", key: AttemptKey | None = None) -> None:
        """End an attempt with a value, given as JSON text."""
        self.end(Succeeded(text), key)

    def fail(self, type: str = "OSError", message: str = "boom", **options: Any) -> None:
        """End the oldest attempt with an error."""
        self.end(Failed(ErrorInfo(type, message)), **options)


Where = Literal["begin", "commit", "applied", "passes"]


class FaultyStore(SqliteStore):
    """The SQLite store, whose next transactions and reads fail as planned.

    ``"begin"``: nothing happened. ``"commit"``: the work was done and rolled back.
    ``"applied"``: it was committed, but the caller is told that it was not.

    Attributes:
        commits: how many there were.
        alone: those of them that were asked for by `write_alone`.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, durability="process")
        self.plan: deque[tuple[Where, StoreError | None]] = deque()
        self.reads: deque[StoreError | None] = deque()
        self.commits = 0
        self.alone = 0

    def fail(self, where: Where, error: StoreError) -> None:
        """Have the next transaction that is not yet planned fail."""
        self.plan.append((where, error))

    def let_pass(self, count: int = 1) -> None:
        """Let some transactions through before the next failure."""
        self.plan.extend([("passes", None)] * count)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        where, error = self.plan.popleft() if self.plan else ("passes", None)
        if where == "begin":
            assert error is not None
            raise error
        with super().transaction() as tx:
            yield tx
            if where == "commit":
                assert error is not None
                raise error
        self.commits += 1
        if where == "applied":
            assert error is not None
            raise error

    def write_alone(self, *args: Any, **kwargs: Any) -> bool:
        is_stored = super().write_alone(*args, **kwargs)
        self.alone += is_stored
        return is_stored

    def reader(self) -> Reader:
        error = self.reads.popleft() if self.reads else None
        if error is not None:
            raise error
        return super().reader()


@attrs.define
class Answer:
    """What came back for one request."""

    value: Any = None
    error: BaseException | None = None
    count: int = 0

    def __call__(self, value: Any, error: BaseException | None) -> None:
        self.value, self.error = value, error
        self.count += 1

    @property
    def is_open(self) -> bool:
        return self.count == 0


class Rig:
    """One worker, or one client, that a test drives.

    Attributes:
        ended_with: what the listener was told, by workflow.
        changes: what it was told of, while `is_watched`.
    """

    def __init__(
        self,
        definer: Definer,
        path: str | Path = ":memory:",
        *,
        clock: FakeClock | None = None,
        works: bool = True,
        limits: Limits = Limits(),
        parallelism: int | None = None,
    ) -> None:
        self.clock = clock or FakeClock()
        self.store = FaultyStore(str(path))
        self.store.open(max_parallelism=parallelism)
        self.mailbox = Mailbox()
        self.runner = FakeRunner(self.clock, self.mailbox)
        self.ended_with: dict[WorkflowId, Outcome] = {}
        self.is_watched = False
        self.changes: list[set[WorkflowId] | None] = []
        rules = StepRules(
            registry=definer.registry,
            limits=limits,
            default_retry=RetryPolicy(max_attempts=3, initial_backoff=1, jitter=False),
            retry_actions_by_default=False,
        )
        worker_id = self.clock.new_id() if works else None
        self.env = Env(
            rules=rules, clock=self.clock, make_context=make_context, worker_id=worker_id
        )
        if worker_id is not None:
            self.store.hold_worker(worker_id)
        runner = self.runner if works else None
        self.worker = Worker(self.env, self.store, self.mailbox, runner, self)
        if works:
            self.worker.register()

    @property
    def worker_id(self) -> str:
        assert self.env.worker_id is not None
        return self.env.worker_id

    # --- the listener

    def ended(self, workflow_id: WorkflowId, outcome: Outcome) -> None:
        self.ended_with[workflow_id] = outcome

    def changed(self, ids: Collection[WorkflowId] | None) -> None:
        self.changes.append(None if ids is None else set(ids))

    # --- driving

    def turn(self) -> bool:
        """One whole turn; whether there was anything to do."""
        # Time stands still between turns here: the worker would not look at the others' commits.
        self.worker._collecting._looked_at = float("-inf")
        return self.worker.run_turn()

    def settle(self) -> None:
        """Turns until the worker would sleep; fails if it never does."""
        for _ in range(TURNS_MAX):
            self.turn()
            if self.worker.next_wait(1.0) > 0:
                return
        raise AssertionError(f"the worker runs hot: {TURNS_MAX} turns, and it would not sleep")

    def pass_time(self, ms: int) -> None:
        """Let time pass, then settle."""
        self.clock.advance(ms)
        self.settle()

    def die(self) -> None:
        """Vanish as a killed process does: nothing is signed off, the lock is free."""
        self.store.release_worker(self.worker_id)
        self.worker.actors.drop_all()
        self.store.close()

    def close(self) -> None:
        """End in good order."""
        if self.env.worker_id is not None:
            self.worker.close()
        self.store.close()

    # --- asking

    def ask(self, request: Any) -> Answer:
        """Put a request into the mailbox."""
        answer = Answer()
        deadline = self.clock.monotonic() + BUSY_SECONDS
        self.mailbox.put(Ticket(request, answer, deadline))
        return answer

    def ask_start(self, call: Call[Any], **options: Any) -> Answer:
        known = {"id": None, "on_complete": None, "context": None} | options
        known = {"run_after": None, "run_at": None} | known
        return self.ask(start_order(self.env, call, now=self.clock.now, **known))

    def start(self, call: Call[Any], **options: Any) -> WorkflowId:
        """Start a workflow in a turn of its own."""
        answer = self.ask_start(call, **options)
        self.turn()
        workflow_id: WorkflowId = self.value(answer)
        return workflow_id

    def event(self, name: str, workflow_id: WorkflowId, value: Any = None) -> EventOrder:
        return event_order(
            self.env, name, workflow_id=workflow_id, id=None, value=value, error=None
        )

    def ask_event(self, name: str, workflow_id: WorkflowId, value: Any = None) -> Answer:
        return self.ask(self.event(name, workflow_id, value))

    def ask_cancel(self, workflow_id: WorkflowId) -> Answer:
        return self.ask(Cancel(workflow_id))

    def ask_run(self, call: Call[Any]) -> Answer:
        return self.ask(RunFunction(call.definition, call.encode()))

    def limit(self, max_parallelism: int) -> None:
        self.value(self.done(self.ask(UpdateConfig(max_parallelism))))

    def done(self, answer: Answer) -> Answer:
        """Run turns until the answer is there."""
        self.settle()
        assert answer.count == 1, answer
        return answer

    def value(self, answer: Answer) -> Any:
        """The answer's value, which must be there."""
        if answer.error is not None:
            raise answer.error
        assert answer.count == 1, answer
        return answer.value

    # --- looking

    def state(self, workflow_id: WorkflowId) -> WorkflowState:
        """The stored state, with open steps and events."""
        (loaded,) = self.store.reader().load([workflow_id])
        return loaded.state

    def outcome(self, workflow_id: WorkflowId) -> Any:
        """How a workflow ended, its value decoded; None while it runs."""
        outcome = self.state(workflow_id).outcome
        return plain(outcome.value) if isinstance(outcome, Succeeded) else outcome

    def error(self, workflow_id: WorkflowId) -> str:
        """The type of the error that a workflow failed with."""
        outcome = self.state(workflow_id).outcome
        assert isinstance(outcome, Failed), outcome
        return outcome.error.type

    def steps(self, workflow_id: WorkflowId) -> list[tuple[str, str, str | None]]:
        """Each step as (name, state, kind of its outcome)."""
        (loaded,) = self.store.reader().load([workflow_id])
        return [
            (step.command.name, step.state, step.outcome.kind if step.outcome is not None else None)
            for step in loaded.steps
        ]

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of a statement on the engine's connection."""
        with self.store.transaction() as tx:
            return list(tx.db.engine_execute(sql, values))


Maker = Callable[..., Rig]
