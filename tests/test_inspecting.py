"""Reading journals and checking code through a manager: that it looks, and changes nothing."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.recorded import (
    check,
    first_release,
    journal_of,
    manager_of,
    nothing,
    only,
    record,
    waits_first,
)

from perdure import CheckReport, PerdureError, StoreCorrupt, WorkflowManager, WorkflowNotFound


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


#: Prints what is in the files of a folder, but for the locks and marks of readers. In a process of
#: its own: whoever closes a database's file loses the locks that SQLite holds in his process.
DIGEST = """
import hashlib, pathlib, sys
for each in sorted(pathlib.Path(sys.argv[1]).rglob("*")):
    if each.is_file() and not each.name.endswith("-shm"):
        print(each, hashlib.sha256(each.read_bytes()).hexdigest())
"""


def digest(folder: Path) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", DIGEST, str(folder)], capture_output=True, text=True, check=True
    )
    assert "app.db" in ran.stdout
    return ran.stdout


def test_a_name_narrows_the_check(path: Path) -> None:
    """Workflows of other names are not replayed, and their code is not read."""
    record(path, "ann")
    assert check(nothing, path, name="other") == CheckReport(checked={}, violations=())


def test_blocked_workflows_can_be_listed(path: Path) -> None:
    """They alone, or all others; something else is no answer to the question."""
    record(path, "ann", "bob")
    with sqlite3.connect(path) as connection:
        blocked = '{"error":{"type":"E","message":"m"},"count":1,"retry_at":1}'
        connection.execute("UPDATE perdure_workflows SET blocked = ? WHERE id = 'bob'", (blocked,))
    connection.close()
    manager = WorkflowManager(str(path))

    async def listed(blocked: Any) -> list[str]:
        async with manager.client(access="read"):
            page = await manager.list_workflows(blocked=blocked)
            return [info.workflow_id for info in page]

    assert asyncio.run(listed(True)) == ["bob"]
    assert asyncio.run(listed(False)) == ["ann"]
    assert asyncio.run(listed(None)) == ["ann", "bob"]
    with pytest.raises(TypeError, match="blocked='yes': give True, False or None"):
        asyncio.run(listed("yes"))


def test_a_workflow_that_was_restarted_is_not_blocked(path: Path) -> None:
    """That its code has not run since the restart is the engine's affair: neither a listing of the
    blocked has it, nor does a check say that it fits again."""
    record(path, "ann")
    manager = manager_of(first_release, path)

    async def listed() -> list[list[str]]:
        async with manager.client():
            await manager.cancel("ann")
            await manager.restart("ann")
            pages = [await manager.list_workflows(blocked=each) for each in (True, False)]
        return [[info.workflow_id for info in page] for page in pages]

    assert asyncio.run(listed()) == [[], ["ann"]]
    report = check(first_release, path)
    assert (report.is_ok, report.unblocked) == (True, 0)


def test_info_and_steps_are_those_of_a_listing(path: Path) -> None:
    """A journal shows itself as the manager's listings do."""
    record(path, "ann")
    manager = WorkflowManager(str(path))

    async def run() -> None:
        async with manager.client(access="read"):
            journal = await manager.journal("ann")
            assert [journal.info] == (await manager.list_workflows()).items
            assert journal.steps == (await manager.list_steps("ann")).items

    asyncio.run(run())


def test_an_unknown_id_has_no_journal(path: Path) -> None:
    """As everything about a workflow that does not exist."""
    record(path, "ann")
    with pytest.raises(WorkflowNotFound):
        journal_of(path, "bob")


def test_a_check_changes_nothing(path: Path) -> None:
    """With a worker that holds the store open, and code that does not fit, not a byte changes."""
    record(path, "ann")
    holder = manager_of(first_release, path)

    async def run() -> None:
        async with holder.client():
            before = digest(path.parent)
            assert not (await asyncio.to_thread(check, waits_first, path)).is_ok
            assert digest(path.parent) == before

    asyncio.run(run())


def test_a_store_in_memory_is_checked_where_it_is_open() -> None:
    """An open manager checks its own workflows, with a worker beside it."""
    manager = manager_of(first_release)
    order: Any = manager.registry.get("order")

    async def run() -> CheckReport:
        async with manager:
            await manager.start(order("ann"))
            return await manager.check()

    assert asyncio.run(run()) == CheckReport(checked={"order": 1}, violations=())


def test_a_check_that_would_stop_a_loop_says_what_to_do() -> None:
    """`check_journals` blocks: inside a loop it names the thread to use."""

    async def run() -> None:
        with pytest.raises(PerdureError, match="to_thread"):
            manager_of(nothing).check_journals([])

    asyncio.run(run())


def test_a_damaged_row_is_a_violation_and_no_journal(path: Path) -> None:
    """What cannot be read is told by a check, and is not exported as if it were whole."""
    record(path, "ann", "bob")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("UPDATE perdure_steps SET options = '{' WHERE workflow_id = 'ann'")
    connection.close()
    with pytest.raises(StoreCorrupt):
        journal_of(path, "ann")
    violation = only(check(first_release, path))
    assert (violation.kind, violation.workflow_id) == ("value", "ann")
