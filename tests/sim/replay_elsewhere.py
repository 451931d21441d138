"""Failing plans of the gallery's wrong workflows, run again in other processes: the same failures?

A report ends with a plan to paste, and whoever pastes it has another process, with other hashes of
strings. So: collect different plans that fail, then run each in a fresh interpreter with a hash
seed of its own, and compare what fails, what is said of it, and the fingerprint of the whole run.

    python -m tests.sim.replay_elsewhere --plans 1000 --processes 100
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import attrs

from perdure_sim.explore.explorer import random_plan
from perdure_sim.faults.plan import DELAY, FaultPlan
from perdure_sim.testing.plans import swept_plans
from perdure_sim.testing.running import Finished
from perdure_sim.testing.trial import Trial

ROOT = Path(__file__).resolve().parents[2]
GALLERY = ROOT / "examples" / "gallery"

#: Faults of one random plan, at most.
FAULTS_MAX = 6

#: Plans that are tried of one test, at most.
PLANS_MAX = 2_000

#: These read the machine's clock, and that is what is wrong with them: they must fail in the same
#: way, and what they have read is another matter.
OF_THE_CLOCK = frozenset(
    {
        "test_approval.test_the_wall_clock_is_caught",
        "test_subscription.test_months_by_the_clock_are_caught",
    }
)

#: Two processes may by chance agree on the order of a set; then there is nothing to be seen.
OF_CHANCE = "test_report.test_the_order_of_a_set_is_caught"


@attrs.frozen
class Case:
    """A run that fails.

    Attributes:
        test: ``module.function`` of the gallery, which expects that.
        example: the number of the arguments, as Hypothesis gives them first.
        law: the class of what is raised; empty if nothing is.
        message: without addresses in memory; empty for a plain `assert`, which pytest words.
        digest: of the run; empty, as the message is, where the clock is read.
    """

    test: str
    example: int
    plan: str
    law: str
    message: str
    digest: str


class Found(BaseException):
    """The simulated test inside of a test of the gallery, thrown out instead of being run."""

    def __init__(self, trial: Trial) -> None:
        super().__init__()
        self.trial = trial


def names() -> list[str]:
    """All tests of the gallery that expect a failure, and one that is the same each time."""
    wanted = re.compile(r"^def (test_\w+_(?:is|are)_caught)\(", re.MULTILINE)
    files = sorted(GALLERY.glob("test_*.py"))
    found = [f"{file.stem}.{name}" for file in files for name in wanted.findall(file.read_text())]
    return [each for each in found if each != OF_CHANCE]


def trial_of(name: str) -> Trial:
    """The simulated test that such a test runs."""
    module_name, _, function = name.partition(".")
    if str(GALLERY) not in sys.path:
        sys.path.insert(0, str(GALLERY))
    module: Any = importlib.import_module(module_name)

    def thrown(test: Any) -> None:
        raise Found(test.simulation)

    kept, module.caught = module.caught, thrown
    try:
        getattr(module, function)()
    except Found as found:
        return found.trial
    finally:
        module.caught = kept
    raise AssertionError(f"{name} runs no simulated test")


@cache
def opened(name: str) -> tuple[Trial, list[dict[str, Any]]]:
    """The same, and the first arguments that it draws: the same in each process."""
    trial = trial_of(name)
    found: list[dict[str, Any]] = []
    trial._call(lambda drawn: found.append(drawn), 3)  # noqa: PLW0108  It wants a function.
    return trial, found


def run(name: str, example: int, plan: FaultPlan) -> tuple[Case, Finished]:
    """One run."""
    trial, examples = opened(name)
    arguments = copy.deepcopy(examples[example])
    finished = trial.stage.run(trial.script(arguments), plan)
    error = finished.failure
    has_own_words = error is not None and type(error) is not AssertionError
    message = re.sub(r"0x[0-9a-f]+", "0x…", str(error)) if has_own_words else ""
    is_odd = name in OF_THE_CLOCK
    case = Case(
        test=name,
        example=example,
        plan=str(plan),
        law=type(error).__name__ if error is not None else "",
        message="" if is_odd else message,
        digest="" if is_odd else finished.world.trace.digest(),
    )
    return case, finished


def failing(name: str, wanted: int, tell: Callable[[str], None]) -> list[Case]:
    """Different plans under which this test fails, of the sweep and at random."""
    found: dict[str, Case] = {}
    for plan, example in _plans(name):
        if len(found) >= wanted:
            break
        case, _ = run(name, example, plan)
        if case.law:
            found.setdefault(case.plan, case)
    tell(f"{name}: {len(found)}")
    return list(found.values())


def _plans(name: str) -> Iterator[tuple[FaultPlan, int]]:
    """Plans, each with its arguments; so many that there is an end of it where few of them fail."""
    trial, examples = opened(name)
    _, finished = run(name, 0, FaultPlan())
    census = finished.world.faults.census
    swept = swept_plans(census, finished.ranges, trial.faults)
    delays = [faults[0] for faults in swept if faults[0].kind == DELAY]
    chance = random.Random(name)
    for number in range(PLANS_MAX):
        example = number % len(examples)
        if number % 3 == 0 and number // 3 < len(swept):
            yield FaultPlan(swept[number // 3]), example
        else:
            drawn = random_plan(chance, census, FAULTS_MAX)
            chosen = chance.sample(delays, min(len(delays), 1))
            yield trial.faults.cut(FaultPlan([*drawn, *chosen])), example


def again(cases: list[Case]) -> list[Case]:
    """The same runs in this process: what has become of them."""
    return [run(each.test, each.example, FaultPlan.parse(each.plan))[0] for each in cases]


def elsewhere(cases: list[Case], hash_seed: int) -> list[Case]:
    """The same in a fresh interpreter, with other hashes of strings and in another time zone."""
    path = os.pathsep.join(map(str, [ROOT, ROOT / "engine", ROOT / "sim", GALLERY]))
    done = subprocess.run(
        [sys.executable, "-m", "tests.sim.replay_elsewhere", "--answer"],
        input=json.dumps([attrs.asdict(case) for case in cases]),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": str(hash_seed), "TZ": "FAR-7:45"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the process with PYTHONHASHSEED={hash_seed} failed:\n{done.stderr}")
    return [Case(**each) for each in json.loads(done.stdout.splitlines()[-1])]


def collect(wanted: int, tell: Callable[[str], None]) -> list[Case]:
    """So many cases, of all tests alike as far as they have them."""
    tests = names()
    by_test = []
    left = wanted
    for number, name in enumerate(tests):
        by_test.append(failing(name, -(-left // (len(tests) - number)), tell))
        left -= len(by_test[-1])
    return [case for cases in by_test for case in cases][:wanted]


def compare(cases: list[Case], processes: int) -> Iterator[tuple[Case, Case]]:
    """Each case, and what it is in another process."""
    for number in range(processes):
        part = cases[number::processes]
        if part:
            yield from zip(part, elsewhere(part, hash_seed=number + 10), strict=True)


def main() -> None:
    """The command itself."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plans", type=int, default=1_000, help="failing plans to collect")
    parser.add_argument("--processes", type=int, default=100, help="fresh ones, in turn")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        cases = [Case(**each) for each in json.load(sys.stdin)]
        print(json.dumps([attrs.asdict(case) for case in again(cases)]))
        return

    def tell(text: str) -> None:
        print(text, flush=True)

    cases = collect(options.plans, tell)
    laws = ", ".join(f"{law} {count}" for law, count in Counter(c.law for c in cases).most_common())
    tell(f"{len(cases)} plans fail: {laws}")
    others = 0
    for case, other in compare(cases, options.processes):
        if case != other:
            others += 1
            tell(f"other elsewhere: {case}\n            now: {other}")
    tell(
        f"{len(cases) - others} of {len(cases)} fail the same way in {options.processes} fresh"
        " processes"
    )
    sys.exit(1 if others or len(cases) < options.plans else 0)


if __name__ == "__main__":
    main()
