"""The plugin, in runs of pytest of their own: options, reports, and what stands beside it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

#: An editable install that is older than the plugin does not name it.
_IS_INSTALLED = any(each.name == "perdure" for each in entry_points(group="pytest11"))

TESTS = """
from __future__ import annotations

from hypothesis import strategies as st
from tests.sim.testing import bank
from tests.sim.testing.bank import Receipt, approval, charge_card, manager

from perdure_sim import Simulation, simulate


@simulate(manager, setup=bank.create_tables, store="memory", amount=st.integers(1, 500))
def test_hasty(sim: Simulation, amount: int) -> None:
    sim.stub(charge_card, returns=Receipt("r1"))
    run = sim.start(bank.hasty(amount))
    sim.after("0s..2m", lambda: sim.send_event(approval, workflow_id=run.id, value=True))
    sim.settle()
    assert bank.rows(sim) in (0, 2)


@simulate(manager, store="memory", max_examples=5, sweep=500)
def test_napping(sim: Simulation) -> None:
    sim.start(bank.napping(1))


def test_other() -> None:
    pass
"""


def run_pytest(folder: Path, *options: str, hash_seed: str = "0") -> str:
    """The output of a run of pytest over `TESTS`."""
    file = folder / "test_it.py"
    file.write_text(TESTS, encoding="utf-8")
    plugin = [] if _IS_INSTALLED else ["-p", "perdure_sim.plugin"]
    path = os.pathsep.join(str(ROOT / each) for each in ("engine", "sim", ""))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugin, "-p", "no:cacheprovider", "-q", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": hash_seed, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_a_failure_is_told_and_seen_again(tmp_path: Path) -> None:
    """As a section of the report; its line does the same in another process and hash seed."""
    out = run_pytest(tmp_path, "--perdure-html=page.html", "--hypothesis-show-statistics")
    assert "2 passed" in out
    assert "1 failed" in out
    assert "perdure: what happened" in out
    assert re.search(r"hasty-1: step \d charge_card", out)
    assert "swept " in out
    assert "Hypothesis Statistics" in out
    found = re.search(r"see again pytest (\S+) (--perdure-plan='[^']+')", out)
    assert found is not None
    assert found[1] == "test_it.py::test_hasty"
    assert "<title>AssertionError in test_hasty</title>" in (tmp_path / "page.html").read_text()
    again = run_pytest(tmp_path, found[1], *shlex.split(found[2]), hash_seed="7")
    assert "1 failed" in again
    assert _timeline(again) == _timeline(out)


def _timeline(out: str) -> list[str]:
    return re.findall(r"^\+.*$", out, re.MULTILINE)


def test_a_run_without_simulations_is_as_it_was(tmp_path: Path) -> None:
    """Nothing heavy is imported, and nothing said."""
    (tmp_path / "test_plain.py").write_text(
        "import sys\n\n\ndef test_it():\n"
        "    assert not {'perdure', 'hypothesis', 'perdure_sim.testing'} & set(sys.modules)\n",
        encoding="utf-8",
    )
    out = run_pytest(tmp_path, "test_plain.py")
    assert "1 passed" in out
    assert "perdure" not in out.replace("perdure_sim.plugin", "")


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ("--perdure-plan=pd1:w0/turn#1=explodes", "there is no 'explodes'"),
        ("--perdure-plan=w0", "a plan begins with 'pd1:'"),
        ("--perdure-examples=0", "give a number from 1 on"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, option: str, error: str) -> None:
    """Before any test is run."""
    out = run_pytest(tmp_path, option)
    assert error in out
    assert "passed" not in out


def test_the_number_of_examples(tmp_path: Path) -> None:
    """Whatever the test says."""
    out = run_pytest(
        tmp_path, "--perdure-examples=3", "--hypothesis-show-statistics", "-k", "napping"
    )
    assert "settings.max_examples=3" in out
