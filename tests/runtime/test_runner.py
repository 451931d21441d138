"""Running attempts: on a loop and in threads, what their exceptions mean, and cancellation.

The attempts are real, the time is not looked at: a test waits for the report of an attempt, never
for a moment.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.runtime.harness import NOW, FakeClock

from perdure.core.commands import RunStep
from perdure.core.journal import StepRecord
from perdure.core.limits import Limits
from perdure.core.messages import AttemptEnded
from perdure.core.outcomes import Failed, Outcome, Succeeded
from perdure.core.retry import RetryPolicy
from perdure.definitions import Call, Definer
from perdure.errors import NonRetryableError
from perdure.runtime.attempts import Attempt
from perdure.runtime.bridge import Bridge
from perdure.runtime.contexts import ActionContext, make_context
from perdure.runtime.mailbox import Mailbox, Post
from perdure.runtime.runner import ActionRunner, Threads
from perdure.runtime.scope import Env
from perdure.step import StepRules

d = Definer()


class DeclaredError(Exception):
    pass


class HarmlessError(Exception):
    pass


class WorseError(HarmlessError):
    pass


@d.action
async def double(ctx: ActionContext, n: int) -> int:
    return 2 * n


@d.action
def double_in_thread(ctx: ActionContext, n: int) -> int:
    assert threading.current_thread() is not threading.main_thread()
    return 2 * n


@d.action
async def about(ctx: ActionContext) -> list[Any]:
    return [ctx.workflow_id, ctx.step_number, ctx.attempt, ctx.idempotency_key]


ERRORS: dict[str, BaseException] = {
    "declared": DeclaredError(1, "two"),
    "plain": OSError("down"),
    "final": NonRetryableError("never again"),
    "harmless": HarmlessError(),
    "worse": WorseError(),
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt(),
    "cancelled": asyncio.CancelledError(),
}


@d.action(raises=DeclaredError)
async def fail(ctx: ActionContext, how: str) -> None:
    raise ERRORS[how]


@d.action(raises=DeclaredError)
def fail_in_thread(ctx: ActionContext, how: str) -> None:
    raise ERRORS[how]


@d.action
async def lie(ctx: ActionContext) -> int:
    return "not a number"  # type: ignore[return-value]


@d.action
async def talk(ctx: ActionContext) -> str:
    return "x" * 1000


@d.action
async def hang(ctx: ActionContext) -> None:
    await asyncio.get_running_loop().create_future()


@d.action
async def clean_up(ctx: ActionContext) -> str:
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        return "cleaned up"
    return "never"


class Inbox(Mailbox):
    """A mailbox that a test can wait at."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(lambda: None)
        self._loop = loop
        self._arrived: asyncio.Queue[AttemptEnded] = asyncio.Queue()

    def put(self, item: Any) -> None:
        assert isinstance(item, Post)
        assert isinstance(item.message, AttemptEnded)
        self._loop.call_soon_threadsafe(self._arrived.put_nowait, item.message)

    async def next(self) -> AttemptEnded:
        return await self._arrived.get()


class Bench:
    """A runner on the running loop."""

    def __init__(self, limits: Limits = Limits()) -> None:
        loop = asyncio.get_running_loop()
        self.inbox = Inbox(loop)
        self.bridge = Bridge(loop)
        rules = StepRules(
            registry=d.registry,
            limits=limits,
            default_retry=RetryPolicy(),
            retry_actions_by_default=False,
        )
        env = Env(rules=rules, clock=FakeClock(), make_context=make_context, worker_id="w")
        no_verbs: Any = None  # no action here uses them
        self.runner = ActionRunner(env, self.inbox, self.bridge, verbs=no_verbs)

    def attempt(self, call: Call[Any], **options: Any) -> Attempt:
        return attempt_of(call.definition.name, call.encode(), **options)

    async def run(self, call: Call[Any], **options: Any) -> AttemptEnded:
        self.runner.start([self.attempt(call, **options)])
        return await self.inbox.next()


def attempt_of(
    function: str, arguments: str, *, number: int = 0, policy: RetryPolicy = RetryPolicy()
) -> Attempt:
    command = RunStep(
        kind="action",
        name=function,
        function=function,
        arguments=arguments,
        retry=policy.plan(),
    )
    record = StepRecord(
        number=number,
        command=command,
        asked_position=0,
        asked_at=NOW,
        asked_epoch=7,
        state="started",
        attempt=2,
        started_epoch=8,
        runner="w",
    )
    return Attempt.of("wf", record)


def run(test: Callable[[Bench], Any], limits: Limits = Limits()) -> Any:
    """Run a test's coroutine on a loop of its own, with a bench."""

    async def main() -> Any:
        bench = Bench(limits)
        try:
            return await test(bench)
        finally:
            bench.runner.close()

    return asyncio.run(main())


def outcome_of(call: Call[Any], **options: Any) -> tuple[Outcome, bool]:
    """The outcome of one attempt, and whether it may be tried again."""
    ended = run(lambda bench: bench.run(call, **options))
    return ended.outcome, ended.is_retryable


@pytest.mark.parametrize("action", [double, double_in_thread])
def test_an_attempt_reports_its_value(action: Any) -> None:
    """`async def` runs on the loop, `def` in a thread; both report what they returned."""
    assert outcome_of(action(21))[0] == Succeeded("42")


def test_a_report_names_its_attempt() -> None:
    """Workflow, step, epoch of the start and attempt tell it from every other."""
    ended = run(lambda bench: bench.run(double(1), number=3))
    assert (ended.number, ended.epoch, ended.attempt, ended.accepted_at) == (3, 8, 2, NOW)


def test_the_context_knows_the_step() -> None:
    """Ids, attempt, and a key that depends on the epoch of the first ask, not on the attempt."""
    assert outcome_of(about())[0] == Succeeded('["wf",0,2,"wf/0@7"]')


@pytest.mark.parametrize("action", [fail, fail_in_thread])
@pytest.mark.parametrize(
    ("how", "type_name", "is_retryable"),
    [
        ("plain", "OSError", True),
        ("declared", "DeclaredError", False),
        ("final", "NonRetryableError", False),
        ("harmless", "HarmlessError", False),
        ("worse", "WorseError", False),
        ("exit", "SystemExit", True),
        ("interrupt", "KeyboardInterrupt", True),
        ("cancelled", "CancelledError", True),
    ],
)
def test_what_an_exception_means(action: Any, how: str, type_name: str, is_retryable: bool) -> None:
    """Every exception fails the attempt, and only it; some end the step's retries."""
    policy = RetryPolicy(non_retryable=(HarmlessError,))
    outcome, retryable = outcome_of(action(how), policy=policy)
    assert isinstance(outcome, Failed)
    assert (outcome.error.type, retryable) == (type_name, is_retryable)
    assert (outcome.error.arguments is not None) == (how == "declared")


@pytest.mark.parametrize(
    ("call", "limits", "type_name"),
    [(lie(), Limits(), "ValidationError"), (talk(), Limits(value_bytes=500), "LimitExceeded")],
)
def test_a_bad_result_is_not_repeated(call: Call[Any], limits: Limits, type_name: str) -> None:
    """The work was done; to do it again would give the same."""
    ended = run(lambda bench: bench.run(call), limits)
    assert isinstance(ended.outcome, Failed)
    assert (ended.outcome.error.type, ended.is_retryable) == (type_name, False)


def test_recorded_arguments_that_do_not_fit_fail_the_attempt() -> None:
    """After a change of the signature the attempt fails, and may be tried with mended code."""

    async def test(bench: Bench) -> AttemptEnded:
        bench.runner.start([attempt_of("double", '{"n":"text"}')])
        return await bench.inbox.next()

    ended = run(test)
    assert isinstance(ended.outcome, Failed)
    assert ended.outcome.error.type == "ValidationError"


def test_an_unknown_action_fails_retryably() -> None:
    """Another worker, or this one after a deploy, may know it."""

    async def test(bench: Bench) -> AttemptEnded:
        bench.runner.start([attempt_of("gone", "{}")])
        return await bench.inbox.next()

    ended = run(test)
    assert isinstance(ended.outcome, Failed)
    assert (ended.outcome.error.type, ended.is_retryable) == ("DefinitionError", True)


def test_running_attempts_are_counted_until_they_end() -> None:
    """Each holds a permit until its code has really ended."""

    async def test(bench: Bench) -> list[int]:
        bench.runner.start([bench.attempt(hang(), number=n) for n in range(2)])
        counts = [bench.runner.running]
        await asyncio.sleep(0)
        first, second = bench.runner.attempts()
        for attempt in (first, second):
            bench.runner.cancel(attempt.key)
            await bench.inbox.next()
            counts.append(bench.runner.running)
        return counts

    assert run(test) == [2, 1, 0]


@pytest.mark.parametrize("pauses", [0, 1, 3])
def test_a_cancelled_attempt_reports(pauses: int) -> None:
    """Whether its task has begun or not: an attempt that never reported would keep its permit."""

    async def test(bench: Bench) -> tuple[AttemptEnded, int]:
        attempt = bench.attempt(hang())
        bench.runner.start([attempt])
        for _ in range(pauses):
            await asyncio.sleep(0)
        bench.runner.cancel(attempt.key)
        return await bench.inbox.next(), bench.runner.running

    ended, running = run(test)
    assert isinstance(ended.outcome, Failed)
    assert (ended.outcome.error.type, running) == ("CancelledError", 0)


def test_a_cancelled_attempt_may_clean_up() -> None:
    """Cancellation arrives as in any task; what the attempt then returns is reported."""

    async def test(bench: Bench) -> AttemptEnded:
        attempt = bench.attempt(clean_up())
        bench.runner.start([attempt])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        bench.runner.cancel(attempt.key)
        return await bench.inbox.next()

    assert run(test).outcome == Succeeded('"cleaned up"')


def test_a_late_cancel_changes_nothing() -> None:
    """An attempt that has ended cannot be cancelled, nor can its successor by its key."""

    async def test(bench: Bench) -> AttemptEnded:
        attempt = bench.attempt(double(1))
        await bench.run(double(1))
        bench.runner.cancel(attempt.key)
        await asyncio.sleep(0)
        return await bench.run(double(2))

    assert run(test).outcome == Succeeded("4")


def test_code_in_a_thread_runs_on_after_a_cancel() -> None:
    """A thread cannot be stopped: it keeps its permit until it ends by itself."""
    gate = threading.Event()
    definer = Definer()

    @definer.action(name="double_in_thread")
    def wait_at_gate(ctx: ActionContext, n: int) -> int:
        gate.wait()
        return n

    async def test(bench: Bench) -> tuple[int, AttemptEnded]:
        object.__setattr__(bench.runner._env.rules, "registry", definer.registry)
        attempt = attempt_of("double_in_thread", '{"n":5}')
        bench.runner.start([attempt])
        bench.runner.cancel(attempt.key)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        running = bench.runner.running
        gate.set()
        return running, await bench.inbox.next()

    running, ended = run(test)
    assert (running, ended.outcome) == (1, Succeeded("5"))


def test_threads_are_used_again() -> None:
    """A pool grows only while all of its threads are busy."""
    threads, names, done = Threads(), set(), threading.Semaphore(0)

    def note(_: object) -> None:
        names.add(threading.current_thread().name)
        done.release()

    gate, began = threading.Event(), threading.Event()

    def wait(_: object) -> None:
        began.set()
        gate.wait()

    threads.submit(wait, None)
    began.wait()
    threads.submit(note, None)
    done.acquire()
    gate.set()
    threads.close()
    assert names == {"perdure-action-2"}


def test_many_attempts_in_threads_all_report() -> None:
    """However many are started at once, each runs in a thread of its own and reports."""

    async def test(bench: Bench) -> set[str]:
        bench.runner.start([bench.attempt(double_in_thread(n), number=n) for n in range(50)])
        ended = [await bench.inbox.next() for _ in range(50)]
        return {each.outcome.value for each in ended if isinstance(each.outcome, Succeeded)}

    assert run(test) == {str(2 * n) for n in range(50)}


def test_an_attempt_for_which_there_is_no_thread_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is reported and may be tried again; the next one finds a thread and runs but once."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def test(bench: Bench) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            ended = await bench.run(double_in_thread(1))
        assert isinstance(ended.outcome, Failed)
        assert "can't start new thread" in ended.outcome.error.message
        assert ended.is_retryable
        assert bench.runner.running == 0
        assert (await bench.run(double_in_thread(2))).outcome == Succeeded("4")

    run(test)
