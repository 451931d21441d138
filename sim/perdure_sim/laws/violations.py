"""The laws: what must hold whatever goes wrong. Each is a class, raised in one place, so that a
search keeps different bugs apart.

Where they are checked: history.py (what a commit may write), owners.py (who may write it),
bodies.py (attempts and their code), ends.py (effects, ends and children), resting.py (when nothing
moves any more), replaying.py (that a journal gives the same again).
"""

from __future__ import annotations


class Violation(AssertionError):
    """A law is broken; the message has the two facts that contradict each other.

    Attributes:
        workflow_id: whose, where the message does not begin with it.
        step: which of its steps, where the message does not say so.
    """

    workflow_id: str | None = None
    step: int | None = None


class IdTaken(Violation):
    """Two workflows have one id."""


class StaleWrite(Violation):
    """A write was decided under an epoch that the workflow no longer has."""


class EpochReused(Violation):
    """An epoch was given twice, or fell."""


class EndChanged(Violation):
    """A workflow that has ended was written again."""


class StepAfterEnd(Violation):
    """A step of a workflow that has ended was written."""


class NumbersNotDense(Violation):
    """Steps are not numbered in the order in which they were asked for."""


class JournalChanged(Violation):
    """A part of the journal that was closed is not what it was."""


class OutcomeChanged(Violation):
    """A step has another outcome than before."""


class PositionsNotDense(Violation):
    """Facts were delivered at positions that leave a gap, or two at one."""


class TimeWentBack(Violation):
    """A workflow's time, or an instant of a step, is earlier than what came before it."""


class TooManyAttempts(Violation):
    """More attempts were recorded than the policy allows, or their numbers jump."""


class BackoffTooShort(Violation):
    """An attempt began before the wait after the last one was over."""


class TimerEarly(Violation):
    """Something that waits for a time did not wait for it."""


class EventTwice(Violation):
    """An event was sent or consumed twice, or one was consumed that was never sent."""


class EventNotConsumed(Violation):
    """A step has an event that is there for others, too."""


class EventsOutOfOrder(Violation):
    """Of two events of one name the later one was consumed first."""


class DeliveredOutOfOrder(Violation):
    """Of two outcomes the handler learned the later one first."""


class AttemptNotRecorded(Violation):
    """An action's code ran without a recorded start."""


class AttemptTwice(Violation):
    """The code of one recorded attempt ran twice."""


class KeyChanged(Violation):
    """Two attempts of one step have different idempotency keys."""


class StoreDiffers(Violation):
    """The store gives something else than what was written."""


class StateUnsound(Violation):
    """A stored state breaks an invariant of its own."""


class NotTheOwner(Violation):
    """A workflow was written by somebody who does not own it, and does not take it."""


class WrittenByTheDead(Violation):
    """A worker that others have taken for dead has written to a workflow."""


class BuriedAlive(Violation):
    """A worker was taken for dead, and all was taken from it, while its lease held."""


class StateDiffers(Violation):
    """What a worker takes for a workflow's state is not what its journal says."""


class FromTheFuture(Violation):
    """Something is recorded that has not happened yet."""


class Late(Violation):
    """Something was seen long after it was there, and no fault is the reason."""


class LateOutcome(Violation):
    """An outcome counts that came after the time for it was over."""


class AttemptAfterEnd(Violation):
    """An action's code began in a turn that began when the workflow had ended."""


class AttemptGivenUp(Violation):
    """An attempt failed on record while its code ran, in time, in a living process."""


class NotStopped(Violation):
    """An action's code ran on long after its step or its workflow was over."""


class OutcomeInvented(Violation):
    """A step succeeded with a value that its code did not return."""


class OutcomeIgnored(Violation):
    """A step's code returned, in time, and the step did not succeed."""


class RetriedForGood(Violation):
    """A failure that no other attempt can mend was followed by one."""


class TooManyRunning(Violation):
    """More actions run at a time than `max_parallelism` allows."""


class TooManyPermits(Violation):
    """The workers hold more permits than there are."""


class EffectTwice(Violation):
    """A function's effects were committed twice."""


class EffectKept(Violation):
    """A function's effects were committed, and its step did not succeed."""


class EffectMissing(Violation):
    """A step succeeded, and the effects of its function were not committed with it."""


class FailedByEngine(Violation):
    """A workflow failed by a fault of the engine's own."""


class OnCompleteTwice(Violation):
    """A workflow's `on_complete` was committed twice."""


class OnCompleteElsewhere(Violation):
    """A workflow's `on_complete` was committed without its end."""


class OnCompleteMissing(Violation):
    """A workflow ended without its `on_complete`."""


class ChildLost(Violation):
    """A step waits for a child that was not started with it."""


class ChildDiffers(Violation):
    """A parent learned another outcome than the child has, or one that it does not have yet."""


class Orphan(Violation):
    """A child goes on though its parent has ended, or waits for it no more."""


class RestartCutsWrong(Violation):
    """A restart has taken more of a journal than was asked for, or less, or changed what stays."""


class ChildLeft(Violation):
    """A workflow was deleted, and a child of it was not."""


class ToldTooEarly(Violation):
    """Somebody was told what is not on the disk."""


class WatchedWrongly(Violation):
    """Who watches a workflow is not told of its end, or of another one, or of what is no change."""


class BadAnswer(Violation):
    """A client is given an error that is none of perdure's own."""


class EventLost(Violation):
    """An event waits, and so does who waits for it."""


class SizeWrong(Violation):
    """A journal's size is not that of what is in it."""


class CodecLoses(Violation):
    """A record is not the same once it was written as a row and read again."""


class Leak(Violation):
    """A process at rest keeps something that nobody needs any more."""


class BlockedWithoutCause(Violation):
    """A workflow is blocked, though its code is what it was and its workers live."""


class HotSpin(AssertionError):
    """Events follow each other without end."""
