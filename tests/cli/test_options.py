"""Finding the manager: modules that are broken are shown where they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.running import Run


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("manager = 1 / 0", "ZeroDivisionError: division by zero"),
        ("def broken(:", "SyntaxError: invalid syntax"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
    ],
)
def test_a_module_that_cannot_be_imported_is_shown(
    bare: Run, tmp_path: Path, text: str, told: str
) -> None:
    """The user's own lines, none of ours, and the exit code of something that failed."""
    name = f"broken_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    ran = bare("list", "--app", f"{name}:manager")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"AppBroken: --app {name}:manager cannot be imported:")
    assert ran.err.rstrip().endswith(told)
    assert f"{name}.py" in ran.err
    assert "options.py" not in ran.err
    assert "importlib" not in ran.err
    as_json = bare("list", "--app", f"{name}:manager", "--json")
    assert json.loads(as_json.err)["error"]["type"] == "AppBroken"


def test_warnings_about_clocks_are_the_report_of_a_check(
    bare: Run, tmp_path: Path, app: str
) -> None:
    """A check tells of a clock in a workflow as a violation, with its place, and not twice."""
    name = f"clock_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(
        "import time\n"
        "from perdure import WorkflowManager\n"
        "manager = WorkflowManager('app.db')\n"
        "@manager.workflow\n"
        "async def order(step) -> float:\n"
        "    return time.time()\n",
        encoding="utf-8",
    )
    bare("start", "failing", "--app", f"{app}:manager")
    ran = bare("check", "--app", f"{name}:manager", "--name", "order")
    assert (ran.code, ran.err) == (1, "")
    assert ran.out.splitlines()[:2] == [
        "outside: order",
        f"    time.time at {name}.py:6: a replay would not see the same. Instead: use step.now()",
    ]
