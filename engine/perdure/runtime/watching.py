"""Watching: who in this process wants to be told when which workflow may have changed, or ends.

Nothing is kept of what has changed: who is woken reads the rows, and so sees the newest state, also
if it was woken many times meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from typing import Protocol

from perdure.core.ids import WorkflowId
from perdure.core.outcomes import Outcome
from perdure.errors import WorkflowNotFound
from perdure.records import InProgress, Status

from .bridge import Bridge, bridge_of
from .views import public_outcome

#: Called when the workflow may have changed, or with the reason why nobody will tell any more.
#: From any thread; it must not block.
Wake = Callable[[BaseException | None], None]


class Watchers:
    """Who watches which workflow."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wakes: dict[WorkflowId, list[Wake]] = {}

    def __bool__(self) -> bool:
        return bool(self._wakes)

    def add(self, workflow_id: WorkflowId, wake: Wake) -> None:
        """Call `wake` after each commit that may have changed the workflow."""
        with self._lock:
            self._wakes.setdefault(workflow_id, []).append(wake)

    def discard(self, workflow_id: WorkflowId, wake: Wake) -> None:
        """It watches no more."""
        with self._lock:
            wakes = self._wakes.get(workflow_id, [])
            if wake in wakes:
                wakes.remove(wake)
            if not wakes:
                self._wakes.pop(workflow_id, None)

    def changed(
        self, ids: Collection[WorkflowId] | None, error: BaseException | None = None
    ) -> None:
        """Wake those who watch these workflows; all of them if it is not known which."""
        with self._lock:
            if ids is None:
                wakes = [wake for each in self._wakes.values() for wake in each]
            else:
                wakes = [wake for each in set(ids) for wake in self._wakes.get(each, ())]
        for wake in wakes:
            wake(error)

    def fail(self, error: BaseException) -> None:
        """Nobody will tell any more."""
        self.changed(None, error)


#: Called with the outcome, or with the reason why it cannot be waited for here any more.
Waiter = Callable[[Outcome | None, BaseException | None], None]


class Waiters:
    """Who waits in this process for the end of which workflow."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiters: dict[WorkflowId, list[Waiter]] = {}

    def add(self, workflow_id: WorkflowId, waiter: Waiter) -> None:
        """Call `waiter` when the workflow ends. From any thread."""
        with self._lock:
            self._waiters.setdefault(workflow_id, []).append(waiter)

    def discard(self, workflow_id: WorkflowId, waiter: Waiter) -> None:
        """Nobody waits any more."""
        with self._lock:
            waiters = self._waiters.get(workflow_id, [])
            if waiter in waiters:
                waiters.remove(waiter)
            if not waiters:
                self._waiters.pop(workflow_id, None)

    def ids(self) -> list[WorkflowId]:
        """The workflows that somebody waits for."""
        if not self._waiters:
            return []
        with self._lock:
            return list(self._waiters)

    def ended(self, workflow_id: WorkflowId, outcome: Outcome) -> None:
        """Tell those who wait."""
        if workflow_id not in self._waiters:
            return
        with self._lock:
            waiters = self._waiters.pop(workflow_id, [])
        for waiter in waiters:
            waiter(outcome, None)

    def gone(self, workflow_id: WorkflowId) -> None:
        """There is no such workflow any more, and how it ended is not known here."""
        with self._lock:
            waiters = self._waiters.pop(workflow_id, [])
        for waiter in waiters:
            text = f"workflow {workflow_id!r} was deleted before its outcome was read here"
            waiter(None, WorkflowNotFound(text, workflow_id=workflow_id))

    def fail(self, error: BaseException) -> None:
        """Nobody will tell any more."""
        with self._lock:
            waiters, self._waiters = self._waiters, {}
        for those in waiters.values():
            for waiter in those:
                waiter(None, error)


class Source(Protocol):
    """Who tells of changes and ends: an engine."""

    @property
    def watchers(self) -> Watchers: ...
    @property
    def waiters(self) -> Waiters: ...
    def check(self) -> None:
        """Raise if it will not tell any more."""
        ...


class News:
    """That something may have changed, told from any thread to one coroutine.

    Args:
        bridge: to the loop of that coroutine.

    Attributes:
        outcome: how the workflow ended, if that was told; its rows may be gone since.
    """

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._event = asyncio.Event()
        self._error: BaseException | None = None
        self.outcome: Outcome | None = None

    def ended(self, outcome: Outcome | None, error: BaseException | None) -> None:
        """The workflow has ended, or the reason why that will not be told. From any thread."""
        self._bridge.call(self._end, outcome, error)

    def _end(self, outcome: Outcome | None, error: BaseException | None) -> None:
        self.outcome = outcome
        self._tell(error)

    def wake(self, error: BaseException | None) -> None:
        """See `Wake`."""
        # Told already and not taken up: whoever takes it up reads after this.
        if error is not None or not self._event.is_set():
            self._bridge.call(self._tell, error)

    def _tell(self, error: BaseException | None) -> None:
        self._error = self._error or error
        self._event.set()

    def take(self) -> None:
        """What was told until now is taken up: read after this.

        Raises:
            BaseException: the reason why nothing more will be told.
        """
        self._event.clear()
        if self._error is not None:
            raise self._error

    async def wait(self) -> None:
        """Wait until something is told that was not taken up."""
        await self._event.wait()


async def watch(
    source: Source,
    workflow_id: WorkflowId,
    read: Callable[[], Awaitable[Status]],
    bridge: Bridge | None = None,
) -> AsyncGenerator[Status, None]:
    """See `WorkflowManager.watch`.

    Args:
        read: the status as the rows say it; raises `WorkflowNotFound`.
        bridge: to this loop, if it is not an asyncio loop of this thread.
    """
    news = News(bridge or bridge_of(asyncio.get_running_loop()))
    source.watchers.add(workflow_id, news.wake)
    source.waiters.add(workflow_id, news.ended)
    try:
        source.check()  # after that: a manager that is closed from now on tells it
        last: Status | None = None
        while last is None or isinstance(last, InProgress):
            news.take()
            status: Status | None = last
            if news.outcome is not None:
                status = public_outcome(news.outcome)
            else:
                try:
                    status = await read()
                except WorkflowNotFound:
                    if last is None:
                        raise
                    # It is gone since. How it has ended is told, or that this is not known.
            if status == last:
                await news.wait()
            else:
                assert status is not None
                last = status
                yield status
    finally:
        source.waiters.discard(workflow_id, news.ended)
        source.watchers.discard(workflow_id, news.wake)
