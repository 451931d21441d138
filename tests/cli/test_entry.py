"""Exit codes and errors of the command, as people and as programs get them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.running import Run

ROOT = Path(__file__).resolve().parents[2]


def command(app: str, *words: str) -> list[str]:
    return [sys.executable, "-m", "perdure", "--app", f"{app}:manager", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "engine")}


@pytest.mark.parametrize(
    ("words", "code", "kind"),
    [
        (["show", "nobody", "--json"], 1, "WorkflowNotFound"),
        (["start", "order", '{"user": 5}', "--json"], 1, "ValidationError"),
        (["list", "--store", "ap.db", "--json"], 1, "StoreNotFound"),
        (["--json", "list", "--status", "lost"], 2, "UsageError"),
        (["list", "--cursor", "x", "--json"], 2, "UsageError"),
        (["no-such-command", "--json"], 2, "UsageError"),
    ],
)
def test_with_json_an_error_is_an_object_on_stderr(
    run: Run, words: list[str], code: int, kind: str
) -> None:
    """One line; stdout stays empty, so that nobody takes it for a result."""
    run("start", "failing")
    ran = run(*words)
    assert (ran.code, ran.out) == (code, "")
    error = json.loads(ran.err)["error"]
    assert error["type"] == kind
    assert error["message"]


def test_a_reader_that_goes_away_ends_it_quietly(run: Run, app: str) -> None:
    """As with ``perdure journal --all | head -1``: no traceback."""
    run("start", "order", '{"user": "ann"}', "--id", "one")
    with subprocess.Popen(
        command(app, "journal", "one"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["list", "--json"],
        ["show", "one"],
        ["show", "one", "--json"],
        ["journal", "one"],
        ["watch", "one", "--json"],
        ["show", "\N{SNOWMAN}", "--json"],
    ],
)
def test_characters_that_the_terminal_lacks_are_escaped(
    run: Run, app: str, words: list[str], encoding: str
) -> None:
    """Ends as elsewhere, and what is printed as JSON is JSON."""
    run("start", "order", '{"user": "\N{SNOWMAN}\N{WOMAN}"}', "--id", "one")
    run("send", "one", "decision")
    run("worker", "--until-idle")
    ran = subprocess.run(
        command(app, *words),
        capture_output=True,
        env=environment() | {"PYTHONIOENCODING": encoding},
        check=False,
    )
    assert b"Traceback" not in ran.stderr
    assert ran.returncode == (1 if "\N{SNOWMAN}" in words else 0)
    if "--json" in words or "journal" in words:
        printed = (ran.stdout or ran.stderr).decode()
        values = [json.loads(line) for line in printed.splitlines()]
        assert "\N{SNOWMAN}" in json.dumps(values, ensure_ascii=False)


def test_output_that_cannot_be_written_is_told(run: Run, app: str) -> None:
    """The disk is full, say; no traceback."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no device that is always full")
    run("start", "order", '{"user": "ann"}', "--id", "one")
    with Path("/dev/full").open("w") as full:
        for words in (["list"], ["journal", "one"]):
            ran = subprocess.run(
                command(app, *words),
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(),
                check=False,
            )
            assert ran.returncode == 1
            assert ran.stderr.startswith("OSError: the output could not be written: ")
            assert "Traceback" not in ran.stderr


def test_a_closed_output_is_no_failure(run: Run, app: str) -> None:
    """As a service manager may start it; what was asked for is done."""
    shell = ["/bin/sh", "-c", '"$@" >&-', "sh"]
    words = command(app, "start", "order", '{"user": "ann"}', "--id", "one")
    ran = subprocess.run(
        [*shell, *words], stderr=subprocess.PIPE, text=True, env=environment(), check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert run("list", "--json").json["items"][0]["workflow_id"] == "one"


def test_ctrl_c_ends_a_watch_with_130(run: Run, app: str) -> None:
    """Without a traceback, and the workflow goes on."""
    run("start", "order", '{"user": "ann"}', "--id", "one")
    with subprocess.Popen(
        command(app, "watch", "one"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().endswith("in progress\n")
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == ""
    assert process.returncode == 130
    assert run("list", "--json").json["items"][0]["status"]["kind"] == "in_progress"
