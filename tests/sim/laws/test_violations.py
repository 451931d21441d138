"""Laws that no planted bug breaks first, each with what is next to it and lawful.

Those of rows are in test_history.py, and those that planted bugs break in test_mutants.py.
"""

from __future__ import annotations

import inspect

import pytest
from msgspec.structs import replace
from tests.core.playbook import NOW, ok, run
from tests.sim.laws import test_history
from tests.sim.rows import ASKED, BOOM, OPEN, STARTED, call, done, put, update

from perdure.core.journal import StepRecord
from perdure.core.outcomes import Canceled, Outcome
from perdure.runtime.attempts import Attempt
from perdure.runtime.scope import ON_COMPLETE
from perdure_sim.laws import violations as laws
from perdure_sim.laws.bodies import Bodies
from perdure_sim.laws.ends import check_ends
from perdure_sim.laws.known import Author, Change, Commit, Known, Place
from perdure_sim.laws.owners import Owners
from perdure_sim.laws.violations import Violation
from perdure_sim.mutants.planted import MUTANTS

#: The laws of this file.
HERE = (
    laws.AttemptAfterEnd,
    laws.EffectKept,
    laws.EffectTwice,
    laws.OnCompleteElsewhere,
    laws.OutcomeIgnored,
    laws.OutcomeInvented,
    laws.WrittenByTheDead,
)

#: No fault has held anything up.
NO_PATIENCE = 0


def known(*records: StepRecord, owner: str | None = "w1", ended_in: int = 0) -> Known:
    """A workflow with these steps."""
    found = Known.of(replace(OPEN, owner=owner))
    found.steps = found.open = {record.number: record for record in records}
    found.ended_in = ended_in
    return found


# --- attempts and their code ----------------------------------------------------------------------


def test_no_code_begins_in_a_turn_that_began_after_the_end() -> None:
    """One that was under way when the workflow was canceled may still begin."""
    ended = known(STARTED, ended_in=3)
    Bodies(Owners()).begin(call(1), ended, seen=2)
    with pytest.raises(laws.AttemptAfterEnd, match="w step 0 attempt 1 begins"):
        Bodies(Owners()).begin(call(1), ended, seen=3)


def record_end(returned: Outcome, recorded: Outcome) -> None:
    """An attempt's code returns, or raises, and its worker records what came of the step."""
    owners = Owners()
    owners.workers["w1"] = 1
    bodies, found = Bodies(owners), known(STARTED)
    bodies.begin(call(1), found, seen=None)
    attempt = Attempt.of("w", STARTED)
    bodies.end(attempt, NOW, returned, found, lambda: NO_PATIENCE, is_retryable=True)
    commit = Commit(2, NOW, Author("w1"))
    commit.changes.append(Change(found, STARTED, done(STARTED, recorded)))
    bodies.check(commit, is_exact=True)


def test_what_is_recorded_is_what_the_code_returned() -> None:
    """Nothing else, and nothing that it did not."""
    record_end(ok("1"), ok("1"))
    with pytest.raises(laws.OutcomeInvented, match="its code returned 1"):
        record_end(ok("1"), ok("2"))
    with pytest.raises(laws.OutcomeInvented, match="its code returned None"):
        record_end(BOOM, ok("1"))


def test_what_the_code_returned_is_recorded() -> None:
    """Unless it was canceled meanwhile."""
    record_end(BOOM, BOOM)
    record_end(ok("1"), Canceled())
    with pytest.raises(laws.OutcomeIgnored, match="w step 0 returned 1"):
        record_end(ok("1"), BOOM)


# --- the transaction ------------------------------------------------------------------------------

MUTATION = replace(ASKED, command=run("m", "mutation"), state="ready", attempt=1)


def commit_function(place: Place, found: Known) -> None:
    """The effects of a function are committed."""
    commit = Commit(2, NOW, Author("w1"))
    commit.functions.append(place)
    check_ends(commit, {"w": found})


def test_the_effects_of_a_function_are_committed_once() -> None:
    """However often it is tried."""
    found = known(done(MUTATION))
    commit_function(("w", 0), found)
    with pytest.raises(laws.EffectTwice, match="w step 0"):
        commit_function(("w", 0), found)


def test_a_failed_step_leaves_no_effects() -> None:
    """But one that has canceled its own workflow does."""
    canceled = known(done(MUTATION, Canceled()), ended_in=2)
    canceled.state = replace(canceled.state, status="canceled", outcome=Canceled(), owner=None)
    commit_function(("w", 0), canceled)
    with pytest.raises(laws.EffectKept, match="w step 0"):
        commit_function(("w", 0), known(done(MUTATION, BOOM)))


def test_on_complete_is_committed_with_the_end() -> None:
    """Not before, and not after."""
    commit_function(("w", ON_COMPLETE), known(ended_in=2))
    for ended_in in (0, 1):
        with pytest.raises(laws.OnCompleteElsewhere, match="w, outcome None"):
            commit_function(("w", ON_COMPLETE), known(ended_in=ended_in))


# --- who may write --------------------------------------------------------------------------------


def test_who_is_taken_for_dead_writes_nothing() -> None:
    """Even where nobody has taken up what was its own."""
    owners, workflows = Owners(), {"w": known(ASKED)}
    rows = [update(OPEN), put(STARTED)]
    owners.workers["w1"] = 0
    owners.check(rows, workflows, Author("w1"))
    del owners.workers["w1"]
    with pytest.raises(laws.WrittenByTheDead, match="w1 is fenced"):
        owners.check(rows, workflows, Author("w1"))


# --- all of them ----------------------------------------------------------------------------------


def test_each_law_is_shown_to_be_broken_somewhere() -> None:
    """By a case of rows, by a planted bug, or here."""
    shown = {law.__name__ for law in HERE}
    shown |= {test_history.law(name).__name__ for name in test_history.CASES}
    shown |= {mutant.found_by[2] for mutant in MUTANTS}
    everything = {
        name
        for name, each in vars(laws).items()
        if inspect.isclass(each) and issubclass(each, Violation) and each is not Violation
    }
    assert everything - shown == set()
