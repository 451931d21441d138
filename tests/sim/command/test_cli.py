"""The command `perdure-sim`: what each command prints, for whom, and its exit code."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from perdure_sim.command.cli import main

ROOT = Path(__file__).resolve().parents[3]
FILE = "tests/sim/tiny.py"
HARMLESS = "of two events the later one comes first"


@attrs.frozen
class Ran:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output as JSON; fails if it printed anything else."""
        assert self.err == ""
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command ``perdure-sim WORD…`` in this process, at the root of the project."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the command adds the folder
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["perdure-sim", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ran(ended.value.code, printed.out, printed.err)

    return run


# --- sweep ----------------------------------------------------------------------------------------


def test_sweep_finds_nothing_where_nothing_is_wrong(run: Run) -> None:
    """It says how far it came, and which faults fired."""
    ran = run("sweep", f"{FILE}:TINY", "--max-runs", "20")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0].startswith("tiny: swept 20 of ")
    assert lines[1].startswith("22 runs in ")
    assert "nothing failed" in lines
    assert any(line.startswith("never fired: ") for line in lines)
    rows = [line.split() for line in lines if line.startswith("turn=crash")]
    assert [(row[1] == row[2], row[1] > "0") for row in rows] == [(True, True)]


def test_sweep_of_all_faults_says_so(run: Run) -> None:
    """As many as there are; with a budget as many as have room in it."""
    whole = run("sweep", f"{FILE}:TINY", "--json").json
    swept = whole["swept"]["tiny"]
    assert swept["runs"] == swept["of"] == whole["runs"] - 2
    assert (whole["failures"], whole["never_fired"]) == ([], [])
    cut = run("sweep", f"{FILE}:TINY", "--budget", "100", "--json").json["swept"]["tiny"]
    assert (0 < cut["runs"] < 20, cut["of"]) == (True, swept["of"])


def test_sweep_tells_what_it_found(run: Run) -> None:
    """The law, the message, the plan, and the command that shows it again, which does."""
    ran = run("sweep", f"{FILE}:MIXED", "--scenario", "no crash")
    assert ran.code == 1
    words = ran.err.splitlines()
    assert words[0] == "FAILED no crash: AssertionError"
    assert words[1].strip() == "c0 crashed"
    plan = words[2].removeprefix("  1 fault: ")
    again = shlex.split(words[3])
    assert again == ["perdure-sim", "replay", f"{FILE}:MIXED", plan, "--scenario", "no crash"]
    assert "no crash: AssertionError in 1 run" in ran.out
    shown = run(*again[1:])
    assert shown.code == 1
    assert "AssertionError" in shown.out


def test_sweep_goes_on_if_it_shall(run: Run) -> None:
    """Each law of a scenario is told of once, and counted."""
    ran = run("sweep", f"{FILE}:MIXED", "--keep-going", "--max-runs", "60", "--json")
    assert ran.code == 1
    (failure,) = ran.json["failures"]
    assert (failure["scenario"], failure["size"]) == ("no crash", 1)
    assert failure["runs"] == ran.json["failed_runs"] > 1
    assert ran.json["swept"]["no crash"]["runs"] == 60


def test_sweep_may_try_pairs(run: Run) -> None:
    """After the single faults: so many more are possible."""
    singles = run("sweep", f"{FILE}:TINY", "--max-runs", "1", "--json").json["swept"]["tiny"]
    both = run("sweep", f"{FILE}:TINY", "--pairs", "--max-runs", "1", "--json").json["swept"]
    assert both["tiny"]["of"] > 100 * singles["of"]


def test_a_scenario_that_fails_without_faults_fails(run: Run) -> None:
    """It is said that no fault is needed."""
    ran = run("sweep", f"{FILE}:NEVER")
    assert ran.code == 1
    assert "without any fault" in ran.err
    assert "as it was told to" in ran.err
    assert run("census", f"{FILE}:NEVER").code == 1
    assert run("census", f"{FILE}:NEVER", "--json").json["failures"][0]["law"] == "AssertionError"


# --- soak -----------------------------------------------------------------------------------------


def test_soak_makes_random_runs(run: Run) -> None:
    """So many; some of them twice."""
    ran = run("soak", f"{FILE}:BOTH", "--runs", "40", "--double", "0.1", "--seed", "3")
    assert ran.code == 0
    assert ran.out.splitlines()[0] == "seed 3"
    assert ran.out.splitlines()[1].startswith("48 runs in ")
    assert "; 4 runs repeated" in ran.out
    found = run("soak", f"{FILE}:TINY", "--double-runs", "3", "--most", "1", "--json").json
    assert found["repeated"] == 3


def test_soak_on_sqlite_and_on_two_processes(run: Run) -> None:
    """The same runs as on one."""
    words = ("soak", f"{FILE}:TINY", "--store", "sqlite", "--runs", "6", "--json")
    one, two = run(*words).json, run(*words, "-j", "2").json
    assert (one["fired"], one["events"]) == (two["fired"], two["events"])


def test_soak_ends_with_the_first_failure(run: Run) -> None:
    """Which is shrunk; with --store the command that shows it has it too."""
    ran = run("soak", f"{FILE}:NO_CRASH", "--minutes", "5", "--store", "sqlite")
    assert ran.code == 1
    lines = ran.err.splitlines()
    assert lines[2].startswith("  1 fault: pd1:")
    assert lines[-1].endswith("--store sqlite")
    assert "no crash: AssertionError in 1 run" in ran.out


def test_a_run_that_does_not_end_is_ended(run: Run) -> None:
    """And told of."""
    ran = run("replay", f"{FILE}:ENDLESS", "pd1:w0/turn#2=crash", "--run-seconds", "0.2")
    assert ran.code == 1
    assert ran.out == "endless: RunTooLong: no end after 0.2 s of the processor's time\n"


def test_ctrl_c_ends_a_soak_with_its_summary(run: Run) -> None:
    """Which is no failure."""
    ran = run("soak", f"{FILE}:INTERRUPTING", "--minutes", "5")
    assert ran.code == 0
    assert "nothing failed" in ran.out
    stopped = run("soak", f"{FILE}:INTERRUPTING", "--minutes", "5", "--json").json
    assert stopped["was_stopped"]


# --- replay ---------------------------------------------------------------------------------------


def test_replay_shows_a_run(run: Run) -> None:
    """What happened, and which faults did not fire."""
    ran = run("replay", f"{FILE}:TINY", "pd1:w0/commit#2=crash_after;w0/commit#99=fails")
    assert ran.code == 0
    assert "crash" in ran.out
    assert ran.out.splitlines()[-1] == "did not fire: w0/commit#99=fails"


def test_replay_for_programs(run: Run) -> None:
    """The same run, the same digest; with its trace if asked for."""
    words = ("replay", f"{FILE}:TINY", "pd1:w0/turn#2=crash", "--json")
    first, second = run(*words).json, run(*words, "--trace").json
    assert first["digest"] == second["digest"]
    assert (first["trace"], first["law"]) == (None, None)
    assert any("crash" in line for line in second["trace"])
    assert first["fired"] == ["w0/turn#2=crash"]
    assert list(first["outcomes"]) == ["a"]


def test_replay_of_what_fails_anyway_says_so(run: Run) -> None:
    """The plan has nothing to do with it."""
    ran = run("replay", f"{FILE}:NEVER", "pd1:w0/turn#2=crash")
    assert ran.code == 1
    assert "It fails without any fault: the plan was not tried." in ran.out


def test_replay_tells_what_led_to_a_failure(run: Run, tmp_path: Path) -> None:
    """Also as a page; and the command that it prints does it again."""
    target, page = "tests/sim/scenes.py:SCENARIOS", tmp_path / "page.html"
    options = ("--scenario", "events", "--mutant", HARMLESS)
    ran = run("replay", target, "", *options, "--html", str(page))
    assert ran.code == 1
    assert "EventsOutOfOrder: Of two events of one name the later one was consumed" in ran.out
    assert "■ here EventsOutOfOrder is broken" in ran.out
    assert "<h1>EventsOutOfOrder</h1>" in page.read_text(encoding="utf-8")
    (line,) = [row for row in ran.out.splitlines() if row.startswith("see again ")]
    words = shlex.split(line.removeprefix("see again perdure-sim "))
    assert words == ["replay", target, *options, ""]
    assert run(*words).out == ran.out


def test_replay_with_the_trace_shows_turns_too(run: Run) -> None:
    """Which nobody wants to see otherwise."""
    words = ("replay", f"{FILE}:TINY", "")
    assert "a turn begins" not in run(*words).out
    assert "a turn begins" in run(*words, "--trace").out


def test_replay_with_a_bug_planted(run: Run) -> None:
    """As `mutants` found it."""
    words = ("replay", "tests/sim/scenes.py:EVENTS", "", "--json")
    assert run(*words, "--mutant", HARMLESS).json["law"] == "EventsOutOfOrder"
    assert run(*words).json["law"] is None


# --- census and mutants ---------------------------------------------------------------------------


def test_census_counts_sites(run: Run) -> None:
    """How often each is passed, and what can happen there."""
    ran = run("census", f"{FILE}:TINY")
    assert ran.code == 0
    assert " single faults, " in ran.out.splitlines()[0]
    (row,) = [line.split() for line in ran.out.splitlines() if line.startswith("w0     told")]
    assert {"crash,", "pause:2s,"} <= {*row[3:]}
    (shown,) = run("census", f"{FILE}:TINY", "--json").json["scenarios"]
    (site,) = [each for each in shown["sites"] if (each["actor"], each["site"]) == ("w0", "told")]
    assert site["passed"] == int(row[2])


def test_mutants_prints_what_was_found_and_what_survived(run: Run) -> None:
    """One that the scenario cannot show survives, and that is a failure."""
    words = ("mutants", "--budget", "300", "--runs", "5", "--only")
    ran = run(*words, HARMLESS, f"{FILE}:TINY")
    assert ran.code == 1
    assert "SURVIVED" in ran.out
    assert "found 0 of 1; 0 by the sweep and 100 cases at most" in ran.out
    found = run(*words, HARMLESS, "tests/sim/scenes.py:EVENTS", "--json")
    assert found.code == 0
    assert (found.json["found"], found.json["trials"]) == (1, 1)
    (mutant,) = found.json["mutants"]
    assert mutant["findings"][0]["law"] == "EventsOutOfOrder"


def test_mutants_wants_scenarios_that_work(run: Run) -> None:
    """Else everything would be found."""
    ran = run("mutants", f"{FILE}:NEVER", "--only", HARMLESS)
    assert ran.code == 1
    assert ran.err.startswith("It fails with no bug planted:")


# --- bad usage ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep"], "Missing argument"),
        (["sweep", "nowhere:X"], "there is no module nowhere"),
        (["sweep", f"{FILE}:shop"], "that is a Workflow"),
        (["sweep", f"{FILE}:BOTH", "--scenario", "third"], "there are: tiny, other"),
        (["sweep", f"{FILE}:TINY", "--budget", "5", "--max-runs", "5"], "not both"),
        (["sweep", f"{FILE}:TINY", "-j", "0"], "'-j' / '--jobs'"),
        (["soak", f"{FILE}:TINY"], "say when it ends"),
        (["soak", f"{FILE}:TINY", "--minutes", "0"], "'--minutes'"),
        (["soak", f"{FILE}:TINY", "--double", "0", "--double-runs", "9"], "would never end"),
        (["replay", f"{FILE}:BOTH", ""], "say --scenario, one of tiny, other"),
        (["replay", f"{FILE}:TINY", "w0/turn#2=crash"], "a plan begins with 'pd1:'"),
        (["replay", f"{FILE}:TINY", "pd1:w0/turn"], "'w0/turn' is no fault: write"),
        (["replay", f"{FILE}:TINY", "pd1:w0/turn#1=flood"], "at 'turn' there is no 'flood', but"),
        (["replay", f"{FILE}:TINY", "", "--mutant", "none"], "no mutant has that name"),
        (["replay", f"{FILE}:TINY", "", "--mutant", "timer"], "that is the name of "),
        (["mutants", f"{FILE}:TINY", "--only", "none"], "no mutant has that name; there are:"),
        (["census", f"{FILE}:NOTHING"], "it is empty"),
        (["swep"], "No such command"),
    ],
)
def test_bad_usage_is_told_with_code_2(run: Run, words: list[str], message: str) -> None:
    """And says what would have been right."""
    ran = run(*words)
    assert ran.code == 2
    assert message in ran.err
    assert ran.out == ""


def test_mutants_needs_a_target_outside_of_the_checkout(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the engine's own scenarios are not."""
    monkeypatch.chdir(tmp_path)
    ran = run("mutants")
    assert ran.code == 2
    assert "name scenarios" in ran.err


@pytest.mark.parametrize("command", ["sweep", "soak", "replay", "mutants", "census"])
def test_each_command_explains_itself(run: Run, command: str) -> None:
    """`--help` needs no target and ends with 0."""
    ran = run(command, "--help")
    assert ran.code == 0
    assert "Usage: perdure-sim" in ran.out


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_the_command_says_what_to_install(missing: str) -> None:
    """Where click or rich is missing the command names the extra, on stderr, and exits with 1."""
    hide = f"import sys; sys.modules['{missing}'] = None; import runpy; "
    done = subprocess.run(
        [sys.executable, "-c", hide + "runpy.run_module('perdure_sim', run_name='__main__')"],
        env={"PYTHONPATH": f"{ROOT / 'engine'}:{ROOT / 'sim'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install 'perdure[sim]'" in done.stderr
    assert "Traceback" not in done.stderr
