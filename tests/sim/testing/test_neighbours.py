"""Tests of `simulate` beside what other people have in their projects: xdist, a random order, event
loops of plugins, fuzzers."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.sim.testing import bank
from tests.sim.testing.bank import manager

from perdure_sim import Simulation, simulate

ROOT = Path(__file__).parents[3]

#: An editable install that is older than the plugin does not name it.
_IS_INSTALLED = any(each.name == "perdure" for each in entry_points(group="pytest11"))

SHOP = """
from perdure import ActionContext, Step, WorkflowManager

manager = WorkflowManager("shop.db", retry_actions_by_default=True)


@manager.action
async def charge(ctx: ActionContext, cents: int) -> str:
    raise NotImplementedError


@manager.workflow
async def order(step: Step, cents: int) -> str:
    return await step.run_action(charge(cents))
"""

TESTS = """
import asyncio

import pytest
from hypothesis import strategies as st
from shop import charge, manager, order

from perdure_sim import simulate


@simulate(manager, max_examples=20, cents=st.integers(1, 9))
def test_passes(sim, cents):
    sim.stub(charge, returns="r1", takes="0s..30s")
    sim.start(order(cents))


@simulate(manager, max_examples=20, cents=st.integers(1, 9))
def test_fails(sim, cents):
    sim.stub(charge, returns="r1")
    sim.start(order(cents))
    sim.settle()
    assert len(sim.calls(charge)) == 1
"""

ASYNC = """
@pytest.fixture
async def number():
    await asyncio.sleep(0)
    return 7


async def test_of_a_loop(number):
    assert number == 7


@simulate(manager, max_examples=20, cents=st.integers(1, 9))
def test_with_a_fixture(sim, cents, tmp_path_factory):
    sim.stub(charge, returns="r1")
    sim.start(order(cents))
"""

ANYIO = """
@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.mark.anyio
async def test_of_anyio():
    await asyncio.sleep(0)
"""


def run_pytest(folder: Path, *options: str, more: str = "") -> str:
    """The output of pytest over the tests above, in a project of their own."""
    (folder / "shop.py").write_text(SHOP, encoding="utf-8")
    (folder / "test_it.py").write_text(TESTS + more, encoding="utf-8")
    plugin = [] if _IS_INSTALLED else ["-p", "perdure_sim.plugin"]
    path = [*(str(ROOT / each) for each in ("engine", "sim")), str(folder)]
    path += filter(None, [os.environ.get("PYTHONPATH")])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugin, "-q", "--rootdir", str(folder), *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "INTERNALERROR" not in done.stdout, done.stdout
    return done.stdout + done.stderr


def installed(*names: str) -> pytest.MarkDecorator:
    """Only where these are: they are in the extra `dev`."""
    missing = [name for name in names if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def check(output: str, passed: int) -> None:
    """All pass but the one that fails, whose report is there, once."""
    assert f"1 failed, {passed} passed" in output, output
    assert output.count("perdure: what happened") == 1, output
    assert "see again pytest test_it.py::test_fails --perdure-plan='pd1:charge/" in output, output


@installed("xdist")
def test_xdist(tmp_path: Path) -> None:
    """Reports come over from the processes of xdist; options go there."""
    check(run_pytest(tmp_path, "-n", "2", "-p", "no:randomly", "-p", "no:asyncio"), 1)
    plan = "--perdure-plan=pd1:w0/turn#1=crash"
    output = run_pytest(tmp_path, "-n", "2", plan, "-p", "no:randomly", "-p", "no:asyncio")
    assert "2 passed" in output, output


@installed("pytest_randomly")
def test_a_random_order_and_seeds_of_others(tmp_path: Path) -> None:
    """The first runs and the sweep are the same whatever was seeded."""
    for seed in ("1", "2"):
        check(run_pytest(tmp_path, "-p", "no:asyncio", f"--randomly-seed={seed}"), 1)


@installed("pytest_asyncio")
def test_asyncio_mode_auto(tmp_path: Path) -> None:
    """A simulated test is no coroutine, and needs no loop of anybody's."""
    options = ["-p", "no:randomly", "-o", "asyncio_mode=auto"]
    options += ["-o", "asyncio_default_fixture_loop_scope=function"]
    check(run_pytest(tmp_path, *options, more=ASYNC), 3)


@installed("anyio")
def test_anyio(tmp_path: Path) -> None:
    """The plugin that comes with anyio."""
    check(run_pytest(tmp_path, "-p", "no:randomly", "-p", "no:asyncio", more=ANYIO), 2)


def test_fuzzers() -> None:
    """What HypoFuzz, Atheris and the like call, with bytes of theirs."""
    calls = []

    @simulate(manager, setup=bank.create_tables, store="memory")
    def test(sim: Simulation, seconds: int) -> None:
        calls.append(seconds)
        sim.start(bank.napping(abs(seconds) % 9))

    fuzz = vars(test)["hypothesis"].fuzz_one_input
    assert fuzz(bytes(200)) is not None
    count = len(calls)
    assert fuzz(bytes(range(200))) is not None
    assert len(calls) == count + 1
