"""Planted bugs of the worker's turn: collect, decide, commit, carry out. See mutants.py."""

from __future__ import annotations

from ..patching import Mutant

TURNS = (
    # --- watch
    Mutant(
        "who watches does not learn what another process has changed",
        "watch",
        "runtime.engine:Engine._look_for_changes",
        "self._look_again = True\n        self.watchers.changed(None)",
        "self._look_again = True",
        found_by=("watched", "", "WatchedWrongly"),
    ),
    Mutant(
        "who watches does not learn that another process has deleted it",
        "watch",
        "runtime.engine:Engine._look_for_changes",
        "self.waiters.gone(workflow_id)",
        "pass",
        found_by=("watched", "", "WatchedWrongly"),
    ),
    # --- fencing
    Mutant(
        "the worker's own fence is not looked at",
        "fencing",
        "runtime.commit:Committer._put_rows",
        "fence=self.env.worker_id",
        "fence=None",
        found_by=("stranger", "pd1:w0/collected#1=zombie:40s", "NotTheOwner"),
    ),
    Mutant(
        "stale units are committed",
        "fencing",
        "runtime.commit:Committer._put_rows",
        "        if stale:\n",
        "        if False:\n",
        found_by=("taken", "pd1:w1/collected#1=zombie:40s", "NotTheOwner"),
    ),
    Mutant(
        "who was found dead is not looked at once more before all is taken from it",
        "fencing",
        "runtime.claims:Claims._bury_dead",
        "if not self._store.dead_workers([dead]):",
        "if False:",
        found_by=("events", "pd1:w0/collected#1=zombie:1s;w1/begin#5=stall:2s", "BuriedAlive"),
    ),
    Mutant(
        "what was refused alone is taken for written",
        "fencing",
        "store.base:in_transaction",
        "        return False\n",
        "        return True\n",
        found_by=("leaders", "pd1:led/touched#1=cancel", "NotTheOwner"),
    ),
    Mutant(
        "a unit that is more than rows is written alone",
        "fencing",
        "runtime.commit:Committer._write_alone",
        "if not all(",
        "if all(",
        found_by=("race", "", "PositionsNotDense"),
    ),
    # --- unknown outcome
    Mutant(
        "after a failed commit the actors are kept",
        "unknown outcome",
        "runtime.worker:Worker._store_failed",
        "self.actors.drop(workflow_id)\n",
        "pass\n",
        found_by=("race", "pd1:w0/begin#15=busy*3", "FailedByEngine"),
    ),
    Mutant(
        "attempts of a commit that was stored after all are not run",
        "unknown outcome",
        "runtime.worker:Worker._doubt",
        "if isinstance(effect, RunAttempt):",
        "if False:",
        found_by=("reference", "pd1:w0/commit#6=lost_ack", "Stuck"),
    ),
    Mutant(
        "a start is tried again as if it were new",
        "unknown outcome",
        "runtime.mailbox:Ticket.again",
        "if isinstance(self.request, StartOrder):",
        "if False:",
        found_by=("bell", "pd1:c0/commit#2=busy_ack", "BadAnswer"),
    ),
    Mutant(
        "a commit that failed is tried again as it is",
        "unknown outcome",
        "runtime.worker:Worker._commit",
        "            self._store_failed(error, batch)\n"
        "            self._doubt_commit()\n"
        "            return None\n",
        "            if self._retries < 2:\n"
        "                self._delay(error)\n"
        "                continue\n"
        "            self._store_failed(error, batch)\n"
        "            self._doubt_commit()\n"
        "            return None\n",
        found_by=("waiter", "pd1:w0/commit#14=lost_ack", "NotTheOwner"),
    ),
    Mutant(
        "what a doubtful commit did to others is not looked for",
        "unknown outcome",
        "runtime.worker:Worker._doubt_commit",
        "for workflow_id in others:",
        "for workflow_id in others[:0]:",
        found_by=("cancels", "pd1:w0/commit#3=lost_ack*3", "Stuck"),
    ),
    Mutant(
        "the permits of doubtful attempts are given away",
        "unknown outcome",
        "runtime.actors:Actors.running",
        "if self.doubtful:",
        "if False:",
        found_by=("shares", "pd1:w1/commit#10=lost_ack*3", "TooManyRunning"),
    ),
    # --- lost message
    Mutant(
        "messages of a failed turn are forgotten",
        "lost message",
        "runtime.worker:Worker._store_failed",
        "[*batch.posts, *tickets, *collecting.pending]",
        "[*tickets, *collecting.pending]",
        found_by=("reference", "pd1:w0/begin#7=busy", "Stuck"),
    ),
    Mutant(
        "who is given up is not woken for its mail",
        "lost message",
        "runtime.commit:Committer.commit",
        "if given_up and tx.wake_waiting(given_up, now):",
        "if False:",
        found_by=("values", "pd1:w0/collected#3=pause:2s", "EventLost"),
    ),
    # --- duplicate
    Mutant(
        "events that were loaded are told again",
        "duplicate",
        "runtime.collect:CollectPhase._forget_events",
        "[each for each in messages if not isinstance(each, EventSent)]",
        "messages",
        found_by=("bell", "pd1:w0/commit#8=lost_ack", "StateDiffers"),
    ),
    Mutant(
        "mail is not deleted",
        "duplicate",
        "runtime.commit:Committer._put_rows",
        "    if inbox:\n",
        "    if False:\n",
        found_by=("bell", "pd1:ring/attempt#1=raises_for_good", "HotSpin"),
    ),
    # --- recovery
    Mutant(
        "ready steps of a loaded workflow are not queued",
        "recovery",
        "runtime.actors:Actors.adopt",
        'if record.state == "ready":',
        "if False:",
        found_by=("shares", "pd1:w0/carried_out#1=crash", "Stuck"),
    ),
    Mutant(
        "what is left to learn is not looked at",
        "recovery",
        "runtime.worker:Worker._settle_actor",
        "self.actors.runnable[workflow_id] = None",
        "pass",
        found_by=("taken", "", "Stuck"),
    ),
    Mutant(
        "timers of a loaded workflow are not set",
        "recovery",
        "runtime.actors:Actors.adopt",
        "for timer in due_timers(state):",
        "for timer in ():",
        found_by=("taken", "", "Stuck"),
    ),
    # --- pool
    Mutant(
        "running attempts hold no permit",
        "pool",
        "runtime.decide:DecidePhase._free_permits",
        "self.claims.permits - self.actors.running",
        "self.claims.permits",
        found_by=("shares", "pd1:c0/begin#1=busy", "TooManyRunning"),
    ),
    # --- told before committed
    Mutant(
        "clients are answered before the commit",
        "told before committed",
        "runtime.worker:Worker._commit",
        "    while True:\n        units,",
        "    for ticket in batch.tickets:\n"
        "        ticket.answer(getattr(ticket.request, 'workflow_id', None), None)\n"
        "    while True:\n"
        "        units,",
        found_by=("bell", "", "ToldTooEarly"),
    ),
    Mutant(
        "an end is told before it is committed",
        "told before committed",
        "runtime.worker:Worker.turn",
        "        result = self._commit(batch)\n",
        "        for unit in batch.units.values():\n"
        "            if unit.state.outcome is not None:\n"
        "                self._listener.ended(unit.workflow_id, unit.state.outcome)\n"
        "        result = self._commit(batch)\n",
        found_by=("taken", "", "ToldTooEarly"),
    ),
    Mutant(
        "attempts start before their record is committed",
        "told before committed",
        "runtime.worker:Worker.turn",
        "        result = self._commit(batch)\n",
        "        effects = [(u, e) for u in batch.units.values() for e in u.effects if "
        "isinstance(e, RunAttempt)]\n"
        "        if effects:\n"
        "            self._runner.start([Attempt.of(u.workflow_id, e.record) for u, e "
        "in effects])\n"
        "        result = self._commit(batch)\n",
        found_by=("taken", "", "AttemptTwice"),
    ),
    # --- timer
    Mutant(
        "a timer that is nearly due is taken out",
        "timer",
        "runtime.collect:CollectPhase._collect_due",
        "pop_due(batch.now)",
        "pop_due(batch.now + 500)",
        found_by=("hasty", "", "Stuck"),
    ),
    Mutant(
        "a turn's time is rounded up",
        "timer",
        "runtime.worker:Worker.turn",
        "Batch(self.clock.now_ms())",
        "Batch(self.clock.now_ms() // 100 * 100 + 100)",
        found_by=("hasty", "", "FromTheFuture"),
    ),
    Mutant(
        "a workflow is parked for ever",
        "timer",
        "runtime.worker:Worker._settle_actor",
        "        if state.wake_at is not None:\n",
        "        if False:\n",
        found_by=("stranger", "", "Stuck"),
    ),
    # --- end
    Mutant(
        "on_complete is called after the commit again",
        "end",
        "runtime.commit:Committer.commit",
        "    return result\n",
        "    for done in result.committed:\n"
        "        if done.state.outcome is not None and done.state.header.on_complete "
        "is not None:\n"
        "            with self.store.transaction() as tx:\n"
        "                scope = Scope(env=self.env, tx=tx, now=now, "
        "after=result.after)\n"
        "                operations.call_on_complete(scope, done.state, "
        "done.state.outcome)\n"
        "    return result\n",
        found_by=("transfers", "", "OnCompleteTwice"),
    ),
    Mutant(
        "on_complete is left for after the commit",
        "end",
        "runtime.commit:Committer._carry_out",
        "self._call_on_complete(scope, done, write.outcome)",
        "done.effects.append(write)",
        found_by=("taken", "", "OnCompleteMissing"),
    ),
)
