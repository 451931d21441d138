"""A client that watches a workflow: the production code of `watch`, on the client's virtual loop.

It watches anew in each life of its process, until it has seen the end. What it sees is held against
what was written (`check`, when all is at rest), and each end against what is on the disk.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from perdure.core.outcomes import Outcome
from perdure.errors import WorkflowNotFound
from perdure.records import InProgress, Status
from perdure.runtime.statuses import read_status
from perdure.runtime.views import public_outcome
from perdure.runtime.watching import watch

from ..laws.violations import WatchedWrongly

if TYPE_CHECKING:
    from .process import Process
    from .world import World


@attrs.define(eq=False)
class Watch:
    """One of them.

    Attributes:
        seen: in this life of the client.
        is_done: it has seen the end, or that the workflow is gone.
    """

    world: World
    workflow_id: str
    seen: list[Status] = attrs.field(factory=list)
    is_done: bool = False
    _task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Watch, in the client's process as it is now."""
        client = self.world.client
        if client.is_alive and not self.is_done:
            self.seen = []
            client.loop.call(self._begin, client)

    def _begin(self, client: Process) -> None:
        self._task = client.loop.loop.create_task(self._follow(client, client.life))

    async def _follow(self, client: Process, life: int) -> None:
        async def read() -> Status:
            return read_status(client.inner.reader(), self.workflow_id)

        loop: Any = client.loop  # it is the bridge to itself
        changes = watch(client.engine, self.workflow_id, read, loop)
        error: BaseException | None = None
        try:
            async for status in changes:
                self.seen.append(status)
                self.world._watch(partial(self._check_status, status))
        except asyncio.CancelledError:
            raise
        except BaseException as raised:
            error = raised
        if client.is_alive and client.life == life:
            self.is_done = True
            self.world._watch(partial(self._check_end, error))

    def _outcomes(self) -> list[Outcome | None]:
        """How the workflow has ended, in any life of it; None if it is in progress."""
        known = self.world.history.everybody.get(self.workflow_id)
        return [] if known is None else [known.state.outcome, *known.past]

    def _check_status(self, status: Status) -> None:
        if self.seen[-2:-1] == [status]:
            raise WatchedWrongly(f"{self}: {status} is no change")
        if any(not isinstance(each, InProgress) for each in self.seen[:-1]):
            raise WatchedWrongly(f"{self}: {status} comes after the end")
        if not isinstance(status, InProgress):
            ends = [public_outcome(each) for each in self._outcomes() if each is not None]
            if status not in ends:
                raise WatchedWrongly(f"{self}: {status}, and it ended as {ends}")

    def _check_end(self, error: BaseException | None) -> None:
        if isinstance(error, WorkflowNotFound):
            if self.workflow_id in self.world.history.workflows:
                raise WatchedWrongly(f"{self}: {error}, and it is there")
        elif error is not None:
            raise WatchedWrongly(f"{self}: {error!r}") from error
        elif not self.seen or isinstance(self.seen[-1], InProgress):
            raise WatchedWrongly(f"{self}: it ends before the end: {self.seen}")

    def check(self) -> None:
        """At rest: it knows the end, or how the workflow stands. It watches no more."""
        client, task = self.world.client, self._task
        if self.is_done:
            return
        if task is not None:
            client.loop._run(task.cancel)
        known = self.world.history.workflows.get(self.workflow_id)
        if known is None or known.has_ended:
            raise WatchedWrongly(f"{self}: nobody told it of the end; it has seen {self.seen}")
        status = read_status(client.inner.reader(), self.workflow_id)
        if self.seen[-1:] != [status]:
            raise WatchedWrongly(f"{self}: {status}, and nobody told it; it has seen {self.seen}")

    def __str__(self) -> str:
        return f"watching {self.workflow_id}"
