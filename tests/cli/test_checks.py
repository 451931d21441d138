"""``journal`` and ``check``: journals on stdout, code that must fit them, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.running import Run

MISFIT = "the code does not fit the journal"

#: The user's next release: a step was added before the recorded ones.
CHANGED = """
from perdure import MutationContext, Step, WorkflowManager

manager = WorkflowManager("app.db")


@manager.mutation
def note(ctx: MutationContext, text: str) -> str:
    return text


@manager.workflow
async def order(step: Step, user: str, count: int = 1) -> str:
    await step.run_mutation(note("new"))
    await step.run_mutation(note(f"[bold]{user}"))
    return await step.await_event("decision")
"""


@pytest.fixture
def orders(run: Run) -> list[str]:
    """Two orders that wait for a decision, and a workflow that has ended."""
    for user in ("ann", "bob"):
        run("start", "order", json.dumps({"user": user}), "--id", user)
    run("start", "failing", "--id", "failed")
    run("worker", "--until-idle")
    return ["ann", "bob"]


@pytest.fixture
def changed(bare: Run, tmp_path: Path, app: str) -> Run:
    """Run a command with the next release."""
    (tmp_path / f"{app}_2.py").write_text(CHANGED, encoding="utf-8")
    return lambda *words: bare("--app", f"{app}_2:manager", *words)


def test_code_that_fits_ends_with_0(run: Run, orders: list[str]) -> None:
    """How many were replayed, by name; those that have ended are no concern."""
    ran = run("check")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "checked 2 workflows: order 2\nall fit\n"


def test_verbose_tells_what_comes_next(run: Run, orders: list[str]) -> None:
    """Each workflow with what the code does when it goes on."""
    lines = run("check", "-v").out.splitlines()
    assert lines[:2] == ["ann  order  2 facts, fits", "    waits for step 1: event decision"]
    (first, _) = run("check", "-v", "--json").json["workflows"]
    assert first["next"] == ["waits for step 1: event decision"]


def test_code_that_does_not_fit_is_told_with_both_sides(changed: Run, orders: list[str]) -> None:
    """Workflow, step, what is recorded and what the code asks for; exit code 1."""
    ran = changed("check")
    assert ran.code == 1
    assert ran.out.splitlines()[:5] == [
        "differs: order ann, step 0 note",
        f"    {MISFIT} at position 0 (the start); the journal is right and the code wrong",
        '      recorded, not asked for: step 0: mutation note {"text":"[bold]ann"}',
        '      asked for, not recorded: mutation note {"text":"new"}',
        "      bring back code that fits, or cancel or restart the workflow",
    ]
    assert ran.out.endswith("checked 2 workflows: order 2\n2 violations\n")


def test_with_json_a_check_is_one_object(changed: Run, orders: list[str]) -> None:
    """Programs read the same as people."""
    ran = changed("check", "--json")
    assert ran.code == 1
    assert ran.err == ""
    assert ran.json["is_ok"] is False
    assert ran.json["checked"] == {"order": 2}
    first = ran.json["violations"][0]
    assert (first["kind"], first["workflow_id"], first["step"]) == ("differs", "ann", 0)
    assert first["asked"] == ['mutation note {"text":"new"}']


def test_journals_go_to_where_the_code_is(
    run: Run, changed: Run, orders: list[str], tmp_path: Path
) -> None:
    """Exported in production, checked elsewhere, with no store at hand."""
    exported = run("journal", "--unfinished")
    assert [json.loads(line)["id"] for line in exported.out.splitlines() if '"format"' in line] == [
        "ann",
        "bob",
    ]
    (tmp_path / "journals.jsonl").write_text(exported.out, encoding="utf-8")
    (tmp_path / "app.db").rename(tmp_path / "elsewhere.db")
    assert run("check", "journals.jsonl").out == "checked 2 workflows: order 2\nall fit\n"
    assert changed("check", "journals.jsonl").code == 1
    assert changed("check", "journals.jsonl", "--name", "other").out.startswith("checked 0 ")


def test_journals_are_chosen_by_id_or_all(run: Run, orders: list[str]) -> None:
    """One, several, all, or those of a name."""

    def ids(*words: str) -> list[str]:
        lines = map(json.loads, run("journal", *words).out.splitlines())
        return [line["id"] for line in lines if line["record"] == "workflow"]

    assert ids("bob") == ["bob"]
    assert ids("bob", "ann") == ["bob", "ann"]
    assert ids("--all") == ["ann", "bob", "failed"]
    assert ids("--all", "--name", "failing") == ["failed"]


@pytest.mark.parametrize("words", [["journal"], ["journal", "ann", "--all"]])
def test_which_journals_must_be_said(run: Run, words: list[str]) -> None:
    """Neither nothing nor both."""
    ran = run(*words)
    assert ran.code == 2
    assert "give the ids of workflows, or --all, or --unfinished" in ran.err


def test_a_file_that_is_no_journal_is_told(run: Run, tmp_path: Path) -> None:
    """With the number of its line; a file that is missing is bad usage."""
    (tmp_path / "bad.jsonl").write_text("{}\n", encoding="utf-8")
    ran = run("check", "bad.jsonl")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("ValidationError: line 1: ")
    assert run("check", "no.jsonl").code == 2
    assert run("check", "no.jsonl", "--json").err.startswith('{"error": {"type": "')
