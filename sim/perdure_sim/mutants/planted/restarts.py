"""Planted bugs of restarting and deleting. See mutants.py."""

from __future__ import annotations

from ..patching import Mutant

RESTARTS = (
    # --- restart
    Mutant(
        "what was learned after the cut is not learned again",
        "restart",
        "core.restart:_settled_again",
        "elif record.delivered_position > cut:",
        "elif False:",
        found_by=("again", "", "RestartCutsWrong"),
    ),
    Mutant(
        "ticks after the cut stay",
        "restart",
        "core.restart:restarted",
        "cut_position=cut,",
        "cut_position=state.position,",
        found_by=("again", "", "RestartCutsWrong"),
    ),
    Mutant(
        "the step to restart from is kept",
        "restart",
        "runtime.restarts:_restart_one",
        "tx.cut_journal(workflow_id, plan.cut_number, plan.cut_position)",
        "tx.cut_journal(workflow_id, plan.cut_number + 1, plan.cut_position)",
        found_by=("again", "", "RestartCutsWrong"),
    ),
    Mutant(
        "children of deleted steps are left",
        "restart",
        "runtime.restarts:_restart_one",
        "_delete(scope, own)",
        "pass",
        found_by=("again", "", "ChildDiffers"),
    ),
    Mutant(
        "a restart keeps the epoch",
        "restart",
        "runtime.restarts:_restart_one",
        "epoch=tx.take_epochs(1),",
        "epoch=before.epoch,",
        found_by=("again", "", "NotTheOwner"),
    ),
    Mutant(
        "what the end had canceled is not asked again",
        "restart",
        "core.restart:restarted",
        "if after is None and _has_no_outcome(record, cut):",
        "if False:",
        found_by=("again", "", "RestartCutsWrong"),
    ),
    Mutant(
        "nothing has the restarted handler run",
        "restart",
        "core.restart:restarted",
        "if cut >= 0 else None",
        "if cut < 0 else None",
        found_by=("again", "", "ReplayDiffers"),
    ),
    Mutant(
        "a child that was canceled does not go on",
        "restart",
        "runtime.restarts:_child_again",
        "    children.append(child)",
        "    pass",
        found_by=("again", "", "Stuck"),
    ),
    # --- cleanup
    Mutant(
        "children of what is deleted are left",
        "cleanup",
        "runtime.restarts:_delete",
        "level = tx.children(level)",
        "level = []",
        found_by=("again", "", "ChildLeft"),
    ),
    Mutant(
        "what runs is deleted without an end",
        "cleanup",
        "runtime.restarts:_delete",
        "_end(scope, state)",
        "pass",
        found_by=("again", "", "StateUnsound"),
    ),
    Mutant(
        "a parent is not told that its child was deleted",
        "cleanup",
        "runtime.restarts:_end",
        "        cancel_tree(scope, state)",
        "        cancel_tree(\n"
        "            scope,\n"
        "            replace(\n"
        "                state, header=replace(state.header, parent_id=None, parent_number=None)\n"
        "            ),\n"
        "        )",
        found_by=("gone", "pd1:g-child/touched#5=cleanup", "Stuck"),
    ),
)
