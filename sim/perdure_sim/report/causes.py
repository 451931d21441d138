"""What led to a failure: of all that happened in a run, what has to do with it.

It is a slice of the trace, taken backwards from the workflow that went wrong: what was written of
it, attempts of its steps, what clients asked of it; its parents, its children and those that
meddled with it; and the faults, crashes and pauses of processes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import attrs

from perdure.core.ids import WorkflowId

from ..laws.violations import HotSpin, Violation
from ..world.trace import EventKind
from .commits import NO_NEWS
from .telling import Line

#: A failure is told in so many lines.
LINES_MAX = 40

#: Where less than this is left out, nothing is said of it.
GAP_MIN = 3

#: So many lines before a run runs hot are looked at for who it is.
HOT_LINES = 200

#: Up to so many faults are all shown: a plan that was shrunk has none that does not matter.
FAULTS_ALL = 8

#: What every turn of every process does, whatever it is about.
NOISE: frozenset[EventKind] = frozenset({"turn", "border", "wake", "timer set", "timer"})

#: What is done to a workflow.
DEEDS: frozenset[EventKind] = frozenset({"commit", "attempt", "attempt end"})

#: What happens to processes.
LIFE: frozenset[EventKind] = frozenset(
    {
        *("boot", "boot failed", "crash", "end", "lease lost", "clock", "pause", "resume"),
        *("heal", "refused", "log", "power"),
    }
)


@attrs.frozen(kw_only=True)
class Gap:
    """Lines that are left out.

    Attributes:
        own: how many were of the workflow itself.
        others: how many were of others.
    """

    own: int
    others: int

    @property
    def text(self) -> str:
        parts = []
        if self.own:
            parts.append(f"{_events(self.own)} of its own")
        if self.others:
            parts.append(f"{_events(self.others)} of other workflows")
        return f"… {', '.join(parts)}"


def _events(count: int) -> str:
    return f"{count:,} event{'' if count == 1 else 's'}"


@attrs.frozen(kw_only=True)
class Again:
    """What stands above goes on like that.

    Attributes:
        lines: so many lines.
        times: so often more.
    """

    lines: int
    times: int

    @property
    def text(self) -> str:
        what = "the last one" if self.lines == 1 else f"the last {self.lines}"
        return f"… {what} again, {self.times:,} times more"


Row: TypeAlias = Line | Gap | Again


@attrs.frozen(kw_only=True)
class Subject:
    """What a failure is about.

    Attributes:
        workflows: which went wrong; none, if nothing says so.
        step: which of its steps.
    """

    workflows: tuple[WorkflowId, ...] = ()
    step: int | None = None


@attrs.frozen(kw_only=True)
class Causes:
    """What led to a failure.

    Attributes:
        rows: the lines, in order, and what is left out between them.
        facts: what contradicts each other: the line that broke the law, before it an earlier one.
        related: the subject's own workflows, and those that had to do with them.
        shown: how many lines there are.
        total: of how many, without the noise.
    """

    subject: Subject
    rows: tuple[Row, ...]
    facts: tuple[Line, ...]
    related: tuple[WorkflowId, ...]
    shown: int
    total: int


def causes_of(lines: Sequence[Line], failure: BaseException, *, most: int = LINES_MAX) -> Causes:
    """What led to this failure of a run, in at most so many rows."""
    subject = subject_of(lines, failure)
    related = _related(lines, subject.workflows)
    candidates = [line for line in lines if line.kind not in NOISE]
    total = len(candidates)
    facts = facts_of(lines, subject, str(failure))
    marked = {line.index for line in facts}
    relevant = [line for line in candidates if _matters(line, lines, related)]
    if not isinstance(failure, HotSpin):
        relevant = [line for line in relevant if _has_news(line, related)]
    relevant, again = _folded(relevant)
    folded = {index for each in again.values() for index in each.indexes}
    candidates = [line for line in candidates if line.index not in folded]
    room = most
    while True:
        kept = _best(relevant, subject, marked, room)
        rows = _with_gaps(candidates, kept, subject.workflows, related, again)
        if len(rows) <= most or room <= 1:
            break
        room -= len(rows) - most
    return Causes(
        subject=subject,
        rows=tuple(rows),
        facts=facts,
        related=related,
        shown=len(kept),
        total=total,
    )


# --- what it is about -----------------------------------------------------------------------------


def subject_of(lines: Sequence[Line], failure: BaseException) -> Subject:
    """The workflow and the step that a failure is about: it says so, or its message does."""
    if isinstance(failure, Violation) and failure.workflow_id is not None:
        return Subject(workflows=(failure.workflow_id,), step=failure.step)
    known = dict.fromkeys(each for line in lines for each in line.workflows)
    message = str(failure)
    found = _mentioned(message, known)
    if isinstance(failure, Violation) and found:
        step = re.search(r"\bstep (?:StepRecord\(number=)?(\d+)", message)
        return Subject(workflows=found[:1], step=None if step is None else int(step[1]))
    if isinstance(failure, HotSpin):
        tail = Counter(each for line in lines[-HOT_LINES:] for each in line.workflows)
        return Subject(workflows=tuple(each for each, _ in tail.most_common(1)))
    broken = _broken(lines)
    if broken is not None and lines[broken].lane != "world":
        return Subject(workflows=_culprit(lines, broken).workflows)
    return Subject(workflows=found or tuple(known))


def _mentioned(text: str, known: Iterable[WorkflowId]) -> tuple[WorkflowId, ...]:
    """The ids that occur in a text as words, in the order in which they do."""
    places: dict[int, WorkflowId] = {}
    for workflow_id in sorted(known, key=len):  # of two that begin alike the longer one
        found = re.search(rf"(?<![\w.@/-]){re.escape(workflow_id)}(?![\w@/-])", text)
        if found is not None:
            places[found.start()] = workflow_id
    return tuple(places[place] for place in sorted(places))


#: What ids look like that processes have made: "c0.1.3".
_NAMED = re.compile(r"\b\w+(?:\.\d+)+\b")


def _culprit(lines: Sequence[Line], broken: int) -> Line:
    """What broke the law: what had just been written, or begun."""
    return next((line for line in reversed(lines[:broken]) if line.kind in DEEDS), lines[broken])


def _broken(lines: Sequence[Line]) -> int | None:
    """Where the law was broken, if that was while the run went on."""
    return next((i for i, line in enumerate(lines) if line.kind == "broken"), None)


def facts_of(lines: Sequence[Line], subject: Subject, message: str) -> tuple[Line, ...]:
    """The line that broke the law, and before it the last one that the message speaks of: of what
    else it names by an id, of the same step, of the same workflow."""
    broken = _broken(lines)
    if broken is None or broken == 0 or lines[broken].lane == "world" or not subject.workflows:
        return ()
    last, workflow_id = _culprit(lines, broken), subject.workflows[0]
    before = [line for line in lines if line.index < last.index and line.kind in DEEDS]
    named = [each for each in _NAMED.findall(message) if each not in subject.workflows]
    for name in reversed(named):
        for line in before:  # where it came into being
            if name in line.text:
                return (line, last)
    if last.kind == "attempt":  # an earlier run of the same code says more than its record
        runs = [line for line in before if line.kind == "attempt"]
        for line in reversed(runs):
            if line.touches(workflow_id, subject.step):
                return (line, last)
    for step in (subject.step, None):
        for line in reversed(before):
            if line.touches(workflow_id, step):
                return (line, last)
    return (last,)


def _related(lines: Sequence[Line], subject: Iterable[WorkflowId]) -> tuple[WorkflowId, ...]:
    """Those workflows, what is below them, and, again and again, their parents and meddlers."""
    found = dict.fromkeys(subject)
    children = [pair for line in lines for pair in line.children]
    for child, parent in children:  # parents begin before their children
        if parent in found:
            found[child] = None
    up = [*children, *(pair for line in lines for pair in line.meddled)]
    grows = True
    while grows:
        more = [cause for effect, cause in up if effect in found and cause not in found]
        found.update(dict.fromkeys(more))
        grows = bool(more)
    return tuple(found)


# --- which lines ----------------------------------------------------------------------------------


def _matters(line: Line, lines: Sequence[Line], related: Sequence[WorkflowId]) -> bool:
    if line.kind == "broken" or any(each in related for each in line.workflows):
        return True
    if line.kind == "fault":
        faults = [other for other in lines if other.kind == "fault"]
        return len(faults) <= FAULTS_ALL or _is_near(line, lines, related)
    if line.kind == "boot":
        before = (other for other in lines if other.index < line.index)
        ends = ("crash", "boot failed", "end")
        return any(other.kind in ends and other.lane == line.lane for other in before)
    return line.kind in LIFE and not line.workflows


def _has_news(line: Line, related: Sequence[WorkflowId]) -> bool:
    own = [part for part in line.parts if part.workflow_id in related]
    return not own or any(part.text != NO_NEWS for part in own)


def _is_near(fault: Line, lines: Sequence[Line], related: Sequence[WorkflowId]) -> bool:
    """Whether the process had one of these workflows in its hands when the fault befell it."""
    return any(
        other.lane == fault.lane and other.at == fault.at and each in related
        for other in lines
        for each in other.workflows
    )


#: What is repeated has at most so many lines, and is there at least so often.
FOLD_LINES = 6
FOLD_TIMES = 8

_NUMBERS = re.compile(r"(?:\d[\d.]*[dhms]?\s?)+")


@attrs.frozen
class _Fold:
    """Lines that only repeat what stands above: their places in the trace."""

    row: Again
    indexes: tuple[int, ...]


def _folded(lines: Sequence[Line]) -> tuple[list[Line], dict[int, _Fold]]:
    """The lines without those that repeat others, but for numbers; and, by the index of the line
    that they follow, what is left out."""
    keys = [(line.lane, line.kind, _NUMBERS.sub("0", line.text)) for line in lines]
    kept: list[Line] = []
    folds: dict[int, _Fold] = {}
    i = 0
    while i < len(lines):
        size, times = _repeats(keys, i)
        if times < FOLD_TIMES:
            kept.append(lines[i])
            i += 1
            continue
        kept += lines[i : i + size]
        rest = lines[i + size : i + size * times]
        row = Again(lines=size, times=times - 1)
        folds[kept[-1].index] = _Fold(row, tuple(line.index for line in rest))
        i += size * times
    return kept, folds


def _repeats(keys: Sequence[object], start: int) -> tuple[int, int]:
    """How many lines from there on are repeated, and how often they are there."""
    for size in range(1, FOLD_LINES + 1):
        end = start + size
        while end < len(keys) and keys[end] == keys[end - size]:
            end += 1
        times = (end - start) // size
        if times >= FOLD_TIMES:
            return size, times
    return 1, 1


def _best(relevant: Sequence[Line], subject: Subject, marked: set[int], most: int) -> list[Line]:
    """At most so many of them: those that say most; of equals those nearer to the end."""
    begun: set[WorkflowId] = set()
    scores: list[tuple[int, int]] = []
    for line in relevant:
        own = [each for each in subject.workflows if line.touches(each)]
        is_first = line.kind == "commit" and any(each not in begun for each in own)
        if line.kind == "commit":
            begun.update(own)
        if line.kind == "broken" or line.index in marked:
            score = 1_000
        elif line.kind == "fault" or line.kind in LIFE:
            score = 90
        elif line.kind in ("ask", "answer"):
            score = 25
        elif own and subject.step is not None and line.touches(own[0], subject.step):
            score = 80
        else:
            score = 85 if is_first else 60 if own else 40
        scores.append((score + 30 * len(scores) // len(relevant), line.index))
    chosen = {index for _, index in sorted(scores, reverse=True)[: max(1, most)]}
    return [line for line in relevant if line.index in chosen]


def _with_gaps(
    lines: Sequence[Line],
    kept: Sequence[Line],
    subject: Sequence[WorkflowId],
    related: Sequence[WorkflowId],
    again: Mapping[int, _Fold],
) -> list[Row]:
    chosen = {line.index for line in kept}
    rows: list[Row] = []
    own = others = 0
    for line in lines:
        if line.index not in chosen:
            is_own = any(each in subject for each in line.workflows)
            own += is_own
            others += not is_own and bool(line.workflows)
            continue
        if own + others >= GAP_MIN:
            rows.append(Gap(own=own, others=others))
        own = others = 0
        rows.append(_only(line, related))
        if line.index in again:
            rows.append(again[line.index].row)
    if own + others >= GAP_MIN:
        rows.append(Gap(own=own, others=others))
    return rows


def _only(line: Line, related: Sequence[WorkflowId]) -> Line:
    """The line without what it says of workflows that have nothing to do with it."""
    parts = tuple(part for part in line.parts if part.workflow_id in related)
    return attrs.evolve(line, parts=parts) if parts else line
