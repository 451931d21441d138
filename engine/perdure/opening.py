"""Opening and closing a manager: who may, what runs then, and what is left when it fails.

`WorkflowManager` (manager.py) is this with its verbs.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, Self

import attrs

from perdure.core.limits import Limits
from perdure.core.retry import RetryPolicy, duration_ms
from perdure.definitions import Definer, Kind
from perdure.errors import NotOpen, PerdureError, StoreUnsupported, not_begun
from perdure.guard import install
from perdure.runtime import orders
from perdure.runtime.bridge import bridge_of
from perdure.runtime.clock import RealClock
from perdure.runtime.contexts import (
    ActionContext,
    MutationContext,
    QueryContext,
    make_context,
)
from perdure.runtime.engine import Engine, LoopEngine, ThreadEngine
from perdure.runtime.inside import refuse_inside
from perdure.runtime.loops import OwnLoop, refuse_loop
from perdure.runtime.scope import Env
from perdure.runtime.verbs import Verbs
from perdure.step import Step, StepRules
from perdure.store.base import Access
from perdure.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from perdure.store.postgres.store import PostgresStore

Durability = Literal["disk", "process"]


@attrs.define(eq=False)
class Opening:
    """One opening of a manager, from its beginning until what it opened is closed.

    Attributes:
        access: what may be done with the store.
        is_under_way: a thread opens the store.
        given_up: nobody wants any more what is opened.
    """

    access: Access = "create"
    is_under_way: bool = False
    given_up: threading.Event = attrs.field(factory=threading.Event)

    def pause(self, seconds: float) -> None:
        """Wait between two tries to open the store.

        Raises:
            NotOpen: there is no need to try again.
        """
        if self.given_up.wait(seconds) and self.is_under_way:
            raise NotOpen("nobody waits any more for what is opened")


class _StoppedEarly(BaseException):
    """A signal to stop came while the store was being opened."""


class _Stops:
    """SIGTERM and SIGINT stop a worker process, if its manager runs in the main thread.

    The loop hears of a signal only between two callbacks, and one of them opens the store, which
    waits for a server that is away. So within the block, until `ask` is called, a signal ends the
    block at once.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
        self._loop = loop
        self._stop = stop
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, _stop_early)
        return self

    def ask(self) -> None:
        """From now on they ask the engine to stop."""
        numbers = list(self._before)
        self._restore()
        for number in numbers:
            with suppress(NotImplementedError):  # Windows
                self._loop.add_signal_handler(number, self._stop)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._restore()
        return isinstance(error, _StoppedEarly)

    def _restore(self) -> None:
        while self._before:
            number, before = self._before.popitem()
            signal.signal(number, signal.SIG_DFL if before is None else before)


def _stop_early(number: int, frame: FrameType | None) -> NoReturn:
    raise _StoppedEarly


class OpenManager(Definer):
    """What of a manager opens and closes it; for the parameters see `WorkflowManager`."""

    _contexts: ClassVar[Mapping[Kind, type]] = {
        "query": QueryContext,
        "mutation": MutationContext,
        "action": ActionContext,
        "workflow": Step,
    }

    def __init__(
        self,
        store: str | os.PathLike[str],
        *,
        max_parallelism: int | None = None,
        retry_actions_by_default: bool = False,
        default_retry: RetryPolicy = RetryPolicy(),
        limits: Limits = Limits(),
        durability: Durability = "disk",
        drain_timeout: timedelta | float = 30,
    ) -> None:
        super().__init__()
        if max_parallelism is not None:
            orders.check_parallelism(max_parallelism)
        if not isinstance(retry_actions_by_default, bool):
            raise TypeError(
                f"retry_actions_by_default={retry_actions_by_default!r}: give True or False"
            )
        if not isinstance(default_retry, RetryPolicy):
            raise TypeError(f"default_retry={default_retry!r}: give a RetryPolicy")
        if not isinstance(limits, Limits):
            raise TypeError(f"limits={limits!r}: give Limits(…)")
        self.store_url = os.fspath(store) if isinstance(store, os.PathLike) else store
        self._durability = durability
        self._clock = RealClock()
        self._make_store()  # refuse a bad address here, not when it is opened
        self._max_parallelism = max_parallelism
        self._drain_seconds = duration_ms(drain_timeout, "drain_timeout") / 1000
        rules = StepRules(
            registry=self.registry,
            limits=limits,
            default_retry=default_retry,
            retry_actions_by_default=retry_actions_by_default,
        )
        self._env = Env(rules=rules, clock=self._clock, make_context=make_context)
        self._engine: Engine | None = None
        self._opening: Opening | None = None
        self._lock = threading.Lock()
        self._has_settled = threading.Condition(self._lock)

    def _make_store(self, opening: Opening | None = None) -> SqliteStore | PostgresStore:
        address = self.store_url
        if not isinstance(address, str):
            raise TypeError(
                f"store={address!r}: give the path of an SQLite file, or 'postgresql://…'"
            )
        if address.startswith(("postgresql://", "postgres://")):
            return self._make_postgres_store(address, opening or Opening())
        path = address.removeprefix("sqlite:///")
        if not path or "://" in path or "\0" in path:
            raise ValueError(
                f"store={address!r}: give a path, 'sqlite:///path', ':memory:' or 'postgresql://…'"
            )
        opening = opening or Opening()
        return SqliteStore(
            path, durability=self._durability, access=opening.access, pause=opening.pause
        )

    def _make_postgres_store(self, address: str, opening: Opening) -> PostgresStore:
        try:
            from perdure.store.postgres.store import PostgresStore
        except ImportError as error:
            raise StoreUnsupported(
                f"PostgreSQL needs psycopg ({error}): pip install 'perdure[postgres]'"
            ) from error
        return PostgresStore(
            address,
            durability=self._durability,
            access=opening.access,
            tell_time=self._clock.follow,
            pause=opening.pause,
        )

    def __repr__(self) -> str:
        shown = re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", self.store_url)  # no password
        return f"<WorkflowManager of {shown!r}>"

    # --- opening ------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the store and run a worker inside this process."""
        await self._open_by_name(works=True)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drain the worker and close the store."""
        await self._close()

    @asynccontextmanager
    async def client(self, *, access: Access = "create") -> AsyncIterator[Self]:
        """Open the store only: start, send, read and cancel, while other processes work.

        Args:
            access: "create" makes a database that is missing; with "write" it must be there; with
                "read" it must be there, nothing in it is changed, and it may lie where nothing can
                be written.

        Raises:
            StoreNotFound: there is none, and it is not to be made.
            StoreError: the store cannot be opened.
        """
        if access not in ("create", "write", "read"):
            raise ValueError(f"access={access!r}: give 'create', 'write' or 'read'")
        await self._open_by_name(works=False, access=access)
        try:
            yield self
        finally:
            await self._close()

    async def _open_by_name(self, *, works: bool, access: Access = "create") -> None:
        """Open it; before that, close what a first call of `manager.sync` has opened."""
        refuse_inside("open")
        opening, aside = Opening(access), self._aside
        try:
            if aside is not None:  # it may wait for calls of other threads
                await asyncio.to_thread(aside, partial(self._reserve, opening))
        except BaseException:
            self._give_up(opening)
            raise
        await self._open(works=works, opening=opening)

    async def _open(self, *, works: bool, opening: Opening | None = None) -> None:
        refuse_inside("open")
        opening = opening or Opening()
        self._reserve(opening)
        try:
            engine = ThreadEngine(
                self._env,
                self._make_store(opening),
                works=works,
                bridge=bridge_of(asyncio.get_running_loop()),
                verbs=self._verbs,
                drain_seconds=self._drain_seconds,
            )
            await asyncio.to_thread(self._open_engine, engine, opening)
        except BaseException:
            self._give_up(opening)
            raise

    def _reserve(self, opening: Opening) -> None:
        """Only one opens, and stays open: whoever comes first."""
        with self._lock:
            if opening.given_up.is_set() or self._opening is opening:
                return
            if self._opening is not None:
                raise PerdureError(
                    f"{self!r} is open already: leave the block that opened it first, or, where a"
                    " call of manager.sync has opened it as a client, call manager.sync.close()"
                )
            self._opening = opening

    def _free(self, opening: Opening) -> None:
        with self._lock:
            if self._opening is opening:
                self._opening = self._engine = None
                self._has_settled.notify_all()

    def _settled(self) -> Engine | None:
        """What is open. Blocks while somebody is just opening it."""
        with self._lock:
            self._has_settled.wait_for(lambda: self._opening is None or self._engine is not None)
            return self._engine

    def _is_rid_of(self, engine: Engine | None, seconds: float) -> bool:
        """Whether it is no longer what is open, within that time."""
        with self._lock:
            return self._has_settled.wait_for(
                lambda: engine is None or self._engine is not engine, seconds
            )

    def _open_engine(self, engine: ThreadEngine, opening: Opening) -> None:
        """In a thread, which runs on when the caller is cancelled meanwhile."""
        with self._lock:
            if opening.given_up.is_set():
                return
            opening.is_under_way = True
        try:
            install()
            engine.open(max_parallelism=self._max_parallelism)
        except BaseException:
            self._free(opening)
            raise
        with self._lock:
            opening.is_under_way = False
            is_wanted = not opening.given_up.is_set()
            if is_wanted:
                self._engine = engine
                self._has_settled.notify_all()
        if not is_wanted:
            engine.stop()
            engine.join()

    def _give_up(self, opening: Opening) -> None:
        """An opening has failed or was cancelled: nothing of it stays open. The manager may be
        opened again at once; what was opened, or still is, closes beside that."""
        with self._lock:
            opening.given_up.set()
            engine = self._engine if self._opening is opening else None
        self._free(opening)
        if isinstance(engine, ThreadEngine):
            engine.stop()
            threading.Thread(target=engine.join, name="perdure-closing", daemon=True).start()

    def _join(self, engine: ThreadEngine, opening: Opening) -> None:
        try:
            engine.join()
        finally:
            self._free(opening)

    async def _close(self) -> None:
        engine, opening = self._engine, self._opening
        if isinstance(engine, ThreadEngine) and opening is not None:
            engine.stop()
            # In the background, so that actions can end on this loop meanwhile; they may use the
            # manager until then.
            await asyncio.to_thread(self._join, engine, opening)

    def run(self, *, until_idle: bool = False) -> None:
        """Work, in this thread, until SIGTERM or SIGINT; then drain.

        Args:
            until_idle: return as soon as nothing runs, is ready, or waits for a time. (Retries and
                sleeps are work to do; waiting for events, or for code that fits, is not.)

        Raises:
            StoreError: the store cannot be opened.
            PerdureError: the manager is open already, or the engine failed.
        """
        refuse_inside("run")
        refuse_loop("run", "use `async with manager:`")
        if not isinstance(until_idle, bool):
            raise TypeError(f"until_idle={until_idle!r}: give True or False")
        opening, aside = Opening(), self._aside
        claim = partial(self._reserve, opening)
        claim() if aside is None else aside(claim)
        try:
            install()
            OwnLoop().run(self._run(until_idle))
        finally:
            self._free(opening)

    async def _run(self, until_idle: bool) -> None:
        loop = asyncio.get_running_loop()
        engine = LoopEngine(
            self._env,
            self._make_store(),
            works=True,
            bridge=bridge_of(loop),
            verbs=self._verbs,
            drain_seconds=self._drain_seconds,
        )
        engine.attach(loop)
        with _Stops(loop, engine.stop) as stops:

            def opened() -> None:
                stops.ask()
                with self._lock:  # only now: other threads read from its store
                    self._engine = engine
                    self._has_settled.notify_all()

            await engine.run(
                max_parallelism=self._max_parallelism,
                until_idle=until_idle,
                opened=opened,
            )

    @property
    def _is_in_memory(self) -> bool:
        """Whether what is stored is gone when it is closed."""
        return str(self.store_url).removeprefix("sqlite:///") == ":memory:"

    @property
    @abstractmethod
    def _aside(self) -> Callable[[Callable[[], None]], None] | None:
        """`SyncManager.step_aside`; None if `manager.sync` was never used."""

    @property
    @abstractmethod
    def _verbs(self) -> Verbs:
        """What actions may do with the manager."""

    def _open_one(self) -> Engine:
        engine = self._engine
        if engine is None:
            raise not_begun(
                f"{self!r} is not open: use `async with manager:` or `async with"
                " manager.client():`, or, without a loop, manager.sync"
            )
        engine.check()
        return engine
