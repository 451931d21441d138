"""Looking at journals, and checking code against them: what of a manager changes nothing.

`WorkflowManager` (manager.py) is this with the verbs that start, change and tell.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from perdure.checking import CheckedWorkflow, Checker, CheckReport, check_all
from perdure.core.workflow import WorkflowState
from perdure.errors import StoreCorrupt
from perdure.journals import WorkflowJournal
from perdure.opening import OpenManager
from perdure.runtime import orders
from perdure.runtime.inside import refuse_inside
from perdure.runtime.loops import refuse_loop
from perdure.runtime.operations import not_found
from perdure.store.base import Loaded, Reader, WorkflowFilter

T = TypeVar("T")


class InspectedManager(OpenManager):
    """What of a manager looks at journals; for the parameters see `WorkflowManager`."""

    @abstractmethod
    async def _read(self, fn: Callable[[Reader], T]) -> T:
        """Read committed rows."""

    async def journal(self, workflow_id: str) -> WorkflowJournal:
        """All that is recorded of a workflow, as of one moment.

        Args:
            workflow_id: whose journal.

        Raises:
            WorkflowNotFound
            StoreCorrupt: a row of it is damaged.
        """
        refuse_inside("journal")
        orders.checked_id(workflow_id)
        loaded = await self._read(lambda reader: reader.load([workflow_id]))
        if not loaded:
            raise not_found(workflow_id)
        if loaded[0].damage is not None:
            raise StoreCorrupt(loaded[0].damage.message)
        return WorkflowJournal(loaded[0])

    async def check(
        self,
        *,
        name: str | None = None,
        progress: Callable[[CheckedWorkflow], object] | None = None,
    ) -> CheckReport:
        """Replay every unfinished workflow of the store against this process's code.

        It changes nothing and runs no step, so it may look at a store in use: open the manager
        with ``client(access="read")``. Blocked workflows are checked as well.

        Args:
            name: only workflows of this definition.
            progress: called after each workflow, in another thread.
        """
        refuse_inside("check")
        checker = Checker(self._env.rules, name=orders.checked_filter(name))
        after: int | None = None
        while True:
            which = WorkflowFilter(name=name, status="in_progress", after=after)
            rows = await self._read(partial(_list, which))
            for sequence, state in rows:
                after = sequence
                loaded = await self._read(partial(_load, state.workflow_id))
                if not loaded or loaded[0].state.outcome is not None:
                    continue  # it has ended meanwhile
                # In a thread: a replay needs one in which no loop runs, and may take a while.
                checked = await asyncio.to_thread(checker.check, WorkflowJournal(loaded[0]))
                if progress is not None:
                    await asyncio.to_thread(progress, checked)
            if len(rows) < which.limit:
                return checker.report()

    def check_journals(
        self,
        journals: Iterable[WorkflowJournal],
        *,
        name: str | None = None,
        progress: Callable[[CheckedWorkflow], object] | None = None,
    ) -> CheckReport:
        """Replay journals, such as `load_journals` gives, against this process's code.

        No store is needed, so this may run where production's cannot be reached. A journal of a
        workflow that has ended must lead to the same end.

        Args:
            journals: to be replayed, one after the other.
            name: only the code of this definition is read for clocks and dice; the journals given
                are all replayed.
            progress: called after each of them.
        """
        refuse_inside("check_journals")
        refuse_loop("check_journals", "await asyncio.to_thread(manager.check_journals, …)")
        return check_all(self._env.rules, journals, name, progress)


def _list(which: WorkflowFilter, reader: Reader) -> list[tuple[int, WorkflowState]]:
    return reader.list_workflows(which)


def _load(workflow_id: str, reader: Reader) -> list[Loaded]:
    return reader.load([workflow_id])
