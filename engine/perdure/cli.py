"""The command ``perdure``: run a worker, start workflows, look at them, and the demo.

Each command is a call of the manager that ``--app`` names, and a way to show what it gave: tables
for people, JSON for programs. What cannot be done with `import perdure` is not done here either.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import attrs

try:
    import click
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
except ModuleNotFoundError as missing:
    # An exit, not an ImportError: the script that pip installs imports this module first.
    raise SystemExit(
        f"The command perdure needs {missing.name}, which is not installed:"
        " pip install 'perdure[cli]'"
    ) from None

from perdure import (
    ErrorInfo,
    PerdureError,
    Settings,
    StepInfo,
    WorkflowInfo,
    WorkflowManager,
)

R = TypeVar("R")
Command = TypeVar("Command", bound=Callable[..., Any])

STATUSES = ("in_progress", "success", "failed", "canceled")
#: Longer values are cut in tables; --json shows them whole.
VALUE_COLUMNS_MAX = 60
#: Columns of a table that goes into a file or a pipe, where no terminal says how wide it is.
PIPE_COLUMNS = 200


def main() -> None:
    """The command itself: exits with 0 done, 1 the thing failed, 2 bad usage."""
    try:
        code = command_line.main(prog_name="perdure", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except PerdureError as error:
        click.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


# --- options that may stand before and after the command -----------------------------------------


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    # The commands of one call share `meta`; what is given later, after the command, wins.
    if value not in (None, False):
        context.meta[f"perdure.{parameter.name}"] = value


def shared_options(command: Command) -> Command:
    """Give a command --app, --store and --json; `_given` reads them."""
    options = (
        click.option(
            "--app",
            metavar="MODULE:MANAGER",
            help="Where the manager is; else PERDURE_APP says it.",
            expose_value=False,
            callback=_remember,
        ),
        click.option(
            "--store",
            metavar="STORE",
            help="Use this store instead of the manager's own.",
            expose_value=False,
            callback=_remember,
        ),
        click.option(
            "--json",
            "as_json",
            is_flag=True,
            help="Print JSON only.",
            expose_value=False,
            callback=_remember,
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _given(name: str) -> Any:
    return click.get_current_context().meta.get(f"perdure.{name}")


def _manager() -> WorkflowManager:
    """The manager that --app or PERDURE_APP names, on the store that --store names."""
    app = _given("app") or os.environ.get("PERDURE_APP")
    if not app:
        raise click.UsageError("say where the manager is: --app MODULE:MANAGER, or PERDURE_APP")
    module_name, _, path = app.partition(":")
    if not module_name or not path:
        raise click.UsageError(f"--app {app}: give MODULE:MANAGER, such as app:manager")
    if (folder := os.getcwd()) not in sys.path:
        sys.path.insert(0, folder)  # the script of a virtual environment does not look here
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # found, but something that it imports is not: the traceback tells
        raise click.UsageError(f"--app {app}: there is no module {error.name}") from None
    for name in path.split("."):
        if not hasattr(found, name):
            raise click.UsageError(f"--app {app}: {found!r} has no {name}")
        found = getattr(found, name)
    if not isinstance(found, WorkflowManager):
        raise click.UsageError(f"--app {app}: that is not a WorkflowManager: {found!r}")
    if store := _given("store"):
        found.store_url = store
    return found


def _as_client(manager: WorkflowManager, work: Callable[[], Awaitable[R]]) -> R:
    async def run() -> R:
        async with manager.client():
            return await work()

    try:
        return asyncio.run(run())
    except PerdureError:
        raise  # a ValidationError is a ValueError too
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise click.UsageError(f"{what} is not JSON: {error}: {text}") from None


# --- showing -------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """A record as JSON can take it."""
    if attrs.has(type(value)):
        return {
            field.name: _plain(getattr(value, field.name)) for field in attrs.fields(type(value))
        }
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, datetime) else value


def _print_json(value: Any) -> None:
    click.echo(json.dumps(_plain(value), ensure_ascii=False))


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_COLUMNS
    return console


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= VALUE_COLUMNS_MAX else f"{text[: VALUE_COLUMNS_MAX - 1]}…"


def _error_text(error: ErrorInfo) -> str:
    return _short(f"{error.type}: {error.message}")


def _when(instant: datetime | None) -> str:
    return "" if instant is None else instant.strftime("%Y-%m-%d %H:%M:%S")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # As Text: what users store may hold brackets, which would be taken for markup.
        table.add_row(*(Text(cell) for cell in row))
    _console().print(table)


def _status_text(status: Any) -> str:
    if status.kind == "in_progress" and status.blocked is not None:
        return "blocked"
    return str(status.kind).replace("_", " ")


def _outcome_text(status: Any) -> str:
    if status.kind == "success":
        return _short(status.value)
    error = status.error if status.kind == "failed" else getattr(status, "blocked", None)
    return "" if error is None else _error_text(error)


def _workflow_row(info: WorkflowInfo) -> list[str]:
    return [
        info.workflow_id,
        info.name,
        _status_text(info.status),
        _when(info.created_at),
        _when(info.ended_at),
        _outcome_text(info.status),
    ]


def _step_row(step: StepInfo) -> list[str]:
    begin, end = step.started_at or step.asked_at, step.ended_at
    took = "" if end is None else f"{max(0.0, (end - begin).total_seconds()):.3f} s"
    outcome = _short(step.value) if step.status == "success" else ""
    if step.error is not None:
        outcome = _error_text(step.error)
    return [
        str(step.number),
        step.name,
        step.kind,
        step.status.replace("_", " "),
        str(step.attempts or ""),
        _when(step.asked_at),
        took,
        outcome,
    ]


# --- the commands --------------------------------------------------------------------------------


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
    manager = _manager()
    if not _given("as_json"):
        click.echo(f"worker {os.getpid()} runs workflows; Ctrl-C ends it", err=True)
    manager.run(until_idle=until_idle)


@command_line.command()
@click.argument("name")
@click.argument("arguments", metavar="JSON", default="{}")
@click.option("--id", "workflow_id", help="The workflow's id; one that exists starts nothing.")
@shared_options
def start(name: str, arguments: str, workflow_id: str | None) -> None:
    """Start the workflow NAME with the arguments of the object JSON; print its id."""
    manager = _manager()
    values = _json(arguments, "JSON")
    if not isinstance(values, dict):
        raise click.UsageError(f'give an object of arguments, such as {{"user": "ann"}}: {values}')
    known = manager.registry.workflow_names
    definition = manager.registry.get(name)
    if definition is None or name not in known:
        raise click.UsageError(f"there is no workflow {name}; there are: {', '.join(known)}")
    started = _as_client(manager, lambda: manager.start(definition(**values), id=workflow_id))
    if _given("as_json"):
        _print_json({"workflow_id": started})
    else:
        click.echo(started)


@command_line.command("list")
@click.option("--name", help="Only workflows of this name.")
@click.option("--status", type=click.Choice(STATUSES), help="Only those with this status.")
@click.option("--order", type=click.Choice(["asc", "desc"]), default="asc", help="By creation.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@click.option("--cursor", help="Go on where an earlier listing ended.")
@shared_options
def list_command(**options: Any) -> None:
    """List workflows."""
    manager = _manager()
    page = _as_client(manager, lambda: manager.list_workflows(**options))
    if _given("as_json"):
        _print_json(page)
        return
    columns = ("id", "workflow", "status", "created (UTC)", "ended (UTC)", "outcome")
    _table(columns, [_workflow_row(info) for info in page.items])
    if not page.is_done:
        click.echo(f"There are more: --cursor {page.cursor}", err=True)


@command_line.command()
@click.argument("workflow_id", metavar="ID")
@shared_options
def show(workflow_id: str) -> None:
    """Show a workflow's status and its steps, in the order in which they were asked for."""
    manager = _manager()

    async def read() -> tuple[Any, list[StepInfo]]:
        status = await manager.status(workflow_id)
        steps: list[StepInfo] = []
        cursor = None
        while True:
            page = await manager.list_steps(workflow_id, cursor=cursor)
            steps += page.items
            if page.is_done:
                return status, steps
            cursor = page.cursor

    status, steps = _as_client(manager, read)
    if _given("as_json"):
        _print_json({"workflow_id": workflow_id, "status": status, "steps": steps})
        return
    click.echo(": ".join(filter(None, [workflow_id, _status_text(status), _outcome_text(status)])))
    columns = ("#", "step", "kind", "status", "attempts", "asked (UTC)", "took", "outcome")
    _table(columns, [_step_row(step) for step in steps])


@command_line.command()
@click.argument("workflow_id", metavar="ID")
@click.argument("event")
@click.argument("value", metavar="JSON", default="null")
@shared_options
def send(workflow_id: str, event: str, value: str) -> None:
    """Send the event EVENT, with the payload JSON, to a workflow; print the event's id."""
    manager = _manager()
    payload = _json(value, "JSON")
    event_id = _as_client(
        manager, lambda: manager.send_event(event, workflow_id=workflow_id, value=payload)
    )
    if _given("as_json"):
        _print_json({"event_id": event_id})
    else:
        click.echo(event_id)


@command_line.command()
@click.argument("workflow_id", metavar="ID")
@shared_options
def cancel(workflow_id: str) -> None:
    """Cancel a workflow, with its children."""
    manager = _manager()
    _as_client(manager, lambda: manager.cancel(workflow_id))
    if _given("as_json"):
        _print_json({"workflow_id": workflow_id, "status": "canceled"})
    else:
        click.echo(f"canceled {workflow_id}")


@command_line.command()
@click.option(
    "--max-parallelism",
    type=click.IntRange(0),
    help="Action attempts that run at once, over all workers; 0 pauses.",
)
@shared_options
def config(max_parallelism: int | None) -> None:
    """Show the settings that all workers share, after the given change."""
    manager = _manager()

    async def change() -> Settings:
        await manager.update_config(max_parallelism=max_parallelism)
        return await manager.config()

    settings = _as_client(manager, change)
    if _given("as_json"):
        _print_json(settings)
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
    store = _given("store")
    if store is not None and Path(store).exists():
        raise click.UsageError(f"--store {store} exists: name a new file")
    return perform(plan, None if store is None else Path(store), as_json=bool(_given("as_json")))
