"""The report of a test that failed: what is wrong, how to see it again, and what led to it."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from ..explore import explorer
from ..explore.portions import DigestsDiffer
from ..faults.plan import FaultPlan
from ..laws.violations import Violation
from ..report.report import Report, page_of, report_of, show
from .options import options

if TYPE_CHECKING:
    from .running import Finished
    from .trial import Trial

#: What an AssertionError of the test's own is called.
TEST_MEANING = "An assertion of the test does not hold."
OTHER_MEANING = "The test, or what it calls, raised an exception."


@attrs.frozen(kw_only=True)
class Failure:
    """A run that failed.

    Attributes:
        kwargs: what the test was called with beside the simulation.
        drawn: the arguments of these that were drawn.
    """

    error: Exception
    plan: FaultPlan
    kwargs: Mapping[str, Any]
    drawn: Mapping[str, Any]


def tell(trial: Trial, error: BaseException) -> None:
    """Make the report of each failure that is about to be raised."""
    told = set()
    for each in _flattened(error):
        failure = trial.failures.get(type(each))
        if failure is None or type(each) in told or isinstance(each, DigestsDiffer):
            continue
        told.add(type(each))
        text = text_of(trial, failure)
        if options.has_plugin:
            options.reports.append(text)
        else:
            each.add_note("\n" + text)


def text_of(trial: Trial, failure: Failure) -> str:
    """The report, for a terminal; writes the page as well where that is wanted."""
    run = _again(trial, failure)
    command = command_of(trial, run.world.faults.fired)
    report = report_of(run)
    report = attrs.evolve(
        report,
        command=command,
        meaning=_meaning(failure.error, report),
    )
    if options.html is not None and not options.html.exists():
        title = f"{report.law} in {trial.test.__name__}"
        options.html.write_text(page_of(report, title, run.world.trace.events), encoding="utf-8")
    out = io.StringIO()
    show(report, out)
    arguments = ", ".join(f"{name}={value!r}" for name, value in failure.drawn.items())
    arguments += ", " if arguments else ""
    example = f"@example({arguments}plan={str(report.plan)!r})"
    keep = f"\nTo keep it as a test, put this above the function:\n    {example}\n"
    return f"{out.getvalue()}{_advice(failure.error, report.plan)}{keep}"


def _advice(error: Exception, plan: FaultPlan) -> str:
    """What to do where a step has failed for good, and it is the test that does not like that."""
    actions = sorted({fault.actor for fault in plan if fault.kind == "raises_for_good"})
    if not actions or isinstance(error, Violation):
        return ""
    names = " and ".join(actions)
    return (
        f"\nThat {names} fails for good is what a bank does that says no: its step has failed then,"
        "\nand the workflow as well if it does not catch that. If it has to cope (give back what it"
        "\nhas taken, try again tomorrow), mend it. If this test is not about that, say so:"
        '\n    @simulate(…, faults=ALL - {"raises_for_good"})\n'
    )


def _again(trial: Trial, failure: Failure) -> explorer.Run:
    """The run once more, with all that people want to see of it."""
    stage = trial.stage
    finished: Finished = stage.run(trial.script(dict(failure.kwargs)), failure.plan, detail=True)
    scenario = explorer.Scenario(
        name=trial.test.__name__, definer=trial.manager, script=lambda world: None
    )
    return explorer.Run(
        scenario=scenario,
        plan=failure.plan,
        world=finished.world,
        failure=finished.failure or failure.error,
        outcomes={},
        reached=frozenset(),
    )


def command_of(trial: Trial, fired: list[Any]) -> str:
    """The line that runs this plan again."""
    plan = FaultPlan(fired)
    return f"pytest {_node_id(trial)} --perdure-plan='{plan}'"


def _node_id(trial: Trial) -> str:
    current = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
    name = trial.test.__name__
    if current and name in current:
        return f"'{current}'" if "[" in current else current
    path = inspect.getsourcefile(trial.test) or "<unknown>"
    with contextlib.suppress(ValueError):
        path = str(Path(path).relative_to(Path.cwd()))
    return "::".join([path, *trial.test.__qualname__.replace("<locals>.", "").split(".")])


def _meaning(error: Exception, report: Report) -> str:
    if type(error) is AssertionError:
        return TEST_MEANING
    return report.meaning if type(error).__module__.startswith("perdure_sim.") else OTHER_MEANING


def _flattened(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _flattened(each)
    else:
        yield error
