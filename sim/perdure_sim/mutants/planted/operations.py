"""Planted bugs of what the turn calls: claims, the inbox, operations, functions. See mutants.py."""

from __future__ import annotations

from ..patching import Mutant

OPERATIONS = (
    # --- recovery
    Mutant(
        "lost attempts are not told",
        "recovery",
        "runtime.claims:_lost",
        'if record.state == "started" and record.runner not in living',
        "if False",
        found_by=("taken", "pd1:toil/report#1=crash", "Stuck"),
    ),
    Mutant(
        "the dead are not buried",
        "recovery",
        "runtime.claims:Claims._bury_dead",
        "if not self._others:",
        "if True:",
        found_by=("shares", "", "Leak"),
    ),
    Mutant(
        "the dead keep their place",
        "recovery",
        "runtime.claims:Claims._bury_dead",
        "            tx.remove_worker(dead)\n",
        "",
        found_by=("shares", "", "Leak"),
    ),
    Mutant(
        "what a claim has taken is forgotten if the store fails",
        "recovery",
        "runtime.claims:Claims.look",
        "claimed = self._claimed_in_doubt(now) if self._doubtful else []",
        "claimed = []",
        found_by=("cancels", "pd1:w0/commit#3=lost_ack*3", "Stuck"),
    ),
    # --- retry
    Mutant(
        "the idempotency key changes with the owner",
        "retry",
        "runtime.runner:ActionRunner._prepare",
        "record.asked_epoch)",
        "record.started_epoch or 0)",
        found_by=("taken", "", "KeyChanged"),
    ),
    Mutant(
        "a wait is forgotten when the workflow is taken up",
        "retry",
        "runtime.claims:Claims._taken",
        "return replace(state, owner=self._me, epoch=epoch, wake_at=None)",
        "live = {\n"
        "            n: replace(r, due_at=now) if r.state == 'backoff' else r for n, r "
        "in state.live.items()\n"
        "        }\n"
        "        return replace(state, owner=self._me, epoch=epoch, wake_at=None, "
        "live=live)",
        found_by=("hasty", "pd1:slow/report#1=crash", "StateDiffers"),
    ),
    # --- lost message
    Mutant(
        "the inbox is not read again",
        "lost message",
        "runtime.inbox:InboxReader.read",
        "if not (self.look or has_changed):",
        "if not self.look:",
        found_by=("bell", "", "Late"),
    ),
    Mutant(
        "an event does not wake its workflow",
        "lost message",
        "runtime.event_operations:_tell_owner_of_event",
        "        scope.tx.wake(state.workflow_id, scope.now)\n",
        "",
        found_by=("events", "", "EventLost"),
    ),
    Mutant(
        "the end of a child does not wake its parent",
        "lost message",
        "runtime.operations:tell_parent",
        "    scope.tx.wake(write.parent_id, scope.now)\n",
        "",
        found_by=("trees", "", "Stuck"),
    ),
    # --- fencing
    Mutant(
        "who takes a workflow up keeps its epoch",
        "fencing",
        "runtime.claims:Claims._taken",
        "owner=self._me, epoch=epoch,",
        "owner=self._me, epoch=state.epoch,",
        found_by=("stranger", "", "NotTheOwner"),
    ),
    Mutant(
        "a claim does not look at its own fence",
        "fencing",
        "runtime.claims:Claims._claim",
        "if tx.is_fenced(self._me):",
        "if False:",
        found_by=("stranger", "pd1:w0/carried_out#1=zombie:40s", "AssertionError"),
    ),
    # --- unknown outcome
    Mutant(
        "an event is stored again after an unknown outcome",
        "unknown outcome",
        "runtime.event_operations:send_event",
        "if stored is not None:",
        "if False:",
        found_by=("bell", "pd1:c0/request#3=elsewhere", "EventTwice"),
    ),
    # --- event
    Mutant(
        "a send by name takes no event that was created",
        "event",
        "runtime.event_operations:_found",
        "event = _created_event(scope, workflow_id, event)",
        "event = None",
        found_by=("tickets", "", "AssertionError"),
    ),
    Mutant(
        "nobody looks whose event is awaited",
        "event",
        "runtime.event_operations:missing",
        "elif found[0] != workflow_id:",
        "elif False:",
        found_by=("tickets", "", "Stuck"),
    ),
    Mutant(
        "an event may be sent twice by its id",
        "event",
        "runtime.event_operations:_found_by_id",
        "if event.outcome is not None:",
        "if False:",
        found_by=("tickets", "pd1:show/report#1=crash", "EventTwice"),
    ),
    Mutant(
        "a send to a created event is repeated after an unknown outcome",
        "unknown outcome",
        "runtime.event_operations:send_event",
        " or tx.find_send(order.send_id)",
        "",
        found_by=("tickets", "pd1:c0/commit#5=lost_ack", "AssertionError"),
    ),
    # --- duplicate
    Mutant(
        "a start is not looked for",
        "duplicate",
        "runtime.operations:start",
        "    if order.has_own_id:\n",
        "    if False:\n",
        found_by=("reference", "pd1:c0/committed#1=crash", "BadAnswer"),
    ),
    # --- effects
    Mutant(
        "a function runs without a savepoint",
        "effects",
        "runtime.functions:inside_user_code",
        "return scope.tx.run_user_code(lambda: inside_transaction(fn), read_only=read_only)",
        "return inside_transaction(fn)",
        found_by=("taken", "", "AssertionError"),
    ),
    Mutant(
        "a function that failed has succeeded",
        "effects",
        "runtime.functions:run_step_function",
        "return Failed(encode_error(error))",
        'return Succeeded("null")',
        found_by=("transfers", "", "EffectMissing"),
    ),
    # --- cancel
    Mutant(
        "children are not canceled",
        "cancel",
        "runtime.operations:end_elsewhere",
        "                cancel_child(scope, workflow_id, write)\n",
        "                pass\n",
        found_by=("cancels", "", "Orphan"),
    ),
    Mutant(
        "a cancel is not told to whoever runs it",
        "cancel",
        "runtime.operations:end_elsewhere",
        "    _revoke(scope, before, effects)\n",
        "",
        found_by=("cancels", "", "NotStopped"),
    ),
    # --- child
    Mutant(
        "a parent is told that its child was canceled",
        "child",
        "runtime.operations:tell_parent",
        "encode_inbox(write.outcome, child_id=child_id)",
        "encode_inbox(Canceled(), child_id=child_id)",
        found_by=("trees", "", "ChildDiffers"),
    ),
    Mutant(
        "a child is not started",
        "child",
        "runtime.operations:start_child",
        "    start(scope, order)\n",
        "",
        found_by=("cancels", "", "ChildLost"),
    ),
    Mutant(
        "a child is taken for that of another step",
        "child",
        "runtime.operations:cancel_child",
        "(header.parent_id, header.parent_number) == (parent_id, write.number)",
        "header.parent_id == parent_id",
        found_by=("families", "", "Stuck"),
    ),
    Mutant(
        "a child's delay is ignored",
        "child",
        "runtime.operations:start_child",
        "scope.now if command.due_at is None else command.due_at",
        "scope.now",
        found_by=("families", "", "AssertionError"),
    ),
    # --- pool
    Mutant(
        "the cap is looked at before the lock",
        "pool",
        "runtime.claims:Claims.update_permits",
        "            limit, rows = tx.config().max_parallelism, tx.workers()\n"
        "            share = self._share(rows, limit, running, needed)\n",
        "",
        found_by=("paused", "pd1:w0/begin#4=stall:2s", "TooManyPermits"),
    ),
    # --- codec
    Mutant(
        "the inbox forgets the value of an outcome",
        "codec",
        "runtime.operations:encode_inbox",
        "value=outcome.value if isinstance(outcome, Succeeded) else None",
        "value=None",
        found_by=("values", "", "ChildDiffers"),
    ),
)
