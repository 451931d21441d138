"""The command line: what each command prints for people and for programs, and its exit code."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.running import Ran, Run

ROOT = Path(__file__).resolve().parents[2]


def test_a_workflow_is_started_sent_an_event_and_shown(run: Run) -> None:
    """From start to end by the command line alone, with a worker in between."""
    started = run("start", "order", '{"user": "ann"}')
    workflow_id = started.out.strip()
    assert started == Ran(0, f"{workflow_id}\n", "")
    assert run("send", workflow_id, "decision", '"yes"').code == 0
    assert run("worker", "--until-idle").code == 0
    shown = run("show", workflow_id)
    assert shown.code == 0
    assert shown.out.splitlines()[0].startswith(f"{workflow_id}: success  order ")
    for text in ("note", "[bold]ann", "decision (event)", "value: ann: yes"):
        assert text in shown.out
    table = run("show", workflow_id, "--steps").out
    for text in ("note", "mutation", "[bold]ann", "decision", "event", "success"):
        assert text in table


def test_with_json_every_command_prints_json_only(run: Run) -> None:
    """Programs get one JSON value from each command, with the values as they were stored."""
    workflow_id = run("start", "order", '{"user": "ann", "count": 2}', "--json").json["workflow_id"]
    event_id = run("send", workflow_id, "decision", '{"go": 1}', "--json").json["event_id"]
    (listed,) = run("list", "--json").json["items"]
    assert listed["workflow_id"] == workflow_id
    assert listed["arguments"] == {"user": "ann", "count": 2}
    assert listed["status"]["kind"] == "in_progress"
    assert run("worker", "--until-idle", "--json") == Ran(0, "", "")
    shown = run("show", workflow_id, "--json").json
    assert shown["status"] == {"kind": "success", "value": "ann: {'go': 1}"}
    assert [step["name"] for step in shown["steps"]] == ["note", "decision"]
    assert shown["steps"][1]["event_id"] == event_id
    assert shown["steps"][1]["value"] == {"go": 1}
    del shown["steps"]
    assert run("list", "--json").json["items"] == [shown]


def test_cancel_cancels(run: Run) -> None:
    """A workflow that was canceled is listed as such; a second time it is too late."""
    workflow_id = run("start", "order", '{"user": "ann"}').out.strip()
    assert run("cancel", workflow_id) == Ran(0, f"canceled {workflow_id}\n", "")
    assert workflow_id in run("list", "--status", "canceled").out
    again = run("cancel", workflow_id)
    assert (again.code, again.out) == (1, "")
    assert again.err.startswith("WorkflowNotRunning: ")


def test_config_changes_what_all_workers_share(run: Run) -> None:
    """The stored setting is shown, and changed when a value is given."""
    run("start", "failing")
    assert run("config") == Ran(0, "max_parallelism: 100\n", "")
    assert run("config", "--max-parallelism", "3").out == "max_parallelism: 3\n"
    assert run("config", "--json").json == {"max_parallelism": 3}


def test_list_filters_and_pages(run: Run) -> None:
    """A listing can be narrowed by name and status, cut, turned round and gone on with."""
    ids = [run("start", "order", json.dumps({"user": user})).out.strip() for user in "abc"]
    run("start", "failing")
    run("worker", "--until-idle")

    def listed(*words: str) -> list[str]:
        items = run("list", "--json", *words).json["items"]
        return [item["workflow_id"] for item in items]

    assert listed("--name", "order") == ids
    assert listed("--name", "order", "--order", "desc") == ids[::-1]
    assert listed("--status", "in_progress") == ids
    first = run("list", "--json", "--name", "order", "--limit", "2").json
    assert not first["is_done"]
    assert listed("--name", "order", "--cursor", first["cursor"]) == ids[2:]


def test_a_failure_is_shown_with_its_error(run: Run) -> None:
    """A failed workflow shows type and text of its error, brackets and all."""
    workflow_id = run("start", "failing").out.strip()
    run("worker", "--until-idle")
    assert "LookupError: no such [thing]" in run("list").out
    shown = run("show", workflow_id).out
    assert shown.startswith(f"{workflow_id}: failed  failing ")
    assert "failed: LookupError: no such [thing]" in shown


def test_the_same_id_starts_once(run: Run) -> None:
    """`start --id` can be repeated, and is refused for another call."""
    words = ("start", "order", '{"user": "ann"}', "--id", "order-1")
    assert run(*words).out == run(*words).out == "order-1\n"
    assert len(run("list", "--json").json["items"]) == 1
    other = run("start", "order", '{"user": "bob"}', "--id", "order-1")
    assert other.code == 1
    assert other.err.startswith("WorkflowIdConflict: ")


def test_options_may_stand_after_the_command(bare: Run, app: str) -> None:
    """--app, --store and --json mean the same before and after the command."""
    started = bare("--app", f"{app}:manager", "start", "failing", "--id", "one")
    assert started.out == "one\n"
    before = bare("--app", f"{app}:manager", "--json", "list")
    assert before == bare("list", "--json", "--app", f"{app}:manager")
    assert len(before.json["items"]) == 1


def test_the_environment_names_the_app(
    bare: Run, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PERDURE_APP stands for --app, which wins where both are given."""
    monkeypatch.setenv("PERDURE_APP", f"{app}:manager")
    assert bare("start", "failing").code == 0
    assert bare("list").code == 0
    assert bare("list", "--app", "no_such_module:manager").code == 2


def test_store_names_another_file(run: Run, tmp_path: Path) -> None:
    """With --store the command works on that file and leaves the manager's own alone."""
    other = str(tmp_path / "other.db")
    run("start", "order", '{"user": "ann"}', "--store", other)
    assert not (tmp_path / "app.db").exists()
    assert len(run("list", "--json", "--store", other).json["items"]) == 1


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["list"], "--app MODULE:MANAGER"),
        (["list", "--app", "app"], "MODULE:MANAGER"),
        (["list", "--app", "no_such_module:manager"], "no module no_such_module"),
        (["list", "--app", "APP:nothing"], "has no nothing"),
        (["list", "--app", "APP:number"], "not a WorkflowManager: 5"),
        (["--app", "APP:manager", "start", "nothing"], "there are: order, parent, failing"),
        (["--app", "APP:manager", "start", "note"], "there is no workflow note"),
        (["--app", "APP:manager", "start", "order", "{"], "is not JSON"),
        (["--app", "APP:manager", "start", "order", "[1]"], "an object of arguments"),
        (["--app", "APP:manager", "send", "id", "decision", "yes"], "is not JSON"),
        (["--app", "APP:manager", "list", "--status", "lost"], "'lost' is not one of"),
        (["--app", "APP:manager", "show"], "Missing argument 'ID'"),
        (["--app", "APP:manager", "list", "--cursor", "x"], "give the cursor of a page"),
        (["no-such-command"], "No such command"),
        (["demo", "--users", "0"], "--users"),
        (["demo", "--users", "1", "--kills", "3"], "at most 2"),
    ],
)
def test_bad_usage_is_told_and_exits_with_2(
    bare: Run, app: str, words: list[str], hint: str
) -> None:
    """What was typed wrongly is said on stderr, with what to type instead."""
    bare("start", "failing", "--app", f"{app}:manager")
    ran = bare(*(word.replace("APP", app) for word in words))
    assert (ran.code, ran.out) == (2, "")
    assert hint in ran.err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["show", "nobody"], "WorkflowNotFound"),
        (["show", ""], "WorkflowNotFound"),
        (["cancel", "nobody"], "WorkflowNotFound"),
        (["restart", "nobody"], "WorkflowNotFound"),
        (["restart", "running"], "WorkflowRunning"),
        (["restart", "ended", "--from", "no step"], "StepNotFound"),
        (["restart", "ended", "--from", "99"], "StepNotFound"),
        (["send", "nobody", "decision"], "WorkflowNotFound"),
        (["start", "order", '{"user": 5}'], "ValidationError"),
        (["start", "order", "{}"], "ValidationError"),
    ],
)
def test_what_fails_is_told_and_exits_with_1(run: Run, words: list[str], error: str) -> None:
    """A call that the manager refuses is told by its type and text, without a traceback."""
    run("start", "order", '{"user": "ann"}', "--id", "running")
    run("start", "order", '{"user": "ann"}', "--id", "ended")
    run("cancel", "ended")
    ran = run(*words)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"{error}: ")
    assert "Traceback" not in ran.err


def test_an_existing_store_is_not_overwritten_by_the_demo(bare: Run, tmp_path: Path) -> None:
    """The demo makes its own database: it refuses a file that is there."""
    (tmp_path / "mine.db").write_text("precious", encoding="utf-8")
    ran = bare("demo", "--store", "mine.db")
    assert ran.code == 2
    assert "mine.db exists" in ran.err
    assert (tmp_path / "mine.db").read_text(encoding="utf-8") == "precious"


@pytest.mark.parametrize(
    "command",
    [
        *("worker", "start", "list", "show", "watch", "send", "cancel", "restart", "cleanup"),
        *("config", "journal", "check", "demo"),
    ],
)
def test_each_command_explains_itself(bare: Run, command: str) -> None:
    """`--help` needs no app and ends with 0."""
    ran = bare(command, "--help")
    assert ran.code == 0
    assert "Usage: perdure" in ran.out


def test_an_argument_called_self_is_an_argument(run: Run) -> None:
    """A name that Python uses for its own is told about like any other unknown one."""
    ran = run("start", "failing", '{"self": 1}')
    assert ran.code == 1
    assert "ValidationError" in ran.err
    assert "self" in ran.err


# --- a store that is not there


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["show", "one"],
        ["watch", "one"],
        ["journal", "one"],
        ["check"],
        ["send", "one", "decision"],
        ["cancel", "one"],
        ["restart", "one"],
        ["cleanup", "one"],
        ["config"],
        ["config", "--max-parallelism", "3"],
    ],
)
def test_a_mistyped_store_is_told_and_not_made(run: Run, words: list[str], tmp_path: Path) -> None:
    """Only a worker and a start make a database; the others name the file that is missing."""
    ran = run(*words, "--store", "ap.db")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("StoreNotFound: ap.db: there is no such file")
    assert not (tmp_path / "ap.db").exists()


# --- what is looked at


def test_a_tree_shows_the_steps_of_children(run: Run) -> None:
    """Children are named by id, and with --tree their steps stand below."""
    run("start", "parent", '{"user": "ann"}', "--id", "one")
    run("worker", "--until-idle")
    (child,) = run("list", "--json", "--name", "order").json["items"]
    plain = run("show", "one").out
    assert f"→ {child['workflow_id']} runs" in plain
    assert "note" not in plain
    lines = run("show", "one", "--tree").out.splitlines()
    assert any(line.startswith("  └ 0 note") for line in lines)
    children = run("show", "one", "--tree", "--json").json["children"]
    assert [step["name"] for step in children[child["workflow_id"]]] == ["note", "decision"]


def test_blocked_workflows_are_listed_alone(run: Run, tmp_path: Path) -> None:
    """`list --blocked` is what an operator looks at after a deploy."""
    run("start", "order", '{"user": "ann"}', "--id", "one")
    run("start", "order", '{"user": "bob"}', "--id", "two")
    with sqlite3.connect(tmp_path / "app.db") as connection:
        blocked = '{"error":{"type":"DeterminismError","message":"both"},"count":1,"retry_at":1}'
        connection.execute("UPDATE perdure_workflows SET blocked = ? WHERE id = 'two'", (blocked,))
    connection.close()
    (item,) = run("list", "--blocked", "--json").json["items"]
    assert item["workflow_id"] == "two"
    assert "blocked" in run("list", "--blocked").out
    assert "blocked: DeterminismError: both" in run("show", "two").out


def test_what_no_worker_takes_is_listed_as_unclaimed(run: Run, tmp_path: Path) -> None:
    """A workflow that has been due for long, and that nobody has."""
    run("start", "order", '{"user": "ann"}', "--id", "one")
    assert "unclaimed" not in run("list").out
    with sqlite3.connect(tmp_path / "app.db") as connection:
        connection.execute("UPDATE perdure_workflows SET wake_at = 1")
    connection.close()
    assert "unclaimed" in run("list").out


def test_watching_one_that_has_ended_prints_its_end(run: Run) -> None:
    """The exit code says how it ended; programs get one status a line."""
    good = run("start", "order", '{"user": "ann"}').out.strip()
    bad = run("start", "failing").out.strip()
    run("send", good, "decision", '"yes"')
    run("worker", "--until-idle")
    watched = run("watch", good)
    assert watched.code == 0
    assert watched.out.endswith('  success: "ann: yes"\n')
    assert run("watch", good, "--json").json["status"] == {"kind": "success", "value": "ann: yes"}
    failed = run("watch", bad)
    assert failed.code == 1
    assert failed.out.endswith("  failed: LookupError: no such [thing]\n")


def test_a_watch_prints_each_change(run: Run, app: str) -> None:
    """From the first status to the last, while another process works."""
    workflow_id = run("start", "order", '{"user": "ann"}').out.strip()
    command = [sys.executable, "-m", "perdure", "--app", f"{app}:manager"]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "engine")}
    with subprocess.Popen(
        [*command, "watch", workflow_id], stdout=subprocess.PIPE, text=True, env=env
    ) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline().endswith("in progress\n")
        run("send", workflow_id, "decision", '"yes"')
        run("worker", "--until-idle")
        rest = watching.stdout.read()
    assert watching.returncode == 0
    assert rest.endswith('success: "ann: yes"\n')


def test_an_event_can_bring_an_error(run: Run) -> None:
    """`send --error` makes the wait fail with that text."""
    workflow_id = run("start", "order", '{"user": "ann"}').out.strip()
    run("send", workflow_id, "decision", "--error", "no stock")
    run("worker", "--until-idle")
    assert "no stock" in run("show", workflow_id).out


# --- again, and away


def ended_order(run: Run) -> None:
    """An order that has been decided."""
    run("start", "order", '{"user": "ann"}', "--id", "one")
    run("send", "one", "decision", '"yes"')
    run("worker", "--until-idle")


@pytest.mark.parametrize(
    ("option", "step"), [("--from", "decision"), ("--from", "1"), ("--from-step", "1")]
)
def test_a_restart_runs_anew_from_a_step(run: Run, option: str, step: str) -> None:
    """By the step's name or by its number; what was before it is kept. Also by Python's word."""
    ended_order(run)
    before = run("show", "one", "--json").json["steps"][0]
    assert run("restart", "one", option, step) == Ran(0, "restarted one\n", "")
    run("send", "one", "decision", '"no"')
    run("worker", "--until-idle")
    shown = run("show", "one", "--json").json
    assert shown["status"]["value"] == "ann: no"
    assert shown["steps"][0] == before


def test_a_restart_without_a_step_keeps_every_outcome(run: Run) -> None:
    """What failed in the handler fails again, with today's code."""
    workflow_id = run("start", "failing").out.strip()
    run("worker", "--until-idle")
    assert run("restart", workflow_id, "--json").json["status"] == "in_progress"
    run("worker", "--until-idle")
    assert "LookupError" in run("show", workflow_id).out


def test_a_cleanup_deletes_what_has_ended(run: Run) -> None:
    """It is gone; a second time there is nothing to delete, which is told."""
    ended_order(run)
    assert run("cleanup", "one") == Ran(0, "deleted one\n", "")
    assert run("list", "--json").json["items"] == []
    again = run("cleanup", "one")
    assert (again.code, again.out) == (1, "")
    assert again.err == "one was not deleted: there is no workflow with that id\n"


def test_a_cleanup_of_a_running_workflow_must_be_forced(run: Run) -> None:
    """Without --force it is left alone, and told why."""
    run("start", "order", '{"user": "ann"}', "--id", "one")
    refused = run("cleanup", "one", "--json")
    assert refused.code == 1
    assert refused.json["is_deleted"] is False
    assert "has not ended" in refused.json["reason"]
    assert run("cleanup", "one", "--force", "--json").json == {
        "workflow_id": "one",
        "is_deleted": True,
        "reason": None,
    }
    assert run("list", "--json").json["items"] == []
