"""`replay_check`: journals from production against today's code."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from perdure.checking import CheckReport, check_all
from perdure.definitions import Definer
from perdure.journals import WorkflowJournal, load_journals

from ..laws.replaying import ReplayDiffers
from .manager_settings import rules_of


def replay_check(
    manager: Definer,
    journals: str | os.PathLike[str] | Iterable[WorkflowJournal | str],
) -> CheckReport:
    """Replay exported journals by today's code, as `perdure check` does; no step runs.

    Args:
        manager: with the code.
        journals: the path of a file of lines, as `perdure journal` prints them; or its lines; or
            journals, as `WorkflowManager.journal`, `load_journals` and `Run.journal` give them.

    Returns:
        What was checked.

    Raises:
        ReplayDiffers: the code does not fit; the message has all that does not.
        ValidationError: a line that is none of a journal.
        ValueError: there is no journal.
        OSError: the file cannot be read.
    """
    report = check_all(rules_of(manager), _journals(journals))
    if not report.is_ok:
        raise ReplayDiffers("\n\n".join(each.message for each in report.violations))
    if not report.checked:
        raise ValueError("replay_check: there is no journal: nothing would be checked")
    return report


def _journals(
    given: str | os.PathLike[str] | Iterable[WorkflowJournal | str],
) -> Iterator[WorkflowJournal]:
    if isinstance(given, str | os.PathLike):
        with Path(given).open(encoding="utf-8") as file:
            yield from load_journals(file)
        return
    lines: list[str] = []
    for each in given:
        if isinstance(each, WorkflowJournal):
            yield each
        else:
            lines.append(each)
    yield from load_journals(lines)
