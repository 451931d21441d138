"""What users test their own workflows with: `simulate`, and what belongs to it.

What they call has files of its name: simulate.py, run_simulation.py, replay_check.py, machine.py
(`WorkflowMachine`), and what a test has in its hand, simulation.py, with answers.py, calls.py,
conditions.py, database.py, durations.py and stubs.py. `ALL` and its kin are in fault_sets.py.

Behind it: trial.py is what such a test does when it is called: it has plans.py say what is tried,
known_runs.py what need not be tried again, and failure_report.py tells what has failed. running.py
makes one run, on one of disks.py, by manager_settings.py; lateness.py watches how long it waits,
endless.py whether it ends, ending.py looks at what is left, remedies.py has faults spare what a
workflow does after a failure. What is no function of its plan is found by repeating.py (in replays)
and run_differences.py (in runs).
"""
