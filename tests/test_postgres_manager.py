"""The whole engine on PostgreSQL, through the public door, on a real server."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from tests.managers import FAST, LONG, call, number_event, run
from tests.postgres import Server

from perdure import (
    ActionContext,
    ConnectionMisuse,
    Failed,
    InProgress,
    MutationContext,
    QueryContext,
    Step,
    StepFailed,
    Succeeded,
    WorkflowFailed,
    WorkflowManager,
    WorkflowNotFound,
    WorkflowRunning,
)


def make(url: str, **options: Any) -> WorkflowManager:
    """A manager with definitions that most tests can use."""
    manager = WorkflowManager(url, **options)
    attempts: dict[str, int] = {}

    @manager.mutation
    def put(ctx: MutationContext, text: str) -> None:
        ctx.db.execute("INSERT INTO notes VALUES (%s)", (text,))

    @manager.mutation
    def put_and_fail(ctx: MutationContext, text: str) -> None:
        ctx.db.execute("INSERT INTO notes VALUES (%s)", (text,))
        ctx.db.execute("SELECT 1/0")

    @manager.query
    def notes(ctx: QueryContext) -> list[str]:
        return [row[0] for row in ctx.db.execute("SELECT text FROM notes ORDER BY text")]

    @manager.action
    async def double(ctx: ActionContext, n: int) -> int:
        return 2 * n

    @manager.action(retry=FAST)
    async def fail_twice(ctx: ActionContext) -> int:
        attempts[ctx.workflow_id] = ctx.attempt
        if ctx.attempt < 3:
            raise ValueError(f"attempt {ctx.attempt}")
        return ctx.attempt

    @manager.mutation
    def note_end(ctx: MutationContext, workflow_id: str, outcome: Any) -> None:
        ctx.db.execute("INSERT INTO notes VALUES (%s)", (f"end: {outcome.kind}",))

    @manager.workflow
    async def everything(step: Step, n: int) -> list[Any]:
        doubled = await step.run_action(double(n))
        await step.run_mutation(put("x"))
        try:
            await step.run_mutation(put_and_fail("y"))
        except StepFailed as error:
            doubled += "division by zero" in str(error)
        await step.sleep(0.001)
        return [doubled, await step.run_query(notes()), await step.run_action(fail_twice())]

    @manager.workflow
    async def add(step: Step, count: int) -> int:
        return sum([await step.await_event(number_event) for _ in range(count)])

    @manager.workflow
    async def parent(step: Step) -> int:
        return await step.run_workflow(child(1)) + await step.run_workflow(child(2))

    @manager.workflow
    async def child(step: Step, n: int) -> int:
        return await step.run_action(double(n))

    @manager.workflow
    async def wait(step: Step) -> None:
        await step.await_event("never")

    @manager.workflow
    async def fail(step: Step) -> None:
        await step.run_mutation(put("before"))
        raise ValueError("no")

    return manager


@pytest.fixture
def url(postgres_url: str) -> str:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE notes (text text)")
    return postgres_url


async def finish(manager: WorkflowManager, name: str, *args: Any, **options: Any) -> Any:
    workflow_id = await manager.start(call(manager, name, *args), **options)
    return await manager.result(workflow_id, timeout=LONG)


def notes(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT text FROM notes ORDER BY text")]


def test_a_workflow_of_all_kinds_of_steps(url: str) -> None:
    """Actions, retries, mutations that stay or are undone, queries and sleeps."""

    async def test(manager: WorkflowManager) -> Any:
        return await finish(manager, "everything", 4)

    assert run(test, make(url)) == [9, ["x"], 3]
    assert notes(url) == ["x"]


def test_events_children_and_on_complete(url: str) -> None:
    """Events come in order, children report, the end is told once and in its transaction."""

    async def test(manager: WorkflowManager) -> None:
        note_end: Any = manager.registry.get("note_end")
        workflow_id = await manager.start(call(manager, "add", 2), on_complete=note_end)
        for number in (1, 2):
            await manager.send_event(number_event, workflow_id=workflow_id, value=number)
        assert await manager.result(workflow_id, timeout=LONG) == 3
        assert await finish(manager, "parent") == 6
        with pytest.raises(WorkflowFailed, match="no"):
            await finish(manager, "fail")

    run(test, make(url))
    assert notes(url) == ["before", "end: success"]


def test_cancel_restart_and_cleanup(url: str) -> None:
    """What ends and deletes workflows does so for the whole tree, and says when it cannot."""

    async def test(manager: WorkflowManager) -> None:
        waiting = await manager.start(call(manager, "wait"))
        with pytest.raises(WorkflowRunning):
            await manager.restart(waiting)
        await manager.cancel(waiting)
        assert (await manager.status(waiting)).kind == "canceled"
        failed = await manager.start(call(manager, "fail"))
        with pytest.raises(WorkflowFailed):
            await manager.result(failed, timeout=LONG)
        await manager.restart(failed, from_step=0)
        with pytest.raises(WorkflowFailed):
            await manager.result(failed, timeout=LONG)
        assert await manager.cleanup(failed)
        with pytest.raises(WorkflowNotFound):
            await manager.status(failed)
        page = await manager.list_workflows()
        assert [info.workflow_id for info in page.items] == [waiting]

    run(test, make(url))
    assert notes(url) == ["before", "before"]


def test_over_is_part_of_the_users_transaction(url: str) -> None:
    """What was started over a connection is there after its commit, and not after a rollback."""
    manager = make(url)
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO notes VALUES ('undone')")
        manager.over(connection).start(call(manager, "child", 1), id="undone")
        connection.rollback()
        connection.execute("INSERT INTO notes VALUES ('mine')")
        with pytest.raises(WorkflowNotFound):
            manager.over(connection).cancel("undone")
        manager.over(connection).start(call(manager, "child", 2), id="kept")
        connection.commit()

    async def test(manager: WorkflowManager) -> Any:
        with pytest.raises(WorkflowNotFound):
            await manager.status("undone")
        return await manager.result("kept", timeout=LONG)

    assert run(test, manager) == 4
    assert notes(url) == ["mine"]


def test_over_wakes_a_worker(url: str) -> None:
    """A worker learns of the user's commit by its notification."""

    async def test(manager: WorkflowManager) -> Any:
        with psycopg.connect(url) as connection:
            manager.over(connection).start(call(manager, "child", 2), id="kept")
            connection.commit()
        return await manager.result("kept", timeout=LONG)

    assert run(test, make(f"{url}&lease=600")) == 4


def test_over_wants_an_open_transaction(url: str) -> None:
    """And one on the manager's database."""
    manager = make(url)
    with psycopg.connect(url, autocommit=True) as connection:
        with pytest.raises(ConnectionMisuse, match="no transaction is open"):
            manager.over(connection)
        with connection.transaction():
            ctx = manager.over(connection)
            ctx.start(call(manager, "child", 1), id="kept")
        with pytest.raises(ConnectionMisuse, match="has ended"):
            ctx.cancel("kept")
    with psycopg.connect(url, dbname="postgres") as connection:
        with pytest.raises(ConnectionMisuse, match="a connection to 'postgres'"):
            manager.over(connection)


def test_watching_shows_each_state(url: str) -> None:
    """The last that is shown is the end."""

    async def test(manager: WorkflowManager) -> Any:
        workflow_id = await manager.start(call(manager, "everything", 1))
        shown = [view async for view in manager.watch(workflow_id)]
        return shown[-1]

    assert isinstance(run(test, make(url)), Succeeded)


def test_a_client_and_a_worker(url: str) -> None:
    """A client without a worker starts, sends and waits; a worker elsewhere does the work. Only
    notifications tell one of the other: nothing else would for minutes."""
    patient = f"{url}&lease=600"

    async def test(worker: WorkflowManager) -> None:
        client = make(patient)
        async with client.client():
            workflow_id = await client.start(call(client, "add", 1))
            await client.send_event(number_event, workflow_id=workflow_id, value=5)
            assert await client.result(workflow_id, timeout=LONG) == 5
            waiting = await client.start(call(client, "wait"))
            await client.cancel(waiting)
            assert (await worker.status(waiting)).kind == "canceled"

    run(test, make(patient))


def test_a_client_behind_pgbouncer(url: str) -> None:
    """It works without anything that stays in a session; a worker does not, and says so."""

    async def test(worker: WorkflowManager) -> None:
        client = make(f"{url}&pgbouncer=true")
        async with client.client():
            workflow_id = await client.start(call(client, "child", 5))
            assert await worker.result(workflow_id, timeout=LONG) == 10
            assert await client.result(workflow_id, timeout=LONG) == 10
        with pytest.raises(Exception, match="give workers the server's own address"):
            async with client:
                pass

    run(test, make(url))


def test_another_worker_goes_on_after_one_that_is_silent(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """When its lease has run out; the silent one finds itself fenced and begins a new life."""
    caplog.set_level(logging.CRITICAL, "perdure")
    impatient = f"{url}&lease=1"

    async def test(silent: WorkflowManager) -> None:
        workflow_id = await silent.start(call(silent, "hang"))
        await begun.wait()
        engine: Any = silent._engine
        engine.store._pulse.stop()
        other = make_hanging()
        async with other:
            assert await other.result(workflow_id, timeout=LONG) == 2
            # Its outcome in its old life counts for nothing; the new life works.
            assert await finish(silent, "add", 0) == 0

    begun = asyncio.Event()

    def make_hanging() -> WorkflowManager:
        manager = make(impatient)

        @manager.action(retry=FAST)
        async def hang_once(ctx: ActionContext) -> int:
            if ctx.attempt == 1:
                begun.set()
                await asyncio.Event().wait()
            return ctx.attempt

        @manager.workflow
        async def hang(step: Step) -> int:
            return await step.run_action(hang_once())

        return manager

    run(test, make_hanging())


def test_many_workflows_on_two_workers(url: str) -> None:
    """Each ends once, whoever has it."""

    async def test(one: WorkflowManager) -> None:
        async with make(url, max_parallelism=4) as two:
            ids = []
            for n in range(20):
                manager = (one, two)[n % 2]
                ids.append(await manager.start(call(manager, "everything", n), id=f"w{n}"))
            for n, workflow_id in enumerate(ids):
                result = await (two, one)[n % 2].result(workflow_id, timeout=LONG)
                assert (result[0], result[2]) == (2 * n + 1, 3)

    run(test, make(url, max_parallelism=4))
    assert notes(url) == ["x"] * 20


def test_one_id_is_started_once(url: str) -> None:
    """Many clients start the same workflow at once: all get it, and it runs once."""

    async def test(one: WorkflowManager) -> None:
        async with make(url) as two:

            async def start(manager: WorkflowManager) -> str:
                return await manager.start(call(manager, "everything", 1), id="same")

            ids = await asyncio.gather(*(start(each) for each in (one, two) * 10))
            assert set(ids) == {"same"}
            assert await two.result("same", timeout=LONG) == [3, ["x"], 3]

    run(test, make(url))
    assert notes(url) == ["x"]


def test_a_server_that_restarts_costs_time_only(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """All connections are ended again and again while workflows run: all of them end well."""
    caplog.set_level(logging.CRITICAL, "perdure")

    async def test(manager: WorkflowManager) -> list[Any]:
        ids = [await manager.start(call(manager, "everything", n)) for n in range(10)]
        with psycopg.connect(url, autocommit=True) as connection:
            for _ in range(3):
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'perdure' AND datname = current_database()"
                )
                await asyncio.sleep(0.05)
        return [(await manager.result(each, timeout=LONG))[::2] for each in ids]

    assert run(test, make(url)) == [[2 * n + 1, 3] for n in range(10)]
    assert notes(url) == ["x"] * 10


def test_a_read_waits_for_the_server(
    url: str, postgres_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """As every call from outside does: who asks just now need not ask again."""
    caplog.set_level(logging.CRITICAL, "perdure")
    name = conninfo_to_dict(url)["dbname"]

    async def test(manager: WorkflowManager) -> Any:
        workflow_id = await manager.start(call(manager, "child", 3))
        postgres_server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        postgres_server.cut_connections()
        asked = asyncio.create_task(manager.status(workflow_id))
        await asyncio.sleep(0)
        assert not asked.done()
        postgres_server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        assert await manager.result(workflow_id, timeout=LONG) == 6
        return await asked

    assert isinstance(run(test, make(url)), InProgress | Succeeded)


def test_a_function_that_ends_the_transaction_fails_alone(url: str) -> None:
    """Its step fails with the statement named; nothing of the engine's is lost."""
    manager = make(url)

    @manager.mutation
    def end_it(ctx: MutationContext) -> None:
        ctx.db.pgconn.exec_(b"COMMIT")  # by the back door

    @manager.workflow
    async def ends(step: Step) -> str:
        try:
            await step.run_mutation(end_it())
        except StepFailed as error:
            return error.error.type
        return "no error"

    async def test(manager: WorkflowManager) -> Any:
        return await finish(manager, "ends")

    assert run(test, manager) == "TransactionLost"


def test_outcomes_are_told_as_they_are(url: str) -> None:
    """The type of a failure comes back."""

    async def test(manager: WorkflowManager) -> Any:
        workflow_id = await manager.start(call(manager, "fail"))
        with pytest.raises(WorkflowFailed):
            await manager.result(workflow_id, timeout=LONG)
        return await manager.status(workflow_id)

    found = run(test, make(url))
    assert isinstance(found, Failed)
    assert found.error.type.endswith("ValueError")


def test_the_command_line_works_on_it(url: str, tmp_path: Path) -> None:
    """With `--store`, on the application of another store."""
    program = "from perdure import WorkflowManager\nmanager = WorkflowManager(':memory:')\n"
    (tmp_path / "some_app.py").write_text(program)
    run(_start_one, make(url))
    command = ["--app", "some_app:manager", "--store", url, "--json", "list"]
    done = subprocess.run(
        [sys.executable, "-m", "perdure", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"kept"' in done.stdout


async def _start_one(manager: WorkflowManager) -> None:
    await manager.start(call(manager, "wait"), id="kept")
