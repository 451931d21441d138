"""``perdure journal`` and ``perdure check``: taking journals along, and code that must fit them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import IO, Any

import click
from rich.console import Console
from rich.text import Text

from perdure import (
    CheckedWorkflow,
    CheckReport,
    CheckViolation,
    WorkflowJournal,
    WorkflowManager,
    load_journals,
)
from perdure.cli.options import find_manager, given, run_client, shared_options
from perdure.cli.showing import as_plain, make_console, print_json


@click.command()
@click.argument("workflow_ids", metavar="[ID]…", nargs=-1)
@click.option("--all", "all_of_them", is_flag=True, help="Every workflow of the store.")
@click.option("--unfinished", is_flag=True, help="Every workflow that is in progress.")
@click.option("--name", help="With --all or --unfinished: only workflows of this name.")
@shared_options
def journal(
    workflow_ids: tuple[str, ...], all_of_them: bool, unfinished: bool, name: str | None
) -> None:
    """Print all that is recorded of a workflow as JSON lines: for a file, and for `check FILE`.

    The values are printed as they are stored: what is secret in them is secret in the file.
    """
    if bool(workflow_ids) == (all_of_them or unfinished):
        raise click.UsageError("give the ids of workflows, or --all, or --unfinished")
    manager = find_manager()

    async def print_all() -> None:
        for workflow_id in workflow_ids:
            _print_journal(await manager.journal(workflow_id))
        cursor, is_done = None, bool(workflow_ids)
        while not is_done:
            status: Any = "in_progress" if unfinished else None
            page = await manager.list_workflows(name=name, status=status, cursor=cursor)
            for info in page:
                _print_journal(await manager.journal(info.workflow_id))
            cursor, is_done = page.cursor, page.is_done

    run_client(manager, print_all)


def _print_journal(journal: WorkflowJournal) -> None:
    for line in journal.lines():
        click.echo(line)


@click.command()
@click.argument("files", metavar="[FILE]…", nargs=-1, type=click.File(encoding="utf-8"))
@click.option("--name", help="Only workflows of this name.")
@click.option("--verbose", "-v", is_flag=True, help="Each workflow, and what the code does next.")
@shared_options
def check(files: tuple[IO[str], ...], name: str | None, verbose: bool) -> int:
    """Replay every unfinished workflow against today's code; exit code 1 if any does not fit.

    It changes nothing: the store is opened to be read, and may be in use, or a copy. With a FILE
    (or - for stdin) it replays journals that `perdure journal` has printed, and needs no store.
    """
    manager = find_manager(quiet=True)
    console = Console(stderr=True, highlight=False)
    as_json = bool(given("as_json"))
    seen: list[CheckedWorkflow] = []
    count = 0
    showing: AbstractContextManager[Any] = nullcontext()
    if console.is_terminal and not as_json and not verbose:
        showing = console.status("checking…")
    with showing as status:

        def progress(checked: CheckedWorkflow) -> None:
            nonlocal count
            count += 1
            if verbose and as_json:
                seen.append(checked)
            elif verbose:
                _print_checked(checked)
            elif status is not None and count % 10 == 0:
                status.update(f"checked {count} workflows…")

        report = _check(manager, files, name, progress)
    if as_json:
        shown = {"is_ok": report.is_ok, **as_plain(report)}
        print_json({**shown, "workflows": seen} if verbose else shown)
    else:
        _print_report(report, make_console())
    return 0 if report.is_ok else 1


def _check(
    manager: WorkflowManager,
    files: tuple[IO[str], ...],
    name: str | None,
    progress: Callable[[CheckedWorkflow], object],
) -> CheckReport:
    if files:
        return manager.check_journals(_read(files, name), name=name, progress=progress)
    return run_client(manager, lambda: manager.check(name=name, progress=progress))


def _read(files: tuple[IO[str], ...], name: str | None) -> Iterator[WorkflowJournal]:
    for file in files:
        for journal in load_journals(file):
            if name in (None, journal.name):
                yield journal


def _print_checked(checked: CheckedWorkflow) -> None:
    click.echo(f"{checked.workflow_id}  {checked.name}  {_verdict(checked)}")
    for text in checked.next:
        click.echo(f"    {text}")


def _verdict(checked: CheckedWorkflow) -> str:
    facts = "1 fact" if checked.facts == 1 else f"{checked.facts} facts"
    if checked.violations:
        return f"{facts}, does not fit"
    return f"{facts}, fits again" if checked.was_blocked else f"{facts}, fits"


def _print_report(report: CheckReport, console: Console) -> None:
    for violation in report.violations:
        _print_violation(violation, console)
    counts = ", ".join(f"{name} {count}" for name, count in report.checked.items())
    total = sum(report.checked.values())
    workflows = "1 workflow" if total == 1 else f"{total} workflows"
    line = Text(f"checked {workflows}" + (f": {counts}" if counts else ""))
    if report.unblocked:
        line.append(f"; {report.unblocked} that were blocked fit again", "green")
    console.print(line, soft_wrap=True)
    if not report.saw_clocks:
        click.echo("a profiler is on, so clocks that helper functions read went unseen", err=True)
    if report.is_ok:
        console.print(Text("all fit", "green"))
    else:
        reasons = len(report.violations)
        told = "1 violation" if reasons == 1 else f"{reasons} violations"
        console.print(Text(told, "bold red"))


def _print_violation(violation: CheckViolation, console: Console) -> None:
    head = Text.assemble((violation.kind, "bold red"), f": {violation.name}")
    if violation.workflow_id is not None:
        head.append(f" {violation.workflow_id}")
    if violation.step is not None:
        head.append(f", step {violation.step} {violation.step_name}")
    console.print(head, soft_wrap=True)
    for line in violation.message.splitlines():
        console.print(Text(f"    {line}"), soft_wrap=True)
    sys.stdout.flush()
