"""The mailbox of a worker: what reaches it from other threads of this process."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
from msgspec.structs import replace

from perdure.core.frozen import Frozen
from perdure.core.ids import WorkflowId
from perdure.core.messages import Message

from .commit import Request
from .operations import StartOrder


class Post(Frozen, frozen=True):
    """A message for a workflow."""

    workflow_id: WorkflowId
    message: Message


class Ticket(msgspec.Struct, eq=False):
    """A client's request on its way, and how to answer it.

    `deadline` is in seconds of the monotonic clock: when it passes while the store is busy, the
    request is withdrawn whole.
    """

    request: Request | StartOrder
    answer: Callable[[Any, BaseException | None], None]
    deadline: float

    def again(self) -> Ticket:
        """This ticket for another try: should the first one be stored after all, it is found."""
        if isinstance(self.request, StartOrder):
            self.request = replace(self.request, has_own_id=True)
        return self


class Mailbox:
    """A queue that wakes its one reader."""

    def __init__(self, wake: Callable[[], None] | None = None) -> None:
        self._items: deque[Post | Ticket] = deque()
        # A lock as a binary semaphore: free means "look". An Event would do, at several times the
        # cost, which stands between an action's end and the next commit.
        self._signal = threading.Lock()
        self._signal.acquire()
        self._wake = wake

    def put(self, item: Post | Ticket) -> None:
        """Add one; from any thread."""
        self._items.append(item)
        self.wake()

    def put_all(self, items: list[Post]) -> None:
        """Add several; from any thread."""
        self._items.extend(items)
        self.wake()

    def wake(self) -> None:
        """Make the reader look."""
        if self._wake is not None:
            self._wake()
        elif self._signal.locked():
            with suppress(RuntimeError):  # another thread was faster
                self._signal.release()

    def __len__(self) -> int:
        return len(self._items)

    def take(self) -> list[Post | Ticket]:
        """Everything that is there now."""
        items = self._items
        return [items.popleft() for _ in range(len(items))]

    def wait(self, seconds: float) -> None:
        """Wait until something is put or `wake` is called, at most so long."""
        if not self._items:
            self._signal.acquire(timeout=seconds)
