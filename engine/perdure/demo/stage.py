"""Where the demo is played: its folder, its view, what is told at the end, and the exit code."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import attrs
from rich.console import Console
from rich.table import Table

from perdure import WorkflowJournal, WorkflowManager
from perdure.cli.timeline import print_timeline
from perdure.demo.play import STEPS, Plan, Result, Stopped, play
from perdure.demo.view import SilentView, View, make_view


def perform(plan: Plan, store: Path | None, *, as_json: bool = False) -> int:
    """Play the demo and tell how it went.

    Args:
        plan: what to play.
        store: where the database is made and kept; None for a folder that is removed at the end,
            unless something went wrong.
        as_json: print the result as JSON, and nothing else.

    Returns:
        The exit code: 0 all is proved, 1 it is not, 128 + n ended by signal n.
    """
    console = Console(highlight=False)
    began = time.monotonic()
    view: View = SilentView()
    if not as_json:
        view = make_view(console, STEPS, lambda: time.monotonic() - began)
    folder = Path(tempfile.mkdtemp(prefix="perdure-demo-"))
    is_kept = True  # also after an error that nobody expected
    try:
        database = folder / "demo.db" if store is None else store.resolve()
        result = play(plan, folder, database, view)
        is_shown = not (as_json or result.faults)
        journal = asyncio.run(most_tried(database)) if is_shown else None
        is_kept = bool(result.faults)
    except Stopped as stopped:
        is_kept = False
        print(f"The demo was {stopped}.", file=sys.stderr)
        return 128 + stopped.number
    finally:
        if is_kept:
            print(f"Kept, with what the processes said: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        print(json.dumps(attrs.asdict(result), ensure_ascii=False))
    else:
        tell(result, plan, console)
        if journal is not None:
            console.print("\nOne of them, as `perdure show` draws it:\n", markup=False)
            print_timeline(journal)
        if store is not None:
            console.print(f"The database is in {store}", markup=False)
    return 1 if result.faults else 0


async def most_tried(store: Path) -> WorkflowJournal | None:
    """The journal of the workflow whose steps took the most attempts; None if there is none."""
    manager = WorkflowManager(store)
    async with manager.client(access="read"):
        journals = [
            await manager.journal(info.workflow_id)
            for info in await manager.list_workflows()
            if info.parent_id is None
        ]
    return max(journals, key=lambda each: sum(step.attempts for step in each.steps), default=None)


def tell(result: Result, plan: Plan, console: Console) -> None:
    """Print the proof: a small table and a sentence, or what is wrong."""
    proof, counts = result.proof, result.counts
    table = Table(title="What the tables say", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in (
        ("users", str(proof.users)),
        ("workflows that ended with success", str(proof.ended)),
        ("e-mails expected", str(proof.emails_expected)),
        ("e-mails written", str(proof.emails_written)),
        ("workers killed with SIGKILL", str(result.kills)),
        ("requests at the HTTP service", str(counts.requests)),
        ("their different idempotency keys", str(counts.keys)),
        ("seconds", f"{result.seconds:.1f}"),
    ):
        table.add_row(name, value)
    console.print(table)
    if not result.faults:
        console.print(_moral(result, plan), style="green", markup=False)
        return
    console.print("It did not work:", style="bold red")
    for fault in result.faults:
        console.print(f"- {fault}", markup=False)


def _moral(result: Result, plan: Plan) -> str:
    killed = {0: "No worker was killed", 1: "A worker was killed"}.get(
        result.kills, f"Workers were killed {result.kills} times"
    )
    return (
        f"{killed}; each of the {result.proof.emails_expected} e-mails was written exactly once, "
        f"and all {plan.users} workflows ended."
    )
