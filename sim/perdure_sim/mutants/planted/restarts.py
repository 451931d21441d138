"""Planted bugs of restarting and deleting workflows. See mutants.py."""

from __future__ import annotations

from ..patching import Mutant

RESTARTS = (
    Mutant(
        "a restart keeps the step that it is asked to run anew",
        "restart",
        "core.restart:_cut",
        "kept = [each for each in steps if each.number < from_number]",
        "kept = [each for each in steps if each.number <= from_number]",
        found_by=("again", "", "RestartCutsWrong"),
    ),
    Mutant(
        "what was learned after the cut is not learned again",
        "restart",
        "core.restart:_settled_again",
        "elif record.delivered_position > cut:",
        "elif False:",
        found_by=("again", "", "RestartCutsWrong"),
    ),
    Mutant(
        "what the end had canceled is not asked for again",
        "restart",
        "core.restart:_has_no_outcome",
        "return record.canceled_position is None or record.canceled_position > cut",
        "return False",
        found_by=("again", "", "RestartCutsWrong"),
    ),
    Mutant(
        "a restart keeps its old epoch",
        "restart",
        "core.restart:restarted",
        "epoch=epoch,",
        "epoch=state.epoch,",
        found_by=("again", "", "NotTheOwner"),
    ),
    Mutant(
        "nobody is to take a restarted workflow up",
        "restart",
        "core.restart:restarted",
        "wake_at=now,",
        "wake_at=None,",
        found_by=("again", "", "Late"),
    ),
    Mutant(
        "the handler of a restarted workflow does not run",
        "restart",
        "core.restart:restarted",
        "blocked=again if cut.position >= 0 else None,",
        "blocked=None,",
        found_by=("again", "", "ReplayDiffers"),
    ),
    Mutant(
        "a restart keeps the size of the journal",
        "restart",
        "core.restart:restarted",
        "journal_bytes=_size(kept, live, kept_ticks),",
        "",
        found_by=("again", "", "SizeWrong"),
    ),
    Mutant(
        "a restarted step is not cut from the store",
        "restart",
        "runtime.restarts:_restart_one",
        "        tx.cut_journal(workflow_id, plan.cut_number, plan.cut_position)\n",
        "        pass\n",
        found_by=("again", "", "RestartCutsWrong"),
    ),
    Mutant(
        "the children of cut steps are left",
        "restart",
        "runtime.restarts:_restart_one",
        "_delete(scope, own)",
        "list(own)",
        found_by=("again", "", "ChildDiffers"),
    ),
    Mutant(
        "a child that was canceled with its parent is not restarted with it",
        "restart",
        "runtime.restarts:_child_again",
        "children.append(child)",
        "list(children)",
        found_by=("again", "", "Stuck"),
    ),
    Mutant(
        "a cleanup leaves the children",
        "cleanup",
        "runtime.restarts:_delete",
        "level = tx.children(level)",
        "level = []",
        found_by=("again", "", "ChildLeft"),
    ),
    Mutant(
        "a cleanup cancels nothing",
        "cleanup",
        "runtime.restarts:_delete",
        "_end(scope, state)",
        "state.status",
        found_by=("again", "", "StateUnsound"),
    ),
)
