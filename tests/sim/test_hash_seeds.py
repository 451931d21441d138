"""Runs are the same in every process: nothing in them hangs on the order of a set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import sys
from tests.sim.scenes import SCENARIOS
from perdure_sim.world.disks import memory_disk
from perdure_sim.explore.explorer import run
from perdure_sim.faults.plan import FaultPlan

for line in sys.stdin.read().splitlines():
    name, plan = line.split(" ")
    (scenario,) = [each for each in SCENARIOS if each.name == name]
    found = run(scenario, FaultPlan.parse(plan), memory_disk)
    print(line, found.world.trace.digest(), found.failure)
"""

#: Plans under which something once hung on it: here two workflows are dropped by one bad turn.
LINES = """\
reference pd1:c0/collected#3=pause:2s;w0/begin#13=busy;w1/begin#1=crash;w1/begin#2=full*2
"""


def test_a_run_is_the_same_in_every_process() -> None:
    """Under another hash seed, sets of texts have another order; the trace has not."""
    outputs = []
    for hash_seed in ("0", "3"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            input=LINES,
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONHASHSEED": hash_seed,
                "PYTHONPATH": os.pathsep.join(map(str, [ROOT, ROOT / "engine", ROOT / "sim"])),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert len(outputs[0].splitlines()) == len(LINES.splitlines())
    assert outputs[0] == outputs[1]
