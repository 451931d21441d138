"""Listings, journals, and code that is checked against them: what of a manager changes nothing.

`WorkflowManager` (manager.py) is this with the verbs that start, change and tell.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal, TypeVar

from perdure.checking import CheckedWorkflow, Checker, CheckReport, check_all
from perdure.core.workflow import WorkflowState
from perdure.errors import StoreCorrupt
from perdure.journals import WorkflowJournal
from perdure.opening import OpenManager
from perdure.records import Page, StepInfo, WorkflowInfo
from perdure.runtime import orders
from perdure.runtime.inside import refuse_inside
from perdure.runtime.loops import refuse_loop
from perdure.runtime.operations import not_found
from perdure.runtime.views import step_info, workflow_info
from perdure.store.base import Loaded, Reader, WorkflowFilter

T = TypeVar("T")


class InspectedManager(OpenManager):
    """What of a manager only looks; for the parameters see `WorkflowManager`."""

    @abstractmethod
    async def _read(self, fn: Callable[[Reader], T]) -> T:
        """Read committed rows."""

    async def list_workflows(
        self,
        *,
        name: str | None = None,
        status: Literal["in_progress", "success", "failed", "canceled"] | None = None,
        blocked: bool | None = None,
        order: Literal["asc", "desc"] = "asc",
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[WorkflowInfo]:
        """Workflows in order of creation, a page at a time.

        Args:
            name: of the workflow definition.
            status: only those with it.
            blocked: only those whose code does not fit their journal; False for all others.
            order: "asc" for the oldest first.
            limit: items of a page, 1 to 1,000.
            cursor: of the page before.

        Raises:
            ValueError, TypeError: an option makes no sense.
        """
        if status not in (None, "in_progress", "success", "failed", "canceled"):
            raise ValueError(
                f"status={status!r}: give 'in_progress', 'success', 'failed' or 'canceled'"
            )
        is_ascending, after = orders.check_page(order, limit, cursor)
        which = WorkflowFilter(
            name=orders.checked_filter(name),
            status=status,
            is_blocked=orders.checked_flag(blocked, "blocked"),
            is_ascending=is_ascending,
            limit=limit + 1,
            after=after,
        )
        rows = await self._read(lambda reader: reader.list_workflows(which))
        items = [workflow_info(state) for _, state in rows[:limit]]
        is_done = len(rows) <= limit
        last = str(rows[limit - 1][0]) if not is_done else None
        return Page(items=items, cursor=last, is_done=is_done)

    async def list_steps(
        self,
        workflow_id: str,
        *,
        order: Literal["asc", "desc"] = "asc",
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[StepInfo]:
        """The steps of a workflow by number, a page at a time; an unknown id has none.

        Args:
            workflow_id: as `start` gave it.
            order: "asc" for the first step first.
            limit: items of a page, 1 to 1,000.
            cursor: of the page before.

        Raises:
            ValueError, TypeError: an option makes no sense.
        """
        orders.checked_id(workflow_id)
        is_ascending, after = orders.check_page(order, limit, cursor)
        records = await self._read(
            lambda reader: reader.list_steps(
                workflow_id, is_ascending=is_ascending, limit=limit + 1, after=after
            )
        )
        items = [step_info(workflow_id, record) for record in records[:limit]]
        is_done = len(records) <= limit
        last = str(items[-1].number) if not is_done else None
        return Page(items=items, cursor=last, is_done=is_done)

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
