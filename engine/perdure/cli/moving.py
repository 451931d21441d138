"""``perdure migrate``: from an SQLite file to a PostgreSQL server."""

from __future__ import annotations

from contextlib import nullcontext

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from perdure import MigrationReport, abandon_migration
from perdure import migrate as move
from perdure.cli.options import given, shared_options
from perdure.cli.showing import print_json

#: Tables named in a line, at most.
NAMED_MAX = 8


@click.command()
@click.argument("source")
@click.argument("target")
@click.option("--abandon", is_flag=True, help="Take back a move that was broken off.")
@shared_options
def migrate(source: str, target: str, abandon: bool) -> None:
    """Move all workflows of the file SOURCE to TARGET, a postgresql://… without any.

    Stop the workers of the file first. Workflows in progress go on when a worker runs on TARGET;
    whoever opens the file from then on is told where to go. Your own tables do not move: move them
    yourself, before you start workers. A move that was broken off goes on when it is called again.
    """
    try:
        if abandon:
            abandon_migration(source, target)
            _tell_abandoned(source)
        else:
            _tell(_move(source, target), source)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _move(source: str, target: str) -> MigrationReport:
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    is_shown = console.is_terminal and not given("as_json")
    bars = Progress(*columns, console=console, transient=True) if is_shown else None
    tasks = {}

    def show(table: str, count: int, total: int) -> None:
        if bars is not None:
            if table not in tasks:
                tasks[table] = bars.add_task(table.removeprefix("perdure_"), total=total)
            bars.update(tasks[table], completed=count)

    with bars or nullcontext():
        return move(source, target, progress=show)


def _tell(report: MigrationReport, source: str) -> None:
    if given("as_json"):
        print_json({"workflows": report.workflows, **_plain(report)})
        return
    if not report.rows:
        click.echo(f"the workflows of {source} had moved already")
        return
    parts = [f"{count:,} {table.removeprefix('perdure_')}" for table, count in report.rows.items()]
    click.echo(f"moved {', '.join(parts)}")
    if report.other_tables:
        named = ", ".join(report.other_tables[:NAMED_MAX])
        more = len(report.other_tables) - NAMED_MAX
        click.echo(f"not moved, your own tables: {named}" + (f" and {more} more" * (more > 0)))


def _plain(report: MigrationReport) -> dict[str, object]:
    return {"rows": report.rows, "other_tables": list(report.other_tables)}


def _tell_abandoned(source: str) -> None:
    if given("as_json"):
        print_json({"abandoned": source})
    else:
        click.echo(f"{source} is what it was: its workers may be started")
