"""The command line: what each command prints for people and for programs, and its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from perdure.cli import main

ROOT = Path(__file__).resolve().parent.parent

#: A user's module. Each test has its own, under a name of its own: modules are imported once.
APP = """
from perdure import MutationContext, Step, WorkflowManager

manager = WorkflowManager("app.db")
number = 5


@manager.mutation
def note(ctx: MutationContext, text: str) -> str:
    return text


@manager.workflow
async def order(step: Step, user: str, count: int = 1) -> str:
    await step.run_mutation(note(f"[bold]{user}"))
    decision = await step.await_event("decision")
    return f"{user}: {decision}"


@manager.workflow
async def failing(step: Step) -> None:
    raise LookupError("no such [thing]")
"""


@attrs.frozen
class Ran:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output as JSON; fails if it printed anything else."""
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a user's module in the current folder, an empty one."""
    name = f"app_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(APP, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the command adds the folder
    monkeypatch.delenv("PERDURE_APP", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return name


@pytest.fixture
def bare(app: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command ``perdure WORD…`` in this process."""

    def run(*words: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["perdure", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ran(ended.value.code, printed.out, printed.err)

    return run


@pytest.fixture
def run(bare: Run, app: str) -> Run:
    """Run the command ``perdure --app … WORD…`` in this process."""
    return lambda *words: bare("--app", f"{app}:manager", *words)


def test_a_workflow_is_started_sent_an_event_and_shown(run: Run) -> None:
    """From start to end by the command line alone, with a worker in between."""
    started = run("start", "order", '{"user": "ann"}')
    workflow_id = started.out.strip()
    assert started == Ran(0, f"{workflow_id}\n", "")
    assert run("send", workflow_id, "decision", '"yes"').code == 0
    assert run("worker", "--until-idle").code == 0
    shown = run("show", workflow_id)
    assert shown.code == 0
    assert "ann: yes" in shown.out.splitlines()[0]
    for text in ("note", "mutation", "[bold]ann", "decision", "event", "success"):
        assert text in shown.out


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
    assert run("show", workflow_id).out.startswith(f"{workflow_id}: failed: LookupError")


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
    before = bare("--app", f"{app}:manager", "--json", "list")
    assert before == bare("list", "--json", "--app", f"{app}:manager")
    assert before.json["items"] == []


def test_the_environment_names_the_app(
    bare: Run, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PERDURE_APP stands for --app, which wins where both are given."""
    monkeypatch.setenv("PERDURE_APP", f"{app}:manager")
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
        (["--app", "APP:manager", "start", "nothing"], "there are: order, failing"),
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
    ran = bare(*(word.replace("APP", app) for word in words))
    assert (ran.code, ran.out) == (2, "")
    assert hint in ran.err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["show", "nobody"], "WorkflowNotFound"),
        (["show", ""], "WorkflowNotFound"),
        (["cancel", "nobody"], "WorkflowNotFound"),
        (["send", "nobody", "decision"], "WorkflowNotFound"),
        (["start", "order", '{"user": 5}'], "ValidationError"),
        (["start", "order", "{}"], "ValidationError"),
    ],
)
def test_what_fails_is_told_and_exits_with_1(run: Run, words: list[str], error: str) -> None:
    """A call that the manager refuses is told by its type and text, without a traceback."""
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
    "command", ["worker", "start", "list", "show", "send", "cancel", "config", "demo"]
)
def test_each_command_explains_itself(bare: Run, command: str) -> None:
    """`--help` needs no app and ends with 0."""
    ran = bare(command, "--help")
    assert ran.code == 0
    assert "Usage: perdure" in ran.out


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_the_command_says_what_to_install(missing: str) -> None:
    """Where click or rich is missing the command names the extra, on stderr, and exits with 1."""
    hide = f"import sys; sys.modules['{missing}'] = None; import runpy; "
    done = subprocess.run(
        [sys.executable, "-c", hide + "runpy.run_module('perdure', run_name='__main__')"],
        env={"PYTHONPATH": str(ROOT / "engine")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install 'perdure[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_argument_called_self_is_an_argument(run: Run) -> None:
    """A name that Python uses for its own is told about like any other unknown one."""
    ran = run("start", "failing", '{"self": 1}')
    assert ran.code == 1
    assert "ValidationError" in ran.err
    assert "self" in ran.err
