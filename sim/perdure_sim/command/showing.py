"""What the command line shows: tables, and how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from perdure.runtime.clock import Clock

#: Columns of a table that goes into a file or a pipe, where no terminal says how wide it is.
PIPE_COLUMNS = 200

#: How often a pipe is told how far it is, in seconds.
PIPE_SECONDS = 10.0


def _console(*, is_error: bool = False) -> Console:
    console = Console(highlight=False, stderr=is_error)
    if not console.is_terminal:
        console.width = PIPE_COLUMNS
    return console


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table for people; numbers stand at the right."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for index, column in enumerate(columns):
        is_number = all(isinstance(row[index], int | float) for row in rows)
        table.add_column(column, overflow="fold", justify="right" if is_number else "left")
    for row in rows:
        # As Text: names may hold brackets, which would be taken for markup.
        table.add_row(*(Text(_cell(cell)) for cell in row))
    _console().print(table)


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


class Meter:
    """How far a command is: a bar on a terminal, a line now and then in a pipe, or nothing.

    It goes to stderr: what a command gives is on stdout.
    """

    def __init__(self, what: str, total: float | None, clock: Clock, *, is_silent: bool) -> None:
        self._what = what
        self._total = total
        self._clock = clock
        self._console = _console(is_error=True)
        self._is_silent = is_silent
        self._bar: Progress | None = None
        self._task: Any = None
        self._told_at = clock.monotonic()

    def __enter__(self) -> Self:
        if not self._is_silent and self._console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task(self._what, total=self._total)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: float, text: str) -> None:
        """So much is done; `text` says it in words."""
        if self._bar is not None:
            line = f"{self._what}: {text}"
            self._bar.update(self._task, completed=done, description=line)
        elif not self._is_silent and self._clock.monotonic() - self._told_at >= PIPE_SECONDS:
            self._told_at = self._clock.monotonic()
            self.say(f"{self._what}: {text}")

    def say(self, line: str) -> None:
        """A line that stays."""
        if not self._is_silent:
            self._console.print(Text(line), soft_wrap=True)
