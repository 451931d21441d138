"""What is told of a run that failed: what went wrong, how to see it again, and what led to it."""

from __future__ import annotations

import inspect
import io
import textwrap
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import attrs

import perdure

from ..explore.explorer import Run
from ..faults.plan import Fault, FaultPlan
from ..laws.violations import Violation
from ..world.trace import Event
from .causes import LINES_MAX, Causes, causes_of
from .commits import Part
from .page import Page, page_text
from .telling import Line, tell, told
from .timeline import LEGEND, WIDTH, WORLD, Timeline
from .wording import cut, facts_text, fault_text, moment

#: Marks of the two facts that contradict each other.
FACT_MARKS = "①②"

#: Where the command of the report does not know what was run.
TARGET = "module:name"


@attrs.frozen(kw_only=True)
class Report:
    """A failed run, told.

    Attributes:
        law: the name of what is broken.
        meaning: what that is, in a sentence.
        message: what was found, in lines.
        plan: the faults that fired, and no others.
        idle: the faults of the plan that did not fire.
        command: what makes this run again.
        lines: all that happened, without what came after.
        causes: what of it led there.
    """

    law: str
    meaning: str
    message: str
    plan: FaultPlan
    idle: tuple[Fault, ...]
    command: str
    lines: tuple[Line, ...]
    causes: Causes

    @property
    def notes(self) -> dict[int, str]:
        """What is put before the text of the two facts, by the index of their line."""
        marked = zip(FACT_MARKS, self.causes.facts, strict=False)
        return {line.index: f"{mark} " for mark, line in marked}


def report_of(run: Run, *, target: str = TARGET, most: int = LINES_MAX) -> Report:
    """What is to be told of a run that failed.

    Args:
        run: best one with detail: else its faults and what processes do is not in the timeline.
        target: what the command line calls the scenario.
        most: rows of the timeline.

    Raises:
        ValueError: it did not fail.
    """
    failure = run.failure
    if failure is None:
        raise ValueError(f"the run of {run.scenario.name} did not fail: there is nothing to tell")
    fired = run.world.faults.fired
    plan = FaultPlan(fired)
    lines = _up_to_failure(run)
    return Report(
        law=type(failure).__name__,
        meaning=_meaning(failure),
        message=_message(failure),
        plan=plan,
        idle=tuple(fault for fault in run.plan if fault not in fired),
        command=f"perdure-sim replay {target} '{plan}'",
        lines=tuple(lines),
        causes=causes_of(lines, failure, most=most),
    )


def explain(run: Run, *, target: str = TARGET, width: int = WIDTH, most: int = LINES_MAX) -> str:
    """A report of a failed run, as text for a terminal.

    Args: see `report_of`; `width` is in columns.
    """
    out = io.StringIO()
    show(report_of(run, target=target, most=most), out, width=width)
    return out.getvalue()


def show(report: Report, file: IO[str], *, width: int = WIDTH) -> None:
    """Write a report: with a timeline in colours if this is a terminal."""
    causes = report.causes
    rows = [_wrapped(f"{report.law}: {report.meaning}", width, "")]
    rows += ["", *(_wrapped(line, width, "    ") for line in report.message.splitlines())]
    if causes.facts:
        rows.append("")
        for line in causes.facts:
            text = f"{report.notes[line.index]}{moment(line.at)} {line.lane}  {_fact(line, causes)}"
            rows.append(_wrapped(text, width, "    "))
    rows += ["", *_plan_rows(report, width), ""]
    what = f"{causes.shown} of {causes.total} events"
    if causes.subject.workflows and causes.shown < causes.total:
        what += f", those that have to do with {cut(', '.join(causes.subject.workflows), 60)}"
    rows += [_wrapped(f"What led there ({what}):", width, ""), LEGEND, ""]
    file.write("\n".join(rows) + "\n")
    timeline = Timeline(report.lines, causes.rows, notes=report.notes, width=width)
    timeline.show(file)


def write_page(run: Run, path: Path, *, target: str = TARGET) -> None:
    """A report of a failed run, as one HTML page that needs nothing else."""
    report = report_of(run, target=target)
    title = f"{report.law} in {run.scenario.name}"
    path.write_text(page_of(report, title, run.world.trace.events), encoding="utf-8")


def page_of(report: Report, title: str, events: Iterable[Event]) -> str:
    """A report as one HTML page that needs nothing else."""
    return page_text(
        Page(
            title=title,
            law=report.law,
            meaning=report.meaning,
            message=report.message,
            faults=tuple((str(fault), fault_text(fault)) for fault in report.plan),
            idle=tuple(map(str, report.idle)),
            plan=str(report.plan),
            command=report.command,
            lines=report.lines,
            events=tuple(events),
            causes=report.causes,
            notes=report.notes,
        )
    )


# --- what is broken -------------------------------------------------------------------------------


def _meaning(failure: BaseException) -> str:
    """What a law says, or what else it is that was raised."""
    if isinstance(failure, Violation) or type(failure).__module__.startswith("perdure_sim."):
        return " ".join((inspect.getdoc(type(failure)) or "").split())
    if isinstance(failure, AssertionError) and not _engine_frames(failure):
        return "The check of the scenario found something else than it expects."
    return "An exception that nobody expected came out of the engine."


def _message(failure: BaseException) -> str:
    text = facts_text(str(failure)) or "(no message)"
    if isinstance(failure, Violation):
        return text
    frames = _engine_frames(failure)
    if frames:
        text += "\n\nraised in\n" + "\n".join(frames[-4:])
    return text


def _engine_frames(failure: BaseException) -> list[str]:
    """Where in the engine's code something was raised: the innermost frames."""
    home = Path(perdure.__file__).parent
    return [
        f"  perdure/{Path(frame.filename).relative_to(home)}:{frame.lineno} {frame.name}:"
        f" {frame.line}"
        for frame in traceback.extract_tb(failure.__traceback__)
        if Path(frame.filename).is_relative_to(home)
    ]


def _up_to_failure(run: Run) -> list[Line]:
    """Without what came after the law was broken: the world is torn down then."""
    events = run.world.trace.events
    lines = tell(events)
    for i, line in enumerate(lines):
        if line.kind == "broken":
            return lines[: i + 1]
    text = f"here the run ends: {type(run.failure).__name__}"
    end = Line(
        index=len(events),
        at=run.world.now,
        lane=WORLD,
        kind="broken",
        parts=(Part(workflow_id=None, text=text),),
    )
    return [*lines, end]


def _fact(line: Line, causes: Causes) -> str:
    """What a line says about the workflow that it is about."""
    own = [part for part in line.parts if part.workflow_id in causes.subject.workflows]
    return told(own or line.parts).replace("\n", "; ")


# --- the plan -------------------------------------------------------------------------------------


def _plan_rows(report: Report, width: int) -> list[str]:
    rows = []
    if not report.plan:
        rows.append("No fault is needed for it: it fails by itself.")
    rows += [
        _wrapped(f"fault     {fault}: {fault_text(fault)}", width, "") for fault in report.plan
    ]
    if report.idle:
        idle = ", ".join(map(str, report.idle))
        rows.append(_wrapped(f"left out  {idle}: did not fire", width, ""))
    if report.plan:
        rows.append(f"plan      {report.plan}")
    rows.append(f"see again {report.command}")
    return rows


def _wrapped(text: str, width: int, indent: str) -> str:
    """A paragraph; further lines stand below the first one's text."""
    own = text[: len(text) - len(text.lstrip())]
    return textwrap.fill(
        text.strip(),
        width,
        initial_indent=indent + own,
        subsequent_indent=indent + own + "    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
