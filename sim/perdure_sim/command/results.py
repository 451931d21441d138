"""What the commands found, for people and for programs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

import attrs
import click

from ..explore.campaign import Campaign
from ..explore.portions import Failure, StoreKind, Tally
from ..explore.targets import Place
from ..mutants.scoreboard import SOON_CASES, Score, summary
from .showing import Meter, show_table

#: Longer messages of failures are cut; --json shows them whole.
MESSAGE_MAX = 400


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


def cut(text: str, most: int = MESSAGE_MAX) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def count_of(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def failure_lines(failure: Failure, place: Place, kind: StoreKind) -> list[str]:
    """A failure for people, with the command that shows it again."""
    lines = [f"FAILED {failure.scenario}: {failure.law}", f"  {cut(failure.message)}"]
    if not failure.plan:
        lines.append("  without any fault")
    else:
        lines.append(f"  {count_of(failure.size, 'fault')}: {failure.plan}")
        if failure.first_plan != failure.plan:
            lines.append(f"  shrunk from: {failure.first_plan}")
    words = ["perdure-sim", "replay", place.target, failure.plan]
    if place.index is not None:
        words += ["--scenario", failure.scenario]
    if kind != "memory":
        words += ["--store", kind]
    return [*lines, f"  {shlex.join(words)}"]


def failure_json(failure: Failure, total: Tally) -> dict[str, Any]:
    return {
        **attrs.asdict(failure),
        "size": failure.size,
        "runs": total.broken[failure.scenario, failure.law],
    }


class Reporter:
    """Shows a campaign while it goes on, and what came of it."""

    def __init__(self, campaign: Campaign, meter: Meter, since: float) -> None:
        self._campaign = campaign
        self._meter = meter
        self._since = since

    @property
    def seconds(self) -> float:
        return self._campaign.clock.monotonic() - self._since

    @property
    def rate(self) -> float:
        return self._campaign.total.runs / max(self.seconds, 1e-9)

    def take(self, failures: Sequence[Failure], done: float) -> None:
        """These are new; so much is done."""
        for failure in failures:
            scenes = self._campaign.scenes
            place = next(p for p, each in scenes.items() if each.name == failure.scenario)
            for line in failure_lines(failure, place, self._campaign.stores.kind):
                self._meter.say(line)
        total = self._campaign.total
        text = f"{total.runs:,} runs, {self.rate:,.0f} runs/s, {total.broken.total()} failures"
        self._meter.show(done, text)

    def summary(self) -> dict[str, Any]:
        """What came of it, for programs."""
        campaign, total = self._campaign, self._campaign.total
        return {
            "scenarios": [each.name for each in campaign.scenes.values()],
            "runs": total.runs,
            "same_runs": total.same,
            "events": total.events,
            "repeated": total.repeated,
            "seconds": round(self.seconds, 3),
            "runs_per_second": round(self.rate, 1),
            "fired": dict(sorted(total.fired.items())),
            "planned": dict(sorted(total.planned.items())),
            "never_fired": campaign.never_fired,
            "failures": [failure_json(failure, total) for failure in total.failures],
            "failed_runs": total.broken.total(),
            "was_stopped": campaign.board.is_stopped and not total.failures,
        }

    def print_summary(self) -> None:
        """What came of it, for people."""
        campaign, total = self._campaign, self._campaign.total
        click.echo(
            f"{count_of(total.runs, 'run')} in {self.seconds:.1f} s, {self.rate:,.0f} runs/s,"
            f" {total.events:,} events; {count_of(total.repeated, 'run')} repeated"
        )
        if total.same:
            click.echo(f"{total.same:,} of them were not made: each comes to one that was")
        if total.planned:
            rows = [
                [kind, total.planned[kind], total.fired[kind]] for kind in sorted(total.planned)
            ]
            show_table(["fault", "planned", "fired"], rows)
        if never := campaign.never_fired:
            click.echo(f"never fired: {', '.join(never)}")
        if not total.failures:
            click.echo("nothing failed")
        for failure in total.failures:
            count = total.broken[failure.scenario, failure.law]
            click.echo(f"{failure.scenario}: {failure.law} in {count_of(count, 'run')}")
            click.echo(f"  {failure.plan or 'without any fault'}")


# --- mutants --------------------------------------------------------------------------------------


def show_scores(scores: Sequence[Score], wanted: int, *, as_json: bool) -> None:
    total = summary(scores)
    if as_json:
        print_json({**attrs.asdict(total), "mutants": [_score_json(each) for each in scores]})
        return
    columns = ["mutant", "sort", "found by", "scenario", "cases", "seconds", "law", "size", "plan"]
    show_table(columns, [_score_row(score) for score in scores])
    click.echo(
        f"found {total.found} of {total.trials}; {total.found_soon} by the sweep and"
        f" {SOON_CASES} cases at most"
    )
    if total.median_seconds is not None:
        click.echo(
            f"median: {total.median_size:g} faults, {total.median_cases:g} cases,"
            f" {total.median_seconds:.2f} s"
        )
    if len(scores) < wanted:
        click.echo(f"{count_of(wanted - len(scores), 'mutant')} not tried")


def _score_row(score: Score) -> list[object]:
    mutant, finding = score.mutant, score.first
    row: list[object] = [mutant.name, mutant.sort]
    if finding is None:
        what = "not tried to the end" if score.was_stopped else score.misfit or "SURVIVED"
        return [*row, what, "", "", "", "", "", ""]
    failure = finding.failure
    by = finding.by
    if (found := sum(each is not None for each in score.findings)) < len(score.findings):
        by_text = f"{by}, with {found} of {len(score.findings)} seeds"
    else:
        by_text = by
    return [
        *row,
        by_text,
        failure.scenario,
        f"{finding.cases:,}",
        f"{finding.seconds:.2f}",
        failure.law,
        str(failure.size),
        failure.plan,
    ]


def _score_json(score: Score) -> dict[str, Any]:
    return {
        "name": score.mutant.name,
        "sort": score.mutant.sort,
        "survived": score.has_survived,
        "misfit": score.misfit,
        "was_stopped": score.was_stopped,
        "findings": [
            None
            if each is None
            else {
                "by": each.by,
                "cases": each.cases,
                "soak_cases": each.soak_cases,
                "seconds": round(each.seconds, 3),
                **attrs.asdict(each.failure),
                "size": each.failure.size,
            }
            for each in score.findings
        ],
    }
