"""Measure perdure on this machine, beside raw commits to the same disk, and print a table.

Before and after each run of a workload raw commits are timed, so that the machine's noise hits
both. The exit code is 1 only if a result is wrong: being slow is not an error.
See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal, TypeAlias

import attrs

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import inside, processes  # noqa: E402
from benchmarks.inside import Sample  # noqa: E402
from benchmarks.places import FilePlace, Place, ServerPlace  # noqa: E402
from benchmarks.raw import Durability, Raw  # noqa: E402

#: What a figure is held against: raw commits a second, the median of a raw commit, or nothing.
Against: TypeAlias = Literal["rate", "p50", "nothing"]


@attrs.frozen
class Gate:
    """A bound that the figure, or its ratio to the raw one, is meant to keep."""

    bound: float
    is_least: bool
    of_ratio: bool = False

    def is_met(self, value: float, ratio: float | None) -> bool:
        found = ratio if self.of_ratio else value
        assert found is not None
        return found >= self.bound if self.is_least else found <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.is_least else '≤'} {self.bound:g}{' × raw' if self.of_ratio else ''}"


@attrs.frozen
class Figure:
    """One line of the table: a figure of a workload."""

    key: str
    what: str
    unit: str
    against: Against = "nothing"
    gate: Gate | None = None
    server_gate: Gate | None = None  # the one for PostgreSQL


@attrs.frozen
class Workload:
    """One workload: how to run it once, and what to show of it."""

    name: str
    run: Callable[[Place], Sample]
    figures: tuple[Figure, ...]


def at_least(bound: float) -> Gate:
    return Gate(bound, is_least=True)


def at_most(bound: float) -> Gate:
    return Gate(bound, is_least=False)


STEPS = "steps/s"

WORKLOADS = (
    Workload(
        "W1",
        inside.w1_own_loop,
        (
            Figure(
                "steps_per_second",
                "100 steps in a row, own loop",
                STEPS,
                "rate",
                Gate(0.4, is_least=True, of_ratio=True),
                Gate(0.5, is_least=True, of_ratio=True),
            ),
        ),
    ),
    Workload(
        "W1",
        processes.w1_worker,
        (
            Figure(
                "steps_per_second",
                "the same, worker process",
                STEPS,
                "rate",
                Gate(0.6, is_least=True, of_ratio=True),
                Gate(0.5, is_least=True, of_ratio=True),
            ),
        ),
    ),
    Workload(
        "W2",
        inside.w2,
        (Figure("steps_per_second", "500 workflows × 10", STEPS, "rate", at_least(8_000)),),
    ),
    Workload(
        "W2",
        inside.w2_default,
        (Figure("steps_per_second", "the same, max_parallelism 100", STEPS, "rate"),),
    ),
    Workload(
        "W3",
        inside.w3,
        (Figure("steps_per_second", "500 parallel steps", STEPS, "rate", at_least(8_000)),),
    ),
    Workload(
        "W4",
        inside.w4,
        (
            Figure(
                "p50_ms",
                "start → result, p50",
                "ms",
                "p50",
                Gate(6, is_least=False, of_ratio=True),
            ),
            Figure("p95_ms", "start → result, p95", "ms"),
        ),
    ),
    Workload(
        "W5",
        inside.w5,
        (
            Figure("last_to_first", "2,000 steps: last 200 / first 200", "", gate=at_most(1.2)),
            Figure("steps_per_second", "2,000 steps in a row", STEPS, "rate"),
        ),
    ),
    Workload(
        "W6",
        processes.w6,
        (
            Figure("from_spawn_s", "kill -9: process start → all done", "s", gate=at_most(2)),
            Figure("from_run_s", "kill -9: run() → all done", "s"),
            Figure("start_up_s", "kill -9: process start → run()", "s"),
            Figure("twice", "steps run twice (of 2,000)", ""),
        ),
    ),
    Workload(
        "W7",
        processes.w7,
        (
            Figure("seconds", "10,000 sleepers: all asleep", "s", gate=at_most(3)),
            Figure("kb_each", "memory of a sleeper", "KB", gate=at_most(10)),
        ),
    ),
)


@attrs.frozen
class Line:
    """A figure as measured: medians over the repetitions, and the single values."""

    workload: str
    figure: Figure
    values: tuple[float, ...]
    raws: tuple[float, ...]
    gate: Gate | None

    @property
    def value(self) -> float:
        return median(self.values)

    @property
    def raw(self) -> float | None:
        return median(self.raws) if self.raws else None

    @property
    def ratio(self) -> float | None:
        """Each repetition against its own raw figure, then the median."""
        if not self.raws:
            return None
        return median(v / raw for v, raw in zip(self.values, self.raws, strict=True))

    @property
    def is_met(self) -> bool | None:
        gate = self.gate
        return None if gate is None else gate.is_met(self.value, self.ratio)


def _raw_value(raw: Raw, against: Against) -> float:
    return raw.rate if against == "rate" else raw.p50_ms


def _gate(figure: Figure, place: Place) -> Gate | None:
    """The gate, where it was set: a commit that waits for no disk is no measure for an engine."""
    gate = figure.server_gate if isinstance(place, ServerPlace) else figure.gate
    return None if gate is not None and gate.of_ratio and place.durability != "disk" else gate


def run_workload(
    workload: Workload, make_place: Callable[[Path], Place], folder: Path, repeat: int
) -> tuple[list[Line], list[str]]:
    """Run one workload `repeat` times between raw measurements: its lines, and its faults."""
    samples: list[Sample] = []
    raws: list[Raw] = []
    faults: list[str] = []
    for _ in range(repeat):
        with tempfile.TemporaryDirectory(dir=folder) as name:
            place = make_place(Path(name))
            before = place.raw()
            sample = workload.run(place)
            raws.append(before + place.raw())
        samples.append(sample)
        faults += sample.faults
    lines = [
        Line(
            workload.name,
            figure,
            tuple(sample.figures[figure.key] for sample in samples),
            ()
            if figure.against == "nothing"
            else tuple(_raw_value(raw, figure.against) for raw in raws),
            _gate(figure, place),
        )
        for figure in workload.figures
    ]
    return lines, faults


# --- showing ------------------------------------------------------------------------------------

HEADINGS = ("", "what", "figure", "raw", "ratio", "gate", "met")


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    text = f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def _raw_unit(figure: Figure) -> str:
    return "commits/s" if figure.against == "rate" else figure.unit


def _cells(line: Line) -> tuple[str, ...]:
    figure = line.figure
    met = {None: "", True: "yes", False: "no"}[line.is_met]
    return (
        line.workload,
        figure.what,
        _number(line.value, figure.unit),
        _number(line.raw, _raw_unit(figure)),
        _number(line.ratio, ""),
        "" if line.gate is None else str(line.gate),
        met,
    )


def show(lines: list[Line]) -> None:
    """Print the table, with rich where it is installed."""
    rows = [_cells(line) for line in lines]
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        for text in _plain([HEADINGS, *rows]):
            print(text)
        return
    table = Table(box=None, pad_edge=False)
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if number in (2, 3, 4) else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    # Not cut to the width of a terminal: most often the table goes into a file.
    Console(width=max(120, Console().width), highlight=False).print(table)


def _plain(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield "  ".join(cells).rstrip()


def _machine(durability: Durability) -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "durability": durability,
    }


def _as_json(line: Line) -> dict[str, Any]:
    figure = line.figure
    return {
        "workload": line.workload,
        "what": figure.what,
        "unit": figure.unit,
        "value": line.value,
        "values": list(line.values),
        "raw": line.raw,
        "raws": list(line.raws),
        "ratio": line.ratio,
        "gate": None if line.gate is None else str(line.gate),
        "met": line.is_met,
    }


# --- the command --------------------------------------------------------------------------------


def _names(text: str) -> set[str]:
    names = {name.strip().upper() for name in text.split(",")}
    unknown = names - {workload.name for workload in WORKLOADS}
    if unknown:
        raise argparse.ArgumentTypeError(f"no such workload: {', '.join(sorted(unknown))}")
    return names


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"give a number from 1, not {text!r}")
    return int(text)


def _default_folder() -> Path:
    """Where temporary files go if that is the checkout's disk, else the checkout.

    A temporary folder in memory would make every commit free.
    """
    system = Path(tempfile.gettempdir())
    return system if system.stat().st_dev == ROOT.stat().st_dev else ROOT


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/run.py", description=(__doc__ or "").strip())
    parser.add_argument("--only", type=_names, help="workloads to run, such as W1,W4")
    parser.add_argument("--repeat", type=_count, default=3, help="runs of each; medians are shown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all values there as well")
    parser.add_argument("--dir", type=Path, help="a folder on the disk to measure")
    parser.add_argument("--postgresql", action="store_true", help="on a server of its own")
    parser.add_argument("--durability", choices=("disk", "process"), default="disk")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen workloads and show them; the exit code."""
    options = _parse(arguments)
    folder = options.dir or _default_folder()
    with ExitStack() as stack:
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="perdure-bench-", dir=folder)
        )
        machine = _machine(options.durability)
        make_place: Callable[[Path], Place] = partial(FilePlace, durability=options.durability)
        if options.postgresql:
            from tests.postgres import DURABLE, Server

            server = stack.enter_context(Server(**DURABLE, shared_buffers="512MB"))
            machine["postgresql"] = server.version
            make_place = partial(ServerPlace, server=server)
        print(", ".join(f"{key} {value}" for key, value in machine.items()))
        lines: list[Line] = []
        faults: list[str] = []
        for workload in WORKLOADS:
            if options.only and workload.name not in options.only:
                continue
            print(f"{workload.name}: {workload.run.__doc__}", file=sys.stderr, flush=True)
            new_lines, new_faults = run_workload(workload, make_place, Path(folder), options.repeat)
            lines += new_lines
            faults += new_faults
    show(lines)
    if options.json is not None:
        figures = [_as_json(line) for line in lines]
        report = {"machine": machine, "figures": figures, "faults": faults}
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for fault in faults:
        print(f"WRONG: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
