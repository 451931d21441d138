"""Watching: who in this process wants to be told when which workflow may have changed.

Nothing is kept of what has changed: who is woken reads the rows, and so sees the newest state, also
if it was woken many times meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection

from perdure.core.ids import WorkflowId
from perdure.core.outcomes import Outcome

from .bridge import Bridge

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
