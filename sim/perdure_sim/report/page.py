"""A report as one HTML page: no script, nothing from elsewhere, light or dark as the reader likes.

All events of the run are on it; what did not lead to the failure is hidden until it is asked for.
A click on an event opens it, with all that is known of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

import attrs

from ..world.trace import Event
from .causes import NOISE, Causes
from .telling import Line
from .timeline import MARKS, STORE, STORED, WORLD, lanes_of, title_of
from .wording import moment, with_moments

#: Longer events are cut: a journal can have megabytes.
EVENT_CHARS = 6_000

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1c2024; --dim: #6b7480; --line: #c9d0d8;
  --card: #f3f5f7; --bad: #c0182b; --bad-back: #fdecee; --good: #18794e; --code: #0b68cb;
  --pause: #ad5700; }
@media (prefers-color-scheme: dark) { :root { --back: #111418; --text: #e3e7eb; --dim: #8d97a3;
  --line: #3a424c; --card: #1a1f25; --bad: #ff7b86; --bad-back: #3b1519; --good: #4cc38a;
  --code: #70b8ff; --pause: #ffa057; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 90rem; background: var(--back);
  color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.6rem; color: var(--bad); }
h2 { margin: 2rem 0 .5rem; font-size: 1.1rem; }
pre, code { font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace; }
pre { margin: .5rem 0; padding: .8rem 1rem; background: var(--card); border-radius: .4rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
code.copy { display: block; padding: .5rem .8rem; background: var(--card); border-radius: .4rem;
  overflow-wrap: anywhere; user-select: all; }
a { color: inherit; }
dt { color: var(--bad); font-weight: 600; }
dd { margin: 0 0 .4rem; }
.dim, .legend { color: var(--dim); }
label { margin-right: 1.5rem; cursor: pointer; }
main { margin-top: 1rem; border-top: 1px solid var(--line); }
.row { display: grid; grid-template-columns: 8.5rem repeat(var(--lanes), 4.6rem) minmax(20rem, 1fr);
  list-style: none; min-height: 1.7rem; }
summary.row { cursor: pointer; }
summary::-webkit-details-marker { display: none; }
summary:hover { background: var(--card); }
.head { position: sticky; top: 0; z-index: 3; background: var(--back); font-weight: 600;
  border-bottom: 1px solid var(--line); }
.row > * { grid-row: 1; }
.time { grid-column: 1; color: var(--dim); font-variant-numeric: tabular-nums; padding-top: .1rem; }
.life { border-left: 2px solid var(--line); margin-left: .5rem; }
.life.dead { border-left-color: transparent; }
.life.still { border-left-style: dotted; border-left-color: var(--pause); }
.wire { height: .85rem; border-bottom: 2px solid var(--good); margin-left: .5rem; z-index: 1; }
.mark { width: 1.05rem; text-align: center; z-index: 2; align-self: start; background: var(--back);
  line-height: 1.7rem; }
.stored { color: var(--good); }
.text { z-index: 2; background: var(--back); padding: .1rem .3rem; overflow-wrap: anywhere;
  white-space: pre-line; }
summary:hover .text, summary:hover .mark { background: var(--card); }
.fault .text, .crash .text, .lease-lost .text, .boot-failed .text, .power .text { color: var(--bad);
  background: var(--bad-back); font-weight: 600; border-radius: .3rem; }
.fault .mark, .crash .mark, .lease-lost .mark, .broken .mark { color: var(--bad); }
.attempt .text, .attempt-end .text, .attempt .mark, .attempt-end .mark { color: var(--code); }
.pause .text, .resume .text, .clock .text, .refused .text, .log .text { color: var(--pause); }
.broken .text { background: var(--bad); color: var(--back); font-weight: 700;
  border-radius: .3rem; }
.noise .text { color: var(--dim); }
.gap { padding: .2rem 0 .2rem 8.5rem; color: var(--dim); font-style: italic; }
.fact .text { outline: 2px solid var(--bad); border-radius: .3rem; }
details:target .text { outline: 3px solid var(--bad); }
#only:checked ~ main .other { display: none; }
#only:not(:checked) ~ main .gap { display: none; }
#noise:not(:checked) ~ main .noise { display: none; }
"""


@attrs.frozen(kw_only=True)
class Page:
    """What stands on it; all texts are plain.

    Attributes:
        faults: those that fired, and what each does.
        idle: faults of the plan that did not fire.
        lines: all that happened.
        events: the trace that they are of.
        causes: what of it led to the failure.
        notes: what to put before the text of a line, by its index.
    """

    title: str
    law: str
    meaning: str
    message: str
    faults: tuple[tuple[str, str], ...]
    idle: tuple[str, ...]
    plan: str
    command: str
    lines: tuple[Line, ...]
    events: tuple[Event, ...]
    causes: Causes
    notes: Mapping[int, str]


def page_text(page: Page) -> str:
    """The page."""
    lanes = lanes_of(page.lines)
    count = f"{page.causes.shown} of {page.causes.total}"
    body = [
        *_top(page),
        *_faults(page),
        "<h2>What happened</h2>",
        f'<p class="dim">{count} events led to it. A click on an event shows all of it.</p>',
        '<input type="checkbox" id="only" checked><label for="only">only what led to it</label>',
        '<input type="checkbox" id="noise"><label for="noise">with turns and wake-ups</label>',
        f'<main style="--lanes: {len(lanes)}">',
        _head(lanes),
        *_Rows(page, lanes).rows(),
        "</main>",
    ]
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{escape(page.title)}</title>",
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            *body,
            "</body>",
            "</html>",
            "",
        ]
    )


def _top(page: Page) -> Iterator[str]:
    yield f"<h1>{escape(page.law)}</h1>"
    yield f"<p>{escape(page.meaning)}</p>"
    yield f"<pre>{escape(page.message)}</pre>"
    if page.causes.facts:
        yield "<ul>"
        for line in page.causes.facts:
            text = f"{page.notes[line.index]}{moment(line.at)} {line.lane}: {line.text}"
            yield f'<li><a href="#e{line.index}">{escape(text)}</a></li>'
        yield "</ul>"


def _faults(page: Page) -> Iterator[str]:
    yield "<h2>Faults</h2>"
    if not page.faults:
        yield "<p>None is needed for it: it fails by itself.</p>"
    else:
        yield "<dl>"
        for fault, text in page.faults:
            yield f"<dt><code>{escape(fault)}</code></dt><dd>{escape(text)}</dd>"
        yield "</dl>"
        yield f'<code class="copy">{escape(page.plan)}</code>'
    if page.idle:
        yield f'<p class="dim">Left out, for they did not fire: {escape(", ".join(page.idle))}</p>'
    yield "<h2>To see it again</h2>"
    yield f'<code class="copy">{escape(page.command)}</code>'


def _head(lanes: Sequence[str]) -> str:
    cells = [
        f'<span style="grid-column: {column}">{escape(title_of(lane))}</span>'
        for column, lane in enumerate(lanes, start=2)
    ]
    return f'<div class="row head"><span class="time">time</span>{"".join(cells)}</div>'


class _Rows:
    """All rows, with the lives of the processes followed."""

    def __init__(self, page: Page, lanes: Sequence[str]) -> None:
        self._page = page
        self._columns = {lane: column for column, lane in enumerate(lanes, start=2)}
        self._lives = dict.fromkeys(lanes, "dead")
        self._lives.update({lane: "" for lane in (STORE, WORLD) if lane in self._lives})

    def rows(self) -> Iterator[str]:
        page = self._page
        led: dict[int, None] = {}
        gaps: dict[int, list[str]] = {}
        ahead: list[str] = []
        for row in page.causes.rows:
            if not isinstance(row, Line):
                ahead.append(row.text)
                continue
            led[row.index] = None
            gaps[row.index], ahead = ahead, []
        for line in page.lines:
            for text in gaps.get(line.index, ()):
                yield f'<div class="gap">{escape(text)}</div>'
            yield self._row(line, is_led=line.index in led)
        for text in ahead:
            yield f'<div class="gap">{escape(text)}</div>'

    def _row(self, line: Line, *, is_led: bool) -> str:
        kinds = [line.kind.replace(" ", "-")]
        if line.kind in NOISE:
            kinds.append("noise")
        elif not is_led:
            kinds.append("other")
        note = self._page.notes.get(line.index, "")
        if note:
            kinds.append("fact")
        own = self._columns[line.lane]
        cells = [f'<span class="time">{moment(line.at)}</span>']
        cells += [
            f'<span class="life {self._lives[lane]}" style="grid-column: {column}"></span>'
            for lane, column in self._columns.items()
        ]
        last = own
        if line.is_stored:
            store = self._columns[STORE]
            first, last = sorted((own, store))
            cells.append(f'<span class="wire" style="grid-column: {first} / {last}"></span>')
            cells.append(_cell("mark stored", f"{store}", STORED))
        cells.append(_cell("mark", f"{own}", MARKS.get(line.kind, "·")))
        style = "margin-left: 1.4rem"
        cells.append(_cell("text", f"{last} / -1", note + line.text, style))
        self._follow(line)
        full = f"<pre>{escape(self._full(line))}</pre>"
        summary = f'<summary class="row">{"".join(cells)}</summary>'
        return f'<details id="e{line.index}" class="{" ".join(kinds)}">{summary}{full}</details>'

    def _follow(self, line: Line) -> None:
        match line.kind:
            case "boot" | "resume":
                self._lives[line.lane] = ""
            case "crash" | "boot failed" | "end":
                self._lives[line.lane] = "dead"
            case "pause":
                self._lives[line.lane] = "still"
            case _:
                pass

    def _full(self, line: Line) -> str:
        """Everything that is known of an event, with the times of the world."""
        events = self._page.events
        text = f"{moment(line.at)}  {line.lane}  {line.kind}"
        if line.index >= len(events):
            return text
        about = events[line.index].about
        if line.kind == "commit" and isinstance(about, list):
            before = events[line.index - 1] if line.index else None
            more = before.about if before is not None and before.kind == "rows" else []
            assert isinstance(more, list)
            parts = [f"{each}" for each in (*about, *more)]
        else:
            parts = [] if about is None else [str(about)]
        full = "\n".join([text, *parts])
        return with_moments(full if len(full) <= EVENT_CHARS else full[:EVENT_CHARS] + "…")


def _cell(kind: str, column: str, text: str, style: str = "") -> str:
    more = f"; {style}" if style else ""
    return f'<span class="{kind}" style="grid-column: {column}{more}">{escape(text)}</span>'
