"""Asyncio loops of our own: how they end. Nothing that was run on one may hold up the end for ever.

`asyncio.run` waits without bound for tasks and threads that do not heed their cancellation.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from perdure.errors import PerdureError

T = TypeVar("T")

logger = logging.getLogger("perdure.worker")

#: How long what is left on a loop may take to end, in seconds: tasks, and then threads.
GRACE_SECONDS = 1.0


def refuse_loop(verb: str, instead: str) -> None:
    """Raise PerdureError if a loop runs in this thread, which a call that blocks would stop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise PerdureError(f"manager.{verb} would block the running asyncio loop: {instead}")


class OwnLoop:
    """A loop with its pool of threads for `asyncio.to_thread`.

    Attributes:
        loop: made, but not running.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        # Our own, since only the one that made a pool can shut it down without waiting for it.
        self._pool = ThreadPoolExecutor(thread_name_prefix="asyncio")
        self.loop.set_default_executor(self._pool)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Like `asyncio.run`, in this thread, but with an end that is bounded."""
        asyncio.set_event_loop(self.loop)
        try:
            return self.loop.run_until_complete(main)
        finally:
            self.finish()

    def serve(self) -> None:
        """Run, in this thread, until the loop is stopped; then end it."""
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self.finish()

    def finish(self) -> None:
        """Cancel what is left on the loop, give it a moment, and close the loop."""
        loop = self.loop
        try:
            self._cancel_tasks()
            closing = loop.create_task(loop.shutdown_asyncgens())
            loop.run_until_complete(asyncio.wait([closing], timeout=GRACE_SECONDS))
            self._end_pool()
            if left := asyncio.all_tasks(loop):
                logger.warning("%d tasks do not heed their cancellation; left behind", len(left))
                # They are told of here; asyncio would do it again when they are collected.
                loop.set_exception_handler(lambda loop, context: None)
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    def _cancel_tasks(self) -> None:
        loop = self.loop
        until = loop.time() + GRACE_SECONDS
        cancelled: set[asyncio.Task[Any]] = set()
        while (tasks := asyncio.all_tasks(loop)) and (seconds := until - loop.time()) > 0:
            for task in tasks - cancelled:  # once each: a second time would disturb a clean-up
                task.cancel()
            cancelled |= tasks
            loop.run_until_complete(asyncio.wait(tasks, timeout=seconds))

    def _end_pool(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        waiting = threading.Thread(target=self._pool.shutdown, daemon=True)
        try:
            waiting.start()
        except RuntimeError:
            return  # no thread to be had, or the interpreter is shutting down
        waiting.join(GRACE_SECONDS)
