-- The tables of perdure in SQLite. They share the file with the application's own tables.
-- Instants are integer milliseconds since the epoch; values are JSON text. A CHECK here means that
-- a bug in Python cannot store what must not exist. They say OR and not IN, which is evaluated
-- with a temporary index and doubles what an insert costs.

-- One row: settings and sequences.
CREATE TABLE perdure_config (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    schema_version INTEGER NOT NULL,
    max_parallelism INTEGER NOT NULL CHECK (max_parallelism BETWEEN 0 AND 100000),
    next_epoch INTEGER NOT NULL CHECK (next_epoch > 0),   -- never reused, store-wide
    next_event INTEGER NOT NULL CHECK (next_event > 0)    -- order in which events were sent
) STRICT;

-- One row per life of a worker. A fenced worker may write nothing any more.
CREATE TABLE perdure_workers (
    id TEXT PRIMARY KEY,
    fenced INTEGER NOT NULL DEFAULT 0 CHECK (fenced IN (0, 1)),
    started_at INTEGER NOT NULL,
    lease_until INTEGER,                                  -- stores without OS locks
    permits INTEGER NOT NULL DEFAULT 0 CHECK (permits >= 0),
    wanting INTEGER NOT NULL DEFAULT 0 CHECK (wanting >= 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE perdure_workflows (
    seq INTEGER PRIMARY KEY,                              -- order of creation
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    arguments TEXT NOT NULL,
    context TEXT,
    on_complete TEXT,
    parent_id TEXT,
    parent_number INTEGER,
    depth INTEGER NOT NULL DEFAULT 0,
    rules INTEGER NOT NULL,
    version TEXT,                                         -- of the user's code, for later
    created_at INTEGER NOT NULL,
    start_at INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (
        status = 'in_progress' OR status = 'success' OR status = 'failed' OR status = 'canceled'
    ),
    value TEXT,
    error TEXT,
    epoch INTEGER NOT NULL CHECK (epoch > 0),
    owner TEXT REFERENCES perdure_workers (id),
    position INTEGER NOT NULL DEFAULT -1,
    stamp INTEGER NOT NULL DEFAULT 0,
    started_at INTEGER,
    ended_at INTEGER,
    next_number INTEGER NOT NULL DEFAULT 0,
    timer_at INTEGER,
    wake_at INTEGER,
    journal_bytes INTEGER NOT NULL DEFAULT 0,
    takeovers INTEGER NOT NULL DEFAULT 0,
    blocked TEXT,
    on_complete_error TEXT,
    CHECK ((status = 'in_progress') = (ended_at IS NULL)),
    CHECK ((status = 'success') = (value IS NOT NULL)),
    CHECK ((status = 'failed') = (error IS NOT NULL)),
    CHECK (status = 'in_progress' OR (owner IS NULL AND wake_at IS NULL)),
    CHECK ((parent_id IS NULL) = (parent_number IS NULL)),
    CHECK ((position >= 0) = (started_at IS NOT NULL))
) STRICT;

-- What nobody owns and somebody should take: by the time at which it wants to be woken.
CREATE INDEX perdure_workflows_wake ON perdure_workflows (wake_at)
    WHERE owner IS NULL AND wake_at IS NOT NULL;
-- What a worker owns: read when it died, and for its inbox.
CREATE INDEX perdure_workflows_owner ON perdure_workflows (owner) WHERE owner IS NOT NULL;
CREATE INDEX perdure_workflows_parent ON perdure_workflows (parent_id) WHERE parent_id IS NOT NULL;
-- Listings.
CREATE INDEX perdure_workflows_name ON perdure_workflows (name, seq);
CREATE INDEX perdure_workflows_status ON perdure_workflows (status, seq);
CREATE INDEX perdure_workflows_blocked ON perdure_workflows (seq) WHERE blocked IS NOT NULL;

CREATE TABLE perdure_steps (
    workflow_id TEXT NOT NULL REFERENCES perdure_workflows (id) ON DELETE CASCADE,
    number INTEGER NOT NULL CHECK (number >= 0),
    kind TEXT NOT NULL
        CHECK (
            kind = 'query' OR kind = 'mutation' OR kind = 'action'
            OR kind = 'workflow' OR kind = 'sleep' OR kind = 'event'
        ),
    name TEXT NOT NULL,
    function TEXT,
    arguments TEXT,
    options TEXT,                                         -- retry, timeout, inline, … as JSON
    asked_position INTEGER NOT NULL CHECK (asked_position >= 0),
    asked_at INTEGER NOT NULL,
    asked_epoch INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (
        state = 'asked' OR state = 'ready' OR state = 'started'
        OR state = 'backoff' OR state = 'settled'
    ),
    due_at INTEGER,
    runner TEXT,
    attempt INTEGER NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    started_at INTEGER,
    started_epoch INTEGER,
    deadline_at INTEGER,
    outcome TEXT CHECK (outcome = 'success' OR outcome = 'failed' OR outcome = 'canceled'),
    value TEXT,
    error TEXT,
    settled_at INTEGER,
    delivered_position INTEGER,
    delivered_at INTEGER,
    canceled_position INTEGER,
    child_id TEXT,
    event_id TEXT,
    away INTEGER NOT NULL DEFAULT 0,                      -- 1: its runner gave up the ownership
    PRIMARY KEY (workflow_id, number),
    CHECK ((state = 'settled') = (outcome IS NOT NULL)),
    CHECK (outcome IS NULL OR (outcome = 'success') = (value IS NOT NULL)),
    CHECK (outcome IS NULL OR (outcome = 'failed') = (error IS NOT NULL)),
    CHECK (state <> 'started' OR (runner IS NOT NULL AND attempt > 0)),
    CHECK (
        delivered_position IS NULL
        OR (state = 'settled' AND delivered_position > asked_position)
    ),
    CHECK (canceled_position IS NULL OR outcome = 'canceled')
) STRICT, WITHOUT ROWID;

-- Attempts whose runner does not own the workflow: read when a worker died. The others are found
-- with their workflow; an index over all of them would be one more page in every step's commit.
CREATE INDEX perdure_steps_away ON perdure_steps (runner) WHERE away = 1;
-- The queue, for workers with permits to spare.
CREATE INDEX perdure_steps_ready ON perdure_steps (due_at) WHERE state = 'ready';

CREATE TABLE perdure_ticks (
    workflow_id TEXT NOT NULL REFERENCES perdure_workflows (id) ON DELETE CASCADE,
    position INTEGER NOT NULL CHECK (position > 0),
    now INTEGER NOT NULL,
    PRIMARY KEY (workflow_id, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE perdure_events (
    workflow_id TEXT NOT NULL REFERENCES perdure_workflows (id) ON DELETE CASCADE,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    sequence INTEGER,                                     -- null while it is only created
    sent_at INTEGER,
    value TEXT,
    error TEXT,
    consumed_by INTEGER,                                  -- number of the step
    made INTEGER,                                         -- order in which events were created
    token TEXT,                                           -- of a send that is not its own id
    PRIMARY KEY (workflow_id, id),
    CHECK ((sequence IS NULL) = (sent_at IS NULL)),
    CHECK ((sequence IS NULL) = (value IS NULL AND error IS NULL)),
    CHECK (consumed_by IS NULL OR sequence IS NOT NULL)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX perdure_events_id ON perdure_events (id);
-- Two that are small: events that are only created, and those that were.
CREATE INDEX perdure_events_created ON perdure_events (workflow_id, name, made)
    WHERE sequence IS NULL;
CREATE UNIQUE INDEX perdure_events_token ON perdure_events (token) WHERE token IS NOT NULL;

-- Messages that another process has for the owner of a workflow (or, with `worker`, for one).
-- AUTOINCREMENT: a worker that is told late that its mail was deleted must not take newer mail for
-- it, so no id is given twice.
CREATE TABLE perdure_inbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    workflow_id TEXT NOT NULL,
    worker TEXT,
    kind TEXT NOT NULL CHECK (
        kind = 'attempt' OR kind = 'child' OR kind = 'event' OR kind = 'revoked'
    ),
    number INTEGER,
    body TEXT NOT NULL,
    accepted_at INTEGER NOT NULL
) STRICT;
CREATE INDEX perdure_inbox_workflow ON perdure_inbox (workflow_id);
CREATE INDEX perdure_inbox_worker ON perdure_inbox (worker) WHERE worker IS NOT NULL;
