"""The engine of one manager: its thread or loop, a worker's lives, and what callers are told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from tests.runtime.harness import NOW, FakeClock, FaultyStore

from perdure.core.limits import Limits
from perdure.core.outcomes import Canceled, Outcome, Succeeded
from perdure.core.retry import RetryPolicy
from perdure.definitions import Definer
from perdure.errors import NotOpen, PerdureError, StoreBusy
from perdure.runtime.bridge import Bridge
from perdure.runtime.clock import RealClock
from perdure.runtime.contexts import ActionContext, make_context
from perdure.runtime.engine import Engine, LoopEngine, ThreadEngine
from perdure.runtime.orders import start_order
from perdure.runtime.requests import Cancel, Read
from perdure.runtime.scope import Env
from perdure.runtime.watching import Waiters
from perdure.step import Step, StepRules
from perdure.store.base import Reader

LONG = 30
d = Definer()


@d.action
def double(ctx: ActionContext, n: int) -> int:
    return 2 * n


@d.workflow
async def doubling(step: Step, n: int) -> int:
    return await step.run_action(double(n))


@d.workflow
async def waiting(step: Step) -> None:
    await step.await_event("never")


class Caller:
    """Asks an engine and waits for the answer in the test's own thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def ask(self, request: Any) -> Any:
        done = threading.Event()
        got: list[Any] = []

        def answer(value: Any, error: BaseException | None) -> None:
            got.extend([value, error])
            done.set()

        self.engine.submit(request, answer)
        assert done.wait(LONG)
        if got[1] is not None:
            raise got[1]
        return got[0]

    def start(self, call: Any, id: str) -> Any:
        order = start_order(
            self.engine.env,
            call,
            now=self.engine.clock.now_ms(),
            id=id,
            on_complete=None,
            context=None,
            run_after=None,
            run_at=None,
        )
        return self.ask(order)

    def result(self, workflow_id: str) -> Outcome:
        done = threading.Event()
        got: list[Any] = []

        def waiter(outcome: Outcome | None, error: BaseException | None) -> None:
            got.extend([outcome, error])
            done.set()

        self.engine.waiters.add(workflow_id, waiter)
        outcome = self.ask(Read(lambda reader: state_of(reader, workflow_id).outcome))
        if outcome is None:
            assert done.wait(LONG)
            outcome, error = got
            if error is not None:
                raise error
        assert outcome is not None
        found: Outcome = outcome
        return found


def state_of(reader: Reader, workflow_id: str) -> Any:
    (state,) = reader.states([workflow_id])
    return state


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop in a thread of its own, for actions."""
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join()
    made.close()


@pytest.fixture
def make(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> Iterator[Callable[..., ThreadEngine]]:
    made: list[ThreadEngine] = []

    def make(works: bool = True, definer: Definer = d, store: Any = None) -> ThreadEngine:
        store = store or FaultyStore(str(tmp_path / "app.db"))
        engine = ThreadEngine(
            env(definer),
            store,
            works=works,
            bridge=Bridge(loop),
            verbs=None,  # type: ignore[arg-type]
            drain_seconds=0,
        )
        engine.open(max_parallelism=None)
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.stop()
        if engine._thread is not None:
            engine._thread.join()


def env(definer: Definer = d) -> Env:
    rules = StepRules(
        registry=definer.registry,
        limits=Limits(),
        default_retry=RetryPolicy(),
        retry_actions_by_default=False,
    )
    return Env(rules=rules, clock=RealClock(), make_context=make_context)


def test_it_works_in_a_thread_of_its_own(make: Callable[..., ThreadEngine]) -> None:
    """Start, result, cancel: each is answered from the engine's thread."""
    caller = Caller(make())
    assert caller.start(doubling(4), "a") == "a"
    assert caller.result("a") == Succeeded("8")
    caller.start(waiting(), "b")
    caller.ask(Cancel("b"))
    assert caller.result("b") == Canceled()


def test_a_client_engine_only_carries_out(make: Callable[..., ThreadEngine]) -> None:
    """What it starts is worked on by another engine, whose ends it hears of."""
    client, worker = Caller(make(works=False)), Caller(make())
    client.start(doubling(5), "a")
    assert client.result("a") == Succeeded("10")
    worker.start(waiting(), "b")
    client.ask(Cancel("b"))
    assert worker.result("b") == Canceled()


def test_a_closed_engine_refuses(make: Callable[..., ThreadEngine]) -> None:
    """After the end every call says that the manager was closed."""
    engine = make()
    engine.stop()
    engine.join()
    with pytest.raises(NotOpen, match="closed"):
        Caller(engine).ask(Cancel("x"))


def test_it_leaves_nothing_behind(make: Callable[..., ThreadEngine], tmp_path: Path) -> None:
    """An engine that ended in good order has signed off: no row, no lock file, no owner."""
    engine = make()
    Caller(engine).start(waiting(), "a")
    engine.stop()
    engine.join()
    other = make(works=False)
    assert Caller(other).ask(Read(lambda reader: reader.workers())) == []
    assert [*(tmp_path / "app.db.workers").iterdir()] == []


class Quiet(FaultyStore):
    """A store that tells nothing of others, but what somebody else has to act on: here nothing."""

    tells_all = False

    def has_changed(self) -> bool:
        return False


def test_who_watches_looks_now_and_then_where_nobody_tells(tmp_path: Path) -> None:
    """Steps in between are no news for other processes on every store; the engine has them read."""
    clock = FakeClock()
    engine = Engine(
        attrs.evolve(env(), clock=clock),
        Quiet(str(tmp_path / "app.db")),
        works=False,
        bridge=None,
        verbs=None,  # type: ignore[arg-type]
        drain_seconds=0,
    )
    engine.store.open(max_parallelism=None)
    engine._begin_life()
    woken: list[int] = []
    engine.watchers.add("a", lambda error: woken.append(clock.now - NOW))
    for _ in range(15):
        for _ in engine.turn():
            pass
        clock.advance(100)
    engine.store.close()
    assert woken[0] == 0  # what was there before it watched
    assert woken[1:] == [100, 600, 1100]


class Breaking(FaultyStore):
    """A store that breaks in a way that nobody expects."""

    is_broken = False

    def has_changed(self) -> bool:
        if self.is_broken:
            raise ZeroDivisionError("a planted bug")
        return super().has_changed()


def test_an_engine_that_fails_tells_everybody(
    make: Callable[..., ThreadEngine], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Who waits is told, every later call raises, and so does closing it."""
    store = Breaking(str(tmp_path / "app.db"))
    engine = make(store=store)
    caller = Caller(engine)
    caller.start(waiting(), "a")
    told = threading.Event()
    got: list[Any] = []

    def waiter(outcome: Outcome | None, error: BaseException | None) -> None:
        got.extend([outcome, error])
        told.set()

    engine.waiters.add("a", waiter)
    store.is_broken = True
    assert told.wait(LONG)
    assert got[0] is None
    assert isinstance(got[1], ZeroDivisionError)
    with pytest.raises(PerdureError, match="has failed"):
        engine.join()
    with pytest.raises(PerdureError, match="has failed"):
        caller.ask(Cancel("a"))
    assert "the engine has failed" in caplog.text


def test_a_fenced_worker_starts_a_new_life(make: Callable[..., ThreadEngine]) -> None:
    """Taken for dead, the engine signs on under a new id and goes on; no call is lost."""
    engine = make()
    caller = Caller(engine)
    caller.start(waiting(), "a")
    first = engine._worker
    assert first is not None
    caller.ask(Fence(first.env.worker_id))
    for n in range(5):
        caller.start(doubling(n), f"b{n}")
        assert caller.result(f"b{n}") == Succeeded(str(2 * n))
    (row,) = caller.ask(Read(lambda reader: reader.workers()))
    assert row.worker_id != first.env.worker_id


class Fence:
    """A request that does to a worker what another process does that takes it for dead."""

    def __init__(self, worker_id: str | None) -> None:
        self._worker_id = worker_id

    def execute(self, scope: Any) -> None:
        sql = "UPDATE perdure_workers SET fenced = 1 WHERE id = ?"
        scope.tx.db.engine_execute(sql, (self._worker_id,))


def test_a_request_at_the_moment_of_closing_is_answered(make: Callable[..., ThreadEngine]) -> None:
    """Carried out or refused, but never left hanging."""
    for n in range(10):
        engine = make()
        caller = Caller(engine)
        engine.stop()
        with contextlib.suppress(NotOpen):
            assert caller.start(waiting(), f"w{n}") == f"w{n}"
        engine.join()


def test_a_store_in_trouble_at_the_end_answers_the_callers(
    make: Callable[..., ThreadEngine],
) -> None:
    """An engine that cannot store what was asked for says so when it is closed."""
    engine = make()
    store: Any = engine.store
    store.plan.extend([("begin", StoreBusy("locked"))] * 10_000)
    got: list[Any] = []
    done = threading.Event()

    def answer(value: Any, error: BaseException | None) -> None:
        got.append(error)
        done.set()

    engine.submit(Cancel("x"), answer)
    while engine.trouble is None:
        done.wait(0)
    engine.stop()
    assert done.wait(LONG)
    engine.join()
    assert [type(error) for error in got] == [NotOpen]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_is_refused(make: Callable[..., ThreadEngine]) -> None:
    """The child has none of the threads: its calls raise instead of waiting for ever."""
    engine = make()
    engine._pid += 1  # as a child of a fork sees it
    with pytest.raises(NotOpen, match="before a fork"):
        engine.check()


def test_a_loop_engine_needs_no_thread(tmp_path: Path) -> None:
    """Its turns are callbacks of the loop that runs it; it ends when nothing is left to do."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        engine = LoopEngine(
            env(),
            FaultyStore(str(tmp_path / "app.db")),
            works=True,
            bridge=Bridge(loop),
            verbs=None,  # type: ignore[arg-type]
            drain_seconds=0,
        )
        engine.attach(loop)
        answers: list[Any] = []
        order = start_order(
            engine.env,
            doubling(3),
            now=engine.clock.now_ms(),
            id="a",
            on_complete=None,
            context=None,
            run_after=None,
            run_at=None,
        )
        engine.submit(order, lambda value, error: answers.append((value, error)))
        ended: list[Any] = []
        engine.waiters.add("a", lambda outcome, error: ended.append(outcome))
        await engine.run(max_parallelism=None, until_idle=True)
        assert answers == [("a", None)]
        assert ended == [Succeeded("6")]
        return len([t for t in threading.enumerate() if t.name == "perdure-engine"])

    assert asyncio.run(main()) == 0


def test_a_loop_engine_stops_when_asked(tmp_path: Path) -> None:
    """Also from another thread, as a signal's handler may be."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        engine = LoopEngine(
            env(),
            FaultyStore(str(tmp_path / "app.db")),
            works=True,
            bridge=Bridge(loop),
            verbs=None,  # type: ignore[arg-type]
            drain_seconds=0,
        )
        engine.attach(loop)
        running = asyncio.create_task(engine.run(max_parallelism=None, until_idle=False))
        await asyncio.sleep(0)
        threading.Thread(target=engine.stop).start()
        await asyncio.wait_for(running, LONG)
        with pytest.raises(NotOpen):
            engine.check()

    asyncio.run(main())


def test_waiters_are_told_once() -> None:
    """All that wait for a workflow, none of those that gave up, and nobody twice."""
    waiters, told = Waiters(), []

    def waiter(name: str) -> Any:
        return lambda outcome, error: told.append((name, outcome))

    first, second, gone = waiter("first"), waiter("second"), waiter("gone")
    for each in (first, second, gone):
        waiters.add("w", each)
    waiters.discard("w", gone)
    waiters.discard("other", gone)
    assert waiters.ids() == ["w"]
    for _ in range(2):
        waiters.ended("w", Canceled())
    assert told == [("first", Canceled()), ("second", Canceled())]
    assert waiters.ids() == []


class Bare(Engine):
    """An engine that nobody drives, with a life begun."""

    def __init__(self, store: FaultyStore, *, works: bool = False) -> None:
        no_verbs: Any = None
        super().__init__(env(), store, works=works, bridge=None, verbs=no_verbs, drain_seconds=0)
        store.open(max_parallelism=None, works=works)
        self._begin_life()


def test_a_look_for_changes_that_fails_is_made_up_for(tmp_path: Path) -> None:
    """Another process's commit is announced once; a read that fails must not lose it."""
    store = FaultyStore(str(tmp_path / "app.db"))
    engine = Bare(store)
    engine.submit(
        start_order(
            engine.env,
            waiting(),
            now=0,
            id="a",
            on_complete=None,
            context=None,
            run_after=None,
            run_at=None,
        ),
        lambda value, error: None,
    )
    engine.submit(Cancel("a"), lambda value, error: None)
    engine._turn()
    engine._turn()
    told: list[Outcome | None] = []
    engine.waiters.add("a", lambda outcome, error: told.append(outcome))
    worker = engine._worker
    assert worker is not None
    worker._collecting.foreign_change = True
    store.reads.append(StoreBusy("locked"))
    engine._look_for_changes()
    assert told == []
    engine._look_for_changes()
    assert told == [Canceled()]
    engine._finish()


def test_a_store_in_trouble_is_not_idle(tmp_path: Path) -> None:
    """Who cannot tell goes on, and looks again."""
    store = FaultyStore(str(tmp_path / "app.db"))
    engine = Bare(store)
    store.reads.append(StoreBusy("locked"))
    assert not engine.is_idle()
    assert engine.is_idle()
    engine._finish()
