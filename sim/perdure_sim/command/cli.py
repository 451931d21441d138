"""The command ``perdure-sim``: runs scenarios under faults, and says what was found.

Each command takes scenarios as ``module:NAME`` or ``path/to/file.py:NAME``, and has a way to show
what it gave: tables for people, JSON for programs.
"""

from __future__ import annotations

import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

try:
    import click

    from .results import Reporter, failure_json, failure_lines, print_json, show_scores
    from .showing import Meter, show_table
except ModuleNotFoundError as missing:
    # An exit, not an ImportError: the script that pip installs imports this module first.
    raise SystemExit(
        f"The command perdure-sim needs {missing.name}, which is not installed:"
        " pip install 'perdure[sim]'"
    ) from None

from perdure.runtime.clock import RealClock

from ..explore.campaign import Begun, Campaign, begin
from ..explore.explorer import Run, Scenario, count_pairs
from ..explore.parallel import Board, RunTooLong, WorkFailed
from ..explore.portions import (
    RUN_SECONDS,
    BoundedExplorer,
    Failure,
    StoreKind,
    Stores,
    Tally,
    quiet,
)
from ..explore.targets import Place, TargetError, load
from ..faults.plan import FaultPlan, PlanError
from ..faults.sites import check
from ..mutants.patching import Mutant, planted
from ..mutants.planted import MUTANTS
from ..mutants.scoreboard import Portfolio, Score, try_mutants
from ..report.causes import NOISE
from ..report.report import report_of, show, write_page
from ..report.telling import tell
from ..report.timeline import Timeline

Command = TypeVar("Command", bound=Callable[..., Any])

#: Where the scenarios of the engine itself are, in a checkout of it.
OWN_TARGET = "tests/sim/scenes.py:SCENARIOS"


def main() -> None:
    """The command itself: exits with 0 nothing wrong, 1 something is, 2 bad usage."""
    try:
        code = command_line.main(prog_name="perdure-sim", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except WorkFailed as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


# --- options --------------------------------------------------------------------------------------

targets_argument = click.argument("targets", metavar="TARGET...", nargs=-1, required=True)


def scenario_options(command: Command) -> Command:
    """Give a command --scenario, --store and --json."""
    options = (
        click.option(
            "--scenario",
            "names",
            multiple=True,
            metavar="NAME",
            help="Only this one of the target's scenarios; may be given again.",
        ),
        click.option(
            "--store",
            "kind",
            type=click.Choice(["memory", "sqlite"]),
            default="memory",
            show_default=True,
            help="The simulator's own store in memory, or SQLite files.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document only."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def jobs_option(command: Command) -> Command:
    """Give a command -j."""
    return click.option(
        "-j",
        "--jobs",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        metavar="N",
        help="So many processes.",
    )(command)


keep_going_option = click.option(
    "--keep-going", is_flag=True, help="Go on after the first failure."
)


def _load(targets: Iterable[str], names: Iterable[str]) -> dict[Place, Scenario]:
    try:
        return load(targets, names)
    except TargetError as error:
        raise click.UsageError(str(error)) from None


@contextmanager
def _stores(kind: StoreKind) -> Iterator[Stores]:
    if kind == "memory":
        yield Stores()
        return
    with tempfile.TemporaryDirectory(prefix="perdure-sim-") as folder:
        yield Stores(kind, Path(folder))


@contextmanager
def _until_interrupted(board: Board) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM lets the work come to an end, the second one ends it at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        board.stop()
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        restore()


# --- the commands ---------------------------------------------------------------------------------


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="perdure")
def command_line() -> None:
    """Run scenarios in simulated worlds, where everything that can go wrong does.

    A TARGET is module:NAME or path/to/file.py:NAME, where NAME is a Scenario, or a tuple or list
    of them.
    """


@command_line.command()
@targets_argument
@scenario_options
@jobs_option
@keep_going_option
@click.option("--pairs", "with_pairs", is_flag=True, help="Then every two faults together.")
@click.option(
    "--budget",
    type=click.IntRange(1),
    metavar="EVENTS",
    help="About so many simulated events for each scenario, spread over all faults.",
)
@click.option(
    "--max-runs",
    type=click.IntRange(1),
    metavar="N",
    help="So many faults of each scenario, spread over all.",
)
def sweep(
    targets: tuple[str, ...],
    names: tuple[str, ...],
    kind: StoreKind,
    as_json: bool,
    jobs: int,
    keep_going: bool,
    with_pairs: bool,
    budget: int | None,
    max_runs: int | None,
) -> int:
    """Try each single fault, at each place where a run passes."""
    if budget is not None and max_runs is not None:
        raise click.UsageError("give --budget or --max-runs, not both")

    def work(campaign: Campaign) -> Iterator[list[Failure]]:
        return campaign.sweep(with_pairs=with_pairs, budget=budget, max_runs=max_runs)

    def done(campaign: Campaign, seconds: float) -> float:
        return sum(each.done for each in campaign.swept.values()) / max(
            1, sum(each.planned for each in campaign.swept.values())
        )

    campaign, reporter = _carry_out(
        "sweep", _load(targets, names), kind, as_json, jobs, keep_going, work, done
    )
    swept = campaign.swept
    if as_json:
        print_json(
            {
                **reporter.summary(),
                "swept": {name: {"runs": s.done, "of": s.possible} for name, s in swept.items()},
            }
        )
    else:
        for name, each in swept.items():
            click.echo(f"{name}: swept {each.done:,} of {each.possible:,}")
        reporter.print_summary()
    return 1 if campaign.total.failures else 0


@command_line.command()
@targets_argument
@scenario_options
@jobs_option
@keep_going_option
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="So long.")
@click.option("--runs", type=click.IntRange(1), help="So many runs.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another one, other plans.")
@click.option(
    "--most", type=click.IntRange(1), default=8, show_default=True, help="Faults of a plan."
)
@click.option(
    "--double",
    type=click.FloatRange(0, 1),
    help="The share of the runs that is made twice, and must give the same.  [default: 0.01]",
)
@click.option(
    "--double-runs",
    type=click.IntRange(1),
    metavar="N",
    help="Until so many were made twice: all of them, unless --double says otherwise.",
)
def soak(
    targets: tuple[str, ...],
    names: tuple[str, ...],
    kind: StoreKind,
    as_json: bool,
    jobs: int,
    keep_going: bool,
    minutes: float | None,
    runs: int | None,
    seed: int,
    most: int,
    double: float | None,
    double_runs: int | None,
) -> int:
    """Run random plans, of the scenarios in turn, until the end or the first failure."""
    if minutes is None and runs is None and double_runs is None:
        raise click.UsageError("say when it ends: --minutes, --runs or --double-runs")
    if double is None:
        double = 0.01 if double_runs is None else 1.0
    elif double == 0 and double_runs is not None:
        raise click.UsageError("--double 0 makes no run twice: --double-runs would never end")
    share = double

    def work(campaign: Campaign) -> Iterator[list[Failure]]:
        return campaign.soak(
            seed=seed,
            most=most,
            seconds=None if minutes is None else minutes * 60,
            runs=runs,
            double=share,
            double_runs=double_runs,
        )

    def done(campaign: Campaign, seconds: float) -> float:
        parts = [
            seconds / (minutes * 60) if minutes is not None else 0,
            campaign.total.runs / runs if runs is not None else 0,
            campaign.total.repeated / double_runs if double_runs is not None else 0,
        ]
        return max(parts)

    campaign, reporter = _carry_out(
        "soak", _load(targets, names), kind, as_json, jobs, keep_going, work, done
    )
    if as_json:
        print_json({**reporter.summary(), "seed": seed})
    else:
        click.echo(f"seed {seed}")
        reporter.print_summary()
    return 1 if campaign.total.failures else 0


def _carry_out(
    what: str,
    scenes: dict[Place, Scenario],
    kind: StoreKind,
    as_json: bool,
    jobs: int,
    keep_going: bool,
    work: Callable[[Campaign], Iterator[list[Failure]]],
    done: Callable[[Campaign, float], float],
) -> tuple[Campaign, Reporter]:
    clock = RealClock()
    with ExitStack() as stack:
        campaign = Campaign(
            scenes=scenes,
            stores=stack.enter_context(_stores(kind)),
            jobs=jobs if jobs > 1 else 0,
            keeps_going=keep_going,
            clock=clock,
        )
        stack.enter_context(_until_interrupted(campaign.board))
        meter = stack.enter_context(Meter(what, 1.0, clock, is_silent=as_json))
        reporter = Reporter(campaign, meter, clock.monotonic())
        for failure in campaign.begin():
            reporter.take([failure], 0)
        for failures in work(campaign):
            reporter.take(failures, done(campaign, reporter.seconds))
    return campaign, reporter


@command_line.command()
@targets_argument
@scenario_options
def census(targets: tuple[str, ...], names: tuple[str, ...], kind: StoreKind, as_json: bool) -> int:
    """Show which sites a run without faults passes, and what can go wrong there."""
    failures: list[tuple[Place, Failure]] = []
    shown: list[dict[str, Any]] = []
    with _stores(kind) as stores:
        for place, scenario in _load(targets, names).items():
            begun, failure = begin(place, scenario, stores, Board())
            if begun is not None:
                shown.append(_census(begun))
            if failure is not None:
                failures.append((place, failure))
    if as_json:
        print_json(
            {"scenarios": shown, "failures": [failure_json(each, Tally()) for _, each in failures]}
        )
        return 1 if failures else 0
    for each in shown:
        click.echo(
            f"{each['scenario']}: {each['events']:,} events, {each['single_faults']:,} single"
            f" faults, {each['pairs']:,} pairs"
        )
        rows = [
            [site["actor"], site["site"], site["passed"], ", ".join(site["kinds"]) or "-"]
            for site in each["sites"]
        ]
        show_table(["actor", "site", "passed", "what can happen"], rows)
    for place, failure in failures:
        click.echo("\n".join(failure_lines(failure, place, kind)))
    return 1 if failures else 0


def _census(begun: Begun) -> dict[str, Any]:
    kinds: dict[tuple[str, str], dict[str, None]] = {place: {} for place in sorted(begun.census)}
    for fault in (fault for plan in begun.singles for fault in plan):
        text = str(fault).partition("=")[2]
        kinds[fault.actor, fault.site][text] = None
    return {
        "scenario": begun.name,
        "events": begun.events,
        "single_faults": len(begun.singles),
        "pairs": count_pairs(begun.census),
        "sites": [
            {"actor": actor, "site": site, "passed": begun.census[actor, site], "kinds": [*known]}
            for (actor, site), known in kinds.items()
        ],
    }


# --- replay ---------------------------------------------------------------------------------------


@command_line.command()
@click.argument("target")
@click.argument("plan")
@scenario_options
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page.")
@click.option("--trace", "with_trace", is_flag=True, help="Print every event too.")
@click.option(
    "--run-seconds",
    type=click.FloatRange(0, min_open=True),
    default=RUN_SECONDS,
    show_default=True,
    help="How much of the processor's time it may take.",
)
@click.option("--mutant", metavar="NAME", help="With this bug planted: see `mutants`.")
def replay(
    target: str,
    plan: str,
    names: tuple[str, ...],
    kind: StoreKind,
    as_json: bool,
    html: Path | None,
    with_trace: bool,
    run_seconds: float,
    mutant: str | None,
) -> int:
    """Run one PLAN, and show what happened. An empty plan ('') is the run without faults."""
    scenes = _load([target], names)
    if len(scenes) != 1:
        there = ", ".join(each.name for each in scenes.values())
        raise click.UsageError(f"{target} holds {len(scenes)}: say --scenario, one of {there}")
    (scenario,) = scenes.values()
    try:
        parsed = FaultPlan.parse(plan)
        check(parsed)
    except PlanError as error:
        raise click.UsageError(str(error)) from None
    with ExitStack() as stack:
        if mutant is not None:
            stack.enter_context(planted(_one_mutant(mutant)))
        stores = stack.enter_context(_stores(kind))
        stack.enter_context(quiet())
        explorer = BoundedExplorer(
            scenario, stores.maker("replay"), board=Board(), seconds=run_seconds
        )
        try:
            run = explorer.begin()
            if run.failure is None and len(parsed) > 0:
                run = explorer.try_plan(parsed)
            if html is not None or not as_json:  # once more, to be looked at
                run = explorer.try_plan(run.plan, detail=True)
        except RunTooLong as error:
            click.echo(f"{scenario.name}: RunTooLong: {error}")
            return 1
        options = [("scenario", names), ("store", [kind] * (kind != "memory"))]
        options.append(("mutant", () if mutant is None else [mutant]))
        words = [f"--{name} {shlex.quote(each)}" for name, given in options for each in given]
        called = " ".join([shlex.quote(target), *words])
        _show_run(run, parsed, called, as_json=as_json, with_trace=with_trace)
        if html is not None and run.failure is not None:
            write_page(run, html, target=called)
    return 0 if run.failure is None else 1


def _show_run(run: Run, plan: FaultPlan, target: str, *, as_json: bool, with_trace: bool) -> None:
    fired = run.world.faults.fired
    idle = [str(fault) for fault in run.plan if fault not in fired]
    if as_json:
        print_json(
            {
                "scenario": run.scenario.name,
                "plan": str(run.plan),
                "fired": [str(fault) for fault in fired],
                "did_not_fire": idle,
                "law": None if run.failure is None else type(run.failure).__name__,
                "message": None if run.failure is None else str(run.failure),
                "outcomes": {key: repr(value) for key, value in run.outcomes.items()},
                "events": run.world.events,
                "digest": run.world.trace.digest(),
                "trace": [str(event) for event in run.world.trace.events] if with_trace else None,
            }
        )
        return
    _explain(run, target, with_trace=with_trace)
    if run.plan != plan:
        click.echo("It fails without any fault: the plan was not tried.")
    for text in idle:
        click.echo(f"did not fire: {text}")


def _explain(run: Run, target: str, *, with_trace: bool) -> None:
    """What happened in a run, in words."""
    out = sys.stdout
    out.write(f"{run.scenario.name}: {run.plan or 'without faults'}\n\n")
    lines = tell(run.world.trace.events)
    if run.failure is None or with_trace:
        rows = [line for line in lines if with_trace or line.kind not in NOISE]
        Timeline(lines, rows).show(out)
    if run.failure is None:
        out.write("\nnothing failed\n")
    else:
        show(report_of(run, target=target), out)


# --- mutants --------------------------------------------------------------------------------------


@command_line.command()
@click.argument("targets", metavar="[TARGET...]", nargs=-1)
@scenario_options
@jobs_option
@click.option(
    "--only", multiple=True, metavar="NAME", help="Only mutants with this in their name or sort."
)
@click.option(
    "--budget",
    type=click.IntRange(0),
    default=Portfolio().budget,
    show_default=True,
    metavar="EVENTS",
    help="Of the sweep of each scenario; 0 for no sweep.",
)
@click.option(
    "--runs",
    type=click.IntRange(0),
    default=Portfolio().runs,
    show_default=True,
    help="Random plans after the sweep.",
)
@click.option(
    "--seeds", type=click.IntRange(1), default=1, show_default=True, help="So many times."
)
def mutants(
    targets: tuple[str, ...],
    names: tuple[str, ...],
    kind: StoreKind,
    as_json: bool,
    jobs: int,
    only: tuple[str, ...],
    budget: int,
    runs: int,
    seeds: int,
) -> int:
    """Plant bugs in the engine, one at a time, and see how soon each is found.

    Without a TARGET the scenarios are the engine's own, in a checkout of it.
    """
    if not targets and not Path(OWN_TARGET.partition(":")[0]).exists():
        raise click.UsageError("name scenarios to find the bugs with: module:NAME")
    scenes = _load(targets or [OWN_TARGET], names)
    chosen = _chosen(only)
    clock, board = RealClock(), Board()
    scores: list[Score] = []
    with ExitStack() as stack:
        stores = stack.enter_context(_stores(kind))
        stack.enter_context(_until_interrupted(board))
        for place, scenario in scenes.items():
            _, failure = begin(place, scenario, stores, board)
            if failure is not None:
                click.echo("It fails with no bug planted:", err=True)
                click.echo("\n".join(failure_lines(failure, place, kind)), err=True)
                return 1
        meter = stack.enter_context(Meter("mutants", len(chosen), clock, is_silent=as_json))
        found = try_mutants(
            chosen,
            list(scenes),
            stores,
            Portfolio(budget=budget, runs=runs, seeds=seeds),
            jobs=jobs,
            board=board,
            clock=clock,
        )
        for score in found:
            if score is not None:
                scores.append(score)
                if score.has_survived:
                    meter.say(f"survived: {score.mutant.name}")
            survivors = sum(each.has_survived for each in scores)
            meter.show(len(scores), f"{len(scores)} of {len(chosen)}, {survivors} survived")
    scores.sort(key=lambda score: chosen.index(score.mutant))
    show_scores(scores, len(chosen), as_json=as_json)
    return 1 if any(score.has_survived for score in scores) else 0


def _chosen(only: Sequence[str]) -> list[Mutant]:
    for word in only:
        if not any(_fits(mutant, word) for mutant in MUTANTS):
            names = "".join(f"\n  {mutant.sort}: {mutant.name}" for mutant in MUTANTS)
            raise click.UsageError(f"--only {word}: no mutant has that name; there are:{names}")
    return [mutant for mutant in MUTANTS if not only or any(_fits(mutant, word) for word in only)]


def _fits(mutant: Mutant, word: str) -> bool:
    return word.lower() in mutant.name.lower() or word.lower() == mutant.sort.lower()


def _one_mutant(name: str) -> Mutant:
    chosen = _chosen([name])
    if len(chosen) != 1:
        names = "".join(f"\n  {mutant.name}" for mutant in chosen)
        raise click.UsageError(f"--mutant {name}: that is the name of {len(chosen)}:{names}")
    return chosen[0]
