"""A run in lanes, for a terminal: one column for each process and for the store, downwards in time.

A row is one event: its marks are in the lanes that it concerns, and its text stands right of them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, TypeAlias

from .causes import Row
from .telling import CLIENT, Line
from .wording import moment

if TYPE_CHECKING:
    from rich.text import Text

#: Columns of a terminal.
WIDTH = 100

#: The text of a row has at least so many columns, or it stands below its marks.
TEXT_MIN = 44

STORE = "store"
WORLD = "world"

#: Marks, and the words of the legend.
MARKS: dict[str, str] = {
    "commit": "●",
    "attempt": "▸",
    "attempt end": "◂",
    "fault": "✗",
    "crash": "╳",
    "boot": "○",
    "boot failed": "╳",
    "end": "○",
    "power": "╳",
    "ask": "?",
    "answer": "!",
    "pause": "‖",
    "resume": "▸",
    "refused": "⊘",
    "lease lost": "✗",
    "clock": "~",
    "log": "≡",
    "broken": "■",
    "heal": "+",
}
STORED = "◆"
LEGEND = "◆── ● stored by this commit   ▸ ◂ an action's code   ✗ fault   ╳ dies   ╎ stands still"

#: Styles of rich, by the kind of event.
STYLES: dict[str, str] = {
    "commit": "",
    "attempt": "cyan",
    "attempt end": "cyan",
    "fault": "bold red",
    "crash": "bold red",
    "boot failed": "bold red",
    "boot": "green",
    "end": "green",
    "power": "bold red",
    "pause": "yellow",
    "resume": "yellow",
    "refused": "yellow",
    "lease lost": "bold red",
    "clock": "yellow",
    "log": "yellow",
    "broken": "bold white on red",
    "ask": "blue",
    "answer": "blue",
    "heal": "green",
}

#: A piece of a row, and its style.
Piece: TypeAlias = tuple[str, str]


def lanes_of(lines: Iterable[Line]) -> list[str]:
    """The columns: the client, the store, the workers, the world."""
    found = {line.lane for line in lines}
    workers = sorted(found - {CLIENT, WORLD}, key=lambda name: (len(name), name))
    client = [CLIENT] if CLIENT in found else []
    return [*client, STORE, *workers, *([WORLD] if WORLD in found else [])]


def title_of(lane: str) -> str:
    """What stands above a column."""
    return f"client {CLIENT}" if lane == CLIENT else lane


class Timeline:
    """Rows in lanes.

    Args:
        lines: all lines of the run: they say which processes there are, and when each lives.
        rows: those to show.
        notes: what to put before the text of a line, by its index.
        width: of the terminal, in columns.
    """

    def __init__(
        self,
        lines: Sequence[Line],
        rows: Sequence[Row] | None = None,
        *,
        notes: Mapping[int, str] | None = None,
        width: int = WIDTH,
    ) -> None:
        self._lines = lines
        self._rows = lines if rows is None else rows
        self._notes = dict(notes or {})
        self._width = width
        shown = [row for row in self._rows if isinstance(row, Line)]
        self._lanes = lanes_of(shown)
        times = [len(moment(line.at)) for line in shown]
        self._columns: dict[str, int] = {}
        column = max(times, default=8) + 2
        for lane in self._lanes:
            self._columns[lane] = column
            column += max(5, len(title_of(lane)) + 2)
        self._states: dict[str, str] = {}

    def plain(self) -> str:
        """The timeline as text."""
        return "\n".join("".join(text for text, _ in row).rstrip() for row in self._render())

    def rich(self) -> Text:
        """The timeline in colours; needs rich."""
        from rich.text import Text

        whole = Text()
        for number, row in enumerate(self._render()):
            if number:
                whole.append("\n")
            for text, style in row:
                whole.append(text, style=style or None)
        return whole

    def show(self, file: IO[str]) -> None:
        """Write it: in colours to a terminal where rich is installed, else as text."""
        if file.isatty():
            try:
                from rich.console import Console
            except ImportError:
                pass
            else:
                Console(file=file, width=self._width, highlight=False).print(self.rich())
                return
        file.write(self.plain() + "\n")

    # --- rows ---------------------------------------------------------------------------------

    def _render(self) -> list[list[Piece]]:
        rows = [self._head()]
        self._states = {lane: "│" if lane in (STORE, WORLD) else " " for lane in self._lanes}
        at: int | None = None
        position = 0
        for row in self._rows:
            if not isinstance(row, Line):
                rows.append([(" " * self._first, ""), (row.text, "dim")])
                continue
            while position < len(self._lines) and self._lines[position].index < row.index:
                self._follow(self._lines[position])
                position += 1
            time = "" if row.at == at else moment(row.at)
            at = row.at
            rows += self._event(time, row)
        return rows

    @property
    def _first(self) -> int:
        return next(iter(self._columns.values()))

    def _head(self) -> list[Piece]:
        line = ""
        for lane, column in self._columns.items():
            line = line.ljust(column) + title_of(lane)
        return [(line, "bold")]

    def _follow(self, line: Line) -> None:
        """How a process is from here on: alive, dead or standing still."""
        if line.lane in self._states:
            match line.kind:
                case "boot" | "resume":
                    self._states[line.lane] = "│"
                case "crash" | "boot failed" | "end":
                    self._states[line.lane] = " "
                case "pause":
                    self._states[line.lane] = "╎"
                case _:
                    pass

    def _event(self, time: str, line: Line) -> list[list[Piece]]:
        style = STYLES.get(line.kind, "dim")
        own = self._columns[line.lane]
        marks = {own: MARKS.get(line.kind, "·")}
        if line.is_stored:
            marks[self._columns[STORE]] = STORED
        start = max(marks) + 2
        text = self._notes.get(line.index, "") + line.text
        room = self._width - start
        if room >= TEXT_MIN:
            wrapped = _wrapped(text, room)
            first: list[Piece] = [*self._gutter(time, marks, start, style), (wrapped[0], style)]
            rest = wrapped[1:]
        else:
            first = self._gutter(time, marks, start, style)
            start = self._first
            rest = _wrapped(text, self._width - start)
        below = [[*self._gutter("", {}, start, style), (more, style)] for more in rest]
        return [first, *below]

    def _gutter(self, time: str, marks: Mapping[int, str], end: int, style: str) -> list[Piece]:
        """The time, and the lanes up to a column: marks, lines between them, lives."""
        cells: list[Piece] = [(char, "dim") for char in time.ljust(end)]
        for lane, column in self._columns.items():
            if column < end:
                cells[column] = (self._states[lane], "dim")
        if len(marks) > 1:
            for column in range(min(marks) + 1, max(marks)):
                cells[column] = ("─" if cells[column][0] == " " else "┼", "dim")
        for column, mark in marks.items():
            cells[column] = (mark, "green" if mark == STORED else style or "bold")
        return _joined(cells)


def _wrapped(text: str, width: int) -> list[str]:
    """The lines of a text, each in lines that fit; what goes on is set in."""
    return [
        piece
        for line in text.splitlines()
        for piece in textwrap.wrap(line, width, subsequent_indent="  ") or [""]
    ]


def _joined(cells: Sequence[Piece]) -> list[Piece]:
    """Neighbours of one style as one piece."""
    pieces: list[Piece] = []
    for text, style in cells:
        if pieces and pieces[-1][1] == style:
            pieces[-1] = (pieces[-1][0] + text, style)
        else:
            pieces.append((text, style))
    return pieces
