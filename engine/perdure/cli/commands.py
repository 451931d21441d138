"""The commands: each is a call of the manager, and a way to show what it gave."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from perdure import (
    InProgress,
    Settings,
    Status,
    Workflow,
    WorkflowJournal,
    WorkflowManager,
    WorkflowNotFound,
)
from perdure.cli.checks import check, journal
from perdure.cli.moving import migrate
from perdure.cli.options import find_manager, given, parse_json, run_client, shared_options
from perdure.cli.showing import (
    as_plain,
    error_text,
    now,
    print_json,
    print_table,
    status_text,
    step_row,
    workflow_row,
)
from perdure.cli.timeline import child_ids, print_timeline

STATUSES = ("in_progress", "success", "failed", "canceled")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="perdure")
@shared_options
def command_line() -> None:
    """Durable workflows in plain async Python.

    The options --app, --store and --json may stand before or after the command.
    """


@command_line.command()
@click.option("--until-idle", is_flag=True, help="End when there is nothing left to do.")
@shared_options
def worker(until_idle: bool) -> None:
    """Run workflows until SIGTERM or Ctrl-C, which let running attempts end."""
    manager = find_manager()
    if not given("as_json"):
        click.echo(f"worker {os.getpid()} runs workflows; Ctrl-C ends it", err=True)
    manager.run(until_idle=until_idle)


@command_line.command()
@click.argument("name")
@click.argument("arguments", metavar="JSON", default="{}")
@click.option("--id", "workflow_id", help="The workflow's id; one that exists starts nothing.")
@shared_options
def start(name: str, arguments: str, workflow_id: str | None) -> None:
    """Start the workflow NAME with the arguments of the object JSON; print its id."""
    manager = find_manager()
    values = parse_json(arguments, "JSON")
    if not isinstance(values, dict):
        raise click.UsageError(f'give an object of arguments, such as {{"user": "ann"}}: {values}')
    known = manager.registry.workflow_names
    definition = manager.registry.get(name)
    if not isinstance(definition, Workflow):
        raise click.UsageError(f"there is no workflow {name}; there are: {', '.join(known)}")
    started = run_client(
        manager, lambda: manager.start(definition(**values), id=workflow_id), "create"
    )
    if given("as_json"):
        print_json({"workflow_id": started})
    else:
        click.echo(started)


@command_line.command("list")
@click.option("--name", help="Only workflows of this name.")
@click.option("--status", type=click.Choice(STATUSES), help="Only those with this status.")
@click.option("--blocked", is_flag=True, help="Only those whose code does not fit their journal.")
@click.option("--order", type=click.Choice(["asc", "desc"]), default="asc", help="By creation.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@click.option("--cursor", help="Go on where an earlier listing ended.")
@shared_options
def list_command(blocked: bool, **options: Any) -> None:
    """List workflows.

    One that is due, and that no worker takes because none has its definition, is called unclaimed.
    """
    manager = find_manager()
    page = run_client(manager, lambda: manager.list_workflows(blocked=blocked or None, **options))
    if given("as_json"):
        print_json(page)
        return
    columns = ("id", "workflow", "status", "created (UTC)", "ended (UTC)", "outcome")
    at = now()
    print_table(columns, [workflow_row(info, at) for info in page.items])
    if not page.is_done:
        click.echo(f"There are more: --cursor {page.cursor}", err=True)


@command_line.command()
@click.argument("workflow_id", metavar="ID")
@click.option("--steps", "as_table", is_flag=True, help="The steps as a table, as they are stored.")
@click.option("--tree", is_flag=True, help="The steps of child workflows too, below theirs.")
@shared_options
def show(workflow_id: str, as_table: bool, tree: bool) -> None:
    """Show a workflow and its steps as a timeline, in the order in which they were asked for."""
    manager = find_manager()
    journal, children = run_client(manager, lambda: _read_tree(manager, workflow_id, tree))
    info, steps = journal.info, journal.steps
    if given("as_json"):
        shown: dict[str, Any] = {**as_plain(info), "steps": steps}  # as `list` has it
        if tree:
            shown["children"] = {key: each.steps for key, each in children.items()}
        print_json(shown)
        return
    if as_table:
        columns = ("#", "step", "kind", "status", "attempts", "asked (UTC)", "took", "outcome")
        print_table(columns, [step_row(step) for step in steps])
        return
    print_timeline(journal, children)


async def _read_tree(
    manager: WorkflowManager, workflow_id: str, tree: bool
) -> tuple[WorkflowJournal, dict[str, WorkflowJournal]]:
    """A workflow's journal, and those of its children and theirs."""
    root = await manager.journal(workflow_id)
    found: dict[str, WorkflowJournal] = {}
    waiting = child_ids([root]) if tree else []
    while waiting:
        child_id = waiting.pop()
        if child_id in found:
            continue
        try:
            found[child_id] = await manager.journal(child_id)
        except WorkflowNotFound:
            continue  # cleaned up, or not begun
        waiting += child_ids([found[child_id]])
    return root, found


@command_line.command()
@click.argument("workflow_id", metavar="ID")
@shared_options
def watch(workflow_id: str) -> int:
    """Print each change of a workflow until it ends: exit code 0 if it succeeded, 1 if not."""
    manager = find_manager()

    async def follow() -> Status:
        said = ""
        async for status in manager.watch(workflow_id):
            if given("as_json"):
                print_json({"workflow_id": workflow_id, "status": status})
            elif (text := _change(status)) != said:
                said = text  # what differs in the numbers of a step only is no news
                click.echo(f"{now():%H:%M:%S}  {said}")
        return status

    last = run_client(manager, follow)
    return 0 if last.kind == "success" else 1


def _change(status: Status) -> str:
    text = status_text(status)
    if isinstance(status, InProgress):
        running = [
            f"{step.name} (attempt {step.attempts})" if step.attempts > 1 else step.name
            for step in status.running
        ]
        if status.blocked is not None:
            running = [error_text(status.blocked, 400)]
        return f"{text}: {', '.join(running)}" if running else text
    if status.kind == "success":
        return f"{text}: {json.dumps(status.value, ensure_ascii=False)}"
    return f"{text}: {error_text(status.error, 400)}" if status.kind == "failed" else text


@command_line.command()
@click.argument("workflow_id", metavar="ID")
@click.argument("event")
@click.argument("value", metavar="JSON", default="null")
@click.option("--error", help="Instead of a payload: the wait fails with this text.")
@shared_options
def send(workflow_id: str, event: str, value: str, error: str | None) -> None:
    """Send the event EVENT, with the payload JSON, to a workflow; print the event's id."""
    manager = find_manager()
    payload = parse_json(value, "JSON")
    event_id = run_client(
        manager,
        lambda: manager.send_event(event, workflow_id=workflow_id, value=payload, error=error),
        "write",
    )
    if given("as_json"):
        print_json({"event_id": event_id})
    else:
        click.echo(event_id)


@command_line.command()
@click.argument("workflow_id", metavar="ID")
@shared_options
def cancel(workflow_id: str) -> None:
    """Cancel a workflow, with its children."""
    manager = find_manager()
    run_client(manager, lambda: manager.cancel(workflow_id), "write")
    if given("as_json"):
        print_json({"workflow_id": workflow_id, "status": "canceled"})
    else:
        click.echo(f"canceled {workflow_id}")


@command_line.command()
@click.argument("workflow_id", metavar="ID")
@click.option(
    "--from",
    "--from-step",
    "step",
    metavar="STEP",
    help="Anew from here: a step's number or name.",
)
@shared_options
def restart(workflow_id: str, step: str | None) -> None:
    """Run a workflow that has ended, or is blocked, once more.

    Every recorded outcome is kept, and only steps without one run again, unless --from names a step
    (the last one of a name): it and all after it are forgotten.
    """
    manager = find_manager()
    # Only what a number looks like is one: a step may have any name.
    from_step = int(step) if step is not None and step.isascii() and step.isdigit() else step
    run_client(manager, lambda: manager.restart(workflow_id, from_step=from_step), "write")
    if given("as_json"):
        print_json({"workflow_id": workflow_id, "status": "in_progress"})
    else:
        click.echo(f"restarted {workflow_id}")


@command_line.command()
@click.argument("workflow_id", metavar="ID")
@click.option("--force", is_flag=True, help="Also one that runs: it is canceled first.")
@shared_options
def cleanup(workflow_id: str, force: bool) -> int:
    """Delete a workflow that has ended, with its steps, events and children.

    Exit code 1 if nothing was deleted: it runs, or there is none.
    """
    manager = find_manager()

    async def clean() -> str | None:
        if await manager.cleanup(workflow_id, force=force):
            return None
        try:
            await manager.status(workflow_id)
        except WorkflowNotFound:
            return "there is no workflow with that id"
        return "it has not ended: wait for it, cancel it, or give --force"

    reason = run_client(manager, clean, "write")
    if given("as_json"):
        print_json({"workflow_id": workflow_id, "is_deleted": reason is None, "reason": reason})
    elif reason is None:
        click.echo(f"deleted {workflow_id}")
    else:
        click.echo(f"{workflow_id} was not deleted: {reason}", err=True)
    return 0 if reason is None else 1


@command_line.command()
@click.option(
    "--max-parallelism",
    type=click.IntRange(0),
    help="Action attempts that run at once, over all workers; 0 pauses.",
)
@shared_options
def config(max_parallelism: int | None) -> None:
    """Show the settings that all workers share, after the given change."""
    manager = find_manager()

    async def change() -> Settings:
        if max_parallelism is not None:
            await manager.update_config(max_parallelism=max_parallelism)
        return await manager.config()

    settings = run_client(manager, change, "read" if max_parallelism is None else "write")
    if given("as_json"):
        print_json(settings)
    else:
        click.echo(f"max_parallelism: {settings.max_parallelism}")


@command_line.command()
@click.option("--users", type=click.IntRange(1, 100), default=6, show_default=True)
@click.option("--kills", type=click.IntRange(0), default=2, show_default=True, help="Of workers.")
@click.option(
    "--day", type=click.FloatRange(0, 3600), default=2.0, show_default=True, help="Its seconds."
)
@shared_options
def demo(users: int, kills: int, day: float) -> int:
    """Kill workers in the middle of workflows, and prove that nothing was lost or done twice.

    With --store the database is kept; look at it with
    perdure --app perdure.demo.app:manager --store STORE list.
    """
    from perdure.demo.play import Plan
    from perdure.demo.stage import perform

    plan = Plan(users=users, kills=kills, day_seconds=day)
    if kills > plan.kills_max:
        raise click.UsageError(f"--kills {kills}: with --users {users} at most {plan.kills_max}")
    store = given("store")
    if store is not None and Path(store).exists():
        raise click.UsageError(f"--store {store} exists: name a new file")
    return perform(plan, None if store is None else Path(store), as_json=bool(given("as_json")))


command_line.add_command(journal)
command_line.add_command(check)
command_line.add_command(migrate)
