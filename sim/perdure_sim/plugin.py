"""The plugin of pytest: options for tests of `simulate`, and their reports.

It is loaded by every run of pytest where perdure is installed, so it imports nothing of it before
a test has.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

#: What has the options; in `sys.modules` if somebody uses `simulate`.
OPTIONS = "perdure_sim.testing.options"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("perdure", "perdure: workflows in simulated worlds")
    group.addoption(
        "--perdure-plan",
        metavar="PLAN",
        help="Run tests of @simulate under this fault plan only.",
    )
    group.addoption(
        "--perdure-html",
        metavar="FILE",
        help="Write what led to the first failure of a @simulate test to this page.",
    )
    group.addoption(
        "--perdure-examples",
        metavar="N",
        type=int,
        help="Run so many examples of each @simulate test.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Take the options over, if there are any."""
    plan, html, examples = (
        config.getoption(f"perdure_{name}") for name in ("plan", "html", "examples")
    )
    if plan is None and html is None and examples is None:
        return
    from perdure_sim.faults.plan import FaultPlan, PlanError
    from perdure_sim.faults.sites import check
    from perdure_sim.testing.options import options

    if plan is not None:
        try:
            check(FaultPlan.parse(plan))
        except PlanError as error:
            raise pytest.UsageError(f"--perdure-plan: {error}") from None
    if examples is not None and examples < 1:
        raise pytest.UsageError(f"--perdure-examples={examples}: give a number from 1 on")
    options.plan, options.examples = plan, examples
    if html is not None:
        options.html = Path(html)
        options.html.unlink(missing_ok=True)  # else one could not tell whose it is


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing behind: pytest may run again in this process."""
    options = _options()
    if options is not None:
        options.plan = options.html = options.examples = None
        options.has_plugin = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Say that the reports will be shown."""
    options = _options()
    if options is not None:
        options.has_plugin = True
        options.reports.clear()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the reports of a test that failed."""
    report = yield
    options = _options()
    if options is not None and call.when == "call":
        for text in options.reports:
            report.sections.append(("perdure: what happened", text))
        options.reports.clear()
    return report


def _options() -> Any:
    module = sys.modules.get(OPTIONS)
    return None if module is None else module.options
