-- The tables of perdure in PostgreSQL. They lie beside the application's own tables, in the first
-- schema of the search path. Instants are integer milliseconds since the epoch, values JSON text:
-- never jsonb, which would not give them back to the letter. A CHECK here means that a bug in
-- Python cannot store what must not exist. Ids compare by their bytes (COLLATE "C"): a collation
-- of the system's may change under an index. Every statement ends at a semicolon at a line's end.

-- One row: settings. Its lock is held by who changes them, or takes permits under them.
CREATE TABLE perdure_config (
    id bigint PRIMARY KEY CHECK (id = 1),
    schema_version bigint NOT NULL,
    max_parallelism bigint NOT NULL CHECK (max_parallelism BETWEEN 0 AND 100000)
);

-- Sequences and not columns: whoever takes a number must not wait for another's commit.
-- Epochs are taken in portions, each one step of the sequence.
CREATE SEQUENCE perdure_epochs AS bigint INCREMENT BY 65536;
CREATE SEQUENCE perdure_event_order AS bigint;

-- One row per life of a worker. A fenced worker may write nothing any more. Each commit of a worker
-- updates its row: hence the room on its page.
CREATE TABLE perdure_workers (
    id text COLLATE "C" PRIMARY KEY,
    fenced boolean NOT NULL DEFAULT false,
    started_at bigint NOT NULL,
    lease_until timestamptz NOT NULL,
    permits bigint NOT NULL DEFAULT 0 CHECK (permits >= 0),
    wanting bigint NOT NULL DEFAULT 0 CHECK (wanting >= 0)
) WITH (fillfactor = 20, autovacuum_vacuum_threshold = 1000);

CREATE TABLE perdure_workflows (
    seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE,       -- order of creation
    id text COLLATE "C" PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    arguments text NOT NULL,
    context text,
    on_complete text,
    parent_id text COLLATE "C",
    parent_number bigint,
    depth bigint NOT NULL DEFAULT 0,
    rules bigint NOT NULL,
    version text,                                         -- of the user's code, for later
    created_at bigint NOT NULL,
    start_at bigint NOT NULL,
    status text COLLATE "C" NOT NULL
        CHECK (status IN ('in_progress', 'success', 'failed', 'canceled')),
    value text,
    error text,
    epoch bigint NOT NULL CHECK (epoch > 0),
    owner text COLLATE "C" REFERENCES perdure_workers (id),
    position bigint NOT NULL DEFAULT -1,
    stamp bigint NOT NULL DEFAULT 0,
    started_at bigint,
    ended_at bigint,
    next_number bigint NOT NULL DEFAULT 0,
    timer_at bigint,
    wake_at bigint,
    journal_bytes bigint NOT NULL DEFAULT 0,
    takeovers bigint NOT NULL DEFAULT 0,
    blocked text,
    on_complete_error text,
    CHECK ((status = 'in_progress') = (ended_at IS NULL)),
    CHECK ((status = 'success') = (value IS NOT NULL)),
    CHECK ((status = 'failed') = (error IS NOT NULL)),
    CHECK (status = 'in_progress' OR (owner IS NULL AND wake_at IS NULL)),
    CHECK ((parent_id IS NULL) = (parent_number IS NULL)),
    CHECK ((position >= 0) = (started_at IS NOT NULL))
) WITH (fillfactor = 70);

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
    workflow_id text COLLATE "C" NOT NULL REFERENCES perdure_workflows (id) ON DELETE CASCADE,
    number bigint NOT NULL CHECK (number >= 0),
    kind text NOT NULL
        CHECK (kind IN ('query', 'mutation', 'action', 'workflow', 'sleep', 'event')),
    name text NOT NULL,
    function text,
    arguments text,
    options text,                                         -- retry, timeout, inline, … as JSON
    asked_position bigint NOT NULL CHECK (asked_position >= 0),
    asked_at bigint NOT NULL,
    asked_epoch bigint NOT NULL,
    state text NOT NULL CHECK (state IN ('asked', 'ready', 'started', 'backoff', 'settled')),
    due_at bigint,
    runner text COLLATE "C",
    attempt bigint NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    started_at bigint,
    started_epoch bigint,
    deadline_at bigint,
    outcome text CHECK (outcome IN ('success', 'failed', 'canceled')),
    value text,
    error text,
    settled_at bigint,
    delivered_position bigint,
    delivered_at bigint,
    canceled_position bigint,
    child_id text,
    event_id text,
    away boolean NOT NULL DEFAULT false,                  -- its runner may not own it
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
) WITH (fillfactor = 80);

-- Attempts whose runner may not own the workflow: read when a worker died. The others are found
-- with their workflow.
CREATE INDEX perdure_steps_away ON perdure_steps (runner) WHERE away AND state = 'started';
-- The queue, for workers with permits to spare.
CREATE INDEX perdure_steps_ready ON perdure_steps (due_at) WHERE state = 'ready';

CREATE TABLE perdure_ticks (
    workflow_id text COLLATE "C" NOT NULL REFERENCES perdure_workflows (id) ON DELETE CASCADE,
    position bigint NOT NULL CHECK (position > 0),
    now bigint NOT NULL,
    PRIMARY KEY (workflow_id, position)
);

CREATE TABLE perdure_events (
    workflow_id text COLLATE "C" NOT NULL REFERENCES perdure_workflows (id) ON DELETE CASCADE,
    id text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    created_at bigint NOT NULL,
    sequence bigint,                                      -- null while it is only created
    sent_at bigint,
    value text,
    error text,
    consumed_by bigint,                                   -- number of the step
    made bigint,                                          -- order in which events were created
    token text COLLATE "C",                               -- of a send that is not its own id
    PRIMARY KEY (workflow_id, id),
    CHECK ((sequence IS NULL) = (sent_at IS NULL)),
    CHECK ((sequence IS NULL) = (value IS NULL AND error IS NULL)),
    CHECK (consumed_by IS NULL OR sequence IS NOT NULL)
);
CREATE UNIQUE INDEX perdure_events_id ON perdure_events (id);
-- Two that are small: events that are only created, and those that were.
CREATE INDEX perdure_events_created ON perdure_events (workflow_id, name, made)
    WHERE sequence IS NULL;
CREATE UNIQUE INDEX perdure_events_token ON perdure_events (token) WHERE token IS NOT NULL;

-- Messages that another process has for the owner of a workflow (or, with `worker`, for one).
CREATE TABLE perdure_inbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    workflow_id text COLLATE "C" NOT NULL,
    worker text COLLATE "C",
    kind text NOT NULL CHECK (kind IN ('attempt', 'child', 'event', 'revoked')),
    number bigint,
    body text NOT NULL,
    accepted_at bigint NOT NULL
);
CREATE INDEX perdure_inbox_workflow ON perdure_inbox (workflow_id);
CREATE INDEX perdure_inbox_worker ON perdure_inbox (worker) WHERE worker IS NOT NULL;
