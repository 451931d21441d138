"""Times, steps, outcomes and faults in words."""

from __future__ import annotations

import pytest

from perdure.core.commands import AwaitEvent, RunChild, RunStep, Sleep, StepCommand
from perdure.core.journal import StepRecord
from perdure.core.outcomes import Canceled, Failed, Outcome, Succeeded
from perdure.errors import ErrorInfo
from perdure_sim.faults.plan import Fault
from perdure_sim.faults.sites import KINDS, KNOBS
from perdure_sim.report.wording import (
    FACTS_CHARS,
    call_text,
    command_text,
    cut,
    difference,
    facts_text,
    fault_text,
    moment,
    ordinal,
    outcome_text,
    span,
    step_text,
)
from perdure_sim.world.clock import START_MS

DAY = 86_400_000


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "+0.000s"),
        (10_020, "+10.020s"),
        (59_999, "+59.999s"),
        (60_000, "+1m"),
        (1_000_000, "+16m 40s"),
        (3_600_495, "+1h 0.495s"),
        (3 * DAY + 4 * 3_600_000, "+3d 4h"),
        (11 * DAY + 46 * 60_000 + 40_020, "+11d 46m 40.02s"),
        (-500, "-0.500s"),
    ],
)
def test_times_are_from_the_begin_of_the_world(ms: int, text: str) -> None:
    """To the millisecond, without what is zero."""
    assert moment(START_MS + ms) == text


def test_lengths_of_time_have_no_more_digits_than_needed() -> None:
    """As they are written in plans."""
    assert [span(ms) for ms in (0, 500, 2_000, 90_000, DAY)] == ["0s", "0.5s", "2s", "1m 30s", "1d"]


def test_numbers_in_order() -> None:
    """Eleven is no one."""
    numbers = (1, 2, 3, 4, 11, 12, 13, 21, 102, 111)
    assert [ordinal(n) for n in numbers] == [
        *("1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th")
    ]


def test_long_texts_are_cut_to_one_line() -> None:
    """And show that they were."""
    assert cut("a\nb  c") == "a b c"
    assert cut("x" * 50, 10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("{}", "f()"),
        ('{"n":1,"text":"a"}', 'f(n=1, text="a")'),
        ("[1,2]", "f([1,2])"),
        ("no json", "f(no json)"),
        ('{"text":"' + "x" * 99 + '"}', 'f(text="' + "x" * 33 + "…)"),
    ],
)
def test_calls_look_as_they_are_written(arguments: str, text: str) -> None:
    """Whatever is stored."""
    assert call_text("f", arguments) == text


def test_each_kind_of_step_has_a_name_and_says_what_it_does() -> None:
    """Actions by their names; sleeps, events and children by what they are."""
    commands: tuple[StepCommand, ...] = (
        RunStep(kind="action", name="charge", function="charge", arguments='{"n":1}'),
        RunChild(name="leaf", function="leaf", arguments="{}"),
        Sleep(name="sleep", due_at=START_MS + 5_000),
        AwaitEvent(name="go", event_name="go", due_at=START_MS + 9_000),
        AwaitEvent(name="go", event_id="c0.1.2"),
    )
    assert [command_text(command) for command in commands] == [
        "action charge(n=1)",
        "child workflow leaf()",
        "sleep until +5.000s",
        "wait for event go, until +9.000s",
        "wait for event c0.1.2",
    ]
    records = [
        StepRecord(
            number=n, command=command, asked_position=0, asked_at=0, asked_epoch=1, state="asked"
        )
        for n, command in enumerate(commands)
    ]
    assert [step_text(record) for record in records] == [
        "step 0 charge",
        "step 1 (child leaf)",
        "step 2 (sleep)",
        "step 3 (wait for go)",
        "step 4 (wait for c0.1.2)",
    ]


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (None, "has not ended"),
        (Succeeded("null"), "succeeded"),
        (Succeeded("[1]"), "succeeded with [1]"),
        (Failed(ErrorInfo("ValueError", "no")), "failed with ValueError: no"),
        (Failed(ErrorInfo("CancelledError", "")), "failed with CancelledError"),
        (Canceled(), "was canceled"),
    ],
)
def test_ways_to_end(outcome: Outcome | None, text: str) -> None:
    """Each outcome, and none."""
    assert outcome_text(outcome) == text


def test_outcomes_that_differ_are_told_and_no_others() -> None:
    """Also one that is there in only one of two runs."""
    here: dict[str, Outcome | None] = {"a": Succeeded("1"), "b": None, "c": Canceled()}
    there: dict[str, Outcome | None] = {"a": Succeeded("1"), "b": Succeeded("2"), "d": None}
    assert difference(here, there).splitlines() == [
        "b has not ended; without faults it succeeded with 2",
        "d never began; without faults it has not ended",
        "c was canceled; without faults it never began",
    ]


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", sorted(KINDS))
def test_every_fault_of_a_sweep_is_told_in_a_sentence_of_its_own(site: str) -> None:
    """Whom it befalls, when, and what it does."""
    faults = [Fault("w7", site, 3, kind, 1, duration) for kind, _, duration in KINDS[site]]
    texts = {str(fault): fault_text(fault) for fault in faults}
    if site not in KNOBS:  # of the whole world, for the whole run
        assert all("w7" in text and "3rd" in text for text in texts.values())
    assert not any("passing" in text for text in texts.values())
    assert len(set(texts.values())) == len(texts)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (
            Fault("w0", "commit", 5, "lost_ack", 3),
            "the 5th commit of w0 is stored, but w0 is told that it failed; so do the 2 after it",
        ),
        (
            Fault("w1", "decided", 2, "pause", 1, 40_000),
            (
                "the engine of w1 stands still for 40s in its 2nd busy turn, after it has decided,"
                " before it commits"
            ),
        ),
        (Fault("w0", "moon", 1, "full"), "w0: full at the 1st passing of moon"),
        (Fault("w0", "moon", 2, "crash", 1, 500), "w0: crash at the 2nd passing of moon, for 0.5s"),
    ],
)
def test_faults_in_words(fault: Fault, text: str) -> None:
    """Also those of which nothing is known here."""
    assert fault_text(fault) == text


# --- messages -------------------------------------------------------------------------------------


def test_messages_are_freed_of_what_nobody_reads() -> None:
    """Empty fields and dull ones are left out, long texts are cut, times are of the world."""
    record = StepRecord(
        number=2,
        command=RunStep(kind="action", name="f", function="f", arguments='{"n": "a (b)"}'),
        asked_position=0,
        asked_at=START_MS + 20,
        asked_epoch=7,
        state="asked",
    )
    text = facts_text(f"o0 step 2 is due at {START_MS + 1_000}: {record}, and more")
    assert text == (
        "o0 step 2 is due at +1.000s: StepRecord(number=2, command=RunStep(kind='action', name='f',"
        " function='f', arguments='{\"n\": \"a (b)\"}'), asked_position=0, asked_at=+0.020s,"
        " asked_epoch=7, state='asked', attempt=0), and more"
    )


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("nothing of that kind", "nothing of that kind"),
        ("Broken(never closed", "Broken(never closed"),
        ("Odd(not python!)", "Odd(not python!)"),
        (
            "Failed(error=ErrorInfo('E', 'm', traceback='long'))",
            "Failed(error=ErrorInfo('E', 'm'))",
        ),
        ("So(a=(1, 2), b=[], c={'k': 1}, d={}, e=-1, f='')", "So(a=[1, 2], c={'k': 1}, e=-1)"),
        ("An(x='it\\'s)') By(y=1)", 'An(x="it\'s)") By(y=1)'),
    ],
)
def test_messages_of_any_kind(message: str, text: str) -> None:
    """What is no value stays as it is."""
    assert facts_text(message) == text


def test_a_message_of_megabytes_is_cut() -> None:
    """A journal can be in it."""
    assert len(facts_text("x" * 10_000_000)) == FACTS_CHARS + 1
