"""Lanes for a terminal: that they fit, say when and where, and are coloured only in a terminal."""

from __future__ import annotations

import io
import re

import pytest
from tests.sim.failing import run_of

from perdure_sim.report.causes import Gap
from perdure_sim.report.telling import Line, tell
from perdure_sim.report.timeline import Timeline, lanes_of

PLAN = "pd1:w0/commit#5=lost_ack;w0/decided#4=crash;w1/collected#2=pause:2s"


class Terminal(io.StringIO):
    """A file that people look at."""

    def isatty(self) -> bool:
        return True


def lines_of(scenario: str, plan: str = PLAN) -> list[Line]:
    return tell(run_of(scenario, plan).world.trace.events)


def rows_of(text: str, *words: str) -> list[str]:
    return [row for row in text.splitlines() if all(word in row for word in words)]


@pytest.mark.parametrize("scenario", ["reference", "transfers", "events", "fans", "race", "trees"])
@pytest.mark.parametrize("width", [60, 100, 160])
def test_it_fits(scenario: str, width: int) -> None:
    """Whatever is told: long texts go on below."""
    text = Timeline(lines_of(scenario), width=width).plain()
    assert max(map(len, text.splitlines())) <= width
    assert not rows_of(text, "\t")


def test_the_lanes_are_the_client_the_store_the_workers_and_the_world() -> None:
    """Those that there are, in this order."""
    lines = lines_of("reference")
    assert lanes_of(lines) == ["c0", "store", "w0", "w1", "world"]
    head = Timeline(lines).plain().splitlines()[0]
    assert head.split() == ["client", "c0", "store", "w0", "w1", "world"]
    assert lanes_of([line for line in lines if line.lane == "w1"]) == ["store", "w1"]


def test_a_commit_joins_its_process_and_the_store() -> None:
    """Also the client's, which stands left of it; what lies between is crossed."""
    text = Timeline(lines_of("reference")).plain()
    head = text.splitlines()[0]
    (row,) = rows_of(text, "o0: its owner w0 is dead")
    assert row.index("◆") == head.index("store")
    assert row.index("●") == head.index("w1")
    assert "◆──────┼────●" in row or "◆───────────●" in row
    (row,) = rows_of(text, "o0: is started as order(n=0)")
    assert (row.index("●"), row.index("◆")) == (head.index("client"), head.index("store"))


def test_times_are_shown_once() -> None:
    """A row without a time is of the same moment as the one above."""
    text = Timeline(lines_of("reference", "")).plain()
    times = [found[0] for row in text.splitlines() if (found := re.match(r"\+\S+( \S+)*", row))]
    assert len(times) == len(set(times))
    assert times[:3] == ["+0.000s", "+0.020s", "+0.040s"]


def test_who_is_dead_has_no_line() -> None:
    """Between its crash and its boot the lane of a process is empty."""
    lines = [line for line in lines_of("reference") if line.kind not in ("turn", "wake", "border")]
    rows = Timeline(lines).plain().splitlines()
    column = rows[0].index("w0")
    crash = next(i for i, row in enumerate(rows) if row[column : column + 1] == "╳")
    boot = next(i for i, row in enumerate(rows) if i > crash and row[column : column + 1] == "○")
    assert {row[column] for row in rows[crash + 1 : boot] if "●" in row} <= {" ", "─"}
    assert rows[boot + 1][column] in "│●"


def test_who_stands_still_has_a_broken_line() -> None:
    """Until it goes on; the other worker's events stand right of it."""
    lines = lines_of("reference", "pd1:w0/carried_out#1=zombie:40s")
    rows = Timeline([line for line in lines if line.kind != "turn"]).plain().splitlines()
    lane = rows[0].index("w0")
    paused = next(i for i, row in enumerate(rows) if row[lane : lane + 1] == "‖")
    goes_on = next(i for i, row in enumerate(rows) if "its engine goes on" in row)
    assert "╎" in {row[lane] for row in rows[paused + 1 : goes_on] if len(row) > lane}
    assert "╎" not in {row[lane] for row in rows[goes_on:] if len(row) > lane}


def test_gaps_are_shown() -> None:
    """Where they are."""
    first, *_, last = lines_of("reference", "")
    rows = Timeline([first, last], [first, Gap(own=2, others=1), last]).plain().splitlines()
    assert rows[2].strip() == "… 2 events of its own, 1 event of other workflows"


def test_notes_stand_before_the_text() -> None:
    """To point at some lines."""
    lines = lines_of("reference", "")
    rows = Timeline(lines, notes={lines[0].index: "① "}).plain().splitlines()
    assert rows[1].endswith("○ ① w0 starts")


def test_a_narrow_terminal_has_the_text_below_the_marks() -> None:
    """When there is no room right of them."""
    rows = Timeline(lines_of("reference"), width=70).plain().splitlines()
    place = next(i for i, row in enumerate(rows) if row.rstrip().endswith("◆───────────●"))
    assert rows[place + 1].strip()


def test_in_a_pipe_it_is_plain() -> None:
    """The text, and nothing else."""
    out = io.StringIO()
    timeline = Timeline(lines_of("reference"))
    timeline.show(out)
    assert out.getvalue() == timeline.plain() + "\n"
    assert "\x1b" not in out.getvalue()


def test_in_a_terminal_faults_are_red(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows, with colours."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    out = Terminal()
    timeline = Timeline(lines_of("reference"))
    timeline.show(out)
    (row,) = rows_of(out.getvalue(), "w0/decided#4=crash:")
    assert "\x1b[1;31m✗" in row
    bare = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert [row.rstrip() for row in bare.splitlines()] == timeline.plain().splitlines()


def test_rich_and_plain_say_the_same() -> None:
    """One is the other with styles."""
    timeline = Timeline(lines_of("trees"))
    rich = timeline.rich().plain
    assert [row.rstrip() for row in rich.splitlines()] == timeline.plain().splitlines()
