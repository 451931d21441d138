"""The limits of the engine, each with its reason. Going over one is an error that names it."""

from __future__ import annotations

import attrs

#: One argument list, result, payload or context, in bytes of JSON. Rows of this size still commit
#: in a few milliseconds; larger things belong into files or tables, with a reference in the value.
VALUE_BYTES_MAX = 1024 * 1024

#: All commands and outcomes of one workflow. A journal is read whole when a workflow is taken up
#: again, so its size bounds the time to recover: 8 MiB is read and decoded in about 0.1 s.
JOURNAL_BYTES_MAX = 8 * 1024 * 1024

#: What a journal row costs beside its values (keys, numbers, times), in bytes; counted so that
#: a million empty steps are not free.
STEP_BYTES = 100
TICK_BYTES = 30

#: Share of the journal limit at which a warning is logged, once.
JOURNAL_WARNING_SHARE = 0.5

#: Workflow names, step names, ids. They are parts of keys and of every listing.
NAME_LENGTH_MAX = 200

#: A hundred years: beyond it a duration is more likely a unit error than a plan.
SLEEP_MS_MAX = 100 * 366 * 24 * 3600 * 1000

#: Children of children of …; a cancel walks the whole tree in one transaction.
CHILD_DEPTH_MAX = 64

#: Running action attempts over all workers. Each may need a thread or a task of its own.
PARALLELISM_MAX = 100_000
PARALLELISM_DEFAULT = 100

#: Attempts of one step: far beyond any useful policy, small enough to bound a mistake.
ATTEMPTS_MAX = 1_000_000

#: Factor between the waits of two attempts. Every wait is cut at 100 years anyway; this keeps the
#: factor a float, which an int of any size is not.
RETRY_BASE_MAX = 1e300

#: Callbacks that one fact may set off in a handler before it counts as an endless loop.
CALLBACKS_PER_FACT_MAX = 100_000

#: Facts that one workflow is told in one turn; the rest is told in the next ones. One that always
#: has something due (a loop of sleeps that take no time) must not keep all others waiting.
FACTS_PER_TURN_MAX = 1_000

#: Workers that died, one after another, while they owned a workflow: after this many it is
#: blocked, so that a handler that kills its process does not kill every worker in turn.
TAKEOVERS_MAX = 5

#: From this many on it is taken up alone, so that it cannot take others down with it.
TAKEOVERS_ALONE = 2

#: Workflows and requests of one commit: so many that the sync costs each of them next to nothing,
#: so few that those who wait for it need not wait for long. (500 was no faster, measured.)
BATCH_MAX = 250

#: Workflows taken up in one transaction: enough to share its commit, few enough to share the work
#: with other workers that start at the same time.
CLAIM_MAX = 200

#: Epochs held in reserve for workflows that start here; at least as many as a batch may start.
EPOCHS_RESERVED = 1000

#: Kept of a traceback, in characters: the end is what tells.
TRACEBACK_LENGTH_MAX = 16 * 1024
MESSAGE_LENGTH_MAX = 16 * 1024


@attrs.frozen(kw_only=True)
class Limits:
    """The limits that a manager may set.

    Attributes:
        value_bytes: largest single value (arguments, result, payload, context), in bytes of JSON.
        journal_bytes: largest journal of one workflow, in bytes.
    """

    value_bytes: int = attrs.field(default=VALUE_BYTES_MAX)
    journal_bytes: int = attrs.field(default=JOURNAL_BYTES_MAX)

    @value_bytes.validator
    @journal_bytes.validator
    def _positive(self, attribute: attrs.Attribute[int], value: int) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"Limits({attribute.name}={value!r}): give a number of bytes above 0")


@attrs.frozen(kw_only=True)
class Portions:
    """How much is done at once. Only speed hangs on it: any number above 0 is right, and the
    simulator tries the smallest.

    Attributes:
        batch: workflows and requests of one commit.
        claims: workflows taken up in one transaction.
        epochs: held in reserve; not less than `batch`.
    """

    batch: int = BATCH_MAX
    claims: int = CLAIM_MAX
    epochs: int = EPOCHS_RESERVED
