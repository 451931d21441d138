"""What the demo shows while it runs: a table that lives on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self

import attrs
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from perdure import StepInfo

#: Lines of the director that stay in sight.
LOG_LINES = 10

STYLES = {"✓": "green", "✗": "red", "▶": "yellow", "…": "dim"}


@attrs.frozen(kw_only=True)
class Seen:
    """What is seen of one workflow: its status and, by name, the steps that it has asked for."""

    user: str
    status: str
    steps: Mapping[str, StepInfo]


class View(AbstractContextManager["View"], Protocol):
    """Shows the demo to somebody."""

    def say(self, text: str) -> None:
        """What the director has just done."""

    def show(self, workflows: Sequence[Seen]) -> None:
        """How the workflows stand now."""


def icon_of(step: StepInfo | None) -> str:
    """A sign for the state of a step; nothing for one that has not been asked for."""
    if step is None:
        return ""
    if step.status != "in_progress":
        return "✓" if step.status == "success" else "✗"
    # Steps that wait (for a day, for an event) have started nothing yet.
    return "▶" if step.attempts else "…"


def cell_of(step: StepInfo | None) -> str:
    """The sign of a step, and how many attempts it took if that was not one."""
    attempts = f" ×{step.attempts}" if step is not None and step.attempts > 1 else ""
    return icon_of(step) + attempts


class PlainView:
    """A line for each thing that happens, for files, pipes and simple terminals."""

    def __init__(self, write: Callable[[str], None], seconds: Callable[[], float]) -> None:
        self._write = write
        self._seconds = seconds
        self._shown: dict[tuple[str, str], str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        self._line(text)

    def show(self, workflows: Sequence[Seen]) -> None:
        for seen in workflows:
            for name, step in seen.steps.items():
                cell = cell_of(step)
                if self._shown.get((seen.user, name)) != cell:
                    self._shown[seen.user, name] = cell
                    self._line(f"  {seen.user:<10} {name:<10} {cell}")

    def _line(self, text: str) -> None:
        self._write(f"{self._seconds():5.1f} s  {text}")


class LiveView:
    """A table of the workflows' steps, drawn again in place, and the director's last words."""

    def __init__(
        self, console: Console, columns: Sequence[str], seconds: Callable[[], float]
    ) -> None:
        self._columns = columns
        self._seconds = seconds
        self._said: list[str] = []
        self._workflows: Sequence[Seen] = ()
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        self._said.append(f"{self._seconds():5.1f} s  {text}")
        self._draw()

    def show(self, workflows: Sequence[Seen]) -> None:
        if workflows != self._workflows:
            self._workflows = workflows
            self._draw()

    def _draw(self) -> None:
        table = Table("user", *self._columns, "workflow")
        for seen in self._workflows:
            cells = [cell_of(seen.steps.get(name)) for name in self._columns]
            texts = [Text(cell, STYLES.get(cell[:1], "")) for cell in cells]
            style = {"success": "green", "in_progress": ""}.get(seen.status, "red")
            table.add_row(seen.user, *texts, Text(seen.status.replace("_", " "), style))
        log = Text("\n".join(self._said[-LOG_LINES:]))
        log.highlight_regex(r"SIGKILL.*", "bold red")
        self._live.update(Group(table, log), refresh=True)


class SilentView:
    """Shows nothing, for programs that want the result alone."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def show(self, workflows: Sequence[Seen]) -> None:
        pass


def make_view(console: Console, columns: Sequence[str], seconds: Callable[[], float]) -> View:
    """The view that suits what stdout is: a terminal that can move its cursor, or not.

    Args:
        console: where to show it.
        columns: names of the steps, in their order.
        seconds: since the demo began.
    """
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveView(console, columns, seconds)
    return PlainView(lambda line: print(line, flush=True), seconds)
